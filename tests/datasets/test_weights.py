"""Trained models: packaged, of the authors through pip's index, and of Cellpose."""

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from pypi_simple import PYPI_SIMPLE_ENDPOINT
from safetensors import safe_open

from scellseg_lib import paths
from scellseg_lib.datasets import manifest, weights
from scellseg_lib.datasets.weights import load_model, packaged_file, packaged_files
from scellseg_lib.errors import ModelError
from scellseg_lib.model import new_model
from scellseg_lib.network import ARCHITECTURES, Network, build_network
from scellseg_lib.paper.run import log_of
from tests import functional_network

pytestmark = pytest.mark.slow

TINY = (4, 8, 16, 32)
HALF, FULL = (16, 32, 64, 128), (32, 64, 128, 256)
KINDS = ["random", pytest.param("released", marks=pytest.mark.released_weights)]


def test_packaged_weights_are_found_by_width_the_full_first(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PACKAGED_WEIGHTS", tmp_path)
    with pytest.raises(ModelError, match=r"no packaged weights of 'unet2'.*Packaged are: none"):
        load_model("unet2")
    for width in (HALF, FULL):
        new_model("unet2", width).save(packaged_file("unet2", width))
        assert load_model("unet2").card.levels == width
    assert load_model("unet2", levels=HALF).card.levels == HALF
    with pytest.raises(ModelError, match=r"\(4, 8\).*Packaged are: unet2_16, unet2_32"):
        load_model("unet2", levels=(4, 8))
    with pytest.raises(ModelError, match=r"levels \(16, 32, 64, 128\), \(16, 4\) were asked for"):
        load_model("unet2", levels=(16, 4))


def test_what_a_file_holds_is_not_overruled_in_silence(tmp_path):
    file = new_model("unet2", TINY).save(tmp_path / "own.safetensors")
    assert load_model("unet2", weights=file).card == load_model(file).card
    for asked in ({"name": file}, {"name": "unet2", "weights": file}):
        with pytest.raises(ModelError, match=r"own.safetensors: the model has the levels"):
            load_model(**asked, levels=HALF)
    with pytest.raises(ModelError, match=r"two models are named: .*own.safetensors.*'released'"):
        load_model(file, "released")
    with pytest.raises(ModelError, match=r"holds a unet2, not a cellpose.*'unet2'"):
        load_model("cellpose", weights=file)


def test_a_model_that_is_not_there(tmp_path, temporary_cache, monkeypatch):
    monkeypatch.setattr(weights, "fetch_archive", lambda: pytest.fail("went for the archive"))
    for asked, words in (
        (("stardist",), "no model 'stardist'.*hover, unet3, unet2"),
        (("{}/no.safetensors",), "no such file"),
        (("scellseg", "relased"), 'no such file.*weights are "packaged", "released" or a file'),
        (("scellseg", "{}"), "this is a folder"),
        (("hover", "released"), "no hover weights that fit.*scellseg, cellpose"),
    ):
        with pytest.raises(ModelError, match=words):
            load_model(*(word.format(tmp_path) for word in asked))


def test_all_five_models_are_there_at_half_width():
    assert {packaged_file(name, HALF) for name in ARCHITECTURES} <= set(packaged_files())
    assert (paths.PACKAGED_WEIGHTS / "LICENSE-WEIGHTS.md").is_file()


@pytest.mark.parametrize("file", packaged_files(), ids=lambda file: file.stem)
def test_a_packaged_model_says_what_it_is_and_has_seen_no_queries(file):
    card = load_model(file).card
    assert card == type(card).model_validate(json.loads(file.with_suffix(".json").read_text()))
    assert card.licence.startswith("research only")
    log = pd.read_csv(log_of(file))
    assert log["step"].tolist() == list(range(1, len(log) + 1))
    scored = {name.partition(" ")[0] for name in card.scores}
    assert {"huh7_nuclei", "dsb2018_colour", "tcell_if"} <= scored
    with safe_open(file, "pt") as tensors:
        kinds = {tensors.get_tensor(key).dtype for key in tensors.keys() if "weight" in key}  # noqa: SIM118
    assert kinds == {torch.float16}
    assert file.stat().st_size < (4e6 if card.levels[0] == 16 else 16e6)
    entries = {name: manifest.load_manifest(name).entries() for name in manifest.list_manifests()}
    tested = {name for name, those in entries.items() if any("query" in e.splits for e in those)}
    seen = {one.name for one in card.training_data}
    assert "bbbc010_elegans" in tested
    assert seen
    assert not seen & tested


def assert_equal_forward(network: Network, theirs: dict, rtol: float, atol: float) -> None:
    """Our network against the functional pass on their weights, in the type of the network."""
    kind = next(network.parameters()).dtype
    theirs = {k: v.to(kind) if v.is_floating_point() else v for k, v in theirs.items()}
    images = torch.rand(2, 2, 32, 24, generator=torch.Generator().manual_seed(1)).to(kind)
    with torch.no_grad():
        output = network.eval()(images)
    maps, style = functional_network.forward(theirs, images)
    assert maps.std() > 0.05
    torch.testing.assert_close(output.maps, maps, rtol=rtol, atol=atol)
    torch.testing.assert_close(output.style, style, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", weights.RELEASED)
@pytest.mark.parametrize("kind", KINDS)
def test_networks_equal_the_functional_pass(name, kind):
    theirs = functional_network.random_state(name)
    assert len(theirs) == {"scellseg": 423, "cellpose": 311}[name]
    ours = {weights.rename(key): tensor for key, tensor in theirs.items()}
    if kind == "released":
        try:
            theirs = weights.original_weights(name)
        except ModelError as error:
            pytest.skip(f"the authors' weights cannot be had: {error}")
        assert {weights.rename(key) for key in theirs} == set(ours)
        ours = weights.released_weights(name)
    network = build_network(name).double()
    network.load_state_dict(ours, strict=True)
    assert_equal_forward(network, theirs, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def theirs():
    return functional_network.random_state("cellpose")


def write_cellpose(path: Path, state: dict, **changes) -> Path:
    names = (("tasker.base_bn", "output.0"), ("tasker.base_conv", "output.2"), ("extractor.", ""))
    for released, official in names:
        state = {key.replace(released, official): value for key, value in state.items()}
    torch.save(state | changes, path)
    return path


@pytest.mark.parametrize("sizes", [{"diam_mean": 30.0, "diam_labels": 21.7}, {}])
def test_official_cellpose_weights_load(tmp_path, theirs, sizes):
    tensors = {key: torch.tensor([value]) for key, value in sizes.items()}
    path = write_cellpose(tmp_path / "cyto2torch_0", theirs, **tensors)
    model = load_model("cellpose", weights=path)
    assert model.card.diameter == pytest.approx(21.7 if sizes else 30.0)
    assert model.representation.name == "flow"
    assert "cyto2torch_0" in model.card.origin
    assert model.card.decoding.cell_threshold == 0  # Cellpose's own
    assert_equal_forward(model.network.cpu(), theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match=r"Give model='cellpose' with weights='"):
        load_model("scellseg", weights=path)


UNFIT = [
    ({"diam_mean": torch.tensor([17.0])}, r"\[17.0\] px, ours to 30 px.*`cyto`"),
    ({"diam_mean": torch.tensor([])}, "ours to 30 px"),
    ({"diam_labels": torch.tensor([30.0, 17.0])}, "ours to 30 px"),
    ({"output.2.bias": torch.zeros(4)}, r"tasker\.2\.bias is \(4,\) in the file, \(3,\) in"),
    ({"epoch": torch.ones(1)}, "'epoch' belongs to none of the paper's networks"),
    ({"output.2.bias": 0.5}, "something else than named tensors"),
]


@pytest.mark.parametrize(("changes", "words"), UNFIT)
def test_official_weights_that_do_not_fit_are_refused(tmp_path, theirs, changes, words):
    state = theirs if "output.2.bias" in changes else {}
    with pytest.raises(ModelError, match=words):
        load_model("cellpose", weights=write_cellpose(tmp_path / "cyto", state, **changes))


THEIRS = {"tasker.base_bn.weight": torch.arange(32.0), "tasker.base_conv.bias": torch.ones(3)}
FILE, PAGE = f"/files/{weights.ARCHIVE}", "/simple/scellseg/"
LINK = f'<a href="../..{FILE}#sha256=0">{weights.ARCHIVE}</a>'


@pytest.fixture
def cache(temporary_cache, monkeypatch):
    """An empty cache, and nothing that leads to the real index."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    return temporary_cache / "released"


@pytest.fixture
def index(cache, server, monkeypatch, tmp_path):
    """An index with a small archive, to which the hash is set, and which pip is configured for."""
    torch.save(THEIRS, tmp_path / "theirs")
    with tarfile.open(tmp_path / "made", "w:gz") as tar:
        tar.add(tmp_path / "theirs", f"{weights.WEIGHTS_FOLDER}/scellseg")
    made = (tmp_path / "made").read_bytes()
    monkeypatch.setattr(weights, "ARCHIVE_SHA256", hashlib.sha256(made).hexdigest())
    server.files = {PAGE: LINK.encode(), FILE: made}
    configure(monkeypatch, index_url=f"{server.address}/simple")
    return server


def configure(monkeypatch, **settings: str) -> None:
    options = {option.replace("_", "-"): value for option, value in settings.items()}
    monkeypatch.setattr(weights, "_pip_settings", lambda: options)


def assert_fetched() -> None:
    state = weights.released_weights("scellseg")
    assert set(state) == {"tasker.0.weight", "tasker.2.bias"}
    torch.testing.assert_close(state["tasker.0.weight"], torch.arange(32.0))


def test_fetched_once_then_served_from_the_cache(index, cache, monkeypatch):
    cache.mkdir(parents=True)
    (cache / weights.ARCHIVE).write_bytes(b"half")  # damaged files are replaced
    ours = weights.released_file("scellseg")
    ours.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert_fetched()
    assert {file.name for file in cache.iterdir()} == {weights.ARCHIVE, ours.name}
    (cache / weights.ARCHIVE).unlink()
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    assert_fetched()
    assert len(index.asked[FILE]) == 1


def test_weights_are_converted_again_when_our_names_change(index, monkeypatch):
    weights.released_weights("scellseg")
    monkeypatch.setattr(weights, "KEYS", ((r"tasker\.base_(?:bn|conv)\.", "head."),))
    assert set(weights.released_weights("scellseg")) == {"head.weight", "head.bias"}


def test_broken_places_are_passed_over(index, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    urls = {"index_url": (tmp_path / "simple").as_uri()}
    urls["extra_index_url"] = f"{index.address}/wrong {index.address}/simple"
    configure(monkeypatch, find_links=f"{tmp_path}/absent {tmp_path}/empty", **urls)
    assert_fetched()


def test_a_folder_of_archives_will_do(index, monkeypatch, tmp_path):
    (tmp_path / weights.ARCHIVE).write_bytes(index.files[FILE])
    configure(monkeypatch, find_links=str(tmp_path), no_index="1")
    assert_fetched()
    assert index.asked[FILE] == []


SPOILT = [
    ({FILE: b"other"}, "SHA-256"),
    ({PAGE: b"<a href='scellseg-0.1.7.tar.gz'>"}, "lists no"),
    ({PAGE: b"<a href='scellseg-0.1.8.tar.gz'>"}, "404"),
    ({}, "text/plain"),
]


@pytest.mark.parametrize(("files", "says"), SPOILT)
def test_archive_that_cannot_be_had_is_an_error(index, cache, files, says, monkeypatch):
    index.files |= files
    index.kind = index.kind if files else "text/plain"
    configure(monkeypatch, index_url=f"{index.address}/simple".replace("//", "//me:secret@"))
    with pytest.raises(ModelError, match=says) as caught:
        weights.released_weights("scellseg")
    assert "pip config list" in str(caught.value)
    assert weights.ARCHIVE_SHA256 in str(caught.value)
    assert "secret" not in str(caught.value)
    assert list(cache.glob("*")) == []


def test_what_forbids_the_network_is_said(index, monkeypatch):
    configure(monkeypatch, no_index="1")
    for offline, words in (("", "pip may ask no index"), ("1", "SCELLSEG_OFFLINE")):
        monkeypatch.setenv("SCELLSEG_OFFLINE", offline)
        with pytest.raises(ModelError, match=words):
            weights.released_weights("scellseg")
    assert index.asked[FILE] == []


def test_settings_come_from_the_files_and_the_environment_of_pip(cache, tmp_path, monkeypatch):
    assert weights._places({}) == [PYPI_SIMPLE_ENDPOINT.rstrip("/") + "/scellseg/"]
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://a/simple\nextra-index-url = http://b/simple\n"
        "    http://c/simple\n[download]\nfind-links = /links\n[install]\nfind-links = /other\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://d/simple/")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    expected = ["/links", *(f"http://{host}/simple/scellseg/" for host in "dbc")]
    assert weights._places(weights._pip_settings()) == expected

"""Models on disk: what is saved comes back, and what does not fit is refused in words."""

from __future__ import annotations

import importlib
import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scellseg_lib import paths
from scellseg_lib.datasets.weights import load_model, packaged_file
from scellseg_lib.errors import ModelError
from scellseg_lib.model import Card, Model, TrainingData, new_model
from scellseg_lib.network import build_network
from scellseg_lib.representation import Decoding
from tests import functional_network

TINY = (4, 8, 16, 32)
module = importlib.import_module("scellseg_lib.model")


def randomise(model: Model) -> Model:
    """Statistics as after training too, so that nothing saved is a default."""
    generator = torch.Generator().manual_seed(5)
    for name, value in model.network.state_dict().items():
        if "running" in name:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif "tracked" in name:
            value.fill_(7)
    return model


def full_card(**changes) -> Card:
    return Card(
        architecture="scellseg",
        levels=TINY,
        representation="flow",
        **{
            "diameter": 41.5,
            "channels": ("green", "red"),
            "origin": "a test",
            "licence": "BSD-3-Clause",
            "training_data": [TrainingData(name="worms", images=8, licence="CC0")],
            "recipe": {"steps": 3, "precision": {"dtype": "fp32"}},
            "decoding": Decoding(cell_threshold=0.25, min_size=20),
            "styles": [[0.1] * 32],
            "style_radius": 0.3,
            "scores": {"ap50": 0.9},
            "versions": {"torch": "2"},
        }
        | changes,
    )


@pytest.fixture
def model() -> Model:
    plain = randomise(new_model("scellseg", TINY, seed=3))
    return Model(plain.network, plain.representation, full_card())


def assert_same_weights(a: Model, b: Model) -> None:
    first, second = a.network.state_dict(), b.network.state_dict()
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype
        assert torch.equal(value, second[key]), key


def rewrite(path: Path, tensors: dict | None = None, **card) -> Path:
    """Change tensors or fields of the card of a saved model."""
    stored = json.loads(path.with_suffix(".json").read_text()) | card
    save_file(tensors or load_file(path), path, metadata={"card": json.dumps(stored)})
    return path


def test_a_saved_model_comes_back_bit_for_bit(model, tmp_path):
    path = model.save(tmp_path / "deeper" / "mine.safetensors")
    loaded = load_model(path)
    assert_same_weights(model, loaded)
    assert loaded.card == model.card
    assert loaded.representation.name == "flow"
    assert json.loads(path.with_suffix(".json").read_text()) == model.card.model_dump(mode="json")
    assert {file.name for file in path.parent.iterdir()} == {"mine.safetensors", "mine.json"}
    images = torch.rand(1, 2, 32, 32)
    ours, theirs = model.network.eval()(images), loaded.network.eval()(images)
    assert torch.equal(ours.maps, theirs.maps)


def test_half_precision_rounds_weights_but_not_statistics(model, tmp_path):
    whole = model.save(tmp_path / "whole.safetensors")
    path = model.save(tmp_path / "half.safetensors", half=True)
    assert path.stat().st_size < 0.65 * whole.stat().st_size
    loaded = load_model(path).network.state_dict()
    for key, value in model.network.state_dict().items():
        exact = "running" in key or not value.is_floating_point()
        assert torch.equal(loaded[key], value if exact else value.half().float()), key
        assert loaded[key].dtype == value.dtype
    # Saving what was loaded gives the same file again.
    again = load_model(path).save(tmp_path / "again.safetensors", half=True)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["unet2", "unet3", "hover", "cellpose", "scellseg"])
def test_each_model_comes_back_as_what_it_was(name, tmp_path):
    path = new_model(name, TINY, seed=1).save(tmp_path / "m.safetensors")
    for loaded in (load_model(path), load_model(name, weights=path)):
        assert loaded.card.architecture == name
        assert loaded.network.levels == TINY
        assert_same_weights(loaded, new_model(name, TINY, seed=1))


def test_ablations_come_back(tmp_path):
    card = full_card(attention=False, dense=True, hierarchical_style=False)
    network = build_network("scellseg", TINY, attention=False, dense=True, hierarchical_style=False)
    model = Model(network, new_model("scellseg", TINY).representation, card)
    path = model.save(tmp_path / "ablated.safetensors")
    assert_same_weights(load_model(path), model)


def test_weights_of_a_new_model_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = new_model("cellpose", TINY, seed=4)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert_same_weights(first, new_model("cellpose", TINY, seed=4))
    torch.manual_seed(1)
    new_model("cellpose", TINY, seed=9)
    assert torch.equal(torch.random.get_rng_state(), state)  # the user's own numbers go on
    other = new_model("cellpose", TINY, seed=5).network.state_dict()
    assert any(not torch.equal(v, other[k]) for k, v in first.network.state_dict().items())


def test_a_copy_is_independent_and_whole(model):
    copy = model.copy()
    assert_same_weights(model, copy)
    assert copy.card == model.card
    next(copy.network.parameters()).data += 1
    copy.card.recipe["steps"] = 99
    copy.card.styles[0][0] = 9.0
    assert model.card == full_card()
    assert not torch.equal(next(copy.network.parameters()), next(model.network.parameters()))


def test_another_suffix_is_refused(model, tmp_path):
    with pytest.raises(ModelError, match=r"saved as \.safetensors.*suffix"):
        model.save(tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"{}", b'{"my": "settings"}', b"\xff not JSON"])
def test_a_strangers_json_is_not_written_over(model, tmp_path, content: bytes):
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.json: .*no model's card.*another name"):
        model.save(tmp_path / "m.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["m.json"]
    assert (tmp_path / "m.json").read_bytes() == content


def test_a_model_of_ours_is_written_over(model, tmp_path):
    path = model.save(tmp_path / "m.safetensors")
    model.card.diameter = 17.0
    model.save(path)
    path.unlink()  # its card alone is left
    model.save(path)
    assert json.loads(path.with_suffix(".json").read_text())["diameter"] == 17
    assert load_model(path).card.diameter == 17


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_kill_leaves_the_earlier_files_whole(model, tmp_path, monkeypatch, suffix: str):
    path = model.save(tmp_path / "m.safetensors")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = new_model("scellseg", TINY, seed=4)
    write = Path.write_text

    def cut_short(self, text, **options):
        write(self, text[:9], **options)
        raise OSError("no space left on device")

    def cut(tensors, file, metadata):
        cut_short(Path(file), "half a model")

    with monkeypatch.context() as patch:
        patch.setattr(*((module, "save_file", cut) if suffix != ".json" else
                        (Path, "write_text", cut_short)))  # fmt: skip
        with pytest.raises(ModelError, match=r"cannot be written \(no space.*Give a folder"):
            other.save(path)
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert after.keys() == before.keys()  # no scratch file
    assert after[f"m{suffix}"] == before[f"m{suffix}"]
    assert_same_weights(load_model(path), model if suffix == ".safetensors" else other)


def test_a_folder_that_cannot_be(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"cannot be written.*Give a folder"):
        model.save(tmp_path / "file" / "m.safetensors")


# What does not fit


def test_a_missing_file(tmp_path):
    for arguments in ((tmp_path / "no.safetensors",), ("cellpose", tmp_path / "no.safetensors")):
        with pytest.raises(ModelError, match="no such file"):
            load_model(*arguments)
    words = r'no such file.*weights are "packaged", "released" or a file'
    for name, weights in (("cellpose", tmp_path / "cyto"), ("scellseg", "relased")):
        with pytest.raises(ModelError, match=words):
            load_model(name, weights)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "m.safetensors").mkdir()
    for arguments in (
        ("cellpose", tmp_path),
        ("scellseg", tmp_path),
        (tmp_path / "m.safetensors",),
    ):
        with pytest.raises(ModelError, match="this is a folder"):
            load_model(*arguments)


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_damaged_file(model, tmp_path, keep: int):
    path = model.save(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"damaged or not safetensors.*Get it again"):
        load_model(path)


def test_a_file_without_a_card(model, tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file(model.network.state_dict(), path)
    with pytest.raises(ModelError, match="no model card"):
        load_model(path)


@pytest.mark.parametrize(
    "card",
    [
        {"levels": "wide"},
        {"colour": "green"},
        {"representation": None},
        *({"diameter": value} for value in ("x", 0, -3.0, math.nan, math.inf)),
    ],
)
def test_a_card_that_is_not_valid(model, tmp_path, card):
    path = rewrite(model.save(tmp_path / "m.safetensors"), **card)
    words = f"(?s)card is not valid.*{next(iter(card))}.*Get the file again"
    with pytest.raises(ModelError, match=words) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"levels": (8, 16, 32, 64)}, "have another shape, the first: .* is .* the network has"),
        ({"levels": TINY[:3]}, r"\d+ are unknown"),
        ({"attention": False}, "are unknown, the first: .*gates"),
        ({"architecture": "cellpose"}, "are unknown.*another shape"),
        ({"architecture": "stardist"}, "no model 'stardist'"),
        ({"architecture": "unet2"}, "are unknown.*another shape"),
        ({"representation": "unet2"}, "have another shape, the first: tasker"),
        ({"representation": "stars"}, "no representation 'stars'"),
    ],
)
def test_a_card_that_is_not_of_these_weights(model, tmp_path, card, words: str):
    path = rewrite(model.save(tmp_path / "m.safetensors"), **card)
    with pytest.raises(ModelError, match=words):
        load_model(path)


def test_a_missing_tensor(model, tmp_path):
    path = model.save(tmp_path / "m.safetensors")
    tensors = load_file(path)
    del tensors["tasker.2.bias"]
    with pytest.raises(ModelError, match=r"1 tensors are missing, the first: tasker.2.bias"):
        load_model(rewrite(path, tensors))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers(model, tmp_path, value: float):
    path = model.save(tmp_path / "m.safetensors")
    tensors = load_file(path)
    tensors["tasker.2.bias"][1] = value
    with pytest.raises(ModelError, match=r"1 hold NaN or infinity, the first: tasker\.2\.bias"):
        load_model(rewrite(path, tensors))


def test_a_file_of_another_model(model, tmp_path):
    path = model.save(tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=r"holds a scellseg, not a cellpose.*'scellseg'"):
        load_model("cellpose", weights=path)


def test_an_unknown_name():
    with pytest.raises(ModelError, match=r"no model 'stardist'.*hover, unet3, unet2"):
        load_model("stardist")


# Packaged


def test_packaged_weights_are_found_by_width_the_full_first(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PACKAGED_WEIGHTS", tmp_path)
    half, full = (16, 32, 64, 128), (32, 64, 128, 256)
    with pytest.raises(ModelError, match=r"no packaged weights of 'unet2'.*Packaged are: none"):
        load_model("unet2")
    for width in (half, full):
        new_model("unet2", width).save(packaged_file("unet2", width))
        assert load_model("unet2").network.levels == width
    assert load_model("unet2", levels=half).network.levels == half
    with pytest.raises(ModelError, match=r"\(4, 8\).*Packaged are: unet2_16, unet2_32"):
        load_model("unet2", levels=(4, 8))
    with pytest.raises(ModelError, match=r"levels \(16, 32, 64, 128\), \(16, 4\) were asked for"):
        load_model("unet2", levels=(16, 4))


def test_what_a_file_holds_is_not_overruled_in_silence(tmp_path):
    file = new_model("unet2", TINY).save(tmp_path / "own.safetensors")
    for asked in ({"name": file}, {"name": "unet2", "weights": file}):
        with pytest.raises(ModelError, match=r"own.safetensors: the model has the levels"):
            load_model(**asked, levels=(16, 32, 64, 128))
    with pytest.raises(ModelError, match=r"two models are named: .*own.safetensors.*'released'"):
        load_model(file, "released")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_others_may_read_a_model_where_the_umask_allows_it(tmp_path):
    file = new_model("unet2", TINY).save(tmp_path / "own.safetensors")
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


# Official Cellpose weights


def cellpose_file(path: Path, **more) -> dict:
    """A file in the layout of Cellpose 1 to 3 with random weights; returns the released keys'."""
    state = functional_network.random_state("cellpose")
    stored = {
        key.removeprefix("extractor.")
        .replace("tasker.base_bn", "output.0")
        .replace("tasker.base_conv", "output.2"): value
        for key, value in state.items()
    }
    assert "downsample.down.res_down_0.conv.conv_0.0.weight" in stored
    assert "output.2.bias" in stored
    torch.save(stored | more, path)
    return state


@pytest.mark.parametrize(
    ("more", "diameter"),
    [
        ({"diam_mean": torch.tensor([30.0]), "diam_labels": torch.tensor([21.7])}, 21.7),
        ({"diam_mean": torch.tensor([30.0])}, 30.0),
        ({}, 30.0),
    ],
)
def test_official_cellpose_weights_load(tmp_path, more, diameter: float):
    state = cellpose_file(tmp_path / "cyto2torch_0", **more)
    model = load_model("cellpose", weights=tmp_path / "cyto2torch_0")
    assert model.card.diameter == pytest.approx(diameter)
    assert model.representation.name == "flow"
    assert "cyto2torch_0" in model.card.origin
    assert model.card.decoding.cell_threshold == 0  # Cellpose's own
    images = torch.rand(2, 2, 40, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.network.eval()(images)
    maps, style = functional_network.forward(state, images)
    torch.testing.assert_close(ours.maps, maps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.style, style, rtol=1e-4, atol=1e-5)


def test_official_weights_of_another_scale_are_refused(tmp_path):
    cellpose_file(tmp_path / "nuclei", diam_mean=torch.tensor([17.0]))
    with pytest.raises(ModelError, match=r"made for cells of 17 px, ours for 30 px.*`cyto`"):
        load_model("cellpose", weights=tmp_path / "nuclei")


@pytest.mark.parametrize("key", ["diam_mean", "diam_labels"])
@pytest.mark.parametrize("values", [[30.0, 17.0], [], [0.0], [-30.0], [math.nan], [math.inf]])
def test_official_weights_without_one_diameter_are_refused(tmp_path, key: str, values):
    cellpose_file(tmp_path / "cyto", **{key: torch.tensor(values)})
    with pytest.raises(ModelError, match=rf"cyto: {key} is \[.*no diameter.*state dict"):
        load_model("cellpose", weights=tmp_path / "cyto")


def test_official_weights_are_a_cellpose(tmp_path):
    cellpose_file(tmp_path / "cyto")
    with pytest.raises(ModelError, match=r"load_model\('cellpose', weights=PATH\)"):
        load_model("scellseg", weights=tmp_path / "cyto")


class Armed:
    """Were it unpickled, it would run code."""

    ran = False

    def __reduce__(self):
        return (setattr, (Armed, "ran", True))


def test_code_in_a_file_is_refused_and_not_run(tmp_path):
    torch.save({"diam_mean": Armed()}, tmp_path / "cyto")
    with pytest.raises(ModelError, match="safe loader refuses") as caught:
        load_model("cellpose", weights=tmp_path / "cyto")
    assert not Armed.ran
    assert "weights_only" not in str(caught.value)  # torch's advice, the contrary of ours
    call, arguments = Armed().__reduce__()  # what the file holds, and did not get to do
    call(*arguments)
    assert Armed.ran


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_weights_is_refused(tmp_path, content: bytes):
    (tmp_path / "cyto").write_bytes(content)
    with pytest.raises(ModelError, match="safe loader refuses"):
        load_model("cellpose", weights=tmp_path / "cyto")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "something else than named tensors"),
        (torch.zeros(3), "something else than named tensors"),
        ({"output.2.bias": 0.5}, "something else than named tensors"),
        ({"epoch": torch.ones(1)}, "'epoch' belongs to none of the paper's networks"),
        ({}, "tensors are missing"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content, words: str):
    torch.save(content, tmp_path / "cyto")
    with pytest.raises(ModelError, match=words):
        load_model("cellpose", weights=tmp_path / "cyto")


def test_official_weights_of_another_width_are_refused(tmp_path):
    cellpose_file(tmp_path / "cyto")
    stored = torch.load(tmp_path / "cyto", weights_only=True)
    stored["output.2.bias"] = torch.zeros(4)
    torch.save(stored, tmp_path / "cyto")
    with pytest.raises(ModelError, match=r"tasker\.2\.bias is \(4,\), the network has \(3,\)"):
        load_model("cellpose", weights=tmp_path / "cyto")

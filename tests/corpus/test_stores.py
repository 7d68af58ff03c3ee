"""Stores, manifests, profiles, models and archives of others, damaged or absurd, are refused."""

import io
import json
import math
import struct
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from typer.main import get_command

from scellseg_lib import cli, device, learning_curve, load_model, model, paths
from scellseg_lib.datasets import fetch, manifest
from scellseg_lib.errors import FetchError, ModelError, ScellsegError, TrainingError
from scellseg_lib.files.images import write_labels
from scellseg_lib.finetuning import FinetuneOptions
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.store import Store, load_or_compute, read_table
from scellseg_lib.training import Checkpoint, read_run, resume_precision
from tests import tiny
from tests.datasets.test_fetch import tarred, zipped
from tests.datasets.test_manifest import VALID
from tests.files.test_seg_npy import Evil
from tests.paper.made_up import make_origin, make_scores, make_trial

PROFILE = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text())
FOREIGN = ("pydantic", "weights_only", "Errno", "codec", "NoneType", "Traceback")


def refused(ask: Callable[[], Any], name: str, kind: type[ScellsegError] = ScellsegError) -> None:
    """The error names the file, is short, and is not in a library's words; it comes soon."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        ask()
    said = str(caught.value)
    assert name in said
    assert len(said) < 900
    assert [word for word in FOREIGN if word in said] == []
    assert time.monotonic() - began < 10


NESTED = b"[" * 100_000
TEXTS = [b"", b"[]", b"3", b"null", b"true", NESTED, '{"trial": "é"}'.encode("latin-1"), b"\0"]
ORIGIN = make_origin(make_trial())
TRIALS: list[Any] = [None, [1], {}, ORIGIN["trial"] | {"shots": {"a": 1}}]
TRIALS += [ORIGIN["trial"] | change for change in ({"shots": 3}, {"seed": "a"}, {"options": [{}]})]
TRIALS += [{name: v for name, v in ORIGIN["trial"].items() if name != "method"}]
CONTENTS = [*TEXTS, *(json.dumps({"trial": trial}).encode() for trial in TRIALS)]
CONTENTS += [json.dumps(ORIGIN | {"seconds": "long"}).encode(), b'{"a": ' + b"9" * 5000 + b"}"]


@pytest.mark.parametrize("content", CONTENTS)
def test_foreign_json_in_a_store(content, tmp_path):
    store = Store(tmp_path)
    store.put("one", make_scores(), ORIGIN)
    (tmp_path / "one.json").write_bytes(content)
    for ask in (store.read_scores, store.list_trials, lambda: store.summarise_origins(["one"])):
        refused(ask, "one.json")


@pytest.mark.parametrize("content", TEXTS)
def test_the_origin_of_a_table(content, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results", lambda _: tmp_path)
    (tmp_path / "sizes.json").write_bytes(content)
    refused(lambda: load_or_compute("sizes", load_profile("smoke"), make_scores), "sizes.")


TABLES = [b"", "cell,é\n".encode("latin-1"), b'"', "a,b".encode("utf-16"), None]
CUT = f"{','.join(learning_curve.COLUMNS)}\nkey,0,1".encode()


@pytest.mark.parametrize("content", [*TABLES, b"a,b\n1,2\n", b"<html>", CUT])
def test_tables(content, tmp_path):
    store, file = Store(tmp_path), tmp_path / "one.csv"
    store.put("one", make_scores(), ORIGIN)
    file.unlink()
    _ = file.mkdir() if content is None else file.write_bytes(content)
    refused(store.read_scores, "one.csv")
    refused(lambda: learning_curve._read_scores(file), "one.csv")
    if content in TABLES:
        refused(lambda: read_table(file), "one.csv")
    refused(lambda: store.put("one" * 90, make_scores(), ORIGIN), "oneone")


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n"
for before, name in zip("abcdefgh", "bcdefghi", strict=True):
    BOMB += f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
YAML = [*TEXTS, BOMB.encode(), b"a: [", b"- 1", b"&a [*a]"]
YAML += [b"!!python/object/apply:os.system ['ls']"]
YAML += [b"steps: 2020-13-45", b"? [1]\n: 2", b"<<: 3", b"- " * 1000, b"\ta: 1", b"name: \xe9"]
PLANS: list[Any] = [{"shots": [], "states": [0]}, {"shots": [1], "states": []}]
PLANS += [{"shots": [n], "states": [k]} for n, k in ((-1, 0), (0, 0), (1, -1), ("a", 0))]
WRONG = [{"data": {"synthetic_worms": plan}} for plan in PLANS]
WRONG += [{"steps": -1}, {"steps": math.nan}, {"levels": []}, {"levels": [0, 4]}]
WRONG += [{"models": ["x"]}, {"stepz": 1}]


@pytest.mark.parametrize("content", [*YAML, *(yaml.safe_dump(PROFILE | c).encode() for c in WRONG)])
def test_profiles(content, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_bytes(content)
    refused(lambda: load_profile("mine"), "mine.yaml")


CHOICES: list[dict[str, Any]] = [{"states": [-1]}, {"states": ["a"]}, {"shots": ["a", 1]}]
CHOICES += [{"shots": [0]}, {"models": ["x"]}, {"data": [[]]}, {"states": [None]}, {"shots": [{}]}]


def test_choices_that_a_profile_does_not_allow():
    for choice in CHOICES:
        refused(lambda choice=choice: load_profile("smoke").narrow(**choice), "")


GROUP: dict[str, Any] = {"source": "x", "prefix": "a", "splits": ["shot"], "count": 3}
GROUPS = [{"ranges": {"query": [1]}}, {"ranges": [0]}, {"count": -1}, {"picks": {"query": ["a"]}}]
MANIFESTS = [VALID | {"converter": "mine"}, *(VALID | {"groups": [GROUP | one]} for one in GROUPS)]
MANIFESTS += [VALID | {"files": [VALID["files"][0] | {"shape": ["a", "b"]}]}]


@pytest.mark.parametrize("content", [*YAML, *(yaml.safe_dump(c).encode() for c in MANIFESTS)])
def test_manifests(content, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path)
    manifest._parse.cache_clear()
    (tmp_path / "mine.yaml").write_bytes(b"name: mine\n" + content)
    (tmp_path / "pretraining_subsets.yaml").write_bytes(content)
    refused(lambda: manifest.load_manifest("mine"), "mine.yaml")
    refused(manifest.load_subsets, "pretraining_subsets.yaml")


def test_ranges_without_end_cost_nothing():
    group = manifest.Group(**GROUP | {"ranges": {"query": (0, 10**10)}})
    assert group.splits_of(10**9) == ("shot", "query")


MODEL = model.new_model("scellseg", tiny.LEVELS)
CARD: dict[str, Any] = json.loads(MODEL.card.model_dump_json())
WEIGHTS = MODEL.network.state_dict()
BIAS = WEIGHTS["tasker.2.bias"]
CARDS: list[dict[str, Any]] = [{"decoding": {"n_steps": 10**9}}, {"decoding": []}]
CARDS += [{"channels": [1]}]
CARDS += [{"levels": levels} for levels in ([], [0, 8], [10**9] * 4, [65536] * 4, [10**30] * 2)]
CARDS += [{"levels": [4] * 10**5}, {"styles": [[math.nan]]}, {"style_radius": math.inf}]
CARDS += [{"diameter": value} for value in (1e300, "x", 0, -3.0, math.nan, math.inf)]
CARDS += [{"architecture": name} for name in ("cellpose", "stardist")]
CARDS += [{"representation": name} for name in ("unet2", "stars")]
CARDS += [{"levels": (8, 16)}, {"levels": (4, 8, 16)}, {"attention": False}]  # of other weights
CARDS += [{"representation": None}, {"origin": 3}, {"recipe": []}, {"architecture": 3}, {"foo": 1}]
TENSORS = [{"tasker.2.bias": BIAS.to(torch.float8_e4m3fn)}, {"tasker.2.bias": BIAS * math.nan}]
TENSORS += [{"tasker.2.bias": torch.tensor(1.0)}, {"another": BIAS.clone()}]
RAW = ["", "[]", "null", "[" * 100_000, '{"recipe": ' + '{"a":' * 9999]
RAW += ['{"architecture": "\\ud800"}', *(json.dumps(CARD | card) for card in CARDS)]
MODELS = [*((raw, {}) for raw in RAW), *((json.dumps(CARD), tensors) for tensors in TENSORS)]


@pytest.mark.parametrize(("card", "tensors"), MODELS)
def test_models(card, tensors, tmp_path):
    save_file(WEIGHTS | tensors, tmp_path / "m.safetensors", {"card": card})
    refused(lambda: load_model(tmp_path / "m.safetensors"), "m.safetensors", ModelError)


def test_headers_of_models_and_what_is_no_file(tmp_path):
    file = MODEL.save(tmp_path / "m.safetensors")
    whole = file.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    for change in ({"data_offsets": [0, 10**18]}, {"shape": [10**15, 10**15]}, {"dtype": "X"}):
        said = json.dumps(header | {"tasker.2.bias": header["tasker.2.bias"] | change}).encode()
        file.write_bytes(struct.pack("<Q", len(said)) + said + whole[8 + size :])
        refused(lambda: load_model(file), "m.safetensors", ModelError)
    file.write_bytes(struct.pack("<Q", 2**63) + whole[8:])
    refused(lambda: model.read_card(file), "m.safetensors", ModelError)
    (tmp_path / "d.safetensors").mkdir()
    for name in ("d.safetensors", "none.safetensors", "y" * 300 + ".safetensors"):
        refused(lambda name=name: load_model(tmp_path / name), name[:12], ModelError)
        refused(lambda name=name: model.read_card(tmp_path / name), name[:12], ModelError)
    refused(lambda: MODEL.save(tmp_path / ("y" * 250 + ".safetensors")), "yyy", ModelError)
    assert MODEL.save(tmp_path / ("y" * 230 + ".safetensors")).is_file()


def saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


EVIL = {"a": Evil(Path.touch, Path("evil"))}
STATES: list[Any] = [{1: BIAS}, {None: BIAS}, [1], {"model": {"a": BIAS}}, {}, EVIL]
STATES += [{"diam_mean": torch.zeros(10**6)}, {"diam_labels": BIAS[:1] * math.nan}]
PICKLES = [saved(state) for state in STATES]
PICKLES += [saved(EVIL, _use_new_zipfile_serialization=False), saved({})[:99]]
PICKLES += [b"", b"hello", zipped({}), zipped({"a": b"b"}), zipped({"a/data.pkl": bytes(10**8)})]


@pytest.mark.parametrize("content", PICKLES, ids=lambda _: "pickle")
def test_weights_of_others(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("w.pth").write_bytes(content)
    refused(lambda: load_model("cellpose", weights="w.pth"), "w.pth", ModelError)
    assert not Path("evil").exists()


RUN = json.dumps({"identity": {"a": 1}, "log": [{"step": 1}]})
RUNS = ["[]", "null", "[" * 100_000, '{"identity": {"a": 1}}', '{"identity": [1], "log": []}']
RUNS += ['{"identity": {"a": 1}, "log": [1]}', '{"identity": {"a": 1}, "log": "abc"}']
STATE: list[dict[str, Any]] = [{"a": BIAS}, {"x/y": BIAS}, {"optimiser/99/exp_avg": BIAS}]
STATE += [{"optimiser/a/exp_avg": BIAS}, {"optimiser/0/exp_avg": torch.zeros(7)}]
STATE += [{"network/weight": torch.zeros(7)}]


def checkpoint(file: Path) -> Checkpoint:
    """Of one step, and saved unless it is there."""
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.zeros(1, 3)).sum().backward()
    optimiser.step()
    made = Checkpoint(file, {"a": 1}, {"network": network}, optimiser)
    _ = file.exists() or made.save([{"step": 1}])
    return made


@pytest.mark.parametrize(("run", "tensors"), [*((r, {}) for r in RUNS), *((RUN, s) for s in STATE)])
def test_checkpoints(run, tensors, tmp_path):
    file = tmp_path / "c.safetensors"
    state = checkpoint(file)
    save_file(load_file(file) | tensors, file, {"run": run})
    refused(state.resume, "c.safetensors", TrainingError)
    for precision in ([], None, "x", {"foo": 1}):
        save_file({}, file, {"run": json.dumps({"identity": {"precision": precision}, "log": []})})
        assert resume_precision(file, device.Precision("bf16")) == device.Precision("bf16")
    file.unlink()
    file.mkdir()
    assert read_run(file) == {}
    for ask in (state.resume, lambda: state.save([])):
        refused(ask, "c.safetensors", TrainingError)


NAMES = ["/a", "../a", "a/../../b", "C:\\a", "C:/a", "\\\\host\\a", "..\\a"]
SPECIAL = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
ARCHIVES = [zipped({"good.png": b"", name: b"x"}) for name in NAMES] + [*map(tarred, NAMES)]
ARCHIVES += [tarred("a", kind) for kind in SPECIAL]
ARCHIVES += [tarred("good.png"), zipped({"a": b"x", "a/b": b"y"})]  # the first has it twice
SIZES = (struct.pack("<I", size) for size in (2 * 10**6, 2**32 - 2))
ARCHIVES += [zipped({"a": bytes(2 * 10**6)}).replace(*SIZES)]
ARCHIVES += [zipped({"é": b"x"}).replace("é".encode(), b"\xff\xfe")]
ARCHIVES += [b"", b"<html>", zipped({"a": b"x" * 99})[:60]]


@pytest.mark.parametrize("content", ARCHIVES, ids=lambda _: "archive")
def test_archives(content, tmp_path):
    (tmp_path / "a.zip").write_bytes(content)
    refused(lambda: fetch.unpack(tmp_path / "a.zip", tmp_path / "here"), "a.zip", FetchError)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "here"}
    assert not (tmp_path / "here" / "good.png").exists()  # none of what is unsafe
    assert not Path("/a").exists()


CLI = get_command(cli.app)
VALUES = ["-1", "nan", "1e300", "", "\udc80", "a" * 300, "m"]
OPTIONS = {
    "segment": "model weights output channels axes page format diameter cell-threshold min-size",
    "finetune": "output shots model layers strategy steps seed learning-rate schedule channels",
    "evaluate": "csv",
    "export": "to output images side channels",
    "sweep": "profile data state limit-time",
}
GIVEN = {"segment": "i --model m.safetensors", "evaluate": "m m", "export": "m --to table"}
GIVEN |= {"finetune": "i --model m.safetensors --steps 1", "sweep": "shot_scale --dry-run"}
EACH = [(command, option) for command, named in OPTIONS.items() for option in named.split()]


@pytest.mark.parametrize(("command", "option"), EACH)
def test_options_of_commands(command, option, tmp_path, monkeypatch):
    """What cannot be done is a sentence; what is computed when all is well does not matter here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.folder, "segment_jobs", lambda *_, **__: None)
    monkeypatch.setattr(cli.scellseg, "finetune", lambda *_, **options: FinetuneOptions(**options))
    monkeypatch.setattr(FinetuneOptions, "save", lambda *_: None, raising=False)
    monkeypatch.setattr(FinetuneOptions, "card", MODEL.card, raising=False)
    MODEL.save(tmp_path / "m.safetensors")
    for name in ("m/a_masks.tif", "i/a_masks.tif"):
        write_labels(tmp_path / name, np.pad(np.ones((9, 9), np.int32), 20))
    write_labels(tmp_path / "i" / "a_img.tif", np.arange(49 * 49).reshape(49, 49))
    for value in VALUES:
        result = CliRunner().invoke(CLI, [command, *GIVEN[command].split(), f"--{option}", value])
        assert result.exception is None or isinstance(result.exception, SystemExit), value
        assert bool(result.exit_code) == ("Error" in result.output), (value, result.output)
        assert [word for word in FOREIGN if word in result.output] == [], (value, result.output)
        if (option, value) == ("state", "-1"):
            assert result.exit_code == 2

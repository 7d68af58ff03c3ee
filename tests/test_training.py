"""A run killed at any step and resumed ends with the weights of one that never stopped."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scellseg_lib import augment
from scellseg_lib import device as precision
from scellseg_lib import training as module
from scellseg_lib.device import Precision
from scellseg_lib.errors import TrainingError
from scellseg_lib.model import Model
from scellseg_lib.training import Checkpoint, CheckpointOfAnotherRun, Progress
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def small_patches_and_a_checkpoint_after_each_step(monkeypatch):
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)
    monkeypatch.setattr(module, "SAVE_EVERY", 0)


class Killed(Exception):
    """The plug is pulled."""


@cache
def uninterrupted(kind: str) -> Model:
    return tiny.run(kind)


def assert_same(a: Model, b: Model) -> None:
    first, second = a.network.state_dict(), b.network.state_dict()
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    assert a.log == b.log


def kill_at(step: int):
    def callback(progress):
        if progress.step >= step:
            raise Killed

    return callback


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_run_killed_at_every_step_ends_as_one_that_was_not(kind: str, tmp_path):
    file = tmp_path / "run.safetensors"
    for step in range(1, tiny.STEPS):
        with pytest.raises(Killed):
            tiny.run(kind, file, kill_at(step))
        assert file.is_file()
    seen = []
    resumed = tiny.run(kind, file, lambda progress: seen.append(progress.step))
    assert seen == [tiny.STEPS]  # one step only was left to do
    assert_same(resumed, uninterrupted(kind))
    assert len(resumed.log) == tiny.STEPS


def test_checkpoints_are_written_by_time_and_what_came_since_is_done_again(tmp_path, monkeypatch):
    file = tmp_path / "run.safetensors"
    seconds = itertools.count(0, 10)  # each look at the clock, once a step, takes ten
    monkeypatch.setattr(module, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(module, "SAVE_EVERY", 20)
    with pytest.raises(Killed):
        tiny.run("contrastive", file, kill_at(3))
    seen = []
    resumed = tiny.run("contrastive", file, lambda progress: seen.append(progress.step))
    assert seen == [3, 4]
    assert_same(resumed, uninterrupted("contrastive"))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_run_killed_after_its_last_step_has_nothing_left_to_do(kind: str, tmp_path, monkeypatch):
    """Before its card was made, and once more before the caller has saved the model."""

    def killed(*_):
        raise Killed

    monkeypatch.setattr(module, "SAVE_EVERY", 1e9)
    file, seen = tmp_path / "run.safetensors", []
    with monkeypatch.context() as patch:
        patch.setattr(module, "remember_styles", killed)
        with pytest.raises(Killed):
            tiny.run(kind, file)
    for _ in range(2):
        again = tiny.run(kind, file, seen.append)
        assert seen == []
        assert_same(again, uninterrupted(kind))
        assert again.card == uninterrupted(kind).card
        assert not again.network.training
        assert {path.name for path in tmp_path.iterdir()} == {file.name}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_process_killed_at_a_random_moment_can_be_resumed(kind: str, tmp_path):
    file = tmp_path / "run.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tiny", kind, str(file)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 300
        while not file.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(random.uniform(0, 3))
    finally:
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert file.is_file()
    seen = []
    resumed = tiny.run(kind, file, lambda progress: seen.append(progress.step))
    assert 0 < len(seen) < tiny.STEPS
    assert_same(resumed, uninterrupted(kind))


# The file itself


def linear(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def stepped(network: nn.Module, optimiser: torch.optim.Optimizer, n: int = 1) -> None:
    for i in range(n):
        optimiser.zero_grad()
        network(torch.arange(12.0).reshape(4, 3) + i).square().sum().backward()
        optimiser.step()


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_weights_statistics_and_optimiser_come_back(name: str, tmp_path):
    network = linear()
    optimiser = OPTIMISERS[name](network.parameters())
    stepped(network, optimiser, 3)
    file = Checkpoint(tmp_path / "deeper" / "c.safetensors", {"levels": (1, 2)})
    log = [{"step": i, "loss": i * 0.1} for i in (1, 2, 3)]
    file.save({"network": network}, optimiser, log)

    other = linear(seed=1)
    fresh = OPTIMISERS[name](other.parameters())
    assert file.resume({"network": other}, fresh) == log
    stepped(network, optimiser)
    stepped(other, fresh)
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_parts_that_are_not_learnt_have_no_state(tmp_path):
    network = linear()
    network[0].requires_grad_(False)
    optimiser = OPTIMISERS["adam"](network.parameters())
    stepped(network, optimiser, 2)
    file = Checkpoint(tmp_path / "c.safetensors", {})
    file.save({"network": network}, optimiser, [])
    fresh = OPTIMISERS["adam"](network.parameters())
    file.resume({"network": network}, fresh)
    assert fresh.state_dict()["state"].keys() == {2, 3}


def saved(path: Path, **identity) -> tuple[nn.Module, torch.optim.Optimizer]:
    network = linear()
    optimiser = OPTIMISERS["sgd"](network.parameters())
    stepped(network, optimiser)
    Checkpoint(path, identity).save({"network": network}, optimiser, [])
    return network, optimiser


def test_no_file_is_a_new_run(tmp_path):
    network, optimiser = saved(tmp_path / "other.safetensors")
    found = Checkpoint(tmp_path / "none.safetensors", {}).resume({"network": network}, optimiser)
    assert found == []


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_damaged_file_is_refused(tmp_path, keep: int):
    path = tmp_path / "c.safetensors"
    network, optimiser = saved(path)
    path.write_bytes(path.read_bytes()[:keep])
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(TrainingError, match=r"cannot be read.*Delete it to start anew") as caught:
        Checkpoint(path, {}).resume({"network": network}, optimiser)
    assert str(path) in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_weights_are_no_checkpoint(tmp_path):
    path = uninterrupted("classic").save(tmp_path / "model.safetensors")
    network, optimiser = saved(tmp_path / "c.safetensors")
    with pytest.raises(TrainingError, match="cannot be read"):
        Checkpoint(path, {}).resume({"network": network}, optimiser)


def test_the_checkpoint_of_another_run_is_refused_in_words(tmp_path):
    path = tmp_path / "c.safetensors"
    network, optimiser = saved(path, seed=0, levels=(4, 8), gone=1)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(CheckpointOfAnotherRun) as caught:
        Checkpoint(path, {"seed": 1, "levels": (4, 8), "new": "x"}).resume(
            {"network": linear(3)}, optimiser
        )
    message = str(caught.value)
    assert caught.value.differing == {"gone": (1, None), "new": (None, "x"), "seed": (0, 1)}
    assert "of another run: gone: 1 there, None asked for; " in message
    assert "new: None there, x asked for; seed: 0 there, 1 asked for" in message
    assert "levels" not in message
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 1}, "seed: 0 there, 1 asked for"),
        ({"steps": 5}, "steps: 4 there, 5 asked for"),
        ({"learning_rate": 0.5}, "learning_rate: 0.001 there, 0.5 asked for"),
        ({"strategy": "contrastive"}, "strategy: classic there, contrastive asked for"),
        ({"model": tiny.new_model("scellseg", tiny.LEVELS, seed=9)}, "weights: "),
        ({"precision": tiny.Precision(channels_last=True)}, "precision: .*channels_last"),
    ],
)
def test_a_fine_tuning_does_not_go_on_from_another(tmp_path, changed, words: str):
    options = {"checkpoint": tmp_path / "c.safetensors"}
    with pytest.raises(Killed):
        tiny.tune("classic", callback=kill_at(1), **options)
    with pytest.raises(TrainingError, match=words):
        tiny.tune(changed.pop("strategy", "classic"), **options, **changed)


def test_a_pretraining_does_not_go_on_from_another(tmp_path):
    options = {"checkpoint": tmp_path / "c.safetensors"}
    with pytest.raises(Killed):
        tiny.train(callback=kill_at(1), **options)
    for changed, words in (
        ({"seed": 1}, "seed"),
        ({"levels": (4, 8)}, "levels"),
        ({"initial": uninterrupted("pretrain")}, "initial: None there"),
    ):
        with pytest.raises(TrainingError, match=f"another run: {words}"):
            tiny.train(**options, **changed)


def test_the_earlier_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    network, optimiser = saved(path)
    before = path.read_bytes()

    def cut_short(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "save_file", cut_short)
    with pytest.raises(TrainingError, match=r"c\.safetensors: .*\(no space.*Make room"):
        Checkpoint(path, {}).save({"network": network}, optimiser, [])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [tiny.tune, tiny.train])
def test_a_resumed_run_keeps_its_precision_whatever_pays_now(make, tmp_path, monkeypatch):
    """The library's own choice: none is given."""

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Killed

    def layout(checkpoint: Path | None) -> bool:
        made = make(precision=None, checkpoint=checkpoint)
        return made.card.recipe["precision"]["channels_last"]

    with monkeypatch.context() as patch:
        patch.setattr(precision, "recall_precision", lambda _: Precision())
        with pytest.raises(Killed):
            make(precision=None, checkpoint=tmp_path / "run", callback=stop)
    monkeypatch.setattr(precision, "recall_precision", lambda _: Precision(channels_last=True))
    assert not layout(tmp_path / "run")
    assert layout(None)

"""A run killed at any step and resumed ends with the weights of one that never stopped."""

import itertools
from functools import cache
from unittest.mock import Mock

import pytest
import torch

from scellseg_lib import device, training
from scellseg_lib.errors import TrainingError
from scellseg_lib.model import Model, new_model
from tests import tiny
from tests.test_model import assert_same_weights


@pytest.fixture(autouse=True)
def a_checkpoint_after_each_step(small_patches, one_thread, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0)


kill = Mock(side_effect=tiny.Killed)
uninterrupted = cache(tiny.run)
"""Such a run, once for all tests."""


def assert_same(a: Model, b: Model) -> None:
    assert_same_weights(a, b)
    assert a.log == b.log


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(kind: str, tmp_path, monkeypatch):
    """At its steps, before its card is made, and before who called it has saved the model."""
    file, steps = tmp_path / "deeper" / "run.safetensors", []
    for step in (1, tiny.STEPS - 1):
        with pytest.raises(tiny.Killed):
            tiny.run(kind, file, tiny.end_at(step))
        assert len(training.read_run(file)["log"]) == step
    monkeypatch.setattr(training, "SAVE_EVERY", 1e9)  # the last step is saved whatever the time
    with monkeypatch.context() as patch:
        patch.setattr(training, "remember_styles", kill)
        with pytest.raises(tiny.Killed):
            tiny.run(kind, file, lambda progress: steps.append(progress.step))
    assert steps == [tiny.STEPS]
    again = tiny.run(kind, file, kill)  # no step is left to be told of
    assert_same(again, uninterrupted(kind))
    assert again.card == uninterrupted(kind).card
    assert not again.network.training
    assert list(file.parent.iterdir()) == [file]


def test_checkpoints_are_written_by_time_and_what_came_since_is_done_again(tmp_path, monkeypatch):
    file, seconds, steps = tmp_path / "run.safetensors", itertools.count(0, 10), []
    monkeypatch.setattr(training, "monotonic", lambda: next(seconds))  # ten for each look at it
    monkeypatch.setattr(training, "SAVE_EVERY", 20)
    with pytest.raises(tiny.Killed):
        tiny.run("contrastive", file, tiny.end_at(3))
    resumed = tiny.run("contrastive", file, lambda progress: steps.append(progress.step))
    assert steps == [3, 4]
    assert_same(resumed, uninterrupted("contrastive"))


def test_a_run_that_is_told_enough_ends_with_what_it_has_learnt(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 1e9)
    file = tmp_path / "run.safetensors"
    part = tiny.run("classic", file, tiny.end_at(2, training.Enough))
    assert part.log == uninterrupted("classic").log[:2] == training.read_run(file)["log"]
    assert "2 steps" in part.card.origin
    assert_same(tiny.run("classic", file), uninterrupted("classic"))


def test_a_loss_that_is_no_number_is_an_error_before_it_reaches_the_weights():
    model = new_model("scellseg", tiny.LEVELS)
    model.network.tasker[2].bias.data[2] = torch.nan
    for run, option in ((tiny.tune, "model"), (tiny.train, "initial")):
        with pytest.raises(TrainingError, match=r"loss is nan at step 1.*Lower the learning rate"):
            run(**{option: model})


@pytest.mark.parametrize("run", [tiny.tune, tiny.train])
def test_a_resumed_run_keeps_its_precision_whatever_pays_now(run, tmp_path, monkeypatch):
    """The library's own choice: none is given."""
    options = {"precision": None, "checkpoint": tmp_path / "run"}
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    with pytest.raises(tiny.Killed):
        run(**options, callback=tiny.end_at(3))
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    assert not run(**options).card.recipe["precision"]["channels_last"]
    with pytest.raises(training.CheckpointOfAnotherRun, match="channels_last"):
        run(**options | {"precision": device.Precision(channels_last=True)})


def test_runs_do_not_go_on_from_another(tmp_path):
    other = new_model("scellseg", tiny.LEVELS, seed=9)
    changes = {"seed": 1, "steps": 5, "learning_rate": 0.5, "model": other, "queries": None}
    for run, changed in (
        (tiny.tune, changes | {"strategy": "contrastive"}),
        (tiny.train, {"seed": 1, "levels": (4, 12), "initial": other}),
    ):
        options = {"checkpoint": tmp_path / run.__name__}
        with pytest.raises(tiny.Killed):
            run(**options, callback=tiny.end_at(1))
        for name, value in changed.items():
            with pytest.raises(training.CheckpointOfAnotherRun) as caught:
                run(**options, **{name: value})
            assert {"model": "weights"}.get(name, name) in caught.value.differing
            if name == "seed":
                assert caught.value.differing == {"seed": (0, 1)}
                assert "of another run: seed: 0 there, 1 asked for." in str(caught.value)

"""Pre-training: schedules at the steps that the paper names, the split, the log and the card."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch

from scellseg_lib import augment
from scellseg_lib.augment import prepare
from scellseg_lib.device import Precision
from scellseg_lib.errors import TrainingError
from scellseg_lib.model import new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.pretraining import (
    PretrainRecipe,
    epoch_batch,
    paper_recipe,
    pretrain,
    validation_loss,
)
from tests import tiny

# By its full name: the package's attribute of that name is the function.
module = importlib.import_module("scellseg_lib.pretraining")


@pytest.fixture(autouse=True)
def small_patches(monkeypatch):
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)


# Schedules


@pytest.mark.parametrize(
    ("epoch", "share"),
    [(0, 0), (5, 0.5), (10, 1), (399, 1), (409, 1), (410, 1 / 2), (420, 1 / 4), (499, 1 / 2**9)],
)
@pytest.mark.parametrize("batches", [1, 7, 59])
def test_the_papers_schedule(epoch: int, share: float, batches: int):
    rate = PretrainRecipe().rate(epoch * batches, 500 * batches)
    assert rate == pytest.approx(share, abs=1e-12)


def test_a_shorter_run_has_the_same_shares():
    recipe = PretrainRecipe(learning_rate=1)
    assert recipe.rate(1, 100) == pytest.approx(0.5)
    assert recipe.rate(2, 100) == pytest.approx(1)
    assert recipe.rate(82, 100) == pytest.approx(0.5)


def test_onecycle_rises_and_ends_near_zero():
    recipe = PretrainRecipe(learning_rate=0.01, schedule="onecycle")
    rates = np.array([recipe.rate(step, 400) for step in range(400)])
    assert rates[0] == pytest.approx(0.04)
    assert rates.argmax() == 60
    assert rates.max() == pytest.approx(1)
    assert (np.diff(rates[:60]) > 0).all()
    assert (np.diff(rates[60:]) < 0).all()
    assert 0 < rates[-1] < 1e-4
    assert np.abs(np.diff(rates)).max() < 0.03  # no jump where the two halves meet


def test_the_papers_recipe():
    recipe = paper_recipe("scellseg")
    assert (recipe.optimiser, recipe.learning_rate, recipe.weight_decay) == ("sgd", 0.2, 1e-5)
    assert (recipe.batch_size, recipe.epochs, recipe.schedule) == (8, 500, "paper")
    assert paper_recipe("hover").learning_rate == paper_recipe("cellpose").learning_rate == 0.2
    assert paper_recipe("unet2").learning_rate == paper_recipe("unet3").learning_rate == 0.002
    assert recipe.n_steps(473) == 500 * 60
    assert PretrainRecipe(steps=12).n_steps(473) == 12


def test_rates_and_settings_reach_the_optimiser(monkeypatch):
    seen = []
    original = torch.optim.SGD.step

    def step(self, *arguments, **options):
        (group,) = self.param_groups
        seen.append([group["lr"], group["momentum"], group["weight_decay"]])
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    recipe = PretrainRecipe(steps=3, batch_size=1, schedule="onecycle", learning_rate=0.03)
    tiny.train(recipe=recipe)
    expected = [[0.03 * recipe.rate(i, 3), 0.9, 1e-5] for i in range(3)]
    np.testing.assert_allclose(seen, expected)


# Data


@pytest.mark.parametrize(("n", "batch"), [(7, 2), (16, 8), (3, 8)])
def test_every_image_serves_once_an_epoch(n: int, batch: int):
    drawn = [i for step in range(n * 3) for i in epoch_batch(n, batch, step, seed=4)]
    epochs = np.array(drawn[: len(drawn) // n * n]).reshape(-1, n)
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1  # in another order each time
    assert drawn != [i for step in range(n * 3) for i in epoch_batch(n, batch, step, seed=5)]


def test_the_last_of_every_eight_images_validates(monkeypatch):
    split = module._split
    parts = []
    monkeypatch.setattr(
        module, "_split", lambda sources: parts.append(split(range(len(sources)))) or split(sources)
    )
    datasets = [tiny.worms(9), tiny.worms(8, 4)]
    recipe = PretrainRecipe(steps=1, batch_size=1)
    pretrain("cellpose", datasets, levels=(4, 8), recipe=recipe, precision=Precision())
    ((training, validation),) = parts
    assert list(validation) == [7, 15]  # counted through all data sets
    assert sorted([*training, *validation]) == list(range(17))


def test_too_few_images():
    with pytest.raises(TrainingError, match="needs 8 images or more, there are 7"):
        pretrain("cellpose", [tiny.worms(7)], levels=(4, 8), precision=Precision())


# Runs


def test_the_log_and_the_card_tell_the_run():
    seen = []
    model = tiny.train("cellpose", validate_every=3, callback=seen.append, seed=2)
    assert [entry["step"] for entry in model.log] == [1, 2, 3, 4]
    assert ["validation_loss" in entry for entry in model.log] == [False, False, True, True]
    assert [p.validation_loss for p in seen] == [e.get("validation_loss") for e in model.log]
    assert [p.losses["loss"] for p in seen] == [e["loss"] for e in model.log]
    card = model.card
    assert card.scores == {"validation_loss": model.log[-1]["validation_loss"]}
    assert [(d.name, d.images, d.licence) for d in card.training_data] == [("worms", 9, "CC0-1.0")]
    assert card.recipe["recipe"]["steps"] == 4
    assert card.recipe["seed"] == 2
    assert card.recipe["precision"] == {"dtype": "fp32", "channels_last": False}
    assert np.array(card.styles).shape[1:] == (32,)
    assert card.style_radius > 0
    assert not model.network.training
    assert card.channels == ("gray", "none")


def test_the_validation_patches_are_always_the_same_and_nothing_is_learnt_from_them():
    model = new_model("scellseg", tiny.LEVELS)
    sources = prepare(tiny.worms(3))
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    losses = [
        validation_loss(model, sources, 0, Precision(), torch.device("cpu")) for _ in range(2)
    ]
    assert losses[0] == losses[1]
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())


def test_validation_weighs_all_images_alike():
    """Nine images make batches of eight and of one: the mean is over images, not batches."""
    model = new_model("cellpose", (4, 8))
    sources = prepare(tiny.worms(9))
    weights = []
    original = model.representation.loss

    class Counted(type(model.representation)):  # type: ignore[misc]
        def loss(self, output, targets):
            weights.append((len(output), float(original(output, targets))))
            return original(output, targets)

    model.representation = Counted()
    total = validation_loss(model, sources, 0, Precision(), torch.device("cpu"))
    assert [n for n, _ in weights] == [8, 1]
    assert total == pytest.approx((8 * weights[0][1] + weights[1][1]) / 9)


def test_a_run_can_start_from_a_model_that_it_leaves_alone():
    initial, untouched = (new_model("scellseg", tiny.LEVELS, seed=8) for _ in range(2))
    recipe = PretrainRecipe(steps=1, batch_size=1, learning_rate=0.0, weight_decay=0.0)
    model = tiny.train(initial=initial, recipe=recipe)
    weights = dict(model.network.named_parameters())
    for name, parameter in untouched.network.named_parameters():
        assert torch.equal(weights[name], parameter)
    for name, value in untouched.network.state_dict().items():
        assert torch.equal(initial.network.state_dict()[name], value)
    with pytest.raises(TrainingError, match=r"initial weights are of levels \(4, 8, 16, 32\)"):
        tiny.train(levels=(4, 8), initial=initial)


def test_the_card_of_a_model_that_was_trained_on_tells_both_runs():
    first = tiny.train(recipe=PretrainRecipe(steps=2, batch_size=1))
    alone = "pre-trained by the Scellseg notebooks, 2 steps"
    assert first.card.origin == alone
    assert first.card.recipe["initial"] is None
    later = tiny.train(recipe=PretrainRecipe(steps=1, batch_size=1), initial=first).card
    assert later.origin == f"pre-trained by the Scellseg notebooks, 1 steps; started from: {alone}"
    assert later.recipe["recipe"]["steps"] == 1
    assert later.recipe["initial"]["recipe"] == first.card.recipe
    assert later.recipe["initial"]["weights"] == weights_hash(first.network)
    other = tiny.train("unet2", recipe=PretrainRecipe(steps=1, batch_size=1), initial=first).card
    assert other.origin.endswith(f"1 steps; started from: scellseg, {alone}")
    assert other.recipe["initial"]["recipe"] == first.card.recipe


def test_a_run_takes_what_fits_from_another_model():
    initial = new_model("cellpose", tiny.LEVELS, seed=8)
    recipe = PretrainRecipe(steps=1, batch_size=1, learning_rate=0.0, weight_decay=0.0)
    weights = dict(tiny.train("unet2", initial=initial, recipe=recipe).network.named_parameters())
    taken = {
        name
        for name, parameter in initial.network.named_parameters()
        if name in weights and torch.equal(weights[name], parameter)
    }
    assert {name for name in weights if name.startswith("extractor")} <= taken
    assert "tasker.2.weight" not in taken


def test_the_seed_decides():
    first, again, other = (
        tiny.train(seed=s, recipe=PretrainRecipe(steps=2, batch_size=1)) for s in (0, 0, 1)
    )
    assert first.log == again.log
    assert first.log != other.log


@pytest.mark.parametrize("name", ["unet2", "unet3", "hover"])
def test_all_models_learn(name: str):
    recipe = PretrainRecipe(steps=12, batch_size=4, optimiser="adam", learning_rate=0.01)
    losses = [entry["loss"] for entry in tiny.train(name, recipe=recipe).log]
    assert np.mean(losses[-3:]) < 0.95 * losses[0]


def test_a_loss_that_is_no_number_is_an_error():
    initial = new_model("scellseg", tiny.LEVELS)
    initial.network.tasker[2].bias.data[2] = math.nan
    with pytest.raises(TrainingError, match=r"loss is nan.*Lower the learning rate"):
        tiny.train(initial=initial)


@pytest.mark.parametrize("option", [{"optimiser": "lion"}, {"schedule": "steep"}])
def test_unknown_options(option):
    ((name, value),) = option.items()
    with pytest.raises(TrainingError, match=rf"{name}='{value}' is unknown"):
        PretrainRecipe(**option)


@pytest.mark.parametrize("name", ["steps", "batch_size", "epochs"])
def test_a_recipe_of_nothing(name: str):
    with pytest.raises(TrainingError, match=rf"{name}=0 is not a whole number from 1"):
        PretrainRecipe(**{name: 0})

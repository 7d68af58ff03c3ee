"""Pre-training: schedules at the steps that the paper names, the split, the log and the card."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from scellseg_lib import pretraining as module
from scellseg_lib.augment import prepare
from scellseg_lib.device import Precision
from scellseg_lib.errors import TrainingError
from scellseg_lib.model import TrainingData, new_model
from scellseg_lib.network import ARCHITECTURES, weights_hash
from scellseg_lib.pretraining import PretrainRecipe, epoch_batch, pretrain, validation_loss
from scellseg_lib.samples import normalise
from scellseg_lib.training import Enough
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_patches")
TWO = PretrainRecipe(steps=2, batch_size=1)


def test_the_schedules():
    shares = {0: 0, 5: 0.5, 10: 1, 399: 1, 409: 1, 410: 1 / 2, 420: 1 / 4, 499: 1 / 2**9}
    for batches in (0.25, 1, 7, 59):  # an epoch; a run that is shorter has the same shares
        rates = [PretrainRecipe().rate(epoch * batches, 500 * batches) for epoch in shares]
        assert rates == pytest.approx([*shares.values()], abs=1e-12)
    # Onecycle rises and ends near zero.
    recipe = PretrainRecipe(learning_rate=0.01, schedule="onecycle")
    rates = np.array([recipe.rate(step, 400) for step in range(400)])
    np.testing.assert_allclose(rates[[0, 60, -1]], [0.04, 1, 0], atol=1e-4)
    assert (np.sign(np.diff(rates)) == np.repeat([1, -1], [60, 339])).all()
    assert np.abs(np.diff(rates)).max() < 0.03  # no jump where the two halves meet


def test_the_papers_recipe():
    """Its numbers are compared with docs/method.md in tests/test_docs.py."""
    for name in ARCHITECTURES:
        options = {"levels": tiny.LEVELS, "callback": Mock(side_effect=Enough)}
        recipe = pretrain(name, [tiny.worms(9)], **options).card.recipe
        assert recipe["recipe"]["learning_rate"] == (0.002 if "unet" in name else 0.2)
    assert PretrainRecipe().n_steps(473) == 500 * 60
    assert PretrainRecipe(steps=12).n_steps(473) == 12


def test_rates_and_settings_reach_the_optimiser():
    seen, names = [], ("lr", "momentum", "weight_decay")
    recipe = PretrainRecipe(steps=3, batch_size=1, schedule="onecycle", learning_rate=0.03)
    note = lambda sgd, *_: seen.extend([one[k] for k in names] for one in sgd.param_groups)  # noqa: E731
    with register_optimizer_step_pre_hook(note):
        tiny.train(recipe=recipe)
    np.testing.assert_allclose(seen, [[0.03 * recipe.rate(i, 3), 0.9, 1e-5] for i in range(3)])


@pytest.mark.parametrize(("n", "batch"), [(7, 2), (16, 8), (3, 8)])
def test_every_image_serves_once_an_epoch(n: int, batch: int):
    drawn = [i for step in range(n * 3) for i in epoch_batch(n, batch, step, seed=4)]
    epochs = np.array(drawn[: len(drawn) // n * n]).reshape(-1, n)
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1  # in another order each time
    assert drawn != [i for step in range(n * 3) for i in epoch_batch(n, batch, step, seed=5)]


def test_the_last_of_every_eight_images_validates(monkeypatch):
    """Counted through all data sets."""
    parts = []
    monkeypatch.setattr(module, "validation_loss", lambda _, part, *__: parts.append(part) or 0.0)
    draw = lambda n, *rest: parts.append(n) or epoch_batch(n, *rest)  # noqa: E731
    monkeypatch.setattr(module, "epoch_batch", draw)
    options = {"recipe": PretrainRecipe(steps=1, batch_size=1), "precision": Precision()}
    pretrain("cellpose", [tiny.worms(9), tiny.worms(8, 4)], levels=tiny.LEVELS, **options)
    n_training, validation = parts
    assert (n_training, len(validation)) == (15, 2)
    for source, number in zip(validation, (7, 10), strict=True):
        np.testing.assert_array_equal(source.image, normalise(tiny.worm(number)[0]))
    with pytest.raises(TrainingError, match="needs 8 images or more, there are 7"):
        pretrain("cellpose", [tiny.worms(7)], levels=tiny.LEVELS, **options)


def test_the_log_and_the_card_tell_the_run_which_its_seed_decides():
    seen = []
    model = tiny.train("cellpose", validate_every=3, callback=seen.append, seed=2)
    assert [entry["step"] for entry in model.log] == [1, 2, 3, 4]
    assert ["validation_loss" in entry for entry in model.log] == [False, False, True, True]
    assert [p.losses["loss"] for p in seen] == [e["loss"] for e in model.log]
    card = model.card
    assert card.scores == {"validation_loss": model.log[-1]["validation_loss"]}
    assert card.training_data == [TrainingData(name="worms", images=9, licence="CC0-1.0")]
    told = {"seed": 2, "precision": {"dtype": "fp32", "channels_last": False}}
    assert told.items() <= card.recipe.items()
    assert card.recipe["recipe"]["steps"] == 4
    again, other = (tiny.train("cellpose", validate_every=3, seed=seed).log for seed in (2, 1))
    assert again == model.log != other


def test_validation_repeats_itself_teaches_nothing_and_weighs_all_images_alike():
    """Nine images make batches of eight and of one: the mean is over images, not batches."""
    model, sources, batches = new_model("cellpose", tiny.LEVELS), prepare(tiny.worms(9)), []

    class Counted(type(model.representation)):  # type: ignore[misc]
        def loss(self, output, targets):
            loss = super().loss(output, targets)
            batches.append((len(output), float(loss)))
            return loss

    model.representation = Counted()
    before = weights_hash(model.network)
    first, again = (validation_loss(model, sources, 0, Precision()) for _ in range(2))
    assert first == again
    assert weights_hash(model.network) == before
    sizes, losses = zip(*batches[:2], strict=True)
    assert sizes == (8, 1)
    assert first == pytest.approx(np.average(losses, weights=sizes))


def test_a_run_can_start_from_a_model_that_it_leaves_alone_and_tells_of():
    first = tiny.train(recipe=TWO)
    before, alone = weights_hash(first.network), "pre-trained by the Scellseg notebooks, 2 steps"
    assert first.card.origin == alone
    assert first.card.recipe["initial"] is None
    recipe = PretrainRecipe(steps=1, batch_size=1, learning_rate=0.0)
    # All is taken, or what fits of the extractor.
    for name, words, part in (("scellseg", "", ""), ("unet2", "scellseg, ", "extractor")):
        later = tiny.train(name, initial=first, recipe=recipe)
        weights, start = (dict(model.network.named_parameters()) for model in (later, first))
        taken = {k for k, w in weights.items() if k in start and torch.equal(w, start[k])}
        fits = {k for k, w in weights.items() if k in start and w.shape == start[k].shape}
        assert taken == {k for k in fits if k.startswith(part)}
        assert weights_hash(first.network) == before
        origin = "pre-trained by the Scellseg notebooks, 1 steps; started from: "
        assert later.card.origin == origin + words + alone
        assert later.card.recipe["recipe"]["steps"] == 1
        assert later.card.recipe["initial"] == {"weights": before, "recipe": first.card.recipe}
    with pytest.raises(TrainingError, match=r"initial weights are of levels \(4, 8\)"):
        tiny.train(levels=(4, 16), initial=first)


@pytest.mark.parametrize("name", ["unet2", "unet3", "hover"])
def test_all_models_learn(name: str):
    recipe = PretrainRecipe(steps=12, batch_size=4, optimiser="adam", learning_rate=0.01)
    losses = [entry["loss"] for entry in tiny.train(name, recipe=recipe).log]
    assert np.mean(losses[-3:]) < 0.95 * losses[0]

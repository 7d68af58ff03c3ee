"""Fine-tuning: what is learnt, what stays fixed, and that no mask of a query is ever seen."""

import inspect
import math
import re
from dataclasses import replace
from functools import cache, partial
from typing import get_args
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from scellseg_lib import Sample, augment, cli, finetuning, learning_curve, pretraining, segmentation
from scellseg_lib.device import Precision
from scellseg_lib.errors import DatasetError, OptionError, TrainingError
from scellseg_lib.finetuning import FinetuneOptions, choose_options, finetune, recalibrate
from scellseg_lib.model import Model, TrainingData, new_model
from scellseg_lib.representation import Decoding
from scellseg_lib.workbench.finetune import FinetunePanel
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_patches")
PARTS = {"extractor.down", "extractor.up", "tasker"}
LEARNT = {"all": PARTS, "downsampling_fixed": PARTS - {"extractor.down"}}
LEARNT["extractor_fixed"] = {"tasker"}


def start(name: str = "scellseg") -> Model:
    model = new_model(name, tiny.LEVELS)
    model.card.origin, model.card.scores, model.card.recipe = "a test", {"ap50": 0.9}, {"steps": 7}
    return model


def tune(strategy: str = "contrastive", model: Model | None = None, **options) -> Model:
    return tiny.tune(strategy, model or start(), **{"steps": 1} | options)


tuned = cache(tune)
"""Such a run, once for all tests."""


def changed(before: Model, after: Model) -> set[str]:
    """Parts of the network whose weights or statistics are no longer the same."""
    old, new = before.network.state_dict(), after.network.state_dict()
    keys = {key for key, value in old.items() if not torch.equal(value, new[key])}
    return {part for part in PARTS if any(key.startswith(part) for key in keys)}


@pytest.mark.parametrize("strategy", ["classic", "contrastive"])
@pytest.mark.parametrize("layers", LEARNT)
def test_a_tuned_model_is_returned_and_the_given_one_left_alone(strategy, layers):
    """Fixed parts keep their statistics, too."""
    model = start()
    after = tune(strategy, model, layers=layers)
    assert not changed(model, start())
    assert model.card == start().card
    assert changed(model, after) == LEARNT[layers]
    assert all(p.requires_grad for p in after.network.parameters())


def test_the_card_tells_the_run():
    card = tuned().card
    assert card.diameter == pytest.approx(tiny.worms(2).diameter, abs=0.01)
    assert card.origin == "fine-tuned by the Scellseg notebooks, 1 steps; started from: a test"
    assert card.scores == {}  # those were of other weights
    assert card.training_data == [TrainingData(name="worms", images=2, licence="CC0-1.0")]
    told = {"strategy": "contrastive", "steps": 1, "seed": 0, "alpha": "learnt"}
    told |= {"shots": ["worm0", "worm1"], "queries": ["worm5", "worm6"], "initial": {"steps": 7}}
    told |= {"contrast": "tiny_contrast", "precision": {"dtype": "fp32", "channels_last": False}}
    assert told.items() <= card.recipe.items()
    assert np.array(card.styles).shape == (2, tiny.LEVELS[-1])
    assert card.style_radius > 0
    assert {"torch", "numpy"} < card.versions.keys()
    green = replace(tiny.worms(2), channels=("green", "red"))  # the planes of the shots
    after = finetune(start(), green, strategy="classic", steps=1, precision=Precision())
    assert after.card.channels == ("green", "red")


def test_seed_and_queries_decide_and_never_the_masks_of_queries():
    """The queries matter to contrastive fine-tuning alone."""

    def queries(first: int) -> list[Sample]:
        forbidden = partial(pytest.fail, "the masks of a query were read")
        return [Sample(s.name, s.read_image, forbidden) for s in tiny.worms(2, first)]

    assert not changed(tuned("classic"), tune("classic", queries=queries(7)))
    assert not changed(tuned(), again := tune(queries=queries(5)))
    assert again.log == tuned().log
    assert changed(tuned(), tune(seed=1))
    assert changed(tuned(), tune(queries=queries(7)))
    inductive = tune(queries=None)
    assert not changed(inductive, tune(queries=tiny.worms(2)))  # the shots serve
    assert inductive.card.recipe["queries"] == []


@pytest.mark.accelerator
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_repeats_itself():
    assert not changed(*(tune(steps=5, device=torch.device("cuda")) for _ in range(2)))


def test_strategies_see_the_same_patches_of_the_shots():
    (ours,), (theirs,) = tuned("classic").log, tuned().log
    assert ours == {"step": 1, "segmentation": theirs["segmentation"], "loss": ours["loss"]}
    assert ours["loss"] == ours["segmentation"]
    assert theirs["loss"] == pytest.approx(theirs["segmentation"] + theirs["contrast"], rel=1e-6)
    assert theirs["contrast"] > 0


def test_the_rate_is_halved_after_every_quarter_or_falls_as_a_cosine():
    for n in (100, 10, 4):
        rates = [FinetuneOptions(steps=n).rate(step) for step in range(n)]
        assert rates == sorted(rates, reverse=True)
        first = {rate: rates.index(rate) for rate in rates}
        assert first == {0.5**quarter: math.ceil(n * quarter / 4) for quarter in range(4)}
    rates = [FinetuneOptions(steps=50, schedule="cosine").rate(step) for step in range(50)]
    assert (rates[0], rates[25]) == (1, pytest.approx(0.5))
    assert 0 < rates[-1] < 0.002


def test_rates_reach_the_optimiser_and_each_step_is_told():
    rates, seen = [], []
    note = lambda adam, *_: rates.append([one["lr"] for one in adam.param_groups])  # noqa: E731
    with register_optimizer_step_pre_hook(note):
        log = tune(steps=4, learning_rate=0.008, callback=seen.append).log
    expected = [[0.008, 0.1], [0.004, 0.05], [0.002, 0.025], [0.001, 0.0125]]
    np.testing.assert_allclose(rates, expected)
    assert [(p.step, p.n_steps) for p in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [{"step": p.step} | p.losses for p in seen] == log


def test_alpha_is_learnt_fixed_or_scheduled():
    logs = [tune(steps=2, alpha=mode).log for mode in ("learnt", "fixed", "scheduled")]
    first, second = (np.array([log[step]["contrast"] for log in logs]) for step in (0, 1))
    np.testing.assert_allclose(first, first[1])
    # Adam's first step takes the rate, 0.1, from a learnt alpha; half of the steps are done.
    sigmoid = 1 / (1 + np.exp([-0.1, -0.2, -0.2]))
    np.testing.assert_allclose(second / second[1], sigmoid / sigmoid[1] * [1, 1, 0.5], rtol=1e-3)


def test_statistics_see_what_each_way_says_and_learning_is_the_same():
    """After one step: the same shots through the same weights. Later steps differ by weights."""
    classic, usual = (tuned(name).network.state_dict() for name in ("classic", "contrastive"))
    keys = {key for key in classic if "running" in key}
    seen = {"shot": "none of them", "encoder": "extractor.down", "released": "extractor"}
    for mode, part in (seen | {"query": ""}).items():
        own = tuned(statistics=mode).network.state_dict()
        differing = {key for key in keys if not torch.equal(own[key], classic[key])}
        assert differing == {key for key in keys if key.startswith(part)}
        assert all(torch.equal(own[key], usual[key]) for key in own if "weight" in key)
        layers = tuned(statistics=mode).network.modules()
        assert {m.momentum for m in layers if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_recalibrated_statistics_are_means_over_batches_of_the_sources_alone():
    model, images = tuned("classic").copy(), [s.without_masks() for s in tiny.worms(2, 5)]
    queries, first = augment.prepare(images, 12.0), "extractor.down.units.0.projection.0"
    recalibrate(model, queries, None, 3, Precision())
    drawn = [augment.unlabelled_batch(queries, np.random.default_rng((3, i, 2))) for i in range(32)]
    state = model.network.state_dict()
    for name, value in (("mean", torch.mean), ("var", torch.var)):
        each = [value(batch.transpose(0, 1).flatten(1), dim=1) for batch in drawn]
        torch.testing.assert_close(state[f"{first}.running_{name}"], torch.stack(each).mean(dim=0))
    assert not model.network.training


def test_a_strategy_of_ones_own(monkeypatch):
    class Decay(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, network, shot_style, rng, done, precision):
            assert shot_style.shape == (2, tiny.LEVELS[-1])
            return self.scale * shot_style.square().sum()

    make = Mock(side_effect=lambda *_: Decay())
    monkeypatch.setitem(finetuning.STRATEGIES, "decay", make)
    log = tune("decay", steps=2).log
    queries, contrast, options = make.call_args.args
    assert (len(queries), [len(style) for style in contrast]) == (2, [2, 2])
    assert options.strategy == "decay"
    assert log[0]["contrast"] == pytest.approx(4, rel=1e-5)
    # Its own parameters are learnt too: the first step of Adam lowers the scale by the rate.
    assert log[1]["contrast"] == pytest.approx(3.8, rel=1e-3)


@pytest.mark.real_data
def test_synthetic_styles_stand_in_for_the_papers_contrast_images(real_data, tmp_path, monkeypatch):
    chosen = finetuning.default_contrast()
    assert chosen.name == "cellpose_contrast35"
    assert [len(style) for style in chosen.styles().values()] == [5] * 7
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    assert finetuning.default_contrast().name == "synthetic_contrast"


def test_recipes_are_the_same_for_library_command_line_and_workbench():
    """The best that is known, unless another is asked for; each option can still be given."""
    usual = next(iter(finetuning.RECIPES))
    panel, callers = FinetunePanel(), (finetune, learning_curve.cross_validate, cli.finetune)
    ours, curve, typed = (inspect.signature(one).parameters["recipe"] for one in callers)
    defaults = [ours.default, curve.default, typed.default.default, panel.recipe.value, usual]
    assert defaults == ["best"] * 5
    named = [name for _, name in panel.recipe.options]
    assert named == list(get_args(typed.annotation)) == list(finetuning.RECIPES)
    for name, known in finetuning.RECIPES.items():
        panel.recipe.value = name
        assert choose_options(name) == known.options
        assert panel.steps.value == known.options.steps
        assert panel.batch.value == known.options.batch_size
    assert choose_options("best", steps=7, seed=None).steps == 7
    assert choose_options("paper") == FinetuneOptions()
    with pytest.raises(OptionError, match="recipe='odd' is not allowed"):
        finetune(start(), tiny.worms(1), recipe="odd")
    for recipe, flips in (("best", True), ("quick", False)):
        given = {"steps": 1, "batch_size": 1, "precision": Precision()}
        card = finetune(start(), tiny.worms(1), recipe=recipe, **given).card
        assert (card.recipe["recipe"], card.recipe["schedule"]) == (f"{recipe} 2", "cosine")
        assert card.flips is flips


def test_images_that_teach_nothing():
    with pytest.raises(TrainingError, match="no image has an annotated cell"):
        finetune(start(), [], strategy="classic", precision=Precision())
    with pytest.raises(DatasetError, match="'worms' have no styles"):
        tune(contrast=tiny.worms(2))


def test_options_that_cannot_be():
    """Of fine-tuning, and of all else that is asked for."""
    for options, wrong in (
        (FinetuneOptions, {"steps": 0, "batch_size": 2.5, "learning_rate": math.nan}),
        (FinetuneOptions, {"strategy": "odd", "layers": "odd", "alpha": "odd"}),
        (FinetuneOptions, {"statistics": "odd", "schedule": "odd", "seed": -1}),
        (FinetuneOptions, {"steps": "5", "batch_size": True, "learning_rate": "0.1", "seed": 5.0}),
        (pretraining.PretrainRecipe, {"steps": 0, "batch_size": 0, "epochs": 0}),
        (pretraining.PretrainRecipe, {"optimiser": "odd", "schedule": "odd", "learning_rate": -1}),
        (segmentation.SegmentOptions, {"diameter": 0, "batch_size": 0}),
        (segmentation.SegmentOptions, {"diameter": math.inf, "batch_size": 1.5}),
        (Decoding, {"cell_threshold": [0.5], "flow_threshold": -0.1, "min_size": 2.5}),
    ):
        for name, value in wrong.items():
            words = re.escape(f"{name}={value!r} is not allowed. Input should be ")
            with pytest.raises(OptionError, match=words):
                options(**{name: value})
    assert FinetuneOptions(steps=np.int64(5), learning_rate=np.float32(0.5)).steps == 5
    with pytest.raises(OptionError, match=r"contrastive or classic\."):
        tune("odd")

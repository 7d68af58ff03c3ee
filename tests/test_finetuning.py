"""Fine-tuning: what is learnt, what stays fixed, and that no mask of a query is ever seen."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch

from scellseg_lib import augment, representation
from scellseg_lib.contrast import ContrastiveTerm
from scellseg_lib.device import Precision
from scellseg_lib.errors import TrainingError
from scellseg_lib.finetuning import FinetuneOptions, Strategy, finetune, register_strategy
from scellseg_lib.model import Model, new_model
from scellseg_lib.samples import Dataset, Sample
from tests import tiny

# By its full name: the package's attribute of that name is the function.
module = importlib.import_module("scellseg_lib.finetuning")


@pytest.fixture(autouse=True)
def small_patches(monkeypatch):
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)


def changed(before: Model, after: Model) -> set[str]:
    """Parts of the network whose weights or statistics are no longer the same."""
    old, new = before.network.state_dict(), after.network.state_dict()
    keys = {key for key, value in old.items() if not torch.equal(value, new[key])}
    parts = ("extractor.down", "extractor.up", "tasker")
    return {part for part in parts if any(key.startswith(part) for key in keys)}


def same(a: Model, b: Model) -> bool:
    return not changed(a, b)


# What a run does


@pytest.mark.parametrize("strategy", ["classic", "contrastive"])
def test_the_model_given_is_left_alone_and_a_tuned_one_returned(strategy: str):
    model, untouched = (new_model("scellseg", tiny.LEVELS) for _ in range(2))
    tuned = tiny.tune(strategy, model, steps=1)
    assert same(model, untouched)
    assert model.card == untouched.card
    assert changed(model, tuned) == {"extractor.down", "extractor.up", "tasker"}
    assert not tuned.network.training
    assert all(p.requires_grad for p in tuned.network.parameters())


def test_the_card_tells_the_run():
    model = new_model("scellseg", tiny.LEVELS)
    update = {"origin": "a test", "scores": {"ap50": 0.9}, "recipe": {"steps": 7}}
    model.card = model.card.model_copy(update=update)
    card = tiny.tune("contrastive", model, steps=1, seed=3).card
    assert card.diameter == pytest.approx(tiny.worms(2).diameter, abs=0.01)
    assert card.origin == "fine-tuned by the Scellseg notebooks, 1 steps; started from: a test"
    assert card.recipe["initial"] == {"steps": 7}
    assert card.scores == {}  # those were of other weights
    assert [(d.name, d.images, d.licence) for d in card.training_data] == [("worms", 2, "CC0-1.0")]
    recipe = {k: card.recipe[k] for k in ("strategy", "steps", "seed", "alpha", "contrast")}
    assert recipe == {
        "strategy": "contrastive",
        "steps": 1,
        "seed": 3,
        "alpha": "learnt",
        "contrast": "tiny_contrast",
    }
    assert card.recipe["shots"] == ["worm0", "worm1"]
    assert card.recipe["queries"] == ["worm5", "worm6"]
    assert card.recipe["precision"] == {"dtype": "fp32", "channels_last": False}
    assert np.array(card.styles).shape == (2, 32)
    assert card.style_radius > 0
    assert {"torch", "numpy"} < card.versions.keys()


@pytest.mark.parametrize("strategy", ["classic", "contrastive"])
def test_masks_of_queries_are_never_seen(strategy: str):
    def forbidden() -> np.ndarray:
        raise AssertionError("the masks of a query were read")

    queries = tiny.worms(2, 5)
    rng = np.random.default_rng(0)
    scrambled = [
        Sample(s.name, s.read_image, lambda: rng.integers(0, 9, (200, 200), np.int32))
        for s in queries
    ]
    guarded = [Sample(s.name, s.read_image, forbidden) for s in queries]
    runs = [
        tiny.tune(strategy, steps=2, queries=q)
        for q in (queries, queries.without_masks(), scrambled, guarded)
    ]
    assert all(same(runs[0], run) for run in runs[1:])
    assert all(run.log == runs[0].log for run in runs)


def test_queries_matter_to_contrastive_fine_tuning_alone():
    for strategy, expected in (("classic", True), ("contrastive", False)):
        a, b = (tiny.tune(strategy, steps=2, queries=tiny.worms(2, i)) for i in (5, 7))
        assert same(a, b) is expected


def test_without_queries_the_shots_serve():
    inductive = tiny.tune("contrastive", steps=2, queries=None)
    assert same(inductive, tiny.tune("contrastive", steps=2, queries=tiny.worms(2)))
    assert inductive.card.recipe["queries"] == []


@pytest.mark.accelerator
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_repeats_itself():
    device = torch.device("cuda")
    assert same(*(tiny.tune("contrastive", steps=5, device=device) for _ in range(2)))


def test_the_seed_alone_decides():
    first, again, other = (tiny.tune("contrastive", steps=2, seed=s) for s in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


def test_strategies_see_the_same_patches_of_the_shots():
    classic, contrastive = (tiny.tune(s, steps=1) for s in ("classic", "contrastive"))
    ours, theirs = classic.log[0], contrastive.log[0]
    assert ours == {"step": 1, "segmentation": theirs["segmentation"], "loss": ours["loss"]}
    assert ours["loss"] == ours["segmentation"]
    assert theirs["loss"] == pytest.approx(theirs["segmentation"] + theirs["contrast"], rel=1e-6)
    assert theirs["contrast"] > 0


def test_the_loss_goes_down():
    """Against a run that learns nothing: patches differ more than what a few steps can teach."""
    ends = []
    for rate in (0.0, 0.03):
        model = new_model("cellpose", tiny.LEVELS)
        log = tiny.tune("classic", model, steps=24, learning_rate=rate).log
        ends.append([entry["loss"] for entry in log][-8:])
    assert (np.array(ends[1]) < ends[0]).all()
    assert np.mean(ends[1]) < 0.8 * np.mean(ends[0])


def test_progress_is_told_after_each_step():
    seen = []
    log = tiny.tune("contrastive", steps=3, callback=seen.append).log
    assert [(p.step, p.n_steps) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert [{"step": p.step} | p.losses for p in seen] == log


# Options


@pytest.mark.parametrize("strategy", ["classic", "contrastive"])
@pytest.mark.parametrize(
    ("layers", "learnt"),
    [
        ("downsampling_fixed", {"extractor.up", "tasker"}),
        ("extractor_fixed", {"tasker"}),
    ],
)
def test_fixed_parts_keep_weights_and_statistics(strategy, layers, learnt):
    model = new_model("scellseg", tiny.LEVELS)
    tuned = tiny.tune(strategy, model, layers=layers, steps=2)
    assert changed(model, tuned) == learnt
    assert all(p.requires_grad for p in tuned.network.parameters())


def alphas(mode: str, steps: int = 6) -> tuple[list[float], list[float]]:
    """Alpha and the weight of the term after each step."""
    terms: list[ContrastiveTerm] = []

    def strategy(queries, contrast, options):
        terms.append(ContrastiveTerm(queries, contrast, alpha_mode=options.alpha))
        return terms[-1]

    register_strategy(Strategy("watched", strategy, needs_queries=True, needs_contrast=True))
    values, weights = [], []

    def callback(progress) -> None:
        values.append(float(terms[0].alpha.detach()))
        weights.append(float(terms[0].weight(progress.step / steps).detach()))

    try:
        tiny.tune("watched", alpha=mode, steps=steps, callback=callback)
    finally:
        del module.STRATEGIES["watched"]
    return values, weights


def test_a_learnt_alpha_falls_by_its_rate():
    values, weights = alphas("learnt")
    assert (np.diff(values) < 0).all()
    # Adam's first step is the rate, 0.1, whatever the gradient.
    assert values[0] == pytest.approx(0.2 - 0.1, abs=1e-3)
    assert (np.diff(weights) < 0).all()


def test_a_fixed_alpha_stays_and_a_scheduled_weight_goes_to_zero():
    values, weights = alphas("fixed")
    np.testing.assert_allclose(values, 0.2)
    np.testing.assert_allclose(weights, 1 / (1 + np.exp(-0.2)), rtol=1e-6)
    values, weights = alphas("scheduled")
    np.testing.assert_allclose(values, 0.2)
    assert (np.diff(weights) < 0).all()
    assert weights[-1] == pytest.approx(0, abs=1e-7)


def test_statistics_of_shots_alone_are_those_of_the_classic_way():
    """After one step: the same shots through the same weights. Later steps differ by weights."""
    runs = {"classic": tiny.tune("classic", steps=1)}
    for mode in ("shot", "mixed"):
        runs[mode] = tiny.tune("contrastive", steps=1, statistics=mode)
    states = {name: run.network.state_dict() for name, run in runs.items()}
    keys = [key for key in states["classic"] if "running" in key]
    differing = {
        mode: {k for k in keys if not torch.equal(states[mode][k], states["classic"][k])}
        for mode in ("shot", "mixed")
    }
    assert differing["shot"] == set()
    assert differing["mixed"] == {k for k in keys if k.startswith("extractor.down")}


@pytest.mark.parametrize("n", [100, 10, 4])
def test_the_rate_is_halved_after_every_quarter(n: int):
    rates = [FinetuneOptions(steps=n).rate(step) for step in range(n)]
    assert rates == sorted(rates, reverse=True)
    assert set(rates) == {1, 0.5, 0.25, 0.125}
    first = [rates.index(rate) for rate in (1, 0.5, 0.25, 0.125)]
    assert first == [math.ceil(n * quarter / 4) for quarter in range(4)]


def test_the_cosine_ends_near_zero():
    rates = [FinetuneOptions(steps=50, schedule="cosine").rate(step) for step in range(50)]
    assert rates[0] == 1
    assert rates[25] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.002


def test_rates_reach_the_optimiser(monkeypatch):
    rates = []
    original = torch.optim.Adam.step

    def step(self, *arguments, **options):
        rates.append([group["lr"] for group in self.param_groups])
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    tiny.tune("contrastive", steps=4, learning_rate=0.008)
    np.testing.assert_allclose(
        rates, [[0.008, 0.1], [0.004, 0.05], [0.002, 0.025], [0.001, 0.0125]]
    )


def test_a_strategy_of_ones_own():
    class Decay(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, network, shot_style, rng, done, precision):
            assert shot_style.shape == (2, 32)
            return self.scale * shot_style.square().sum()

    given = []
    try:
        register_strategy(
            Strategy(
                "decay",
                lambda *arguments: given.append(arguments) or Decay(),
                needs_queries=True,
                needs_contrast=True,
            )
        )
        tuned = tiny.tune("decay", steps=2)
    finally:
        del module.STRATEGIES["decay"]
    ((queries, contrast, options),) = given
    assert (len(queries), [len(style) for style in contrast]) == (2, [2, 2])
    assert options.strategy == "decay"
    assert tuned.log[0]["contrast"] == pytest.approx(4, rel=1e-5)
    # Its own parameters are learnt too: the first step of Adam lowers the scale by the rate.
    assert tuned.log[1]["contrast"] == pytest.approx(3.8, rel=1e-3)


@pytest.mark.parametrize("name", ["unet2", "unet3"])
def test_thresholds_of_a_unet_are_searched_on_the_shots(name: str, monkeypatch):
    asked = "scellseg_lib.segmentation.choose_precision"
    monkeypatch.setattr(asked, lambda _: pytest.fail("a precision was given"))
    searched = []
    kind = type(representation.get(name))
    original = kind.tune

    def search(chosen, decoding, outputs, truths):
        searched.append(([o.shape for o in outputs], [t.shape for t in truths]))
        return original(chosen, decoding, outputs, truths)

    monkeypatch.setattr(kind, "tune", search)
    monkeypatch.setattr(representation.semantic, "INTERIOR_THRESHOLDS", np.array([-1.5]))
    monkeypatch.setattr(representation.semantic.UNet3, "borders", [-1.0])
    tuned = tiny.tune("classic", new_model(name, tiny.LEVELS), steps=1)
    assert tuned.card.decoding.interior_threshold == -1.5
    assert tuned.card.decoding.border_threshold == (-1.0 if name == "unet3" else 0.5)
    ((outputs, truths),) = searched
    side = round(200 * 30 / tuned.card.diameter)
    assert [shape[1:] for shape in outputs] == truths
    assert all(abs(length - side) <= 1 for shape in truths for length in shape)


# What contrast images serve


def test_synthetic_styles_stand_in_where_the_papers_are_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    assert module.default_contrast().name == "synthetic_contrast"


@pytest.mark.real_data
def test_the_papers_contrast_images_are_the_default(real_data):
    chosen = module.default_contrast()
    assert chosen.name == "cellpose_contrast35"
    assert [len(style) for style in chosen.styles().values()] == [5] * 7


def test_contrast_images_without_styles_are_refused():
    with pytest.raises(TrainingError, match="'worms' have no styles"):
        tiny.tune("contrastive", contrast=tiny.worms(2))


# What is refused


def test_no_shots_and_no_cells():
    model = new_model("scellseg", tiny.LEVELS)
    with pytest.raises(TrainingError, match="there are no shots"):
        finetune(model, [], strategy="classic", precision=Precision())
    blank = Sample("b", lambda: tiny.worm(0)[0], lambda: np.zeros((200, 200), np.int32))
    with pytest.raises(TrainingError, match="no image has an annotated cell"):
        finetune(model, [blank], strategy="classic", precision=Precision())


@pytest.mark.parametrize(
    "option",
    [
        {"strategy": "magic"},
        {"layers": "none"},
        {"alpha": "free"},
        {"statistics": "query"},
        {"schedule": "steep"},
    ],
)
def test_unknown_options(option):
    ((name, value),) = option.items()
    with pytest.raises(TrainingError, match=rf"{name}='{value}' is unknown.*Choose one of"):
        tiny.tune(**{"strategy": "classic"} | option)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("steps", 0, "a whole number from 1"),
        ("steps", 2.5, "a whole number from 1"),
        ("batch_size", 0, "a whole number from 1"),
        ("learning_rate", -1, "a number from 0"),
        ("learning_rate", math.nan, "a number from 0"),
    ],
)
def test_numbers_that_are_none(name: str, value: float, wanted: str):
    with pytest.raises(TrainingError, match=rf"{name}={value} is not {wanted}"):
        tiny.tune("classic", **{name: value})


def test_a_loss_that_is_no_number_is_an_error_before_it_reaches_the_weights():
    model = new_model("scellseg", tiny.LEVELS)
    model.network.tasker[2].bias.data[2] = math.nan
    with pytest.raises(TrainingError, match=r"loss is nan at step 1.*Lower the learning rate"):
        tiny.tune("classic", model)


def test_shots_of_a_dataset_bring_its_planes():
    shots = tiny.worms(2)
    two = Dataset("two", "Two", "", shots.samples, ("green", "red"))
    model = new_model("scellseg", tiny.LEVELS)
    tuned = finetune(model, two, strategy="classic", steps=1, batch_size=1, precision=Precision())
    assert tuned.card.channels == ("green", "red")

"""Which trials an experiment of the paper consists of: one function each, at a profile."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

from scellseg_lib.finetuning import RECIPES, STRATEGIES
from scellseg_lib.paper.profile import Profile, load_profile
from scellseg_lib.paper.shots import find_covering_shots, find_shots
from scellseg_lib.paper.trial import Trial
from scellseg_lib.plots import METHODS

Method = tuple[str, str]  # model and strategy
CFT, FT, CELLPOSE = COMPARED = tuple(METHODS)[:3]  # the methods of Fig. 5
BASELINES = tuple(METHODS)[3:]  # HoVer-FT, U-Net3-FT and U-Net2-FT
LAYERS = ("downsampling_fixed", "extractor_fixed")  # in Extended Data Fig. 8, beside nothing
CONTRAST_VARIANTS: dict[str, dict[str, Any]] = {  # of contrastive fine-tuning
    "fixed": {"options": (("alpha", "fixed"),)},
    "scheduled": {"options": (("alpha", "scheduled"),)},
    "inductive": {"queries": "shot"},
    "shot statistics": {"options": (("statistics", "shot"),)},
    "as released": {"options": (("crops", "clipped"), ("statistics", "released"))},
}
STATISTICS = ("shot", "encoder", "released", "query")
STEPS = (100, 200, 300, 600)
SCHEDULES = ("halvings", "cosine")


def transferability(profile: Profile) -> list[Trial]:
    """Each model directly and tuned on the most shots (Fig. 2c-e, Extended Data Fig. 5)."""
    return _plan(profile, (*profile.untuned, *METHODS))


def shot_scale(profile: Profile) -> list[Trial]:
    """Scellseg-CFT, -FT and Cellpose-FT at every number of shots (Fig. 5)."""
    return _plan(profile, COMPARED, every_number=True)


def pretraining_scale(profile: Profile) -> list[Trial]:
    """Scellseg pre-trained on nested subsets, directly and tuned (Fig. 4)."""
    methods, weights = (("scellseg", "direct"), CFT, FT), map("subset:{}".format, profile.subsets)
    return [trial for one in weights for trial in _plan(profile, methods, weights=one)]


def smicro(profile: Profile) -> list[Trial]:
    """`shot_scale` with a Scellseg that was pre-trained on microscopy alone (Ext. Data Fig. 6)."""
    pairs = product(map("subset:{}".format, profile.subsets[-2:-1]), shot_scale(profile))
    return [replace(t, weights=one) if t.model == "scellseg" else t for one, t in pairs]


def generalization(profile: Profile) -> list[Trial]:
    """What tuned models still know of the general test (Extended Data Fig. 4)."""
    places, one = _general_tests(profile), profile.narrow(data=[*profile.data][:1])
    plain, usual = profile.untuned, (*profile.untuned, *COMPARED)
    # Untuned ones at full size too: so Cellpose's own paper scores its test images.
    full = [t for place in places[:1] for t in _plan(one, plain, protocol="resample", **place)]
    return full + [t for place in places for t in _plan(profile, usual, **place)]


def layers(profile: Profile) -> list[Trial]:
    """Scellseg-CFT and Cellpose-FT with parts of the network fixed (Extended Data Fig. 8)."""
    fixed: list[dict[str, Any]] = [{"options": (("layers", layer),)} for layer in LAYERS]
    return [t for one in fixed for t in _plan(profile, (CFT, CELLPOSE), **one)]


def contrast_weight(profile: Profile) -> list[Trial]:
    """Other weights, queries and statistics of the contrastive term than the paper's."""
    return [t for one in CONTRAST_VARIANTS.values() for t in _plan(profile, (CFT,), **one)]


def statistics(profile: Profile) -> list[Trial]:
    """Statistics of BatchNorm, estimated anew of other images for the same tuned models."""
    places, how = [{}, *_general_tests(profile)[:1]], {"contrast": profile.contrast}
    plans = (how | {"recalibrated": way} | place for way, place in product(STATISTICS, places))
    return [trial for plan in plans for trial in _plan(profile, (CFT, FT), **plan)]


def decoding(profile: Profile) -> list[Trial]:
    """How maps become masks: at full size, averaged over flips, or both (that as in Fig. 5 too)."""
    every = {"best": True, "resample": False, "flips": False}
    plans = (_plan(profile, COMPARED, protocol=one, every_number=every[one]) for one in every)
    return [trial for plan in plans for trial in plan]


def fair_baselines(profile: Profile) -> list[Trial]:
    """HoVer and the U-Nets of `transferability`, decoded as the released code does."""
    return _plan(profile, BASELINES, protocol="as_released")


def which_images(profile: Profile) -> list[Trial]:
    """Scellseg-FT on shots that cover the styles, where `shot_scale` draws them at random."""
    drawn = _plan(profile, (FT,), every_number=True)
    chosen = [find_covering_shots(trial.data, trial.n_shots) for trial in drawn]
    return [replace(t, shots=shots) for t, shots in zip(drawn, chosen, strict=True) if shots]


def best_recipe(profile: Profile) -> list[Trial]:
    """Scellseg-FT by the recipe "best", with flips, as its models are used, and without."""
    best = RECIPES["best"].options
    how = {"steps": best.steps * profile.steps // 100, "options": (("schedule", best.schedule),)}
    trials = _plan(profile, (FT,), every_number=True, protocol="best", **how)
    return trials + [replace(trial, protocol="resample") for trial in trials]


def longer_training(profile: Profile) -> list[Trial]:
    """More steps and another schedule, scored on the images of the pool that are no shots."""
    pools = load_profile(profile.name).data  # the most shots of the whole profile leave none
    trials = []
    for steps, schedule in product(STEPS, SCHEDULES):
        fields = {"steps": steps * profile.steps // 100, "options": (("schedule", schedule),)}
        trials += _plan(profile, (FT,), every_number=True, split="held_out", **fields)
    return [trial for trial in trials if trial.n_shots < pools[trial.data].shots[-1]]


OF_THE_PAPER = (transferability, shot_scale, pretraining_scale, smicro, generalization, layers)
BEYOND_IT = (contrast_weight, statistics, decoding, fair_baselines, which_images, best_recipe)
EXPERIMENTS = {one.__name__: one for one in (*OF_THE_PAPER, *BEYOND_IT, longer_training)}


def order_by_state(trials: Iterable[Trial]) -> list[Trial]:
    """Each trial once, by random state: every figure is complete early, and gains states later."""
    return sorted(dict.fromkeys(trials), key=lambda trial: trial.seed)


def _general_tests(profile: Profile) -> list[dict[str, Any]]:
    """Fields of trials that are scored on a general test, one set after the other."""
    names = profile.general_test
    splits = {n: "query" if n.startswith("synthetic") else "general_test" for n in names}
    return [{"tested_on": name, "split": split} for name, split in splits.items()]


def _plan(
    profile: Profile, methods: Iterable[Method], *, every_number: bool = False, **fields: Any
) -> list[Trial]:
    """Trials on the most shots only, or on every number; untuned, of the first state alone."""
    usual = {name: getattr(profile, name) for name in ("weights", "steps", "levels", "precision")}
    trials = []
    for name, plan in profile.data.items():
        for state, n in product(plan.states, plan.shots if every_number else plan.shots[-1:]):
            usual |= {"data": name, "shots": find_shots(name, n, state), "seed": state}
            for model, strategy in methods:
                tunes = STRATEGIES.get(strategy)
                usual["contrast"] = profile.contrast if tunes else ""
                own = fields if strategy in STRATEGIES else fields | {"steps": 0}
                if model in profile.models and (strategy in STRATEGIES or state == plan.states[0]):
                    trials.append(Trial(model=model, strategy=strategy, **usual | own))
    return trials

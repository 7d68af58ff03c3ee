"""Which trials an experiment of the paper consists of: one function each, at a profile.

A random state's shots are the same for all models, as the paper has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from scellseg_lib.paper.profile import Profile, load_profile
from scellseg_lib.paper.shots import covering_shots, shots
from scellseg_lib.paper.trial import Trial

TUNED = (
    ("scellseg", "classic"),
    ("scellseg", "contrastive"),
    ("cellpose", "classic"),
    ("hover", "classic"),
    ("unet3", "classic"),
    ("unet2", "classic"),
)
"""Scellseg-FT and -CFT, Cellpose-FT and the other models of Fig. 2."""
COMPARED = TUNED[:3]
"""Those of Fig. 5."""
LAYERS = ("downsampling_fixed", "extractor_fixed")
"""What is fixed in Extended Data Fig. 8, beside nothing."""
CONTRAST_VARIANTS: dict[str, dict[str, Any]] = {
    "fixed": {"options": (("alpha", "fixed"),)},
    "scheduled": {"options": (("alpha", "scheduled"),)},
    "inductive": {"queries": "shot"},
    "shot statistics": {"options": (("statistics", "shot"),)},
}
"""Contrastive fine-tuning otherwise than in the paper."""
STEPS = (100, 200, 300, 600)
SCHEDULES = ("halvings", "cosine")


def transferability(profile: Profile) -> list[Trial]:
    """Each model directly and tuned on the most shots (Fig. 2c-e, Extended Data Fig. 5)."""
    return [*_direct(profile), *_tuned(profile, TUNED, largest=True)]


def shot_scale(profile: Profile) -> list[Trial]:
    """Scellseg-FT, -CFT and Cellpose-FT at every number of shots (Fig. 5)."""
    return list(_tuned(profile, COMPARED, largest=False))


def pretraining_scale(profile: Profile) -> list[Trial]:
    """Scellseg pre-trained on nested subsets, directly and tuned (Fig. 4, Ext. Data Fig. 6)."""
    compared = COMPARED[:2]
    found = []
    for subset in profile.subsets:
        weights = {"weights": f"subset:{subset}"}
        found += [t for t in _direct(profile, **weights) if t.model == "scellseg"]
        found += _tuned(profile, compared, largest=True, **weights)
    return found


def generalization(profile: Profile) -> list[Trial]:
    """What tuned models still know of the general test (Extended Data Fig. 4)."""
    return [
        trial
        for name in profile.general_test
        for each in ({"tested_on": name, "split": _general_split(name)},)
        for trial in (*_direct(profile, **each), *_tuned(profile, COMPARED, largest=True, **each))
    ]


def layers(profile: Profile) -> list[Trial]:
    """Scellseg-CFT and Cellpose-FT with parts of the network fixed (Extended Data Fig. 8)."""
    return [
        trial
        for fixed in LAYERS
        for trial in _tuned(profile, COMPARED[1:], largest=True, options=(("layers", fixed),))
    ]


def contrast_weight(profile: Profile) -> list[Trial]:
    """Other weights, queries and statistics of the contrastive term than the paper's."""
    contrastive = COMPARED[1:2]
    return [
        trial
        for variant in CONTRAST_VARIANTS.values()
        for trial in _tuned(profile, contrastive, largest=True, **variant)
    ]


def decoding(profile: Profile) -> list[Trial]:
    """How maps become masks, on the same weights: at full size, averaged over flips, or both; that
    at every number of shots, for Fig. 5 once more.
    """
    return [
        trial
        for protocol in ("best", "resample", "flips")
        for trial in _tuned(profile, COMPARED, largest=protocol != "best", protocol=protocol)
    ]


def fair_baselines(profile: Profile) -> list[Trial]:
    """HoVer and the U-Nets of `transferability`, decoded as the released code does."""
    return list(_tuned(profile, TUNED[3:], largest=True, protocol="as_released"))


def which_images(profile: Profile) -> list[Trial]:
    """Scellseg-FT on shots that cover the styles, where `shot_scale` draws them at random."""
    return [
        _trial(profile, name, *COMPARED[0], n_shots, state, shots=chosen)
        for name, plan in profile.data.items()
        for state in plan.states
        for n_shots in plan.shots
        if (chosen := covering_shots(name, n_shots))
    ]


def longer_training(profile: Profile) -> list[Trial]:
    """More steps and another schedule, scored on the images of the pool that are no shots."""
    pools = load_profile(profile.name).data  # the most shots of the whole profile leave none
    return [
        trial
        for steps in STEPS
        for schedule in SCHEDULES
        for trial in _tuned(
            profile,
            COMPARED[:1],
            largest=False,
            split="held_out",
            steps=steps * profile.steps // 100,
            options=(("schedule", schedule),),
        )
        if trial.n_shots < pools[trial.data].shots[-1]
    ]


Experiment = Callable[[Profile], list[Trial]]

EXPERIMENTS: dict[str, Experiment] = {
    function.__name__: function
    for function in (
        transferability,
        shot_scale,
        pretraining_scale,
        generalization,
        layers,
        contrast_weight,
        decoding,
        fair_baselines,
        which_images,
        longer_training,
    )
}


def ordered(trials: Iterable[Trial]) -> list[Trial]:
    """Each trial once, by random state: every figure is complete early, and gains states later."""
    return sorted(dict.fromkeys(trials), key=lambda trial: trial.seed)


def _direct(profile: Profile, **fields: Any) -> Iterator[Trial]:
    """Untuned models, which take the diameter of the first state's shots."""
    for name, plan in profile.data.items():
        for model in profile.models:
            yield _trial(
                profile, name, model, "direct", plan.shots[-1], plan.states[0], steps=0, **fields
            )


def _tuned(
    profile: Profile, compared: Iterable[tuple[str, str]], *, largest: bool, **fields: Any
) -> Iterator[Trial]:
    """Tuned models, at the most shots only or at every number of them."""
    pairs = [(model, strategy) for model, strategy in compared if model in profile.models]
    for name, plan in profile.data.items():
        for state in plan.states:
            for n_shots in plan.shots[-1:] if largest else plan.shots:
                for model, strategy in pairs:
                    yield _trial(profile, name, model, strategy, n_shots, state, **fields)


def _trial(
    profile: Profile, data: str, model: str, strategy: str, n_shots: int, state: int, **fields: Any
) -> Trial:
    said: dict[str, Any] = {
        "weights": profile.weights,
        "shots": shots(data, n_shots, state),
        "seed": state,
        "steps": profile.steps,
        "levels": profile.levels,
        "contrast": profile.contrast if strategy == "contrastive" else "",
        "precision": profile.precision,
    }
    return Trial(data=data, model=model, strategy=strategy, **said | fields)


def _general_split(name: str) -> str:
    return "query" if name.startswith("synthetic") else "general_test"

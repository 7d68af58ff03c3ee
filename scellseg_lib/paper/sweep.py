"""What a sweep still has to compute, and about how long that takes here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from scellseg_lib.device import default_device, measure
from scellseg_lib.errors import ScellsegError
from scellseg_lib.paper.grid import EXPERIMENTS, ordered
from scellseg_lib.paper.profile import Profile
from scellseg_lib.paper.store import Store
from scellseg_lib.paper.trial import PROTOCOLS, Trial
from scellseg_lib.segmentation import FLIPS

CONTRASTIVE = 1.8
"""Work of a contrastive step in classic ones: two downsampling passes more, measured."""
IMAGES = 30
"""Images that a trial segments, about; one costs about a third of a step."""


@dataclass(frozen=True)
class Plan:
    """Trials of a sweep."""

    missing: list[Trial]
    """In the order in which they are to be computed."""
    n_trials: int
    seconds: float
    """About how long the missing ones take, one after the other, on this machine."""


def plan(experiments: Sequence[str], profile: Profile, store: Store) -> Plan:
    """List what experiments need at a profile and a store lacks.

    Parameters
    ----------
    experiments : sequence of str
        Names in `grid.EXPERIMENTS`, or ``"all"``.
    profile : Profile
    store : Store

    Raises
    ------
    ScellsegError
        For an experiment that there is not.
    """
    names = list(EXPERIMENTS) if "all" in experiments else list(experiments)
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise ScellsegError(
            f"there is no experiment {unknown[0]!r}",
            remedy=f"There are: all, {', '.join(EXPERIMENTS)}.",
        )
    trials = ordered(trial for name in names for trial in EXPERIMENTS[name](profile))
    taken = {trial: origin.get("seconds", np.nan) for trial, origin in store.trials().items()}
    missing = [trial for trial in trials if trial not in taken]
    return Plan(missing, len(trials), sum(estimate(trial, taken) for trial in missing))


def estimate(trial: Trial, taken: Mapping[Trial, float]) -> float:
    """Seconds of a trial: the median of those of its kind, else from a step measured here."""
    alike = [s for other, s in taken.items() if _kind(other) == _kind(trial) and np.isfinite(s)]
    if alike:
        return float(np.median(alike))
    step = step_seconds(trial.levels)
    passes = len(FLIPS) if PROTOCOLS[trial.protocol].flips else 1
    work = trial.steps * (CONTRASTIVE if trial.contrast else 1.0) + IMAGES * passes / 3
    return work * step


def _kind(trial: Trial) -> tuple[object, ...]:
    return (
        trial.data,
        trial.model,
        trial.strategy,
        trial.steps,
        trial.levels,
        trial.protocol,
        trial.tested_on,
        trial.precision,
    )


@cache
def step_seconds(levels: tuple[int, ...]) -> float:
    """Seconds of a training step of eight patches, from one of a sixteenth of their pixels."""
    return 16 * min(measure(default_device(), levels).values())

"""What claims are judged by: scores of trials by random state and image, their intervals, tables.

Data sets go by their labels here.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from scellseg_lib import paths
from scellseg_lib.errors import ScellsegError
from scellseg_lib.metrics import THRESHOLDS
from scellseg_lib.paper.profile import Profile, ShotPlan, load_profile
from scellseg_lib.paper.shots import find_shots
from scellseg_lib.paper.store import Store, read_table
from scellseg_lib.plots import METHODS

PAIRS = {label: pair for pair, label in METHODS.items()}  # model and strategy of each tuned method
SETS = {
    "elegans": {"bbbc010_elegans": "BBBC010"},
    "bv2": {"livecell_bv2": "LIVECell_bv2", "t98g_phase": "T98G"},
    "mito": {"mito": "mito", "hela_phase_nuclei": "HeLa"},
}
"""Names and labels of the paper's data sets, each before its stand-in."""
LABELS = {name: label for labels in SETS.values() for name, label in labels.items()}
STANDS_FOR = dict.fromkeys(LABELS.values(), "") | {"T98G": "LIVECell_bv2", "HeLa": "mito"}
"""The paper's own set in the place of each stand-in."""
SUBSETS = ("Sneuro", "Sfluor", "Scell", "Smicro", "Sgeneral")
ASKED = ["data", "model", "strategy", "n_shots", "weights", "options", "tested_on"]
"""What tells one method's trials from another's."""
CURVE = [f"AP@{threshold:g}" for threshold in THRESHOLDS]  # measures, beside mAP and mAJI
TABLES = ("fig2_styles", "census", "fig3_neighbours")  # of the profile "released", evidence too
GENERAL = "cellpose_cyto_test"  # the paper's own general test, before its stand-ins
ENOUGH = 3  # random states from which an interval over them is worth telling
DRAWS = 10_000  # of the bootstrap
SEEN = {"released": {"BBBC010": 3, "T98G": 2, "HeLa": 2}, "cpu": dict.fromkeys(LABELS.values(), 3)}
"""Random states of each profile and set that had been computed before the rules were committed."""


class Untested(ScellsegError):
    """What a claim is tested by is not there."""

    def __init__(self, what: str) -> None:
        super().__init__(what, remedy="Compute it (scellseg sweep), and judge the claims again.")


class Evidence(NamedTuple):
    """What claims are judged by."""

    trials: pd.DataFrame  # rows of `Store.read_scores` with a column ``profile``; may be empty
    tables: Mapping[str, pd.DataFrame] = {}  # those of `TABLES` at hand


def load_evidence(profiles: Sequence[str]) -> Evidence:
    """Read what is committed: the trials of profiles that have some yet, and tables of figures."""
    frames = []
    for name in profiles:
        store = Store(paths.results(load_profile(name).name) / "trials")
        if store.list_keys():
            frames.append(store.read_scores().assign(profile=name))
    trials = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    files = {name: paths.results("released") / f"{name}.csv" for name in TABLES}
    tables = {name: read_table(file) for name, file in files.items() if file.is_file()}
    return Evidence(trials, tables)


@dataclass
class Scale:
    """Scores of one profile's trials by the paper's protocol, at one cell threshold.

    Only trials of the profile's own width, precision and steps count, and several of one random
    state count as one.
    """

    profile: Profile
    # Values of `ASKED` -> a row a trial and image: the trial's fields, ``mAP``, ``mAJI``, `CURVE`.
    table: Mapping[tuple[Any, ...], pd.DataFrame]
    on: dict[str, str] = field(default_factory=dict)  # data asked for -> what it stands for, or ""
    states: dict[str, set[int]] = field(default_factory=dict)  # of tuned models, by data asked for

    @property
    def plans(self) -> dict[str, ShotPlan]:
        """Shots and random states of the profile on the paper's data sets or their stand-ins."""
        return {LABELS[name]: plan for name, plan in self.profile.data.items() if name in LABELS}

    def sets(self, *roles: str) -> list[str]:
        """Data sets of the profile in the paper's roles (all three), stand-ins included."""
        found = []
        for role in roles or SETS:
            labels = [label for label in SETS[role].values() if label in self.plans]
            if not labels:
                raise Untested(f"the profile {self.profile.name} has no data set for {role}")
            found.append(labels[0])
        return found

    def has(self, method: str) -> bool:
        """Whether the profile has the model of a method."""
        return PAIRS[method][0] in self.profile.models

    def images(
        self, measure: str, data: str, method: str, n_shots: int = 0, **fields: Any
    ) -> pd.DataFrame:
        """Score of a method, a row a random state and a column an image; Untested without trials.

        The method is one of `PAIRS` or, without its ending, the untuned model: the same in each of
        the profile's random states. It has the most shots if ``n_shots`` is 0; fields of the trial
        are named where they are not as usual: ``weights``, ``options`` (as text), ``tested_on``.
        """
        plan = self.plans[data]
        n_shots = n_shots or plan.shots[-1]
        model, strategy = PAIRS.get(method) or (PAIRS[f"{method}-FT"][0], "direct")
        usual = {"weights": self.profile.weights, "options": "()", "tested_on": ""}
        rows = self.table.get((data, model, strategy, n_shots, *(usual | fields).values()))
        if rows is None:
            said = "".join(f", {name.replace('_', ' ')} {one}" for name, one in fields.items())
            number = f"{n_shots} shot{'s' * (n_shots > 1)}"
            what = f"trials of {method} with {number} on {data}{said}"
            raise Untested(f"the profile {self.profile.name} lacks {what}")
        self.on[data] = STANDS_FOR[data]
        scores = rows.groupby(["seed", "image"])[measure].mean().unstack("image")
        if strategy == "direct":
            return scores.iloc[[0] * len(plan.states)].set_axis(plan.states)
        self.states.setdefault(data, set()).update(scores.index)
        return scores

    def over_shots(self, data: str, method: str) -> pd.DataFrame:
        """The mAP of a method by random state (rows) at each number of shots (columns)."""
        shots = self.plans[data].shots
        return pd.DataFrame({n: self.images("mAP", data, method, n).mean(axis=1) for n in shots})

    def general(self, measure: str, *methods: str) -> dict[str, list[pd.DataFrame]]:
        """Scores of methods on general tests, by what they were tuned and are tested on.

        On the paper's own test where all have `ENOUGH` states of it, else on its stand-ins.
        """
        found: dict[str, list[pd.DataFrame]] = {}
        for data in self.sets():
            here = {}
            for test in self.profile.general_test:
                with suppress(Untested):
                    here[test] = [self.images(measure, data, m, tested_on=test) for m in methods]
            own = here.pop(GENERAL, [])
            if own and (not here or min(map(len, own)) >= ENOUGH):
                here = {GENERAL: own}
            found |= {f"{test} after {data}": each for test, each in here.items()}
            self.on |= {t: "" if t == GENERAL else "the Cellpose test set" for t in here}
        if not found:
            raise Untested(f"the profile {self.profile.name} lacks general tests of these methods")
        return found

    def subset(self, name: str) -> str:
        """Weights pre-trained on the subset in the place of the paper's ``name``."""
        subsets = self.profile.subsets
        if len(subsets) != len(SUBSETS):
            raise Untested(f"the profile {self.profile.name} has no five pre-training subsets")
        there = f"subsets {subsets[0]} to {subsets[-1]}"
        self.on[there] = "" if subsets == SUBSETS else "Sneuro to Sgeneral"
        return f"subset:{subsets[SUBSETS.index(name)]}"

    def tell_seen(self) -> str:
        """Say which of the states asked for had been seen before the rules were committed."""
        before = SEEN.get(self.profile.name, {})
        new = {
            d: sorted(s for s in seeds if s >= before.get(d, 0)) for d, seeds in self.states.items()
        }
        said = "; ".join(f"{', '.join(map(str, n))} of {data}" for data, n in new.items() if n)
        return f"all but states {said}" if said else "all"


def group_by_profile(trials: pd.DataFrame, cell_threshold: float = 0.5) -> dict[str, Scale]:
    """Trials of each profile, as claims need them."""
    if trials.empty:
        return {}
    usual = "cell_threshold == @cell_threshold and protocol == 'paper' and queries == 'query'"
    trials = trials.query(f"{usual} and split != 'held_out' and recalibrated == ''")
    # Shots that were chosen to cover the styles are another experiment.
    draws = list(zip(trials["data"], map(tuple, trials["shots"]), trials["seed"], strict=True))
    drawn = {draw for draw in set(draws) if draw[1] == find_shots(draw[0], len(draw[1]), draw[2])}
    trials = trials[[draw in drawn for draw in draws]]
    if trials.empty:
        return {}
    by = ["profile", "key", "image"]
    curves = trials.pivot_table("ap", by, "threshold").set_axis(CURVE, axis=1)
    table = trials.drop_duplicates(by).set_index(by).drop(columns=["ap", "aji"]).join(curves)
    table["mAP"], table["mAJI"] = curves.mean(axis=1), trials.groupby(by)["aji"].mean()
    table["options"], table["data"] = table["options"].map(str), table["data"].map(LABELS)
    scales = {}
    for name, part in table.groupby(level="profile"):
        profile = load_profile(str(name))
        its = part["levels"].map(profile.levels.__eq__) & (part["precision"] == profile.precision)
        part = part[its & part["steps"].isin([0, profile.steps])].reset_index("image")
        scales[profile.name] = Scale(profile, dict(iter(part.groupby(ASKED))))
    return scales


class Estimate(NamedTuple):
    """A number and its 95 % interval, infinite where so few random states tell no spread."""

    mean: float
    low: float
    high: float
    states: int = 0

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        if np.isinf(self.high):
            return f"{self.mean:{spec}} ({self.states} state{'s' * (self.states > 1)})"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@cache
def _draw_weights(n: int, seed: int) -> np.ndarray:
    """How often each of n is drawn when n are drawn with replacement: shares, `DRAWS` times."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS) / n


def draw_means(scores: np.ndarray) -> np.ndarray:
    """Means of float[states, images] over states and images that are drawn, `DRAWS` times.

    Arrays of one shape are drawn alike. Effects of states and of images are widened first by
    ``sqrt(n / (n - 1))``: few that are drawn with replacement vary that much less than they do.
    """
    states, images = scores.shape
    for axis, n in ((1, states), (0, images)):
        effect = scores.mean(axis, keepdims=True) - scores.mean()
        scores = scores + effect * ((n / max(n - 1, 1)) ** 0.5 - 1)
    return np.asarray(((_draw_weights(states, 0) @ scores) * _draw_weights(images, 1)).sum(axis=1))


def bootstrap(*scores: pd.DataFrame, of: Callable[..., Any] = lambda mean: mean) -> Estimate:
    """Estimate a function of means of frames by state (rows) and image (columns), which are drawn.

    States and images that all frames have are drawn together, so that the means are paired.
    """
    arrays = _align(scores)
    low, high = np.percentile(of(*map(draw_means, arrays)), [2.5, 97.5]).tolist()
    return Estimate(float(of(*(one.mean() for one in arrays))), low, high, len(arrays[0]))


def estimate(values: np.ndarray) -> Estimate:
    """Mean over random states, with Student's t interval where there are two or more."""
    n, mean = len(values), float(np.mean(values))
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5 if n > 1 else np.inf
    return Estimate(mean, mean - half, mean + half, n)


def assess(*scores: pd.DataFrame, of: Callable[..., Any] = lambda mean: mean) -> Estimate:
    """Estimate as `bootstrap` does, by an interval that holds that of `estimate` too.

    The first is too narrow for few states, the second does not know that images vary.
    """
    drawn = bootstrap(*scores, of=of)
    by_state = estimate(of(*(one.mean(axis=1) for one in _align(scores))))
    return drawn._replace(low=min(drawn.low, by_state.low), high=max(drawn.high, by_state.high))


def _align(scores: Sequence[pd.DataFrame]) -> list[np.ndarray]:
    """Arrays of the states and images that all frames have."""
    states, images = (
        sorted(set.intersection(*(set(one.axes[axis]) for one in scores))) for axis in (0, 1)
    )
    if not states or not images:
        raise Untested("what is compared shares no random state or no image")
    return [one.reindex(index=states, columns=images).to_numpy(float) for one in scores]

"""What trials say: scores by random state, their intervals, and who leads whom by how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from scellseg_lib.errors import ScellsegError
from scellseg_lib.metrics import THRESHOLDS
from scellseg_lib.network import ARCHITECTURES
from scellseg_lib.paper.claims.base import Judgement, Triple, Untested, Verdict
from scellseg_lib.paper.grid import TUNED
from scellseg_lib.paper.profile import Profile, load_profile
from scellseg_lib.paper.shots import shots

if TYPE_CHECKING:
    from scellseg_lib.paper.styles import Purity

TUNING = {"classic": "FT", "contrastive": "CFT"}
METHODS = {f"{ARCHITECTURES[one[0]].title}-{TUNING[one[1]]}": one for one in TUNED}
FT, CFT, CELLPOSE, HOVER, UNET3, UNET2 = COMPARED = tuple(METHODS)
SETS = {
    "elegans": ("bbbc010_elegans",),
    "bv2": ("livecell_bv2", "t98g_phase"),
    "mito": ("mito", "hela_phase_nuclei"),
}
"""The paper's data sets, each before its stand-in."""
LABELS = {
    "bbbc010_elegans": "BBBC010",
    "livecell_bv2": "LIVECell_bv2",
    "t98g_phase": "T98G",
    "mito": "mito",
    "hela_phase_nuclei": "HeLa",
}
SUBSETS = ("Sneuro", "Sfluor", "Scell", "Smicro", "Sgeneral")
ASKED = ["data", "model", "strategy", "n_shots", "weights", "options", "tested_on"]
"""What tells one method's trials from another's."""
CURVE = [f"AP@{threshold:g}" for threshold in THRESHOLDS]
"""Measures of a trial, beside mAP and mAJI."""

TOLERANCE = 0.05
"""Within which an AP of the paper is met: its wells of BBBC010 are not known, and its ten random
states neither."""
MATTERS = 0.01
"""The least advantage in a score that counts as one."""
TIE = 0.005
"""What is behind by no more is level: the paper calls 0.783 against 0.784 the best."""
REPEATS = 10
"""Random states of the paper: with fewer, a difference that is not significant tells nothing."""


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by; tables that are None are not there.

    Parameters
    ----------
    trials : DataFrame
        Rows of `Store.frame` with a column ``profile``; may be empty.
    purity : Purity, optional
        Of the style embeddings of the untuned Scellseg, see `embedding.purity`,
    purity_of : sequence of str
        on these data sets.
    datasets : DataFrame, optional
        One row a data set: ``data`` (its name), ``train`` and ``test`` (images), ``instances_test``
        (cells), ``height`` and ``width`` (pixels), ``mean_area_px`` (of its cells).
    neighbours : DataFrame, optional
        Touching true cells told apart: ``data``, ``strategy`` ("direct" or "contrastive"),
        ``seed``, ``pairs``, and ``separated``, those of which no prediction covers most of both.
    """

    trials: pd.DataFrame
    purity: Purity | None = None
    purity_of: Sequence[str] = ()
    datasets: pd.DataFrame | None = None
    neighbours: pd.DataFrame | None = None


class Estimate(NamedTuple):
    """A mean over random states and its 95 % interval, infinite where no spread is known."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        if np.isinf(self.high):
            return f"{self.mean:{spec}} (one state)"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass
class Scale:
    """Scores of one profile's trials by the paper's protocol: cell threshold 0.5, 30-px scale.

    A score is the mean over images; only trials of the profile's own width, precision and steps
    count, and several of one random state count as one.
    """

    profile: Profile
    table: Mapping[tuple[Any, ...], pd.DataFrame]
    """Values of `ASKED` -> trials, one row each: their fields, ``mAP``, ``mAJI`` and `CURVE`."""
    on: dict[str, str] = field(default_factory=dict)
    """What has been asked for so far -> what it stands for, "" for the paper's own."""

    def sets(self, *roles: str) -> list[str]:
        """Names of the profile's data sets in the paper's roles (all three), stand-ins included."""
        found = []
        for role in roles or SETS:
            names = [name for name in SETS[role] if name in self.profile.data]
            if not names:
                raise Untested(f"the profile {self.profile.name} has no data set for {role}")
            found.append(names[0])
        return found

    def own(self) -> list[str]:
        """Names of the profile's data sets that are the paper's own."""
        return [name for name in self.sets() if name in (one[0] for one in SETS.values())]

    def shots(self, data: str) -> tuple[int, ...]:
        """Numbers of shots on a data set."""
        return self.profile.data[data].shots

    def rows(self, data: str, method: str, n_shots: int = 0, **fields: Any) -> pd.DataFrame:
        """Trials of a method.

        Parameters
        ----------
        data : str
        method : str
            Of `METHODS`, or without its ending: the untuned model.
        n_shots : int
            0: the most.
        **fields
            Of the trial, where they are not as usual: ``weights``, ``options`` (as text),
            ``tested_on``.

        Raises Untested if there are none.
        """
        n_shots = n_shots or self.shots(data)[-1]
        model, strategy = METHODS.get(method) or (METHODS[f"{method}-FT"][0], "direct")
        usual = {"weights": self.profile.weights, "options": "()", "tested_on": ""}
        found = self.table.get((data, model, strategy, n_shots, *(usual | fields).values()))
        if found is None:
            said = "".join(f", {name.replace('_', ' ')} {one}" for name, one in fields.items())
            number = f"{n_shots} shot{'s' * (n_shots > 1)}"
            raise Untested(
                f"the profile {self.profile.name} lacks trials of {method} with {number} on "
                f"{LABELS[data]}{said}"
            )
        role = next(names for names in SETS.values() if data in names)
        self.on[LABELS[data]] = "" if data == role[0] else LABELS[role[0]]
        return found

    def scores(self, measure: str, data: str, method: str, *shots: int, **fields: Any) -> pd.Series:
        """Score of a method by random state; parameters as in `rows`."""
        return self.rows(data, method, *shots, **fields).groupby("seed")[measure].mean()

    def over_shots(self, measure: str, data: str, method: str) -> pd.DataFrame:
        """Scores of a method by random state (rows) at each number of shots (columns)."""
        levels = self.shots(data)
        return pd.DataFrame({n: self.scores(measure, data, method, n) for n in levels})

    def general(self, measure: str, data: str, method: str) -> pd.Series:
        """Score on the general test of a model tuned on ``data``, by random state."""
        tests = self.profile.general_test
        if not tests:
            raise Untested(f"the profile {self.profile.name} has no general test")
        columns = {name: self.scores(measure, data, method, tested_on=name) for name in tests}
        self.on[" and ".join(tests)] = "" if tests == ("cellpose",) else "the Cellpose test set"
        scores = pd.DataFrame(columns).dropna()
        if scores.empty:
            raise Untested(f"{method} has no random state on all of {', '.join(tests)}")
        return scores.mean(axis=1)

    def subset(self, name: str) -> str:
        """Weights pre-trained on the subset in the place of the paper's ``name``."""
        subsets = self.profile.subsets
        if len(subsets) != len(SUBSETS):
            raise Untested(f"the profile {self.profile.name} has no five pre-training subsets")
        stands_for = "" if subsets == SUBSETS else "Sneuro to Sgeneral"
        self.on[f"subsets {subsets[0]} to {subsets[-1]}"] = stands_for
        return f"subset:{subsets[SUBSETS.index(name)]}"


def scales(trials: pd.DataFrame) -> dict[str, Scale]:
    """Trials of each profile, as claims need them; ScellsegError for a frame that lacks columns."""
    if trials.empty:
        return {}
    if "profile" not in trials:
        raise ScellsegError(
            "the trials lack a column 'profile'", remedy="Add it with .assign(profile=...)."
        )
    wanted = (trials["cell_threshold"] == 0.5) & (trials["protocol"] == "paper")
    wanted &= (trials["queries"] == "query") & (trials["split"] != "held_out")
    # Shots that were chosen to cover the styles are another experiment.
    each = list(zip(trials["data"], map(tuple, trials["shots"]), trials["seed"], strict=True))
    usual = {one: one[1] == shots(one[0], len(one[1]), one[2]) for one in set(each)}
    trials = trials[wanted & pd.Series([usual[one] for one in each], trials.index)]
    trial = ["profile", "key"]
    curves = trials.pivot_table("ap", trial, "threshold").set_axis(CURVE, axis=1)  # over images
    table = trials.drop_duplicates(trial).set_index(trial).drop(columns=["ap", "aji"]).join(curves)
    table["mAP"], table["mAJI"] = curves.mean(axis=1), trials.groupby(trial)["aji"].mean()
    table["options"] = table["options"].map(str)
    found = {}
    for name, part in table.groupby(level="profile"):
        profile = load_profile(str(name))
        its = part["levels"].map(profile.levels.__eq__) & (part["precision"] == profile.precision)
        part = part[its & part["steps"].isin([0, profile.steps])]
        found[profile.name] = Scale(profile, dict(iter(part.groupby(ASKED))))
    return found


def pooled(groups: Sequence[pd.Series]) -> tuple[Estimate, list[Estimate]]:
    """Mean of the groups' means, and each of them; the variance is pooled within the groups.

    Of k groups of n values each, ``s^2 = SS(within) / (sum n - k)``; the standard error of a mean
    is ``s / sqrt(n)``, that of their mean ``s sqrt(sum 1 / n) / k``.
    """
    sizes, k = np.array([len(group) for group in groups]), len(groups)
    means = np.array([group.mean() for group in groups])
    df, half = sizes.sum() - k, np.full(k + 1, np.inf)
    if df:
        within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
        errors = np.append(sizes**-0.5, (1 / sizes).sum() ** 0.5 / k)
        half = stats.t.ppf(0.975, df) * (within / df) ** 0.5 * errors
    centres = np.append(means, means.mean())
    rows = zip(centres, centres - half, centres + half, strict=True)
    *each, overall = [Estimate(*map(float, row)) for row in rows]
    return overall, each


def estimate(values: pd.Series) -> Estimate:
    """Mean over random states, with Student's t interval where there are two or more."""
    return pooled([values])[0]


def listed(numbers: Mapping[str, object], spec: str = "") -> str:
    """Write numbers beside their names."""
    return "; ".join(f"{name} {number:{spec}}" for name, number in numbers.items())


def paired(first: pd.Series, second: pd.Series) -> pd.Series:
    """Difference at each random state that both have."""
    difference = (first - second).dropna()
    if difference.empty:
        raise Untested("the two methods share no random state")
    return difference


def lead(
    pairs: Mapping[str, tuple[pd.Series, pd.Series]],
    first: str,
    second: str,
    measure: str,
    least: float = 0.0,
) -> Judgement:
    """Judge whether the first method beats the second on all data sets.

    It does if its mean lead over the sets is surely above 0 (`pooled` interval of the differences
    paired by random state), at least ``least``, and no set's mean is behind by more than `TIE`.
    It does not if a set's mean is surely behind, or if the interval excludes a lead of ``least``
    or, where that is less, of `MATTERS`. Else so few states do not tell.

    Parameters
    ----------
    pairs : mapping
        Data set -> scores of both by random state.
    first, second, measure : str
        For the text.
    least : float
        What the mean lead must reach.
    """
    gaps = {name: paired(*pair) for name, pair in pairs.items()}
    mean, each = pooled(list(gaps.values()))
    ours = "; ".join(
        f"{name} {one.mean():.3f} and {other.mean():.3f}, {estimate(gaps[name]):+.3f}"
        for name, (one, other) in pairs.items()
    )
    sets = dict(zip(gaps, each, strict=True))
    behind = {name: gap for name, gap in sets.items() if gap.mean < -TIE}
    worse = {name: gap for name, gap in behind.items() if gap.high < 0}
    counts = sorted({len(gap) for gap in gaps.values()})
    states = " to ".join(dict.fromkeys(map(str, counts[:1] + counts[-1:]))) + " random states"
    if mean.low > 0 and mean.mean >= least and not behind:
        verdict, end = Verdict.AGREES, f"behind on no set by more than {TIE}"
    elif worse:
        verdict, end = Verdict.DISAGREES, f"clearly behind on {listed(worse, '+.3f')}"
    elif mean.high < max(least, MATTERS):
        needed = max(least, MATTERS)
        verdict, end = (
            Verdict.DISAGREES,
            f"which excludes the lead of {needed:.3f} that would count",
        )
    elif np.isinf(mean.high):
        verdict, end = Verdict.UNTESTED, "and one random state tells no spread"
    else:
        verdict, end = Verdict.UNTESTED, f"which {states} do not settle"
        if behind:
            end = f"but behind on {listed(behind, '+.3f')}, {end}"
        elif mean.low > 0:
            end = f"a lead, but whether of {least:.3f}, {states} do not settle"
    said = f"{first} has on average {mean:+.3f} {measure} over {second}, {end}"
    return Judgement(verdict, f"{measure} of {first} against {second}: {ours}", said)


def best_of(at: Scale, measure: str, data: str, methods: Iterable[str]) -> tuple[str, pd.Series]:
    """Find the method of the largest mean score, and its scores by random state."""
    scores = {method: at.scores(measure, data, method) for method in methods}
    best = max(scores, key=lambda method: scores[method].mean())
    return best, scores[best]


def of(triple: Triple, data: str) -> float:
    """The paper's number on one of its data sets."""
    return triple[next(k for k, names in enumerate(SETS.values()) if data in names)]

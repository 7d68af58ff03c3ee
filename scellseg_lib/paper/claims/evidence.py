"""What claims are judged by: scores of trials by random state, their means and intervals, tables.

Data sets go by their labels here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from scellseg_lib import paths
from scellseg_lib.errors import ScellsegError
from scellseg_lib.metrics import THRESHOLDS
from scellseg_lib.paper.profile import Profile, load_profile
from scellseg_lib.paper.shots import find_shots
from scellseg_lib.paper.store import Store, read_table
from scellseg_lib.paper.styles import Purity, measure_purity
from scellseg_lib.plots import METHODS

PAIRS = {label: pair for pair, label in METHODS.items()}  # model and strategy of each tuned method
CFT, FT, CELLPOSE, HOVER, UNET3, UNET2 = PAIRS
RIVALS = (CELLPOSE, HOVER, UNET3, UNET2)
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
TABLES = "released"  # profile whose tables of styles, data sets and touching cells are evidence


class Untested(ScellsegError):
    """What a claim is tested by is not there."""

    def __init__(self, what: str) -> None:
        super().__init__(what, remedy="Compute it (scellseg sweep), and judge the claims again.")


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by; tables that are None are not there."""

    trials: pd.DataFrame  # rows of `Store.read_scores` with a column ``profile``; may be empty
    purity: Purity | None = None  # how well styles of the untuned Scellseg tell data sets apart,
    purity_of: Sequence[str] = ()  # and which these are
    datasets: pd.DataFrame | None = None  # of `sum_up_datasets`
    # Touching cells by ``data``, ``strategy`` and ``seed``: ``pairs``, and those ``separated``.
    neighbours: pd.DataFrame | None = None


def load_evidence(profiles: Sequence[str]) -> Evidence:
    """Read what is committed: the trials of profiles that have some yet, and tables of figures."""
    frames = []
    for name in profiles:
        store = Store(paths.results(load_profile(name).name) / "trials")
        if store.list_keys():
            frames.append(store.read_scores().assign(profile=name))
    tables = {
        name: read_table(file)
        for name in ("fig2_styles", "census", "fig3_neighbours")
        if (file := paths.results(TABLES) / f"{name}.csv").is_file()
    }
    styles, census = tables.get("fig2_styles"), tables.get("census")
    return Evidence(
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(),
        purity=None if styles is None else measure_purity(styles),
        purity_of=() if styles is None else tuple(styles["data"].unique()),
        datasets=None if census is None else sum_up_datasets(census),
        neighbours=tables.get("fig3_neighbours"),
    )


def sum_up_datasets(census: pd.DataFrame) -> pd.DataFrame:
    """Sum a census up: a row a data set by its name, but for those without shots or queries."""
    train, test = census["split"] == "shot", census["split"] == "query"
    counts = {"train": train, "test": test, "instances_test": test * census["cells"]}
    images = census.assign(**counts, area=census["mean_area"] * census["cells"])
    sets = images.groupby("data", sort=False)
    table = sets[[*counts]].sum().join(sets[["height", "width"]].first())
    table["mean_area_px"] = sets["area"].sum() / sets["cells"].sum()
    return table[table["train"].gt(0) & table["test"].gt(0)]


@dataclass
class Scale:
    """Scores of one profile's trials by the paper's protocol: cell threshold 0.5, 30-px scale.

    A score is the mean over images; only trials of the profile's own width, precision and steps
    count, and several of one random state count as one.
    """

    profile: Profile
    # Values of `ASKED` -> trials, one row each: their fields, ``mAP``, ``mAJI`` and `CURVE`.
    table: Mapping[tuple[Any, ...], pd.DataFrame]
    on: dict[str, str] = field(default_factory=dict)  # data asked for -> what it stands for, or ""

    def sets(self, *roles: str) -> list[str]:
        """Data sets of the profile in the paper's roles (all three), stand-ins included."""
        here = {LABELS.get(name) for name in self.profile.data}
        found = []
        for role in roles or SETS:
            labels = [label for label in SETS[role].values() if label in here]
            if not labels:
                raise Untested(f"the profile {self.profile.name} has no data set for {role}")
            found.append(labels[0])
        return found

    def own(self) -> list[str]:
        """Data sets of the profile that are the paper's own."""
        return [name for name in self.sets() if not STANDS_FOR[name]]

    def has(self, method: str) -> bool:
        """Whether the profile has the model of a method."""
        return PAIRS[method][0] in self.profile.models

    def shots(self, data: str) -> tuple[int, ...]:
        """Numbers of shots on a data set."""
        plans = self.profile.data.items()
        return next(plan.shots for name, plan in plans if LABELS.get(name) == data)

    def rows(self, data: str, method: str, n_shots: int = 0, **fields: Any) -> pd.DataFrame:
        """Trials of a method of `PAIRS` or, without its ending, of the untuned model.

        With the most shots if ``n_shots`` is 0; fields of the trial are named where they are not as
        usual: ``weights``, ``options`` (as text), ``tested_on``. Untested if there are none.
        """
        n_shots = n_shots or self.shots(data)[-1]
        model, strategy = PAIRS.get(method) or (PAIRS[f"{method}-FT"][0], "direct")
        usual = {"weights": self.profile.weights, "options": "()", "tested_on": ""}
        found = self.table.get((data, model, strategy, n_shots, *(usual | fields).values()))
        if found is None:
            said = "".join(f", {name.replace('_', ' ')} {one}" for name, one in fields.items())
            number = f"{n_shots} shot{'s' * (n_shots > 1)}"
            what = f"trials of {method} with {number} on {data}{said}"
            raise Untested(f"the profile {self.profile.name} lacks {what}")
        self.on[data] = STANDS_FOR[data]
        return found

    def scores(self, measure: str, data: str, method: str, *shots: int, **fields: Any) -> pd.Series:
        """Score of a method by random state; arguments as of `rows`."""
        return self.rows(data, method, *shots, **fields).groupby("seed")[measure].mean()

    def estimate(self, measure: str, data: str, method: str, **fields: Any) -> "Estimate":
        """Mean score of a method over random states."""
        return estimate(self.scores(measure, data, method, **fields))

    def on_each(self, measure: str, method: str, **fields: Any) -> dict[str, pd.Series]:
        """Score of a method by random state, on each data set."""
        return {data: self.scores(measure, data, method, **fields) for data in self.sets()}

    def over_shots(self, data: str, method: str) -> pd.DataFrame:
        """The mAP of a method by random state (rows) at each number of shots (columns)."""
        return pd.DataFrame({n: self.scores("mAP", data, method, n) for n in self.shots(data)})

    def general(self, measure: str, data: str, method: str) -> pd.Series:
        """Score on the general test of a model tuned on ``data``, by random state."""
        tests = self.profile.general_test
        if not tests:
            raise Untested(f"the profile {self.profile.name} has no general test")
        columns = {name: self.scores(measure, data, method, tested_on=name) for name in tests}
        is_own = tests == ("cellpose_cyto_test",)
        self.on[" and ".join(tests)] = "" if is_own else "the Cellpose test set"
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


def group_by_profile(trials: pd.DataFrame) -> dict[str, Scale]:
    """Trials of each profile, as claims need them."""
    if trials.empty:
        return {}
    usual = (trials["cell_threshold"] == 0.5) & (trials["protocol"] == "paper")
    usual &= (trials["queries"] == "query") & (trials["split"] != "held_out")
    # Shots that were chosen to cover the styles are another experiment.
    draws = list(zip(trials["data"], map(tuple, trials["shots"]), trials["seed"], strict=True))
    drawn = {draw for draw in set(draws) if draw[1] == find_shots(draw[0], len(draw[1]), draw[2])}
    trials = trials[usual & np.array([draw in drawn for draw in draws])]
    by = ["profile", "key"]
    curves = trials.pivot_table("ap", by, "threshold").set_axis(CURVE, axis=1)  # over images
    table = trials.drop_duplicates(by).set_index(by).drop(columns=["ap", "aji"]).join(curves)
    table["mAP"], table["mAJI"] = curves.mean(axis=1), trials.groupby(by)["aji"].mean()
    table["options"], table["data"] = table["options"].map(str), table["data"].map(LABELS)
    scales = {}
    for name, part in table.groupby(level="profile"):
        profile = load_profile(str(name))
        its = part["levels"].map(profile.levels.__eq__) & (part["precision"] == profile.precision)
        part = part[its & part["steps"].isin([0, profile.steps])]
        scales[profile.name] = Scale(profile, dict(iter(part.groupby(ASKED))))
    return scales


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


def pool(groups: Mapping[str, pd.Series]) -> tuple[Estimate, dict[str, Estimate]]:
    """Mean of the groups' means, and each of them; the variance is pooled within the groups.

    Of k groups of n values each, ``s^2 = SS(within) / (sum n - k)``; the standard error of a mean
    is ``s / sqrt(n)``, that of their mean ``s sqrt(sum 1 / n) / k``.
    """
    sizes, k = np.array([len(group) for group in groups.values()]), len(groups)
    means = np.array([group.mean() for group in groups.values()])
    centres, half = np.append(means, means.mean()), np.full(k + 1, np.inf)
    if df := sizes.sum() - k:
        within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups.values())
        errors = np.append(sizes**-0.5, (1 / sizes).sum() ** 0.5 / k)
        half = stats.t.ppf(0.975, df) * (within / df) ** 0.5 * errors
    *each, overall = map(Estimate, centres.tolist(), centres - half, centres + half)
    return overall, dict(zip(groups, each, strict=True))


def estimate(values: pd.Series) -> Estimate:
    """Mean over random states, with Student's t interval where there are two or more."""
    return pool({"": values})[0]


def subtract(first: pd.Series, second: pd.Series) -> pd.Series:
    """Difference at each random state that both have."""
    difference = (first - second).dropna()
    if difference.empty:
        raise Untested("the two methods share no random state")
    return difference


def tell(numbers: Mapping[str, object], spec: str = "") -> str:
    """Write numbers beside their names."""
    return "; ".join(f"{name} {number:{spec}}" for name, number in numbers.items())

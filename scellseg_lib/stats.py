"""The statistics of the paper's figures: hyperbolas, analyses of variance, Sidak's comparisons.

Designs and error terms are those of GraphPad PRISM, which the paper used, sums of squares of type
III (each effect adjusted for the others, cells weighted alike; all types agree on balanced data).
Without any error, F and t of an effect that is there are infinite, p is 0, and the rest is NaN.
"""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from scipy.linalg import helmert
from scipy.optimize import OptimizeWarning, curve_fit

from scellseg_lib.errors import ScellsegError

ROUNDING = 1e-12  # of the values' root mean square: what is smaller is rounding, not variation
STRAIGHT = 1e3  # with a Kd of that many times the largest x a hyperbola does not bend


@dataclass(frozen=True, eq=False)
class HyperbolaFit:
    """A hyperbola ``Y = Bmax X / (Kd + X)`` fitted to points (the paper's Fig. 5a)."""

    bmax: float
    kd: float
    """The x of half the plateau: about 0, of either sign, for scores that do not rise."""
    r: float
    """``sqrt(1 - SS(residual) / SS(about the mean))``; NaN for a curve worse than the mean."""
    covariance: np.ndarray
    """Of (Bmax, Kd): ``(J' J)^-1 SS(residual) / (n - 2)``, J the derivatives at the points."""
    n_points: int

    @property
    def standard_errors(self) -> tuple[float, float]:
        """Standard errors of Bmax and Kd."""
        return float(self.covariance[0, 0] ** 0.5), float(self.covariance[1, 1] ** 0.5)

    @property
    def shots_for_95_percent(self) -> tuple[float, float]:
        """The x at which the curve reaches 95 % of Bmax, ``19 Kd``, and its standard error."""
        return 19 * self.kd, 19 * self.standard_errors[1]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Height of the curve at x, float64 of the shape of x."""
        return _hyperbola(np.asarray(x, np.float64), self.bmax, self.kd)

    def confidence_band(self, x: np.ndarray, start: float = 0) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper 95 % limits of the curve itself (not of new data), by the delta method.

        ``Y -+ t sqrt(g' C g)``: Y the height at x (above that at ``start``), g its derivatives by
        (Bmax, Kd), C their covariance, Student's t with n - 2 degrees of freedom.
        """
        ends = [np.asarray(end, np.float64) for end in (x, start)]
        rise = self.predict(ends[0]) - self.predict(ends[1])
        slope = np.subtract(*(_derivatives(end, self.bmax, self.kd) for end in ends))
        error = np.sqrt(np.einsum("...i,ij,...j", slope, self.covariance, slope))
        margin = stats.t.ppf(0.975, self.n_points - 2) * error
        return rise - margin, rise + margin


def fit_hyperbola(x: np.ndarray, y: np.ndarray) -> HyperbolaFit:
    """Fit ``Y = Bmax X / (Kd + X)`` by least squares to all replicates, not to their means.

    ``x`` and ``y`` are number[n], shots and scores; replicates repeat their x. ScellsegError for
    fewer than three points or two positive x, values that are missing or all the same, and data
    without a plateau, which bend upwards or not at all.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    _require(x.shape == y.shape == (x.size,), f"x is {x.shape}, y {y.shape}", "Give one y per x.")
    _require(np.isfinite([x, y]).all(), "x or y holds missing values", "Leave them out.")
    n_positive = len(np.unique(x[x > 0]))
    what = f"{len(x)} points, {n_positive} positive x: too few for a hyperbola"
    _require(len(x) > 2 and n_positive > 1, what, "Give three points or more.")
    _require(np.ptp(y) > 0, "y is the same at all x: there is no curve", "Check the scores.")
    start, precise = (np.abs(y).max(), x.mean()), dict.fromkeys(("ftol", "xtol", "gtol"), 1e-12)
    remedy = "Look at the data; show the mean at each x instead of a curve."
    try:
        unsure = warnings.catch_warnings(action="error", category=OptimizeWarning)
        with unsure, np.errstate(all="ignore"):
            found = curve_fit(_hyperbola, x, y, start, jac=_derivatives, method="lm", **precise)
    except (RuntimeError, OptimizeWarning) as error:
        raise ScellsegError("the hyperbola fit does not converge", remedy=remedy) from error
    (bmax, kd), covariance = found[0].tolist(), found[1]
    # At or below -min(x) the pole lies among the data or beyond them.
    _require(-x.min() < kd < STRAIGHT * x.max(), "y does not level off: it has no plateau", remedy)
    unexplained = ((y - _hyperbola(x, bmax, kd)) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    r = float((1 - unexplained) ** 0.5) if unexplained <= 1 else float("nan")
    return HyperbolaFit(bmax, kd, r, covariance, len(x))


def fit_hyperbolas(
    frame: pd.DataFrame, x: str, value: str, by: Sequence[str]
) -> tuple[dict[tuple[Hashable, ...], HyperbolaFit], pd.DataFrame]:
    """Fit a hyperbola to each group of a table with a row a replicate (Fig. 5a).

    ``x`` and ``value`` are its columns of shots and scores, ``by`` those of the groups. Returns the
    fits that were found, by the group's levels, and a table of all groups: ``n``, the fit's numbers
    with their standard errors, and ``why_none``, empty where there is a fit.
    """
    columns = ["n", "bmax", "bmax_error", "kd", "kd_error", "r", "shots_95", "shots_95_error"]
    fits, rows = {}, {}
    for levels, part in frame.groupby([*by], sort=False):
        try:
            fit = fits[levels] = fit_hyperbola(part[x].to_numpy(), part[value].to_numpy())
        except ScellsegError as error:
            rows[levels] = (len(part), *[np.nan] * 7, str(error))
        else:
            (bmax, kd), shots = fit.standard_errors, fit.shots_for_95_percent
            rows[levels] = (len(part), fit.bmax, bmax, fit.kd, kd, fit.r, *shots, "")
    index = pd.MultiIndex.from_tuples(rows, names=[*by])
    return fits, pd.DataFrame([*rows.values()], index, [*columns, "why_none"])


def two_way_anova(frame: pd.DataFrame, value: str, factors: Sequence[str]) -> pd.DataFrame:
    """Two-way analysis of variance with interaction of independent observations (Fig. 5a).

    Parameters
    ----------
    frame, value, factors : DataFrame, str, two str
        One row per observation; its column of numbers; those of the levels, read as names. Cells
        may differ in size; none may be empty.

    Returns
    -------
    DataFrame
        Rows by ``effect``: the two factors and ``"first:second"``. Columns: ``sum_of_squares``,
        ``df``, ``mean_square``, ``error_sum_of_squares``, ``error_df``, ``F``, ``p``. The error is
        that within cells. The paper's Pm is ``p`` of the method.
    """
    names, crossed = list(factors), ":".join(factors)
    data = _check(frame, value, names)
    sizes = data.groupby(names, observed=False).size()
    what = f"there is no observation of {_name_first(sizes == 0)}"
    _require(sizes.min() > 0, what, "Compute it, or leave a level out: all cells are needed.")
    what = f"each cell of {crossed} was observed once: nothing tells the error"
    _require(len(data) > len(sizes), what, "Give the observations of all states, not their means.")
    from statsmodels.formula.api import ols  # takes a second
    from statsmodels.stats.anova import anova_lm

    data.columns = pd.Index(["value", "first", "second"])
    table = anova_lm(ols("value ~ C(first, Sum) * C(second, Sum)", data).fit(), typ=3)
    *effects, error = table[["sum_sq", "df"]].to_numpy()[1:]  # the first is the intercept
    rows = zip((*names, crossed), effects, strict=True)
    return _test({name: (*effect, *error) for name, effect in rows}, data["value"])


def two_way_rm_anova(
    frame: pd.DataFrame, value: str, within: Sequence[str], between: str | None, subject: str
) -> pd.DataFrame:
    """Two-way repeated-measures analysis of variance (the paper's Fig. 2c-e).

    The random states are the n subjects S, in one of two designs:

    - fully within (``["model", "threshold"]``, ``between=None``; states matched across models):
      each effect E against its own interaction E x S, with ``df(E) (n - 1)`` degrees of freedom.
    - mixed (``["threshold"]``, ``between="model"``; states not matched: state 0 of two models is
      two subjects, and models may differ in their number): the model against the subjects within
      the a models, with ``n - a`` degrees of freedom; threshold (b levels) and interaction against
      threshold x subjects within models, with ``(b - 1) (n - a)``.

    Orthonormal contrasts of each subject's values make each effect a one-way analysis of subjects;
    statsmodels' ``AnovaRM`` has no sums of squares, between factor or epsilon.

    Parameters
    ----------
    frame, value, within, between, subject
        As in `two_way_anova`, each subject once in each cell; columns of the factors within a
        subject (two, or one beside ``between``), of that between subjects, and of the subjects.

    Returns
    -------
    DataFrame
        As `two_way_anova`, the between factor first, with each effect's own error, then Greenhouse
        and Geisser's ``epsilon = tr(V)^2 / (d tr(V^2))``, V the covariance within models of the
        effect's d contrasts (1 between subjects), and ``p_corrected``, of both df times epsilon.
    """
    groups = [between] if between else []
    names = [*groups, *within]
    data = _check(frame, value, names, subject)
    wide, group = _spread_subjects(data, value, [*groups, subject], within)
    what = f"there is a single {' in each '.join([subject, *groups])}"
    _require(len(wide) > group.max() + 1, what, "Run more random states: one tells no error.")
    rows, levels = {}, {name: data[name].cat.categories.size for name in within}
    for chosen in [(), *((name,) for name in within), *combinations(within, 2)]:
        own = [helmert(n) if k in chosen else np.full((1, n), n**-0.5) for k, n in levels.items()]
        mean, difference = _analyse(wide @ reduce(np.kron, own).T, group)
        rows[":".join(chosen)] = mean
        if groups:
            rows[":".join([*groups, *chosen])] = difference
    return _test({name: rows[name] for name in (*names, ":".join(names))}, data[value])


def sidak_comparisons(
    frame: pd.DataFrame, value: str, factor: str, by: str, subject: str, matched: bool
) -> pd.DataFrame:
    """Compare the levels of a factor at each level of another (the stars of Fig. 2c-e).

    GraphPad PRISM's way: all share one mean square MS, pooled from `two_way_rm_anova`, and all k at
    all levels are one family: ``t = difference / sqrt(MS (1 / n1 + 1 / n2))`` for n1 and n2
    subjects, ``p_adjusted = 1 - (1 - p)^k``. Of a levels of ``factor``, b of ``by``, n subjects S,

    - not matched: ``MS = (SS(S within factor) + SS(residual)) / (sum of their df)``, the variance
      within cells, with ``b (n - a)`` degrees of freedom;
    - matched: ``MS = (SS(factor x S) + SS(factor x by x S)) / (sum of their df)``, with
      ``b (a - 1) (n - 1)``: a difference at one level of ``by`` is part main effect, part
      interaction. For two models 2 MS / n is the variance of paired differences, pooled.

    The pooled df take both mean squares for one variance. A random state that is good at one
    threshold is good at the next, so they are not: Satterthwaite's fewer df are sounder, and given.

    Returns
    -------
    DataFrame
        One row per comparison: the level of ``by`` in a column of its name, ``first``, ``second``,
        ``difference`` (mean of the first less that of the second), ``standard_error``, ``t``,
        ``df``, ``p``, ``p_adjusted``, and the last three again as ``satterthwaite_...``.
    """
    within = [factor, by] if matched else [by]
    anova = two_way_rm_anova(frame, value, within, None if matched else factor, subject)
    # The errors of the factor and of the interaction, which are the first and the last effect.
    ss, df = anova[["error_sum_of_squares", "error_df"]].iloc[[0, 2]].to_numpy().T
    data = _check(frame, value, [by, factor])
    cells = data.groupby([by, factor], observed=False)[value].agg(["mean", "size"])
    rows = []
    for level, cell in cells.groupby(level=by, observed=True):
        for (first, one), (second, two) in combinations(cell.droplevel(by).iterrows(), 2):
            error = np.sqrt(ss.sum() / df.sum() * (1 / one["size"] + 1 / two["size"]))
            rows.append((level, first, second, one["mean"] - two["mean"], error))
    table = pd.DataFrame(rows, columns=[by, "first", "second", "difference", "standard_error"])
    noise = ROUNDING * np.sqrt((data[value] ** 2).mean())
    table["difference"] = table["difference"].where(table["difference"].abs() > noise, 0.0)
    table["t"] = table["difference"] / table["standard_error"]
    with np.errstate(invalid="ignore", divide="ignore"):
        satterthwaite = ss.sum() ** 2 / (ss**2 / df).sum()
        for prefix, freedom in (("", df.sum()), ("satterthwaite_", satterthwaite)):
            p = 2 * stats.t.sf(table["t"].abs(), freedom)
            table[f"{prefix}df"], table[f"{prefix}p"] = freedom, p
            table[f"{prefix}p_adjusted"] = -np.expm1(len(p) * np.log1p(-p))
    return table


def _require(right: bool | np.bool, what: str, remedy: str) -> None:
    if not right:
        raise ScellsegError(what, remedy=remedy)


def _hyperbola(x: np.ndarray, bmax: float, kd: float) -> np.ndarray:
    return bmax * x / (kd + x)


def _derivatives(x: np.ndarray, bmax: float, kd: float) -> np.ndarray:
    """Derivatives of the hyperbola by Bmax and Kd, float64[..., 2]."""
    return np.stack([x / (kd + x), -bmax * x / (kd + x) ** 2], axis=-1)


def _check(frame: pd.DataFrame, value: str, factors: Sequence[str], *names: str) -> pd.DataFrame:
    """The columns needed, the named ones as categories without unused ones."""
    _require(len(factors) == 2, f"{', '.join(factors)}: not two factors", "Name two columns.")
    columns = [value, *factors, *names]
    what = f"{', '.join(columns)} are not {len(columns)} columns of the table"
    _require(len({*columns} & {*frame}) == len(columns), what, f"It has {[*frame]}.")
    _require(frame[value].dtype.kind in "iuf", f"{value} is not a column of numbers", "Convert it.")
    data = frame[columns].assign(**{value: frame[value].to_numpy(float, na_value=np.nan)})
    n_missing = (data.isna().any(axis=1) | np.isinf(data[value])).sum()
    what = f"{n_missing} of {len(data)} rows hold missing or infinite values"
    _require(not n_missing, what, "Compute them, or leave their random state out altogether.")
    for name in (*factors, *names):
        data[name] = pd.Categorical(data[name]).remove_unused_categories()
    few = ", ".join(name for name in factors if data[name].nunique() < 2)
    _require(not few, f"fewer than two levels of {few}", "Give what is to be compared.")
    return data


def _name_first(wrong: pd.Series) -> str:
    """Name the first cell of which it is true."""
    levels = wrong.index[int(wrong.argmax())]
    return ", ".join(f"{name} {one}" for name, one in zip(wrong.index.names, levels, strict=True))


def _spread_subjects(
    data: pd.DataFrame, value: str, keys: list[str], within: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Values, float64[subjects, cells], and group of each subject: the first of its two keys."""
    who = data[keys].astype(str).agg("/".join, axis=1).rename("/".join(keys))
    cells = data.groupby([who, *within], observed=False)[value].agg(["size", "sum"])
    for n, wrong in (("0", cells["size"] == 0), ("several", cells["size"] > 1)):
        what = f"{_name_first(wrong)} was observed {n} times"
        _require(not wrong.any(), what, "Compute what is missing, average what is repeated.")
    group = data.groupby(who)[keys[0]].first().cat.codes.to_numpy(np.int64) * (len(keys) > 1)
    return cells["sum"].to_numpy().reshape(len(group), -1), group


def _analyse(scores: np.ndarray, group: np.ndarray) -> list[tuple[float, ...]]:
    """SS, df and those of their error, and epsilon: of d contrasts' mean, and between groups."""
    sizes, d = np.bincount(group), scores.shape[1]
    means = np.stack([scores[group == one].mean(axis=0) for one in range(len(sizes))])
    spread = (scores - means[group]).T @ (scores - means[group])
    epsilon = np.trace(spread) ** 2 / max(d * (spread**2).sum(), np.finfo(float).tiny)
    error = (np.trace(spread), d * (len(scores) - len(sizes)), epsilon)
    mean = (means.mean(axis=0) ** 2).sum() * len(sizes) ** 2 / (1 / sizes).sum()
    difference = (sizes @ (means - scores.mean(axis=0)) ** 2).sum()
    return [(mean, d, *error), (difference, d * (len(sizes) - 1), *error)]


def _test(rows: dict[str, tuple[float, ...]], values: pd.Series) -> pd.DataFrame:
    """F and p from the rows (sum of squares, df, those of the error, epsilon where it is known)."""
    ss = ["sum_of_squares", "error_sum_of_squares"]
    columns = [ss[0], "df", ss[1], "error_df", "epsilon"][: len(next(iter(rows.values())))]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("effect")
    table = table.astype({"df": int, "error_df": int})
    table[ss] = table[ss].where(table[ss] > ROUNDING**2 * (values**2).sum(), 0.0)
    table.insert(2, "mean_square", table[ss[0]] / table["df"])
    table["F"] = table["mean_square"] / (table[ss[1]] / table["error_df"])
    table["p"] = stats.f.sf(table["F"], table["df"], table["error_df"])
    if "epsilon" in table:
        table["epsilon"] = epsilon = table.pop("epsilon").where(table[ss[1]] > 0)
        freedom = (table[column] * epsilon for column in ("df", "error_df"))
        table["p_corrected"] = stats.f.sf(table["F"], *freedom)
    return table

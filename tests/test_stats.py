"""Statistics against R on committed tables, against arithmetic, and on data that break them."""

import runpy
import shutil
import subprocess
from collections.abc import Hashable
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scellseg_lib import ScellsegError, stats

FOLDER = Path(__file__).parent / "data" / "stats"
ROUNDING = 1e-12
SHOTS = (1, 2, 3, 4, 6, 8, 10)
Answers = dict[Hashable, float]  # of (item, quantity)


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


@cache
def reference(name: str = "reference") -> dict[str, Answers]:
    """Analysis -> (item, quantity) -> value, as R said."""
    answers = read(name).set_index(["item", "quantity"]).groupby("analysis")["value"]
    return {str(analysis): values.to_dict() for analysis, values in answers}


def hyperbola_answers(fit: stats.HyperbolaFit) -> Answers:
    answers: Answers = {(name, "estimate"): getattr(fit, name) for name in ("bmax", "kd", "r")}
    for name, error in zip(("bmax", "kd"), fit.standard_errors, strict=True):
        answers[name, "standard_error"] = error
    answers["bmax,kd", "covariance"] = fit.covariance[0, 1]
    for x in (0.5, 1, 5, 20):
        answers[str(x), "lower"], answers[str(x), "upper"] = fit.confidence_band(x)
    return answers


def anova_answers(data: pd.DataFrame, design: str, value: str = "ap") -> Answers:
    if design == "":
        table = stats.two_way_anova(data, value, ["method", "shots"])
    elif design == "matched":
        table = stats.two_way_rm_anova(data, value, ["model", "threshold"], None, "state")
    else:
        table = stats.two_way_rm_anova(data, value, ["threshold"], "model", "state")
    return table.stack().to_dict()


def sidak_answers(data: pd.DataFrame, design: str) -> Answers:
    table = stats.sidak_comparisons(data, "ap", "model", "threshold", "state", design == "matched")
    table["satterthwaite_standard_error"] = table["standard_error"]
    items = table["threshold"].astype(str) + " " + table["first"] + " - " + table["second"]
    return table.iloc[:, 3:].set_index(items).stack().to_dict()


def assert_equal_to_r(analysis: str, ours: Answers, expected: Answers, least: float = 0.0) -> None:
    """Compare to eight digits, but differences up to `least` count as none."""
    found, precision = {key: ours[key] for key in expected}, 1e-8
    if analysis.startswith("hyperbola"):
        # Either program finds the minimum to some seven digits of the errors: what is nearly 0 has
        # fewer. A curve may have no R (NaN).
        precision, least = 1e-6, 1e-6 * expected["kd", "standard_error"]
    assert found == pytest.approx(expected, rel=precision, abs=least, nan_ok=True)


@pytest.mark.parametrize("analysis", sorted(reference()))
def test_equal_to_r(analysis: str):
    if analysis.startswith("hyperbola"):
        data = read("shots").query("method == @analysis.removeprefix('hyperbola ')")
        ours = hyperbola_answers(stats.fit_hyperbola(data["shots"], data["ap"]))
    else:
        name, _, design = analysis.removeprefix("sidak ").partition(" ")
        answers = sidak_answers if analysis.startswith("sidak") else anova_answers
        ours = answers(read(name), design)
    assert_equal_to_r(analysis, ours, reference()[analysis])


def test_figures_are_equal_to_r():
    """On tables of the committed trials, and on one as of Fig. 5 that allows a part of it."""
    answers, expected = {}, reference("figures")
    for name, data in read("fig2").groupby("data"):
        answers[f"fig2 {name}"] = anova_answers(data, "matched")
        answers[f"sidak fig2 {name}"] = sidak_answers(data, "matched")
    for table in ("shot_sets", "fig5"):
        fits, _ = stats.fit_hyperbolas(read(table), "shots", "map", ["data", "method"])
        for (name, method), fit in fits.items():
            answers[f"hyperbola {table} {name} {method}"] = hyperbola_answers(fit)
        for (name, data), other in product(read(table).groupby("data"), ("Cellpose", "Scellseg")):
            pair = data[data["method"].isin(["Scellseg-CFT", other])]
            pair = pair[pair.groupby("shots")["method"].transform("nunique") == 2]
            if pair["shots"].nunique() > 1 and pair.duplicated(["method", "shots"]).any():
                answers[f"anova {table} {name} {other}"] = anova_answers(pair, "", "map")
    assert sorted(answers) == sorted(expected)
    for analysis, said in expected.items():
        # Models may be equal at a threshold: R computes the difference with its rounding.
        assert_equal_to_r(analysis, answers[analysis], said, ROUNDING)
    sizes = {analysis.rpartition(" ")[0]: len(said) for analysis, said in expected.items()}
    assert (sizes["fig2"], sizes["sidak fig2"]) == (3 * 7, 10 * 10)
    assert {"hyperbola shot_sets part", "anova shot_sets part", "anova shot_sets two"} <= {*sizes}


def test_tables_of_figures_are_what_the_committed_trials_give():
    """Trials may have come since, and are passed over; figures.py adds them."""
    for name, table in runpy.run_path(str(FOLDER / "figures.py"))["tables"]().items():
        kept = pd.read_csv(FOLDER / name)
        now = table[table["key"].isin(kept["key"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(now, kept, rtol=0, atol=10 * ROUNDING)


def test_reference_holds_every_analysis():
    designs = product(("two_models", "three_models"), ("matched", "unmatched"))
    names = [*map(" ".join, designs), "three_models_unequal unmatched"]
    others = ["hyperbola Scellseg-CFT", "hyperbola Cellpose-FT", "shots", "shots_unequal"]
    assert sorted(reference()) == sorted(others + names + [f"sidak {name}" for name in names])
    assert len(reference()["sidak three_models unmatched"]) == 15 * 10


def r_has(package: str) -> bool:
    ask = ["Rscript", "--vanilla", "-e", f"find.package('{package}')"]
    return bool(shutil.which(ask[0])) and not subprocess.run(ask, capture_output=True).returncode


# R is no requirement: where it or car is missing, there is nothing to test.
ANSWERED = {"figures": ("emmeans",), "reference": ("emmeans", "car")}
if here := [name for name, packages in ANSWERED.items() if all(map(r_has, packages))]:

    @pytest.mark.parametrize("name", here)
    def test_reference_is_what_r_says(name: str, tmp_path: Path):
        command = ["Rscript", "--vanilla", f"{name}.R", str(tmp_path)]
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300)
        fresh, committed = pd.read_csv(tmp_path / f"{name}.csv"), read(name)
        pd.testing.assert_frame_equal(fresh, committed, rtol=1e-6, atol=ROUNDING)


def test_scores_that_do_not_rise_have_kd_about_zero_and_a_curve_worse_than_the_mean_no_r():
    x = np.repeat(SHOTS, 3)
    for rise in (0.0, -0.004):
        y = 0.9 + rise * x + np.random.default_rng(3).normal(0, 0.002, len(x))
        assert abs(stats.fit_hyperbola(x, y).kd) < 0.06
    x = np.array([0, 0, 1, 2, 4, 8])
    assert np.isnan(stats.fit_hyperbola(x, np.array([0.8, 0.9, 0.6, 0.7, 0.6, 0.7])).r)


def test_no_hyperbola(monkeypatch: pytest.MonkeyPatch):
    shots = np.array(SHOTS, float)
    for x, y, message in (
        (shots[:2], shots[:2], "2 points, 2 positive x: too few"),
        ([2, 2, 2], [0.5, 0.6, 0.7], "3 points, 1 positive x"),
        ([0, 0, 2], [0.0, 0.0, 0.7], "1 positive x"),
        ([], [], "0 points"),
        (shots, shots[:-1], r"x is \(7,\), y \(6,\)"),
        (shots, np.where(shots == 3, np.nan, shots), "missing values"),
        (np.where(shots == 3, np.inf, shots), shots, "missing values"),
        (shots, np.full(7, 0.5), "the same at all x"),
        (shots, 0.05 * shots, "no plateau"),
        (shots, shots**2, "no plateau"),
    ):
        with pytest.raises(ScellsegError, match=message):
            stats.fit_hyperbola(x, y)
    original = stats.curve_fit
    monkeypatch.setattr(stats, "curve_fit", lambda *a, **k: original(*a, **k, maxfev=2))
    with pytest.raises(ScellsegError, match=r"does not converge\. Look at the data"):
        stats.fit_hyperbola(shots, 0.9 * shots / (5 + shots) + 0.01 * (-1) ** np.arange(7))


def test_each_group_has_its_fit_or_says_why_not():
    x = np.array([1.0, 2, 4, 8])
    groups = {"good": 0.8 * x / (1.5 + x), "flat": np.full(4, 0.5), "up": x}
    tables = [pd.DataFrame({"way": n, "shots": x, "ap": y}) for n, y in groups.items()]
    frame = pd.concat(tables).assign(set="a")
    fits, table = stats.fit_hyperbolas(frame, "shots", "ap", ["set", "way"])
    assert list(fits) == [("a", "good")]
    row = table.loc[("a", "good")]
    assert row[["n", "bmax", "kd", "shots_95"]].tolist() == pytest.approx([4, 0.8, 1.5, 28.5])
    _, upper = fits["a", "good"].confidence_band(np.array([[0, 1.5]]))
    assert upper == pytest.approx(np.array([[0, 0.4]]))
    assert row["why_none"] == ""
    assert "no curve" in table.loc[("a", "flat"), "why_none"]
    assert "no plateau" in table.loc[("a", "up"), "why_none"]
    assert table.loc[("a", "up"), ["bmax", "kd", "r"]].isna().all()


def scores(models: int = 2, states: int = 4, thresholds: int = 3, seed: int = 0) -> pd.DataFrame:
    cells = product("abc"[:models], range(states), np.linspace(0.5, 0.9, thresholds).round(2))
    frame = pd.DataFrame(cells, columns=["model", "state", "threshold"])
    return frame.assign(ap=np.random.default_rng(seed).normal(size=len(frame)))


@pytest.fixture
def frame() -> pd.DataFrame:
    return scores()


TWO = ["model", "threshold"]
COMPARED = {"value": "ap", "factor": "model", "by": "threshold", "subject": "state"}
REPEATEDLY = partial(stats.two_way_rm_anova, value="ap", subject="state")
independent = partial(stats.two_way_anova, value="ap", factors=TWO)
within = partial(REPEATEDLY, within=TWO, between=None)
mixed = partial(REPEATEDLY, within=["threshold"], between="model")
matched = partial(stats.sidak_comparisons, matched=True, **COMPARED)
unmatched = partial(stats.sidak_comparisons, matched=False, **COMPARED)
REPEATED = [within, mixed, matched, unmatched]
ALL = [independent, *REPEATED]


def test_subjects_are_nested_whatever_their_names(frame):
    """State 0 of two models is two subjects: naming them apart changes nothing."""
    apart = frame.assign(state=frame["model"] + frame["state"].astype(str))
    pd.testing.assert_frame_equal(mixed(frame), mixed(apart))
    pd.testing.assert_frame_equal(unmatched(frame), unmatched(apart))
    with pytest.raises(ScellsegError, match=r"state a0, model b, threshold 0\.5 was observed 0"):
        within(apart)
    few = scores(states=2).query("model == 'a' or state == 0")  # one subject more is enough
    assert mixed(few).loc["model", "error_df"] == 1


@pytest.mark.parametrize("analysis", ALL)
def test_order_and_types_do_not_matter(analysis, frame):
    shuffled = frame.sample(frac=1, random_state=0).assign(unused=np.nan)
    shuffled["model"] = pd.Categorical(shuffled["model"], ["a", "b", "absent"])
    pd.testing.assert_frame_equal(analysis(frame), analysis(shuffled))


@pytest.mark.parametrize("analysis", ALL)
def test_bad_tables(analysis, frame):
    for bad, message in (
        (frame.assign(ap=frame["ap"].where(frame.index != 3)), "1 of 24 rows hold missing"),
        (frame.assign(ap=np.inf), "24 of 24 rows hold missing or infinite"),
        (frame.assign(model=frame["model"].where(frame.index > 1)), "2 of 24 rows hold missing"),
        (frame.assign(ap="high"), "ap is not a column of numbers"),
        (frame.rename(columns={"threshold": "iou"}), r"are not \d columns of the table. It has"),
        (frame.query("model == 'a'"), "fewer than two levels of model"),
        (frame.query("threshold == 0.5"), "fewer than two levels of threshold"),
        (frame[:0], "fewer than two levels of"),
    ):
        with pytest.raises(ScellsegError, match=message):
            analysis(bad)


@pytest.mark.parametrize("analysis", REPEATED)
def test_each_subject_once_in_each_cell(analysis, frame):
    who = r"state 1, model a" if analysis in (within, matched) else r"model/state a/1"
    with pytest.raises(ScellsegError, match=f"{who}, threshold 0.7 was observed 0 times. Compute"):
        analysis(frame.drop(index=4))
    with pytest.raises(ScellsegError, match=f"{who}, threshold 0.7 was observed several times"):
        analysis(pd.concat([frame, frame.loc[[4]]]))
    with pytest.raises(ScellsegError, match=r"0\.9 was observed 0 times"):  # by all of a model
        analysis(frame.query("model == 'a' or threshold < 0.8"))
    where = "" if analysis in (within, matched) else " in each model"
    with pytest.raises(ScellsegError, match=f"a single state{where}. Run more random states"):
        analysis(scores(states=1))


def test_independent_observations_need_full_cells_and_one_repeat(frame):
    with pytest.raises(ScellsegError, match=r"no observation of model b, threshold 0\.9"):
        independent(frame.query("model == 'a' or threshold < 0.8"))
    with pytest.raises(ScellsegError, match="each cell of model:threshold was observed once"):
        independent(scores(states=1))
    assert independent(frame[:-3])["error_df"].tolist() == [21 - 6] * 3


@pytest.mark.parametrize("analysis", [independent, within, mixed])
def test_nothing_random(analysis, frame):
    table = analysis(frame.assign(ap=0.1 + 0.2 * (frame["model"] == "a")))
    assert table["error_sum_of_squares"].tolist() == [0, 0, 0]
    assert table["F"].loc["model"] == np.inf
    assert table["p"].loc["model"] == 0
    assert table[["F", "p"]].loc[["threshold", "model:threshold"]].isna().all(axis=None)
    assert analysis(frame.assign(ap=1 / 3))[["F", "p"]].isna().all(axis=None)


@pytest.mark.parametrize("analysis", [matched, unmatched])
def test_no_comparison_without_variance(analysis, frame):
    worse = (frame["model"] == "a") & (frame["threshold"] > 0.6)
    table = analysis(frame.assign(ap=0.3 - 0.1 * worse))
    assert table["difference"].tolist() == pytest.approx([0, -0.1, -0.1])
    assert table["p_adjusted"].tolist() == pytest.approx([np.nan, 0, 0], nan_ok=True)


def test_designs_are_two_factors(frame):
    for names, between in (["threshold"], None), ([], "model"), (TWO, "state"), (TWO[:1] * 2, None):
        with pytest.raises(ScellsegError, match=r"not two factors|are not 4 columns"):
            stats.two_way_rm_anova(frame, "ap", names, between, "state")
    with pytest.raises(ScellsegError, match="not two factors"):
        stats.two_way_anova(frame, "ap", ["model"])


def test_difference_follows_the_order_of_categories(frame):
    turned = frame.assign(model=pd.Categorical(frame["model"], ["b", "a"]))
    one, other = matched(frame), matched(turned)
    assert other["first"].tolist() == ["b"] * 3
    np.testing.assert_allclose(other["difference"], -one["difference"])
    np.testing.assert_allclose(other["p_adjusted"], one["p_adjusted"])

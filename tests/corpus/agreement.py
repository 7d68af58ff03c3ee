"""Numbers of this library on random cases, against plain formulas that are written here alone."""

from collections import Counter

import numpy as np
import pandas as pd
from scipy import ndimage, optimize
from scipy.stats import f as fisher
from scipy.stats import t as student

from scellseg_lib import flows, metrics, stats
from tests.benchmarks.label_pairs import random_pair

Random = np.random.Generator


def by_the_text(cell: np.ndarray, mean: bool) -> np.ndarray:
    """Flows of one cell, bool[H, W], written down plainly (docs/method.md, section 2).

    From the mean they take as many steps as Cellpose, whose boxes are wider by two pixels. They are
    0 where the heat is level, and all 0 where rounding chooses among pixels as near to the mean.
    """
    cell = np.pad(cell, 1)
    ys, xs = np.nonzero(cell)
    middle = np.mean if mean else np.median
    squares = (ys - middle(ys)) ** 2 + (xs - middle(xs)) ** 2
    nearest, tied = np.argmin(squares), (squares < squares.min() + 1e-9).sum() > 1
    heat = np.zeros(cell.shape)
    for _ in range(2 * (np.ptp(ys) + np.ptp(xs) + 2 + 4 * mean)):
        heat[ys[nearest], xs[nearest]] += 1
        rows = heat[:-2] + heat[1:-1] + heat[2:]
        heat[1:-1, 1:-1] = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9 * cell[1:-1, 1:-1]
    slope = np.stack([heat[2:, 1:-1] - heat[:-2, 1:-1], heat[1:-1, 2:] - heat[1:-1, :-2]])
    length, heat, cell = np.hypot(*slope), heat[1:-1, 1:-1], cell[1:-1, 1:-1]
    return slope / np.where(cell & (length > 1e-5 * heat) & ~(tied & mean), length, np.inf)


def flows_of_cells(random: Random):
    """Cells of any shape and number, some at the edge, some lines and dots; none touch."""
    masks = np.zeros(random.integers(5, 90, 2), np.int32)
    noise = ndimage.gaussian_filter(random.normal(size=masks.shape), random.uniform(0.5, 4))
    parts, n = ndimage.label(noise >= np.quantile(noise, random.uniform(0.3, 0.95)))
    numbers = random.permutation(900)[:n] + 1
    masks, mean = np.append(0, numbers)[parts], random.random() < 0.5
    ours = flows.masks_to_flows(masks, centre="mean" if mean else "median")
    theirs = np.where(masks, 0, ours)
    assert not theirs.any()
    for number, box in enumerate(ndimage.find_objects(masks), 1):
        if box is not None:
            theirs[:, *box] += by_the_text(masks[box] == number, mean)
    return ours * theirs.any(0), theirs


def errors_of_flows(random: Random):
    """Mean square of the difference between the flow of a mask and that given."""
    true, _ = random_pair(int(random.integers(10**6)))
    given = random.normal(size=(2, *true.shape)).astype(np.float32)
    off, cells = ((flows.masks_to_flows(true) - given) ** 2).sum(0), range(1, true.max() + 1)
    return flows.flow_errors(true, given)[1:], [off[true == k].mean() for k in cells]


def scores_of_a_pair(random: Random):
    """True positives by Cellpose's costs; AJI as Kumar et al. wrote it, ties to the lower label."""
    true, predicted = random_pair(int(random.integers(10**6)))
    shared = Counter(zip(true.ravel().tolist(), predicted.ravel().tolist(), strict=True))
    t, p = np.bincount(true.ravel())[1:], np.bincount(predicted.ravel())[1:]
    overlap = np.array([[shared[i, j] for j in range(1, len(p) + 1)] for i in range(1, len(t) + 1)])
    overlap = overlap.reshape(len(t), len(p))
    union = t[:, None] + p - overlap
    iou, thresholds, aps = overlap / union, np.arange(1, 20) / 20, []
    for threshold in thresholds:
        costs = -(iou >= threshold).astype(float) - iou / (2 * max(1, min(iou.shape)))
        tp = int((iou[optimize.linear_sum_assignment(costs)] >= threshold).sum())
        aps.append(tp / max(1, len(t) + len(p) - tp) if len(t) + len(p) else 1.0)
    hit = {i: int(row.argmax()) for i, row in enumerate(iou) if row.any()}
    shares = sum(overlap[pair] for pair in hit.items())
    whole = sum(union[pair] for pair in hit.items()) + np.delete(t, [*hit]).sum()
    whole += np.delete(p, [*{*hit.values()}]).sum()
    found = metrics.scores(true, predicted, thresholds)
    other = metrics.scores(predicted, true, thresholds)
    np.testing.assert_array_equal([found.tp, found.fp], [other.tp, other.fn])
    aji = metrics.aggregated_jaccard_index(true, predicted)
    return [*found.ap, aji], [*aps, shares / whole if whole else 1.0]


def hyperbola(random: Random):
    """For each Kd the best Bmax is a quotient: a search along one line."""
    x = np.repeat([1.0, 2, 3, 5, 8, 10], random.integers(1, 5))
    y = random.uniform(0.5, 1) * x / (random.uniform(0.2, 3) + x) + random.normal(0, 0.01, x.size)

    def fit(log_kd: float) -> tuple[float, float]:
        curve = x / (np.exp(log_kd) + x)
        bmax = float(curve @ y / (curve @ curve))
        return float(((y - bmax * curve) ** 2).sum()), bmax

    how = {"bounds": (-5, 4), "options": {"xatol": 1e-10}}
    best = optimize.minimize_scalar(lambda log_kd: fit(log_kd)[0], **how).x
    (left, bmax), ours = fit(best), stats.fit_hyperbola(x, y)
    r = np.sqrt(1 - left / ((y - y.mean()) ** 2).sum())
    return [ours.bmax, ours.kd, ours.r], [bmax, np.exp(best), r]


def table(values: np.ndarray, names: str) -> pd.DataFrame:
    """A row for each value, with its places along the named axes."""
    places = np.indices(values.shape).reshape(values.ndim, -1).T
    return pd.DataFrame(places, columns=names.split()).assign(y=values.ravel())


def two_way(random: Random):
    """Cells of unequal size: what the squares grow by without the columns of an effect."""
    frame = table(random.normal(size=(*random.integers(2, 5, 2), 4)), "a b state")
    frame = frame[(frame["state"] < 2) | (random.random(len(frame)) < 0.5)]
    sums = (np.vstack([np.eye(n), -np.ones(n)]) for n in frame[["a", "b"]].max())
    coded = [code[frame[name]] for code, name in zip(sums, "ab", strict=True)]
    parts = [*coded, np.einsum("ij,ik->ijk", *coded).reshape(len(frame), -1)]

    def squares(*kept: int) -> float:
        design = np.hstack([np.ones((len(frame), 1)), *(parts[k] for k in kept)])
        return float(np.linalg.lstsq(design, frame["y"], rcond=None)[1][0])

    d = np.array([part.shape[1] for part in parts])
    error, df = squares(0, 1, 2), len(frame) - 1 - d.sum()
    f = (np.array([squares(1, 2), squares(0, 2), squares(0, 1)]) - error) / d / (error / df)
    ours = stats.two_way_anova(frame, "y", ["a", "b"])
    return [*ours["F"], *ours["p"]], [*f, *fisher.sf(f, d, df)]


def repeated(random: Random):
    """Both factors within subjects, and Sidak's comparisons, by means and their differences."""
    values = random.normal(size=random.integers((3, 2, 2), (9, 4, 6)))
    (n, a, b), whole = values.shape, values.mean((1, 2), keepdims=True)
    rows, columns = (values.mean(axis, keepdims=True) - whole for axis in (2, 1))
    said, errors = [], []
    for part in (rows, columns, values - whole - rows - columns):
        d = np.prod([side - 1 for side in part.shape[1:] if side > 1])
        effect = np.broadcast_to(part, values.shape).reshape(n, -1)
        spread = np.cov(effect.T)
        epsilon = np.trace(spread) ** 2 / (d * (spread**2).sum())
        f, freedom = n * (effect.mean(0) ** 2).sum() / np.trace(spread), np.array([d, d * (n - 1)])
        errors.append((np.trace(spread) * (n - 1), freedom[1]))
        said += [f, fisher.sf(f, *freedom), epsilon, fisher.sf(f, *(freedom * epsilon))]
    square, df = np.add(errors[0], errors[2])
    pairs = [(k, i, j) for k in range(b) for i in range(a) for j in range(i + 1, a)]
    apart = np.array([(values[:, i, k] - values[:, j, k]).mean() for k, i, j in pairs])
    p = 2 * student.sf(np.abs(apart) / np.sqrt(2 * square / df / n), df)
    frame = table(values, "state a b")
    ours = stats.two_way_rm_anova(frame, "y", ["a", "b"], None, "state")
    sidak = stats.sidak_comparisons(frame, "y", "a", "b", "state", True)["p_adjusted"]
    ours = ours[["F", "p", "epsilon", "p_corrected"]].to_numpy().ravel()
    return [*ours, *sidak], [*said, *(1 - (1 - p) ** len(p))]


CASES = {
    "flows of cells (Cellpose's heat)": (flows_of_cells, 1e-3),
    "errors of flows": (errors_of_flows, 1e-4),
    "AP at 19 thresholds (Cellpose's costs), AJI": (scores_of_a_pair, 1e-12),
    "hyperbolas (search along Kd)": (hyperbola, 1e-4),
    "analyses of variance, unequal cells": (two_way, 1e-8),
    "both factors within, epsilon, Sidak": (repeated, 1e-8),
}


def compare(name: str, n: int) -> int:
    """How many of `n` random cases differ."""
    (ask, off), wrong = CASES[name], 0
    for k in range(n):
        try:
            np.testing.assert_allclose(*ask(np.random.default_rng(k)), off, off)
        except AssertionError as error:
            wrong += 1
            print(f"FAULT {name}, case {k}: {str(error)[:300]}", flush=True)
    return wrong

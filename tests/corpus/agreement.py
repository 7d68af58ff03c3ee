"""Numbers of this library on random cases, against plain formulas that are written here alone.

Matches are compared with Cellpose's counts in `test_metrics`, analyses with R's in `test_stats`.
"""

from collections import Counter

import numpy as np
from scipy import ndimage, optimize

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


def index_of_a_pair(random: Random):
    """AJI as Kumar et al. wrote it, ties to the lower label."""
    true, predicted = random_pair(int(random.integers(10**6)))
    shared = Counter(zip(true.ravel().tolist(), predicted.ravel().tolist(), strict=True))
    t, p = np.bincount(true.ravel())[1:], np.bincount(predicted.ravel())[1:]
    overlap = np.array([[shared[i, j] for j in range(1, len(p) + 1)] for i in range(1, len(t) + 1)])
    overlap = overlap.reshape(len(t), len(p))
    union = t[:, None] + p - overlap
    hit = {i: int(row.argmax()) for i, row in enumerate(overlap / union) if row.any()}
    shares = sum(overlap[pair] for pair in hit.items())
    whole = sum(union[pair] for pair in hit.items()) + np.delete(t, [*hit]).sum()
    whole += np.delete(p, [*{*hit.values()}]).sum()
    return metrics.aggregated_jaccard_index(true, predicted), shares / whole if whole else 1.0


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


CASES = {
    "flows of cells (Cellpose's heat)": (flows_of_cells, 1e-3),
    "errors of flows": (errors_of_flows, 1e-4),
    "aggregated Jaccard index": (index_of_a_pair, 1e-12),
    "hyperbolas (search along Kd)": (hyperbola, 1e-4),
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

"""Counts identical to Cellpose's on a thousand random pairs, and the time on 2,000 objects.

Cellpose computes a dense IoU table in double precision and solves one assignment per threshold.
A quotient of pixel counts and a decimal literal round alike, so both sides agree on exact ties as
long as the thresholds are literals; with accumulated ones (``numpy.arange(0.5, 1, 0.05)`` holds
0.6000000000000001) Cellpose loses the ties and this library does not. Two more differences are by
definition and not drawn here: Cellpose counts a label number that is missing as an object, and
gives NaN for an empty truth against an empty prediction.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from scellseg_lib import metrics
from tests.benchmarks.clock import report, timed
from tests.benchmarks.label_pairs import disc_grid, random_pair
from tests.benchmarks.peer import run_peer

N_PAIRS, N_RECORDED, N_OBJECTS = 1000, 48, 2000
THRESHOLDS = (0.1, 0.3, *metrics.THRESHOLDS)  # two more than mAP's: below 0.5 matches compete
RECORDED = Path(__file__).parents[1] / "data" / "cellpose_counts.csv"


def our_counts(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """TP, FP and FN at the thresholds, int64[3, n_thresholds]."""
    result = metrics.scores(true, predicted, THRESHOLDS)
    return np.stack([result.tp, result.fp, result.fn])


def peer_counts(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Cellpose's TP, FP and FN, int64[n_pairs, 3, n_thresholds]."""
    inputs = {"thresholds": np.array(THRESHOLDS)}
    for k, (true, predicted) in enumerate(pairs):
        inputs |= {f"true_{k}": true, f"predicted_{k}": predicted}
    return run_peer("metrics", inputs)["counts"]


def record() -> None:
    """Write the peer's counts of the first pairs, which the test suite compares with."""
    counts = peer_counts([random_pair(seed) for seed in range(N_RECORDED)])
    with RECORDED.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["pair", "threshold", "tp", "fp", "fn"])
        for pair, of_pair in enumerate(counts):
            writer.writerows(
                [pair, t, *map(int, three)] for t, three in zip(THRESHOLDS, of_pair.T, strict=True)
            )


def main() -> None:
    """Compare and time; raise if a single count differs."""
    pairs = [random_pair(seed) for seed in range(N_PAIRS)]
    ours, theirs = np.array([our_counts(*pair) for pair in pairs]), peer_counts(pairs)
    different = int((ours != theirs).any(axis=(1, 2)).sum())
    print(f"TP, FP, FN at {len(THRESHOLDS)} thresholds: {different} of {N_PAIRS} pairs differ")
    if different:
        raise AssertionError(f"{different} pairs are counted differently from Cellpose")
    true, predicted = disc_grid(N_OBJECTS, seed=0)
    thresholds = np.array(metrics.THRESHOLDS)
    inputs = {"thresholds": thresholds, "true_0": true, "predicted_0": predicted}
    answer = run_peer("metrics", inputs | {"timed": np.array(True)})
    result = metrics.scores(true, predicted)
    np.testing.assert_array_equal(answer["counts"][0], [result.tp, result.fp, result.fn])
    taken = timed(lambda: metrics.average_precision(true, predicted, thresholds))[1]
    report(f"AP, {N_OBJECTS} objects, ten thresholds", taken, answer["seconds"])


if __name__ == "__main__":
    record() if "--record" in sys.argv[1:] else main()

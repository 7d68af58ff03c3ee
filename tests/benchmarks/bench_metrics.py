"""The time on 2,000 objects, and the counts of Cellpose that the tests compare with.

Cellpose solves one assignment per threshold. A quotient of pixel counts and a decimal literal round
alike, so both sides agree on exact ties as long as the thresholds are literals; with accumulated
ones (``numpy.arange(0.5, 1, 0.05)`` holds 0.6000000000000001) Cellpose loses the ties. Two more
differences are by definition and not drawn here: Cellpose counts a label number that is missing as
an object, and gives NaN for an empty truth against an empty prediction.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from scellseg_lib import metrics
from tests.benchmarks.clock import report, timed
from tests.benchmarks.label_pairs import disc_grid, random_pair
from tests.benchmarks.peer import numbered, run_peer

N_RECORDED, N_OBJECTS = 48, 2000
THRESHOLDS = (0.1, 0.3, *metrics.THRESHOLDS)  # two more than mAP's: below 0.5 matches compete
RECORDED = Path(__file__).parents[1] / "data" / "cellpose_counts.csv"


def record() -> None:
    """Write the peer's counts that the tests compare with (``bench_metrics --record``)."""
    true, predicted = zip(*map(random_pair, range(N_RECORDED)), strict=True)
    inputs = numbered(true=true, predicted=predicted) | {"thresholds": np.array(THRESHOLDS)}
    counts = run_peer("metrics", inputs)["counts"]  # int64[n_pairs, 3, n_thresholds]
    of = pd.MultiIndex.from_product([range(N_RECORDED), THRESHOLDS], names=["pair", "threshold"])
    rows = counts.swapaxes(1, 2).reshape(-1, 3)
    pd.DataFrame(rows, of, ["tp", "fp", "fn"]).to_csv(RECORDED, lineterminator="\n")


def main() -> None:
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

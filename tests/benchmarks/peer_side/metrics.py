"""Cellpose's counts of many label pairs, and its time for one large pair."""

import warnings

import numpy as np
from cellpose.metrics import average_precision

from tests.benchmarks.clock import timed


def main(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take ``thresholds`` and pairs ``true_0``, ``predicted_0`` ..; with ``timed``, time the first.

    Returns ``counts`` int64[n_pairs, 3, n_thresholds] (TP, FP, FN) and ``seconds``.
    """
    thresholds = inputs["thresholds"]
    counts = []
    for k in range(sum(name.startswith("true_") for name in inputs)):
        pair = inputs[f"true_{k}"], inputs[f"predicted_{k}"]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # nothing against nothing is 0 / 0 there
            counts.append(average_precision(*pair, threshold=thresholds)[1:])
    outputs = {"counts": np.array(counts).astype(np.int64)}
    if "timed" in inputs:
        first = inputs["true_0"], inputs["predicted_0"]
        outputs["seconds"] = timed(lambda: average_precision(*first, threshold=thresholds))[1]
    return outputs

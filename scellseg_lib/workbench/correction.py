"""A prediction against its correction: how good it was, and what was corrected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scellseg_lib.metrics import match, scores


class Comparison(NamedTuple):
    """A prediction against its correction."""

    ap50: float
    map: float
    predicted: int
    corrected: int
    added: int
    removed: int
    changed: int


def compare(predicted: np.ndarray, corrected: np.ndarray) -> Comparison:
    """Score a prediction against its correction, and count what was corrected.

    Parameters
    ----------
    predicted, corrected : int[H, W]
        Label images, 0 is background.

    Returns
    -------
    Comparison
        AP at an IoU of 0.5, mean AP, the numbers of cells, and how many were added (no predicted
        cell has an IoU of 0.5 with it), removed (the other way round) and changed (any pixel).

    Raises
    ------
    MetricError
        As `metrics.scores`.
    """
    ap = scores(corrected, predicted).ap
    matched = match(corrected, predicted, 0.5)
    mine = matched.objects[matched.objects["side"] == "true"]
    changed = int(((mine["outcome"] == "TP") & (mine["iou"] < 1)).sum())
    n_predicted, n_corrected = matched.tp + matched.fp, matched.tp + matched.fn
    return Comparison(
        float(ap[0]),
        float(ap.mean()),
        n_predicted,
        n_corrected,
        matched.fn,
        matched.fp,
        changed,
    )

"""How well predicted cells agree with true ones: AP, mAP and AJI from one overlap computation.

``AP(t) = TP / (TP + FP + FN)`` at an IoU threshold ``t``, per image, is **not** the COCO average
precision: nothing is ranked by confidence. An IoU of exactly one half passes the threshold 0.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, eye_array, hstack
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from scellseg_lib.errors import MetricError, ScellsegError
from scellseg_lib.samples import INT64_MAX, Sample, as_labels

THRESHOLDS = (0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)  # of mAP and mAJI
MEASURED = ("count", "total_area", "mean_area", "mean_length")  # length: of the major axis
_DECIMALS = 10**6  # thresholds are exact decimals of at most six places


@dataclass(frozen=True, eq=False)
class Overlap:
    """Objects of two label images, the true and the predicted, and the pairs that share pixels."""

    labels: Sequence[np.ndarray]  # of each image, ascending, without background
    areas: Sequence[np.ndarray]  # of these, in pixels
    index: tuple[np.ndarray, np.ndarray]  # where in them the two objects of each pair stand
    intersection: np.ndarray  # of each pair, in pixels
    union: np.ndarray
    iou: np.ndarray


class Scores(NamedTuple):
    """All scores of one image; the arrays are float64 (counts int64), one value per threshold."""

    thresholds: np.ndarray
    ap: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    aji: np.ndarray
    aji_standard: float


def overlap(true: np.ndarray, predicted: np.ndarray) -> Overlap:
    """Find all pairs of objects of two label images int[H, W], of one size, that share pixels."""
    if np.shape(true) != np.shape(predicted):
        what = f"the true labels are {np.shape(true)} pixels, the predicted {np.shape(predicted)}"
        remedy = "Resize the prediction to the image (nearest neighbour) before scoring it."
        raise MetricError(what, remedy=remedy)
    true = as_labels(true, "true labels", largest=INT64_MAX).ravel()
    predicted = as_labels(predicted, "predicted labels", largest=INT64_MAX).ravel()
    same = (true[1:] == true[:-1]) & (predicted[1:] == predicted[:-1])
    starts = np.flatnonzero(np.append(True, ~same))  # of runs that are alike in both; they are few
    length = np.append(0, np.diff(starts, append=true.size))  # 0 of a background that may lack
    sides = [pd.factorize(np.append(0, side[starts]), sort=True) for side in (true, predicted)]
    pixels = coo_array((length, (sides[0][0], sides[1][0]))).tocsr()  # by label and label
    labels = [present[1:].astype(np.int64) for _, present in sides]
    areas = [pixels.sum(axis=axis)[1:] for axis in (1, 0)]
    pairs = pixels[1:, 1:].tocoo()
    t, p = pairs.coords
    union = areas[0][t] + areas[1][p] - pairs.data
    return Overlap(labels, areas, (t, p), pairs.data, union, pairs.data / union)


def match(true: np.ndarray, predicted: np.ndarray, threshold: float = 0.5) -> pd.DataFrame:
    """Match objects one to one at an IoU threshold and say what became of each.

    Above 0.5 a match is unique. Up to it as many objects as possible are matched, and of such
    matchings that of the largest summed IoU is taken, of equal ones that of the largest overlap.

    A row per object: ``side`` ("true" or "predicted"), ``label``, ``area`` (pixels), ``outcome``
    ("TP", which stands on both sides, "FN" or "FP"), ``partner`` (the label it is matched to, 0 if
    none) and ``iou`` (with its partner; without one, the best with any object of the other side).
    """
    found = overlap(true, predicted)
    matched = _match_pairs(found, *_as_millionths([threshold]))
    frames = []
    for side, (name, missed) in enumerate((("true", "FN"), ("predicted", "FP"))):
        index, labels, other = found.index[side], found.labels[side], 1 - side
        partner, iou = np.zeros(len(labels), np.int64), np.zeros(len(labels))
        np.maximum.at(iou, index, found.iou)
        iou[index[matched]] = found.iou[matched]
        partner[index[matched]] = found.labels[other][found.index[other][matched]]
        outcome = np.where(partner > 0, "TP", missed)
        columns = {"label": labels, "area": found.areas[side], "outcome": outcome}
        frames.append(pd.DataFrame({"side": name, **columns, "partner": partner, "iou": iou}))
    return pd.concat(frames, ignore_index=True)


def scores(
    true: np.ndarray, predicted: np.ndarray, thresholds: Sequence[float] | np.ndarray = THRESHOLDS
) -> Scores:
    """Compute AP with its counts, AJI(t) and the standard AJI of one image.

    Empty truth against an empty prediction scores 1 (the released code: NaN). MetricError for an
    IoU threshold that is not above 0 and at most 1.
    """
    found = overlap(true, predicted)
    exact = _as_millionths(thresholds)
    matched = [_match_pairs(found, threshold) for threshold in exact]
    tp = np.array([len(pairs) for pairs in matched], np.int64)
    fn, fp = (len(labels) - tp for labels in found.labels)
    shared = np.array([found.intersection[pairs].sum() for pairs in matched], np.int64)
    covered = found.areas[0].sum() + found.areas[1].sum() - shared
    ap, aji = _divide(tp, tp + fp + fn), _divide(shared, covered)
    return Scores(exact / _DECIMALS, ap, tp, fp, fn, aji, _standard_aji(found))


def average_precision(
    true: np.ndarray, predicted: np.ndarray, thresholds: Sequence[float] | np.ndarray = THRESHOLDS
) -> np.ndarray:
    """Average precision float64[n_thresholds] of one image, of label images int[H, W]."""
    return scores(true, predicted, thresholds).ap


def aggregated_jaccard_index(
    true: np.ndarray, predicted: np.ndarray, threshold: float | None = None
) -> float:
    """Aggregated Jaccard index of one image; empty against empty gives 1.

    Without a threshold, the standard index (Kumar et al. 2017): each true cell is joined by the
    prediction of best IoU (ties to the lower label; one may serve twice), intersections and unions
    are summed, and cells that touch none and predictions never used add to the union. With a
    threshold ``t``, ``AJI(t)``, whose mean is the paper's mAJI (Eq. 5): only one-to-one matches of
    IoU >= t join, all other areas add to the union.
    """
    if threshold is None:
        return _standard_aji(overlap(true, predicted))
    return float(scores(true, predicted, [threshold]).aji[0])


def measurement_errors(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Predicted over true, less 1, of what is `MEASURED`; NaN where one side has no cells."""
    measured = []
    for masks, labels in zip((true, predicted), overlap(true, predicted).labels, strict=True):
        cell = np.searchsorted(labels, masks[at := np.nonzero(masks)])
        area = np.bincount(cell)
        y, x = (place - (np.bincount(cell, place) / area)[cell] for place in at)
        yy, xx, xy = (np.bincount(cell, product) / area for product in (y * y, x * x, x * y))
        cells = pd.DataFrame([area, 4 * np.sqrt((yy + xx) / 2 + np.hypot((yy - xx) / 2, xy))]).T
        measured.append(pd.Series([len(cells), cells[0].sum(), *cells.mean()], MEASURED))
    errors = (measured[1] / measured[0] - 1).replace(np.inf, np.nan)
    return dict(zip(MEASURED, errors.tolist(), strict=True))


def evaluate(
    predictions: Sequence[Any],
    truths: Sequence[Sample | np.ndarray],
    thresholds: Sequence[float] | np.ndarray = THRESHOLDS,
) -> pd.DataFrame:
    """Score many images.

    Parameters
    ----------
    predictions : sequence of int[H, W], or of objects with such ``masks``
        One per picture.
    truths : sequence of Sample or int[H, W]
        In the same order. A sample names its rows; a bare label image is named by its position.
    thresholds : sequence of float
        IoU thresholds above 0 and at most 1, compared with ``>=``.

    Returns
    -------
    DataFrame
        One row per image and threshold: ``image``, ``threshold``, ``ap``, ``tp``, ``fp``, ``fn``,
        ``aji`` (AJI at this threshold), and the same on all rows of an image: ``aji_standard``
        and its `measurement_errors`.
    """
    if len(predictions) != len(truths):
        what = f"there are {len(predictions)} predictions for {len(truths)} true label images"
        raise MetricError(what, remedy="Give one prediction per image, in the same order.")
    frames = []
    for position, (predicted, truth) in enumerate(zip(predictions, truths, strict=True)):
        name = getattr(truth, "name", str(position))
        true, found = (np.asarray(getattr(one, "masks", one)) for one in (truth, predicted))
        try:
            result = scores(true, found, thresholds)._asdict() | measurement_errors(true, found)
        except ScellsegError as error:
            error.where = f"image {name}" + (f", {error.where}" if error.where else "")
            raise
        frames.append(pd.DataFrame({"image": name, **result}))
    if not frames:
        raise MetricError("there is no image to score", remedy="Give at least one.")
    return pd.concat(frames, ignore_index=True).rename(columns={"thresholds": "threshold"})


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """``ap50``, ``ap75``, ``map`` and ``maji``: means over images of the frame of `evaluate`."""
    means = frame.groupby(frame["threshold"].round(6))[["ap", "aji"]].mean()
    if missing := [str(threshold) for threshold in THRESHOLDS if threshold not in means.index]:
        what = f"the scores lack the thresholds {', '.join(missing)}"
        raise MetricError(what, remedy="Call evaluate with its default thresholds.")
    ap, aji = (means.loc[[*THRESHOLDS], name] for name in ("ap", "aji"))
    means_of = {"ap50": ap[0.5], "ap75": ap[0.75], "map": ap.mean(), "maji": aji.mean()}
    return {name: float(value) for name, value in means_of.items()}


def _as_millionths(thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Thresholds in millionths, int64: 0.1 + 0.2 and 0.3 are the same threshold."""
    values = np.asarray(thresholds, np.float64)
    exact = np.rint(values * _DECIMALS)
    if values.ndim != 1 or not np.all((exact >= 1) & (exact <= _DECIMALS)):
        what = f"{thresholds} is not a sequence of IoU thresholds"
        raise MetricError(what, remedy="Give numbers above 0 and at most 1, such as [0.5, 0.75].")
    return exact.astype(np.int64)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part of the whole; nothing of nothing is all of it, so that empty images score 1."""
    return np.where(whole == 0, 1.0, part / np.maximum(whole, 1))


def _match_pairs(found: Overlap, threshold: int) -> np.ndarray:
    """Positions of the pairs that are matched one to one at a threshold in millionths."""
    pairs = np.flatnonzero(found.intersection * _DECIMALS >= threshold * found.union)
    t, p = found.index[0][pairs], found.index[1][pairs]
    alone = (np.bincount(t)[t] == 1) & (np.bincount(p)[p] == 1)
    if alone.all():  # as always above 0.5
        return pairs
    rivals, t, p = pairs[~alone], t[~alone], p[~alone]
    # Of equal IoUs the larger cells count more. Each true object may stay alone, in a column of
    # its own, but what a matching sums up to never outweighs one more pair.
    shared = found.intersection[rivals] / found.intersection[rivals].sum()
    gain = 2 + (found.iou[rivals] + 1e-9 * shared) / (2 * len(rivals))
    n_true, n_predicted = len(found.labels[0]), len(found.labels[1])
    graph = hstack([coo_array((gain, (t, p)), shape=(n_true, n_predicted)), eye_array(n_true)])
    partner = min_weight_full_bipartite_matching(graph.tocsr(), maximize=True)[1]
    return np.sort(np.append(pairs[alone], rivals[partner[t] == p]))


def _standard_aji(found: Overlap) -> float:
    """Standard aggregated Jaccard index (Kumar et al. 2017, algorithm 1)."""
    t, p = found.index
    order = np.lexsort((p, -found.iou, t))
    best = order[np.unique(t[order], return_index=True)[1]]
    union = found.union[best].sum()
    for areas, joined in zip(found.areas, (t[best], p[best]), strict=True):
        union += np.delete(areas, joined).sum()
    return float(_divide(found.intersection[best].sum(), union))

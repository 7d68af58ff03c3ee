"""Touching cells, and whether a segmentation tells them apart (Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scellseg_lib.metrics import match, overlap
from scellseg_lib.samples import Sample

Pairs = NDArray[np.int64]


def touching(masks: np.ndarray) -> Pairs:
    """Find the pairs of cells that share a border, corners included.

    Parameters
    ----------
    masks : int[H, W]
        Label image, 0 is background.

    Returns
    -------
    int64[n, 2]
        Labels of each pair once, the lower first, sorted.
    """
    labels = np.asarray(masks, np.int64)
    height, width = labels.shape
    found = [np.empty((0, 2), np.int64)]
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = labels[: height - down, max(-right, 0) : width - max(right, 0)]
        there = labels[down:, max(right, 0) : width + min(right, 0)]
        border = (here != there) & (here > 0) & (there > 0)
        found.append(np.stack((here[border], there[border]), axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def separated(true: np.ndarray, predicted: np.ndarray, pairs: Pairs) -> NDArray[np.bool_]:
    """Say of each pair of true cells whether no predicted one covers most of both.

    A cell that was not found at all is not merged with its neighbour either: see `both_found`.

    Parameters
    ----------
    true, predicted : int[H, W]
        Label images, 0 is background.
    pairs : int[n, 2]
        Labels of true cells.
    """
    shared = overlap(true, predicted)
    most = shared.intersection > 0.5 * shared.areas[0][shared.index[0]]
    # Most of a cell is covered by one prediction at most.
    covering = dict(
        zip(shared.labels[0][shared.index[0][most]], shared.index[1][most], strict=True)
    )
    merged = [a in covering and covering[a] == covering.get(b) for a, b in pairs.tolist()]
    return ~np.array(merged, np.bool_)


def both_found(true: np.ndarray, predicted: np.ndarray, pairs: Pairs) -> NDArray[np.bool_]:
    """Say of each pair of true cells whether both are found, at an IoU of 0.5.

    Parameters as in `separated`.
    """
    objects = match(true, predicted).objects
    hits = objects[(objects["side"] == "true") & (objects["outcome"] == "TP")]["label"]
    found = np.isin(pairs, hits.to_numpy())
    return found[:, 0] & found[:, 1]


def count(predictions: Sequence[Any], truths: Sequence[Sample]) -> pd.DataFrame:
    """Count touching cells, and those told apart, in every image.

    Parameters
    ----------
    predictions : sequence of int[H, W], or of objects with such ``masks``
    truths : sequence of Sample
        Labelled, in the same order.

    Returns
    -------
    DataFrame
        One row an image: ``image``, ``pairs``, ``separated``, ``both_found``.
    """
    rows = []
    for prediction, sample in zip(predictions, truths, strict=True):
        masks = getattr(prediction, "masks", prediction)
        pairs = touching(sample.masks)
        apart = separated(sample.masks, masks, pairs)
        found = both_found(sample.masks, masks, pairs)
        counts = {"pairs": len(pairs), "separated": int(apart.sum()), "both_found": found.sum()}
        rows.append({"image": sample.name} | counts)
    return pd.DataFrame(rows)

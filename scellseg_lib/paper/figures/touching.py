"""Touching cells, and whether a segmentation tells them apart (Fig. 3)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from scellseg_lib.metrics import match, overlap
from scellseg_lib.paper.figures.pipeline import draw_outlines
from scellseg_lib.plots import PREDICTED, TRUE, colour_flows
from scellseg_lib.samples import Sample, normalise
from scellseg_lib.segmentation import Cells

Pairs = NDArray[np.int64]


def find_touching(masks: np.ndarray) -> Pairs:
    """Pairs of cells that share a border or corner: labels int64[n, 2], the lower first, sorted."""
    labels, found = np.pad(np.asarray(masks, np.int64), 1), []
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):  # round the edge, where there are no cells
        other = np.roll(labels, shift, (0, 1))
        border = (labels != other) & (labels > 0) & (other > 0)
        found.append(np.stack((labels[border], other[border]), axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def are_separated(true: np.ndarray, predicted: np.ndarray, pairs: Pairs) -> NDArray[np.bool_]:
    """Say of each pair of `find_touching` whether no predicted cell covers most of both.

    A cell that was not found at all is not merged with its neighbour either: see `are_found`.
    """
    shared = overlap(true, predicted)
    most = shared.intersection > 0.5 * shared.areas[0][shared.index[0]]
    covered, by = shared.labels[0][shared.index[0][most]], shared.index[1][most]
    covering = dict(zip(covered, by, strict=True))  # one prediction at most covers most of a cell
    merged = [a in covering and covering[a] == covering.get(b) for a, b in pairs.tolist()]
    return ~np.array(merged, np.bool_)


def are_found(true: np.ndarray, predicted: np.ndarray, pairs: Pairs) -> NDArray[np.bool_]:
    """Say of each pair of true cells whether both are found, at an IoU of 0.5."""
    hits = match(true, predicted).query("side == 'true' and outcome == 'TP'")["label"]
    found = np.isin(pairs, hits.to_numpy())
    return found[:, 0] & found[:, 1]


def count_touching(predictions: Sequence[Cells], truths: Sequence[Sample]) -> pd.DataFrame:
    """Count touching cells, and those told apart, in every image: a row each."""
    rows = []
    for cells, sample in zip(predictions, truths, strict=True):
        pairs = find_touching(sample.masks)
        separated = are_separated(sample.masks, cells.masks, pairs).sum()
        both_found = are_found(sample.masks, cells.masks, pairs).sum()
        rows.append((sample.name, len(pairs), separated, both_found))
    return pd.DataFrame(rows, columns=["image", "pairs", "separated", "both_found"])


def draw_before_and_after(
    axes: Sequence[Axes], sample: Sample, found: Mapping[str, Cells], pairs: Pairs, side: int
) -> None:
    """Draw flows and masks of an image by several models, around touching cells.

    Two axes for each model, by its name: flows, then masks over the image. Arrows point at the
    ``pairs`` of touching true cells, from a + where the model finds both, else from a -. The window
    of ``side`` pixels is where most of them are; the bar is as long as the cells' median diameter.
    """
    height, width = sample.masks.shape
    borders = np.array([_find_border(sample.masks, *pair) for pair in pairs.tolist()])
    y, x = height / 2, width / 2
    if len(borders):
        near = (abs(borders[:, None] - borders) < side / 2).all(axis=2).sum(axis=1)
        y, x = borders[near.argmax()]
    top = min(max(y - side / 2, 0), max(height - side, 0))
    left = min(max(x - side / 2, 0), max(width - side, 0))
    for (name, cells), flows, masks in zip(found.items(), axes[::2], axes[1::2], strict=True):
        # At the 30-px scale, stretched over the image's own pixels.
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        flows.imshow(colour_flows(cells.flows), extent=extent)
        masks.imshow(normalise(sample.image)[0], vmin=0, vmax=1)
        draw_outlines(masks, sample.masks, TRUE, "-")
        draw_outlines(masks, cells.masks, PREDICTED, ":")
        both_found = are_found(sample.masks, cells.masks, pairs)
        for (row, column), both in zip(borders, both_found, strict=True):
            aside = side / 7 if column < left + side / 2 else -side / 7  # within the window
            start = (column + aside, row - side / 7)
            look: dict[str, Any] = {"color": "#56B4E9", "weight": "bold", "annotation_clip": True}
            look["arrowprops"] = {"arrowstyle": "->", "color": "#56B4E9", "shrinkA": 0}
            masks.annotate("+" if both else "\N{MINUS SIGN}", (column, row), start, **look)
        for panel, what in ((flows, "flows"), (masks, "masks")):
            panel.set(xlim=(left, left + side), ylim=(top + side, top))
            panel.set_axis_off()
            panel.set_title(f"{name}: {what}", fontsize=6)
    begin, at = left + side / 20, top + 0.95 * side
    axes[0].plot([begin, begin + sample.diameter], [at, at], color="white", linewidth=2)
    told = f"median cell, {sample.diameter:.0f} px"
    axes[0].text(begin, at - side / 40, told, color="white", fontsize=5.5, va="bottom")


def _find_border(masks: np.ndarray, first: int, second: int) -> tuple[float, float]:
    """Middle (y, x) of the pixels of the first cell that touch the second."""
    beside = binary_dilation(masks == second, np.ones((3, 3))) & (masks == first)
    rows, columns = np.nonzero(beside)
    return float(rows.mean()), float(columns.mean())

"""What Python does to cells: each function makes the patch, and changes nothing itself.

All take labels, int32[H, W], 0 being background. Points are (y, x) in pixels, as the page has
them: the middle of the first pixel is at (0.5, 0.5). What cannot be done raises an ImageError.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import expand_labels, relabel_sequential

from scellseg_lib.errors import ImageError
from scellseg_lib.metrics import overlap
from scellseg_lib.workbench.editor.patches import Patch, diff, set_pixels

SHARE_OF_SAME = 1 / 3
"""A found cell that shares more than this with a drawn one is the same cell. On seven data sets
whose cells were half drawn, half found by the authors' Scellseg, this took no cell for two, and at
most 4 % of the neighbours for one."""
FIXED_POINT_BITS = 4  # of OpenCV's coordinates: it draws to 1/16 of a pixel
FARTHEST = 1e6  # pixels; beyond it OpenCV's coordinates overflow


def delete(labels: np.ndarray, cells: Sequence[int]) -> Patch:
    """Remove cells."""
    return set_pixels(labels, np.flatnonzero(np.isin(labels, [*_find_boxes(labels, cells)])), 0)


def merge(labels: np.ndarray, cells: Sequence[int]) -> Patch:
    """Make one cell of two or more; it has the smallest of their labels."""
    boxes = _find_boxes(labels, cells)
    if len(boxes) < 2:
        remedy = "Select two or more: hold Shift and click on them."
        raise ImageError("one cell cannot be merged", remedy=remedy)
    return set_pixels(labels, np.flatnonzero(np.isin(labels, [*boxes])), min(boxes))


def split(labels: np.ndarray, cells: Sequence[int], line: np.ndarray) -> Patch:
    """Cut cells along a drawn line, float[n, 2]; without `cells`, all those that it cuts.

    The largest part of a cell keeps its label, the others get new ones. Pixels under the line go to
    the nearest part: none is lost.
    """
    cut = _draw(labels.shape, line, closed=False)
    under = np.unique(labels[cut])
    after, free = labels.copy(), int(labels.max(initial=0)) + 1
    for cell, box in _find_boxes(labels, cells if len(cells) else under[under > 0]).items():
        inside = labels[box] == cell
        parts, n_parts = ndimage.label(inside & ~cut[box])
        # A cell may have been in pieces before, and the line may cover a piece as a whole.
        pieces = np.unique(ndimage.label(inside)[0][inside & ~cut[box]])
        if n_parts <= len(pieces):
            continue
        parts = np.where(inside, expand_labels(parts, np.inf), 0)
        near_line = ndimage.binary_dilation(cut[box] & inside)
        sizes = np.bincount(parts[inside])[1:]
        for part in np.argsort(-sizes, kind="stable")[1:] + 1:
            if near_line[parts == part].any():  # it is no piece that was apart before
                after[box][parts == part], free = free, free + 1
    if (after == labels).all():
        remedy = "Draw it across the whole cell, from outside to outside."
        raise ImageError("the line cuts no cell in two", remedy=remedy)
    return diff(labels, after)


def fill_holes(labels: np.ndarray, cells: Sequence[int]) -> Patch:
    """Fill holes of cells (none: of all) that hold background; other cells in them stay."""
    after = labels.copy()
    boxes = _find_boxes(labels, cells if len(cells) else None)
    # The hole of a ring in a ring belongs to the inner one.
    for cell in sorted(boxes, key=lambda cell: labels[boxes[cell]].size):
        box = boxes[cell]
        after[box][ndimage.binary_fill_holes(labels[box] == cell) & (after[box] == 0)] = cell
    return diff(labels, after)


def outline(labels: np.ndarray, points: np.ndarray, cell: int, *, protect: bool = True) -> Patch:
    """Fill a drawn outline, float[n, 2], with a cell; `protect` spares the others' pixels."""
    if len(points) < 3:
        raise ImageError("this is no outline", remedy="Draw around the cell.")
    inside = _draw(labels.shape, points, closed=True)
    if protect:
        inside &= (labels == 0) | (labels == cell)
    patch = set_pixels(labels, np.flatnonzero(inside), cell)
    if not patch.n_pixels:
        remedy = "Other cells are protected: turn that off to draw over them."
        raise ImageError("there is no free pixel inside of the outline", remedy=remedy)
    return patch


def add_found(labels: np.ndarray, found: np.ndarray) -> Patch:
    """Add cells that a model has found, int[H, W]; those that are there stay as they are.

    A found cell is left out where more than a third of it, or of a cell that is there, is shared.
    Of the others the shared pixels are cut off, and the largest of the pieces remains.
    """
    if found.shape != labels.shape:
        what = f"the image is of {labels.shape} px, the masks that were found of {found.shape}"
        raise ImageError(what, remedy="Open the image again.")
    both = overlap(labels, found)
    (drawn, mine), (areas_drawn, areas) = both.index, both.areas
    shared = np.bincount(mine, both.intersection, len(areas))
    same = shared > SHARE_OF_SAME * areas
    same[mine[both.intersection > SHARE_OF_SAME * areas_drawn[drawn]]] = True
    after, boxes = labels.copy(), ndimage.find_objects(found)
    for new, cell in enumerate(both.labels[1][~same], int(labels.max(initial=0)) + 1):
        box = boxes[cell - 1]
        inside = found[box] == cell
        if labels[box][inside].any():
            inside &= labels[box] == 0
            pieces, _ = ndimage.label(inside, np.ones((3, 3)))  # pixels may touch at a corner
            inside = pieces == np.bincount(pieces[inside]).argmax()
        after[box][inside] = new
    return diff(labels, after)


def relabel(labels: np.ndarray) -> Patch:
    """Number the cells 1 to n, in the order of their labels."""
    return diff(labels, relabel_sequential(labels)[0])


def _find_boxes(labels: np.ndarray, cells: Iterable[int] | None) -> dict[int, tuple[slice, ...]]:
    """Boxes of cells (None: of all), in the order of their labels."""
    there = {cell: box for cell, box in enumerate(ndimage.find_objects(labels), 1) if box}
    asked = sorted(there if cells is None else {int(cell) for cell in cells})
    if missing := [cell for cell in asked if cell not in there]:
        what = f"there is no cell {missing[0]}"
        raise ImageError(what, remedy="Choose one of the list of cells.")
    return {cell: there[cell] for cell in asked}


def _draw(shape: tuple[int, ...], points: np.ndarray, *, closed: bool) -> np.ndarray:
    """Pixels under a line, or under and inside of one that closes itself, bool[H, W]."""
    corners = np.atleast_2d(np.asarray(points, np.float64))
    if corners.shape[1:] != (2,) or not np.isfinite(corners).all():
        raise ImageError("a line is points (y, x)", remedy="Draw it once more.")
    corners = np.clip(corners, -FARTHEST, FARTHEST) - 0.5  # for OpenCV the first middle is at 0
    fixed = np.round(corners[:, ::-1] * 2**FIXED_POINT_BITS).astype(np.int32)[:, None]
    canvas = np.zeros(shape, np.uint8)
    # Four-connected, so that no corner of a cell slips through between two pixels of the line.
    cv2.polylines(canvas, [fixed], closed, 1, 1, cv2.LINE_4, FIXED_POINT_BITS)
    if closed:
        cv2.fillPoly(canvas, [fixed], 1, cv2.LINE_4, FIXED_POINT_BITS)
    return canvas.astype(bool)

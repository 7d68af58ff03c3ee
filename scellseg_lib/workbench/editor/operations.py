"""What the mask editor can do to cells: each function gives the patch and changes nothing itself.

All take labels, int32[H, W], 0 being background. Points are (y, x) in pixels, as the browser has
them: the middle of the first pixel is at (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage

from scellseg_lib.errors import ImageError
from scellseg_lib.metrics import overlap
from scellseg_lib.workbench.editor.patches import Patch, difference, set_pixels

_PART = 16  # of a pixel, to which OpenCV's coordinates are exact
_FAR = 1e6  # pixels: beyond it OpenCV's coordinates overflow
_SAME = 1 / 3
"""Share of a cell above which what covers it is the same cell, found and drawn. Of seven data sets
whose cells were half drawn, half found by the authors' Scellseg, no cell came twice by it, and at
most 4 % of the neighbours were taken for one."""


def delete(labels: np.ndarray, cells: Sequence[int]) -> Patch:
    """Remove cells."""
    return set_pixels(labels, _pixels(labels, _chosen(labels, cells)), 0)


def merge(labels: np.ndarray, cells: Sequence[int]) -> Patch:
    """Make one cell of several; it has the smallest of their labels.

    Raises
    ------
    ImageError
        For fewer than two cells.
    """
    chosen = _chosen(labels, cells)
    if len(chosen) < 2:
        raise ImageError(
            "one cell cannot be merged", remedy="Select two or more: hold Shift and click on them."
        )
    return set_pixels(labels, _pixels(labels, chosen), min(chosen))


def split(labels: np.ndarray, cells: Sequence[int], line: np.ndarray) -> Patch:
    """Cut cells along a drawn line.

    Parameters
    ----------
    cells : sequence of int
        Which; none: all that the line cuts.
    line : float[n, 2]
        Points of the line.

    Returns
    -------
    Patch
        The largest part of a cell keeps its label, the others get new ones. Pixels under the line
        go to the part that is nearest: none is lost.

    Raises
    ------
    ImageError
        Where the line cuts no cell in two.
    """
    cut = _drawn(labels.shape, line, closed=False)
    under = np.unique(labels[cut])
    after, free = labels.copy(), int(labels.max(initial=0)) + 1
    chosen = _chosen(labels, cells if len(cells) else under[under > 0])
    for cell, box in chosen.items():
        inside = labels[box] == cell
        parts, n_parts = ndimage.label(inside & ~cut[box])
        whole = np.unique(ndimage.label(inside)[0][inside & ~cut[box]])
        if n_parts <= len(whole):  # pieces that were apart before, or that the line covers
            continue
        nearest = ndimage.distance_transform_edt(
            parts == 0, return_distances=False, return_indices=True
        )
        parts = np.where(inside, parts[tuple(nearest)], 0)
        sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)[1:]
        names = np.zeros(n_parts + 1, np.int32)
        for part in np.argsort(-sizes, kind="stable") + 1:
            touched = (cut[box] & (parts == part)).any() or (
                ndimage.binary_dilation(cut[box]) & (parts == part)
            ).any()
            if names.any() and touched:
                names[part], free = free, free + 1
            else:  # the largest, or a piece that the line does not touch
                names[part] = cell
        after[box][inside] = names[parts[inside]]
    if (after == labels).all():
        raise ImageError(
            "the line cuts no cell in two",
            remedy="Draw it across the whole cell, from outside to outside.",
        )
    return difference(labels, after)


def fill_holes(labels: np.ndarray, cells: Sequence[int]) -> Patch:
    """Fill holes of cells that hold background; other cells in them stay. None: of all cells."""
    after = labels.copy()
    chosen = _chosen(labels, cells if len(cells) else None)
    inner_first = sorted(chosen, key=lambda cell: labels[chosen[cell]].size)  # of rings in rings
    for cell in inner_first:
        box = chosen[cell]
        filled = ndimage.binary_fill_holes(labels[box] == cell)
        after[box][filled & (after[box] == 0)] = cell
    return difference(labels, after)


def outline(labels: np.ndarray, points: np.ndarray, cell: int, *, protect: bool = True) -> Patch:
    """Fill a drawn outline, which closes itself, with a cell.

    Parameters
    ----------
    points : float[n, 2]
        Its corners; pixels on the way belong to the cell.
    cell : int
        A new label, or that of a cell which grows.
    protect : bool
        Leave the pixels of other cells.

    Raises
    ------
    ImageError
        For fewer than three points, or where no pixel is free.
    """
    if len(points) < 3:
        raise ImageError("this is no outline", remedy="Draw around the cell.")
    inside = _drawn(labels.shape, points, closed=True)
    inside &= (labels == 0) | (labels == cell) if protect else True
    patch = set_pixels(labels, np.flatnonzero(inside), cell)
    if not patch.n_pixels:
        raise ImageError(
            "there is no free pixel inside of the outline",
            remedy="Other cells are protected: turn that off to draw over them.",
        )
    return patch


def add_found(labels: np.ndarray, found: np.ndarray) -> Patch:
    """Add cells that a model has found; those that are there stay as they are.

    Parameters
    ----------
    found : int[H, W]
        Label image, 0 is background.

    Returns
    -------
    Patch
        A found cell is left out where more than a third of it, or of a cell that is there, is
        shared. Of the others the shared pixels are cut off, and the largest of the pieces remains.

    Raises
    ------
    ImageError
        For masks of another size.
    """
    if found.shape != labels.shape:
        raise ImageError(
            f"the image is of {labels.shape} px, the masks that were found of {found.shape}",
            remedy="Open the image again.",
        )
    both = overlap(labels, found)
    (drawn, mine), (areas_drawn, areas) = both.index, both.areas
    shared = np.bincount(mine, both.intersection, len(areas))
    same = shared > _SAME * areas
    same[mine[both.intersection > _SAME * areas_drawn[drawn]]] = True
    after, boxes = labels.copy(), ndimage.find_objects(found)
    for new, k in enumerate(np.flatnonzero(~same), int(labels.max(initial=0)) + 1):
        cell = int(both.labels[1][k])
        box = boxes[cell - 1]
        inside = found[box] == cell
        after[box][_largest(inside & (labels[box] == 0)) if shared[k] else inside] = new
    return difference(labels, after)


def relabel(labels: np.ndarray) -> Patch:
    """Number the cells 1 to n, in the order of their labels."""
    known = np.unique(labels[labels > 0])
    return difference(labels, np.where(labels > 0, np.searchsorted(known, labels) + 1, 0))


def _chosen(
    labels: np.ndarray, cells: Sequence[int] | np.ndarray | None
) -> dict[int, tuple[slice, slice]]:
    """Boxes of cells, each with a pixel around it, in the order of their labels; None: of all.

    ImageError for a cell that there is not.
    """
    boxes = ndimage.find_objects(labels)
    there = {cell: box for cell, box in enumerate(boxes, 1) if box is not None}
    asked = sorted(there if cells is None else {int(cell) for cell in cells})
    if missing := [cell for cell in asked if cell not in there]:
        raise ImageError(
            f"there is no cell {missing[0]}", remedy="Choose one of the list of cells."
        )
    wider: dict[int, tuple[slice, slice]] = {}
    for cell in asked:
        rows, columns = there[cell]
        wider[cell] = (
            slice(max(rows.start - 1, 0), rows.stop + 1),
            slice(max(columns.start - 1, 0), columns.stop + 1),
        )
    return wider


def _largest(inside: np.ndarray) -> np.ndarray:
    """Largest piece, bool[h, w]; corners hold together."""
    pieces, _ = ndimage.label(inside, np.ones((3, 3)))
    return pieces == np.bincount(pieces[inside]).argmax()


def _pixels(labels: np.ndarray, chosen: dict[int, tuple[slice, slice]]) -> np.ndarray:
    """Indices of the pixels of cells, row by row."""
    inside = np.zeros(labels.shape, bool)
    for cell, box in chosen.items():
        inside[box] |= labels[box] == cell
    return np.flatnonzero(inside)


def _drawn(shape: tuple[int, ...], points: np.ndarray, *, closed: bool) -> np.ndarray:
    """Pixels under a line, or inside of one that closes itself and under it, bool[H, W]."""
    corners = np.atleast_2d(np.asarray(points, np.float64))
    if corners.shape[1:] != (2,) or not np.isfinite(corners).all():
        raise ImageError("a line is points (y, x)", remedy="Draw it once more.")
    corners = np.clip(corners, -_FAR, _FAR) - 0.5  # OpenCV counts from middles
    fixed = np.round(corners[:, ::-1] * _PART).astype(np.int32)[:, None]
    canvas = np.zeros(shape, np.uint8)
    shift = _PART.bit_length() - 1
    # Four-connected, so that no corner of a cell slips through between two pixels of the line.
    cv2.polylines(canvas, [fixed], closed, 1, 1, cv2.LINE_4, shift)
    if closed:
        cv2.fillPoly(canvas, [fixed], 1, cv2.LINE_4, shift)
    return canvas.astype(bool)

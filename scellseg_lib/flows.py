"""Masks to flows and flows to masks: compiled, parallel over cells and pixels.

A cell is encoded as the direction in which heat that is fed at its centre would flow back to it:
(dy, dx) of unit length (docs/method.md, section 2; Stringer et al. 2021). Following that field from
every cell pixel gathers a cell's pixels at one sink, which tells touching cells apart.
"""

from typing import Literal

import cv2
import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scellseg_lib.errors import ScellsegError

Labels = NDArray[np.int32]
Field = NDArray[np.float32]

MAX_FRACTION = 0.4  # a mask over this fraction of the image is the background, and dropped
_SEED_COUNT = 10  # a sink must gather more pixels than this (Cellpose's value)
_SPREAD_COUNT = 2  # a pixel of the histogram joins its sink when more pixels than this end there
_PAD = 20
_BLOCK = 64


def masks_to_flows(masks: Labels, *, centre: Literal["median", "mean"] = "median") -> Field:
    """Encode instances as unit flows of simulated diffusion (Methods, "Representation").

    Heat 1 is added at the centre each step, then each pixel takes the mean of its 9 neighbours in
    the cell, ``2 * (height + width)`` steps of the bounding box; the flow is the normalised
    gradient.

    Parameters
    ----------
    masks : int32[H, W]
        Instance labels, 0 is background; need not be contiguous.
    centre : {"median", "mean"}
        The centre is the cell's pixel nearest to the median (the paper) or mean (Cellpose 3.1)
        position. "mean" also takes the 8 extra steps of Cellpose 3.1.

    Returns
    -------
    float32[2, H, W]
        (dy, dx), unit length inside cells (0 where a cell has no gradient), 0 outside.
    """
    if centre not in ("median", "mean"):
        raise ScellsegError(f"centre={centre!r} is unknown", remedy="Use 'median' or 'mean'.")
    masks = _copy_labels(masks)
    flows = np.zeros((2, *masks.shape), np.float32)
    if masks.any():
        boxes = np.array(
            [
                (label, box[0].start, box[0].stop, box[1].start, box[1].stop)
                for label, box in enumerate(ndimage.find_objects(masks), start=1)
                if box is not None
            ],
            np.int32,
        )
        extra_steps = 8 if centre == "mean" else 0  # its box is wider by two pixels each way
        # Large cells first and dealt out evenly: threads end together.
        area = (boxes[:, 2] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 3])
        dealt = boxes[np.argsort(-area, kind="stable")]
        _diffuse_cells(masks, dealt, centre == "mean", extra_steps, numba.get_num_threads(), flows)
    return flows


def flows_to_masks(
    flows: Field,
    cell_logit: Field,
    *,
    cell_threshold: float = 0.5,
    flow_threshold: float = 0.4,
    n_steps: int = 200,
    min_size: int = 35,
) -> Labels:
    """Decode instances by following flows from every cell pixel to its sink (docs/method.md, 5).

    Parameters
    ----------
    flows : float32[2, H, W]
        (dy, dx) of unit scale: the network's output divided by 5.
    cell_logit : float32[H, W]
        Logit of being in a cell.
    cell_threshold : float
        Pixels with a logit above it move.
    flow_threshold : float
        Masks are dropped whose own flow differs more from the given one (mean squared); 0: none.
    n_steps : int
        Euler steps of at most one pixel.
    min_size : int
        Masks of fewer pixels are dropped, and so are true cells that small: perfect flows of the
        35 contrast images give AP@0.5 0.991 at 35 and 0.998 at 15.

    Returns
    -------
    int32[H, W]
        Labels 1..n in raster order of their first pixel.
    """
    flows = np.asarray(flows, np.float32)
    foreground = np.asarray(cell_logit) > cell_threshold
    if flows.shape != (2, *foreground.shape):
        what = f"flows of shape {flows.shape} do not fit a map of shape {foreground.shape}"
        raise ScellsegError(what, remedy="Give flows as [2, H, W] and the cell logit as [H, W].")
    masks = np.zeros(foreground.shape, np.int32)
    ys, xs = np.nonzero(foreground)
    if len(ys) == 0:
        return masks
    field = np.zeros((foreground.shape[0] + 1, foreground.shape[1] + 1, 2), np.float32)
    # What is no number would move points out of the image, and the compiled look-up with them.
    moving = np.where(foreground & np.isfinite(flows), flows, 0)
    field[:-1, :-1] = np.moveaxis(moving, 0, -1)
    ends = _follow(field, ys, xs, n_steps)
    masks[ys, xs] = _label_sinks(ends, foreground.shape)
    masks = _keep(masks, np.bincount(masks.ravel()) <= MAX_FRACTION * masks.size)
    if flow_threshold > 0:
        masks = _keep(masks, flow_errors(masks, flows) <= flow_threshold)
    return tidy(masks, min_size)


def flow_errors(masks: Labels, flows: Field) -> NDArray[np.float64]:
    """Mean squared difference of given flows to those of each mask; index is the label."""
    difference, labels = ((masks_to_flows(masks) - flows) ** 2).sum(axis=0), masks.ravel()
    return np.bincount(labels, difference.ravel()) / np.maximum(np.bincount(labels), 1)


def tidy(masks: Labels, min_size: int) -> Labels:
    """Fill holes, drop masks under ``min_size`` pixels, relabel 1..n in raster order."""
    masks = _copy_labels(masks)
    holes = _find_enclosed(masks > 0)
    for label, box in enumerate(ndimage.find_objects(masks), start=1):
        if box is not None and holes[box].any():
            crop = masks[box]
            crop[_find_enclosed(crop == label) & (crop == 0)] = label
    return relabel(_keep(masks, np.bincount(masks.ravel()) >= max(min_size, 1)))


def _find_enclosed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels from which no 4-connected way leads round the mask and out of the image."""
    reached = np.pad(mask.astype(np.uint8), 1)
    cv2.floodFill(reached, None, (0, 0), 1)
    return reached[1:-1, 1:-1] == 0


def _keep(masks: Labels, kept: NDArray[np.bool_]) -> Labels:
    """Masks whose labels are to stay (bool[n + 1]), and nothing of the others."""
    return np.where(kept[masks], masks, 0).astype(np.int32)


def relabel(masks: Labels) -> Labels:
    """Give labels 1..n in raster order of each mask's first pixel."""
    out = _copy_labels(masks)
    _relabel_in_place(out.reshape(-1), np.zeros(int(out.max(initial=0)) + 1, np.int32))
    return out


def _copy_labels(masks: NDArray[np.integer]) -> Labels:
    """Copy labels, in the same order but no larger than memory in the size of the image allows."""
    if masks.size and masks.max() > masks.size:
        values, places = np.unique(np.maximum(masks, 0), return_inverse=True)
        masks = places + (values[0] > 0)
    return np.array(masks, np.int32, order="C")


def _label_sinks(ends: NDArray[np.int32], shape: tuple[int, int]) -> Labels:
    """Label the end points int32[n, 2] by the peak of their histogram that they fell to."""
    height, width = shape[0] + 2 * _PAD, shape[1] + 2 * _PAD
    flat = (ends[:, 0] + _PAD) * width + ends[:, 1] + _PAD
    counts = np.bincount(flat, minlength=height * width).reshape(height, width)
    highest = ndimage.maximum_filter(counts, 5)
    peaks = np.argwhere((counts == highest) & (counts > _SEED_COUNT))
    # The largest first; a later, smaller sink takes the pixels that both claim.
    order = np.argsort(-counts[peaks[:, 0], peaks[:, 1]], kind="stable")
    return _spread(counts, peaks[order]).reshape(-1)[flat]


@numba.njit(cache=True)
def _relabel_in_place(labels, new):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(labels.size):
        old = labels[i]
        if old > 0:
            if new[old] == 0:
                n += 1
                new[old] = n
            labels[i] = new[old]


@numba.njit(cache=True)
def _centre(cell, use_mean):  # type: ignore[no-untyped-def]
    """Pixel of a cell (bool[h, w]) nearest to its median or mean position."""
    ys, xs = np.nonzero(cell)
    cy, cx = (ys.mean(), xs.mean()) if use_mean else (np.median(ys), np.median(xs))
    nearest = np.argmin((ys - cy) ** 2 + (xs - cx) ** 2)
    return ys[nearest], xs[nearest]


@numba.njit(cache=True, fastmath=True)
def _diffuse(cell, cy, cx, n_steps):  # type: ignore[no-untyped-def]
    """Heat float64[h + 2, w + 1] of a cell after ``n_steps``, with zeros above, below and right of
    it. Its rows lie end to end: loops over one slice are vector instructions, 2.4 times faster.
    """
    height, width = cell.shape
    stride = width + 1
    weight = np.zeros((height + 2) * stride + 2)
    inner = weight[1:-1].reshape(height + 2, stride)
    for y in range(height):
        for x in range(width):
            if cell[y, x]:
                inner[y + 1, x] = 1.0 / 9.0
    heat, after, column = np.zeros_like(weight), np.zeros_like(weight), np.empty_like(weight)
    centre = 1 + (cy + 1) * stride + cx
    for step in range(n_steps):
        heat[centre] += 1.0
        # Heat spreads a pixel a step: rows that it cannot have reached stay zero.
        low = 1 + max(1, cy - step) * stride
        high = 1 + (min(height, cy + 2 + step) + 1) * stride
        above = heat[low - stride - 1 : high - stride + 1]
        here = heat[low - 1 : high + 1]
        below = heat[low + stride - 1 : high + stride + 1]
        sums = column[: high - low + 2]
        for i in range(sums.size):
            sums[i] = above[i] + here[i] + below[i]
        left, middle, right = sums[:-2], sums[1:-1], sums[2:]
        out, w = after[low:high], weight[low:high]
        for i in range(out.size):
            out[i] = (left[i] + middle[i] + right[i]) * w[i]
        heat, after = after, heat
    return heat[1:-1].reshape(height + 2, stride)


@numba.njit(cache=True, parallel=True)
def _diffuse_cells(masks, boxes, use_mean, extra_steps, n_threads, flows):  # type: ignore[no-untyped-def]
    for thread in numba.prange(n_threads):
        for i in range(thread, len(boxes), n_threads):
            label, top, bottom, left, right = boxes[i]
            cell = masks[top:bottom, left:right] == label
            cy, cx = _centre(cell, use_mean)
            heat = _diffuse(cell, cy, cx, 2 * (cell.shape[0] + cell.shape[1]) + extra_steps)
            for y in range(cell.shape[0]):
                for x in range(cell.shape[1]):
                    if cell[y, x]:
                        dy = heat[y + 2, x] - heat[y, x]
                        before = heat[y + 1, x - 1] if x else 0.0
                        dx = heat[y + 1, x + 1] - before
                        # hypot keeps the tiny heat at the tips of long cells from underflowing.
                        length = np.hypot(dy, dx)
                        if length > 0:
                            flows[0, top + y, left + x] = dy / length
                            flows[1, top + y, left + x] = dx / length


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _follow(field, ys, xs, n_steps):  # type: ignore[no-untyped-def]
    """End pixels int32[n, 2] of points moved along field[H + 1, W + 1, 2], looked up bilinearly.

    The last row and column are padding. Points advance in blocks, as a step waits for the look-up
    before it: 2.6 times faster than one after another.
    """
    bottom, right = np.float32(field.shape[0] - 2), np.float32(field.shape[1] - 2)
    stride = np.int64(2 * field.shape[1])
    flat = field.reshape(-1)
    ends = np.empty((len(ys), 2), np.int32)
    for block in numba.prange((len(ys) + _BLOCK - 1) // _BLOCK):
        start = block * _BLOCK
        n = min(_BLOCK, len(ys) - start)
        y, x = np.zeros(_BLOCK, np.float32), np.zeros(_BLOCK, np.float32)
        for k in range(n):
            y[k], x[k] = ys[start + k], xs[start + k]
        for _ in range(n_steps):
            for k in range(_BLOCK):
                row, column = np.int32(y[k]), np.int32(x[k])
                fy, fx = y[k] - np.float32(row), x[k] - np.float32(column)
                gy, gx = np.float32(1) - fy, np.float32(1) - fx
                a, b, c, d = gy * gx, gy * fx, fy * gx, fy * fx
                i = row * stride + 2 * column
                j = i + stride
                dy = a * flat[i] + b * flat[i + 2] + c * flat[j] + d * flat[j + 2]
                dx = a * flat[i + 1] + b * flat[i + 3] + c * flat[j + 1] + d * flat[j + 3]
                y[k] = min(max(y[k] + dy, np.float32(0)), bottom)
                x[k] = min(max(x[k] + dx, np.float32(0)), right)
        for k in range(n):
            ends[start + k, 0], ends[start + k, 1] = np.int32(y[k]), np.int32(x[k])
    return ends


@numba.njit(cache=True)
def _spread(counts, peaks):  # type: ignore[no-untyped-def]
    """Grow each peak five times by a pixel, within its 11 x 11 window, where points end."""
    sinks = np.zeros(counts.shape, np.int32)
    for label in range(len(peaks)):
        py, px = peaks[label]
        grown = np.zeros((13, 13), np.bool_)
        grown[6, 6] = True
        for _ in range(5):
            before = grown.copy()
            for y in range(1, 12):
                for x in range(1, 12):
                    if counts[py + y - 6, px + x - 6] > _SPREAD_COUNT:
                        grown[y, x] = before[y - 1 : y + 2, x - 1 : x + 2].any()
        for y in range(1, 12):
            for x in range(1, 12):
                if grown[y, x]:
                    sinks[py + y - 6, px + x - 6] = label + 1
    return sinks

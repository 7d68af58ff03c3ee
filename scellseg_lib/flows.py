"""Masks to flows and flows to masks: compiled, parallel over cells and pixels.

In a cell, the flow (dy, dx) of unit length leads back to where heat would be fed, its centre; who
follows it from every pixel gathers a cell's pixels at one sink (docs/method.md, sections 2 and 5).
"""

import math
import warnings
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from scellseg_lib.errors import ScellsegError

Labels = NDArray[np.int32]
Field = NDArray[np.float32]

_SEED_COUNT = 10  # a sink must gather more pixels than this (Cellpose's value), or all of a cell
_SPREAD_COUNT = 2  # a pixel of the histogram joins its sink when more pixels than this end there
_REACH = 5  # pixels that a sink grows
_BLOCK = 64

_compile: Any = numba.njit
with suppress(RuntimeError):  # compiled functions are kept, unless all places are read-only
    numba.njit(cache=True)(lambda: None)
    _compile = partial(numba.njit, cache=True)


def masks_to_flows(masks: Labels, *, centre: Literal["median", "mean"] = "median") -> Field:
    """Encode instances as unit flows of simulated diffusion (Methods, "Representation").

    Heat 1 is added at the centre each step, then each pixel takes the mean of its 9 neighbours in
    the cell, ``2 * (height + width)`` times; the flow is the normalised gradient.

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
    if masks.size and masks.max() > masks.size:  # the same, in no more memory than the image's
        places = np.unique(np.append(0, masks), return_inverse=True)[1][1:]
        masks = places.reshape(masks.shape).astype(np.int32)
    masks = np.ascontiguousarray(masks, np.int32)
    flows = np.zeros((2, *masks.shape), np.float32)
    if masks.any():
        found = enumerate(ndimage.find_objects(masks), start=1)
        ends = [(i, b[0].start, b[0].stop, b[1].start, b[1].stop) for i, b in found if b]
        boxes = np.array(ends, np.int32)
        extra_steps = 8 if centre == "mean" else 0  # its box is wider by two pixels each way
        # Large cells first and dealt out evenly: threads end together.
        area = (boxes[:, 2] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 3])
        dealt = boxes[np.argsort(-area, kind="stable")]
        _diffuse_cells(masks, dealt, centre == "mean", extra_steps, _start_threads(), flows)
    return flows


def flows_to_masks(
    flows: Field,
    cell_logit: Field,
    *,
    cell_threshold: float = 0.5,
    flow_threshold: float = 0.4,
    n_steps: int = 200,
    min_size: int = 35,
    max_size_fraction: float = 0.4,
) -> Labels:
    """Decode instances: follow flows from each pixel to its sink (docs/method.md, section 5).

    Parameters
    ----------
    flows : float32[2, H, W]
        (dy, dx) of unit scale: the network's output divided by 5.
    cell_logit : float32[H, W]
        Logit of being in a cell.
    cell_threshold, flow_threshold, n_steps, min_size, max_size_fraction
        As those of `Decoding`; sizes in pixels of these maps.

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
    inside = np.flatnonzero(foreground)
    field = np.zeros((foreground.shape[0] + 1, foreground.shape[1] + 1, 2), np.float32)
    for axis, flow in enumerate(flows):
        # What is no number would move points out of the image, and the compiled look-up with them.
        np.copyto(field[:-1, :-1, axis], flow, where=foreground & np.isfinite(flow))
    _start_threads()
    ends = _follow(field, inside, n_steps)
    del field
    masks = np.zeros(foreground.shape, np.int32)
    seed_count = min(_SEED_COUNT, max(min_size, 1) - 1)
    masks.ravel()[inside] = _label_sinks(ends, foreground.shape, seed_count)
    del ends, inside
    shares = np.bincount(masks.ravel()) / max(masks.size, 1)
    if shares[1:].max(initial=0) > max_size_fraction:
        text = f"a mask of {shares[1:].max():.0%} of the image is left out as background"
        warnings.warn(f"{text}. If it is a cell, raise max_size_fraction.", stacklevel=2)
    masks *= (shares <= max_size_fraction)[masks]
    if flow_threshold > 0:
        masks *= (flow_errors(masks, flows) <= flow_threshold)[masks]
    return tidy(masks, min_size)


def flow_errors(masks: Labels, flows: Field) -> NDArray[np.float64]:
    """Mean squared difference of given flows to those of each mask; index is the label."""
    difference, labels = ((masks_to_flows(masks) - flows) ** 2).sum(axis=0), masks.ravel()
    return np.bincount(labels, difference.ravel()) / np.maximum(np.bincount(labels), 1)


def tidy(masks: Labels, min_size: int) -> Labels:
    """Fill holes, drop masks under ``min_size`` pixels, relabel 1..n in raster order."""
    masks = np.array(masks, np.int32)
    holes = ndimage.binary_fill_holes(masks) & (masks == 0)
    for label, box in enumerate(ndimage.find_objects(masks), start=1):
        if box is not None and holes[box].any():
            crop = masks[box]
            crop[ndimage.binary_fill_holes(crop == label) & (crop == 0)] = label
    return relabel(masks * (np.bincount(masks.ravel()) >= max(min_size, 1))[masks])


def relabel(masks: Labels) -> Labels:
    """Give labels 1..n in raster order of each mask's first pixel."""
    flat = masks.ravel()
    first = np.full(flat.max(initial=0) + 1, flat.size)
    first[flat[::-1]] = np.arange(flat.size)[::-1]  # the last to be written is a label's first
    first[0] = -1
    return np.argsort(np.argsort(first)).astype(np.int32)[masks]


def _start_threads() -> int:
    """Start and count numba's threads. That sets the number of torch's too, which is put back."""
    chosen, n_threads = torch.get_num_threads(), numba.get_num_threads()
    if torch.get_num_threads() != chosen:
        torch.set_num_threads(chosen)
    return n_threads


def _label_sinks(ends: NDArray[np.int64], shape: tuple[int, ...], seed_count: int) -> Labels:
    """Label the points that end at places int64[n] by the peak of their histogram that is near."""
    counts = np.bincount(ends, minlength=math.prod(shape)).reshape(shape).astype(np.int32)
    counts = np.pad(counts, _REACH)
    peaks = np.argwhere((counts == ndimage.maximum_filter(counts, 5)) & (counts > seed_count))
    # The largest first; a later, smaller sink takes the pixels that both claim.
    peaks = peaks[np.argsort(-counts[peaks[:, 0], peaks[:, 1]], kind="stable")]
    # Each grows by a pixel at a time, within its window, where points end.
    offsets = np.arange(-_REACH, _REACH + 1)
    rows, columns = peaks[:, 0, None, None] + offsets[:, None], peaks[:, 1, None, None] + offsets
    seeds = np.zeros((len(peaks), len(offsets), len(offsets)), bool)
    seeds[:, _REACH, _REACH] = True
    joined = counts[rows, columns] > _SPREAD_COUNT
    grown = ndimage.binary_dilation(seeds, np.ones((1, 3, 3)), _REACH, mask=joined)
    label, y, x = np.nonzero(grown)
    sinks = np.zeros(counts.shape, np.int32)
    sinks[rows[label, y, 0], columns[label, 0, x]] = label + 1
    return sinks[_REACH:-_REACH, _REACH:-_REACH].ravel()[ends]


@_compile()
def _centre(cell, use_mean):  # type: ignore[no-untyped-def]
    """Pixel of a cell (bool[h, w]) nearest to its median or mean position."""
    ys, xs = np.nonzero(cell)
    cy, cx = (ys.mean(), xs.mean()) if use_mean else (np.median(ys), np.median(xs))
    nearest = np.argmin((ys - cy) ** 2 + (xs - cx) ** 2)
    return ys[nearest], xs[nearest]


@_compile(fastmath=True)
def _diffuse(cell, cy, cx, n_steps):  # type: ignore[no-untyped-def]
    """Heat float64[h + 2, w + 1] of a cell after ``n_steps``, with zeros above, below and right."""
    # Rows lie end to end: loops over one slice are vector instructions, 2.4 times faster.
    height, width = cell.shape
    stride = width + 1
    weight = np.zeros((height + 2) * stride + 2)
    weight[1:-1].reshape(height + 2, stride)[1:-1, :-1] = cell / 9.0
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


@_compile(parallel=True)
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


@_compile(parallel=True, error_model="numpy")
def _follow(field, places, n_steps):  # type: ignore[no-untyped-def]
    """Move points, places int64[n] in the image, along a field that is looked up bilinearly."""
    # The field is [H + 1, W + 1, 2]: its last row and column are padding.
    # Points advance in blocks, as a step waits for the look-up before it: 2.6 times faster.
    bottom, right = np.float32(field.shape[0] - 2), np.float32(field.shape[1] - 2)
    stride = np.int64(2 * field.shape[1])
    flat = field.reshape(-1)
    width = field.shape[1] - 1
    ends = np.empty_like(places)
    for block in numba.prange((len(places) + _BLOCK - 1) // _BLOCK):
        start = block * _BLOCK
        n = min(_BLOCK, len(places) - start)
        y, x = np.zeros(_BLOCK, np.float32), np.zeros(_BLOCK, np.float32)
        y[:n], x[:n] = places[start : start + n] // width, places[start : start + n] % width
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
        ends[start : start + n] = y[:n].astype(np.int64) * width + x[:n].astype(np.int64)
    return ends

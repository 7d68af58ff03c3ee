"""HoVer-Net's representation: distances to the centre of mass (docs/method.md, section 2)."""

import cv2
import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import regionprops
from skimage.segmentation import watershed

from scellseg_lib.flows import tidy
from scellseg_lib.representation.base import Decoding
from scellseg_lib.representation.flow import FLOW_SCALE, Flow

SOBEL_SIZE = 21
EDGE_THRESHOLD = 0.37  # markers are where the edges are weaker
MARKER_SIZE = 20  # pixels that a marker needs
JUMP = 0.12
"""Pieces are joined when the maps differ by less, from pixel to pixel, along their border. Within a
cell of 30 px it is about 0.07; 0.12 also keeps neighbours apart in maps blurred by 2 px."""


def distance_maps(masks: np.ndarray) -> np.ndarray:
    """int32[H, W] -> float32[2, H, W]: distances (y, x) to each cell's centre, -1 to 1 within."""
    maps = np.zeros((2, *masks.shape), np.float32)
    for cell in regionprops(masks):
        pixels = np.nonzero(cell.image)
        for axis_map, position in zip(maps, pixels, strict=True):
            offset = position - position.mean()
            reach = np.where(offset < 0, max(-offset.min(), 1e-6), max(offset.max(), 1e-6))
            axis_map[cell.slice][pixels] = offset / reach
    return maps


def edge_map(field: np.ndarray, along_y: bool) -> np.ndarray:
    """0..1, high where a distance map jumps from the end of a cell to the start of the next."""
    scaled = _min_max(field)
    slope = cv2.Sobel(scaled, cv2.CV_64F, int(not along_y), int(along_y), ksize=SOBEL_SIZE)
    return 1 - _min_max(slope)


def _min_max(field: np.ndarray) -> np.ndarray:
    """Map to 0..1; a constant field becomes zeros."""
    low = field.min()
    return ((field - low) / max(field.max() - low, 1e-12)).astype(np.float32)


def _markers(inside: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Label the parts of ``inside`` that are large enough, and whole regions that have none."""
    labels, n = ndimage.label(inside)
    small = np.bincount(labels.ravel()) < MARKER_SIZE
    markers = np.where(small[labels], 0, labels)
    regions, n_regions = ndimage.label(foreground)
    empty = np.bincount(regions[markers > 0], minlength=n_regions + 1) == 0
    return np.where(foreground & empty[regions], n + regions, markers).astype(np.int32)


def _pairs(plane: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel but the last, and the next one along the axis."""
    return (plane[:, :-1], plane[:, 1:]) if axis else (plane[:-1], plane[1:])


def _jumps(field: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Largest difference of the maps between neighbouring pixels, within a pixel's reach."""
    jumps = np.zeros(foreground.shape, np.float32)
    for axis in (0, 1):
        size = np.hypot(*np.diff(field, axis=axis + 1)) * np.logical_and(*_pairs(foreground, axis))
        for end in _pairs(jumps, axis):
            np.maximum(end, size, out=end)
    return cv2.dilate(jumps, np.ones((3, 3), np.uint8))


def _join(pieces: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """Give pieces one label whose common border has a mean jump under ``JUMP``."""
    borders = []
    for axis in (0, 1):
        a, b = _pairs(pieces, axis)
        at = (a != b) & (a > 0) & (b > 0)
        sizes = np.maximum(*_pairs(jumps, axis))
        borders.append((np.minimum(a, b)[at], np.maximum(a, b)[at], sizes[at]))
    first, second, size = (np.concatenate(part) for part in zip(*borders, strict=True))
    shape = (pieces.max() + 1,) * 2
    total = coo_array((size, (first, second)), shape=shape).tocsr()
    count = coo_array((np.ones(len(size)), (first, second)), shape=shape).tocsr()
    total.data = (total.data / count.data < JUMP).astype(np.float32)
    total.eliminate_zeros()
    joined = connected_components(total, directed=False)[1]
    return np.where(pieces > 0, joined[pieces] + 1, 0).astype(np.int32)


class HoVer(Flow):
    """Distance maps in the place of the flow, with its loss; decoded by a watershed."""

    name = "hover"
    has_flows = False
    resamples = False  # the Sobel filters are made for 30-px cells
    thresholds = ("cell_threshold", "min_size")
    encode = staticmethod(distance_maps)  # type: ignore[assignment]

    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[3, H, W] -> int32[H, W]."""
        labels, _ = ndimage.label(output[2] > decoding.cell_threshold)
        foreground = tidy(labels, decoding.min_size) > 0
        field = np.asarray(output[:2] / FLOW_SCALE, np.float32)
        edges = np.maximum(edge_map(field[0], True), edge_map(field[1], False)) * foreground
        energy = -cv2.GaussianBlur((1 - edges) * foreground, (3, 3), 0)
        inside = ndimage.binary_fill_holes(foreground & (edges < EDGE_THRESHOLD))
        pieces = watershed(energy, _markers(inside, foreground), mask=foreground)
        joined = _join(pieces.astype(np.int32), _jumps(field, foreground))
        return tidy(joined, decoding.min_size)

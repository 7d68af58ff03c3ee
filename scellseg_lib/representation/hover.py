"""HoVer-Net's representation: vertical and horizontal distance to the centre of mass.

The released code swaps the axes of the Sobel filters, cuts edges at 0.6 and ignores the probability
threshold (METHOD section 2: AP@0.5 on perfect maps 0.48 against 0.97 here). This is the fair one.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed
from torch import Tensor

from scellseg_lib.flows import tidy
from scellseg_lib.representation.base import Decoding
from scellseg_lib.representation.flow import field_loss

SOBEL_SIZE = 21
EDGE_THRESHOLD = 0.4


def distance_maps(masks: np.ndarray) -> np.ndarray:
    """Signed distance to each instance's centre of mass, -1 to 1 within it.

    Parameters
    ----------
    masks : int32[H, W]

    Returns
    -------
    float32[2, H, W]
        Vertical, horizontal; 0 outside.
    """
    maps = np.zeros((2, *masks.shape), np.float32)
    for label, box in enumerate(ndimage.find_objects(masks), start=1):
        if box is None:
            continue
        pixels = np.nonzero(masks[box] == label)
        for axis_map, position in zip(maps, pixels, strict=True):
            offset = position - position.mean()
            reach = np.where(offset < 0, max(-offset.min(), 1e-6), max(offset.max(), 1e-6))
            axis_map[box][pixels] = offset / reach
    return maps


def _edges(field: np.ndarray, along_y: bool) -> np.ndarray:
    """0..1, high where a distance map jumps from the end of a cell to the start of the next."""
    scaled = _min_max(field)
    slope = cv2.Sobel(scaled, cv2.CV_64F, int(not along_y), int(along_y), ksize=SOBEL_SIZE)
    return 1 - _min_max(slope)


def _min_max(field: np.ndarray) -> np.ndarray:
    """Map to 0..1; a constant field becomes zeros."""
    low = field.min()
    return ((field - low) / max(field.max() - low, 1e-12)).astype(np.float32)


class HoVer:
    """Distance maps and foreground; decoded by a marker-controlled watershed."""

    name = "hover"
    n_outputs = 3
    vector = True
    resamples = False  # the Sobel filters are made for 30-px cells

    def targets(self, masks: np.ndarray) -> np.ndarray:
        """int32[H, W] -> float32[3, H, W]: vertical, horizontal, foreground."""
        return np.concatenate((distance_maps(masks), (masks > 0)[None].astype(np.float32)))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Eq. 1 (the paper: "same as Cellpose"; HoVer-Net's own has a gradient term besides)."""
        return field_loss(output, targets)

    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[3, H, W] -> int32[H, W]."""
        foreground = output[2] > decoding.cell_threshold
        labels, _ = ndimage.label(foreground)
        foreground = tidy(labels, decoding.min_size) > 0
        if not foreground.any():
            return np.zeros(foreground.shape, np.int32)
        vertical, horizontal = (np.ascontiguousarray(plane, np.float32) for plane in output[:2])
        edges = np.maximum(_edges(vertical, True), _edges(horizontal, False)) * foreground
        energy = -cv2.GaussianBlur((1 - edges) * foreground, (3, 3), 0)
        inside = ndimage.binary_fill_holes(foreground & (edges < EDGE_THRESHOLD))
        opened = ndimage.binary_opening(inside, np.ones((3, 3), bool))
        markers, _ = ndimage.label(opened)
        cells = watershed(energy, markers.astype(np.int32), mask=foreground)
        return tidy(cells.astype(np.int32), decoding.min_size)

"""How the released code decodes the maps of HoVer and the U-Nets: what these baselines lost by it.

Networks and weights are ours; only the step from maps to masks is that of ``scellseg==0.1.8``
(docs/method.md, sections 2 and 9). Trials of the protocol ``"as_released"`` use it, nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from scellseg_lib.augment import MEAN_DIAMETER, PATCH
from scellseg_lib.device import Precision
from scellseg_lib.errors import ScellsegError
from scellseg_lib.flows import tidy
from scellseg_lib.model import Model
from scellseg_lib.representation import Decoding, Representation
from scellseg_lib.representation.hover import HoVer, edge_map
from scellseg_lib.representation.semantic import UNet2, UNet3
from scellseg_lib.samples import Sample, resize, resize_masks
from scellseg_lib.segmentation import predict

FOREGROUND = 0.5  # logit from which a pixel is a cell in HoVer, whatever threshold is asked for
EDGE_THRESHOLD = 0.6
REACH = 10  # pixels within which a border pixel of U-Net3 finds its cell


class HoVerAsReleased(HoVer):
    """Sobel filters across the wrong axes, edges cut at 0.6, energy of two values."""

    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[3, H, W] -> int32[H, W]."""
        foreground = tidy(ndimage.label(output[2] >= FOREGROUND)[0], decoding.min_size) > 0
        if not foreground.any():
            return np.zeros(foreground.shape, np.int32)
        vertical, horizontal = (np.ascontiguousarray(plane, np.float32) for plane in output[:2])
        jumps = np.maximum(edge_map(vertical, along_y=False), edge_map(horizontal, along_y=True))
        apart = (jumps * foreground) >= EDGE_THRESHOLD
        inside = ndimage.binary_fill_holes(foreground & ~apart).astype(np.uint8)
        cross = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
        opened = cv2.morphologyEx(inside, cv2.MORPH_OPEN, cross)
        markers = tidy(ndimage.label(opened)[0], decoding.min_size)
        energy = -cv2.GaussianBlur((foreground & ~apart).astype(np.float32), (3, 3), 0)
        cells = watershed(energy, markers, mask=foreground)
        return tidy(cells.astype(np.int32), decoding.min_size)


class UNet3AsReleased(UNet3):
    """Interior against background alone, and border pixels by their own logit."""

    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[3, H, W] -> int32[H, W]."""
        interior = output[1] - output[0] > decoding.interior_threshold
        labels, n_labels = ndimage.label(interior)
        if not n_labels:
            return np.zeros(interior.shape, np.int32)
        distance, nearest = ndimage.distance_transform_edt(~interior, return_indices=True)
        border = ~interior & (output[2] > decoding.border_threshold) & (distance <= REACH)
        cells = np.where(interior | border, labels[tuple(nearest)], 0)
        return tidy(cells.astype(np.int32), decoding.min_size)


DECODERS: dict[str, Representation] = {
    "hover": HoVerAsReleased(),
    "unet2": UNet2(),  # it differs by its scale and thresholds alone
    "unet3": UNet3AsReleased(),
}


def as_paper(model: Model) -> Model:
    """Same model, for images that are normalised as the paper does."""
    return replace(model, card=model.card.model_copy(update={"robust": False}))


def choose_decoder(
    model: Model, shots: Sequence[Sample], precision: Precision
) -> tuple[Representation, Decoding, float | None]:
    """What the released code decodes the maps of a tuned HoVer, U-Net2 or U-Net3 with.

    The thresholds of a U-Net are searched on the shots squashed to 224 x 224 pixels, and its images
    are segmented at their own size: the diameter to scale them by, in pixels, is None where they
    are scaled as usual. ScellsegError for Scellseg and Cellpose, which are decoded as here.
    """
    name, decoding = model.representation.name, model.card.decoding
    if name not in DECODERS:
        what = f"the released code decodes {name} as this library does"
        raise ScellsegError(what, remedy=f"This protocol is for {', '.join(DECODERS)}.")
    if not DECODERS[name].tunes:
        return DECODERS[name], decoding, None
    side = (PATCH, PATCH)
    squashed = [resize(sample.image, side) for sample in shots]
    truths = [resize_masks(sample.masks, side) for sample in shots]
    maps = predict(model, squashed, diameter=MEAN_DIAMETER, precision=precision)
    outputs = [prediction.maps for prediction in maps]
    return DECODERS[name], DECODERS[name].tune(decoding, outputs, truths), MEAN_DIAMETER

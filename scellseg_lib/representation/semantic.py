"""U-Net2, U-Net3: classes of pixels, whose components are cells (docs/method.md, section 2)."""

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np
from scipy import ndimage
from scipy.special import logsumexp, softmax
from skimage.segmentation import watershed
from torch import Tensor
from torch.nn import functional as F

from scellseg_lib.flows import tidy
from scellseg_lib.metrics import average_precision
from scellseg_lib.representation.base import Decoding, Representation

BORDER_WIDTH = 2  # pixels of the 30-px scale that count as border on a cell's inside
INTERIOR_THRESHOLDS = [step / 2 for step in range(-8, 9)]
BORDER_THRESHOLDS = [-2.0, -1.0, 0.0, 1.0, 2.0]
SEARCH_IOUS = (0.5, 0.75, 0.9)


def _log_odds(output: np.ndarray, index: int) -> np.ndarray:
    """Log-odds of one class (float32[H, W]) from the logits of all (float32[K, H, W])."""
    return output[index] - logsumexp(np.delete(output, index, axis=0), axis=0)


class UNet2(Representation):
    """Background and foreground."""

    name = "unet2"
    n_outputs = 2
    tunes = True
    thresholds: tuple[str, ...] = ("interior_threshold", "min_size")
    borders: Sequence[float] | None = None  # thresholds of the border that `tune` tries

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy times 8 / (number of classes)."""
        return 8 / self.n_outputs * F.cross_entropy(output, targets[:, 0].long())

    def probability(self, output: np.ndarray) -> np.ndarray:
        """One minus the chance of background."""
        return 1 - softmax(output, axis=0)[0]

    def tune(
        self, decoding: Decoding, outputs: Sequence[np.ndarray], truths: Sequence[np.ndarray]
    ) -> Decoding:
        """Choose the thresholds of highest mean AP (IoU 0.5, 0.75, 0.9) on the shots."""

        def score(tried: Decoding) -> float:
            pairs = ((t, self.masks(o, tried)) for o, t in zip(outputs, truths, strict=True))
            return float(np.mean([average_precision(*pair, SEARCH_IOUS).mean() for pair in pairs]))

        borders = self.borders or [decoding.border_threshold]
        tries = [
            decoding.model_copy(update={"interior_threshold": interior, "border_threshold": border})
            for interior, border in product(INTERIOR_THRESHOLDS, borders)
        ]
        return max(tries, key=score)

    def targets(self, masks: np.ndarray) -> np.ndarray:
        """int32[H, W] -> float32[1, H, W]: 0 background, 1 foreground."""
        return (masks > 0)[None].astype(np.float32)

    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[2, H, W] -> int32[H, W]: connected components of the foreground."""
        labels, _ = ndimage.label(_log_odds(output, 1) > decoding.interior_threshold)
        return tidy(labels, decoding.min_size)


class UNet3(UNet2):
    """Background, interior and border."""

    name = "unet3"
    n_outputs = 3
    thresholds = ("interior_threshold", "border_threshold", "min_size")
    borders = BORDER_THRESHOLDS

    def targets(self, masks: np.ndarray) -> np.ndarray:
        """int32[H, W] -> float32[1, H, W]: 0 background, 1 interior, 2 border."""
        side = 2 * BORDER_WIDTH + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        labels = masks.astype(np.float32)
        lowest = cv2.erode(labels, disc, borderType=cv2.BORDER_REPLICATE)
        highest = cv2.dilate(labels, disc, borderType=cv2.BORDER_REPLICATE)
        classes = np.where(lowest == highest, 1.0, 2.0) * (masks > 0)
        return classes[None].astype(np.float32)

    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[3, H, W] -> int32[H, W]: interiors, and border pixels to the nearest of them."""
        interior = _log_odds(output, 1) > decoding.interior_threshold
        border = _log_odds(output, 2) > decoding.border_threshold
        markers, _ = ndimage.label(interior)
        distance = ndimage.distance_transform_edt(~interior)
        cells = watershed(distance, markers.astype(np.int32), mask=interior | border)
        return tidy(cells.astype(np.int32), decoding.min_size)

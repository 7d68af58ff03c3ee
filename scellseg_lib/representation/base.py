"""What a representation is, and the settings of its decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """Settings of the step from maps to masks; a representation reads those that it needs."""

    cell_threshold: float = 0.5
    """Logit above which a pixel is cell (flow, HoVer): the released scripts' 0.5, Cellpose's 0."""
    flow_threshold: float = 0.4
    """Largest flow error of a mask (flow)."""
    n_steps: int = 200
    """Euler steps (flow)."""
    min_size: int = 35
    """Smallest mask, pixels."""
    interior_threshold: float = 2.0
    """Log-odds above which a pixel is interior (U-Nets)."""
    border_threshold: float = 0.5
    """Log-odds above which a pixel is border (U-Net3)."""


class Representation(Protocol):
    """Targets, loss and decoding of one way to write instances as maps."""

    name: str
    """Under which it is registered."""
    n_outputs: int
    """Maps that the network gives."""
    vector: bool
    """Whether the first two maps are a (y, x) field, whose sign turns when an image is flipped."""
    resamples: bool
    """Whether maps may be decoded at another scale than 30 px a cell."""

    def targets(self, masks: np.ndarray) -> np.ndarray:
        """int32[H, W] -> float32[K, H, W]."""
        ...

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Output (B, n_outputs, H, W), targets (B, K, H, W) -> scalar."""
        ...

    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[n_outputs, H, W] -> int32[H, W]."""
        ...

"""What a representation is, and the settings of its decoding."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from pydantic import Field
from torch import Tensor

from scellseg_lib.options import Options


class Decoding(Options):
    """Settings of the step from maps to masks; a representation reads those that it needs."""

    cell_threshold: float = Field(default=0.5, title="Cell probability")
    """Logit above which a pixel is cell. Higher: fewer, smaller cells."""
    flow_threshold: float = Field(default=0.4, ge=0, title="Flow error")
    """Largest flow error of a cell. Lower: fewer cells of odd shape. 0 keeps all."""
    n_steps: int = Field(default=200, ge=1, le=10_000, title="Steps")
    """Euler steps along the flows."""
    min_size: int = Field(default=35, ge=0, title="Smallest cell")
    """Pixels, in an image whose cells are 30 pixels wide."""
    max_size_fraction: float = Field(default=0.9, gt=0, le=1, title="Largest cell")
    """Share of the image above which a mask is the background. The paper's code has 0.4."""
    interior_threshold: float = Field(default=2.0, title="Inside of cells")
    """Log-odds above which a pixel is inside a cell. Higher: fewer, smaller cells."""
    border_threshold: float = Field(default=0.5, title="Border of cells")
    """Log-odds above which a pixel is border. Higher: thinner borders."""


class Representation(Protocol):
    """One way to write instances as maps. A new one inherits, and says its name and `n_outputs`."""

    name: str
    n_outputs: int  # maps that the network gives
    vector: bool = False  # whether the first two maps are a (y, x) field: flips turn its sign
    has_flows: bool = False  # whether that field is Cellpose's flow
    resamples: bool = True  # whether maps may be decoded at another scale than 30 px a cell
    tunes: bool = False  # whether `tune` fits its thresholds to the shots of a fine-tuning
    thresholds: tuple[str, ...] = tuple(name for name in Decoding.model_fields if name != "n_steps")
    """Fields of `Decoding` that `masks` reads, beside the number of steps."""

    @abstractmethod
    def targets(self, masks: np.ndarray) -> np.ndarray:
        """int32[H, W] -> float32[K, H, W]."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Output (B, n_outputs, H, W), targets (B, K, H, W) -> scalar."""

    @abstractmethod
    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[n_outputs, H, W] -> int32[H, W]."""

    @abstractmethod
    def probability(self, output: np.ndarray) -> np.ndarray:
        """Chance that a pixel is cell: float32[n_outputs, H, W] -> float32[H, W]."""

    def tune(
        self, decoding: Decoding, outputs: Sequence[np.ndarray], truths: Sequence[np.ndarray]
    ) -> Decoding:
        """Fit thresholds to the maps and masks of labelled shots; by default they stay."""
        return decoding

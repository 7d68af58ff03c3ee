"""The contrastive term of fine-tuning (Eq. 2-3): styles of shots like queries', unlike contrasts'.

``L = L_seg + sigmoid(alpha) * S(shot, query) / (S(shot, contrast) + 1e-5)``; S: `pair_distance`.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scellseg_lib.augment import CROP_SIDES, Source, unlabelled_batch
from scellseg_lib.device import Precision
from scellseg_lib.network import Network, momentum

INITIAL_ALPHA = 0.2
ALPHA_RATE = 0.1  # learning rate of a learnt alpha, scheduled with the others


def pair_distance(a: Tensor, b: Tensor) -> Tensor:
    """S: sum over all pairs of the mean squared difference; (n, S), (m, S) -> scalar."""
    return (a[:, None] - b[None]).square().mean(dim=2).sum()


class ContrastiveTerm(nn.Module):
    """Draws query patches, and contrast patches of one style a step; compares their styles.

    Of the `FinetuneOptions` it heeds ``alpha``, ``statistics`` and ``crops``.
    """

    def __init__(
        self, queries: Sequence[Source], contrast: Sequence[Sequence[Source]], options: Any
    ) -> None:
        super().__init__()
        self.queries, self.contrast, self.options = queries, contrast, options
        self.alpha = nn.Parameter(torch.tensor(INITIAL_ALPHA), options.alpha == "learnt")

    def weight(self, done: float) -> Tensor:
        """Weight of the term after a share ``done`` of the steps."""
        weight = torch.sigmoid(self.alpha)
        if self.options.alpha == "scheduled":
            return weight * 0.5 * (1 + math.cos(math.pi * done))
        return weight

    def batches(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Draw query and contrast patches with a crop side of their own common draw."""
        side = int(rng.integers(*CROP_SIDES, endpoint=True))
        clipped = self.options.crops == "clipped"
        style = self.contrast[int(rng.integers(len(self.contrast)))]
        queries = unlabelled_batch(self.queries, rng, side, size, clipped=clipped)
        return queries, unlabelled_batch(style, rng, side, size, clipped=clipped)

    def forward(
        self,
        network: Network,
        shot_style: Tensor,
        rng: np.random.Generator,
        done: float,
        precision: Precision,
    ) -> Tensor:
        """Term of a step; ``shot_style`` (n, S) comes from the step's pass over the shots."""
        shot, device, styles = shot_style.float(), shot_style.device, []
        statistics = self.options.statistics
        with momentum(network, 0.0) if statistics in ("shot", "query") else nullcontext():
            for images in self.batches(rng, len(shot_style)):
                # A context each: within one, gradients would be summed up in bfloat16.
                with precision.autocast(device):
                    style = network.embed(images.to(device), observe=statistics == "released")
                styles.append(style.float())
        query, contrast = styles
        ratio = pair_distance(shot, query) / (pair_distance(shot, contrast) + 1e-5)
        return self.weight(done) * ratio

"""Cellpose's and Scellseg's representation: the flow to each cell's centre, and the foreground."""

import numpy as np
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F

from scellseg_lib.flows import flows_to_masks, masks_to_flows
from scellseg_lib.representation.base import Decoding, Representation

FLOW_SCALE = 5.0  # the network learns 5 times the unit flow (Eq. 1)


class Flow(Representation):
    """Unit flow of simulated diffusion from the centre, and the foreground."""

    name = "flow"
    n_outputs = 3
    vector = True
    has_flows = True
    thresholds: tuple[str, ...] = Representation.thresholds[:4]  # but those of the U-Nets
    encode = staticmethod(masks_to_flows)

    def targets(self, masks: np.ndarray) -> np.ndarray:
        """int32[H, W] -> float32[3, H, W]: the field (y, x), which is the flow, and foreground."""
        return np.concatenate((self.encode(masks), (masks > 0)[None].astype(np.float32)))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Eq. 1: ``BCE(logit, foreground) + 0.5 * MSE(field, 5 * field)``, means over pixels."""
        field = F.mse_loss(output[:, :2], FLOW_SCALE * targets[:, :2])
        return F.binary_cross_entropy_with_logits(output[:, 2], targets[:, 2]) + 0.5 * field

    def masks(self, output: np.ndarray, decoding: Decoding) -> np.ndarray:
        """float32[3, H, W] -> int32[H, W] by gradient tracking."""
        flows = np.asarray(output[:2] / FLOW_SCALE, np.float32)
        settings = {name: getattr(decoding, name) for name in ("n_steps", *self.thresholds)}
        return flows_to_masks(flows, output[2], **settings)

    def probability(self, output: np.ndarray) -> np.ndarray:
        """Sigmoid of the foreground's logit."""
        return expit(output[2])

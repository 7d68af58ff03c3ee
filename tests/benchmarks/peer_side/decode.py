"""Cellpose's masks of flows, and the time for all of them."""

import logging
import warnings

import numpy as np
import torch
from cellpose.dynamics import compute_masks

from tests.benchmarks.clock import timed

logging.disable(logging.WARNING)
warnings.filterwarnings("ignore", message="Sparse invariant checks")


def main(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take ``flows_0``, ``logit_0`` .., ``threshold``, ``min_size`` and ``repeats``.

    The flows float32[2, H, W] are of unit length. Returns ``masks_0`` .. and ``seconds``.
    """
    n = sum(name.startswith("flows_") for name in inputs)
    given = [(5 * inputs[f"flows_{k}"], inputs[f"logit_{k}"]) for k in range(n)]  # as a network's
    options = {
        "cellprob_threshold": float(inputs["threshold"]),
        "min_size": int(inputs["min_size"]),
        "flow_threshold": 0.4,
        "niter": 200,
        "device": torch.device("cpu"),
    }

    def decode() -> list[np.ndarray]:
        return [compute_masks(*pair, **options) for pair in given]

    decoded, taken = timed(decode, int(inputs["repeats"]))
    outputs = {f"masks_{k}": masks.astype(np.int32) for k, masks in enumerate(decoded)}
    return outputs | {"seconds": taken}

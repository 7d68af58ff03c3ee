"""Cellpose's flows of label images, and the time for all of them."""

import numpy as np
import torch
from cellpose.dynamics import masks_to_flows

from tests.benchmarks.clock import timed


def main(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take ``masks_0`` .. int32[H, W] and ``repeats``; return ``seconds``."""
    masks = [inputs[f"masks_{k}"] for k in range(len(inputs) - 1)]

    def encode() -> list[np.ndarray]:
        return [masks_to_flows(labels, device=torch.device("cpu")) for labels in masks]

    return {"seconds": timed(encode, int(inputs["repeats"]))[1]}

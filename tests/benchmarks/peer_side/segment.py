"""Cellpose's `eval` on given images with given weights."""

from pathlib import Path

import numpy as np
import torch
from cellpose.models import CellposeModel

from tests.benchmarks.clock import timed


def main(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Segment ``image_K`` [H, W, 2] of ``diameter_K`` with the weights under ``weight:KEY``."""
    state = {
        key.removeprefix("weight:"): torch.from_numpy(np.array(value))
        for key, value in inputs.items()
        if key.startswith("weight:")
    }
    file = Path("runs/peer/weights")
    torch.save(state, file)
    model = CellposeModel(gpu=False, pretrained_model=str(file.resolve()))
    numbers = range(sum(key.startswith("image_") for key in inputs))

    def work() -> list[np.ndarray]:
        return [
            model.eval(
                inputs[f"image_{k}"],
                diameter=float(inputs[f"diameter_{k}"]),
                channels=[1, 2],
                channel_axis=2,
                resample=True,
                cellprob_threshold=0.0,
            )[0]
            for k in numbers
        ]

    masks, seconds = timed(work, 1)
    return {f"masks_{k}": labels for k, labels in enumerate(masks)} | {"seconds": seconds}

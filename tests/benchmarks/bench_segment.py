"""Segmentation against Cellpose's `eval`: the same network and images, both at full size."""

from functools import partial
from unittest.mock import patch

import numpy as np
import torch

from scellseg_lib import Model, flows, load_dataset, load_model, metrics
from scellseg_lib.augment import MEAN_DIAMETER
from scellseg_lib.datasets import weights
from scellseg_lib.paper.as_released import as_paper
from scellseg_lib.segmentation import Cells, decode, segment
from tests.benchmarks.clock import THREADS, report, timed
from tests.benchmarks.peer import listed, numbered, run_peer

N_IMAGES = 6


def cellpose_state() -> dict[str, np.ndarray]:
    """Weights of the authors' Cellpose under the names of Cellpose's own network."""
    theirs = {}
    for key, value in weights.original_weights("cellpose").items():
        name = key.removeprefix("extractor.")
        name = name.replace("tasker.base_bn", "output.0").replace("tasker.base_conv", "output.2")
        theirs[f"weight:{name}"] = value.numpy()
    return theirs


def main() -> None:
    torch.set_num_threads(THREADS)
    samples = load_dataset("cellpose_contrast35")[::6][:N_IMAGES]
    model = as_paper(load_model("cellpose", weights="released"))  # Cellpose's normalisation
    images = [np.moveaxis(sample.image, 0, -1) for sample in samples]
    sizes = [np.array(sample.diameter) for sample in samples]
    answer = run_peer("segment", cellpose_state() | numbered(image=images, diameter=sizes))

    def ours() -> list[Cells]:
        found = []
        for sample in samples:
            sizes = {"diameter": sample.diameter, "min_size": _least(sample.diameter)}
            found += segment(model, [sample], cell_threshold=0.0, progress=False, **sizes)
        return found

    cells, taken = timed(ours, 1)
    report(f"segmentation of {N_IMAGES} images", taken, answer["seconds"])
    masks = {
        "ours": [found.masks for found in cells],
        "ours, masks checked as the peer does": [_checked_by_mean(model, one) for one in cells],
        "peer": [labels.astype(np.int32) for labels in listed(answer, "masks")],
    }
    for name, labels in masks.items():
        found = metrics.summary(metrics.evaluate(labels, masks["peer"]))
        print(f"  {name}: AP@0.5 {found['ap50']:.4f} against the peer")


def _least(diameter: float) -> int:
    """Least size at the 30-px scale: Cellpose's 15 px are of the full size."""
    return round(15 * (MEAN_DIAMETER / diameter) ** 2)


def _checked_by_mean(model: Model, cells: Cells) -> np.ndarray:
    """Masks of the same maps whose flow check takes the mean centre (Cellpose), not the median."""
    least = _least(cells.prediction.diameter)
    decoding = model.card.decoding.change(cell_threshold=0.0, min_size=least)
    by_mean = partial(flows.masks_to_flows, centre="mean")
    with patch.object(flows, "masks_to_flows", by_mean):
        return decode(cells.prediction, model.representation, decoding)

"""Segmentation against Cellpose's `eval`: the same network and images, both at full size."""

from __future__ import annotations

import io

import numpy as np
import torch

from scellseg_lib import metrics, released
from scellseg_lib.augment import MEAN_DIAMETER
from scellseg_lib.data import load_dataset
from scellseg_lib.model import load_model
from scellseg_lib.segment import Cells, segment
from tests.benchmarks.clock import THREADS, report, timed
from tests.benchmarks.peer import run_peer

N_IMAGES = 6


def cellpose_state() -> dict[str, np.ndarray]:
    """Weights of the authors' Cellpose under the names of Cellpose's own network."""
    member = released._member(
        released.source_archive(), "cellpose", released.WEIGHTS_SHA256["cellpose"]
    )
    state = torch.load(io.BytesIO(member), map_location="cpu", weights_only=True)
    theirs = {}
    for key, value in state.items():
        name = key.removeprefix("extractor.")
        name = name.replace("tasker.base_bn", "output.0").replace("tasker.base_conv", "output.2")
        theirs[f"weight:{name}"] = value.numpy()
    return theirs


def main() -> None:
    """Print seconds, ratio and how alike the masks are."""
    torch.set_num_threads(THREADS)
    samples = load_dataset("cellpose_contrast35")[::6][:N_IMAGES]
    model = load_model("cellpose", weights="released")
    inputs = cellpose_state()
    for k, sample in enumerate(samples):
        inputs[f"image_{k}"] = np.moveaxis(sample.image, 0, -1)
        inputs[f"diameter_{k}"] = np.array(sample.diameter)
    answer = run_peer("segment", inputs)

    def ours() -> list[Cells]:
        options = {"cell_threshold": 0.0, "progress": False}
        found = []
        for sample in samples:
            # Cellpose counts 15 px at full size, this library at the 30-px scale.
            least = round(15 * (MEAN_DIAMETER / sample.diameter) ** 2)
            found += segment(model, [sample], diameter=sample.diameter, min_size=least, **options)
        return found

    cells, taken = timed(ours, 1)
    report(f"segmentation of {N_IMAGES} images", taken, answer["seconds"])
    theirs = [answer[f"masks_{k}"].astype(np.int32) for k in range(N_IMAGES)]
    both = metrics.evaluate([found.masks for found in cells], theirs)
    print(f"  ours against peer: AP@0.5 {metrics.summary(both)['ap50']:.4f}")
    for name, masks in (("ours", [found.masks for found in cells]), ("peer", theirs)):
        print(f"  {name}: AP@0.5 {metrics.summary(metrics.evaluate(masks, samples))['ap50']:.4f}")


if __name__ == "__main__":
    main()

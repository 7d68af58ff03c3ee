"""What runs in the authors' environment: their fine-tuning and inference, nothing of it changed.

The one example of either in the archive is their window (``guis/scellsegUi.py``: `fine_tune` and
`batch_inference`), so their classes get its arguments. `scellseg.models` itself imports no Qt.
"""

import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scellseg import models, utils
from scellseg.contrast_learning.dataset import DatasetPairEval
from scellseg.dataset import DatasetQuery, DatasetShot
from torch.utils.data import DataLoader

from tests.benchmarks.peer import answer

RATES = {"downsample": 0.001, "upsample": 0.001, "tasker": 0.001, "alpha": 0.1}


def tune(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tune on ``folder`` by ``strategy``, ``steps``, ``seed`` and ``bf16``; segment its ``query``.

    Returns ``weight:KEY``, ``THRESHOLD:NAME`` (masks), ``losses``, ``diameter`` and ``seconds``.
    """
    folder, steps, began = str(inputs["folder"]), int(inputs["steps"]), time.monotonic()
    utils.set_manual_seed(int(inputs["seed"]))  # 0 would be "any"
    shots = DatasetShot(folder, image_filter="_img", train_num=steps * 8)
    model = models.sCellSeg(model_type="scellseg")
    model.net.save_name, model.net.contrast_on = "tuned", inputs["strategy"] == "contrastive"
    if model.net.contrast_on:
        styles = sorted(map(str, Path(models.__file__).parent.glob("assets/contrast_data/*")))
        model.net.pair_gen = DatasetPairEval(folder, negative_dir=styles)  # else in any order
    step, losses = model.net.shot_train_forward, []

    def watched(*batch: torch.Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(inputs["bf16"])):  # for speed
            losses.append(step(*batch))
        print(len(losses), losses[-1], f"{time.process_time():.1f} s of processor", flush=True)
        return losses[-1]

    model.net.shot_train_forward = watched
    quarter = max(1, steps // 4)  # they divide by it, which fails below four steps
    model.finetune(DataLoader(shots, batch_size=8), RATES, None, quarter, folder)  # None: halved
    # Copied before inference, which turns the layers into those of MKL-DNN.
    found = {f"weight:{key}": value.numpy() for key, value in model.net.state_dict().items()}
    found |= {"losses": np.array(losses), "seconds": np.array(time.monotonic() - began)}
    run, names = model._run_nets, DatasetQuery(folder).query_image_names

    @cache  # for the maps are the same at both thresholds
    def run_once(pixels: bytes, shape: tuple[int, ...], **options: Any) -> Any:
        with torch.no_grad():  # the graph, which they keep, takes 5 GB
            return run(np.frombuffer(pixels, np.float32).reshape(shape), **options)

    model._run_nets = lambda image, **options: run_once(image.tobytes(), image.shape, **options)
    given = {"diameter": shots.md, "channel": [2, 1], "min_size": 15**2 * np.pi * 0.05}
    for limit in inputs["thresholds"]:
        masks = model.inference(query_image_names=names, cellprob_threshold=float(limit), **given)
        for name, labels in zip(names, masks[0], strict=True):
            found[f"{limit}:{Path(name).stem.removesuffix('_img')}"] = labels.astype(np.uint16)
    return found | {"diameter": np.array(shots.md)}


if __name__ == "__main__":
    answer(globals())

"""What runs in the peer's environment: functions of named arrays that return some."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from cellpose.dynamics import compute_masks, masks_to_flows
from cellpose.metrics import average_precision
from cellpose.models import CellposeModel

from tests.benchmarks.clock import timed
from tests.benchmarks.peer import answer, listed, numbered

Arrays = dict[str, np.ndarray]
CPU = torch.device("cpu")
logging.disable(logging.WARNING)


def encode(inputs: Arrays) -> Arrays:
    """Flows of ``masks_0`` .. int32[H, W], ``repeats`` times; returns ``seconds``."""
    masks = listed(inputs, "masks")
    work = lambda: [masks_to_flows(labels, device=CPU) for labels in masks]  # noqa: E731
    return {"seconds": timed(work, int(inputs["repeats"]))[1]}


def decode(inputs: Arrays) -> Arrays:
    """Take ``flows_0``, ``logit_0`` .., ``threshold``, ``min_size`` and ``repeats``.

    The flows float32[2, H, W] are of unit length. Returns ``masks_0`` .. and ``seconds``.
    """
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    flows = [5 * unit for unit in listed(inputs, "flows")]  # as a network's
    given = [*zip(flows, listed(inputs, "logit"), strict=True)]
    options = {"flow_threshold": 0.4, "niter": 200, "device": CPU}
    options |= {"cellprob_threshold": float(inputs["threshold"])}
    options |= {"min_size": int(inputs["min_size"])}
    repeats = int(inputs["repeats"])
    decoded, taken = timed(lambda: [compute_masks(*pair, **options) for pair in given], repeats)
    return numbered(masks=[masks.astype(np.int32) for masks in decoded]) | {"seconds": taken}


def metrics(inputs: Arrays) -> Arrays:
    """Take ``thresholds`` and pairs ``true_0``, ``predicted_0`` ..; with ``timed``, time the first.

    Returns ``counts`` int64[n_pairs, 3, n_thresholds] (TP, FP, FN) and ``seconds``.
    """
    thresholds, counts = inputs["thresholds"], []
    for pair in zip(listed(inputs, "true"), listed(inputs, "predicted"), strict=True):
        # Nothing against nothing is 0 / 0 there.
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            counts.append(average_precision(*pair, threshold=thresholds)[1:])
    outputs = {"counts": np.array(counts).astype(np.int64)}
    if "timed" in inputs:
        first = inputs["true_0"], inputs["predicted_0"]
        outputs["seconds"] = timed(lambda: average_precision(*first, threshold=thresholds))[1]
    return outputs


def segment(inputs: Arrays) -> Arrays:
    """Segment ``image_K`` [H, W, 2] of ``diameter_K`` with the weights under ``weight:KEY``."""
    weights = {k[7:]: torch.from_numpy(v) for k, v in inputs.items() if k.startswith("weight:")}
    file = Path("runs/peer/weights")
    torch.save(weights, file)
    model = CellposeModel(gpu=False, pretrained_model=str(file.resolve()))
    how = {"channels": [1, 2], "channel_axis": 2, "resample": True, "cellprob_threshold": 0.0}

    def work() -> list[np.ndarray]:
        each = zip(listed(inputs, "image"), listed(inputs, "diameter"), strict=True)
        return [model.eval(image, diameter=float(size), **how)[0] for image, size in each]

    masks, seconds = timed(work, 1)
    return numbered(masks=masks) | {"seconds": seconds}


if __name__ == "__main__":
    answer(globals())

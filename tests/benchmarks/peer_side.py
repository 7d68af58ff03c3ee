"""What runs in the peer's environment: a function of inputs, its file and that of its outputs."""

import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from cellpose.dynamics import compute_masks, masks_to_flows
from cellpose.metrics import average_precision
from cellpose.models import CellposeModel

from tests.benchmarks.clock import timed

Arrays = dict[str, np.ndarray]
CPU = torch.device("cpu")


def count(inputs: Arrays, name: str) -> range:
    """Numbers of the inputs of a name: ``name_0``, ``name_1``, .."""
    return range(sum(key.startswith(f"{name}_") for key in inputs))


def encode(inputs: Arrays) -> Arrays:
    """Flows of ``masks_0`` .. int32[H, W], ``repeats`` times; returns ``seconds``."""
    masks = [inputs[f"masks_{k}"] for k in count(inputs, "masks")]
    work = lambda: [masks_to_flows(labels, device=CPU) for labels in masks]  # noqa: E731
    return {"seconds": timed(work, int(inputs["repeats"]))[1]}


def decode(inputs: Arrays) -> Arrays:
    """Take ``flows_0``, ``logit_0`` .., ``threshold``, ``min_size`` and ``repeats``.

    The flows float32[2, H, W] are of unit length. Returns ``masks_0`` .. and ``seconds``.
    """
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    each = count(inputs, "flows")
    given = [(5 * inputs[f"flows_{k}"], inputs[f"logit_{k}"]) for k in each]  # as a network's
    options = {
        "cellprob_threshold": float(inputs["threshold"]),
        "min_size": int(inputs["min_size"]),
        "flow_threshold": 0.4,
        "niter": 200,
        "device": CPU,
    }
    repeats = int(inputs["repeats"])
    decoded, taken = timed(lambda: [compute_masks(*pair, **options) for pair in given], repeats)
    outputs = {f"masks_{k}": masks.astype(np.int32) for k, masks in enumerate(decoded)}
    return outputs | {"seconds": taken}


def metrics(inputs: Arrays) -> Arrays:
    """Take ``thresholds`` and pairs ``true_0``, ``predicted_0`` ..; with ``timed``, time the first.

    Returns ``counts`` int64[n_pairs, 3, n_thresholds] (TP, FP, FN) and ``seconds``.
    """
    thresholds, counts = inputs["thresholds"], []
    for k in count(inputs, "true"):
        pair = inputs[f"true_{k}"], inputs[f"predicted_{k}"]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # nothing against nothing is 0 / 0 there
            counts.append(average_precision(*pair, threshold=thresholds)[1:])
    outputs = {"counts": np.array(counts).astype(np.int64)}
    if "timed" in inputs:
        first = inputs["true_0"], inputs["predicted_0"]
        outputs["seconds"] = timed(lambda: average_precision(*first, threshold=thresholds))[1]
    return outputs


def segment(inputs: Arrays) -> Arrays:
    """Segment ``image_K`` [H, W, 2] of ``diameter_K`` with the weights under ``weight:KEY``."""
    state = {
        key.removeprefix("weight:"): torch.from_numpy(np.array(value))
        for key, value in inputs.items()
        if key.startswith("weight:")
    }
    file = Path("runs/peer/weights")
    torch.save(state, file)
    model = CellposeModel(gpu=False, pretrained_model=str(file.resolve()))
    how = {"channels": [1, 2], "channel_axis": 2, "resample": True, "cellprob_threshold": 0.0}

    def work() -> list[np.ndarray]:
        each = [(inputs[f"image_{k}"], inputs[f"diameter_{k}"]) for k in count(inputs, "image")]
        return [model.eval(image, diameter=float(size), **how)[0] for image, size in each]

    masks, seconds = timed(work, 1)
    return {f"masks_{k}": labels for k, labels in enumerate(masks)} | {"seconds": seconds}


if __name__ == "__main__":
    name, given, answer = sys.argv[1:]
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with np.load(given, allow_pickle=False) as arrays:
        found = {"encode": encode, "decode": decode, "metrics": metrics, "segment": segment}[name](
            dict(arrays)
        )
    np.savez(answer, allow_pickle=False, **found)

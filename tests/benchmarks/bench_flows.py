"""Masks to flows and back on the 35 contrast images, against Cellpose: exact and noisy flows."""

from functools import partial

import cv2
import numba
import numpy as np

from scellseg_lib import metrics
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.flows import flows_to_masks, masks_to_flows
from tests.benchmarks.clock import THREADS, report, timed
from tests.benchmarks.peer import listed, numbered, run_peer

CELL_THRESHOLD, MIN_SIZE, REPEATS = 0.5, 35, 2
NOISE = {"exact": 0.0, "noisy": 0.3}


def network_like(
    masks: np.ndarray, noise: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Unit flows float32[2, H, W] with smooth noise, and the logit float32[H, W] of the cells."""
    disturbance = generator.standard_normal((2, *masks.shape)).astype(np.float32)
    disturbance = np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in disturbance])
    flows = masks_to_flows(masks) + noise * disturbance / disturbance.std()
    return flows.astype(np.float32), np.where(masks > 0, 5, -5).astype(np.float32)


def encode(masks: list[np.ndarray]) -> None:
    answer = run_peer("encode", numbered(masks=masks) | {"repeats": np.array(REPEATS)})
    _, taken = timed(lambda: [masks_to_flows(labels, centre="mean") for labels in masks], REPEATS)
    report("masks_to_flows, 35 contrast images", taken, answer["seconds"])


def decode(masks: list[np.ndarray], name: str, noise: float) -> None:
    generator = np.random.default_rng(0)
    given = [network_like(labels, noise, generator) for labels in masks]
    decoder = partial(flows_to_masks, cell_threshold=CELL_THRESHOLD, min_size=MIN_SIZE)
    flows, logits = map(list, zip(*given, strict=True))
    settings = {"threshold": CELL_THRESHOLD, "min_size": MIN_SIZE, "repeats": REPEATS}
    inputs = numbered(flows=flows, logit=logits) | {k: np.array(v) for k, v in settings.items()}
    answer = run_peer("decode", inputs)
    decoded, taken = timed(lambda: [decoder(*pair) for pair in given], REPEATS)
    report(f"flows_to_masks, 35 contrast images, {name} flows", taken, answer["seconds"])
    found = metrics.summary(metrics.evaluate(decoded, listed(answer, "masks")))
    print(f"  ours against peer: AP@0.5 {found['ap50']:.4f}, mAP {found['map']:.4f}")


def main() -> None:
    numba.set_num_threads(THREADS)
    masks = [sample.masks for sample in load_dataset("cellpose_contrast35")]
    encode(masks)
    for name, noise in NOISE.items():
        decode(masks, name, noise)

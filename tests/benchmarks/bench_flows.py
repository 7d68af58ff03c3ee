"""Masks to flows and back on the 35 contrast images, against Cellpose on the CPU.

Both sides decode the same flows: exact ones, and the same with smooth noise, which stands for a
network's output. Both filter masks by flow error and by size, as they do by default.
"""

from functools import partial

import cv2
import numba
import numpy as np

from scellseg_lib import metrics
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.flows import flows_to_masks, masks_to_flows
from tests.benchmarks.clock import THREADS, report, timed
from tests.benchmarks.peer import run_peer

CELL_THRESHOLD, MIN_SIZE, REPEATS = 0.5, 35, 2
SMALL = 15  # keeps the true cells that the default size drops
SIDE, DIAMETER = 2048, 350  # of the image with eight large cells; the aim is under a second
NOISE = {"exact": 0.0, "noisy": 0.3}


def network_like(
    masks: np.ndarray, noise: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Unit flows float32[2, H, W] with smooth noise, and the logit float32[H, W] of the cells."""
    disturbance = generator.standard_normal((2, *masks.shape)).astype(np.float32)
    disturbance = np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in disturbance])
    flows = masks_to_flows(masks) + noise * disturbance / disturbance.std()
    return flows.astype(np.float32), np.where(masks > 0, 5, -5).astype(np.float32)


def cosine(ours: np.ndarray, theirs: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """Mean cosine over the cell pixels where both flows have a direction, and their share."""
    both = (masks > 0) & (np.hypot(*ours) > 0.5) & (np.hypot(*theirs) > 0.5)
    return float((ours * theirs).sum(axis=0)[both].mean()), float(both.sum() / (masks > 0).sum())


def numbered(**images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """One named array per image, with the number of repeats: what the peer is given."""
    arrays = {f"{name}_{k}": image for name, all_ in images.items() for k, image in enumerate(all_)}
    return arrays | {"repeats": np.array(REPEATS)}


def encode(masks: list[np.ndarray]) -> None:
    """Compare masks to flows."""

    def ours() -> list[np.ndarray]:
        return [masks_to_flows(labels, centre="mean") for labels in masks]

    answer = run_peer("encode", numbered(masks=masks))
    encoded, taken = timed(ours, REPEATS)
    report("masks_to_flows, 35 contrast images", taken, answer["seconds"])
    _print_cosines(encoded, [answer[f"flows_{k}"] for k in range(len(masks))], masks)


def decode(masks: list[np.ndarray], name: str, noise: float) -> None:
    """Compare flows to masks."""
    generator = np.random.default_rng(0)
    given = [network_like(labels, noise, generator) for labels in masks]

    def ours() -> list[np.ndarray]:
        decoder = partial(flows_to_masks, cell_threshold=CELL_THRESHOLD, min_size=MIN_SIZE)
        return [decoder(*pair) for pair in given]

    flows, logits = map(list, zip(*given, strict=True))
    settings = {"threshold": np.array(CELL_THRESHOLD), "min_size": np.array(MIN_SIZE)}
    answer = run_peer("decode", numbered(flows=flows, logit=logits) | settings)
    decoded, taken = timed(ours, REPEATS)
    report(f"flows_to_masks, 35 contrast images, {name} flows", taken, answer["seconds"])
    _print_scores(decoded, [answer[f"masks_{k}"] for k in range(len(masks))], masks)
    decoder = partial(flows_to_masks, cell_threshold=CELL_THRESHOLD, min_size=SMALL)
    found = metrics.summary(metrics.evaluate([decoder(*pair) for pair in given], masks))
    print(f"  ours against truth at min_size {SMALL}: AP@0.5 {found['ap50']:.4f}")


def large() -> None:
    """Time both directions on one image of eight discs in two rows; the peer is not asked."""
    masks = np.zeros((SIDE, SIDE), np.int32)
    for k in range(8):
        row, column = divmod(k, 4)
        centre = ((2 * column + 1) * SIDE // 8, (2 * row + 1) * SIDE // 4)
        cv2.circle(masks, centre, DIAMETER // 2, k + 1, cv2.FILLED)
    flows, encoding = timed(lambda: masks_to_flows(masks), REPEATS)
    logit = np.where(masks > 0, 5, -5).astype(np.float32)
    decoded, decoding = timed(lambda: flows_to_masks(flows, logit), REPEATS)
    agreement = metrics.average_precision(masks, decoded, [0.5])[0]
    print(f"one image of {SIDE} x {SIDE} with eight cells of diameter {DIAMETER}")
    print(f"  masks_to_flows {encoding[0]:.3f} s, flows_to_masks {decoding[0]:.3f} s wall clock")
    print(f"  ours against truth: AP@0.5 {agreement:.4f}")


def main() -> None:
    """Time both directions on two threads and print the agreement."""
    numba.set_num_threads(THREADS)
    large()
    masks = [sample.masks for sample in load_dataset("cellpose_contrast35")]
    encode(masks)
    for name, noise in NOISE.items():
        decode(masks, name, noise)


def _print_cosines(
    ours: list[np.ndarray], theirs: list[np.ndarray], masks: list[np.ndarray]
) -> None:
    values = np.array([cosine(*of_image) for of_image in zip(ours, theirs, masks, strict=True)])
    mean, covered = values.mean(axis=0)
    print(
        f"  mean cosine {mean:.5f}, worst image {values[:, 0].min():.5f}; {covered:.2%} of pixels"
    )


def _print_scores(
    ours: list[np.ndarray], theirs: list[np.ndarray], masks: list[np.ndarray]
) -> None:
    comparisons = {"ours against truth": (ours, masks), "peer against truth": (theirs, masks)}
    for name, (predictions, truths) in (
        comparisons | {"ours against peer": (ours, theirs)}
    ).items():
        found = metrics.summary(metrics.evaluate(predictions, truths))
        print(
            f"  {name} at min_size {MIN_SIZE}: AP@0.5 {found['ap50']:.4f}, mAP {found['map']:.4f}"
        )


if __name__ == "__main__":
    main()

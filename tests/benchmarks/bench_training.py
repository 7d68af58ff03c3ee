"""A training step at full width against the released implementation's algorithm.

The released way: float32, planes apart, a full decoder also for query and contrast patches, and the
C library's default memory. Each side runs in a process of its own, since how a process keeps its
memory cannot be taken back; the sides take turns.
"""

import subprocess
import sys
import time

import numpy as np
import torch

from scellseg_lib.augment import labelled_batch, prepare
from scellseg_lib.contrast import ContrastiveTerm, pair_distance
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.device import Precision, choose_precision
from scellseg_lib.finetuning import FinetuneOptions
from scellseg_lib.model import new_model
from scellseg_lib.training import segmentation_loss
from tests.benchmarks.clock import THREADS

LEVELS = (32, 64, 128, 256)
STEPS = 2


def side(name: str, strategy: str) -> float:
    """Seconds of a step on this side; the first step is not counted."""
    torch.set_num_threads(THREADS)
    device = torch.device("cpu")
    ours = name == "ours"
    precision = choose_precision(device) if ours else Precision()
    model = new_model("scellseg", LEVELS)
    precision.place(model.network, device).train()
    worms = load_dataset("synthetic_worms")
    shots = prepare(worms.shots(2))
    styles = [prepare(style) for style in load_dataset("synthetic_contrast").styles().values()]
    term = ContrastiveTerm(prepare(worms.query[:2], 36.0), styles, FinetuneOptions())
    optimiser = torch.optim.Adam([*model.network.parameters(), *term.parameters()])
    taken = []
    for step in range(STEPS + 1):
        start = time.perf_counter()
        rng = np.random.default_rng(step)
        batch = labelled_batch(shots, model.representation, rng)
        loss, output = segmentation_loss(model, *batch, precision)
        if strategy == "contrastive" and ours:
            loss = loss + term(model.network, output.style, rng, 0.0, precision)
        elif strategy == "contrastive":
            query, other = (model.network(images).style for images in term.batches(rng, 8))
            distances = [pair_distance(output.style, style) for style in (query, other)]
            loss = loss + term.weight(0.0) * distances[0] / (distances[1] + 1e-5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def measure(name: str, strategy: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.bench_training", name, strategy]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(answer.splitlines()[-1])


def main() -> None:
    for strategy in ("classic", "contrastive"):
        runs = [(measure("ours", strategy), measure("released", strategy)) for _ in range(2)]
        ours, released = map(min, zip(*runs, strict=True))
        print(f"{strategy} step, full width, batch 8, {THREADS} threads")
        print(f"  ours {ours:.2f} s, released way {released:.2f} s, ratio {released / ours:.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(side(sys.argv[1], sys.argv[2]))
    else:
        main()

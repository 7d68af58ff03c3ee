"""Which image to annotate next: those that the tuned model doubts most, against any.

``python -m tests.benchmarks.next_image`` goes through the folds of the shot pools (docs/method.md,
section 10), adds a row to a table for each model that it tunes, and goes on where it was stopped.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from scellseg_lib import paths
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.finetuning import finetune
from scellseg_lib.learning_curve import count_cells, rank_doubts
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.model import Model
from scellseg_lib.paper.shots import find_shots
from scellseg_lib.paper.store import find_commit
from scellseg_lib.samples import Dataset
from scellseg_lib.segmentation import segment
from tests.benchmarks.table import add_run, read_runs

DATA = ("bbbc010_elegans", "t98g_phase", "hela_phase_nuclei")
LEVELS, RECIPE, COUNTS = (16, 32, 64, 128), "quick", (2, 4, 6)


def compare(data: str, state: int, fold: int) -> pd.DataFrame:
    """Start from one image, annotate up to six by doubt or at random; score on two held out."""
    images, order = load_dataset(data), find_shots(data, 10, state)
    held_out = order[2 * fold : 2 * fold + 2]
    pool = [name for name in order if name not in held_out]
    pool = np.random.default_rng((state, fold)).permutation(pool).tolist()
    model, rows = load_model("scellseg", levels=LEVELS), list[dict]()

    def pick(names: Sequence[str]) -> Dataset:
        return replace(images, samples=tuple(one for one in images.shot if one.name in names))

    def tune(names: list[str], way: str) -> Model:
        shots, tested = pick(names), pick(held_out)
        tuned = finetune(model, shots, None, RECIPE, seed=state)
        row = {"data": data, "state": state, "fold": fold, "way": way, "n_shots": len(names)}
        row |= {"cells": sum(count_cells(shots)), "shots": "; ".join(names)}
        rows.append(row | summary(evaluate(segment(tuned, tested, progress=False), tested)))
        return tuned

    first = tune(pool[:1], "first")
    for way in ("doubt", "random"):
        names, tuned = pool[:1], first
        for n in COUNTS:
            others = [name for name in pool if name not in names]
            if way == "doubt":
                others = rank_doubts(tuned, pick(others).without_masks())["image"].tolist()
            names = names + others[: n - len(names)]
            tuned = tune(names, way)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=paths.results("next_image.csv"))
    parser.add_argument("--states", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    for state, fold, data in itertools.product(asked.states, range(5), DATA):
        name = f"{data} {state} {fold}"
        if name not in read_runs(asked.table):
            rows = compare(data, state, fold)
            print(name, rows["map"].round(3).tolist(), flush=True)
            add_run(asked.table, name, rows.round(6), {"commit": find_commit()}, recipe=RECIPE)

"""Experiments within the shot pools, by the folds of docs/method.md, section 10.

``python -m tests.benchmarks.pools next`` asks which image to annotate next: those that the tuned
model doubts most, or any; ``.. pixels`` what one pixel does to a score. Each adds rows to a table
of its own for every fold, and goes on where it was stopped.
"""

import argparse
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from skimage.segmentation import expand_labels, find_boundaries

from scellseg_lib import paths
from scellseg_lib.augment import MEAN_DIAMETER
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.finetuning import finetune
from scellseg_lib.learning_curve import count_cells
from scellseg_lib.metrics import evaluate, scores, summary
from scellseg_lib.model import Model
from scellseg_lib.paper.shots import find_shots
from scellseg_lib.paper.store import find_commit
from scellseg_lib.representation.flow import FLOW_SCALE
from scellseg_lib.samples import Dataset, resize_masks
from scellseg_lib.segmentation import FarFromModel, Prediction, decode, segment
from tests.benchmarks.table import add_run, read_runs

DATA = ("bbbc010_elegans", "t98g_phase", "hela_phase_nuclei")
LEVELS, COUNTS = (16, 32, 64, 128), (2, 4, 6)


class Fold:
    """Two images of a pool held out, and the others, from which some are learnt from."""

    def __init__(self, data: str, state: int, fold: int) -> None:
        self.images, self.rows = load_dataset(data), list[dict]()
        order = find_shots(data, 10, state)
        held_out = order[2 * fold : 2 * fold + 2]
        self.facts, self.held_out = (
            {"data": data, "state": state, "fold": fold},
            self.pick(held_out),
        )
        self.random = np.random.default_rng((state, fold))
        pool = [name for name in order if name not in held_out]
        self.pool: list[str] = self.random.permutation(pool).tolist()
        self.model = load_model("scellseg", levels=LEVELS)

    def pick(self, names: Sequence[str]) -> Dataset:
        chosen = tuple(one for one in self.images.shot if one.name in names)
        return replace(self.images, samples=chosen)

    def tune(self, shots: Dataset, way: str, recipe: str) -> Model:
        """Tune on some images, and note the scores of those held out."""
        tuned = finetune(self.model, shots, None, recipe, seed=self.facts["state"])
        names = "; ".join(shot.name for shot in shots)
        row = self.facts | {"way": way, "n_shots": len(shots), "cells": sum(count_cells(shots))}
        found = segment(tuned, self.held_out, progress=False)
        self.rows.append(row | {"shots": names} | summary(evaluate(found, self.held_out)))
        return tuned


def find_next(fold: Fold) -> None:
    """Start from one image, and annotate up to six by doubt or at random."""
    first = fold.tune(fold.pick(fold.pool[:1]), "first", "quick")
    for way in ("doubt", "random"):
        names, tuned = fold.pool[:1], first
        for n in COUNTS:
            others = [name for name in fold.pool if name not in names]
            if way == "doubt":
                doubts = measure_doubts(tuned, fold.pick(others).without_masks())
                others = sorted(others, key=lambda name: -doubts[name])
            names = names + others[: n - len(names)]
            tuned = fold.tune(fold.pick(names), way, "quick")


def measure_doubts(model: Model, images: Dataset) -> dict[str, float]:
    """1 - mAP of the cells that it finds with flips against those without; 1 if it finds none."""
    with warnings.catch_warnings(action="ignore", category=FarFromModel):
        found = [segment(model, images, flips=flips, progress=False) for flips in (False, True)]
    return {
        plain.name: 1 - float(scores(plain.masks, flipped.masks).ap.mean() * plain.masks.any())
        for plain, flipped in zip(*found, strict=True)
    }


def change_a_pixel(fold: Fold) -> None:
    """What one pixel, or the representation at the 30-px scale, takes from a perfect score."""
    truth = [sample.masks for sample in fold.held_out]
    ways = {"moved": [np.roll(masks, 1, axis=1) for masks in truth]}
    ways["thicker"] = [expand_labels(masks, 1) for masks in truth]
    ways["thinner"] = [masks * ~find_boundaries(masks, 1, "inner") for masks in truth]
    ways["as flows"] = [as_flows(masks, fold) for masks in truth]
    for way, found in ways.items():
        fold.rows.append(fold.facts | {"way": way} | summary(evaluate(found, fold.held_out)))


def as_flows(masks: np.ndarray, fold: Fold) -> np.ndarray:
    """True masks at the 30-px scale as a network would say them, decoded at full size."""
    representation, diameter = fold.model.representation, fold.images.shot.diameter
    height, width = (round(MEAN_DIAMETER / diameter * length) for length in masks.shape)
    *flow, inside = representation.targets(resize_masks(masks, (height, width)))
    maps = np.stack([*(FLOW_SCALE * np.array(flow)), 6 * np.sign(inside - 0.5)])
    said = Prediction("", maps.astype(np.float32), np.zeros(256), masks.shape, diameter)
    return decode(said, representation, fold.model.card.decoding, resample=True)


EXPERIMENTS = {"next": find_next, "pixels": change_a_pixel}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--states", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    table = paths.results(f"pools_{asked.experiment}.csv")
    for key in itertools.product(DATA, asked.states, range(5)):
        if (name := " ".join(map(str, key))) not in read_runs(table):
            EXPERIMENTS[asked.experiment](fold := Fold(*key))
            rows = pd.DataFrame(fold.rows).round(6)
            print(name, rows["map"].round(3).tolist(), flush=True)
            add_run(table, name, rows, {"commit": find_commit()})

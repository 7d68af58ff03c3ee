"""How strongly the contrastive term pulls at the network, beside the segmentation's loss.

``python -m tests.benchmarks.gradients --data bbbc010_elegans --state 0`` tunes as the trial of ten
shots does, and adds to a table the norms of both gradients, in the downsampling pass, step by step.
"""

import argparse
from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from scellseg_lib import paths
from scellseg_lib.contrast import ContrastiveTerm
from scellseg_lib.device import Precision
from scellseg_lib.finetuning import STRATEGIES, finetune
from scellseg_lib.model import library_versions
from scellseg_lib.network import Network
from scellseg_lib.paper import grid, run
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.store import find_commit
from scellseg_lib.paper.trial import Trial
from scellseg_lib.training import Progress
from tests.benchmarks.table import add_run, read_runs

PULLS: list[tuple[Iterable[Tensor], Tensor, float]] = []
"""Of the step: weights of the downsampling pass, the term's gradient, and the term's weight."""


class WatchedTerm(ContrastiveTerm):
    """The term, which notes its own gradient before the segmentation's is added."""

    def forward(self, network: Network, *rest: Any) -> Tensor:
        """Term of a step."""
        extra, weights = super().forward(network, *rest), [*network.extractor.down.parameters()]
        pull = flatten(torch.autograd.grad(extra, weights, retain_graph=True))
        PULLS.append((weights, pull, float(self.weight(0.0).detach())))
        return extra


def flatten(tensors: Iterable[Tensor | None]) -> Tensor:
    """One vector of all numbers, whatever their layout."""
    return torch.cat([tensor.flatten() for tensor in tensors if tensor is not None])


def measure(trial: Trial) -> pd.DataFrame:
    """Tune as a contrastive trial of the usual options does: a row a step."""
    images, rows = run.load_images(trial), []

    def note(progress: Progress) -> None:
        weights, term, weight = PULLS.pop()
        segmentation = flatten(one.grad for one in weights) - term
        row = {"data": trial.data, "state": trial.seed, "step": progress.step, "weight": weight}
        row |= {f"{name}_loss": loss for name, loss in progress.losses.items()}
        row |= {"contrast_norm": term.norm(), "segmentation_norm": segmentation.norm()}
        rows.append(row | {"cosine": torch.cosine_similarity(term, segmentation, dim=0)})

    STRATEGIES["watched"] = WatchedTerm
    start = run.load_start(trial, run.open_workspace(load_profile("released")))
    shots, queries = trial.select_shots(images), trial.select_queries(images)
    options: dict[str, Any] = {"contrast": images[trial.contrast], "steps": trial.steps}
    options |= {"precision": Precision("bf16", channels_last=True), "seed": trial.seed}
    finetune(start, shots, queries, "paper", strategy="watched", callback=note, **options)
    return pd.DataFrame(rows).astype({"contrast_norm": float, "segmentation_norm": float})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--state", type=int, required=True)
    asked = parser.parse_args()
    file, name = paths.results("released/contrast_gradients.csv"), f"{asked.data} {asked.state}"
    if name in read_runs(file):
        parser.error(f"the table has {name}")  # rows must not come twice
    profile = load_profile("released").narrow(data=[asked.data], states=[asked.state])
    wanted = (t for t in grid.transferability(profile) if (t.model, t.strategy) == grid.CFT)
    frame = measure(next(wanted)).astype({"cosine": float})
    origin = {"commit": find_commit(), "versions": library_versions()}
    short = frame.map(lambda value: f"{value:.5g}" if isinstance(value, float) else value)
    add_run(file, name, short, origin)
    print(pd.read_csv(file).to_string())

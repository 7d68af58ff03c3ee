"""Pre-train the packaged weights: ``python -m scellseg_lib.paper.packaged scellseg --width half``.

The run keeps its checkpoint under the repository's ``runs/`` and goes on from it. It learns from
images whose source states its terms and from synthetic ones, never from an evaluation set.
"""

from dataclasses import replace
from typing import Any, Literal

import pandas as pd
import typer

from scellseg_lib import paths
from scellseg_lib.datasets import synthetic
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.datasets.manifest import load_manifest
from scellseg_lib.datasets.weights import load_model, packaged_file
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.model import Model
from scellseg_lib.network import NetworkName
from scellseg_lib.paper.run import log_of
from scellseg_lib.pretraining import PretrainRecipe, pretrain
from scellseg_lib.samples import Dataset
from scellseg_lib.segmentation import segment

WIDTHS = {"half": (16, 32, 64, 128), "full": (32, 64, 128, 256)}
N_SYNTHETIC = 60


def choose_colour_slides(data: Dataset) -> Dataset:
    """Histology of the Data Science Bowl; its other images at hand are damaged (see its note)."""
    colour = {e.name for e in load_manifest("dsb2018").entries() if e.kind == "colour"}
    return replace(data, samples=tuple(sample for sample in data if sample.name in colour))


def load_training_data() -> list[Dataset]:
    """Images that the packaged weights learn from."""
    return [
        load_dataset("cellpose_contrast35"),
        choose_colour_slides(load_dataset("dsb2018").split("pretrain")),
        load_dataset("hepg2_nuclei").split("pretrain"),
        synthetic.make_dataset("synthetic_pretrain", n_pretrain=N_SYNTHETIC),
    ]


def score_general_test(model: Model) -> dict[str, float]:
    """AP on images of the general test, each scaled by its true diameter (an oracle)."""
    scores: dict[str, float] = {}
    for name in ("huh7_nuclei", "dsb2018_colour", "tcell_if"):
        data = load_dataset(name.removesuffix("_colour")).split("general_test")
        data = choose_colour_slides(data) if name == "dsb2018_colour" else data
        cells = [segment(model, [sample], diameter=sample.diameter)[0] for sample in data]
        for key, value in summary(evaluate(cells, data)).items():
            scores[f"{name} {key}"] = round(value, 4)
    return scores


def main(
    name: NetworkName, width: Literal["half", "full"] = "half", steps: int = 1500, initial: str = ""
) -> None:
    """Train, from another packaged model of that width where given (its own: go on), and save."""
    levels = WIDTHS[width]
    file = packaged_file(name, levels)
    checkpoint = paths.RUNS / "pretrain" / f"{file.stem}.safetensors"
    start = load_model(packaged_file(initial, levels)) if initial else None
    recipe = PretrainRecipe(steps=steps, optimiser="adam", learning_rate=2e-3, schedule="onecycle")
    given: dict[str, Any] = {"levels": levels, "initial": start, "checkpoint": checkpoint}
    model = pretrain(name, load_training_data(), recipe=recipe, **given)
    model.card.licence = "research only, see LICENSE-WEIGHTS.md"
    model.save(file, half=True)
    log = pd.DataFrame(model.log).round(5)
    if initial == name:  # below the losses of the run that it went on from
        before = pd.read_csv(log_of(file))
        log = pd.concat([before, log.assign(step=log["step"] + before["step"].iloc[-1])])
    log.to_csv(log_of(file), index=False)
    shipped = load_model(file)  # what is scored is what is shipped: weights of 16 bits
    shipped.card.scores |= score_general_test(shipped)
    shipped.save(file, half=True)
    checkpoint.unlink()


if __name__ == "__main__":
    typer.run(main)

"""Pre-train the packaged weights: ``python -m scellseg_lib.paper.packaged scellseg --width half``.

The run keeps its checkpoint under the repository's ``runs/`` and goes on from it. It learns from
images whose source states its terms and from synthetic ones, never from an evaluation set.
"""

import argparse
import csv
import io
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from scellseg_lib import paths
from scellseg_lib.datasets import synthetic
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.datasets.manifest import load_manifest
from scellseg_lib.datasets.weights import load_model, packaged_file
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.model import Model
from scellseg_lib.network import ARCHITECTURES
from scellseg_lib.pretraining import PretrainRecipe, log_of, pretrain
from scellseg_lib.samples import Dataset
from scellseg_lib.segmentation import segment
from scellseg_lib.training import Progress

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


def find_checkpoint(stem: str) -> Path:
    """Checkpoint of a model's run, until its weights are saved."""
    return paths.REPOSITORY / "runs" / "pretrain" / f"{stem}.safetensors"


def train(name: str, width: str, steps: int, initial: Model | None = None) -> Model:
    """Pre-train one model, from another's weights where given; resumes from ``runs/pretrain/``."""
    levels = WIDTHS[width]
    stem = packaged_file(name, levels).stem
    recipe = PretrainRecipe(optimiser="adam", learning_rate=2e-3, steps=steps, schedule="onecycle")

    def show(done: Progress) -> None:
        if done.validation_loss is not None:
            tqdm.write(f"{stem} step {done.step}: validation {done.validation_loss:.4f}")

    return pretrain(
        name,  # type: ignore[arg-type]
        load_training_data(),
        levels=levels,
        recipe=recipe,
        initial=initial,
        checkpoint=find_checkpoint(stem),
        callback=show,
    )


def score_general_test(model: Model) -> dict[str, float]:
    """AP on images of the general test, each scaled by its true diameter (an oracle)."""
    scores: dict[str, float] = {}
    sets = {
        "huh7_nuclei": load_dataset("huh7_nuclei").split("general_test"),
        "dsb2018_colour": choose_colour_slides(load_dataset("dsb2018").split("general_test")),
        "tcell_if": load_dataset("tcell_if").split("general_test"),
    }
    for name, data in sets.items():
        cells = [segment(model, [sample], diameter=sample.diameter)[0] for sample in data]
        for key, value in summary(evaluate(cells, data)).items():
            scores[f"{name} {key}"] = round(value, 4)
    return scores


def write_log(model: Model, weights: Path, before: str = "") -> None:
    """Write the losses of a run beside the weights, below those of the run that it went on from."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["step", "loss", "validation_loss"], lineterminator="\n")
    if not before:
        writer.writeheader()
    done = int(before.splitlines()[-1].split(",")[0]) if before else 0
    for entry in model.log:
        row = {k: round(v, 5) for k, v in entry.items()}
        writer.writerow(row | {"step": done + int(entry["step"])})
    log_of(weights).write_text(before + file.getvalue())


def main() -> None:
    """Train and save as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(ARCHITECTURES))
    parser.add_argument("--width", choices=sorted(WIDTHS), default="half")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--initial", help="packaged model of the same width to start from; its own name: go on"
    )
    asked = parser.parse_args()
    file = packaged_file(asked.name, WIDTHS[asked.width])
    before = log_of(file).read_text() if asked.initial == asked.name else ""
    initial = None
    if asked.initial:
        initial = load_model(packaged_file(asked.initial, WIDTHS[asked.width]))
    model = train(asked.name, asked.width, asked.steps, initial)
    model.card.licence = "research only, see LICENSE-WEIGHTS.md"
    model.save(file, half=True)
    write_log(model, file, before)
    shipped = load_model(file)  # what is scored is what is shipped: weights of 16 bits
    shipped.card.scores |= score_general_test(shipped)
    shipped.save(file, half=True)
    find_checkpoint(file.stem).unlink()


if __name__ == "__main__":
    main()

"""No input ends in a traceback or half a file by the command line or the workbench's Python."""

import shutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors.torch import save

from scellseg_lib import ScellsegError, datasets, finetuning, paths
from scellseg_lib.files.images import write_labels
from scellseg_lib.workbench.annotate import AnnotatePanel
from scellseg_lib.workbench.experiment import Experiment, offer_models
from scellseg_lib.workbench.export import ExportPanel
from scellseg_lib.workbench.finetune import find_runs
from tests import tiny
from tests.corpus import faults, fuzz, test_annotations, test_images, test_stores
from tests.corpus.test_images import CELLS, GREY, WHOLE, tiff
from tests.corpus.test_results import MODEL
from tests.corpus.test_stores import CLI, FOREIGN, WEIGHTS
from tests.datasets.test_manifest import VALID

CUT = [content[: len(content) * 3 // 5] for content in WHOLE.values()]
MASKS = [*(row[0] for row in test_images.LABELS), *CUT]
MASKS += [tiff(np.asarray(masks, "u2")) for masks, _ in test_images.DOUBTS]
IMAGES = [*WHOLE.values(), *CUT, *(content for content, _ in test_images.PIXELS)]
LISTS = [one if isinstance(one, bytes) else one.encode() for one, _ in test_annotations.LISTS]
TABLES: list[bytes] = test_stores.TABLES[:-1]  # type: ignore[assignment]
MODELS = [save(WEIGHTS | tensors, {"card": card}) for card, tensors in test_stores.MODELS]
WHOLE_MODEL = save(MODEL.network.state_dict(), {"card": MODEL.card.model_dump_json()})
STATES = [save({}, {"run": run}) for run in test_stores.RUNS]
YAMLS = [b"name: mine\n" + one for one in test_stores.YAML]
SEGMENT = "segment in/a.tif --model one.safetensors --output out --diameter 30"
EXPORT = "export in/a_masks.tif --output out --to table --to geojson --to cellpose"
TUNE = "finetune in --model one.safetensors --output in/m.safetensors --steps 1 --inductive"
# Which file of a folder is an input, the inputs, and the command that reads it.
WAYS = {
    "image": ("in/a.tif", IMAGES, SEGMENT),
    "masks": ("in/a_masks.tif", MASKS, EXPORT),
    "true masks": ("truth.tif", MASKS[:18], "evaluate in/a_masks.tif truth.tif --csv out/s.csv"),
    "list": ("in/a_cells.csv", LISTS + TABLES, EXPORT),
    "record": ("out/segmented.json", test_stores.CONTENTS, SEGMENT),
    "model": ("one.safetensors", MODELS, SEGMENT),
    "weights": ("w.pth", test_stores.PICKLES, "segment in --model cellpose --weights w.pth"),
    "checkpoint": ("in/m.checkpoint", STATES + TABLES, TUNE),
    "manifest": ("mine.yaml", YAMLS, "data path mine"),
    "archive": ("downloads/small/a.zip", test_stores.ARCHIVES, "data fetch small"),
    "profile": ("mine.yaml", test_stores.YAML, "sweep shot_scale --profile mine --dry-run"),
}


def write(file: str, content: bytes) -> None:
    """An image, its masks and a model, and the input; nothing else is there."""
    for old in Path().glob("*"):
        _ = shutil.rmtree(old) if old.is_dir() else old.unlink()
    Path("one.safetensors").write_bytes(WHOLE_MODEL)
    Path("small.yaml").write_text(yaml.safe_dump(VALID, sort_keys=False))
    cells = np.zeros(GREY.shape, "u1")
    cells[: len(CELLS), : len(CELLS)] = CELLS
    for name, pixels in (("in/a.tif", GREY), ("in/a_masks.tif", cells), ("truth.tif", cells)):
        write_labels(name, pixels)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_bytes(content)


def type_in(command: str) -> Iterator[str]:
    """What is wrong with the answer of a command."""
    datasets.manifest._parse.cache_clear()
    result = CliRunner().invoke(CLI, command.split())
    if not isinstance(result.exception, SystemExit | None):
        yield repr(result.exception)
    if bool(result.exit_code) != ("Error" in result.output):
        yield f"exit status {result.exit_code}: {result.output}"
    yield from (f"{word} in {result.output}" for word in FOREIGN if word in result.output)
    made = Path("out")
    yield from (f"{file} is left" for file in made.rglob(".*") if file.name != ".hashes")
    yield from (one for one in faults.find_halves(made) if "segmented.json" not in one)


def open_in_workbench(folder: Path, name: str, content: bytes, panels: list) -> Iterator[str]:
    """What is wrong when a folder is opened, or a file dropped on it."""
    for act in (
        lambda: Experiment(folder).survey(),
        lambda: [model.load() for model in offer_models(folder) if model.is_own],
        lambda: find_runs(folder),
        *(partial(panel.go_to, folder) for panel in panels),
        lambda: (folder / name).unlink() or Experiment(folder).take(name, content),
    ):
        try:
            act()
        except ScellsegError as error:
            yield from (f"{word} in {error}" for word in FOREIGN if word in str(error))
        except Exception as error:
            yield repr(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WAYS)
def test_every_input_by_the_command_line_and_the_workbench(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finetuning, "default_contrast", tiny.contrast)
    for name in ("PROFILES", "MANIFESTS"):
        monkeypatch.setattr(paths, name, tmp_path)
    monkeypatch.setenv("SCELLSEG_CACHE", str(tmp_path))
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path / "out"))
    (file, inputs, command), wrong = WAYS[kind], []
    if kind in ("image", "record", "checkpoint"):  # of one model: to read it takes half of the time
        monkeypatch.setattr(datasets.weights, "read_model", cache(datasets.weights.read_model))
    panels = [AnnotatePanel(), ExportPanel()]
    for number, content in enumerate(inputs):
        write(file, content)
        found = [*type_in(command)]
        write(file, content)
        found += open_in_workbench(tmp_path / Path(file).parent, Path(file).name, content, panels)
        wrong += [f"{kind} {number}: {one}"[:300] for one in found]
    assert wrong == []


@pytest.mark.parametrize("kind", sorted(fuzz.KINDS))
def test_damaged_files_are_read_or_refused(kind):
    assert not fuzz.fuzz(kind, 25)["fault"]

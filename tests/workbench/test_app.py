"""How the panels of the workbench hang together, and that every function has its test."""

from __future__ import annotations

import ast
import base64
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from scellseg_lib import paths, progress
from scellseg_lib.files.images import read_masks, write_labels
from scellseg_lib.model import new_model
from scellseg_lib.workbench import app
from scellseg_lib.workbench.app import ANNOTATE, EXPORT, FINETUNE, INSPECT, SEGMENT, Workbench
from scellseg_lib.workbench.forms import duration, plain, typed_path
from tests import tiny
from tests.workbench.conftest import DECODING
from tests.workbench.waiting import LONG, until

pytestmark = [
    pytest.mark.usefixtures("tiny_world"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SQUARE = np.array([[5, 5], [5, 30], [30, 30], [30, 5]], float)
NAMES = "abc"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of worms, the first annotated, and a model."""
    home = tmp_path / "worms"
    home.mkdir()
    for seed, name in enumerate(NAMES):
        image, masks = tiny.worm(seed)
        write_labels(home / f"{name}.tif", np.round(image[0, :96, :96]).astype(np.uint16))
        if not seed:
            write_labels(home / f"{name}_masks.tif", masks[:96, :96])
    model = new_model("scellseg", tiny.LEVELS, seed=0)
    model.card = model.card.model_copy(update={"diameter": 60.0, "decoding": DECODING})
    model.save(home / "tuned.safetensors")
    return home


@pytest.fixture
def segmented(folder: Path) -> Workbench:
    """A workbench whose images are all segmented."""
    workbench = Workbench(folder)
    job = workbench.segment.segment()
    assert job is not None
    assert job.join(LONG).state == "done"
    counting = workbench.segment.results.job
    assert counting is not None
    assert counting.join(LONG).state == "done"
    return workbench


def test_a_folder_goes_to_all_panels(folder: Path):
    workbench = Workbench()
    workbench.annotate.folder.value = str(folder)
    assert workbench.finetune.folder.value == str(folder)
    assert workbench.segment.source.value == str(folder)
    assert workbench.export.path == folder
    until(lambda: workbench.finetune.found)
    assert [shot.name for shot in workbench.finetune.found.usable] == ["a"]
    assert workbench.segment.found.text == "3 images found."
    assert workbench.segment.form.model.value.name == folder / "tuned.safetensors"


def test_the_disk_beside_the_cells_is_the_size_to_segment_at(folder: Path):
    workbench = Workbench(folder)
    workbench.annotate.editor.diameter = 41.5
    assert workbench.segment.form.diameter.value == 41.5
    workbench.annotate.editor.diameter = 0.0  # hides the disk
    assert workbench.segment.form.diameter.value == 41.5


def test_what_is_drawn_is_kept_when_another_tab_is_turned_to(folder: Path):
    workbench = Workbench(folder)
    assert workbench.annotate.current.name == "b"
    workbench.annotate.editor.outline(SQUARE)
    workbench.tabs.selected_index = FINETUNE
    assert read_masks(folder / "b_masks.tif").max() == 1
    until(lambda: workbench.finetune.found and len(workbench.finetune.found.usable) == 2)


def test_masks_that_cannot_be_written_are_said_above_all_tabs(folder: Path):
    workbench = Workbench(folder)
    workbench.annotate.editor.outline(SQUARE)
    (folder / "b_masks.tif").mkdir()  # in their way
    workbench.tabs.selected_index = EXPORT
    assert workbench.message.is_error
    assert "b_masks.tif" in workbench.message.text
    (folder / "b_masks.tif").rmdir()
    workbench.tabs.selected_index = FINETUNE
    assert read_masks(folder / "b_masks.tif").max() == 1
    assert workbench.message.text == ""


def test_a_model_just_tuned_is_chosen_to_segment_with(folder: Path):
    workbench = Workbench(folder)
    panel = workbench.finetune
    until(lambda: panel.found)  # the form is filled
    panel.steps.value, panel.batch.value, panel.name.value = 1, 1, "mine"
    panel.strategy.value = "classic"
    panel.start.click()
    assert panel.job is not None
    assert panel.job.join(LONG).state == "done"
    assert workbench.segment.form.model.value.name == folder / "mine.safetensors"
    assert workbench.segment.form.loaded is not None


def test_results_are_listed_and_exported(segmented: Workbench, folder: Path):
    assert [entry.name for entry in segmented.segment.results.entries] == list(NAMES)
    segmented.tabs.selected_index = EXPORT
    assert segmented.export.message.text.startswith("3 images.")
    segmented.export.start.click()
    segmented.export.job.join(LONG)
    assert len(list((folder / "exported").iterdir())) == 6


def answered(workbench: Workbench) -> None:
    """Wait until what was asked of the network is shown."""
    assert workbench._asking.join(LONG).ended


def inspect(workbench: Workbench, name: str) -> None:
    """Choose a result and press Look at it."""
    results = workbench.segment.results
    results.list.index = [entry.name for entry in results.entries].index(name)
    results.buttons["inspect"].click()
    workbench.inspector.join(LONG)


def test_a_result_is_inspected_against_what_was_drawn(segmented: Workbench, folder: Path):
    inspect(segmented, "a")
    assert segmented.tabs.selected_index == INSPECT
    assert segmented.message.text == ""
    inspector = segmented.inspector
    assert inspector.entry.name == "a"
    np.testing.assert_array_equal(inspector.entry.true, read_masks(folder / "a_masks.tif"))
    assert inspector.entry.prediction is not None
    assert sorted(inspector.names) == list(NAMES)
    inspect(segmented, "b")
    assert inspector.entry.name == "b"
    assert inspector.entry.true is None
    inspector.go_to("c")  # the network is asked about an image when it is looked at
    until(lambda: inspector.entry.name == "c" and inspector.entry.prediction is not None)


def test_a_result_that_is_gone_is_said(segmented: Workbench, folder: Path):
    (folder / "segmented" / "b_masks.tif").write_bytes(b"II*\0")
    inspect(segmented, "b")
    inspector = segmented.inspector
    assert inspector._message.is_error
    assert "b_masks.tif" in inspector._message.text
    inspect(segmented, "c")  # which is whole
    assert inspector.entry.name == "c"
    assert not inspector._message.is_error
    assert sorted(inspector.names) == list(NAMES)


def test_thresholds_found_in_the_inspector_are_those_to_segment_with(
    segmented: Workbench, folder: Path
):
    inspect(segmented, "b")
    inspector, form = segmented.inspector, segmented.segment.form
    assert inspector._use.disabled
    inspector.thresholds._sliders["min_size"].value = 60
    assert not inspector._use.disabled
    seen = np.array(inspector.view.labels)
    inspector._use.click()
    assert segmented.tabs.selected_index == SEGMENT
    assert form.chosen[2].decoding == DECODING.model_copy(update={"min_size": 60})
    assert form.thresholds._sliders["min_size"].value == 60
    assert "Press Segment" in segmented.segment.message.text
    segmented.segment.anew.value = True
    job = segmented.segment.segment()
    assert job.join(LONG).state == "done"
    written = read_masks(folder / "segmented" / "b_masks.tif")
    np.testing.assert_array_equal(written > 0, seen > 0)
    record = json.loads((folder / "segmented" / "segmented.json").read_text())
    assert record["min_size"] == 60


def test_cells_are_corrected_from_the_inspector_as_they_are_seen(
    segmented: Workbench, folder: Path
):
    inspect(segmented, "b")
    sliders = segmented.inspector.thresholds._sliders
    sliders["min_size"].value = 60
    seen = np.array(segmented.inspector.view.labels)
    segmented.inspector._correct.click()
    assert segmented.tabs.selected_index == ANNOTATE
    editor = segmented.annotate.editor
    np.testing.assert_array_equal(editor.labels, seen)
    assert [layer.name for layer in editor._layers][1:] == ["cell probability", "flow"]
    editor.outline(SQUARE, protect=False)
    segmented.annotate.learn.click()
    table = pd.read_csv(folder / "rounds.csv")
    assert table["image"].tolist() == ["b"]
    assert table["predicted"].tolist() == [len(np.unique(seen)) - 1]
    assert "Rounds of correction" in segmented.segment.results.rounds.value
    until(lambda: segmented.finetune.found and len(segmented.finetune.found.usable) == 2)


def test_a_result_is_corrected_from_the_list(segmented: Workbench, folder: Path):
    results = segmented.segment.results
    results.list.index = 2
    results.buttons["edit"].click()
    answered(segmented)
    assert segmented.tabs.selected_index == ANNOTATE
    np.testing.assert_array_equal(
        segmented.annotate.editor.labels, read_masks(folder / "segmented" / "c_masks.tif")
    )
    (folder / "c.tif").write_bytes(b"II*\0")
    segmented.tabs.selected_index = SEGMENT
    results.list.index = 2
    results.buttons["edit"].click()
    answered(segmented)
    assert "c.tif" in segmented.message.text


def test_a_machine_that_runs_the_notebook_gets_a_picture(folder: Path, monkeypatch):
    workbench, empty = Workbench(folder), Workbench()
    monkeypatch.setattr(progress, "run_by_machine", lambda: True)
    data, _ = workbench._repr_mimebundle_()
    assert base64.b64decode(data["image/jpeg"]).startswith(b"\xff\xd8\xff")
    assert data["text/plain"].startswith("Workbench: 1 Annotate")
    assert workbench.annotate.current.name == "a"  # the one with cells
    assert "image/jpeg" not in empty._repr_mimebundle_()[0]


# --- the example, and the notebook ----------------------------------------------------------------


def test_the_example_is_made_once(tmp_path: Path):
    folder = app.make_example(tmp_path / "example")
    images = sorted(folder.glob("worms_?.tif"))
    assert len(images) == 8
    assert len(list(folder.glob("*_masks.tif"))) == 3
    drawn = folder / "worms_1_masks.tif"
    drawn.write_bytes(b"mine")
    images[0].touch()
    app.make_example(folder)
    assert drawn.read_bytes() == b"mine"


def test_the_folder_to_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app, "make_example", lambda folder: folder)
    monkeypatch.delenv(app.FOLDER, raising=False)
    assert app.start_folder() == paths.runs() / "example"
    monkeypatch.setenv(app.FOLDER, str(tmp_path))
    assert app.start_folder() == tmp_path
    assert app.start_folder(str(tmp_path / "other")) == tmp_path / "other"


def named_tests() -> list[str]:
    """Tests that the notebook's table names, as ``folder/file.py::name``."""
    cells = nbformat.read(app.NOTEBOOK, as_version=4).cells
    return re.findall(r"`([\w/]+\.py::\w+)`", "\n".join(cell.source for cell in cells))


def test_every_function_of_the_released_interface_has_a_test_that_exists():
    named = named_tests()
    assert len(named) > 30
    tests = paths.REPOSITORY / "tests"
    missing = []
    for one in named:
        file, name = one.split("::")
        tree = ast.parse((tests / file).read_text()) if (tests / file).is_file() else ast.Module([])
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        missing += [one] if name not in found else []
    assert missing == []


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (41, "41 s"), (200, "3 min"), (5400, "1 h 30 min"), (7200, "2 h")],
)
def test_times_are_as_precise_as_an_estimate(seconds, said):
    assert duration(seconds) == said


def test_errors_of_the_system_are_told_plainly_and_unforeseen_ones_logged_in_full(caplog):
    try:
        raise KeyError("odd")
    except KeyError as error:
        text = plain(error)
    assert "Something unforeseen happened (KeyError" in text
    assert "Traceback" in caplog.text
    told = plain(FileNotFoundError(2, "No such file or directory", "/data/a.tif"))
    assert told.startswith("a.tif: there is no such file or folder.")
    assert "disk" not in told  # it is not full


@pytest.mark.parametrize("typed", ["{}", " {} ", "'{}'", ' "{}"', "{}/sub/.."])
def test_paths_are_understood_as_they_are_pasted(tmp_path, typed):
    assert typed_path(typed.format(tmp_path)) == tmp_path
    assert typed_path("~") == Path.home().resolve()
    assert typed_path(" ''") is None

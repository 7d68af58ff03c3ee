"""How the panels of the workbench hang together, and that every function has its test."""

import base64
import errno
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from scellseg_lib import Sample, paths, progress
from scellseg_lib.files.images import read_masks, write_labels
from scellseg_lib.workbench import app
from scellseg_lib.workbench.app import ANNOTATE, EXPORT, FINETUNE, INSPECT, SEGMENT, Workbench
from scellseg_lib.workbench.forms import duration, plain, read_path
from tests import tiny
from tests.workbench.conftest import DECODING, LONG, NAMES, SMALL, is_shown, problem, squares, until

pytestmark = SMALL
SQUARE = np.array([[5, 5], [5, 30], [30, 30], [30, 5]], float)


@pytest.fixture
def folder(made_experiment: Path, tmp_path: Path) -> Path:
    """Six images that are not segmented yet, the first annotated, and a model."""
    home = Path(shutil.copytree(made_experiment / "query", tmp_path / "worms"))
    shutil.copy(made_experiment / "tuned.safetensors", home)
    write_labels(home / "A_masks.tif", squares((9, 9), (50, 60), side=24, shape=(96, 96)))
    return home


@pytest.fixture
def segmented(made_results: Path, folder: Path) -> Workbench:
    shutil.copytree(made_results / "segmented", folder / "segmented")
    return Workbench(folder)


def test_without_a_folder_each_panel_says_what_to_do_and_a_folder_goes_to_all(folder: Path):
    workbench = Workbench()
    annotate, segment = workbench.annotate, workbench.segment
    for message, words in (
        (annotate.message, "Type the folder with your images"),
        (workbench.finetune.message, "Type the folder of your experiment"),
        (segment.found, "Type the folder of your images"),
        (workbench.inspector._message, "Segment one or more images first"),
        (workbench.export.message, "There is nothing to export yet"),
    ):
        assert words in message.text
    parts = (annotate.learn, annotate.replace, annotate.again)
    assert not any(map(is_shown, (*parts, annotate.suggest)))
    buttons = (segment.start, segment.preview.button, segment.inspect, workbench.export.start)
    assert all(button.disabled for button in buttons)
    (folder / "d.czi").touch()  # is not read, which is said
    annotate.folder.value = str(folder)
    assert "by their format or name: d.czi. Save it as" in annotate.message.text
    assert workbench.finetune.folder.value == segment.source.value == str(folder)
    assert workbench.export.path == folder
    until(lambda: workbench.finetune.found)
    assert [shot.name for shot in workbench.finetune.found.usable] == ["A"]
    assert re.match(r"6 images found\. .*: d\.czi\. Save it", segment.found.text)
    assert segment.form.model.value.name == folder / "tuned.safetensors"


@pytest.mark.parametrize("fault", [errno.EISDIR, errno.EACCES, errno.ENOSPC])
def test_what_is_drawn_is_kept_while_it_cannot_be_written(folder: Path, monkeypatch, fault):
    def fail(path: Path, _: Path) -> None:
        raise OSError(fault, os.strerror(fault), str(path))

    workbench, masks = Workbench(folder), folder / "B_masks.tif"
    workbench.annotate.editor.outline(SQUARE)
    monkeypatch.setattr(Path, "replace", fail)
    workbench.annotate.editor.finish()
    assert "B_masks.tif" in problem(workbench.annotate)
    assert os.strerror(fault) in problem(workbench.annotate)
    workbench.tabs.selected_index = EXPORT
    workbench.segment.segment().join(LONG)
    segment = workbench.segment
    assert os.strerror(fault) in segment.failures.value + segment.message.text
    assert not list((folder / "segmented").glob("*.tif"))
    monkeypatch.undo()
    workbench.annotate.editor.finish()
    workbench.tabs.selected_index = FINETUNE
    assert read_masks(masks).max() == 1
    assert workbench.message.text == ""
    until(lambda: workbench.finetune.found and len(workbench.finetune.found.usable) == 2)


def test_a_folder_that_vanishes_is_missed_in_words_and_what_is_drawn_is_kept(folder: Path):
    workbench = Workbench(folder)
    shutil.rmtree(folder)
    workbench.annotate.editor.outline(SQUARE)
    for tab in (FINETUNE, SEGMENT, INSPECT, EXPORT):
        workbench.tabs.selected_index = tab
    assert "there are no images" in workbench.segment.found.text
    assert "there are no images" in problem(workbench.export)
    workbench.annotate.editor.finish()
    assert read_masks(folder / "B_masks.tif").max() == 1


def inspect(workbench: Workbench, name: str) -> None:
    workbench.tabs.selected_index = SEGMENT
    workbench.segment.inspect.click()
    inspector = workbench.inspector
    inspector._go(next(one for one in inspector._images if one.name == name))
    inspector.join(LONG)


def test_a_result_is_inspected_against_what_was_drawn(segmented: Workbench, folder: Path):
    inspect(segmented, "A")
    inspector = segmented.inspector
    assert (segmented.tabs.selected_index, inspector.entry.name) == (INSPECT, "A")
    np.testing.assert_array_equal(inspector.entry.true, read_masks(folder / "A_masks.tif"))
    assert sorted(one.name for one in inspector._images) == list(NAMES)
    inspector.step(2)  # the network is asked about an image when it is looked at
    until(lambda: inspector.entry.name == "C" and inspector.entry.prediction is not None)
    (folder / "segmented" / "B_masks.tif").write_bytes(b"II*\0")
    inspect(segmented, "B")
    assert "B_masks.tif" in inspector._message.text
    inspect(segmented, "C")  # which is whole
    assert (inspector.entry.name, inspector.entry.true) == ("C", None)
    assert not inspector._message.is_error


def test_thresholds_found_in_the_inspector_are_those_to_segment_with(segmented, folder):
    inspect(segmented, "B")
    inspector, form = segmented.inspector, segmented.segment.form
    assert inspector._use.disabled
    inspector.thresholds._sliders["min_size"].value = 60
    seen = np.array(inspector.view.labels)
    inspector._use.click()
    assert segmented.tabs.selected_index == SEGMENT
    assert form.chosen[2].decoding == DECODING.model_copy(update={"min_size": 60})
    assert form.thresholds._sliders["min_size"].value == 60
    assert "Press Segment" in segmented.segment.message.text
    segmented.segment.anew.value = True
    assert segmented.segment.segment().join(LONG).state == "done"
    np.testing.assert_array_equal(read_masks(folder / "segmented/B_masks.tif") > 0, seen > 0)


def test_cells_are_corrected_from_the_inspector_as_they_are_seen(segmented, folder):
    inspect(segmented, "B")
    segmented.inspector.thresholds._sliders["min_size"].value = 60
    seen = np.array(segmented.inspector.view.labels)
    segmented.inspector._correct.click()
    assert segmented.tabs.selected_index == ANNOTATE
    editor = segmented.annotate.editor
    np.testing.assert_array_equal(editor.labels, seen)
    assert [layer.name for layer in editor._layers][1:] == ["cell probability", "flow"]
    editor.outline(SQUARE, protect=False)
    segmented.annotate.learn.click()
    table = pd.read_csv(folder / "rounds.csv")
    assert table[["image", "predicted"]].values.tolist() == [["B", len(np.unique(seen)) - 1]]
    assert "Rounds of correction" in segmented.segment.rounds.value
    until(lambda: segmented.finetune.found and len(segmented.finetune.found.usable) == 2)


def test_the_inspector_knows_what_is_on_the_disk_whenever_it_is_opened(segmented, folder: Path):
    inspector, tabs = segmented.inspector, segmented.tabs
    tabs.selected_index = INSPECT
    inspector.join(LONG)
    assert [one.name for one in inspector._images] == list(NAMES)
    assert [one.name for one in inspector._images if one.found.true is not None] == ["A"]
    inspector.step(3)
    shown = inspector._images
    for tab in (EXPORT, INSPECT):
        tabs.selected_index = tab
    assert inspector._images is shown  # nothing has changed
    write_labels(folder / "D_masks.tif", read_masks(folder / "segmented/D_masks.tif"))
    write_labels(folder / "corrected/E_masks.tif", read_masks(folder / "segmented/E_masks.tif"))
    (folder / "segmented" / "F_masks.tif").unlink()
    for tab in (EXPORT, INSPECT):
        tabs.selected_index = tab
    inspector.join(LONG)
    assert [one.name for one in inspector._images] == list(NAMES[:-1])
    assert (inspector.entry.name, inspector.entry.mean_ap) == ("D", 1)
    # A correction that is begun is no truth yet.
    assert [one.name for one in inspector._images if one.found.scores] == ["A", "D"]


def test_a_machine_that_runs_the_notebook_gets_pictures(folder: Path, monkeypatch):
    workbench, empty = Workbench(folder), Workbench()
    editor = workbench.annotate.editor
    monkeypatch.setattr(progress, "run_by_machine", lambda: False)
    assert "widget-view+json" in str(editor._repr_mimebundle_())
    monkeypatch.setattr(progress, "run_by_machine", lambda: True)
    data, _ = workbench._repr_mimebundle_()
    assert workbench.annotate.current.name == "A"  # the one with cells
    assert base64.b64decode(data["image/jpeg"]) == editor.picture()
    assert editor.picture().startswith(b"\xff\xd8\xff")
    assert data["text/plain"] == f"A: 96 x 96 px, {len(editor.cells)} cells"
    for one in (empty, empty.annotate.editor):
        assert set(one._repr_mimebundle_()[0]) == {"text/plain"}


def test_the_example_is_made_once_where_no_folder_is_named(tmp_path: Path, monkeypatch):
    def make_small_dataset(name: str, *, n_shot: int, n_query: int) -> list[Sample]:
        splits = ["shot"] * n_shot + ["query"] * n_query
        worms = zip(tiny.worms(len(splits)), splits, strict=True)
        return [replace(worm, split=split) for worm, split in worms]

    monkeypatch.setattr("scellseg_lib.datasets.synthetic.make_dataset", make_small_dataset)
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    monkeypatch.delenv(app.FOLDER, raising=False)
    folder = app.start_folder()
    assert len(list(folder.glob("worms_?.tif"))) == 8
    assert len(list(folder.glob("*_masks.tif"))) == 3
    drawn = folder / "worms_1_masks.tif"
    drawn.write_bytes(b"mine")
    assert app.start_folder() == folder == tmp_path / "example"
    assert drawn.read_bytes() == b"mine"
    monkeypatch.setenv(app.FOLDER, str(tmp_path))
    assert app.start_folder() == tmp_path
    assert app.start_folder(str(tmp_path / "other")) == tmp_path / "other"


def test_every_function_of_the_released_interface_has_a_test_that_exists():
    """The notebook's table names each as ``folder/file.py::name``."""
    file = paths.REPOSITORY / "notebooks" / "fig6_workbench.ipynb"
    cells = nbformat.read(file, as_version=4).cells
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", "\n".join(cell.source for cell in cells))
    assert len(named) > 30
    tests = {file: (paths.REPOSITORY / "tests" / file).read_text() for file, _ in named}
    assert [one for one in named if f"\ndef {one[1]}(" not in tests[one[0]]] == []


def test_times_are_as_precise_as_an_estimate():
    times = {0.2: "1 s", 41: "41 s", 200: "3 min", 5400: "1 h 30 min", 7200: "2 h"}
    assert [duration(seconds) for seconds in times] == [*times.values()]


def test_errors_of_the_system_are_told_plainly_and_unforeseen_ones_logged_in_full(caplog):
    assert "Something unforeseen happened (KeyError" in plain(KeyError("odd"))
    assert "KeyError: 'odd'" in caplog.text
    told = plain(FileNotFoundError(2, "No such file or directory", "/data/a.tif"))
    assert told.startswith("a.tif: there is no such file or folder.")
    assert "disk" not in told  # it is not full


@pytest.mark.parametrize("typed", ["{}", " {} ", "'{}'", ' "{}"', "{}/sub/.."])
def test_paths_are_understood_as_they_are_pasted(tmp_path, typed):
    assert read_path(typed.format(tmp_path)) == tmp_path
    assert read_path("~") == Path.home().resolve()
    assert read_path(" ''") is None

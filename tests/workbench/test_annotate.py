"""The annotation panel, driven as by a hand but without a browser: what lies there after."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from scellseg_lib.files import images as readers
from scellseg_lib.files.seg_npy import write_seg
from scellseg_lib.workbench.annotate import DONE, EMPTY, OPEN, UNSAVED, AnnotatePanel
from scellseg_lib.workbench.experiment import Experiment, SegmentedImage
from scellseg_lib.workbench.session import SegmentationSettings

SHAPE = (40, 50)
SQUARE = np.array([[5, 5], [5, 15], [15, 15], [15, 5]], float)
"""Outline of a cell, (y, x)."""


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.uint8)


def masks(*corners: tuple[int, int], side: int = 8) -> np.ndarray:
    """Square cells with these upper left corners."""
    labels = np.zeros(SHAPE, np.uint16)
    for label, (y, x) in enumerate(corners, 1):
        labels[y : y + side, x : x + side] = label
    return labels


def as_bytes(write: Callable[[Path], object], folder: Path, name: str) -> bytes:
    """Content of a file that is never in the folder of the test."""
    file = folder / "elsewhere" / name
    file.parent.mkdir(exist_ok=True)
    write(file)
    return file.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images that are not annotated, and one that is."""
    home = tmp_path / "worms"
    home.mkdir()
    for number in (1, 2, 3):
        tifffile.imwrite(home / f"worm_{number}.tif", picture(number))
    readers.write_labels(home / "worm_2_masks.tif", masks((2, 2), (20, 20)))
    return home


def marks(panel: AnnotatePanel) -> str:
    return "".join(label[0] for label, _ in panel.list.options)


def names(panel: AnnotatePanel) -> list[str]:
    return [label[2:] for label, _ in panel.list.options]


def opened(panel: AnnotatePanel) -> str:
    assert panel.current is not None
    assert panel.list.value == str(panel.current.image)
    return panel.current.name


def choose(panel: AnnotatePanel, name: str) -> None:
    panel.list.value = next(file for label, file in panel.list.options if label[2:] == name)


def drop(panel: AnnotatePanel, name: str, content: bytes) -> None:
    """Drop a file on the picture, in the parts in which the page sends it."""
    half = len(content) // 2
    for part, data in enumerate((content[:half], content[half:])):
        said = {"type": "drop", "client": "a", "name": name, "part": part, "parts": 2}
        panel.editor._receive(None, said, [memoryview(data)])


def shown(widget) -> bool:
    return widget.layout.display != "none"


# --- a folder ------------------------------------------------------------------------------------


def test_without_a_folder_the_panel_says_what_to_do_first():
    panel = AnnotatePanel()
    assert panel.message.text == EMPTY
    assert not any(shown(one) for one in (panel.list, panel.learn, panel.replace, panel.back))


def test_a_folder_opens_at_the_first_image_that_is_not_annotated(folder: Path):
    told: list[Path] = []
    panel = AnnotatePanel(on_folder=told.append)
    panel.folder.value = f' "{folder}" '  # as it is pasted from a file manager
    assert told == [folder]
    assert names(panel) == ["worm_1", "worm_2", "worm_3"]
    assert marks(panel) == OPEN + DONE + OPEN
    assert opened(panel) == "worm_1"
    assert panel.message.text.startswith(f"1 of 3 images annotated ({DONE}). Draw all cells")
    np.testing.assert_array_equal(panel.editor.labels, np.zeros(SHAPE))
    assert not panel.editor.is_changed


@pytest.mark.parametrize(
    ("typed", "words"),
    [("nowhere", "there is no such folder"), ("empty", "there are no images")],
)
def test_a_wrong_folder_is_said_and_the_one_before_stays(folder: Path, typed: str, words: str):
    (folder / "empty").mkdir()
    panel = AnnotatePanel(folder)
    panel.folder.value = str(folder / typed)
    assert panel.message.is_error
    assert words in panel.message.text
    assert panel.path == folder
    assert opened(panel) == "worm_1"


def test_going_on_saves_what_was_drawn(folder: Path):
    panel = AnnotatePanel(folder)
    panel.editor.outline(SQUARE)
    drawn = np.array(panel.editor.labels)
    assert drawn.max() == 1
    panel.editor._receive(None, {"type": "cycle", "by": 1}, [])
    assert opened(panel) == "worm_2"
    np.testing.assert_array_equal(readers.read_masks(folder / "worm_1_masks.tif"), drawn)
    assert marks(panel) == DONE + DONE + OPEN
    assert panel.message.text == f"2 of 3 images annotated ({DONE})."
    np.testing.assert_array_equal(panel.editor.labels, masks((2, 2), (20, 20)))
    panel.step(1)
    panel.step(1)
    assert opened(panel) == "worm_1"  # round and round
    np.testing.assert_array_equal(panel.editor.labels, drawn)
    panel.step(-1)
    assert opened(panel) == "worm_3"
    assert not (folder / "worm_3_masks.tif").exists()  # looked at, and not annotated thereby


def test_an_image_that_is_opened_again_shows_what_was_just_drawn(folder: Path):
    for name in ("worm_2.tif", "worm_2_masks.tif", "worm_3.tif"):
        (folder / name).unlink()
    panel = AnnotatePanel(folder)
    panel.editor.outline(SQUARE)
    panel.step(1)
    assert opened(panel) == "worm_1"
    assert panel.editor.labels.max() == 1


def test_an_image_is_chosen_from_the_list(folder: Path):
    panel = AnnotatePanel(folder)
    choose(panel, "worm_3")
    assert opened(panel) == "worm_3"
    assert panel.editor.title == "worm_3"


def test_classes_and_notes_are_saved_and_come_back(folder: Path):
    panel = AnnotatePanel(folder)
    choose(panel, "worm_2")
    panel.editor.set_class([2], "male")
    panel.editor.set_note([2], "curled")
    choose(panel, "worm_1")
    table = pd.read_csv(folder / "worm_2_cells.csv", keep_default_na=False)
    assert table.columns.tolist() == ["label", "area", "class", "note"]
    assert table.iloc[1].tolist() == [2, 64, "male", "curled"]
    again = AnnotatePanel(folder)
    choose(again, "worm_2")
    assert again.editor.cells["class"].tolist() == ["", "male"]
    assert again.editor.cells["note"].tolist() == ["", "curled"]


# --- masks of other programs ---------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Images with masks of Cellpose, in both of its kinds."""
    home = tmp_path / "cellpose"
    home.mkdir()
    for number in (1, 2, 3):
        tifffile.imwrite(home / f"cell{number}.tif", picture(number))
    readers.write_labels(home / "cell1_cp_masks.png", masks((2, 2)))
    write_seg(home / "cell2_seg.npy", masks((20, 20), (2, 30)).astype(np.int32))
    return home


def test_masks_of_cellpose_are_opened_and_never_overwritten(foreign: Path):
    before = {file.name: file.read_bytes() for file in foreign.iterdir()}
    panel = AnnotatePanel(foreign)
    assert marks(panel) == DONE + DONE + OPEN
    choose(panel, "cell2")
    np.testing.assert_array_equal(panel.editor.labels, masks((20, 20), (2, 30)))
    choose(panel, "cell1")
    np.testing.assert_array_equal(panel.editor.labels, masks((2, 2)))
    panel.editor.outline(SQUARE + 20)
    panel.keep()
    assert {file.name: file.read_bytes() for file in foreign.iterdir() if file.name in before} == (
        before
    )
    assert readers.read_masks(foreign / "cell1_masks.tif").max() == 2


def test_one_file_of_ours_hides_none_of_cellposes_from_the_next_step(foreign: Path):
    assert len(Experiment(foreign).survey().usable) == 1  # its _cp_masks hide its own _seg.npy
    panel = AnnotatePanel(foreign)
    panel.editor.outline(SQUARE)  # in the third
    panel.keep()
    assert [(shot.name, shot.cells) for shot in Experiment(foreign).survey().usable] == [
        ("cell1", 1),
        ("cell2", 2),
        ("cell3", 1),
    ]


# --- damaged files -------------------------------------------------------------------------------


def test_a_damaged_image_is_said_and_passed_over(folder: Path):
    (folder / "worm_1.tif").write_bytes(b"II*\0")
    panel = AnnotatePanel(folder)
    assert opened(panel) == "worm_3"
    assert panel.message.is_error
    assert "worm_1.tif: the file is damaged" in panel.message.text
    panel.step(1)  # past the damaged one
    assert opened(panel) == "worm_2"
    assert "worm_1.tif" in panel.message.text
    choose(panel, "worm_1")
    assert "worm_1.tif" in panel.message.text
    assert opened(panel) == "worm_2"
    panel.step(1)
    assert not panel.message.is_error


def test_nothing_but_damaged_images(folder: Path):
    for number in (1, 2, 3):
        (folder / f"worm_{number}.tif").write_bytes(b"II*\0")
    panel = AnnotatePanel(folder)
    assert panel.current is None
    assert panel.message.text.count("is damaged") == 3
    panel.step(1)
    assert panel.current is None


def test_damaged_masks_are_said_and_never_overwritten(folder: Path):
    (folder / "worm_2_masks.tif").write_bytes(b"II*\0 but not more")
    panel = AnnotatePanel(folder)
    choose(panel, "worm_2")
    assert panel.message.is_error
    assert "worm_2_masks.tif" in panel.message.text
    assert opened(panel) == "worm_1"
    panel.editor.outline(SQUARE)
    panel.step(1)
    assert opened(panel) == "worm_3"
    assert (folder / "worm_2_masks.tif").read_bytes() == b"II*\0 but not more"


def test_a_damaged_list_of_cells_is_said(folder: Path):
    (folder / "worm_2_cells.csv").write_text("no,list\n1,2\n")
    panel = AnnotatePanel(folder)
    choose(panel, "worm_2")
    assert "worm_2_cells.csv: this is no list of cells" in panel.message.text
    assert opened(panel) == "worm_1"


def test_masks_that_cannot_be_written_keep_the_image_open(folder: Path):
    panel = AnnotatePanel(folder)
    panel.editor.outline(SQUARE)
    (folder / "worm_1_masks.tif").mkdir()  # in their way
    choose(panel, "worm_3")
    assert panel.message.is_error
    assert "worm_1_masks.tif" in panel.message.text
    assert opened(panel) == "worm_1"
    assert panel.editor.labels.max() == 1
    (folder / "worm_1_masks.tif").rmdir()
    choose(panel, "worm_3")
    assert opened(panel) == "worm_3"
    assert readers.read_masks(folder / "worm_1_masks.tif").max() == 1


@pytest.mark.parametrize("mine", [True, False])
def test_masks_that_another_program_has_changed_are_not_overwritten_unasked(
    folder: Path, mine: bool
):
    panel = AnnotatePanel(folder)
    choose(panel, "worm_2")
    panel.editor.outline(SQUARE + 20)
    drawn = np.array(panel.editor.labels)
    theirs = masks((2, 30))
    readers.write_labels(folder / "worm_2_masks.tif", theirs)
    panel.editor._receive(None, {"type": "cycle", "by": 1}, [])
    assert panel.message.is_error
    assert opened(panel) == "worm_2"
    assert shown(panel.replace)
    assert shown(panel.again)
    np.testing.assert_array_equal(readers.read_masks(folder / "worm_2_masks.tif"), theirs)
    (panel.replace if mine else panel.again).click()
    assert not shown(panel.replace)
    assert not shown(panel.again)
    expected = drawn if mine else theirs
    np.testing.assert_array_equal(panel.editor.labels, expected)
    panel.step(1)
    assert opened(panel) == "worm_3"
    np.testing.assert_array_equal(readers.read_masks(folder / "worm_2_masks.tif"), expected)


# --- after a crash -------------------------------------------------------------------------------


def test_edits_that_a_crash_has_left_are_offered_when_the_folder_is_opened(folder: Path):
    panel = AnnotatePanel(folder)
    choose(panel, "worm_2")
    panel.editor.delete([1])
    panel.editor.outline(SQUARE)
    wanted = np.array(panel.editor.labels)
    again = AnnotatePanel(folder)  # the first one is gone with its kernel
    assert opened(again) == "worm_2"
    np.testing.assert_array_equal(again.editor.labels, masks((2, 2), (20, 20)))
    assert len(again.editor.annotation.recoverable) == 2
    choose(again, "worm_1")
    assert marks(again) == OPEN + UNSAVED + OPEN
    assert f"not saved ({UNSAVED}): worm_2" in again.message.text
    choose(again, "worm_2")
    again.editor._receive(None, {"type": "recover", "yes": True}, [])
    np.testing.assert_array_equal(again.editor.labels, wanted)
    again.step(1)
    assert marks(again) == OPEN + DONE + OPEN
    assert len(np.unique(readers.read_masks(folder / "worm_2_masks.tif"))) == 3


# --- what is dropped -----------------------------------------------------------------------------


def test_a_dropped_image_is_opened_in_the_folder(folder: Path, tmp_path: Path):
    panel = AnnotatePanel(folder)
    content = as_bytes(lambda file: tifffile.imwrite(file, picture(7)), tmp_path, "new.tif")
    drop(panel, "new.tif", content)
    assert opened(panel) == "new"
    assert (folder / "new.tif").read_bytes() == content
    drop(panel, "new.tif", content)  # once more
    assert opened(panel) == "new"
    assert len(names(panel)) == 4


def test_a_dropped_image_gets_a_folder_where_none_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    panel = AnnotatePanel()
    content = as_bytes(lambda file: tifffile.imwrite(file, picture(7)), tmp_path, "new.tif")
    drop(panel, "new.tif", content)
    assert opened(panel) == "new"
    assert panel.folder.value == str(tmp_path / "home" / "scellseg-images")


@pytest.mark.parametrize(("there", "dropped"), [("a_img", "b"), ("a", "b_img")])
def test_no_image_hides_the_others(tmp_path: Path, there: str, dropped: str):
    home = tmp_path / "worms"
    home.mkdir()
    tifffile.imwrite(home / f"{there}.tif", picture(0))
    panel = AnnotatePanel(home)
    content = as_bytes(lambda file: tifffile.imwrite(file, picture(7)), tmp_path, "b.tif")
    drop(panel, f"{dropped}.tif", content)
    assert opened(panel) == "b"
    assert names(panel) == ["a", "b"]


def test_an_image_goes_among_those_to_be_segmented_where_they_are_apart(tmp_path: Path):
    home = tmp_path / "worms"
    (home / "shot").mkdir(parents=True)
    tifffile.imwrite(home / "shot" / "a_img.tif", picture(0))
    readers.write_labels(home / "shot" / "a_masks.tif", masks((2, 2)))
    panel = AnnotatePanel(home)
    content = as_bytes(lambda file: tifffile.imwrite(file, picture(7)), tmp_path, "b_img.tif")
    drop(panel, "b_img.tif", content)
    assert (home / "query" / "b_img.tif").is_file()
    assert opened(panel) == "b"
    assert [shot.name for shot in Experiment(home).survey().usable] == ["a"]


@pytest.mark.parametrize("name", ["worm_1_masks.tif", "worm_1_cp_masks.png", "worm_1_seg.npy"])
def test_dropped_masks_open_with_their_image(folder: Path, tmp_path: Path, name: str):
    wanted = masks((3, 3), (20, 30))
    write = write_seg if name.endswith(".npy") else readers.write_labels
    content = as_bytes(lambda file: write(file, wanted.astype(np.int32)), tmp_path, name)
    panel = AnnotatePanel(folder)
    choose(panel, "worm_3")
    drop(panel, name, content)
    assert opened(panel) == "worm_1"
    np.testing.assert_array_equal(panel.editor.labels, wanted)


def test_a_dropped_list_of_cells_is_loaded(folder: Path):
    panel = AnnotatePanel(folder)
    choose(panel, "worm_2")
    text = io.StringIO()
    pd.DataFrame({"label": [2], "class": ["male"], "note": ["old"]}).to_csv(text, index=False)
    drop(panel, "worm_2_cells.csv", text.getvalue().encode())
    assert panel.editor.cells["class"].tolist() == ["", "male"]
    table = pd.read_csv(folder / "worm_2_cells.csv", keep_default_na=False)
    assert table["note"].tolist() == ["", "old"]
    drop(panel, "worm_2_cells.csv", b"label,class,note\n1,other,\n")  # in the place of what is said
    assert "another file of this name is there" in panel.message.text
    assert panel.editor.cells["class"].tolist() == ["", "male"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.docx", b"PK", "a file of the kind .docx is no image"),
        ("new.tif", b"II*\0", "new.tif: the file is damaged"),
        ("worm_1.tif", b"other", "worm_1.tif: another file of this name is there"),
        ("worm_1.png", b"other", "worm_1.tif: another image of this name is here"),
        ("worm_1_masks.tif", b"II*\0", "worm_1_masks.tif: the file is damaged"),
        ("worm_2_cp_masks.png", b"", "worm_2_masks.tif: the image has masks already"),
        ("other_masks.tif", b"", "there is no image other here"),
        ("worm_1_seg.npy", b"\x93NUMPY", "worm_1_seg.npy"),
        ("worm_1_cells.csv", b"label\n1\n", "worm_1 has no masks yet"),
        ("worm_2_cells.csv", b"label,class\n9,x\n", "the list names cell 9"),
        ("worm_2_cells.csv", b"a,b\n1,2\n", "this is no list of cells"),
        ("table.csv", b"a,b\n1,2\n", "is no image"),
    ],
)
def test_what_cannot_be_taken_is_said_and_leaves_no_trace(
    folder: Path, name: str, content: bytes, words: str
):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    panel = AnnotatePanel(folder)
    drop(panel, name, content)
    assert panel.message.is_error
    assert words in panel.message.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert opened(panel) == "worm_1"


# --- images to be segmented, and corrections -----------------------------------------------------


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """One annotated image, and two to be segmented with masks of a model."""
    home = tmp_path / "experiment"
    for part, name in (("shot", "a"), ("query", "b"), ("query", "c")):
        (home / part).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(home / part / f"{name}_img.tif", picture(ord(name)))
    readers.write_labels(home / "shot" / "a_masks.tif", masks((2, 2)))
    for name in "bc":
        readers.write_labels(home / "segmented" / f"{name}_masks.tif", masks((2, 2), (20, 20)))
    return home


def result(experiment: Path, name: str = "b", weights: str = "first") -> SegmentedImage:
    return SegmentedImage(
        name,
        experiment / "query" / f"{name}_img.tif",
        experiment / "segmented" / f"{name}_masks.tif",
        2,
        None,
        "tuned.safetensors",
        weights,
        SegmentationSettings(30.0),
    )


def test_nothing_is_learnt_from_an_image_to_be_segmented_before_it_is_asked_for(experiment: Path):
    told: list[Path] = []
    panel = AnnotatePanel(experiment, on_learn=told.append)
    assert opened(panel) == "b"
    assert shown(panel.learn)
    assert "This one is to be segmented" in panel.message.text
    panel.editor.outline(SQUARE)
    panel.keep()
    assert [shot.name for shot in Experiment(experiment).survey().usable] == ["a"]
    assert told == []
    panel.learn.click()
    assert [(shot.name, shot.cells) for shot in Experiment(experiment).survey().usable] == [
        ("a", 1),
        ("b", 1),
    ]
    assert told == [experiment]
    choose(panel, "a")
    assert not shown(panel.learn)


def test_other_masks_of_an_image_are_replaced_only_when_that_is_asked_for(experiment: Path):
    panel = AnnotatePanel(experiment)
    panel.editor.outline(SQUARE)
    panel.learn.click()
    panel.editor.outline(SQUARE + 20)
    panel.learn.click()
    assert panel.message.is_error
    assert "other masks already" in panel.message.text
    assert shown(panel.replace)
    assert readers.read_masks(experiment / "shot" / "b_masks.tif").max() == 1
    panel.replace.click()
    assert not panel.message.is_error
    assert not shown(panel.replace)
    assert readers.read_masks(experiment / "shot" / "b_masks.tif").max() == 2


def test_a_correction_is_scored_and_becomes_a_shot(experiment: Path):
    told: list[Path] = []
    panel = AnnotatePanel(experiment, on_learn=told.append)
    given = (experiment / "segmented" / "b_masks.tif").read_bytes()
    panel.correct(result(experiment))
    assert panel.current is None
    assert panel.list.value is None
    assert "the model tuned found in b" in panel.message.text
    panel.editor.delete([1])
    panel.editor.outline(SQUARE + np.array([0, 30]))
    panel.learn.click()
    assert panel.message.text.startswith("b is annotated now: 1 cell added, 1 removed, 0 changed")
    assert told == [experiment]
    (row,) = Experiment(experiment).rounds().itertuples()
    assert (row.round, row.image, row.model, row.weights) == (1, "b", "tuned.safetensors", "first")
    assert (row.predicted, row.corrected, row.added, row.removed) == (2, 2, 1, 1)
    assert row.shots == 1
    assert (experiment / "segmented" / "b_masks.tif").read_bytes() == given
    corrected = readers.read_masks(experiment / "corrected" / "b_masks.tif")
    np.testing.assert_array_equal(corrected, panel.editor.labels)
    np.testing.assert_array_equal(
        readers.read_masks(experiment / "shot" / "b_masks.tif"), corrected
    )
    assert [shot.name for shot in Experiment(experiment).survey().usable] == ["a", "b"]


def test_classes_and_notes_of_a_correction_go_with_it(experiment: Path):
    panel = AnnotatePanel(experiment)
    panel.correct(result(experiment))
    panel.editor.set_class([2], "male")
    panel.learn.click()
    table = pd.read_csv(experiment / "shot" / "b_cells.csv", keep_default_na=False)
    assert table["class"].tolist() == ["", "male"]


def test_a_second_round_is_counted_as_one(experiment: Path):
    panel = AnnotatePanel(experiment)
    panel.correct(result(experiment))
    panel.editor.delete([1])
    panel.learn.click()
    panel.correct(result(experiment, "c", "second"))
    panel.editor.delete([2])
    panel.learn.click()
    table = Experiment(experiment).rounds()
    assert table["round"].tolist() == [1, 2]
    assert table["shots"].tolist() == [1, 2]
    assert table["seen"].tolist() == [False, False]


def test_a_correction_is_gone_on_with(experiment: Path):
    panel = AnnotatePanel(experiment)
    panel.correct(result(experiment))
    panel.editor.delete([1])
    panel.back.click()  # saves, as going on does
    assert opened(panel) == "b"
    assert not shown(panel.back)
    assert panel.editor.labels.max() == 0  # the image's own masks are none yet
    panel.correct(result(experiment))
    assert len(panel.editor.cells) == 1
    assert "as you left it" in panel.message.text
    panel.learn.click()
    (row,) = Experiment(experiment).rounds().itertuples()
    assert (row.predicted, row.corrected) == (2, 1)  # against what the model gave


def test_cells_at_other_thresholds_are_corrected_and_scored_as_they_were_seen(experiment: Path):
    panel = AnnotatePanel(experiment)
    panel.correct(result(experiment), labels=masks((2, 2)).astype(np.int32))
    panel.learn.click()
    (row,) = Experiment(experiment).rounds().itertuples()
    assert (row.predicted, row.corrected, row.map) == (1, 1, 1.0)


def test_a_correction_that_a_crash_has_left_is_named(experiment: Path):
    panel = AnnotatePanel(experiment)
    panel.correct(result(experiment))
    panel.editor.delete([1])
    again = AnnotatePanel(experiment)
    assert "Corrections that were not saved: b." in again.message.text
    again.correct(result(experiment))
    assert again.editor.recover() == 1
    assert len(again.editor.cells) == 1


def test_an_image_without_cells_teaches_nothing(experiment: Path):
    panel = AnnotatePanel(experiment)
    panel.learn.click()
    assert "there are no cells to learn from" in panel.message.text
    assert not shown(panel.replace)
    assert not (experiment / "shot" / "b_img.tif").exists()

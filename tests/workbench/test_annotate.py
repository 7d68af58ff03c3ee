"""The annotation panel, driven as by a hand but without a browser: what lies there after."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from scellseg_lib.errors import ChannelsNeeded
from scellseg_lib.files.images import read_masks, write_labels
from scellseg_lib.files.seg_npy import write_seg
from scellseg_lib.workbench.annotate import BEGUN, DONE, OPEN, SUGGESTED, AnnotatePanel
from scellseg_lib.workbench.experiment import Experiment, SegmentedImage
from scellseg_lib.workbench.finetune import tell_shots
from scellseg_lib.workbench.session import SegmentationSettings, Suggestion
from tests.workbench.conftest import draw, files, is_shown, problem, squares, until

SQUARE = np.array([[5, 5], [5, 15], [15, 15], [15, 5]], float)
"""Outline of a cell, (y, x)."""
BROKEN = b"II*\0"
TWO = squares((2, 2), (20, 20))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images that are not annotated, and one that is."""
    draw(tmp_path / "worms", "worm_1", "worm_2", "worm_3")
    write_labels(tmp_path / "worms" / "worm_2_masks.tif", TWO)
    return tmp_path / "worms"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """One annotated image, and two to be segmented with masks of a model."""
    home = tmp_path / "experiment"
    draw(home / "shot", "a_img")
    draw(home / "query", "b_img", "c_img")
    write_labels(home / "shot" / "a_masks.tif", squares((2, 2)))
    for name in "bc":
        write_labels(home / "segmented" / f"{name}_masks.tif", TWO)
    return home


def result_of(experiment: Path) -> SegmentedImage:
    places = experiment / "query" / "b_img.tif", experiment / "segmented" / "b_masks.tif"
    made_by = None, "tuned.safetensors", "first", SegmentationSettings(30.0)
    return SegmentedImage("b", *places, *made_by)


def marks(panel: AnnotatePanel) -> str:
    return "".join(mark for mark, _, _ in panel.list.images)


def opened(panel: AnnotatePanel) -> str:
    assert panel.list.value == str(panel.current.image)
    return panel.current.name


def choose(panel: AnnotatePanel, name: str) -> None:
    file = next(file for _, label, file in panel.list.images if label == name)
    tell(panel, "choose", file)


def tell(panel: AnnotatePanel, kind: str, what: object) -> None:
    """As the page tells what is done in the list of images."""
    panel.list._handle_custom_msg({"type": kind, "what": what}, [])


def drop(panel: AnnotatePanel, name: str, content: bytes) -> None:
    """Drop a file in the parts in which its page sends it, while another page drops one too."""
    half = len(content) // 2
    for client, part, data in (("a", 0, content[:half]), ("b", 0, b"?"), ("a", 1, content[half:])):
        said = {"type": "drop", "client": client, "name": name, "part": part, "parts": 2}
        panel.editor._receive(None, said, [memoryview(data)])


def finish(panel: AnnotatePanel) -> None:
    panel.editor.finish()  # as the button Done does


def usable(folder: Path) -> list[tuple[str, int]]:
    return [(shot.name, shot.cells) for shot in Experiment(folder).survey().usable]


def test_a_folder_opens_at_the_first_image_that_is_not_annotated(folder: Path):
    told: list[Path] = []
    panel = AnnotatePanel(on_folder=told.append)
    panel.folder.value = f' "{folder}" '  # as it is pasted from a file manager
    assert told == [folder]
    listed = [(mark, name) for mark, name, _ in panel.list.images]
    assert listed == [(OPEN, "worm_1"), (DONE, "worm_2"), (OPEN, "worm_3")]
    assert opened(panel) == "worm_1"
    assert panel.message.text.startswith(f"1 of 3 images done ({DONE}). Draw all cells")
    assert not panel.editor.labels.any()
    (folder / "empty").mkdir()  # of a wrong one it is said, and the one before stays
    for typed, words in (("nowhere", "there is no such folder"), ("empty", "there are no images")):
        panel.folder.value = str(folder / typed)
        assert words in problem(panel)
        assert (panel.path, opened(panel)) == (folder, "worm_1")


def test_an_image_is_learnt_from_once_it_is_done_and_going_on_loses_nothing(folder: Path, panel):
    panel.editor.outline(SQUARE)
    drawn, file = np.array(panel.editor.labels), folder / "worm_1_masks.tif"
    panel.editor._receive(None, {"type": "cycle", "by": 1}, [])
    assert opened(panel) == "worm_2"
    assert (marks(panel), file.exists()) == (BEGUN + DONE + OPEN, False)
    assert f"Begun or changed ({BEGUN}): worm_1." in panel.message.text
    assert usable(folder) == [("worm_2", 2)]
    panel.step(-1)
    finish(panel)
    np.testing.assert_array_equal(read_masks(file), drawn)
    assert (marks(panel), usable(folder)) == (DONE + DONE + OPEN, [("worm_1", 1), ("worm_2", 2)])
    panel.editor.outline(SQUARE + 20)  # once more: what is learnt from stays until it is done again
    panel.step(1)
    assert (marks(panel), read_masks(file).max()) == (BEGUN + DONE + OPEN, 1)
    panel.step(-1)
    panel.editor.undo()
    finish(panel)
    panel.step(1)
    np.testing.assert_array_equal(panel.editor.labels, TWO)
    panel.step(1)
    panel.step(1)
    assert opened(panel) == "worm_1"  # round and round
    np.testing.assert_array_equal(panel.editor.labels, drawn)
    panel.step(-1)
    assert opened(panel) == "worm_3"
    assert not list(folder.glob("*worm_3_masks.tif*"))  # looked at, and not annotated thereby
    for file in folder.glob("worm_[12]*"):
        file.unlink()
    alone = AnnotatePanel(folder)
    alone.editor.outline(SQUARE)
    alone.step(1)  # to the same image, which shows what was just drawn
    assert (opened(alone), alone.editor.labels.max()) == ("worm_3", 1)


def test_suggestions_are_neither_learnt_from_nor_a_correction_unless_checked(experiment, model):
    panel = AnnotatePanel(experiment, on_suggest=model)
    suggest(panel, model)
    panel.learn.click()
    assert "nobody has checked 2 suggested cells of b" in problem(panel)
    assert usable(experiment) == [("a", 1)]
    panel.replace.click()
    assert usable(experiment) == [("a", 1), ("b", 2)]
    panel.correct(result_of(experiment))
    model.masks = squares((10, 40))
    suggest(panel, model)
    panel.keep()
    assert not (experiment / "corrected").is_dir() or not files(experiment / "corrected")


def test_an_image_without_cells_is_done_only_if_that_is_said_twice(folder: Path, panel):
    finish(panel)
    assert "there are no cells in worm_1. Draw them first." in problem(panel)
    assert (panel.replace.description, usable(folder)) == ("It is done as it is", [("worm_2", 2)])
    assert not (folder / "worm_1_masks.tif").exists()
    panel.replace.click()
    assert (problem(panel), marks(panel)) == ("", DONE + DONE + OPEN)
    assert not read_masks(folder / "worm_1_masks.tif").any()


def test_suggestions_are_no_annotation_until_somebody_has_looked_at_each(folder, panel, model):
    suggest(panel, model)
    panel.step(1)
    assert (marks(panel), usable(folder)) == (SUGGESTED + DONE + OPEN, [("worm_2", 2)])
    again = AnnotatePanel(folder)  # the kernel has died meanwhile
    assert (opened(again), again.editor.annotation.unchecked) == ("worm_1", {1, 2})
    finish(again)
    assert "nobody has checked 2 suggested cells of worm_1" in problem(again)
    assert not (folder / "worm_1_masks.tif").exists()
    again.editor.accept([1])
    again.editor.undo()  # by mistake
    assert again.editor.annotation.unchecked == {1, 2}
    again.editor.redo()
    assert again.editor.annotation.unchecked == {2}
    again.editor.relabel()
    again.editor.delete([2])
    assert again.editor.annotation.unchecked == set()
    finish(again)
    assert (problem(again), usable(folder)) == ("", [("worm_1", 1), ("worm_2", 2)])
    np.testing.assert_array_equal(read_masks(folder / "worm_1_masks.tif"), model.masks == 1)


def test_an_image_is_chosen_from_the_list(panel):
    choose(panel, "worm_3")
    assert opened(panel) == panel.editor.title == "worm_3"


def test_classes_and_notes_are_saved_and_come_back(folder: Path, panel):
    choose(panel, "worm_2")
    panel.editor.set_class([2], "male")
    panel.editor.set_note([2], "curled")
    finish(panel)
    table = pd.read_csv(folder / "worm_2_cells.csv", keep_default_na=False)
    assert table.iloc[1].to_dict() == {"label": 2, "area": 64, "class": "male", "note": "curled"}
    again = AnnotatePanel(folder)
    choose(again, "worm_2")
    pd.testing.assert_frame_equal(again.editor.cells, table)


def test_masks_of_cellpose_are_opened_and_never_overwritten(folder: Path):
    (folder / "worm_2_masks.tif").unlink()
    write_labels(folder / "worm_1_cp_masks.png", squares((2, 2)))
    write_seg(folder / "worm_2_seg.npy", TWO)
    before = files(folder)
    assert usable(folder) == [("worm_1", 1), ("worm_2", 2)]
    panel = AnnotatePanel(folder)
    assert marks(panel) == DONE + DONE + OPEN
    choose(panel, "worm_2")
    np.testing.assert_array_equal(panel.editor.labels, TWO)
    choose(panel, "worm_1")
    np.testing.assert_array_equal(panel.editor.labels, squares((2, 2)))
    panel.editor.outline(SQUARE + 20)
    finish(panel)
    assert files(folder).items() >= before.items()
    # One file of ours hides none of theirs from the next step.
    assert usable(folder) == [("worm_1", 2), ("worm_2", 2)]


def test_labels_that_may_be_classes_are_told_of(folder: Path):
    write_labels(folder / "worm_2_masks.tif", np.sign(TWO))
    panel, words = AnnotatePanel(folder), "worm_2_masks.tif: 1 of 1 labels lie in pieces: label 1"
    choose(panel, "worm_2")
    assert words in panel.message.text
    assert words in tell_shots(Experiment(folder).survey())


def test_a_damaged_image_is_said_and_passed_over(folder: Path):
    (folder / "worm_1.tif").write_bytes(BROKEN)
    panel = AnnotatePanel(folder)
    assert opened(panel) == "worm_3"
    assert not problem(panel)  # with this one all is well
    assert "Passed over: worm_1.tif: the file is damaged" in panel.message.text
    panel.step(1)  # past the damaged one
    choose(panel, "worm_1")
    assert "worm_1.tif" in problem(panel)
    assert opened(panel) == "worm_2"
    panel.step(1)
    assert not problem(panel)
    for number in (2, 3):
        (folder / f"worm_{number}.tif").write_bytes(BROKEN)
    panel = AnnotatePanel(folder)
    panel.step(1)
    assert (panel.current, problem(panel).count("is damaged")) == (None, 3)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("worm_2_masks.tif", b"II*\0 but not more", "worm_2_masks.tif"),
        ("worm_2_cells.csv", b"no,list\n1,2\n", "worm_2_cells.csv: this is no list of cells"),
    ],
)
def test_damaged_masks_are_said_and_never_overwritten(folder: Path, name, data, words):
    (folder / name).write_bytes(data)
    panel = AnnotatePanel(folder)
    choose(panel, "worm_2")
    assert words in problem(panel)
    assert opened(panel) == "worm_1"
    panel.editor.outline(SQUARE)
    panel.step(1)
    assert (opened(panel), (folder / name).read_bytes()) == ("worm_3", data)


@pytest.mark.parametrize("mine", [True, False])
def test_masks_of_another_program_are_not_overwritten_unasked(folder: Path, mine: bool):
    panel, file = AnnotatePanel(folder), folder / "worm_2_masks.tif"
    choose(panel, "worm_2")
    panel.editor.outline(SQUARE + 20)
    drawn, theirs = np.array(panel.editor.labels), squares((2, 30))
    write_labels(file, theirs)
    finish(panel)
    assert "another window or program" in problem(panel)
    assert opened(panel) == "worm_2"
    np.testing.assert_array_equal(read_masks(file), theirs)
    (panel.replace if mine else panel.again).click()
    assert not any(map(is_shown, (panel.replace, panel.again)))
    expected = drawn if mine else theirs
    np.testing.assert_array_equal(panel.editor.labels, expected)
    np.testing.assert_array_equal(read_masks(file), expected)


def test_edits_that_a_crash_has_left_are_there_when_the_folder_is_opened(folder, panel):
    choose(panel, "worm_2")
    panel.editor.outline(SQUARE)
    again = AnnotatePanel(folder)  # the first one is gone with its kernel
    assert (opened(again), again.editor.labels.max()) == ("worm_2", 3)
    assert marks(again) == OPEN + BEGUN + OPEN
    again.editor.undo()
    again.editor.redo()
    finish(again)
    assert marks(again) == OPEN + DONE + OPEN
    assert read_masks(folder / "worm_2_masks.tif").max() == 3


def test_what_two_windows_draw_is_shown_to_the_one_that_drew_last(folder: Path, panel):
    panel.editor.outline(SQUARE)
    other = AnnotatePanel(folder)  # opens the image, with what the first has drawn so far
    assert len(other.editor.cells) == 1
    panel.editor.outline(SQUARE + 20)
    panel.step(1)
    panel.step(-1)
    assert len(panel.editor.cells) == 2
    finish(panel)
    assert read_masks(folder / "worm_1_masks.tif").max() == 2
    assert marks(panel) == DONE + DONE + OPEN


def test_a_draft_is_not_put_aside_in_silence(folder: Path, panel):
    panel.editor.outline(SQUARE)
    drop(panel, "worm_1_masks.tif", b"any")
    assert "the image has masks already, or some that are begun" in problem(panel)
    panel.step(1)
    write_labels(folder / "worm_1_masks.tif", TWO)  # by another program
    panel.step(-1)
    assert "Its masks have changed since. What you had drawn is kept" in panel.message.text
    np.testing.assert_array_equal(panel.editor.labels, TWO)


def test_edits_of_which_a_crash_has_left_none_are_no_change_of_the_masks(folder: Path, panel):
    panel.editor.outline(SQUARE)
    panel.step(1)
    edits = folder / ".worm_1_masks.tif.edits"
    edits.write_bytes(edits.read_bytes().split(b"\n")[0])
    panel.step(-1)
    assert opened(panel) == "worm_1"
    assert "have changed" not in panel.message.text


def test_what_cannot_be_kept_is_not_left_behind(folder: Path, panel, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", Mock(side_effect=OSError(28, "No space left on device")))
        panel.editor.outline(SQUARE)
    panel.editor.annotation.journal.path.mkdir()  # nothing can be written there
    panel.editor._receive(None, {"type": "cycle", "by": 1}, [])
    assert "your last edits cannot be written" in problem(panel)
    assert opened(panel) == "worm_1"
    panel.editor.annotation.journal.path.rmdir()
    panel.step(1)
    assert (opened(panel), marks(panel)) == ("worm_2", BEGUN + DONE + OPEN)


def test_a_dropped_image_is_opened_in_the_folder(folder: Path, tmp_path: Path, monkeypatch):
    draw(tmp_path, "new")
    data, panel = (tmp_path / "new.tif").read_bytes(), AnnotatePanel(folder)
    for _ in range(2):
        drop(panel, "new.tif", data)
        assert (opened(panel), len(panel.list.images)) == ("new", 4)
    assert (folder / "new.tif").read_bytes() == data
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where no folder is open
    panel = AnnotatePanel()
    drop(panel, "new.tif", data)
    assert opened(panel) == "new"
    assert panel.folder.value == str(tmp_path / "home" / "scellseg-images")


@pytest.mark.parametrize("name", ["worm_1_masks.tif", "worm_1_cp_masks.png", "worm_1_seg.npy"])
def test_dropped_masks_open_with_their_image(folder: Path, tmp_path: Path, name: str):
    wanted = squares((3, 3), (20, 30))
    (write_seg if name.endswith(".npy") else write_labels)(tmp_path / name, wanted)
    panel = AnnotatePanel(folder)
    choose(panel, "worm_3")
    drop(panel, name, (tmp_path / name).read_bytes())
    assert opened(panel) == "worm_1"
    np.testing.assert_array_equal(panel.editor.labels, wanted)


def test_what_cannot_be_taken_is_said_and_leaves_no_trace(folder: Path):
    for name, data, words in (
        ("notes.docx", b"PK", "a file of the kind .docx is no image"),
        ("new.tif", BROKEN, "new.tif: the file is damaged"),
        ("worm_1.tif", b"other", "worm_1.tif: another file of this name is there"),
        ("worm_1.png", b"other", "worm_1.tif: another image of this name is here"),
        ("worm_1_masks.tif", BROKEN, "worm_1_masks.tif: the file is damaged"),
        ("worm_2_cp_masks.png", b"", "worm_2_masks.tif: the image has masks already"),
        ("other_masks.tif", b"", "there is no image other here"),
        ("worm_1_seg.npy", b"\x93NUMPY", "worm_1_seg.npy"),
        ("worm_2_cells.csv", b"label,class\n1,x\n", "a file of the kind .csv is no image or masks"),
        ("table.csv", b"a,b\n1,2\n", "is no image"),
    ):
        before, panel = files(folder), AnnotatePanel(folder)
        drop(panel, name, data)
        assert words in problem(panel)
        assert (files(folder), opened(panel)) == (before, "worm_1")


def test_nothing_is_learnt_from_an_image_to_be_segmented_before_it_is_asked_for(experiment: Path):
    told: list[Path] = []
    panel, masks = AnnotatePanel(experiment, on_learn=told.append), experiment / "shot/b_masks.tif"
    assert opened(panel) == "b"
    panel.learn.click()
    assert "there are no cells to learn from" in problem(panel)
    panel.editor.outline(SQUARE)
    panel.keep()
    assert (usable(experiment), told) == ([("a", 1)], [])
    panel.learn.click()
    assert (usable(experiment), told) == ([("a", 1), ("b", 1)], [experiment])
    # Other masks of an image are replaced only when that is asked for.
    panel.editor.outline(SQUARE + 20)
    panel.learn.click()
    assert "other masks already" in problem(panel)
    assert (is_shown(panel.replace), is_shown(panel.again)) == (True, False)
    assert read_masks(masks).max() == 1
    panel.replace.click()
    assert (problem(panel), is_shown(panel.replace)) == ("", False)
    assert read_masks(masks).max() == 2
    choose(panel, "a")
    assert not is_shown(panel.learn)


def test_the_part_that_is_annotated_is_kept_counted_and_learnt_from_alone(experiment: Path):
    panel = AnnotatePanel(experiment)
    panel.editor.outline(SQUARE)
    panel.editor.outline(SQUARE + 20)
    panel.editor.set_region([[18, 18], [40, 40]])
    panel.step(1)
    choose(panel, "b")
    panel.learn.click()
    assert files(experiment)["shot/b_region.json"] == files(experiment)["query/b_region.json"]
    found = Experiment(experiment).survey()
    assert usable(experiment) == [("a", 1), ("b", 1)]
    assert "Only a part of the image is annotated: 22 x 22 of 40 x 50 px" in tell_shots(found)
    assert found.usable[1].region.height == found.usable[1].region.width == 22
    panel.editor.set_region([[20, 0], [40, 18]])
    panel.learn.click()
    assert "there are no cells to learn from" in problem(panel)
    panel.editor.set_region([[0, 0], [40, 50]])
    panel.learn.click()
    assert not list(experiment.rglob("*_region.json"))
    panel.correct(result_of(experiment))
    panel.editor.set_region([[0, 0], [12, 12]])
    panel.editor.delete([2])
    panel.learn.click()
    panel.replace.click()
    assert "0 cells added, 0 removed, 0 changed" in panel.message.text  # within it
    assert usable(experiment) == [("a", 1), ("b", 1)]


def test_a_correction_is_gone_on_with_scored_and_becomes_a_shot(experiment: Path, model):
    told: list[Path] = []
    panel = AnnotatePanel(experiment, on_learn=told.append, on_suggest=model)
    before, result = files(experiment / "segmented"), result_of(experiment)
    panel.correct(result)
    assert "the model tuned found in b" in panel.message.text
    panel.editor.delete([1])
    crashed = AnnotatePanel(experiment)
    assert "Corrections that were not saved: b." in crashed.message.text
    choose(panel, "b")  # saves, as going on does
    assert opened(panel) == "b"
    assert not panel.editor.labels.any()  # the image's own masks are none yet
    panel.correct(result)
    assert len(panel.editor.cells) == 1
    assert "as you left it" in panel.message.text
    model.masks = squares((20, 20), (20, 30))  # what another model finds comes beside it
    suggest(panel, model)
    assert (model.asked, len(panel.editor.cells)) == (["b_img.tif"], 2)
    panel.editor.set_class([2], "male")
    panel.learn.click()  # against what the model gave, as it was at first
    assert panel.message.text.startswith("b is annotated now: 1 cell added, 1 removed, 0 changed")
    assert told == [experiment]
    (row,) = Experiment(experiment).rounds().itertuples()
    assert (row.image, row.model, row.weights) == ("b", "tuned.safetensors", "first")
    assert (row.predicted, row.corrected, row.added) == (2, 2, 1)
    assert files(experiment / "segmented") == before
    for part in ("corrected", "shot"):
        masks = read_masks(experiment / part / "b_masks.tif")
        np.testing.assert_array_equal(masks, panel.editor.labels)
    table = pd.read_csv(experiment / "shot" / "b_cells.csv", keep_default_na=False)
    assert sorted(table["class"]) == ["", "male"]


class Answers:
    """A model whose answer, or error, is known, and that answers when it is let."""

    def __init__(self) -> None:
        self.gate, self.asked = Event(), list[str]()
        self.masks, self.doubt = squares((20, 5), (20, 30)), ""

    def __call__(self, image: Path) -> tuple[object, Callable[[], Suggestion]]:
        self.asked.append(image.name)
        masks, doubt = self.masks, self.doubt

        def find() -> Suggestion:
            assert self.gate.wait(60)
            if isinstance(masks, Exception):
                raise masks
            pick = lambda y, x: (masks == masks[y, x]) & (masks > 0)  # noqa: E731
            return Suggestion("mine", masks, {"cell probability": masks / 9}, pick, doubt)

        return image, find


@pytest.fixture
def model() -> Iterator[Answers]:
    one = Answers()
    yield one
    one.gate.set()


@pytest.fixture
def panel(folder: Path, model: Answers) -> AnnotatePanel:
    return AnnotatePanel(folder, on_suggest=model)


def suggest(panel: AnnotatePanel, model: Answers) -> None:
    """Ask the model if it is not asked yet, let it answer, and wait for what becomes of it."""
    if not panel.suggest.disabled:
        panel.suggest.click()
    model.gate.set()
    until(lambda: not panel.suggest.disabled)
    model.gate.clear()


@pytest.mark.parametrize("back", [False, True])
def test_what_is_found_never_comes_to_another_image(panel, model, back: bool):
    panel.suggest.click()
    panel.step(-1)
    if back:
        panel.step(1)
    suggest(panel, model)
    np.testing.assert_array_equal(panel.editor.labels, model.masks * back)
    if not back:
        assert "in worm_1 are not added: you have opened another" in panel.message.text
        assert len(panel.editor._layers) == 1
        panel.step(1)
        assert not panel.editor.labels.any()


def test_suggestions_that_nobody_has_touched_make_room_for_new_ones(panel, model):
    editor = panel.editor
    editor.outline(SQUARE)
    suggest(panel, model)
    model.masks = squares((18, 4), (18, 31), (30, 18))
    suggest(panel, model)
    assert len(editor.cells) == 4
    np.testing.assert_array_equal(editor.labels > 1, model.masks > 0)
    editor.undo()
    assert len(editor.cells) == 1
    editor.redo()
    editor.delete([2])
    touched = np.array(editor.labels)
    model.masks = squares((17, 4), (17, 31), (31, 18))
    suggest(panel, model)  # the deleted one is found again, the others are there
    np.testing.assert_array_equal(editor.labels[touched > 0], touched[touched > 0])
    assert len(editor.cells) == 4
    assert "suggests 1 cell; 3 that were there are kept" in panel.message.text
    panel.step(-1)
    editor.outline(SQUARE)  # as many edits as the suggestions had before them in the other image
    suggest(panel, model)
    assert len(editor.cells) == 4


def test_the_model_draws_the_cell_that_is_pointed_at(panel, model):
    """Once it has looked at the image, without asking it again."""

    def point(y: int, x: int) -> None:
        panel.editor._receive(None, {"type": "point", "at": [y, x]}, [])

    point(24, 9)
    assert panel.suggest.disabled
    point(24, 33)  # while it looks
    suggest(panel, model)
    np.testing.assert_array_equal(panel.editor.labels, model.masks == 1)
    assert panel.message.text.startswith("The cell that the model mine sees there is drawn.")
    assert not panel.editor.annotation.unchecked
    panel.editor.outline(np.array([[18, 28], [18, 33], [30, 33], [30, 28]]))
    drawn = np.array(panel.editor.labels)
    point(24, 36)  # what is drawn stays
    assert (panel.editor.labels[drawn > 0] == drawn[drawn > 0]).all()
    np.testing.assert_array_equal(panel.editor.labels > 0, (model.masks > 0) | (drawn > 0))
    model.masks[18:32, 28:40] = 3  # now it sees more than is drawn: a rim
    for y, x in ((19, 39), (24, 36), (2, 2), (-1, 0), (40, 3)):
        n_edits = len(panel.editor.edits)
        point(y, x)
        assert len(panel.editor.edits) == n_edits
    assert "sees no cell there. Draw it, or point elsewhere" in panel.message.text
    assert model.asked == ["worm_1.tif"] * len(model.asked)
    assert len(panel.editor._layers) == 2
    panel.step(1)
    model.gate.set()
    point(24, 9)  # of another image
    until(lambda: not panel.suggest.disabled)
    assert model.asked[-1] == "worm_2.tif"


def test_errors_and_that_nothing_is_found_are_said_and_the_pictures_are_there(panel, model):
    good = model.masks
    for wrong, words in (
        (ChannelsNeeded("which one?", ["red"]), "Choose under Channels what to segment."),
        (RuntimeError("the moon"), "the moon"),
        (np.zeros((5, 5), np.int32), "Open the image again"),
    ):
        model.masks = wrong
        suggest(panel, model)
        assert words in problem(panel)
        assert not panel.editor.edits
    model.masks = good
    panel.suggest.click()
    assert panel.suggest.disabled
    suggest(panel, model)
    assert (model.asked, problem(panel)) == (["worm_1.tif"] * 4, "")
    assert panel.message.text.startswith("The model mine suggests 2 cells. The key Y keeps")
    panel.editor.undo()
    model.masks, model.doubt = 0 * good, "Set the diameter."
    suggest(panel, model)
    assert panel.message.text == "The model mine finds no cells in worm_1. Set the diameter."
    assert [layer.name for layer in panel.editor._layers] == ["image", "cell probability"]
    panel.editor.outline(SQUARE)
    model.masks = np.array(panel.editor.labels)
    suggest(panel, model)
    assert "finds no cells in worm_1 beside the 1 that are there." in panel.message.text

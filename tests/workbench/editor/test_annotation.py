"""An annotation under random edits: undone, redone, replayed, and recovered from its journal."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor.annotation import LARGEST_LABEL, Annotation
from scellseg_lib.workbench.editor.edits import NOTHING, Facts
from scellseg_lib.workbench.editor.patches import Patch, set_pixels

SHAPE = (8, 9)
labels_of_some_cells = hnp.arrays(np.int32, SHAPE, elements=st.sampled_from([0, 0, 1, 2, 5]))
rows, columns = st.floats(-2, SHAPE[0] + 2), st.floats(-2, SHAPE[1] + 2)
points = st.lists(st.tuples(rows, columns), min_size=2, max_size=5).map(np.array)
words = st.sampled_from(["", "dead", "mitotic", "odd shape"])
some = st.sets(st.integers(0, 6), min_size=1, max_size=3)


def state(annotation: Annotation) -> tuple[list, dict]:
    return annotation.labels.tolist(), dict(annotation.facts)


class AnyEdits(RuleBasedStateMachine):
    """All edits in any order, on an annotation with a journal, with saves and crashes between."""

    @initialize(labels=labels_of_some_cells)
    def start(self, labels: np.ndarray) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Path(self.folder.name) / "edits"
        self.open(labels, None)

    def open(self, labels: np.ndarray, cells: pd.DataFrame | None) -> None:
        """Open labels, with what a crash has left; from here on all is undone and replayed."""
        self.saved = labels.copy(), cells
        self.annotation = Annotation(labels, cells, self.journal)
        self.first = self.annotation.labels.copy(), self.annotation.cells

    def pick(self, numbers: set[int]) -> list[int]:
        """Some of the cells that there are."""
        there = self.annotation.cells["label"].tolist()
        return sorted({there[number % len(there)] for number in numbers}) if there else []

    @rule(where=hnp.arrays(bool, SHAPE), label=st.integers(0, 7))
    def paint(self, where: np.ndarray, label: int) -> None:
        annotation = self.annotation
        patch = set_pixels(annotation.labels, np.flatnonzero(where), label)
        annotation.change("paint" if label else "erase", patch)
        assert (annotation.labels[where] == label).all()

    @rule(numbers=some)
    def merge(self, numbers: set[int]) -> None:
        cells = self.pick(numbers)
        if len(cells) > 1:
            self.annotation.merge(cells)

    @rule(line=points, numbers=some, chosen=st.booleans())
    def split(self, line: np.ndarray, numbers: set[int], chosen: bool) -> None:
        before = state(self.annotation)
        try:
            self.annotation.split(line, self.pick(numbers) if chosen else ())
        except ImageError:
            assert state(self.annotation) == before

    @rule(corners=points, protect=st.booleans(), numbers=some, new=st.booleans())
    def outline(self, corners: np.ndarray, protect: bool, numbers: set[int], new: bool) -> None:
        cells = [] if new else self.pick(numbers)
        before = state(self.annotation)
        try:
            self.annotation.outline(corners, cells[0] if cells else 0, protect=protect)
        except ImageError:
            assert state(self.annotation) == before

    @rule(numbers=some)
    def delete(self, numbers: set[int]) -> None:
        self.annotation.delete(self.pick(numbers))

    @rule()
    def fill_holes(self) -> None:
        self.annotation.fill_holes()

    @rule()
    def relabel(self) -> None:
        said = self.annotation.cells[["class", "note"]].to_numpy().tolist()
        self.annotation.relabel()
        cells = self.annotation.cells
        assert cells["label"].tolist() == list(range(1, len(cells) + 1))
        assert cells[["class", "note"]].to_numpy().tolist() == said

    @rule(numbers=some, text=words, is_class=st.booleans())
    def say(self, numbers: set[int], text: str, is_class: bool) -> None:
        cells, column = self.pick(numbers), "class" if is_class else "note"
        if is_class:
            self.annotation.say(cells, kind=text)
        else:
            self.annotation.say(cells, note=text)
        frame = self.annotation.cells.set_index("label")
        assert (frame.loc[cells, column] == text).all()

    @rule(times=st.integers(1, 4))
    def undo_and_redo(self, times: int) -> None:
        before, there = state(self.annotation), len(self.annotation.undoable)
        for _ in range(times):
            self.annotation.undo()
        for _ in range(min(times, there)):
            self.annotation.redo()
        assert state(self.annotation) == before

    @rule(times=st.integers(1, 3))
    def undo(self, times: int) -> None:
        for _ in range(times):
            self.annotation.undo()

    @rule()
    def redo(self) -> None:
        self.annotation.redo()

    @rule()
    def save(self) -> None:
        self.annotation.saved()
        assert not self.journal.exists()
        self.saved = self.annotation.labels.copy(), self.annotation.cells

    @rule()
    def crash(self) -> None:
        """Open what was saved once more, and bring back the rest."""
        was = state(self.annotation)
        n_edits = sum(1 for _ in self.journal.open()) - 1 if self.journal.exists() else 0
        self.open(*self.saved)
        assert self.annotation.recover() == n_edits
        assert state(self.annotation) == was

    @invariant()
    def counts_are_those_of_the_labels(self) -> None:
        if hasattr(self, "annotation"):
            labels, areas = self.annotation.labels, self.annotation.areas
            np.testing.assert_array_equal(areas, np.bincount(labels.ravel(), minlength=len(areas)))
            assert self.annotation.free == labels.max(initial=0) + 1

    @invariant()
    def something_is_said_of_cells_alone_that_there_are(self) -> None:
        if hasattr(self, "annotation"):
            there = np.unique(self.annotation.labels).tolist()
            assert set(self.annotation.facts) <= set(there) - {0}
            assert NOTHING not in self.annotation.facts.values()

    def teardown(self) -> None:
        if not hasattr(self, "annotation"):
            return
        annotation, (labels, cells) = self.annotation, self.first
        final = state(annotation)
        replayed = Annotation(labels, cells)
        replayed.replay(annotation.edits)
        assert state(replayed) == final
        pd.testing.assert_frame_equal(replayed.cells, annotation.cells)
        turns = [annotation.undo() for _ in annotation.undoable]
        np.testing.assert_array_equal(annotation.labels, labels)
        pd.testing.assert_frame_equal(annotation.cells, cells)
        for _ in turns:
            annotation.redo()
        assert state(annotation) == final
        self.folder.cleanup()


TestAnyEdits = AnyEdits.TestCase
TestAnyEdits.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


# --- examples ----------------------------------------------------------------------------------


def three(**options) -> Annotation:
    """Cells 2, 3 and 7 of 4, 6 and 8 px."""
    labels = np.zeros((6, 12), np.uint16)
    labels[0, :4], labels[2, :6], labels[4, :8] = 2, 3, 7
    return Annotation(labels, **options)


def said(annotation: Annotation) -> dict[int, tuple[str, str]]:
    frame = annotation.cells
    return dict(zip(frame["label"], zip(frame["class"], frame["note"], strict=True), strict=True))


def test_cells_are_listed_with_what_is_said_of_them():
    annotation = three()
    annotation.say([2, 7], kind=" dead ")
    annotation.say([7], note="at the border")
    frame = annotation.cells
    assert list(frame) == ["label", "area", "class", "note"]
    assert frame["label"].tolist() == [2, 3, 7]
    assert frame["area"].tolist() == [4, 6, 8]
    assert frame["class"].tolist() == ["dead", "", "dead"]
    assert frame["note"].tolist() == ["", "", "at the border"]
    assert annotation.free == 8
    assert annotation.diameter == pytest.approx(2 * np.sqrt(6 / np.pi))


def test_without_cells():
    annotation = Annotation(np.zeros((3, 3), np.int32))
    assert annotation.cells.empty
    assert annotation.free == 1
    assert np.isnan(annotation.diameter)
    assert annotation.undo() is None
    assert annotation.redo() is None
    assert annotation.edits == []


def test_the_labels_given_are_copied():
    given = np.ones((3, 3), np.int32)
    Annotation(given).delete([1])
    assert (given == 1).all()


def test_what_is_said_of_a_deleted_cell_goes_and_comes_back_with_it():
    annotation = three()
    annotation.say([3], kind="dead", note="blurred")
    annotation.delete([3])
    assert 3 not in said(annotation)
    outlined = annotation.outline(np.array([[2, 0], [2, 5], [3, 5], [3, 0]]), 3)
    assert said(annotation)[3] == ("", "")  # a new cell of that number is another
    annotation.undo()
    annotation.undo()
    assert said(annotation)[3] == ("dead", "blurred")
    annotation.redo()
    assert 3 not in said(annotation)
    assert annotation.redoable == [outlined]


def test_painting_over_the_last_pixel_of_a_cell_takes_what_is_said_of_it():
    annotation = three()
    annotation.say([2], note="small")
    annotation.change("paint", set_pixels(annotation.labels, [0, 1, 2], 7))
    assert said(annotation)[2] == ("", "small")
    annotation.change("paint", set_pixels(annotation.labels, [3], 7))
    assert said(annotation) == {3: ("", ""), 7: ("", "")}
    annotation.undo()
    assert said(annotation)[2] == ("", "small")


def test_parts_of_a_split_cell_have_its_class_and_note():
    labels = np.zeros((6, 12), np.int32)
    labels[1:5, 1:11] = 4
    annotation = Annotation(labels)
    annotation.say([4], kind="dead", note="two?")
    annotation.split(np.array([[-1, 4.5], [7, 4.5]]))
    assert said(annotation) == {4: ("dead", "two?"), 5: ("dead", "two?")}
    annotation.undo()
    assert said(annotation) == {4: ("dead", "two?")}


def test_a_merged_cell_has_the_first_class_and_all_notes():
    annotation = three()
    annotation.say([7], kind="dead", note="left half")
    annotation.say([3], note="right half")
    annotation.merge([7, 3, 2])
    assert said(annotation) == {2: ("dead", "right half; left half")}
    annotation.undo()
    assert said(annotation) == {2: ("", ""), 3: ("", "right half"), 7: ("dead", "left half")}


def test_classes_get_colours_one_after_the_other_and_stay_known():
    annotation = three()
    annotation.say([2], kind="dead")
    annotation.add_class("alive", "#123456")
    annotation.say([3], kind="odd")
    annotation.undo()
    assert list(annotation.classes) == ["dead", "alive", "odd"]
    assert annotation.classes["alive"] == "#123456"
    assert annotation.classes["dead"] != annotation.classes["odd"]


def test_a_new_edit_ends_what_could_be_redone():
    annotation = three()
    annotation.delete([2])
    annotation.undo()
    annotation.delete([3])
    assert annotation.redo() is None
    assert annotation.cells["label"].tolist() == [2, 7]


@pytest.mark.parametrize("cell", [0, 1, 8, -1])
def test_nothing_can_be_said_of_a_cell_that_there_is_not(cell):
    annotation = three()
    with pytest.raises(ImageError, match=f"there is no cell {cell}"):
        annotation.say([2, cell], kind="dead")
    assert said(annotation)[2] == ("", "")
    assert annotation.edits == []


@pytest.mark.parametrize("label", [-1, LARGEST_LABEL + 1, 2**40])
def test_a_number_that_is_no_label_is_refused_and_changes_nothing(label):
    annotation = three()
    with pytest.raises(ImageError, match="would give cells the labels"):
        annotation.change("paint", Patch(np.array([[0, 2, 2, label]])))
    with pytest.raises(ImageError, match="would give cells the labels"):
        annotation.outline(np.array([[3, 9], [3, 11], [5, 11]]), label)
    assert annotation.cells["area"].tolist() == [4, 6, 8]
    assert annotation.edits == []


def test_an_edit_cannot_be_made_twice():
    annotation = three()
    annotation.change("erase", set_pixels(annotation.labels, [0], 0), id="page:1")
    before = state(annotation)
    with pytest.raises(ImageError, match="made before"):
        annotation.change("erase", set_pixels(annotation.labels, [1], 0), id="page:1")
    assert state(annotation) == before
    assert len(annotation.undoable) == 1


def test_a_list_of_cells_is_taken_with_its_masks():
    listed = pd.DataFrame({"label": [7, 2], "class": ["dead", None], "note": [np.nan, "faint"]})
    annotation = three(cells=listed)
    assert said(annotation) == {2: ("", "faint"), 3: ("", ""), 7: ("dead", "")}
    assert list(annotation.classes) == ["dead"]
    only_labels = three(cells=pd.DataFrame({"label": [2]}))
    assert only_labels.facts == {}


@pytest.mark.parametrize("label", [4, 0, -2, 99, 2.5, np.nan, "two"])
def test_a_list_that_names_another_cell_is_refused(label):
    with pytest.raises(ImageError, match="which the masks have not"):
        three(cells=pd.DataFrame({"label": [2, label], "class": "dead"}))


def test_a_list_without_labels_is_refused():
    with pytest.raises(ImageError, match="no column 'label'"):
        three(cells=pd.DataFrame({"class": ["dead"]}))


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((2, 3, 3), np.int32),
        np.zeros((0, 3), np.int32),
        np.full((3, 3), 0.5),
        np.full((3, 3), -1),
        np.full((3, 3), LARGEST_LABEL + 1),
    ],
    ids=["stack", "empty", "floats", "negative", "too large"],
)
def test_what_are_no_labels_is_refused(labels):
    with pytest.raises(ImageError):
        Annotation(labels)


def test_facts_that_are_given_with_a_change():
    annotation = three()
    annotation.change("paint", set_pixels(annotation.labels, [60], 9), {9: Facts("dead")})
    assert said(annotation)[9] == ("dead", "")
    annotation.undo()
    assert 9 not in annotation.facts

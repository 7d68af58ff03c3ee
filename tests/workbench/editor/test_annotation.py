"""What can be done to cells and their patches; an annotation under random edits, and its file."""

import json
import tempfile
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scipy import ndimage

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor import journal, operations, patches
from scellseg_lib.workbench.editor.annotation import LARGEST_LABEL, Annotation
from scellseg_lib.workbench.editor.classes import COLOURS, choose_colour, parse_colour
from scellseg_lib.workbench.editor.journal import NOTHING, Journal
from scellseg_lib.workbench.editor.patches import LARGEST, Patch, apply, set_pixels

quick = settings(max_examples=25)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
any_labels = hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 1, 1, 4, 9]))
nine = hnp.arrays(np.int32, (3, 3), elements=st.sampled_from([1, 1, 4, 9, 0]))
blocks = nine.map(lambda labels: np.kron(labels, np.ones((6, 6), np.int32)))
places = st.floats(2, 16, width=32)
across = hnp.arrays(np.float64, 3, elements=places).map(lambda x: np.c_[[-9.0, 9, 30], x])
coordinates = st.floats(-20, 30, allow_nan=False, width=32)
BAR = np.pad(np.full((4, 20), 3, np.int32), 1)


def done(labels: np.ndarray, patch: Patch) -> np.ndarray:
    """Labels after a patch, which comes from these (`apply` tests it)."""
    after = labels.copy()
    apply(after, patch)
    return after


def present(labels: np.ndarray) -> set[int]:
    return set(np.unique(labels[labels > 0]).tolist())


def ring(side: int) -> np.ndarray:
    return ~np.pad(np.ones((side - 2, side - 2), bool), 1)


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [low, high], [high, high], [high, low]])


@pytest.mark.parametrize(
    ("line", "area", "within"),
    [
        pytest.param([[-1, -1], [21, 21]], 200, 50, id="no corner holds the parts together"),
        pytest.param([[-300, 10.5], [300, 10.5]], 200, 20, id="from far outside"),
        pytest.param([[-100, -90], [110, 120]], 50, 12, id="row = column - 10"),
    ],
)
def test_a_line_cuts_a_square_where_it_was_drawn(line, area, within):
    labels = np.ones((20, 20), np.int32)
    after = done(labels, operations.split(labels, [], np.array(line)))
    assert present(after) == {1, 2}
    assert np.bincount(after.ravel())[2] == pytest.approx(area, abs=within)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param([[-1, 0.5], [7, 0.5]], "cuts no cell in two", id="beside the cell"),
        pytest.param([[-1, 8.5], [3, 8.5]], "cuts no cell in two", id="ends in the cell"),
        pytest.param([[2.5, 5.5], [3.5, 15.5]], "cuts no cell in two", id="within the cell"),
        pytest.param([[1.5, 0.5], [1.5, 21.5]], "cuts no cell in two", id="along its edge"),
        pytest.param([[3, 3]], "cuts no cell in two", id="a point"),
        pytest.param([], "a line is points", id="no points"),
        pytest.param([1.0, 2.0, 3.0], "a line is points", id="no pairs"),
        pytest.param([[np.nan, 1], [2, 2]], "a line is points", id="no numbers"),
    ],
)
def test_a_line_that_cuts_nothing_is_an_error(line, text):
    with pytest.raises(ImageError, match=text):
        operations.split(BAR, [], np.array(line))


def test_pieces_and_cells_that_the_line_does_not_concern_stay_what_they_are():
    line = np.array([[-1, 5.5], [10, 5.5]])
    apart = np.zeros((5, 11), np.int32)
    apart[:, :4] = apart[:, 7:] = 2
    with pytest.raises(ImageError, match="cuts no cell"):  # it passes between them
        operations.split(apart, [2], line)
    under = np.zeros((9, 11), np.int32)
    under[3:, 1:10] = under[0, 5] = 1  # a piece of one pixel under the line hides no cut
    assert present(done(under, operations.split(under, [1], line))) == {1, 2}
    beside = BAR.copy()
    beside[0, 21] = 3
    after = done(beside, operations.split(beside, [3], line))
    assert (present(after), after[0, 21]) == ({3, 4}, 3)
    three = np.kron(np.array([[1], [2], [11]]), np.ones((3, 11), np.int32)).astype(np.int32)
    assert present(done(three, operations.split(three, [], line))) == {1, 2, 11, 12, 13, 14}
    assert present(done(three, operations.split(three, [2], line))) == {1, 2, 11, 12}


@quick
@given(blocks, across)
def test_split_loses_no_pixel_and_mixes_no_cells(labels, line):
    try:
        patch = operations.split(labels, [], line)
    except ImageError:
        assume(False)
    after = done(labels, patch)
    np.testing.assert_array_equal(after > 0, labels > 0)
    assert len(present(after)) > len(present(labels))
    assert present(labels) <= present(after)
    sizes = np.bincount(after.ravel())
    for new in present(after) - present(labels):
        (old,) = np.unique(labels[after == new])  # of one cell alone
        assert sizes[old] >= sizes[new]


@quick
@given(any_labels, st.data())
def test_merge_delete_and_fill_holes_change_what_they_say_and_leave_the_others(labels, data):
    filled = done(labels, operations.fill_holes(labels, []))
    np.testing.assert_array_equal(filled[labels > 0], labels[labels > 0])
    for cell in present(labels):
        assert not ((filled == 0) & ndimage.binary_fill_holes(filled == cell)).any()
    assume(len(present(labels)) > 1)
    chosen = data.draw(st.lists(st.sampled_from(sorted(present(labels))), min_size=2, unique=True))
    among = np.isin(labels, chosen)
    merged = done(labels, operations.merge(labels, chosen))
    np.testing.assert_array_equal(merged, np.where(among, min(chosen), labels))
    deleted = done(labels, operations.delete(labels, chosen))
    np.testing.assert_array_equal(deleted, np.where(among, 0, labels))
    numbered = done(labels, operations.relabel(labels))  # from one, in the old order
    for new, old in enumerate(sorted(present(labels)), 1):
        np.testing.assert_array_equal(numbered == new, labels == old)


@pytest.mark.parametrize("missing", [0, -1, 2, 4, 10**9])
def test_a_cell_that_there_is_not_is_an_error(missing):
    cut = partial(operations.split, line=np.array([[-1, 8.5], [7, 8.5]]))
    for act in (operations.merge, operations.delete, operations.fill_holes, cut):
        with pytest.raises(ImageError, match=f"there is no cell {missing}"):
            act(BAR, [3, missing])
    for cells in ([], [3], [3, 3]):
        with pytest.raises(ImageError, match="cannot be merged"):
            operations.merge(BAR, cells)


def test_fill_holes_fills_background_and_leaves_other_cells_in_the_hole():
    labels = np.zeros((9, 9), np.int32)
    labels[1:8, 1:8][ring(7)] = 5
    labels[4, 4] = 2
    after = done(labels, operations.fill_holes(labels, [5]))
    assert after[4, 4] == 2
    assert np.bincount(after.ravel())[[0, 2, 5]].tolist() == [81 - 49, 1, 48]
    labels[1, 4] = 0  # open to the border of the image, and so no hole
    assert operations.fill_holes(labels, [5]).n_pixels == 0
    for outer, inner in ((1, 2), (2, 1)):  # the hole of both belongs to the inner one
        labels = np.where(ring(9), outer, 0)
        labels[3:6, 3:6][ring(3)] = inner
        after = done(labels, operations.fill_holes(labels, []))
        assert ((after == inner).sum(), (after == outer).sum()) == (9, 72)


def test_outlines_by_arithmetic():
    labels = np.zeros((12, 12), np.int32)
    labels[:, 5:] = 9
    through_middles = done(labels, operations.outline(labels, square(2.5, 6.5), 4, protect=False))
    expected = labels.copy()
    expected[2:7, 2:7] = 4
    np.testing.assert_array_equal(through_middles, expected)
    protected = done(labels, operations.outline(labels, square(2.5, 6.5), 4))
    assert ((protected == 4).sum(), (protected == 9).sum()) == (5 * 3, 12 * 7)
    growing = np.where(expected == 4, 4, 0)
    assert (done(growing, operations.outline(growing, square(4.5, 8.5), 4)) == 4).sum() == 41
    far = np.array([[-1000, -1000], [-1000, 3000], [3000, 0]])
    assert operations.outline(np.zeros((10, 20), np.int32), far, 1).n_pixels == 200
    for corners, text in ((square(6, 8), "no free pixel"), (square(2, 6)[:2], "is no outline")):
        with pytest.raises(ImageError, match=text):
            operations.outline(labels, corners, 2)


@quick
@given(any_labels, st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=6))
def test_a_protecting_outline_writes_its_cell_on_background_alone(labels, points):
    try:
        patch = operations.outline(labels, np.array(points), 4)
    except ImageError:
        assume(False)
    after = done(labels, patch)
    changed = after != labels
    assert (labels[changed] == 0).all()
    assert (after[changed] == 4).all()


of_both = [st.sampled_from([0, 0, 0, *labels]) for labels in ((2, 7, 7, 9), (1, 1, 3, 8))]
two_images = shapes.flatmap(
    lambda shape: st.tuples(*(hnp.arrays(np.int32, shape, elements=one) for one in of_both))
)


@quick
@given(two_images, st.booleans())
def test_found_cells_leave_all_that_is_there_and_are_cells_of_their_own(pair, is_large):
    labels, found = pair
    if is_large:  # as blocks, the found ones moved by a pixel: they overlap at their borders
        block = np.ones((3, 4), np.int32)
        labels, found = np.kron(labels, block), np.roll(np.kron(found, block), 1, axis=(0, 1))
    after = done(labels, operations.add_found(labels, found))
    np.testing.assert_array_equal(after[labels > 0], labels[labels > 0])
    assert not after[(labels == 0) & (found == 0)].any()
    new = sorted(present(after) - present(labels))
    assert all(cell > labels.max(initial=0) for cell in new)
    origins = [present(found[after == cell]) for cell in new]
    assert all(len(origin) == 1 for origin in origins)  # none is of two, no two are of one
    assert len(set.union(set(), *origins)) == len(new)
    for cell, (origin,) in zip(new, origins, strict=True):
        whole, mine = found == origin, after == cell
        if (labels[whole] > 0).any():
            assert ndimage.label(mine, np.ones((3, 3)))[1] == 1
        else:
            np.testing.assert_array_equal(mine, whole)


def test_what_a_found_bar_shares_with_a_drawn_one_is_cut_off():
    for drawn, found, left in (
        (np.s_[1:5, 0:20], (20, 32), 12),  # columns of the found one that are left
        (np.s_[1:5, 0:20], (16, 28), 8),  # a third is shared
        (np.s_[1:5, 0:20], (15, 27), 0),
        (np.s_[1:5, 0:36], (8, 12), 0),  # a small one in a drawn one
        (np.s_[1:5, 8:12], (0, 36), 0),  # a large one around it
        (np.s_[0:20, 10:12], (4, 30), 18),  # of one that is cut in two, the larger piece
    ):
        labels, bars = np.zeros((20, 40), np.int32), np.zeros((20, 40), np.int32)
        labels[drawn], bars[1:5, slice(*found)] = 5, 1
        after = done(labels, operations.add_found(labels, bars))
        assert (after == 6).sum() == 4 * left
        np.testing.assert_array_equal(after[labels > 0], labels[labels > 0])
        with pytest.raises(ImageError, match="Open the image again"):
            operations.add_found(labels, bars[:, 1:])


few = st.sampled_from([0, 0, 1, 2, 7, 70_000, LARGEST])
three_images = hnp.arrays(np.int32, shapes.map(lambda shape: (3, *shape)), elements=few)


def as_bytes(*runs: tuple[int, int, int, int]) -> bytes:
    return np.array(runs, "<u4").tobytes()


@settings(max_examples=40)
@given(three_images)
def test_a_patch_holds_what_differs_and_is_applied_taken_back_sent_and_rebased(three):
    before, after, other = three
    patch, labels = patches.diff(before, after), before.copy()
    np.testing.assert_array_equal(patch.pixels, np.flatnonzero(before != after))
    assert patch.n_pixels == len(patch.pixels)
    first, second = patch.runs[:-1], patch.runs[1:]
    joinable = (first[:, 0] + first[:, 1] == second[:, 0]) & (first[:, 2:] == second[:, 2:]).all(1)
    assert not joinable.any()  # runs are as long as can be

    apply(labels, patch)
    np.testing.assert_array_equal(labels, after)
    apply(labels, patch.invert())
    np.testing.assert_array_equal(labels, before)

    sent = Patch.from_bytes(patch.to_bytes(), before.size)
    np.testing.assert_array_equal(sent.runs, patch.runs)

    wanted = np.where(before != after, after, other)
    apply(other, patches.rebase(other, patch))
    np.testing.assert_array_equal(other, wanted)

    pairs = np.frombuffer(patches.encode_labels(after), "<u4").reshape(-1, 2)
    decoded = np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.int32)
    np.testing.assert_array_equal(decoded, after.ravel())
    assert (np.diff(pairs[:, 0].astype(np.int64)) != 0).all()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(as_bytes((0, 2, 0, 1))[:-1], id="a byte is missing"),
        pytest.param(as_bytes((0, 2, 0, 1), (1, 2, 0, 1)), id="overlap"),
        pytest.param(as_bytes((4, 1, 0, 1), (1, 1, 0, 1)), id="out of order"),
        pytest.param(as_bytes((3, 0, 0, 1)), id="no pixel"),
        pytest.param(as_bytes((5, 2, 0, 1)), id="one pixel beyond"),
        pytest.param(as_bytes((2**32 - 1, 2**32 - 1, 0, 1)), id="far beyond"),
        pytest.param(as_bytes((0, 1, 0, LARGEST + 1)), id="no label after"),
        pytest.param(as_bytes((0, 1, 2**32 - 1, 1)), id="no label before"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(data):
    with pytest.raises(ImageError, match="does not fit the masks"):
        Patch.from_bytes(data, n_pixels=6)


@pytest.mark.parametrize("run", [(0, 2, 3, 1), (1, 2, 0, 1), (4, 3, 0, 1)])
def test_a_patch_of_other_labels_is_refused_and_changes_nothing(run):
    labels = np.array([[0, 0, 9], [9, 0, 0]], np.int32)
    first = labels.copy()
    with pytest.raises(ImageError, match="changed in between"):
        apply(labels, Patch(np.array([run])))
    np.testing.assert_array_equal(labels, first)


ORANGE, BLUE, GREEN = list(COLOURS.values())[:3]
SHAPE = (8, 9)
rows, columns = st.floats(-2, SHAPE[0] + 2), st.floats(-2, SHAPE[1] + 2)
points = st.lists(st.tuples(rows, columns), min_size=2, max_size=5).map(np.array)
names = st.sampled_from(["dead", "mitotic", "odd shape", "alive"])
words = st.one_of(st.just(""), names)
some = st.sets(st.integers(0, 6), min_size=1, max_size=3)


def state(annotation: Annotation) -> tuple:
    return annotation.labels.tolist(), dict(annotation.facts), list(annotation.classes.items())


class AnyEdits(RuleBasedStateMachine):
    """All edits in any order, on an annotation with a journal, with saves and crashes between.

    The list of classes is kept as an editor keeps it: at once where it alone has changed, and with
    the masks otherwise.
    """

    @initialize(labels=hnp.arrays(np.int32, SHAPE, elements=st.sampled_from([0, 0, 1, 2, 5])))
    def start(self, labels: np.ndarray) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Path(self.folder.name) / "edits"
        self.kept: dict[str, str] = {}
        self.open(labels, None)

    def open(self, labels: np.ndarray, cells: pd.DataFrame | None) -> None:
        """Open labels, with what a crash has left; from here on all is undone and replayed."""
        self.saved = labels.copy(), cells
        self.annotation = Annotation(labels, cells, self.journal, self.kept)
        first = Annotation(labels, cells, classes=self.kept)
        self.first, self.at_first = (first.labels, first.cells), first.classes

    def pick(self, numbers: set[int]) -> list[int]:
        there = self.annotation.cells["label"].tolist()
        return sorted({there[number % len(there)] for number in numbers}) if there else []

    def attempt(self, act, *args, **options) -> None:
        before = state(self.annotation)
        try:
            act(*args, **options)
        except ImageError:
            assert state(self.annotation) == before

    def keep_list(self) -> None:
        if self.annotation.edits and self.annotation.edits[-1].is_of_list:
            self.kept = dict(self.annotation.classes)

    @rule(where=hnp.arrays(bool, SHAPE), label=st.integers(0, 7))
    def paint(self, where: np.ndarray, label: int) -> None:
        annotation = self.annotation
        patch = set_pixels(annotation.labels, np.flatnonzero(where), label)
        annotation.change("paint" if label else "erase", patch)
        assert (annotation.labels[where] == label).all()

    @rule(line=points, numbers=some, chosen=st.booleans())
    def split(self, line: np.ndarray, numbers: set[int], chosen: bool) -> None:
        self.attempt(self.annotation.split, line, self.pick(numbers) if chosen else ())

    @rule(corners=points, protect=st.booleans(), numbers=some, new=st.booleans())
    def outline(self, corners: np.ndarray, protect: bool, numbers: set[int], new: bool) -> None:
        cells = [] if new else self.pick(numbers)
        self.attempt(self.annotation.outline, corners, cells[0] if cells else 0, protect=protect)

    @rule(numbers=some, name=st.sampled_from(["merge", "delete", "fill_holes"]))
    def edit(self, numbers: set[int], name: str) -> None:
        self.attempt(getattr(self.annotation, name), self.pick(numbers))

    @rule()
    def relabel(self) -> None:
        said = self.annotation.cells[["class", "note"]].to_numpy().tolist()
        self.annotation.relabel()
        cells = self.annotation.cells
        assert cells["label"].tolist() == list(range(1, len(cells) + 1))
        assert cells[["class", "note"]].to_numpy().tolist() == said

    @rule(numbers=some, text=words, column=st.sampled_from(["class", "note"]))
    def say(self, numbers: set[int], text: str, column: str) -> None:
        cells = self.pick(numbers)
        getattr(self.annotation, f"set_{column}")(cells, text)
        assert (self.annotation.cells.set_index("label").loc[cells, column] == text).all()

    @rule(name=names, colour=st.sampled_from(["", "#123456", ORANGE]))
    def add_class(self, name: str, colour: str) -> None:
        before = self.annotation.classes.get(name)
        edit = self.annotation.add_class(name, colour)
        assert self.annotation.classes[name] == (colour or before or self.annotation.classes[name])
        assert (edit is None) == (self.annotation.classes[name] == before)
        self.keep_list()

    @rule(number=st.integers(0, 4), new=words)
    def rename_or_remove_class(self, number: int, new: str) -> None:
        annotation, known = self.annotation, list(self.annotation.classes)
        old = known[number % len(known)] if known else new
        if old == new:
            return
        expected = annotation.cells.replace({"class": {old: new}})
        if new:
            annotation.rename_class(old, new)
            assert new in annotation.classes
        else:
            annotation.remove_class(old)
        assert old not in annotation.classes
        pd.testing.assert_frame_equal(annotation.cells, expected)
        self.keep_list()

    @rule(turns=st.lists(st.sampled_from(["undo", "undo", "redo"]), max_size=3))
    def turn(self, turns: list[str]) -> None:
        for name in turns:
            getattr(self.annotation, name)()
            self.keep_list()

    @rule()
    def save(self) -> None:
        self.annotation.restart_journal()
        assert not self.journal.exists()
        self.saved = self.annotation.labels.copy(), self.annotation.cells
        self.kept = dict(self.annotation.classes)

    @rule()
    def crash(self) -> None:
        """Open what was saved once more, and bring back the rest."""
        was = state(self.annotation)
        n_edits = sum(1 for _ in self.journal.open()) - 1 if self.journal.exists() else 0
        self.open(*self.saved)
        assert len(self.annotation.edits) == n_edits
        assert state(self.annotation) == was

    @invariant()
    def all_that_is_known_fits_together(self) -> None:
        labels, areas = self.annotation.labels, self.annotation.areas
        np.testing.assert_array_equal(areas, np.bincount(labels.ravel(), minlength=len(areas)))
        assert self.annotation.free == labels.max(initial=0) + 1
        facts, classes = self.annotation.facts, self.annotation.classes
        assert set(facts) <= set(np.unique(labels).tolist()) - {0}
        assert NOTHING not in facts.values()
        assert {one.kind for one in facts.values()} - {""} <= set(classes)
        assert all(parse_colour(one) == one for one in classes.values())

    def teardown(self) -> None:
        if not hasattr(self, "annotation"):
            return
        annotation, (labels, cells) = self.annotation, self.first
        final = state(annotation)
        replayed = Annotation(labels, cells, classes=self.at_first)
        replayed.replay(annotation.edits)
        assert state(replayed) == final
        turns = [annotation.undo() for _ in list(annotation.undoable)]
        np.testing.assert_array_equal(annotation.labels, labels)
        pd.testing.assert_frame_equal(annotation.cells, cells)
        for _ in turns:
            annotation.redo()
        assert state(annotation) == final
        self.folder.cleanup()


TestAnyEdits = AnyEdits.TestCase
TestAnyEdits.settings = settings(max_examples=25, stateful_step_count=20)


def three(**options) -> Annotation:
    labels = np.zeros((6, 12), np.uint16)
    labels[0, :4], labels[2, :6], labels[4, :8] = 2, 3, 7
    return Annotation(labels, **options)


def classed() -> Annotation:
    """Cells 2 and 7 are dead, 3 is alive, and 7 has a note; a class "odd" has no cell."""
    annotation = three()
    annotation.set_class([2, 7], " dead ")
    annotation.set_class([3], "alive")
    annotation.set_note([7], "at the border")
    annotation.add_class("odd", "#123456")
    return annotation


def paint(annotation: Annotation, label: int) -> None:
    annotation.change("paint", Patch(np.array([[0, 2, 2, label]])))


def said(annotation: Annotation) -> dict[int, tuple[str, str]]:
    frame = annotation.cells
    return dict(zip(frame["label"], zip(frame["class"], frame["note"], strict=True), strict=True))


def test_cells_are_listed_with_what_is_said_of_them_and_taken_from_a_list():
    annotation = classed()
    assert list(annotation.cells) == ["label", "area", "class", "note"]
    assert annotation.cells["area"].tolist() == [4, 6, 8]
    assert said(annotation) == {2: ("dead", ""), 3: ("alive", ""), 7: ("dead", "at the border")}
    assert annotation.classes == {"dead": ORANGE, "alive": BLUE, "odd": "#123456"}
    annotation.split(np.array([[-1, 3.5], [7, 3.5]]), [7])
    assert said(annotation)[7] == said(annotation)[8] == ("dead", "at the border")
    annotation.undo()
    annotation.set_note([3], "right half")
    annotation.set_class([2], "")
    annotation.merge([7, 3, 2])
    assert said(annotation) == {2: ("alive", "right half; at the border")}
    assert annotation.rename_class("dead", " dead ") is annotation.add_class("dead") is None
    given = np.ones((3, 3), np.int32)
    empty = Annotation(given)
    assert (empty.undo(), empty.redo(), empty.edits) == (None, None, [])
    empty.delete([1])
    assert (given == 1).all()  # the labels are copied
    assert (empty.cells.empty, empty.free) == (True, 1)
    listed = pd.DataFrame({"label": [7, 2], "class": ["dead", None], "note": [np.nan, "faint"]})
    annotation = three(cells=listed)
    assert said(annotation) == {2: ("", "faint"), 3: ("", ""), 7: ("dead", "")}
    assert list(annotation.classes) == ["dead"]
    assert three(cells=pd.DataFrame({"label": [2]})).facts == {}
    with pytest.raises(ImageError, match="which the masks have not"):
        three(cells=pd.DataFrame({"label": [2, 4], "class": "dead"}))


def test_what_cannot_be_done_is_said_and_changes_nothing():
    for act, text in (
        (lambda one: one.rename_class("gone", "x"), 'no class "gone".*among dead, alive, odd'),
        (lambda one: one.rename_class("dead", " "), "a class needs a name"),
        (lambda one: one.remove_class(""), "a class needs a name"),
        (lambda one: one.add_class("dead", "reddish"), '"reddish" is no colour'),
        (lambda one: one.set_class([2, 8], "x"), "there is no cell 8"),
        (lambda one: one.set_note([-1], "x"), "there is no cell -1"),
        (lambda one: paint(one, LARGEST_LABEL + 1), "would give cells the labels"),
        (lambda one: paint(one, -1), "would give cells the labels"),
        (lambda one: one.change("erase", id="python:0"), "made before"),
    ):
        annotation = classed()
        before, n_edits = state(annotation), len(annotation.edits)
        with pytest.raises(ImageError, match=text):
            act(annotation)
        assert (state(annotation), len(annotation.edits)) == (before, n_edits)


def test_colours_are_those_of_the_palette_as_long_as_one_is_free():
    classes: dict[str, str] = {}
    for number in range(len(COLOURS)):
        classes[str(number)] = choose_colour(classes)
    assert list(classes.values()) == list(COLOURS.values())
    assert choose_colour(classes) in COLOURS.values()
    del classes["3"]
    assert choose_colour(classes) == COLOURS["yellow"]
    assert (parse_colour(" #ABC "), parse_colour("red")) == ("#AABBCC", "#FF0000")
    for text in ("sky", "none"):
        with pytest.raises(ImageError, match="is no colour"):
            parse_colour(text)


FIRST = np.zeros((6, 12), np.int32)
FIRST[1:5, 1:11] = 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / ".a_masks.tif.edits"


def edited(path: Path, labels: np.ndarray = FIRST) -> Annotation:
    """An annotation after eight edits of each kind, an undo and a redo among them."""
    annotation = Annotation(labels, journal=path)
    annotation.change("erase", set_pixels(annotation.labels, [13, 14], 0), id="page:1")
    annotation.split(np.array([[-1, 5.5], [7, 5.5]]))
    annotation.set_class([5], "dead")
    annotation.set_note([5], "ß\n\u2028 \N{MICROSCOPE}")  # no sign ends the line
    annotation.delete([4])
    annotation.undo("page:2")
    annotation.undo()
    annotation.redo()
    return annotation


def opened(path: Path, labels: np.ndarray = FIRST) -> Annotation:
    return Annotation(labels, journal=path)


def shown(one: Annotation) -> tuple:
    """All that a page shows, and the edits by their names."""
    ids = [[edit.id for edit in edits] for edits in (one.edits, one.undoable, one.redoable)]
    return one.labels.tolist(), one.facts, one.classes, ids


def others(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if file != path)


def test_a_file_cut_off_at_any_byte_gives_the_edits_before_and_goes_on(path):
    """As a kill leaves it, in the middle of a line or between two."""
    annotation = edited(path)
    data, ids = path.read_bytes(), [edit.id for edit in annotation.edits]
    ends = [*(place for place, sign in enumerate(data) if sign == ord("\n")), len(data)]
    states, replayed = [FIRST], Annotation(FIRST)
    for edit in annotation.edits:
        replayed.replay([edit])
        states.append(replayed.labels.copy())
    for size in {*range(0, len(data) + 1, 50), *(end + k for end in ends for k in (-1, 0, 1))}:
        path.write_bytes(data[:size])
        again = opened(path)
        whole = max(sum(end <= size for end in ends) - 1, 0)  # but for the header
        assert [edit.id for edit in again.edits] == ids[:whole]
        np.testing.assert_array_equal(again.labels, states[whole])
        if size % 5 == 0:
            again.change("paint", set_pixels(again.labels, [0, 1], 9))
            again.set_note([9], "new")
            assert shown(opened(path)) == shown(again)
        for file in path.parent.iterdir():
            file.unlink()


def test_a_damaged_line_costs_that_edit_alone(path):
    edited(path)
    header, first, *lines = path.read_text().splitlines(keepends=True)
    for change in (
        *({"runs": data} for data in ("AAAA", "!", None)),
        *({"facts": facts} for facts in ([], {"x": [["", ""]] * 2}, {"1": [[""] * 3, [""] * 2]})),
        *({"classes": lists} for lists in (7, [{"dead": "reddish"}, {}], [{"": ORANGE}, {}], [{}])),
    ):
        path.write_text("".join([header, json.dumps(json.loads(first) | change), "\n", *lines]))
        again = opened(path)
        assert [edit.id for edit in again.edits][:2] == ["python:1", "python:2"], change
        assert len(again.edits) == 7
    path.write_text("".join([header, first, first, *lines]))  # as after a full disk: done once
    assert len(opened(path).edits) == 8


def test_files_without_a_header_and_of_other_labels_are_put_aside_and_never_overwritten(path):
    edited(path)
    first = path.read_bytes()
    for labels in (FIRST + 1, FIRST.reshape(12, 6)):  # the same pixels in another shape
        annotation = Annotation(labels, journal=path)
        assert annotation.edits == []
        assert not path.exists()
        annotation.change("paint", set_pixels(annotation.labels, [0], 9))
    assert others(path) == [path.name + ".other", path.name + ".other2"]
    assert path.with_name(path.name + ".other").read_bytes() == first
    path.with_name(path.name + ".other").replace(path)
    assert len(opened(path).edits) == 8
    none = {b"", b"null\n", b"\xff\xfe\x00\n", b'{"id": "a"}\n', b'{"scellseg edits": 2}\n'}
    for damage in none:
        path.write_bytes(damage)
        assert opened(path).edits == []
        assert not path.exists()
    assert {file.read_bytes() for file in path.parent.iterdir()} >= none


@pytest.mark.parametrize("is_writable", [True, False])
def test_what_another_window_does_with_the_file_costs_no_edit(path, is_writable, monkeypatch):
    """It takes the edits up, if it can; or the file is deleted by hand."""
    mine = edited(path)
    with monkeypatch.context() as patch:
        if not is_writable:
            patch.setattr(journal, "whole", Mock(side_effect=OSError(30, "Read-only file system")))
        other = opened(path)
    other.set_note([4], "of the other")
    mine.set_note([4], "mine")
    left = [opened(file) for file in path.parent.iterdir()]
    assert shown(mine) in map(shown, left)
    assert shown(other) in map(shown, left)
    mine.journal.path.unlink()
    mine.undo()
    assert shown(opened(mine.journal.path)) == shown(mine)
    assert (mine.trouble, other.trouble) == ("", "")


def test_a_window_that_only_looks_takes_nothing(path):
    mine = edited(path)
    before = path.read_bytes()
    looks = opened(path)
    assert shown(looks) == shown(mine)
    assert (path.read_bytes(), others(path)) == (before, [])
    mine.set_note([4], "mine")
    assert others(path) == []
    opened(path).restart_journal()  # another window has saved what was read there
    assert not path.exists()
    mine.set_note([4], "mine, after that")  # all of its own edits
    assert shown(opened(path)) == shown(mine)


def test_a_line_that_cannot_be_read_is_kept_beside(path):
    edited(path)
    text = path.read_text().replace('"kind": "delete"', '"kind": 7')
    path.write_text(text)
    again = opened(path)
    assert len(again.edits) == 7
    assert path.read_text() == text
    again.set_note([4], "new")
    assert path.with_name(f"{path.name}.other").read_text() == text
    assert shown(opened(path)) == shown(again)


def test_classes_come_back_beside_those_that_other_images_have_added_since(path):
    annotation = Annotation(FIRST, journal=path, classes={"dead": ORANGE})
    annotation.set_class([4], "dead")
    annotation.rename_class("dead", "gone")
    annotation.add_class("odd", "#123456")
    annotation.remove_class("odd")
    again = Annotation(FIRST, journal=path, classes={"dead": ORANGE, "new": BLUE})
    assert len(again.edits) == 4
    assert again.classes == {"gone": ORANGE, "new": BLUE}
    again.undo()
    assert again.classes == {"gone": ORANGE, "odd": "#123456", "new": BLUE}


def test_a_change_of_the_list_alone_begins_no_file_and_puts_none_aside(path):
    annotation = Annotation(FIRST, journal=path)
    annotation.add_class("dead")
    annotation.rename_class("dead", "gone")
    assert not path.exists()
    annotation.delete([4])
    annotation.undo()
    annotation.remove_class("gone")  # the file is begun, and takes it
    assert len(opened(path).edits) == 3
    again = Annotation(FIRST, journal=path)
    again.add_class("dead")
    assert (len(again.edits), others(path)) == (4, [])


def test_a_file_that_cannot_be_read_written_or_removed_is_an_error_in_words(path):
    annotation = Annotation(FIRST, journal=path)
    path.mkdir(parents=True)
    for act, text in ((Journal(path, FIRST).read, "read"), (annotation.journal.discard, "removed")):
        with pytest.raises(ImageError, match=f"cannot be {text}"):
            act()
    annotation.split(np.array([[-1, 5.5], [7, 5.5]]))
    annotation.delete([5])
    assert "cannot be written" in annotation.trouble
    assert annotation.cells["label"].tolist() == [4]
    path.rmdir()
    path.touch()  # as on a full disk
    annotation.undo()  # the edits before are written with it
    assert (annotation.trouble, others(path)) == ("", [])
    assert shown(opened(path)) == shown(annotation)

"""What can be done to cells, by arithmetic and by property, and the patches that come of it."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor import operations, patches
from scellseg_lib.workbench.editor.patches import LARGEST, Patch, apply

quick = settings(max_examples=25, deadline=None)
any_labels = st.tuples(st.integers(1, 10), st.integers(1, 10)).flatmap(
    lambda shape: hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 1, 4, 9]))
)
blocks = hnp.arrays(np.int32, (3, 3), elements=st.sampled_from([1, 1, 4, 9, 0])).map(
    lambda labels: np.kron(labels, np.ones((6, 6), np.int32))
)
places = st.floats(2, 16, width=32)
across = st.tuples(places, places, places).map(
    lambda x: np.array([[-9, x[0]], [9, x[1]], [30, x[2]]], np.float64)
)
coordinates = st.floats(-20, 30, allow_nan=False, width=32)


def done(labels: np.ndarray, patch: Patch) -> np.ndarray:
    """Labels after a patch, which comes from these (`apply` tests it) and can be taken back."""
    after = labels.copy()
    apply(after, patch)
    back = after.copy()
    apply(back, patch.invert())
    np.testing.assert_array_equal(back, labels)
    return after


def present(labels: np.ndarray) -> set[int]:
    return set(np.unique(labels[labels > 0]).tolist())


def bar() -> np.ndarray:
    """A bar of 4 x 20 px with a pixel of background around it."""
    return np.pad(np.full((4, 20), 3, np.int32), 1)


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
        operations.split(bar(), [], np.array(line))


def test_pieces_and_cells_that_the_line_does_not_concern_stay_what_they_are():
    line = np.array([[-1, 5.5], [10, 5.5]])
    apart = np.zeros((5, 11), np.int32)
    apart[:, :4] = apart[:, 7:] = 2
    with pytest.raises(ImageError, match="cuts no cell"):  # it passes between them
        operations.split(apart, [2], line)
    under = np.zeros((9, 11), np.int32)
    under[3:, 1:10] = under[0, 5] = 1  # a piece of one pixel under the line hides no cut
    assert present(done(under, operations.split(under, [1], line))) == {1, 2}
    beside = bar()
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
def test_merge_and_delete_change_the_chosen_cells_and_leave_the_others(labels, data):
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
    line = np.array([[-1, 8.5], [7, 8.5]])
    for act in (
        operations.merge,
        operations.delete,
        operations.fill_holes,
        lambda labels, cells: operations.split(labels, cells, line),
    ):
        with pytest.raises(ImageError, match=f"there is no cell {missing}"):
            act(bar(), [3, missing])
    for cells in ([], [3], [3, 3]):
        with pytest.raises(ImageError, match="cannot be merged"):
            operations.merge(bar(), cells)


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


@quick
@given(any_labels)
def test_fill_holes_changes_background_alone_and_leaves_no_hole(labels):
    after = done(labels, operations.fill_holes(labels, []))
    np.testing.assert_array_equal(after[labels > 0], labels[labels > 0])
    for cell in present(labels):
        assert not ((after == 0) & ndimage.binary_fill_holes(after == cell)).any()


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


two_images = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 0, 0, 2, 7, 7, 9])),
        hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 0, 0, 1, 1, 3, 8])),
    )
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


@pytest.mark.parametrize(
    ("drawn", "found", "left"),
    [
        (np.s_[1:5, 0:20], (20, 32), 12),  # columns of the found one that are left
        (np.s_[1:5, 0:20], (16, 28), 8),  # a third is shared
        (np.s_[1:5, 0:20], (15, 27), 0),
        (np.s_[1:5, 0:36], (8, 12), 0),  # a small one in a drawn one
        (np.s_[1:5, 8:12], (0, 36), 0),  # a large one around it
        (np.s_[0:20, 10:12], (4, 30), 18),  # of one that is cut in two, the larger piece
    ],
)
def test_what_a_found_bar_shares_with_a_drawn_one_is_cut_off(drawn, found, left):
    labels, bars = np.zeros((20, 40), np.int32), np.zeros((20, 40), np.int32)
    labels[drawn], bars[1:5, slice(*found)] = 5, 1
    after = done(labels, operations.add_found(labels, bars))
    assert (after == 6).sum() == 4 * left
    np.testing.assert_array_equal(after[labels > 0], labels[labels > 0])
    with pytest.raises(ImageError, match="Open the image again"):
        operations.add_found(labels, bars[:, 1:])


few = st.sampled_from([0, 0, 1, 2, 7, 70_000, LARGEST])
three_images = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int32, shape, elements=few)] * 3)
)


def as_bytes(*runs: tuple[int, int, int, int]) -> bytes:
    return np.array(runs, "<u4").tobytes()


@settings(max_examples=40, deadline=None)
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

    data = patch.to_bytes()
    for form in (data, memoryview(data)):
        np.testing.assert_array_equal(Patch.from_bytes(form, before.size).runs, patch.runs)

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

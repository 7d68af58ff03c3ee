"""What can be done to cells: by arithmetic on bars and rings, and by property on any labels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor import operations
from scellseg_lib.workbench.editor.patches import Patch, apply

quick = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(1, 10), st.integers(1, 10))
any_labels = shapes.flatmap(
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
    """Labels after a patch; that it can be taken back, and comes from these, is tested on the way.

    The operation itself must have left the labels as they were: `apply` refuses a patch otherwise.
    """
    after = labels.copy()
    apply(after, patch)
    back = after.copy()
    apply(back, patch.inverse())
    np.testing.assert_array_equal(back, labels)
    return after


def present(labels: np.ndarray) -> set[int]:
    return set(np.unique(labels[labels > 0]).tolist())


def bar(width: int = 20) -> np.ndarray:
    """A bar of 4 x `width` px with a pixel of background around it."""
    labels = np.zeros((6, width + 2), np.int32)
    labels[1:5, 1 : width + 1] = 3
    return labels


def ring(side: int, thickness: int = 1) -> np.ndarray:
    inside = np.ones((side, side), bool)
    inside[thickness:-thickness, thickness:-thickness] = False
    return inside


# --- split -----------------------------------------------------------------------------------


def test_split_of_a_bar_gives_two_parts_whose_sizes_follow_from_the_line():
    labels = bar(20)
    # Down the column of index 8, the eighth of the bar: 7 columns to the left, 12 to the right,
    # and the column itself goes to either side, as both are as near.
    after = done(labels, operations.split(labels, [3], np.array([[-1, 8.5], [7, 8.5]])))
    areas = np.bincount(after.ravel(), minlength=5)
    assert areas[3] + areas[4] == 80
    assert (after[2, 9:21] == 3).all()  # the larger keeps its label
    assert (after[2, 1:8] == 4).all()
    assert areas[4] in range(28, 33)


def test_split_gives_labels_that_no_cell_has():
    labels = bar()
    labels[0, 0] = 11
    after = done(labels, operations.split(labels, [], np.array([[-1, 5.5], [7, 5.5]])))
    assert present(after) == {3, 11, 12}


def test_a_line_across_three_cells_cuts_each_and_the_chosen_one_alone_if_one_is_chosen():
    labels = np.zeros((30, 12), np.int32)
    for row, cell in ((1, 1), (11, 2), (21, 3)):
        labels[row : row + 8, 1:11] = cell
    line = np.array([[-5, 4.5], [40, 4.5]])
    assert len(present(done(labels, operations.split(labels, [], line)))) == 6
    after = done(labels, operations.split(labels, [2], line))
    assert present(after) == {1, 2, 3, 4}
    np.testing.assert_array_equal((after == 2) | (after == 4), labels == 2)


def test_a_diagonal_line_leaves_no_corner_through_which_the_parts_hang_together():
    labels = np.ones((20, 20), np.int32)
    after = done(labels, operations.split(labels, [], np.array([[-1, -1], [21, 21]])))
    assert present(after) == {1, 2}
    assert np.bincount(after.ravel())[1:].min() > 150


def test_a_line_from_far_outside_enters_where_it_was_drawn():
    labels = np.ones((20, 20), np.int32)
    after = done(labels, operations.split(labels, [], np.array([[-300, 10.5], [300, 10.5]])))
    assert abs(int((after == 2).sum()) - 200) <= 20
    steep = operations.split(labels, [], np.array([[-100, -90], [110, 120]]))  # row = column - 10
    assert np.bincount(done(labels, steep).ravel())[2] == pytest.approx(50, abs=12)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param([[-1, 0.5], [7, 0.5]], id="beside the cell"),
        pytest.param([[-1, 8.5], [3, 8.5]], id="ends in the cell"),
        pytest.param([[2.5, 5.5], [3.5, 15.5]], id="within the cell"),
        pytest.param([[1.5, 0.5], [1.5, 21.5]], id="along its edge"),
        pytest.param([[3, 3]], id="a point"),
    ],
)
def test_a_line_that_cuts_nothing_is_an_error(line):
    with pytest.raises(ImageError, match="cuts no cell in two"):
        operations.split(bar(), [], np.array(line))


def test_a_cell_in_two_pieces_is_not_cut_by_a_line_between_them():
    labels = np.zeros((5, 11), np.int32)
    labels[:, :4] = labels[:, 7:] = 2
    with pytest.raises(ImageError, match="cuts no cell"):
        operations.split(labels, [2], np.array([[-1, 5.5], [6, 5.5]]))


def test_a_scrap_that_the_line_covers_does_not_hide_the_cut():
    labels = np.zeros((9, 11), np.int32)
    labels[3:, 1:10] = 1
    labels[0, 5] = 1  # a piece of one pixel, under the line
    after = done(labels, operations.split(labels, [1], np.array([[-1, 5.5], [10, 5.5]])))
    assert present(after) == {1, 2}


def test_a_piece_that_the_line_does_not_touch_keeps_its_label():
    labels = bar(20)
    labels[0, 21] = 3  # a scrap apart from the bar
    after = done(labels, operations.split(labels, [3], np.array([[-1, 8.5], [7, 8.5]])))
    assert present(after) == {3, 4}
    assert after[0, 21] == 3


@pytest.mark.parametrize("line", [[], [1.0, 2.0, 3.0], [[np.nan, 1], [2, 2]]])
def test_what_is_no_line_is_refused(line):
    with pytest.raises(ImageError, match="a line is points"):
        operations.split(bar(), [], np.array(line))


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


# --- merge, delete, relabel -------------------------------------------------------------------


@quick
@given(any_labels, st.data())
def test_merge_makes_one_of_the_chosen_and_leaves_the_others(labels, data):
    assume(len(present(labels)) > 1)
    chosen = data.draw(st.lists(st.sampled_from(sorted(present(labels))), min_size=2, unique=True))
    after = done(labels, operations.merge(labels, chosen))
    among = np.isin(labels, chosen)
    assert (after[among] == min(chosen)).all()
    np.testing.assert_array_equal(after[~among], labels[~among])


@quick
@given(any_labels, st.data())
def test_delete_removes_the_chosen_and_leaves_the_others(labels, data):
    assume(present(labels))
    chosen = data.draw(st.lists(st.sampled_from(sorted(present(labels))), min_size=1))
    after = done(labels, operations.delete(labels, chosen))
    np.testing.assert_array_equal(after, np.where(np.isin(labels, chosen), 0, labels))


@quick
@given(any_labels)
def test_relabel_numbers_from_one_in_the_old_order(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a cell in several pieces is what the user drew
        after = done(labels, operations.relabel(labels))
    n_cells = len(present(labels))
    assert present(after) == set(range(1, n_cells + 1))
    pairs = sorted({(int(old), int(new)) for old, new in zip(labels.flat, after.flat, strict=True)})
    assert len(pairs) == len(np.unique(labels))  # one new label for each
    assert [new for _, new in pairs] == sorted(new for _, new in pairs)
    assert (after[labels == 0] == 0).all()


@pytest.mark.parametrize("cells", [[], [3], [3, 3]])
def test_one_cell_cannot_be_merged(cells):
    with pytest.raises(ImageError, match="cannot be merged"):
        operations.merge(bar(), cells)


@pytest.mark.parametrize("missing", [0, -1, 2, 4, 10**9])
@pytest.mark.parametrize(
    "operation",
    [
        operations.merge,
        operations.delete,
        operations.fill_holes,
        lambda labels, cells: operations.split(labels, cells, np.array([[-1, 8.5], [7, 8.5]])),
    ],
    ids=["merge", "delete", "fill_holes", "split"],
)
def test_a_cell_that_there_is_not_is_an_error(operation, missing):
    with pytest.raises(ImageError, match=f"there is no cell {missing}"):
        operation(bar(), [3, missing])


# --- fill holes, outline ----------------------------------------------------------------------


def test_fill_holes_fills_background_and_leaves_other_cells_in_the_hole():
    labels = np.zeros((9, 9), np.int32)
    labels[1:8, 1:8][ring(7)] = 5
    labels[4, 4] = 2
    after = done(labels, operations.fill_holes(labels, [5]))
    assert after[4, 4] == 2
    assert np.bincount(after.ravel())[[0, 2, 5]].tolist() == [81 - 49, 1, 48]


def test_a_notch_is_no_hole_but_one_at_the_border_of_the_image_is_not_closed_either():
    labels = np.zeros((7, 7), np.int32)
    labels[ring(7)] = 1
    labels[0, 3] = 0
    assert operations.fill_holes(labels, []).n_pixels == 0


@pytest.mark.parametrize(("outer", "inner"), [(1, 2), (2, 1)])
def test_the_hole_of_a_ring_in_a_ring_belongs_to_the_inner_one(outer, inner):
    labels = np.zeros((9, 9), np.int32)
    labels[ring(9)] = outer
    labels[3:6, 3:6][ring(3)] = inner
    after = done(labels, operations.fill_holes(labels, []))
    assert (after == inner).sum() == 9
    assert (after == outer).sum() == 72


@quick
@given(any_labels)
def test_fill_holes_changes_background_alone_and_leaves_no_hole(labels):
    after = done(labels, operations.fill_holes(labels, []))
    np.testing.assert_array_equal(after[labels > 0], labels[labels > 0])
    outside = np.zeros_like(labels, bool)
    for cell in present(labels):
        outside |= (after == 0) & ndimage.binary_fill_holes(after == cell)
    assert not outside.any()


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [low, high], [high, high], [high, low]])


def test_an_outline_through_the_middles_of_pixels_holds_them():
    labels = np.zeros((12, 12), np.int32)
    after = done(labels, operations.outline(labels, square(2.5, 6.5), 4))
    expected = np.zeros_like(labels)
    expected[2:7, 2:7] = 4
    np.testing.assert_array_equal(after, expected)


def test_an_outline_leaves_other_cells_unless_asked():
    labels = np.zeros((12, 12), np.int32)
    labels[:, 5:] = 9
    kept = done(labels, operations.outline(labels, square(2.5, 6.5), 4))
    assert (kept == 4).sum() == 5 * 3
    assert (kept == 9).sum() == 12 * 7
    over = done(labels, operations.outline(labels, square(2.5, 6.5), 4, protect=False))
    assert (over == 4).sum() == 25


def test_an_outline_makes_a_cell_grow():
    labels = np.zeros((12, 12), np.int32)
    labels[2:5, 2:5] = 4
    after = done(labels, operations.outline(labels, square(4.5, 8.5), 4))
    assert (after == 4).sum() == 9 + 25 - 1


def test_an_outline_around_the_whole_image_holds_all_of_it():
    labels = np.zeros((10, 20), np.int32)
    corners = np.array([[-1000, -1000], [-1000, 3000], [3000, 0]])
    assert operations.outline(labels, corners, 1).n_pixels == 200


def test_an_outline_without_a_free_pixel_and_no_outline_at_all_are_errors():
    with pytest.raises(ImageError, match="no free pixel"):
        operations.outline(np.ones((9, 9), np.int32), square(2, 6), 2)
    with pytest.raises(ImageError, match="this is no outline"):
        operations.outline(np.zeros((9, 9), np.int32), square(2, 6)[:2], 2)


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

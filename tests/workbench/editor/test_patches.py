"""Changes as runs of pixels: applied, taken back, sent, and refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor.patches import (
    EMPTY,
    LARGEST,
    Patch,
    apply,
    difference,
    encode_labels,
    rebased,
    set_pixels,
)

quick = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def images(count: int) -> st.SearchStrategy[list[np.ndarray]]:
    """Label images of one size."""
    few = st.sampled_from([0, 0, 1, 2, 7, 70_000, LARGEST])
    return shapes.flatmap(
        lambda shape: st.lists(
            hnp.arrays(np.int32, shape, elements=few), min_size=count, max_size=count
        )
    )


def as_bytes(*runs: tuple[int, int, int, int]) -> bytes:
    return np.array(runs, "<u4").tobytes()


def decoded(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    pairs = np.frombuffer(data, "<u4").reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.int32).reshape(shape)


@quick
@given(images(2))
def test_a_difference_applied_gives_the_other_image_and_its_inverse_the_first(pair):
    before, after = pair
    patch, labels = difference(before, after), before.copy()
    apply(labels, patch)
    np.testing.assert_array_equal(labels, after)
    apply(labels, patch.inverse())
    np.testing.assert_array_equal(labels, before)


@quick
@given(images(2))
def test_runs_hold_the_pixels_that_differ_and_are_as_long_as_can_be(pair):
    before, after = pair
    patch = difference(before, after)
    differing = np.flatnonzero(before != after)
    assert patch.n_pixels == len(differing)
    np.testing.assert_array_equal(patch.pixels(), differing)
    first, second = patch.runs[:-1], patch.runs[1:]
    joinable = (first[:, 0] + first[:, 1] == second[:, 0]) & (first[:, 2:] == second[:, 2:]).all(1)
    assert not joinable.any()


@quick
@given(images(2))
def test_bytes_there_and_back(pair):
    patch = difference(*pair)
    data = patch.to_bytes()
    assert len(data) == 16 * len(patch.runs)
    for form in (data, memoryview(data)):
        np.testing.assert_array_equal(Patch.from_bytes(form, pair[0].size).runs, patch.runs)


@quick
@given(images(1), st.data())
def test_set_pixels_changes_these_pixels_alone_in_any_order(image, data):
    (labels,) = image
    chosen = data.draw(st.lists(st.integers(0, labels.size - 1), unique=True))
    new = data.draw(hnp.arrays(np.int64, len(chosen), elements=st.integers(0, 5)))
    wanted = labels.copy()
    wanted.ravel()[chosen] = new
    patch, first = set_pixels(labels, chosen, new), labels.copy()
    np.testing.assert_array_equal(labels, first)  # nothing is changed before it is applied
    apply(labels, patch)
    np.testing.assert_array_equal(labels, wanted)
    assert set(patch.pixels().tolist()) <= set(chosen)


@quick
@given(images(3))
def test_a_rebased_patch_writes_the_same_on_other_labels(three):
    before, after, other = three
    patch = difference(before, after)
    wanted = np.where(before != after, after, other)
    again = rebased(other, patch)
    apply(other, again)
    np.testing.assert_array_equal(other, wanted)


@quick
@given(images(1))
def test_encoded_labels_decode_to_themselves(image):
    (labels,) = image
    data = encode_labels(labels)
    np.testing.assert_array_equal(decoded(data, labels.shape), labels)
    pairs = np.frombuffer(data, "<u4").reshape(-1, 2)
    assert (np.diff(pairs[:, 0].astype(np.int64)) != 0).all()  # no run that could be longer


def test_runs_by_hand():
    before = np.array([[0, 0, 5], [5, 5, 0]], np.int32)
    after = np.array([[0, 7, 7], [7, 5, 1]], np.int32)
    expected = [[1, 1, 0, 7], [2, 2, 5, 7], [5, 1, 0, 1]]  # a run goes on in the next row
    assert difference(before, after).runs.tolist() == expected
    assert encode_labels(before) == np.array([0, 2, 5, 3, 0, 1], "<u4").tobytes()


def test_no_change_is_an_empty_patch():
    labels = np.ones((2, 3), np.int32)
    assert set_pixels(labels, [0, 4], 1).n_pixels == 0
    assert Patch.from_bytes(b"", 6).n_pixels == EMPTY.n_pixels == 0
    apply(labels, EMPTY)
    assert (labels == 1).all()
    assert encode_labels(np.zeros((0, 4), np.int32)) == b""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(as_bytes((0, 2, 0, 1))[:-1], id="a byte is missing"),
        pytest.param(as_bytes((0, 2, 0, 1))[:8], id="half a run"),
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


def test_what_just_fits_is_taken():
    patch = Patch.from_bytes(as_bytes((0, 3, 0, LARGEST), (3, 3, 2, 1)), n_pixels=6)
    assert patch.n_pixels == 6


@pytest.mark.parametrize("run", [(0, 2, 3, 1), (1, 2, 0, 1), (4, 3, 0, 1)])
def test_a_patch_of_other_labels_is_refused_and_changes_nothing(run):
    labels = np.array([[0, 0, 9], [9, 0, 0]], np.int32)
    first = labels.copy()
    with pytest.raises(ImageError, match="changed in between"):
        apply(labels, Patch(np.array([run])))
    np.testing.assert_array_equal(labels, first)

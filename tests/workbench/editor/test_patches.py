"""Changes as runs of pixels: applied, taken back, sent, and refused where they do not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor.patches import (
    LARGEST,
    Patch,
    apply,
    diff,
    encode_labels,
    rebase,
)

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
    patch, labels = diff(before, after), before.copy()
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
    apply(other, rebase(other, patch))
    np.testing.assert_array_equal(other, wanted)

    pairs = np.frombuffer(encode_labels(after), "<u4").reshape(-1, 2)
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

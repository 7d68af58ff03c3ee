"""Outlines give back the pixels that they came from, and their area is their number."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Polygon
from scipy.ndimage import label

from scellseg_lib.files.outlines import area, outlines, rings

small = arrays.arrays(
    np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)
)


def filled(ring_list: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Pixels whose middle is within an odd number of the rings."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    middles = np.column_stack([x.ravel(), y.ravel()])
    odd = np.zeros(len(middles), bool)
    for ring in ring_list:
        odd ^= Polygon(ring).contains_points(middles)
    return odd.reshape(shape)


@settings(max_examples=300)
@given(small)
def test_filling_gives_back_the_pixels(masks: np.ndarray) -> None:
    back = np.zeros_like(masks)
    for number, pieces in outlines(masks):
        for piece in pieces:
            back[filled(piece, masks.shape)] = number
    np.testing.assert_array_equal(back, masks)


@settings(max_examples=300)
@given(small)
def test_areas_are_numbers_of_pixels_and_pieces_are_connected(masks: np.ndarray) -> None:
    for number, pieces in outlines(masks):
        assert len(pieces) == label(masks == number)[1]
        assert sum(area(ring) for piece in pieces for ring in piece) == (masks == number).sum()
        for outer, *holes in pieces:
            assert area(outer) > 0
            assert all(area(hole) < 0 for hole in holes)


@settings(max_examples=200)
@given(small)
def test_no_vertex_lies_within_a_straight_line(masks: np.ndarray) -> None:
    for _, pieces in outlines(masks):
        for ring in (ring for piece in pieces for ring in piece):
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps == 0).sum(axis=1) == 1).all()
            before = np.roll(steps, 1, axis=0)
            assert ((steps * before).sum(axis=1) == 0).all()  # every vertex is a right angle


def test_a_square_with_a_hole() -> None:
    piece = np.ones((3, 3), bool)
    piece[1, 1] = False
    outer, hole = rings(piece)
    assert {tuple(v) for v in outer.tolist()} == {(0, 0), (3, 0), (3, 3), (0, 3)}
    assert {tuple(v) for v in hole.tolist()} == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert (area(outer), area(hole)) == (9, -1)


def test_missing_labels_are_passed_over() -> None:
    assert [number for number, _ in outlines(np.array([[0, 2], [5, 5]]))] == [2, 5]
    assert not list(outlines(np.zeros((3, 3), np.int32)))


def test_a_disc_is_filled_by_opencv_too() -> None:
    y, x = np.mgrid[:60, :60]
    masks = ((y - 30) ** 2 + (x - 25) ** 2 <= 17**2).astype(np.int32)
    ((_, ((ring,),)),) = outlines(masks)
    fine = np.zeros((600, 600), np.uint8)  # ten times as fine, where its lines are thin
    cv2.fillPoly(fine, [(ring * 10).astype(np.int32)], 1)
    np.testing.assert_array_equal(fine[5::10, 5::10], masks)
    assert area(ring) == pytest.approx(np.pi * 17**2, rel=0.02)

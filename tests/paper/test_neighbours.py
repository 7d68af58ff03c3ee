"""Touching cells: drawn by hand, and against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from scellseg_lib.paper import neighbours
from scellseg_lib.samples import Sample

TRUE = np.array(
    [
        [1, 1, 2, 2, 0, 0],
        [1, 1, 2, 2, 0, 5],
        [0, 0, 0, 3, 0, 5],
        [7, 7, 0, 3, 3, 0],
    ],
    np.int32,
)


def test_touching_cells_share_a_border_or_a_corner() -> None:
    # 2 and 3 by an edge, 3 and 5 by the corner of row 2 and 3; 7 stands alone.
    assert neighbours.touching(TRUE).tolist() == [[1, 2], [2, 3], [3, 5]]


@pytest.mark.parametrize("masks", [np.zeros((3, 4), int), np.ones((3, 4), int), np.zeros((1, 1))])
def test_none_touch_where_there_are_not_two(masks: np.ndarray) -> None:
    assert neighbours.touching(masks).shape == (0, 2)


def test_touching_agrees_with_every_pair_of_pixels() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 7), (7, 1), (9, 11)):
        masks = rng.integers(0, 6, shape)
        expected = set()
        for y, x in np.ndindex(shape):
            for v in range(max(y - 1, 0), min(y + 2, shape[0])):
                for u in range(max(x - 1, 0), min(x + 2, shape[1])):
                    a, b = sorted((int(masks[y, x]), int(masks[v, u])))
                    if a and a != b:
                        expected.add((a, b))
        assert set(map(tuple, neighbours.touching(masks).tolist())) == expected


def test_a_prediction_over_most_of_both_merges() -> None:
    pairs = neighbours.touching(TRUE)
    merged = np.where(np.isin(TRUE, (1, 2)), 4, TRUE)
    assert neighbours.separated(TRUE, merged, pairs).tolist() == [False, True, True]
    assert neighbours.both_found(TRUE, merged, pairs).tolist() == [False, False, True]
    assert neighbours.separated(TRUE, TRUE, pairs).all()
    assert neighbours.both_found(TRUE, TRUE, pairs).all()


def test_half_of_a_cell_is_not_most_of_it() -> None:
    true = np.array([[1, 1, 2, 2]])
    half = np.array([[3, 3, 3, 0]])
    assert neighbours.separated(true, half, np.array([[1, 2]])).tolist() == [True]
    true = np.array([[1, 1, 2, 2, 2]])
    most = np.array([[3, 3, 3, 3, 0]])
    assert neighbours.separated(true, most, np.array([[1, 2]])).tolist() == [False]


def test_cells_that_are_not_found_are_not_merged() -> None:
    pairs = neighbours.touching(TRUE)
    nothing = np.zeros_like(TRUE)
    assert neighbours.separated(TRUE, nothing, pairs).all()
    assert not neighbours.both_found(TRUE, nothing, pairs).any()


def test_counts_of_images() -> None:
    sample = Sample("a", lambda: np.zeros((2, *TRUE.shape), np.float32), lambda: TRUE)
    empty = Sample("b", lambda: np.zeros((2, 2, 2), np.float32), lambda: np.zeros((2, 2), int))
    frame = neighbours.count([np.where(TRUE, 1, 0), np.zeros((2, 2), int)], [sample, empty])
    assert frame.to_dict("records") == [
        {"image": "a", "pairs": 3, "separated": 0, "both_found": 0},
        {"image": "b", "pairs": 0, "separated": 0, "both_found": 0},
    ]

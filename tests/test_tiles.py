"""Tiles: they cover, they overlap, and what comes back blended is what went out."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scellseg_lib.tiles import EDGE, OVERLAP, TILE, TiledImage, starts


@given(st.integers(1, 5000))
def test_tiles_cover_a_side_and_overlap_by_a_tenth(length: int):
    first = starts(length)
    assert first[0] == 0
    if length <= TILE:
        assert first == [0]
        return
    assert first[-1] + TILE == length
    overlaps = TILE - np.diff(first)
    # Starts are whole pixels, so one overlap may fall short of the tenth by a pixel.
    assert overlaps.min() >= OVERLAP * TILE - 1
    assert np.ptp(overlaps) <= 1
    # With one tile fewer the overlap would be too small.
    n = len(first) - 1
    assert n == 1 or n * TILE - (n - 1) * OVERLAP * TILE < length


@settings(max_examples=15)
@given(st.integers(1, 500), st.integers(1, 500), st.randoms(use_true_random=False))
def test_what_comes_back_is_what_went_out(height: int, width: int, random):
    image = np.random.default_rng(random.randrange(2**32)).normal(size=(2, height, width))
    tiled = TiledImage(image.astype(np.float32), stride=8)
    tiles = [tiled.tile(index) for index in range(tiled.missing)]
    assert [side % 16 for side in tiled.image.shape[1:]] == [0, 0]
    assert {tile.shape for tile in tiles} == {(2, *tiled.sides)}
    for index in random.sample(range(len(tiles)), len(tiles)):
        assert tiled.missing
        tiled.add(index, tiles[index], np.array([3.0, 4.0], np.float32))
    assert tiled.missing == 0
    np.testing.assert_allclose(tiled.maps(), image, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tiled.style(), [0.6, 0.8], rtol=1e-6)


def test_a_seam_is_blended():
    tiled = TiledImage(np.zeros((2, 200, 384), np.float32), 8)
    assert tiled.corners == [(0, 0), (0, 176)]
    for index in range(2):
        tiled.add(index, np.full((1, *tiled.sides), index, np.float32), np.zeros(4))
    row = tiled.maps()[0, 100]
    assert (row[: 176 - EDGE] == 0).all()
    assert (row[224 - EDGE :] == 1).all()
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() < 0.1
    assert 0.45 < row[200 - EDGE] < 0.55
    assert (tiled.style() == 0).all()  # styles that are all zero stay so


def test_the_border_is_black():
    tiled = TiledImage(np.ones((2, 13, 300), np.float32), 8)
    assert tiled.sides == (32, 224)
    first = tiled.tile(0)
    assert (first[:, :9] == 0).all()  # 13 rows in 32: 9 before, 10 after
    assert (first[:, 22:] == 0).all()
    assert (first[:, 9:22, 10:] == 1).all()
    assert (first[:, :, :10] == 0).all()  # 300 columns in 320

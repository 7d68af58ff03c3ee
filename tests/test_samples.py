"""Samples, data sets, and what is done to their pixels."""

import dataclasses
from unittest.mock import Mock

import numpy as np
import pytest

from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.samples import Dataset, Sample, normalise, resize, resize_masks

SHAPE = (6, 8)


def sample(name: str = "a", split: str = "shot", side: int = 2) -> Sample:
    """One square cell of `side` px in the corner."""
    masks = np.zeros(SHAPE, np.int32)
    masks[:side, :side] = 1
    style = split.partition("contrast:")[2] or None
    return Sample(name, lambda: np.zeros((2, *SHAPE), np.float32), lambda: masks, split, style)


def dataset(*samples: Sample) -> Dataset:
    return Dataset("some", "Some images", "CC0", samples)


POOL = dataset(*(sample(f"s{i}") for i in range(10)), sample("q", "query"))


def test_files_are_read_once_and_when_needed() -> None:
    image = Mock(return_value=np.zeros((2, 3, 4)))
    masks = Mock(return_value=np.full((3, 4), 2.0, ">f4"))
    one = Sample("a", image, masks)
    assert not masks.called
    assert one.masks is one.masks
    assert not image.called
    assert one.image is one.image
    assert image.call_count == masks.call_count == 1
    assert (one.image.dtype, one.masks.dtype) == (np.float32, np.int32)
    assert (one.masks == 2).all()  # whole numbers, though they came as floats


def test_image_and_masks_of_different_sizes() -> None:
    for first, second in (("image", "masks"), ("masks", "image")):
        one = Sample("B05", lambda: np.zeros((2, 6, 8)), lambda: np.zeros((8, 6), np.int32))
        getattr(one, first)
        with pytest.raises(ImageError, match=r"B05: the image is of 6 x 8 px, its masks of 8 x 6"):
            getattr(one, second)


def test_what_is_no_image_and_what_are_no_labels_is_refused() -> None:
    for shape in ((6, 8), (3, 6, 8), (2, 6, 8, 1)):
        with pytest.raises(ImageError, match=r"odd: .*\(2, H, W\)"):
            _ = Sample("odd", lambda shape=shape: np.zeros(shape)).image
    for value in (np.nan, np.inf):
        image = np.zeros((2, *SHAPE))
        image[1, 3, 3] = value
        with pytest.raises(ImageError, match=r"odd: .*it holds NaN or infinity"):
            _ = Sample("odd", lambda image=image: image).image
    wrong = (np.full(SHAPE, 1.5), np.full(SHAPE, -1), np.ones((2, *SHAPE)))
    for masks in (one * times for one in wrong for times in (1, np.nan, 3e9)):
        with pytest.raises(ImageError, match=r"^odd: "):
            _ = Sample("odd", lambda: np.zeros((2, *SHAPE)), lambda masks=masks: masks).masks


def test_diameter_is_the_median_over_cells() -> None:
    masks = np.zeros((20, 20), np.int32)
    masks[0, :4], masks[2:6, :4], masks[10:18, :8] = 1, 2, 4  # areas 4, 16, 64; there is no 3
    one = Sample("a", lambda: np.zeros((2, 20, 20)), lambda: masks)
    assert one.diameter == pytest.approx(2 * np.sqrt(16 / np.pi))
    assert np.isnan(sample(side=0).diameter)
    both = dataset(sample(side=2), sample(side=0), sample(side=4))  # the second has no cells
    assert both.diameter == pytest.approx((4 + 8) / 2 / np.sqrt(np.pi))
    assert np.isnan(dataset(sample(side=0)).diameter)


def test_a_slice_is_a_dataset_with_the_same_card_and_so_is_one_without_masks() -> None:
    part = POOL[2:4]
    assert isinstance(part, Dataset)
    assert (part.name, part.licence, part.channels) == ("some", "CC0", ("gray", "none"))
    assert [s.name for s in part] == ["s2", "s3"]
    assert (POOL[-1].name, len(POOL)) == ("q", 11)
    bare = [(s.name, s.split, s.read_masks) for s in POOL.without_masks()]
    assert bare == [(s.name, s.split, None) for s in POOL]
    assert POOL[0].read_masks is not None
    with pytest.raises(DatasetError, match="s0: the image has no masks"):
        _ = POOL[0].without_masks().diameter
    with pytest.raises(dataclasses.FrozenInstanceError):
        POOL.name = "other"  # type: ignore[misc]


def test_splits_and_styles() -> None:
    kinds = ["pretrain+contrast:x", "contrast:a", "query", "pretrain", "contrast:x"]
    mixed = dataset(*(sample(str(i), kind) for i, kind in enumerate(kinds)))
    assert [s.name for s in mixed.split("pretrain")] == ["0", "3"]
    assert [s.name for s in mixed.split("contrast:x")] == ["0", "4"]
    assert [s.name for s in mixed.query] == ["2"]
    styles = {style: [s.name for s in part] for style, part in mixed.styles().items()}
    assert list(styles.items()) == [("x", ["0", "4"]), ("a", ["1"])]
    with pytest.raises(DatasetError, match=r"have no styles\. Give samples"):
        POOL.styles()
    with pytest.raises(DatasetError, match=r"no images for 'shot'.*contrast:a, .*query"):
        _ = mixed.shot
    with pytest.raises(DatasetError, match="no splits"):
        _ = dataset(sample("a", "")).split("general_test")


def test_shots_are_drawn_without_replacement_and_nested() -> None:
    for n, seed in ((1, 0), (4, 0), (10, 7)):
        order = np.random.default_rng(seed).permutation(10)[:n]
        assert [s.name for s in POOL.shots(n, seed)] == [f"s{i}" for i in order]
    for n in (11, 0, -1):
        with pytest.raises(DatasetError, match=f"{n} shots were asked for, the pool .* holds 10"):
            POOL.shots(n)


def test_normalise_maps_the_percentiles_to_0_and_1_without_clipping() -> None:
    plane = np.arange(101, dtype=np.float32)[None]
    image = np.stack([plane, 1000 - 7 * plane])
    normalised = normalise(image)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised[0], (plane - 1) / 98, atol=1e-6)
    np.testing.assert_allclose(normalised[1], 1 - (plane - 1) / 98, atol=1e-5)
    assert (normalised.min() < 0, normalised.max() > 1, image[0, 0, 50]) == (True, True, 50)


def few_cells(background: float, noise: float, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Six discs of 12 px, under a hundredth of the image; and where they are."""
    inside = np.zeros((300, 400), bool)
    for y, x in ((40, 60), (90, 300), (150, 150), (200, 350), (250, 80), (270, 250)):
        inside |= np.hypot(*(np.indices(inside.shape) - np.array([y, x])[:, None, None])) < 6
    plane = np.random.default_rng(0).normal(background, noise, inside.shape) + cell * inside
    return np.stack((plane, 0 * plane)).astype(np.float32), inside


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e4])
def test_a_few_cells_are_not_lost_in_the_noise_or_beside_a_bright_block(unit: float) -> None:
    image, inside = few_cells(200, 3, 100)
    even, usual = normalise(image * np.float32(unit), cells=12)[0], normalise(image)[0]
    assert np.median(even[inside]) > 1  # and the noise has a third of what it had
    assert even[~inside].std() == pytest.approx(usual[~inside].std() / 3, rel=0.05)
    on_nothing = normalise(np.where(inside, image, 0), cells=12)[0]
    assert np.median(on_nothing[inside]) == pytest.approx(1, abs=0.3)
    image[0, 5:35, 80:250] = 60_000  # four hundredths of the image
    even = normalise(image * np.float32(unit), cells=12)[0]
    assert np.median(even[inside]) == pytest.approx(1, abs=0.3)
    assert np.median(normalise(image)[0][inside]) < 0.01


def test_hot_pixels_are_held_down_and_usual_images_the_same_for_all() -> None:
    image, _ = few_cells(100, 30, 0)
    image[0, 100:, :] += 300  # cells without end
    np.testing.assert_allclose(normalise(image, cells=12), normalise(image), atol=1e-6)
    image[0, 20:24, 50:90] = 65_535  # a scale bar takes two thirds of the range at most
    even, usual = normalise(image, cells=12)[0, 100:], normalise(image)[0, 100:]
    np.testing.assert_allclose(even, usual / 3, atol=0.05)
    image[0, ::60, ::80] = 65_535
    even = normalise(image, cells=12)
    assert (even.max(), normalise(image).max() > 100) == (3, True)


@pytest.mark.parametrize(("height", "kept"), [(0.0, False), (0.9e-3, False), (1.1e-3, True)])
def test_a_plane_of_next_to_no_range_becomes_zeros(height: float, kept: bool) -> None:
    image = np.zeros((2, 4, 4), np.float32)
    image[0, 2:], image[1, 2:] = height, 9
    normalised = normalise(image)
    assert normalised[0].any() == normalised[1].any() == kept  # nuclei alone are not segmented
    assert not normalise(np.full((2, 4, 4), 5, np.float32)).any()


def test_resize_is_linear_above_half_and_averages_below() -> None:
    twice = resize(np.broadcast_to(np.arange(8, dtype=np.float32), (2, 8, 8)), 2)
    assert twice.shape == (2, 16, 16)
    np.testing.assert_allclose(twice[0, 5, 3:7], [1.25, 1.75, 2.25, 2.75])
    noise = np.random.default_rng(0).random((2, 16, 16), np.float32)
    blocks = noise.reshape(2, 4, 4, 4, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(resize(noise, 0.25), blocks, rtol=1e-5)
    small = resize(np.zeros((2, 10, 15), np.float32), 0.37)
    assert small.shape == (2, 4, 6)
    assert resize(small, (10, 15)).shape == (2, 10, 15)
    assert resize(small, 1e-6).shape == (2, 1, 1)


def test_masks_are_resized_to_the_nearest_centre() -> None:
    masks = np.arange(9, dtype=np.int32).reshape(3, 3) * 70_000
    assert resize_masks(masks, (1, 1)).tolist() == [[4 * 70_000]]
    twice = resize_masks(masks, (6, 6))
    np.testing.assert_array_equal(twice, masks.repeat(2, 0).repeat(2, 1), strict=True)
    np.testing.assert_array_equal(resize_masks(twice, (3, 3)), masks)

"""Synthetic images: the same for ever, and like the real ones of their kind."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage.measure import label

from scellseg_lib.datasets import synthetic
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.samples import diameter

# Of seed 7, 256 x 320 (worms: their usual size): cells, labelled pixels, mean of either plane.
# Pixels are not hashed: another CPU's blur and exp may differ in the last bit.
# Then least and most of every real image of the kind (BBBC010: 49, T98G: 23, contrast styles: 5
# each): median diameter (px), 99th percentile of the first plane (counts), where the median lies
# between the 1st and 99th percentile, and SD of what a blur of 2 px takes away over that range.
KNOWN = pd.read_csv(Path(__file__).parents[1] / "data" / "synthetic.csv", index_col="kind")
REAL = KNOWN.loc[:, "diameter_least":].dropna()
usual = cache(partial(synthetic.make_image, seed=0))
small = cache(lambda kind: synthetic.make_image(kind, 7, None if kind == "worms" else (256, 320)))


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_same_seed_gives_same_image_as_when_it_was_committed(kind):
    planes, masks = small(kind)
    known = KNOWN.loc[kind]
    assert abs(masks.max() - known["cells"]) <= 1
    assert (masks > 0).sum() == pytest.approx(known["pixels"], rel=2e-3)
    assert planes[0].mean() == pytest.approx(known["first"], rel=2e-3)
    assert planes[1].mean() == pytest.approx(known["second"], rel=2e-3)


def test_images_depend_on_their_seed_and_not_on_what_was_made_before():
    made = [synthetic.make_image("macrophagocyte", s, (200, 200)) for s in (3, (3, 1), 3)]
    (first, cells), (other, others), (again, _) = made
    assert np.array_equal(first, again)
    assert (first != other).mean() > 0.5
    assert (cells != others).any()


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_labels_and_planes_are_what_is_promised(kind):
    for planes, masks in (usual(kind), small(kind)):
        assert (masks.dtype, planes.dtype) == (np.int32, np.float32)
        assert planes.shape == (2, *masks.shape)
        area = np.bincount(masks.ravel())[1:]
        assert len(area) >= 5
        assert area.min() >= 15
        pieces = label(masks, background=0, connectivity=1).max()
        assert pieces == masks.max() == len(np.unique(masks)) - 1
        assert (planes == np.rint(planes)).all()
        assert 0 <= planes.min() <= planes.max() <= 65535
        assert (planes[0] == 65535).mean() < 0.01
        if KNOWN.loc[kind, "second"] == 0:
            assert not planes[1].any()
            continue
        if kind != "style2":  # which has nuclei without a cell, as the real images do
            assert (masks[planes[1] > np.quantile(planes[1], 0.97)] > 0).mean() > 0.93
        blurred = ndimage.gaussian_filter(planes[1], 1)
        top = ndimage.maximum(blurred, masks, np.arange(1, masks.max() + 1))
        assert (top > 1.2 * np.median(planes[1][masks == 0])).mean() > 0.8


@pytest.mark.parametrize("kind", REAL.index)
def test_statistics_are_those_of_the_real_images(kind):
    (plane, _), masks = usual(kind)
    low, middle, high = np.percentile(plane, (1, 50, 99))
    fine = plane - ndimage.gaussian_filter(plane, 2)
    found = diameter(masks), high, (middle - low) / (high - low), fine.std() / (high - low)
    # Within the real range, a fifth wider at either end.
    for value, (least, most) in zip(found, REAL.loc[kind].to_numpy().reshape(4, 2), strict=True):
        assert 0.8 * least <= value <= 1.2 * most


@pytest.fixture
def seeds(monkeypatch):
    """Kinds and seeds of the images that are made, each a pixel."""
    made: list[tuple] = []

    def make_image(kind: str, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        made.append((kind, *seed))
        return np.full((2, 1, 1), len(made), np.float32), np.ones((1, 1), np.int32)

    monkeypatch.setattr(synthetic, "_cached", cache(make_image))
    return made


def test_sets_have_their_splits_and_make_images_on_reading(seeds):
    few = synthetic.make_dataset("synthetic_worms", n_shot=3, n_query=2)
    more = synthetic.make_dataset("synthetic", n_shot=4, n_query=4)
    assert [len(few), len(few.shot), len(few.query), few.channels] == [5, 3, 2, ("gray", "none")]
    contrast = synthetic.make_dataset("synthetic_contrast")
    styles = dict.fromkeys(synthetic.STYLES, 5)
    assert {style: len(part) for style, part in contrast.styles().items()} == styles
    assert [s.style for s in contrast.split("contrast:style2")] == ["style2"] * 5
    assert seeds == []
    read = few.query[1].read_image()
    assert (few.query[1].masks.max(), len(seeds)) == (1, 1)  # made once for both
    assert np.array_equal(more.query[1].image, read)  # a larger set begins with the smaller one
    read[:] = 0
    assert few.query[1].read_image().any()  # nobody changes what others get


def test_no_image_is_in_two_splits_or_sets(seeds):
    names = [name for name in synthetic.NAMES if name != "synthetic"]
    samples = [sample for name in names for sample in synthetic.make_dataset(name)]
    for sample in samples:
        sample.read_image()
    assert len(seeds) == len(set(seeds)) == len(samples)
    assert len({sample.name for sample in samples}) == len(samples)


def test_wrong_names_and_sizes_say_what_to_do():
    with pytest.raises(ImageError, match=r"no synthetic image of kind 'discs'.*worms"):
        synthetic.make_image("discs", 0)
    with pytest.raises(ImageError, match="at least 200"):
        synthetic.make_image("mito", 0, (100, 300))
    with pytest.raises(DatasetError, match=r"'synthetic_discs'.*synthetic_worms"):
        synthetic.make_dataset("synthetic_discs")

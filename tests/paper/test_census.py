"""Cells are counted and measured as their masks have them."""

from __future__ import annotations

import numpy as np
import pytest

from scellseg_lib.paper.census import census, table
from scellseg_lib.samples import Dataset, Sample


def sample(name: str, masks: np.ndarray, split: str = "shot", width: int = 20) -> Sample:
    image = np.zeros((2, 10, width), np.float32)
    return Sample(name, lambda: image, lambda: masks.astype(np.int32), split)


def squares(*sides: int) -> np.ndarray:
    masks = np.zeros((10, 20), np.int32)
    for label, side in enumerate(sides, start=1):
        masks[:side, 5 * label : 5 * label + side] = label
    return masks


@pytest.fixture
def data() -> Dataset:
    samples = (
        sample("two", squares(2, 4)),
        sample("none", squares()),
        sample("one", squares(3), "query"),
        sample("damaged", squares(3), width=7),
    )
    return Dataset("squares", "Squares", "CC0-1.0", samples)


def test_an_image_is_a_row_and_a_damaged_one_is_left_out(data: Dataset):
    frame = census([data]).set_index("image")
    assert list(frame.index) == ["two", "none", "one"]
    assert frame.loc["two", "cells"] == 2
    assert frame.loc["two", "mean_area"] == 10
    assert frame.loc["two", "coverage"] == pytest.approx(20 / 200)
    assert frame.loc["one", "median_diameter"] == pytest.approx(2 * np.sqrt(9 / np.pi))
    assert frame.loc["none", ["cells", "coverage"]].tolist() == [0, 0]
    assert np.isnan(frame.loc["none", "mean_area"])


def test_a_split_is_summed_up(data: Dataset):
    found = table(census([data, data])).set_index("split")
    assert found.loc["shot", ["images", "cells", "cells_min", "cells_max"]].tolist() == [4, 4, 0, 2]
    assert found.loc["shot", "mean_area"] == 10  # of the images that have cells
    assert found.loc["query", "coverage"] == pytest.approx(9 / 200)

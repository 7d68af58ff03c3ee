"""Wells as the authors' loaders read them."""

import cv2
import numpy as np
import pytest

from scellseg_lib.files.images import read_pixels
from scellseg_lib.samples import Sample
from tests.benchmarks.authors import export


def test_wells_keep_their_16_bits_and_queries_show_no_masks(tmp_path) -> None:
    grey = np.arange(24, dtype=np.float32).reshape(4, 6) * 2000
    well = Sample("B05", lambda: np.stack([grey, 0 * grey]), lambda: np.int32(grey > 9000) * 300)
    export([well], [well], tmp_path)
    planes = {"shot/B05_img.png": grey, "shot/B05_masks.png": well.masks, "query/B05_img.png": grey}
    for name, plane in planes.items():
        both = cv2.imread(str(tmp_path / name), -1), read_pixels(tmp_path / name)
        np.testing.assert_array_equal(both, [plane, plane])
    assert len([*tmp_path.rglob("*.*")]) == len(planes)
    with pytest.raises(ValueError, match="grey"):
        export([], [Sample("two", lambda: np.stack([grey, grey]))], tmp_path / "two")

"""Converters, on files as their publishers lay them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scellseg_lib.datasets import convert, manifest
from scellseg_lib.datasets.convert import RawFiles
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.files import images as readers


def png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "folder"), [("bbbc010_elegans", "bbbc010"), ("dsb2018",) * 2])
def test_raw_samples_give_the_pixels_of_the_manifest(
    name: str, folder: str, real_data: Path
) -> None:
    card = manifest.load_manifest(name)
    assert card.converter is not None
    entries = {entry.source or entry.name: entry for entry in card.files}
    raw = RawFiles.under(real_data / "raw_samples" / folder)
    pictures = list(convert.CONVERTERS[card.converter](raw, "*"))
    assert len(pictures) == {"bbbc010_elegans": 3, "dsb2018": 2}[name]
    for picture in pictures:
        entry = entries[picture.name]
        assert readers.pixel_hash(picture.image) == entry.image_sha256
        assert readers.pixel_hash(picture.masks) == entry.masks_sha256
        assert (picture.image.shape, picture.image.dtype) == (entry.shape, entry.dtype)


@pytest.mark.real_data
def test_livecell_polygons_have_the_areas_and_boxes_of_the_publisher(real_data: Path) -> None:
    folder = real_data / "raw_samples" / "livecell"
    content = json.loads((folder / "livecell_coco_test.json").read_text())
    pictures = {
        p.name: p for p in convert.livecell(RawFiles.under(folder), "livecell_coco_test.json")
    }
    assert len(pictures) == len(content["images"]) == 2
    for image in content["images"]:
        notes = [n for n in content["annotations"] if n["image_id"] == image["id"]]
        picture = pictures[Path(image["file_name"]).stem]
        assert picture.image.shape == picture.masks.shape == (image["height"], image["width"])
        assert picture.masks.max() == len(notes)
        errors = []
        for note in notes:
            cell = convert.rasterise(note["segmentation"], picture.masks.shape)
            assert np.count_nonzero(cell) == pytest.approx(note["area"], rel=0.05, abs=8)
            ys, xs = np.nonzero(cell)
            x, y, width, height = note["bbox"]
            box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            errors.append(box - [x, y, x + width, y + height])
        # A pixel's centre taken for its corner would shift all boxes by half a pixel.
        assert np.abs(np.mean(errors, axis=0)).max() < 0.3
        assert np.abs(errors).max() < 4


def test_overlaps_go_to_the_smaller_cell_whatever_the_order() -> None:
    big, small = np.zeros((2, 6, 8), bool)
    big[:, :5] = True
    small[2:4, 4:7] = True
    labels = convert.paint([big, small], (6, 8))
    assert labels.dtype == np.uint16
    assert np.array_equal(labels == 2, small)
    assert np.array_equal(labels == 1, big & ~small)
    swapped = convert.paint([small, big], (6, 8))
    assert np.array_equal(swapped, np.choose(labels, [0, 2, 1]))


def test_no_cells_give_empty_masks() -> None:
    assert not convert.paint([], (3, 4)).any()


def test_bbbc010_orders_worms_by_area_and_ignores_the_fluorescence(tmp_path: Path) -> None:
    image = np.arange(48, dtype=np.uint16).reshape(6, 8)
    for wave in ("w1", "w2"):
        name = tmp_path / "images" / f"1649_B05_{wave}_29ECA697.tif"
        name.parent.mkdir(exist_ok=True)
        name.write_bytes(imagecodecs.tiff_encode(image + (wave == "w1")))
    worms = np.zeros((2, 6, 8), np.uint8)
    worms[0, 0, :3] = 255
    worms[1, 0:4, 2] = 255
    for k, worm in enumerate(worms):
        png(tmp_path / "masks" / f"B05_{k + 1:02d}_ground_truth.png", worm)
    (picture,) = convert.bbbc010(RawFiles.under(tmp_path), "B05")
    assert picture.name == "B05"
    assert np.array_equal(picture.image, image)
    expected = np.zeros((6, 8), np.uint16)
    expected[0:4, 2] = 1
    expected[0, :3] = 2
    assert np.array_equal(picture.masks, expected)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    png(tmp_path / "stage1_train/ab/images/ab.png", np.zeros((6, 8), np.uint8))
    png(tmp_path / "stage1_train/ab/masks/1.png", np.ones((8, 6), np.uint8))
    with pytest.raises(ImageError, match=r"\(8, 6\)"):
        list(convert.dsb2018(RawFiles.under(tmp_path), "ab"))


def test_dsb2018_keeps_colours_and_drops_equal_planes(tmp_path: Path) -> None:
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    opaque = np.full_like(gray, 255)
    for name, planes in {"gray": [gray] * 3, "red": [gray + 1, gray, gray]}.items():
        folder = tmp_path / "stage1_train" / name
        png(folder / f"images/{name}.png", np.stack([*planes, opaque], axis=-1))
        png(folder / "masks/1.png", (gray < 5).astype(np.uint8) * 255)
    pictures = {p.name: p for p in convert.dsb2018(RawFiles.under(tmp_path), "*")}
    assert np.array_equal(pictures["gray"].image, gray)
    assert pictures["red"].image.shape == (6, 8, 3)
    assert np.array_equal(pictures["red"].image[..., 0], gray + 1)
    assert np.count_nonzero(pictures["gray"].masks) == 5


def test_cellpose_layout_keeps_16_bits_and_takes_one_folder_in_natural_order(
    tmp_path: Path,
) -> None:
    deep = np.full((5, 7, 3), 40_000, np.uint16)
    masks = np.arange(35, dtype=np.uint16).reshape(5, 7)
    for place in ("train/2", "train/10", "test/3"):
        png(tmp_path / f"cyto/{place}_img.png", deep)
        png(tmp_path / f"cyto/{place}_masks.png", masks)
    png(tmp_path / "__MACOSX/train/._2_img.png", deep)
    pictures = list(convert.cellpose(RawFiles.under(tmp_path), "train/*"))
    assert [p.name for p in pictures] == ["2", "10"]
    assert pictures[0].image.dtype == np.uint16
    assert np.array_equal(pictures[0].image, deep)
    assert np.array_equal(pictures[0].masks, masks)
    (one,) = convert.cellpose(RawFiles.under(tmp_path), "test/3")
    assert one.name == "3"


def test_cellpose_image_without_masks_is_an_error_that_names_them(tmp_path: Path) -> None:
    png(tmp_path / "train/2_img.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(ImageError, match=r"2_masks\.png"):
        list(convert.cellpose(RawFiles.under(tmp_path), "train/*"))


def test_nothing_found_says_what_was_sought(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"train/\*_img"):
        list(convert.cellpose(RawFiles.under(tmp_path), "train/*"))


def coco(folder: Path, notes: Any) -> RawFiles:
    png(folder / "images/a.png", np.full((4, 6), 7, np.uint8))
    content = {"images": [{"id": 5, "file_name": "a.png"}], "annotations": notes}
    (folder / "cells.json").write_text(json.dumps(content))
    return RawFiles.under(folder)


SQUARE = {"id": 1, "image_id": 5, "iscrowd": 0, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}
RUNS = {"id": 2, "image_id": 5, "segmentation": {"size": [4, 6], "counts": [20, 4]}}
CROWD = {"id": 3, "image_id": 5, "iscrowd": 1, "segmentation": [[0, 0, 6, 0, 6, 4, 0, 4]]}


@pytest.mark.parametrize("keyed", [False, True])
def test_livecell_reads_polygons_and_runs_from_a_list_or_a_dictionary(
    keyed: bool, tmp_path: Path
) -> None:
    notes = [SQUARE, RUNS, CROWD]
    raw = coco(tmp_path, {str(n["id"]): n for n in notes} if keyed else notes)
    (picture,) = convert.livecell(raw, "cells.json")
    expected = np.zeros((4, 6), np.uint16)
    expected[1:3, 1:4] = 1
    expected[:, 5] = 2
    assert picture.name == "a"
    assert np.array_equal(picture.masks, expected)


def test_livecell_refuses_what_is_not_coco(tmp_path: Path) -> None:
    raw = coco(tmp_path, [])
    (tmp_path / "cells.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match="not COCO"):
        list(convert.livecell(raw, "cells.json"))
    raw = coco(tmp_path, [])
    (tmp_path / "images/a.png").unlink()
    with pytest.raises(DatasetError, match=r"a\.png"):
        list(convert.livecell(RawFiles.under(tmp_path), "cells.json"))


def test_compressed_runs_of_a_published_example() -> None:
    segment = {"size": [9, 10], "counts": "61X13mN000`0"}
    plain = {"size": [9, 10], "counts": [6, 1, 40, 4, 5, 4, 5, 4, 21]}
    cell = convert.rasterise(segment, (9, 10))
    assert np.array_equal(cell, convert.rasterise(plain, (9, 10)))
    assert np.count_nonzero(cell) == 13
    assert cell[6, 0]  # the seventh pixel down the first column


def compress(runs: list[int]) -> str:
    """Run lengths as a COCO string, from its description."""
    text = ""
    for k, run in enumerate(runs):
        value = run - runs[k - 2] if k > 2 else run
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr(48 + (bits | 0x20 if more else bits))
    return text


@given(st.lists(st.booleans(), min_size=60, max_size=60), st.integers(1, 400))
def test_runs_give_the_mask_back(pixels: list[bool], repeat: int) -> None:
    mask = np.repeat(np.reshape(pixels, (6, 10)), repeat, axis=0)
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:-1] != flat[:-2])
    runs = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    for counts in (runs, compress(runs)):
        segment = {"size": list(mask.shape), "counts": counts}
        assert np.array_equal(convert.rasterise(segment, mask.shape), mask)


@pytest.mark.parametrize("counts", [[3, 4], [30, -6], "61"])
def test_runs_that_do_not_fill_the_image_are_refused(counts: Any) -> None:
    with pytest.raises(DatasetError, match="do not fill"):
        convert.rasterise({"size": [4, 6], "counts": counts}, (4, 6))


@pytest.mark.parametrize(
    "image", [np.zeros((4, 6), np.float32), np.zeros((4, 6, 2), np.uint8), np.zeros((5, 6), "u1")]
)
def test_a_picture_that_a_png_cannot_hold_is_refused(image: np.ndarray, tmp_path: Path) -> None:
    picture = convert.Picture("a", image, np.zeros((4, 6), np.uint16))
    with pytest.raises(ImageError, match="a: "):
        convert.write_picture(picture, tmp_path / "i.png", tmp_path / "m.png")
    assert not list(tmp_path.iterdir())

"""Converters, on files as their publishers lay them out."""

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from scellseg_lib.datasets import convert, manifest
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.files.images import pixel_hash, read_pixels


def png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "folder"), [("bbbc010_elegans", "bbbc010"), ("dsb2018",) * 2])
def test_raw_samples_give_the_pixels_of_the_manifest(name, folder, real_data, tmp_path):
    card = manifest.load_manifest(name)
    entries = {entry.source or entry.name: entry for entry in card.files}
    converter = getattr(convert, f"convert_{card.converter}")
    pictures = list(converter(real_data / "raw_samples" / folder, "*"))
    assert len(pictures) == {"bbbc010_elegans": 3, "dsb2018": 2}[name]
    for picture in pictures:
        entry = entries[picture.name]
        convert.write_picture(picture, tmp_path / "i.png", tmp_path / "m.png")
        image, masks = read_pixels(tmp_path / "i.png"), read_pixels(tmp_path / "m.png")
        assert (pixel_hash(image), pixel_hash(masks)) == (entry.image_sha256, entry.masks_sha256)
        assert (image.shape, image.dtype) == (entry.shape, entry.dtype)


@pytest.mark.real_data
def test_livecell_polygons_have_the_areas_and_boxes_of_the_publisher(real_data):
    folder = real_data / "raw_samples" / "livecell"
    content = json.loads((folder / "livecell_coco_test.json").read_text())
    pictures = {p.name: p for p in convert.convert_livecell(folder, "livecell_coco_test.json")}
    assert len(pictures) == len(content["images"]) == 2
    for image in content["images"]:
        notes = [n for n in content["annotations"] if n["image_id"] == image["id"]]
        picture = pictures[Path(image["file_name"]).stem]
        assert picture.image.shape == picture.masks.shape == (image["height"], image["width"])
        assert picture.masks.max() == len(notes)
        errors = []
        for note in notes:
            outlines = [np.reshape(points, (-1, 2)) for points in note["segmentation"]]
            cell = convert.draw_polygons(outlines, picture.masks.shape)
            assert np.count_nonzero(cell) == pytest.approx(note["area"], rel=0.05, abs=8)
            ys, xs = np.nonzero(cell)
            x, y, width, height = note["bbox"]
            box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            errors.append(box - [x, y, x + width, y + height])
        # A pixel's centre taken for its corner would shift all boxes by half a pixel.
        assert np.abs(np.mean(errors, axis=0)).max() < 0.3
        assert np.abs(errors).max() < 4
    # As the first release converted them; COCO's own package gives other pixels.
    hashes = {p.name[:4]: pixel_hash(p.masks.astype("uint16"))[:16] for p in pictures.values()}
    assert hashes == {"A172": "3dabdaf28828e9c3", "Huh7": "a66ad31243691115"}


def test_overlaps_go_to_the_smaller_cell_whatever_the_order():
    big, small = np.zeros((2, 6, 8), bool)
    big[:, :5] = True
    small[2:4, 4:7] = True
    labels = convert.paint([big, small], (6, 8))
    assert np.array_equal(labels == 2, small)
    assert np.array_equal(labels == 1, big & ~small)
    assert np.array_equal(convert.paint([small, big], (6, 8)), np.choose(labels, [0, 2, 1]))
    assert not convert.paint([], (3, 4)).any()


def test_bbbc010_orders_worms_by_area_and_ignores_the_fluorescence(tmp_path):
    image = np.arange(48, dtype=np.uint16).reshape(6, 8)
    (tmp_path / "images").mkdir()
    for wave in ("w1", "w2"):
        file = tmp_path / "images" / f"1649_B05_{wave}_29ECA697.tif"
        file.write_bytes(imagecodecs.tiff_encode(image + (wave == "w1")))
    worms = np.zeros((2, 6, 8), np.uint8)
    worms[0, 0, :3] = worms[1, 0:4, 2] = 255
    for k, worm in enumerate(worms):
        png(tmp_path / "masks" / f"B05_{k + 1:02d}_ground_truth.png", worm)
    (picture,) = convert.convert_bbbc010(tmp_path, "B05")
    expected = np.zeros((6, 8), np.uint16)
    expected[0:4, 2], expected[0, :3] = 1, 2
    assert picture.name == "B05"
    assert np.array_equal(picture.image, image)
    assert np.array_equal(picture.masks, expected)


def test_dsb2018_keeps_colours_and_drops_equal_planes(tmp_path):
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for name, planes in {"gray": [gray] * 3, "red": [gray + 1, gray, gray]}.items():
        folder = tmp_path / "stage1_train" / name
        png(folder / f"images/{name}.png", np.stack([*planes, np.full_like(gray, 255)], axis=-1))
        png(folder / "masks/1.png", (gray < 5).astype(np.uint8) * 255)
    pictures = {p.name: p for p in convert.convert_dsb2018(tmp_path, "*")}
    assert np.array_equal(pictures["gray"].image, gray)
    assert pictures["red"].image.shape == (6, 8, 3)
    assert np.array_equal(pictures["red"].image[..., 0], gray + 1)
    assert np.count_nonzero(pictures["gray"].masks) == 5
    png(tmp_path / "stage1_train/gray/masks/1.png", np.ones((8, 6), np.uint8))
    with pytest.raises(ImageError, match="of 8 x 6 px"):
        list(convert.convert_dsb2018(tmp_path, "gray"))


def test_cellpose_layout_keeps_16_bits_and_natural_order(tmp_path):
    deep = np.full((5, 7, 3), 40_000, np.uint16)
    masks = np.arange(35, dtype=np.uint16).reshape(5, 7)
    for place in ("train/2", "train/10", "test/3"):
        png(tmp_path / f"cyto/{place}_img.png", deep)
        png(tmp_path / f"cyto/{place}_masks.png", masks)
    png(tmp_path / "__MACOSX/train/._2_img.png", deep)
    png(tmp_path / "bare/2_img.png", deep)
    pictures = list(convert.convert_cellpose(tmp_path, "train/*"))
    assert [p.name for p in pictures] == ["2", "10"]
    assert np.array_equal(pictures[0].image, deep)
    assert np.array_equal(pictures[0].masks, masks)
    assert [p.name for p in convert.convert_cellpose(tmp_path, "test/3")] == ["3"]
    for asked, missing in (("bare/*", r"bare/2_masks\.\*"), ("trian/*", r"trian/\*_img\.\*")):
        with pytest.raises(DatasetError, match=f"no file '{missing}'"):
            list(convert.convert_cellpose(tmp_path, asked))


SQUARE = {"image_id": 5, "iscrowd": 0, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}
COLUMN = {"image_id": 5, "segmentation": [[5, 0, 6, 0, 6, 2, 5, 2], [5, 2, 6, 2, 6, 4, 5, 4]]}
CROWD = {"image_id": 5, "iscrowd": 1, "segmentation": [[0, 0, 6, 0, 6, 4, 0, 4]]}
RUNS = {"image_id": 5, "segmentation": {"size": [4, 6], "counts": [20, 4]}}
DRAWN = [SQUARE, COLUMN, CROWD]


def coco(folder: Path, notes) -> Path:
    content = {"images": [{"id": 5, "file_name": "a.png"}], "annotations": notes}
    (folder / "cells.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("notes", [DRAWN, dict(enumerate(DRAWN))])
def test_livecell_reads_polygons_from_a_list_or_a_dictionary(notes, tmp_path):
    png(tmp_path / "images/a.png", np.full((4, 6), 7, np.uint8))
    (picture,) = convert.convert_livecell(coco(tmp_path, notes), "cells.json")
    expected = np.zeros((4, 6), np.uint16)
    expected[1:3, 1:4], expected[:, 5] = 1, 2
    assert picture.name == "a"
    assert np.array_equal(picture.masks, expected)


def test_livecell_refuses_what_it_cannot_read(tmp_path):
    wrong = (RUNS, "not COCO JSON with polygons"), ({}, "not COCO"), (SQUARE, r"no file 'a\.png'")
    for note, message in wrong:
        with pytest.raises(DatasetError, match=message):
            list(convert.convert_livecell(coco(tmp_path, [note]), "cells.json"))


def test_a_picture_that_a_png_cannot_hold_is_refused(tmp_path):
    shapes = [((4, 6), np.float32, 1), ((4, 6, 2), np.uint8, 1), ((5, 6), np.uint8, 1)]
    for shape, dtype, highest in [*shapes, ((4, 6), np.uint8, 70_000)]:
        picture = convert.Picture("a", np.zeros(shape, dtype), np.full((4, 6), highest))
        with pytest.raises(ImageError, match="PNG"):
            convert.write_picture(picture, tmp_path / "i.png", tmp_path / "m.png")
    assert not list(tmp_path.iterdir())

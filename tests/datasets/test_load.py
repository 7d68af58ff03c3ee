"""Data sets by name and from folders."""

import csv
import json
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile

from scellseg_lib.augment import prepare, sources_hash
from scellseg_lib.datasets import load, manifest, synthetic
from scellseg_lib.datasets.load import DatasetNotHere, find_readable, load_dataset, load_folder
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.files.images import write_labels
from scellseg_lib.files.seg_npy import write_seg
from scellseg_lib.samples import Dataset, Sample
from tests.corpus import expect
from tests.datasets.test_manifest import LISTED
from tests.files.test_layout import make

SHAPE = (6, 8)


def write(folder: Path, *names: str) -> Path:
    """Files of one constant value each: the number of the name in the order given."""
    for value, name in enumerate(names):
        save = write_seg if name.endswith("_seg.npy") else write_labels
        save(folder / name, np.full(SHAPE, value))
    return folder


def write_part(folder: Path, image: np.ndarray, masks: np.ndarray, part: object = None) -> Path:
    for kind, pixels in (("img", image), ("masks", masks)):
        write_labels(folder / f"a_{kind}.png", pixels)
    part = part or {"top": 6, "left": 10, "height": 20, "width": 32}
    (folder / "a_region.json").write_text(json.dumps(part))
    return folder


# Files of a folder, and the splits of their images.
LAYOUT = "shot/w10_img.png shot/w10_masks.png shot/w9_img.tif shot/w9_masks.png "
LAYOUT += "query/w11_img.png query/w2_img.png query/w2_masks.tif query/notes_gfp.png"
SPLITS = [
    (LAYOUT, "w9:shot w10:shot notes_gfp:query w2:query w11:query"),
    ("a_img.png a_masks.png b_img.png c_img.TIF a_flows.tif", "a:shot b:query c:query"),
    ("w2.tif w10.ome.tif w2_masks.png w2_flows.tif .x.png", "w2:shot w10:query"),
    # Of each image its masks; if it has none those that Cellpose has saved, then its own file.
    ("a.png b.png a_cp_masks.png b_masks.png", "a:shot b:shot"),
    ("a.png b.ome.tif c.png a_seg.npy b.ome_seg.npy .c_seg.npy", "a:shot b:shot c:query"),
    ("a.png b.png c_img.png a_seg.npy a_masks.png c_cp_masks.png", "a:shot b:query c:shot"),
    ("query/a_img.png query/a_img_seg.npy", "a:query"),
]


@pytest.mark.parametrize(("names", "expected"), SPLITS)
def test_images_with_masks_are_shots(names, expected, tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    found = load_folder(write(tmp_path, *names.split()))
    assert [f"{one.name}:{one.split}" for one in found] == expected.split()
    assert found.name == tmp_path.name
    assert all(one.masks.max() > 0 for one in found if one.read_masks)
    assert all(one.read_masks for one in found if one.split == "shot")


BARE = "shot/a_img.png shot/b_img.png shot/b_masks.png shot/c_img.png"
ORPHANS = "{0}a_img.png {0}a_masks.png {0}x_masks.png {0}y_masks.tif"
OPEN = [
    ("", "no images"),
    ("shot/.hidden.png", "no images"),
    (BARE, r"images without masks: a_img\.png, c_img\.png"),
    *((ORPHANS.format(p), r"image: x_masks\.png, y_masks\.tif") for p in ("", "shot/", "query/")),
    ("a_img.png z_seg.npy", r"masks without an image: z_seg\.npy"),
    ("a_img.png a_masks.png a_img.tif", r"of the same name: a_img\.png, a_img\.tif"),
    ("a_img.png a_masks.png a_masks.tif", r"of the same name: a_masks\.png, a_masks\.tif"),
    ("a_img.png a_img_seg.npy a_seg.npy", r"name: a_img_seg\.npy, a_seg\.npy"),
]


@pytest.mark.parametrize(("names", "message"), OPEN)
def test_folders_that_leave_something_open(names, message, tmp_path):
    expect(lambda: load_folder(write(tmp_path, *names.split())), DatasetError, message)
    expect(lambda: load_folder(tmp_path / "absent"), DatasetError, "no such folder")


RECTANGLES = [
    ({"top": 0, "left": 0, "height": 9}, "this is no rectangle in pixels .width: Field required"),
    ({"top": 0, "left": -1, "height": 9, "width": 9.5}, "left: .*; width: .* integer"),
    ({"top": 32, "left": 0, "height": 9, "width": 9}, "beyond the image of 40 x 50 px"),
]


def test_of_a_shot_that_is_annotated_in_part_nothing_else_is_ever_seen(tmp_path):
    image, masks = np.random.default_rng(0).integers(0, 99, (40, 50)), np.zeros((40, 50), int)
    masks[:5, :5], masks[8:16, 12:20], masks[20:30, 38:48] = 1, 2, 3  # the last across the edge
    inside, place = np.zeros(image.shape, bool), write(tmp_path, "query/a_img.png") / "shot"
    inside[6:26, 10:42], hashes = True, []
    for shown, drawn in ((image, masks), (np.where(inside, image, 9 * image), inside * masks)):
        (part,) = load_folder(write_part(place, shown, drawn).parent).shot
        hashes.append(sources_hash(prepare([part])))
    assert hashes[0] == hashes[1]
    assert (part.image.shape[1:], np.bincount(part.masks.flat)[1:].tolist()) == ((20, 32), [64, 24])
    (place / "a_region.json").rename(tmp_path / "query" / "a_region.json")
    assert [one.image.shape[1:] for one in load_folder(tmp_path)] == [(40, 50), SHAPE]
    write_part(place, image, masks[:35])  # it would fit into both
    with pytest.raises(ImageError, match=r"image is of 40 x 50 px, its masks of 35 x 50 px"):
        _ = load_folder(tmp_path).shot[0].image
    for rectangle, words in RECTANGLES:
        write_part(place, image, masks, rectangle)
        with pytest.raises(ImageError, match=rf"a_region\.json: .*{words}.*Remove the file, and"):
            _ = load_folder(tmp_path).shot[0].masks


def test_channels_and_axes_reach_the_reader(tmp_path):
    pages = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "a_img.tif", pages, metadata=None, photometric="minisblack")
    expect(lambda: load_folder(tmp_path)[0].image, ImageError, "does not say what its pages are")
    said = "3 channels that differ, and none is named"
    expect(lambda: load_dataset(tmp_path, axes="CYX")[0].image, ImageError, said)
    named = load_dataset(str(tmp_path), channels=("2", "0"), axes="CYX")
    assert named.channels == ("2", "0")
    np.testing.assert_array_equal(named[0].image, pages[[2, 0]])


def test_images_that_cannot_be_read_are_told_apart():
    broken = Mock(side_effect=ImageError("it is cut", remedy="Get it again."))
    read = Mock(return_value=np.zeros((2, *SHAPE)))
    every = Sample("good", read, lambda: read()[0]), Sample("bad", broken)
    images = Dataset("some", "Some images", "CC0", (*every, Sample("torn", read, broken)))
    good, wrong = find_readable(images)
    assert [s.name for s in good] == ["good", "torn"]
    assert [str(one) for one in wrong] == ["image bad: it is cut. Get it again."]
    assert [s.name for s in find_readable(images, masks=True)[0]] == ["good"]
    assert "image" not in vars(good[0])  # no pixels are kept


def test_a_name_is_one_of_those_known_and_says_itself_which_planes():
    known = "'bbbc'.*bbbc010_elegans.*synthetic_worms"
    expect(lambda: load_dataset("bbbc"), DatasetError, known)
    expect(lambda: load.load_pretraining_subset("all"), DatasetError, "'all'.*one.*general")
    for options in ({"channels": ("red", "none")}, {"axes": "CYX"}, {"page": 0}):
        with pytest.raises(DatasetError, match=r"bbbc010_elegans.* says itself which planes to"):
            load_dataset("bbbc010_elegans", **options)  # type: ignore[arg-type]


def test_a_set_without_files_says_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    needed = r"`scellseg data fetch bbbc010_elegans`.*SCELLSEG_DATA"
    with pytest.raises(DatasetNotHere, match=rf"lacks 98 of its files \(.*{needed}") as caught:
        load_dataset("bbbc010_elegans")
    assert caught.value.dataset == "bbbc010_elegans"
    with pytest.raises(DatasetNotHere, match=r"lacks all its files.*data fetch cellpose"):
        load_dataset("cellpose")  # its files are found, not listed


def test_images_of_another_size_than_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    entries = manifest.load_manifest("bbbc010_elegans").entries()
    for file in (file for entry in entries for file in (entry.image, entry.masks)):
        write(tmp_path / "bbbc010_elegans", file)
    worms = load_dataset("bbbc010_elegans").without_masks()
    expect(lambda: worms[0].image, ImageError, "6 x 8 px, the manifest of 520 x 696 px")
    assert worms.licence
    # The same name as a path is the folder.
    assert not load_dataset(Path("bbbc010_elegans")).licence


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["bbbc010_elegans", "t98g_phase", "hela_phase_nuclei"])
def test_evaluation_sets(real_data, name):
    found, channels = load_dataset(name), ("green", "red") if "hela" in name else ("gray", "none")
    assert {"shot": len(found.shot), "query": len(found.query)} == LISTED[name]
    assert found.channels == channels
    with (real_data / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = {r["image"]: r for r in csv.DictReader(file) if r["dataset"] == name}
    for one in (found.shot[0], found.query[0]):
        row = rows[f"{one.name}_img.png"]
        assert one.image.shape == (2, int(row["height"]), int(row["width"]))
        assert one.masks.max() == int(row["cells"])
        assert one.diameter == pytest.approx(float(row["median_diameter"]), abs=0.051)
        assert (one.image[1].max() > 0) == (channels[1] != "none")


def test_synthetic_subsets_are_nested_and_hold_no_kind_that_is_tested():
    names = [name for name in manifest.load_subsets() if name.startswith("synthetic")]
    images = [{s.name for part in load.load_pretraining_subset(n) for s in part} for n in names]
    assert all(less < more for less, more in pairwise(images))
    assert {name.split("_")[0] for name in images[-1]} == {*synthetic.KINDS} - {"worms", "phase"}
    assert images[-1] < {sample.name for sample in load_dataset("synthetic_pretrain")}


def test_the_papers_subsets_are_splits_of_cellpose(tmp_path, monkeypatch):
    for number in (10, 88, 89, 400):
        make(tmp_path / "cellpose", f"train_{number:03d}_img.png", f"train_{number:03d}_masks.png")
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    counts = [len(load.load_pretraining_subset(name)[0]) for name in ("Sneuro", "Sfluor", "Smicro")]
    assert counts == [2, 3, 4]

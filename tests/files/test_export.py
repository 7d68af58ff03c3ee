"""What other programs read is the cells that were written."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import roifile
import tifffile
from hypothesis import HealthCheck, given, settings
from matplotlib.path import Path as Polygon
from typer.testing import CliRunner

from scellseg_lib.cli import app
from scellseg_lib.errors import ImageError, ScellsegError
from scellseg_lib.files import export
from scellseg_lib.files import images as readers
from scellseg_lib.files import outlines as rois
from scellseg_lib.files.seg_npy import read_seg, write_seg
from tests.files.test_outlines import filled, small


def cells() -> np.ndarray:
    """A plain cell, one with a hole, one in two pieces; label 3 is missing."""
    masks = np.zeros((12, 14), np.int32)
    masks[1:4, 1:6] = 1
    masks[5:10, 1:6] = 2
    masks[7, 3] = 0
    masks[1:3, 8:10] = masks[6:11, 9:13] = 4
    return masks


def imagej(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """Labels that ImageJ would fill: even-odd, a pixel being in where its middle is."""
    back = np.zeros(shape, np.int32)
    for roi in roifile.roiread(file):
        rings = roi.coordinates(multi=True)
        rings = rings if isinstance(rings, list) else [rings]
        back[filled([np.asarray(ring) for ring in rings], shape)] = int(roi.name)
    return back


def test_imagej_fills_the_very_pixels(tmp_path: Path) -> None:
    rois.write_imagej(tmp_path / "rois.zip", cells())
    np.testing.assert_array_equal(imagej(tmp_path / "rois.zip", cells().shape), cells())
    with zipfile.ZipFile(tmp_path / "rois.zip") as archive:
        assert archive.namelist() == ["00001.roi", "00002.roi", "00004.roi"]
    kinds = [(r.roitype.name, r.composite) for r in roifile.roiread(tmp_path / "rois.zip")]
    assert kinds == [("TRACED", False), ("RECT", True), ("RECT", True)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(small.filter(np.any))
def test_imagej_fills_the_pixels_of_any_cells(tmp_path: Path, masks: np.ndarray) -> None:
    rois.write_imagej(tmp_path / "rois.zip", masks)
    np.testing.assert_array_equal(imagej(tmp_path / "rois.zip", masks.shape), masks)


def test_geojson_is_polygons_with_holes_and_pieces(tmp_path: Path) -> None:
    rois.write_geojson(tmp_path / "a.geojson", cells(), {1: "worm", 4: "debris"})
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    one, two, four = features
    assert [f["geometry"]["type"] for f in features] == ["Polygon", "Polygon", "MultiPolygon"]
    assert [f["properties"]["name"] for f in features] == ["1", "2", "4"]
    assert one["properties"]["classification"]["name"] == "worm"
    assert "classification" not in two["properties"]
    colours = [f["properties"]["classification"]["color"] for f in (one, four)]
    assert colours[0] != colours[1]
    assert len(two["geometry"]["coordinates"]) == 2  # with its hole
    back = np.zeros(cells().shape, np.int32)
    for feature in features:
        shape = feature["geometry"]
        several = shape["type"] == "MultiPolygon"
        for rings in shape["coordinates"] if several else [shape["coordinates"]]:
            assert all(ring[0] == ring[-1] for ring in rings)
            inside = filled([np.array(ring[:-1]) for ring in rings], back.shape)
            back[inside] = int(feature["properties"]["name"])
    np.testing.assert_array_equal(back, cells())


def test_half_pixels_are_those_of_imagej(tmp_path: Path) -> None:
    """Pixel (row 2, column 5) is the square from (5, 2) to (6, 3), not one around (5, 2)."""
    masks = np.zeros((4, 8), np.int32)
    masks[2, 5] = 1
    rois.write_imagej(tmp_path / "a.zip", masks)
    roi = roifile.roiread(tmp_path / "a.zip")[0]
    assert (roi.left, roi.top, roi.right, roi.bottom) == (5, 2, 6, 3)
    corners = {tuple(corner) for corner in roi.coordinates().tolist()}
    assert corners == {(5, 2), (6, 2), (6, 3), (5, 3)}


@pytest.mark.real_data
def test_imagej_fills_the_worms_of_bbbc010(real_data: Path, tmp_path: Path) -> None:
    masks = readers.read_masks(next((real_data / "bbbc010_elegans").rglob("*_masks.png")))
    rois.write_imagej(tmp_path / "rois.zip", masks)
    np.testing.assert_array_equal(imagej(tmp_path / "rois.zip", masks.shape), masks)


def test_outlines_as_text_say_what_they_lose(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cells 2 are lost"):
        rois.write_outlines(tmp_path / "a.txt", cells())
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert len(lines) == 4  # one of two pieces
    ring = np.array(lines[0].split(","), int).reshape(-1, 2)
    assert Polygon(ring).contains_points([[1.5, 1.5], [5.5, 3.5], [6.5, 3.5]]).tolist() == [
        True,
        True,
        False,
    ]


def test_measurements_by_arithmetic() -> None:
    planes = np.arange(12 * 14).reshape(12, 14), np.full((12, 14), 7)
    image = np.stack(planes, axis=2).astype(np.uint16)
    frame = export.measurements(cells(), image, ["worm", "dye"]).set_index("label")
    assert frame["area"].to_dict() == {1: 15, 2: 24, 4: 24}
    assert frame.loc[1, ["centroid-0", "centroid-1"]].tolist() == [2, 3]
    assert frame.loc[1, "intensity_mean_worm"] == 2 * 14 + 3
    assert frame.loc[4, ["intensity_min_dye", "intensity_std_dye"]].tolist() == [7, 0]
    assert list(export.measurements(cells())["label"]) == [1, 2, 4]
    assert "intensity_mean_0" in export.measurements(cells(), image)


def test_measurements_are_a_table(tmp_path: Path) -> None:
    whole = readers.relabel(cells())
    readers.write_labels(tmp_path / "a_masks.png", whole)
    export.export(tmp_path / "a_masks.png", tmp_path, ["table"])
    found = pd.read_csv(tmp_path / "a_measurements.csv")
    pd.testing.assert_frame_equal(found, export.measurements(whole), check_exact=False)


@pytest.mark.parametrize(
    ("image", "channels", "message"),
    [
        (np.zeros((5, 5)), [], "image is of 5 x 5 px, its masks of 12 x 14 px"),
        (np.zeros((12, 14, 2)), ["a"], "2 channels, 1 are named"),
    ],
)
def test_what_does_not_fit_is_refused(image, channels, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        export.measurements(cells(), image, channels)


def test_single_cells_keep_dtype_and_channels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 60000, (12, 14, 3), dtype=np.uint16)
    crops = dict(export.single_cells(cells(), image))
    assert [crop.shape for crop in crops.values()] == [(3, 5, 3), (5, 5, 3), (10, 5, 3)]
    np.testing.assert_array_equal(crops[1], image[1:4, 1:6])
    alone = dict(export.single_cells(cells(), image, keep_background=False))
    assert not alone[2][2, 2].any()  # its hole
    np.testing.assert_array_equal(alone[4][0, 4], [0, 0, 0])
    tifffile.imwrite(tmp_path / "A.tif", image)
    readers.write_labels(tmp_path / "A_masks.png", cells())
    given = {"images": tmp_path / "A.tif"}
    assert export.export(tmp_path / "A_masks.png", tmp_path, ["cells"], **given).written == 1
    back = tifffile.imread(tmp_path / "A_cells" / "A_cells_00003.tif")
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, crops[4])


@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("n_channels", [None, 2, 3, 4, 5])
def test_images_of_cells_are_read_as_they_were(tmp_path: Path, n_channels, kind: str) -> None:
    """Channels are those of pixels, not pages, so that no program asks what the pages are."""
    shape = (12, 14) if n_channels is None else (12, 14, n_channels)
    image = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    layout = {} if n_channels in (None, 3) else {"planarconfig": "contig"}
    colours = "rgb" if n_channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "A.tif", image, photometric=colours, **layout)
    readers.write_labels(tmp_path / "A_masks.png", cells())
    given = {"images": tmp_path / "A.tif"}
    done = export.export(tmp_path / "A_masks.png", tmp_path, ["cells"], **given)
    assert (done.written, done.failed) == (1, {})
    for label, box in ((1, np.s_[1:4, 1:6]), (2, np.s_[5:10, 1:6]), (3, np.s_[1:11, 8:13])):
        back = readers.read_pixels(tmp_path / "A_cells" / f"A_cells_{label:05d}.tif")
        assert back.dtype == image.dtype
        np.testing.assert_array_equal(back, image[box])


def test_single_cells_of_a_side_go_beyond_the_edge() -> None:
    image = np.full((12, 14), 9, np.uint8)
    crops = dict(export.single_cells(cells(), image, side=11))
    assert {crop.shape for crop in crops.values()} == {(11, 11)}
    # Rows -3 to 7 and columns -2 to 8 of cell 1: those before 0 are not in the image.
    assert (crops[1][3:, 2:] == 9).all()
    assert crops[1].sum() == 9 * 8 * 9
    with pytest.raises(ImageError, match=r"1 of 3 cells do not fit into 6 x 6 px: 4.*side=10"):
        list(export.single_cells(cells(), image, side=6))


def test_no_cells_are_files_without_cells(tmp_path: Path) -> None:
    nothing = np.zeros((4, 4), np.int32)
    rois.write_imagej(tmp_path / "a.zip", nothing)
    rois.write_geojson(tmp_path / "a.geojson", nothing)
    rois.write_outlines(tmp_path / "a.txt", nothing)
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == []
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []
    assert (tmp_path / "a.txt").read_text() == ""
    assert len(export.measurements(nothing)) == 0


def plate(folder: Path) -> Path:
    """Three label files beside their images, one of them damaged."""
    folder.mkdir()
    for name in "ABC":
        tifffile.imwrite(folder / f"{name}_img.tif", np.full((12, 14), 9, np.uint16))
        tifffile.imwrite(folder / f"{name}_masks.tif", cells().astype(np.uint16))
    (folder / "B_masks.tif").write_bytes((folder / "B_masks.tif").read_bytes()[:100])
    return folder


def test_a_folder_is_exported_but_for_a_damaged_file(tmp_path: Path) -> None:
    folder, out = plate(tmp_path / "plate"), tmp_path / "out"
    formats = [name for name in export.FORMATS if name != "outlines"]
    done = export.export(folder, out, formats, images=folder)
    assert (done.written, done.already, len(done.failed)) == (14, 0, 1)
    assert "B_masks.tif" in str(done.failed["B"])
    names = {f"{name}{export.FORMATS[kind]}" for name in "AC" for kind in formats}
    assert {file.name for file in out.iterdir()} == names
    assert len(list((out / "A_cells").iterdir())) == 3
    assert pd.read_csv(out / "C_measurements.csv")["intensity_mean_0"].tolist() == [9, 9, 9]
    assert readers.read_masks(out / "A_masks.png").max() == 3  # numbered without gaps
    tifffile.imwrite(folder / "B_masks.tif", cells().astype(np.uint16))
    again = export.export(folder, out, formats, images=folder)
    assert (again.written, again.already, again.failed) == (7, 14, {})
    (out / "A_cells" / "A_cells_00001.tif").unlink()
    anew = export.export(folder, out, ["cells"], images=folder, side=20, overwrite=True)
    assert (anew.written, len(list((out / "A_cells").iterdir()))) == (3, 3)


def test_cellposes_file_has_the_image_with_it(tmp_path: Path) -> None:
    folder = plate(tmp_path / "plate")
    (folder / "B_masks.tif").unlink()
    export.export(folder, tmp_path, ["cellpose"], images=folder)
    seg = read_seg(tmp_path / "C_seg.npy")
    np.testing.assert_array_equal(seg["masks"], readers.relabel(cells()))
    np.testing.assert_array_equal(seg["img"], np.full((12, 14), 9))
    assert seg["filename"] == "C_img.tif"
    export.export(folder, tmp_path / "bare", ["cellpose"])
    assert not {"img", "filename"} & read_seg(tmp_path / "bare" / "A_seg.npy").keys()


def test_a_folder_that_cellpose_has_saved_in(tmp_path: Path) -> None:
    """Its images are no label files, and of one name the masks that stand alone come first."""
    for name in ("A", "B"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((12, 14), 9, np.uint16))
    write_seg(tmp_path / "A_seg.npy", cells())
    write_seg(tmp_path / "B_seg.npy", cells())
    readers.write_labels(tmp_path / "B_cp_masks.png", (cells() == 2).astype(int))
    done = export.export(tmp_path, tmp_path / "out", ["table", "tiff"], images=tmp_path)
    assert (done.written, done.failed) == (4, {})
    counts = {p.name: len(pd.read_csv(p)) for p in (tmp_path / "out").glob("*.csv")}
    assert counts == {"A_measurements.csv": 3, "B_measurements.csv": 1}


LIST = "label,area,class,note\n4,24,debris,\n1,15,NA,it bends\n2,24,,\n"


def listed(folder: Path, text: str = LIST) -> Path:
    """Masks with a list of their cells, of which label 3 is missing."""
    folder.mkdir()
    tifffile.imwrite(folder / "A_masks.tif", cells().astype(np.uint16))
    (folder / "A_cells.csv").write_text(text)
    return folder / "A_masks.tif"


def test_classes_and_notes_go_with_their_cells(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(listed(tmp_path / "plate"), out, ["geojson", "table"])
    table = pd.read_csv(out / "A_measurements.csv", keep_default_na=False).set_index("label")
    assert table["area"].to_dict() == {1: 15, 2: 24, 3: 24}
    assert table["class"].to_dict() == {1: "NA", 2: "", 3: "debris"}  # NA is a name
    assert table["note"].to_dict() == {1: "it bends", 2: "", 3: ""}
    features = json.loads((out / "A.geojson").read_text())["features"]
    kinds = [f["properties"].get("classification", {}).get("name") for f in features]
    assert kinds == ["NA", None, "debris"]


def test_classes_go_with_cellposes_file(tmp_path: Path) -> None:
    write_seg(tmp_path / "A_img_seg.npy", cells())
    (tmp_path / "A_cells.csv").write_text(LIST)
    export.export(tmp_path / "A_img_seg.npy", tmp_path, ["table"])
    found = pd.read_csv(tmp_path / "A_measurements.csv", keep_default_na=False)
    assert found["class"].tolist() == ["NA", "", "debris"]
    assert (tmp_path / "A_cells.csv").read_text() == LIST  # the table has another name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,class,note\n1,a,\n2,b,\n", "the list has 2 cells, their masks 3"),
        ("label,class\n1,a\n2,b\n3,c\n", "note"),
        ("label,class,note\none,a,\n2,b,\n3,c,\n", "one"),
        ("", "No columns"),
    ],
)
def test_a_list_that_does_not_fit_is_told_of(tmp_path: Path, text: str, said: str) -> None:
    masks = listed(tmp_path / "plate", text)
    done = export.export(masks, tmp_path / "out", ["geojson", "imagej"])
    assert done.written == 0
    assert re.search(f"A.*{said}", str(done.failed["A"]))
    assert not (tmp_path / "out").exists()


def test_cells_that_do_not_fit_leave_no_folder(tmp_path: Path) -> None:
    folder = plate(tmp_path / "plate")
    done = export.export(folder / "A_masks.tif", tmp_path, ["cells"], images=folder, side=4)
    assert "do not fit into 4 x 4 px" in str(done.failed["A"])
    assert [file.name for file in tmp_path.iterdir()] == ["plate"]


@pytest.mark.parametrize(
    ("formats", "images", "message"),
    [
        (["roi"], None, r"no format 'roi'.*imagej"),
        (["cells"], None, "cells are cut out of images"),
        (["table"], "A_img.tif", None),
        (["table"], "elsewhere", "masks without an image: A"),
    ],
)
def test_what_cannot_be_exported(tmp_path: Path, formats, images, message) -> None:
    folder = plate(tmp_path / "plate")
    (folder / "elsewhere").mkdir()
    tifffile.imwrite(folder / "elsewhere" / "Z.tif", np.zeros((4, 4), np.uint8))
    given = {"images": folder / images if images else None}
    if message is None:
        assert export.export(folder / "A_masks.tif", tmp_path, formats, **given).written == 1
        return
    with pytest.raises(ScellsegError, match=message):
        export.export(folder / "A_masks.tif", tmp_path, formats, **given)


@pytest.mark.parametrize("kind", export.FORMATS)
def test_every_format_by_the_command(tmp_path: Path, kind: str) -> None:
    """Out of Cellpose's file, with an image of two channels."""
    pixels = np.arange(12 * 14 * 2, dtype=np.uint16).reshape(12, 14, 2)
    tifffile.imwrite(tmp_path / "A.tif", pixels, planarconfig="contig", photometric="minisblack")
    write_seg(tmp_path / "A_seg.npy", cells())
    asked = ["export", str(tmp_path / "A_seg.npy"), "--to", kind, "--channels", "worm,dye"]
    found = CliRunner().invoke(app, [*asked, "--images", str(tmp_path / "A.tif"), "--cut-out"])
    assert found.exit_code == 0, found.output
    assert "1 written" in found.stdout
    file = tmp_path / "exported" / f"A{export.FORMATS[kind]}"
    masks = readers.relabel(cells())
    if kind in ("tiff", "png", "cellpose"):
        np.testing.assert_array_equal(readers.read_masks(file), masks)
    elif kind == "imagej":
        np.testing.assert_array_equal(imagej(file, masks.shape), masks)
    elif kind == "geojson":
        assert len(json.loads(file.read_text())["features"]) == 3
    elif kind == "outlines":
        assert len(file.read_text().splitlines()) == 4
        assert "cells 2 are lost" in found.stderr
    elif kind == "table":
        assert pd.read_csv(file)["intensity_max_dye"].tolist() == [
            pixels[masks == label, 1].max() for label in (1, 2, 3)
        ]
    else:
        crop = readers.read_pixels(file / "A_cells_00002.tif")
        np.testing.assert_array_equal(crop, pixels[5:10, 1:6] * (masks == 2)[5:10, 1:6, None])


def test_label_images_are_compressed(tmp_path: Path) -> None:
    masks = np.repeat(np.repeat(readers.relabel(cells()), 20, axis=0), 20, axis=1)
    for name in ("a.tif", "a.png"):
        readers.write_labels(tmp_path / name, masks)
        assert (tmp_path / name).stat().st_size < masks.size * 2 / 20
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].compression.name == "ADOBE_DEFLATE"


def test_the_command_exports_and_lists_what_failed(tmp_path: Path) -> None:
    folder = plate(tmp_path / "plate")
    asked = ["export", str(folder), "--to", "imagej", "--to", "cells", "--images", str(folder)]
    found = CliRunner().invoke(app, [*asked, "--side", "12"])
    assert found.exit_code == 1
    assert "4 written, 0 there already" in found.stdout
    assert "1 label files failed" in found.stderr
    assert (folder / "exported" / "C_rois.zip").is_file()
    wrong = CliRunner().invoke(app, ["export", str(folder / "A_masks.tif"), "--to", "cells"])
    assert wrong.exit_code == 1
    assert "Say where they are: --images" in wrong.stderr

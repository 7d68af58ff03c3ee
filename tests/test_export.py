"""What other programs read is the cells that were written."""

from __future__ import annotations

import json
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

from scellseg_lib import export, readers, rois
from scellseg_lib.cli import app
from scellseg_lib.errors import ImageError, ScellsegError
from tests.test_outlines import filled, small


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
    found = pd.read_csv(tmp_path / "a_cells.csv")
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


def test_single_cells_of_a_side_go_beyond_the_edge() -> None:
    image = np.full((12, 14), 9, np.uint8)
    crops = dict(export.single_cells(cells(), image, side=11))
    assert {crop.shape for crop in crops.values()} == {(11, 11)}
    # Rows -3 to 7 and columns -2 to 8 of cell 1: those before 0 are not in the image.
    assert (crops[1][3:, 2:] == 9).all()
    assert crops[1].sum() == 9 * 8 * 9
    with pytest.raises(ImageError, match=r"cell 4 of 3 do not fit into 6 x 6 px.*side=10"):
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
    assert (done.written, done.already, len(done.failed)) == (12, 0, 1)
    assert "B_masks.tif" in done.failed[0]
    names = {f"{name}{export.FORMATS[kind]}" for name in "AC" for kind in formats}
    assert {file.name for file in out.iterdir()} == names
    assert len(list((out / "A_cells").iterdir())) == 3
    assert pd.read_csv(out / "C_cells.csv")["intensity_mean_0"].tolist() == [9, 9, 9]
    assert readers.read_masks(out / "A_masks.png").max() == 3  # numbered without gaps
    tifffile.imwrite(folder / "B_masks.tif", cells().astype(np.uint16))
    again = export.export(folder, out, formats, images=folder)
    assert (again.written, again.already, again.failed) == (6, 12, [])
    (out / "A_cells" / "A_cells_00001.tif").unlink()
    anew = export.export(folder, out, ["cells"], images=folder, side=20, overwrite=True)
    assert (anew.written, len(list((out / "A_cells").iterdir()))) == (3, 3)


def test_cells_that_do_not_fit_leave_no_folder(tmp_path: Path) -> None:
    folder = plate(tmp_path / "plate")
    done = export.export(folder / "A_masks.tif", tmp_path, ["cells"], images=folder, side=4)
    assert "do not fit into 4 x 4 px" in done.failed[0]
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
    assert "Say where: --images" in wrong.stderr

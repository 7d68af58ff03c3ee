"""What other programs read is the cells that were written."""

import json
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
import roifile
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import label
from skimage.measure import grid_points_in_poly

from scellseg_lib.errors import ImageError, ScellsegError, ScellsegWarning, SideTooSmall
from scellseg_lib.files import export, outlines
from scellseg_lib.files.images import read_masks, read_pixels, relabel, write_labels
from scellseg_lib.files.seg_npy import read_seg, write_seg
from tests.corpus.test_images import other, tiff

# A plain cell, one with a hole, one in two pieces; label 3 is missing.
CELLS = np.zeros((12, 14), np.int32)
CELLS[1:4, 1:6], CELLS[5:10, 1:6] = 1, 2
CELLS[7, 3] = 0
CELLS[1:3, 8:10] = CELLS[6:11, 9:13] = 4
sides = st.integers(1, 9)
small = arrays.arrays(np.int32, st.tuples(sides, sides), elements=st.integers(0, 3))
many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fill(rings: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Pixels whose middle is within an odd number of the rings, as ImageJ fills them."""
    odd = np.zeros(shape, bool)
    for ring in rings:
        odd ^= grid_points_in_poly(shape, ring[:, ::-1] - 0.5)
    return odd


def area(ring: np.ndarray) -> float:
    """Positive for a ring that goes clockwise as one sees it."""
    return cv2.contourArea(ring.astype(np.int32), oriented=True)


@many
@given(small)
@example(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]]))  # a bay that is open at a corner alone
def test_outlines_are_exact(masks):
    """They give back the pixels, with right angles alone; areas are numbers of pixels."""
    back = np.zeros_like(masks)
    for number, pieces in outlines.outlines(masks):
        assert len(pieces) == label(masks == number)[1]
        rings = [ring for piece in pieces for ring in piece]
        assert sum(area(ring) for ring in rings) == (masks == number).sum()
        for outer, *holes in pieces:
            assert area(outer) > 0
            assert all(area(hole) < 0 for hole in holes)
            back[fill([outer, *holes], masks.shape)] = number
        for ring in rings:
            assert len(np.unique(ring, axis=0)) == len(ring)  # it does not meet itself
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert ((steps * np.roll(steps, 1, axis=0)).sum(axis=1) == 0).all()
    np.testing.assert_array_equal(back, masks)


@many
@given(small.filter(np.any))
def test_imagej_fills_the_pixels_of_any_cells(tmp_path, masks):
    outlines.write_imagej(tmp_path / "rois.zip", masks)
    back = np.zeros_like(masks)
    for roi in roifile.roiread(tmp_path / "rois.zip"):
        rings = roi.coordinates(multi=True)
        rings = rings if isinstance(rings, list) else [rings]
        back[fill([np.asarray(ring) for ring in rings], back.shape)] = int(roi.name)
    np.testing.assert_array_equal(back, masks)


def test_imagej_has_polygons_and_composites_named_by_label(tmp_path):
    outlines.write_imagej(tmp_path / "rois.zip", CELLS)
    with zipfile.ZipFile(tmp_path / "rois.zip") as archive:
        assert archive.namelist() == ["00001.roi", "00002.roi", "00004.roi"]
    kinds = [(r.roitype.name, r.composite) for r in roifile.roiread(tmp_path / "rois.zip")]
    assert kinds == [("TRACED", False), ("RECT", True), ("RECT", True)]
    cell = roifile.roiread(tmp_path / "rois.zip")[0]  # rows 1 to 3, columns 1 to 5
    assert (cell.left, cell.top, cell.right, cell.bottom) == (1, 1, 6, 4)


def test_geojson_is_polygons_with_holes_and_pieces(tmp_path):
    outlines.write_geojson(tmp_path / "a.geojson", CELLS)
    back = np.zeros(CELLS.shape, np.int32)
    for feature in json.loads((tmp_path / "a.geojson").read_text())["features"]:
        shape = feature["geometry"]
        several = shape["type"] == "MultiPolygon"
        for rings in shape["coordinates"] if several else [shape["coordinates"]]:
            assert all(ring[0] == ring[-1] for ring in rings)
            number = int(feature["properties"]["name"])
            back[fill([np.array(ring[:-1]) for ring in rings], back.shape)] = number
        assert several == (number == 4)
    np.testing.assert_array_equal(back, CELLS)


def test_measurements_by_arithmetic():
    planes = np.arange(12 * 14).reshape(12, 14), np.full((12, 14), 7)
    image = np.stack(planes, axis=2).astype(np.uint16)
    frame = export.measurements(CELLS, image, ["worm", "dye"]).set_index("label")
    assert frame["area_px"].to_dict() == {1: 15, 2: 24, 4: 24}
    assert frame.loc[1, ["x_px", "y_px"]].tolist() == [3.5, 2.5]  # columns 1 to 5, rows 1 to 3
    # The ellipse with the second moments of n pixels in a row, (n^2 - 1) / 12, has an axis of 4 SD.
    moments = np.sqrt((5**2 - 1) / 12), np.sqrt((3**2 - 1) / 12)
    np.testing.assert_allclose(frame.loc[1, ["length_px", "width_px"]], 4 * np.array(moments))
    assert frame.loc[1, "diameter_px"] == pytest.approx(2 * np.sqrt(15 / np.pi))
    assert frame.loc[1, "perimeter_px"] == 12  # through the middles of the outer pixels
    assert frame.loc[1, ["solidity", "angle_deg"]].tolist() == [1, 0]
    assert not [name for name in frame if name.endswith(("_um", "_um2"))]
    assert frame.loc[1, "intensity_mean_worm"] == 2 * 14 + 3
    assert frame.loc[4, ["intensity_min_dye", "intensity_std_dye"]].tolist() == [7, 0]
    assert list(export.measurements(CELLS)["label"]) == [1, 2, 4]
    assert "intensity_mean_0" in export.measurements(CELLS, image)
    with pytest.raises(ImageError, match="image is of 5 x 5 px, its masks of 12 x 14 px"):
        export.measurements(CELLS, np.zeros((5, 5)))
    with pytest.raises(ImageError, match="2 channels, 1 are named"):
        export.measurements(CELLS, image, ["a"])


def test_angles_are_counterclockwise_from_the_right_as_in_fiji():
    falling = np.eye(20, dtype=np.int32)  # from the upper left to the lower right
    cells = {0: np.ones((2, 9), int), 90: np.ones((9, 2), int), 135: falling, 45: falling[::-1]}
    for angle, cell in cells.items():
        assert export.measurements(cell)["angle_deg"].tolist() == pytest.approx([angle])


def test_measurements_in_micrometres():
    frame = export.measurements(CELLS, pixel_size=0.5).set_index("label")
    assert frame["area_um2"].to_dict() == {1: 15 / 4, 2: 6, 4: 6}
    for name in ("length", "width", "diameter", "perimeter", "x", "y"):
        assert frame[f"{name}_um"].tolist() == (frame[f"{name}_px"] / 2).tolist()
    assert set(frame["pixel_size_um"]) == {0.5}


GREY = np.zeros((12, 14), np.uint16)


def ome(**told):
    """OME-XML of a pixel's size; tifffile says units only where it is told them."""
    return {"metadata": {f"PhysicalSize{name}": value for name, value in told.items()}}


def imagej(unit: str, *per_unit: float):
    return {"imagej": True, "resolution": per_unit, "metadata": {"unit": unit}}


def plain(unit: str, *per_unit: float):
    return {"resolution": per_unit, "resolutionunit": unit}


# A file, how it is written, and what a side of its pixels is in micrometres.
SIZES = [
    ("a.ome.tif", ome(X=0.325, Y=0.325), 0.325),  # micrometres by default
    ("a.ome.tif", ome(X=325.0, XUnit="nm", Y=0.325, YUnit="µm"), 0.325),
    ("a.ome.tif", ome(X=0.002, XUnit="mm", Y=0.002, YUnit="mm"), 2),
    ("a.ome.tif", ome(X=1.0, XUnit="pixel", Y=1.0, YUnit="pixel"), None),
    ("a.ome.tif", ome(X=0.0, Y=0.0), Warning),
    ("a.ome.tif", ome(X=0.5), None),
    ("a.ome.tif", {}, None),
    *(("a.tif", imagej(unit, 4, 4), 0.25) for unit in ("micron", "um", r"\u00B5m")),
    ("a.tif", imagej("nm", 0.002, 0.002), 0.5),
    ("a.tif", imagej("mm", 40, 40), 25),  # that of a stereo microscope, and said
    ("a.tif", imagej("inch", 300, 300), None),
    ("a.tif", {"imagej": True}, None),
    ("a.tif", plain("CENTIMETER", 20_000, 20_000), 0.5),
    *(("a.tif", plain("CENTIMETER", dpi / 2.54, dpi / 2.54), None) for dpi in (72, 96, 300, 1200)),
    ("a.tif", plain("INCH", 72, 72), None),
    ("a.tif", plain("INCH", 50_800, 50_800), None),
    ("a.tif", plain("NONE", 4, 4), None),
    ("a.tif", {}, None),
    # Pixels that are not square have no one side; within a hundredth they have.
    ("a.ome.tif", ome(X=0.5, Y=0.25), Warning),
    ("a.tif", imagej("um", 2, 4), Warning),
    ("a.tif", plain("CENTIMETER", 20_000, 10_000), Warning),
    ("a.ome.tif", ome(X=0.499, Y=0.501), 0.5),
]


@pytest.mark.parametrize(("name", "how", "side"), SIZES)
def test_the_size_of_a_pixel_is_that_of_its_file(tmp_path, name, how, side):
    tifffile.imwrite(tmp_path / name, GREY, **{"photometric": "minisblack"} | how)
    if side is Warning:
        with pytest.warns(
            ScellsegWarning, match=r"a.*tif: its pixels, .* are no squares.*yourself"
        ):
            assert export.read_pixel_size(tmp_path / name) is None
    else:
        assert export.read_pixel_size(tmp_path / name) == (side and pytest.approx(side))


def test_other_files_say_no_size(tmp_path):
    damaged = tiff(GREY, ome=True).replace(b"<Pixels", b"<Pix ls")
    for content in (damaged, tiff(GREY)[:60], other(GREY.astype("u1"), "PNG"), b""):
        (tmp_path / "a.tif").write_bytes(content)
        assert export.read_pixel_size(tmp_path / "a.tif") is None


@pytest.mark.filterwarnings("ignore:its pixels")
def test_a_table_is_in_micrometres_by_the_file_or_as_said(tmp_path):
    write_labels(tmp_path / "A_masks.tif", CELLS)
    for sizes, said, side in (
        ((4, 4), None, 0.25),
        ((4, 4), 2.0, 2),  # the number that is said wins
        ((2, 4), None, None),
        ((2, 4), 0.5, 0.5),
    ):
        tifffile.imwrite(tmp_path / "A.tif", GREY, **imagej("micron", *sizes))
        how = {"images": tmp_path, "pixel_size": said, "overwrite": True}
        assert export.export(tmp_path, tmp_path / "out", ["table"], **how).failed == {}
        table = pd.read_csv(tmp_path / "out/A_measurements.csv")
        assert table["area_px"].tolist() == [15, 24, 24]
        assert ("area_um2" in table) == (side is not None)
        if side:
            assert table["area_um2"].tolist() == [15 * side**2, 24 * side**2, 24 * side**2]


PIXELS = [(None, "u1"), (2, "u2"), (3, "i4"), (4, "f4"), (5, "f8")]


@pytest.mark.parametrize(("n_channels", "kind"), PIXELS)
def test_images_of_cells_are_read_as_they_were(tmp_path, n_channels, kind):
    """Channels are those of pixels, not pages, so that no program asks what the pages are."""
    shape = (12, 14) if n_channels is None else (12, 14, n_channels)
    image = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    layout = {"planarconfig": "contig"} if n_channels else {}
    (tmp_path / "A.tif").write_bytes(tiff(image, **layout))
    write_labels(tmp_path / "A_masks.png", CELLS)
    done = export.export(tmp_path, tmp_path, ["cells"], images=tmp_path / "A.tif")
    assert (done.written, done.failed) == (1, {})
    for number, box in ((1, np.s_[1:4, 1:6]), (2, np.s_[5:10, 1:6]), (3, np.s_[1:11, 8:13])):
        back = read_pixels(tmp_path / "A_cells" / f"A_cells_{number:05d}.tif")
        np.testing.assert_array_equal(back, image[box], strict=True)


def test_single_cells_of_a_side_and_cut_out():
    image = np.full((12, 14), 9, np.uint8)
    crops = dict(export.single_cells(CELLS, image, side=11))
    assert {crop.shape for crop in crops.values()} == {(11, 11)}
    # Rows -3 to 7 and columns -2 to 8 of cell 1: those before 0 are not in the image.
    assert (crops[1][3:, 2:] == 9).all()
    assert crops[1].sum() == 9 * 8 * 9
    alone = dict(export.single_cells(CELLS, image, keep_background=False))
    assert (alone[2][2, 2], alone[4][0, 4], alone[4][0, 0]) == (0, 0, 9)  # its hole, between pieces
    said = "1 of 3 cells do not fit into 6 x 6 px, the first: 4"
    with pytest.raises(SideTooSmall, match=said) as caught:
        list(export.single_cells(CELLS, image, side=6))
    assert caught.value.options == {"side": 10}


@pytest.fixture
def plate(tmp_path):
    (folder := tmp_path / "plate").mkdir()
    for name in "ABC":
        tifffile.imwrite(folder / f"{name}_img.tif", np.full((12, 14), 9, np.uint16))
        write_labels(folder / f"{name}_masks.tif", CELLS)
    (folder / "B_masks.tif").write_bytes((folder / "B_masks.tif").read_bytes()[:100])
    return folder


def test_a_folder_is_exported_but_for_a_damaged_file(plate, tmp_path):
    out, formats = tmp_path / "out", list(export.FORMATS)
    done = export.export(plate, out, formats, images=plate)
    assert (done.written, done.already, list(done.failed)) == (14, 0, ["B"])
    assert done.failed["B"].where == plate / "B_masks.tif"
    names = {f"{name}{export.FORMATS[kind]}" for name in "AC" for kind in formats}
    assert {file.name for file in out.iterdir()} == names
    assert len(list((out / "A_cells").iterdir())) == 3
    assert pd.read_csv(out / "C_measurements.csv")["intensity_mean_0"].tolist() == [9, 9, 9]
    assert read_masks(out / "A_masks.png").max() == 3  # numbered without gaps
    seg = read_seg(out / "C_seg.npy")
    np.testing.assert_array_equal(seg["masks"], relabel(CELLS))
    np.testing.assert_array_equal(seg["img"], np.full((12, 14), 9))
    assert seg["filename"] == "C_img.tif"
    write_labels(plate / "B_masks.tif", CELLS)
    again = export.export(plate, out, formats, images=plate)
    assert (again.written, again.already, again.failed) == (7, 14, {})
    (out / "A_cells" / "A_cells_00001.tif").unlink()
    anew = export.export(plate, out, ["cells"], images=plate, side=20, overwrite=True)
    assert (anew.written, len(list((out / "A_cells").iterdir()))) == (3, 3)
    small = export.export(plate / "A_masks.tif", tmp_path / "none", ["cells"], images=plate, side=4)
    assert isinstance(small.failed["A"], SideTooSmall)
    assert not list((tmp_path / "none").iterdir())


def test_no_cells_are_files_without_cells(tmp_path):
    write_labels(tmp_path / "a_masks.tif", np.zeros((4, 4), np.int32))
    done = export.export(tmp_path, tmp_path, ["imagej", "geojson", "table", "cellpose"])
    assert (done.written, done.failed) == (4, {})
    assert zipfile.ZipFile(tmp_path / "a_rois.zip").namelist() == []
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []
    assert len(pd.read_csv(tmp_path / "a_measurements.csv")) == 0
    assert not {"img", "filename"} & read_seg(tmp_path / "a_seg.npy").keys()


def test_a_folder_that_cellpose_has_saved_in(tmp_path):
    """Its images are no label files, and of one name the masks that stand alone come first."""
    for name in ("A", "B"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((12, 14), 9, np.uint16))
        write_seg(tmp_path / f"{name}_seg.npy", CELLS)
    write_labels(tmp_path / "B_cp_masks.png", (CELLS == 2).astype(int))
    done = export.export(tmp_path, tmp_path / "out", ["table", "tiff"], images=tmp_path)
    assert (done.written, done.failed) == (4, {})
    counts = {p.name: len(pd.read_csv(p)) for p in (tmp_path / "out").glob("*.csv")}
    assert counts == {"A_measurements.csv": 3, "B_measurements.csv": 1}


SAVED = {"A_masks.tif": write_labels, "A_img_seg.npy": write_seg}
SAVED["A_masks.png"] = lambda path, masks: path.write_bytes(other(masks.astype("u1"), "PNG", "P"))


@pytest.mark.parametrize("masks", SAVED)
def test_classes_and_notes_go_with_their_cells(tmp_path, masks):
    SAVED[masks](tmp_path / masks, CELLS)
    known = "label,area,class,note\n4,24,debris,\n1,15,NA,it bends\n2,24,,\n"
    (tmp_path / "A_cells.csv").write_text(known)
    export.export(tmp_path / masks, tmp_path, ["geojson", "table"])
    table = pd.read_csv(tmp_path / "A_measurements.csv", keep_default_na=False).set_index("label")
    assert table["area_px"].to_dict() == {1: 15, 2: 24, 3: 24}
    assert table["class"].to_dict() == {1: "NA", 2: "", 3: "debris"}  # NA is a name
    assert table["note"].to_dict() == {1: "it bends", 2: "", 3: ""}
    assert table["label_in_file"].to_dict() == {1: 1, 2: 2, 3: 4}
    features = json.loads((tmp_path / "A.geojson").read_text())["features"]
    kinds = [f["properties"].get("classification", {}).get("name") for f in features]
    assert kinds == ["NA", None, "debris"]
    assert (tmp_path / "A_cells.csv").read_text() == known  # the table has another name


@pytest.mark.parametrize("part", ["", "shot", "query", "corrected"])
def test_geojson_has_the_colours_of_the_classes(tmp_path, part):
    """As QuPath reads them; a class or list that says none well has none, and stops nothing."""
    write_labels(tmp_path / part / "A_masks.tif", CELLS)
    (tmp_path / part / "A_cells.csv").write_text("label,class\n1,dead\n2,alive\n4,debris\n")
    dead, alive, debris = [213, 94, 0], [0, 128, 0], None
    for content, colours in (
        (b"class,colour\ndead,#D55E00\nalive,green\ndebris,mud\n", [dead, alive, debris]),
        (b"Class;Color\r\ndead;#d55e00\r\nalive; #008000\r\n", [dead, alive, debris]),
        (b"class\ndead\n", [None] * 3),
        (b"a,a\n1,2,3\n", [None] * 3),
        (b"\x00\xff", [None] * 3),
        (None, [None] * 3),
    ):
        (tmp_path / "classes.csv").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "classes.csv").write_bytes(content)
        how = {"overwrite": True}
        done = export.export(tmp_path / part / "A_masks.tif", tmp_path / "out", ["geojson"], **how)
        assert (done.written, done.failed) == (1, {})
        features = json.loads((tmp_path / "out/A.geojson").read_text())["features"]
        told = [feature["properties"]["classification"] for feature in features]
        assert [one["name"] for one in told] == ["dead", "alive", "debris"]
        assert [one.get("color") for one in told] == colours


def test_what_cannot_be_exported(plate, tmp_path):
    write_labels(tmp_path / "elsewhere" / "Z.tif", np.zeros((4, 4), np.int32))
    for kind, images, message in (
        ("roi", None, r"no format 'roi'.*imagej"),
        ("cells", None, r"cells are cut out of images. Say where they are: images=\.\.\."),
    ):
        with pytest.raises(ScellsegError, match=message):
            export.export(plate / "A_masks.tif", tmp_path, [kind], images=images)
    (plate / "B_img.tif").unlink()
    done = export.export(plate, tmp_path / "out", ["table"], images=plate)
    assert (done.written, list(done.failed)) == (2, ["B"])
    done = export.export(plate, tmp_path / "out", ["cellpose"], images=tmp_path / "elsewhere")
    assert (done.written, list(done.failed)) == (0, ["A", "B", "C"])
    assert "there is no image of these masks" in str(done.failed["A"])

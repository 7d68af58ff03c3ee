"""Files in every format and depth, and what is refused and why."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scellseg_lib.errors import ImageError
from scellseg_lib.files import images as readers
from scellseg_lib.files.seg_npy import write_seg

RANDOM = np.random.default_rng(0)


def noise(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random pixels over the whole range of an integer type, or around 0."""
    if np.dtype(dtype).kind == "f":
        return RANDOM.normal(0, 1000, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write an image by its ending, by other means than the library's own."""
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels, **options)
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(pixels))
    else:
        path.write_bytes(imagecodecs.jpeg8_encode(pixels, level=100))
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_png_keeps_its_depth(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    pixels = noise(shape, dtype)
    read = readers.read_pixels(write(tmp_path / "a.png", pixels))
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 2)])
@pytest.mark.parametrize(
    "dtype",
    ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"],
)
def test_tiff_keeps_its_type(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    pixels = noise(shape, dtype)
    options = {"metadata": {"axes": "YXC"[: len(shape)]}, "photometric": "minisblack"}
    read = readers.read_pixels(write(tmp_path / "a.tif", pixels, **options))
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_jpeg_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 100, np.uint8)
    pixels[:, 15:] = 200
    read = readers.read_pixels(write(tmp_path / "a.jpg", pixels))
    assert read.shape == shape
    np.testing.assert_allclose(read, pixels, atol=3)


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    pixels = noise((20, 30), "uint16")
    path = write(tmp_path / "a.png", pixels).rename(tmp_path / "a.tif")
    np.testing.assert_array_equal(readers.read_pixels(path), pixels)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("imagej.tif", {"imagej": True, "metadata": {"axes": "CYX"}}),
        ("of.ome.tif", {"ome": True, "metadata": {"axes": "CYX"}}),
        ("big.tif", {"bigtiff": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"}),
        (
            "packed.tif",
            {"compression": "zlib", "photometric": "minisblack", "metadata": {"axes": "CYX"}},
        ),
        ("colour.tif", {"photometric": "rgb", "planarconfig": "separate"}),
        ("motorola.tif", {"byteorder": ">", "imagej": True, "metadata": {"axes": "CYX"}}),
    ],
)
def test_tiff_channels_become_last(tmp_path: Path, name: str, options: dict) -> None:
    pixels = noise((3, 20, 30), "uint16")
    read = readers.read_pixels(write(tmp_path / name, pixels, **options))
    np.testing.assert_array_equal(read, np.moveaxis(pixels, 0, -1))


def test_single_planes_of_a_hyperstack_are_no_stack(tmp_path: Path) -> None:
    pixels = noise((1, 1, 2, 20, 30), "uint16")
    path = write(tmp_path / "a.ome.tif", pixels, ome=True, metadata={"axes": "TZCYX"})
    np.testing.assert_array_equal(readers.read_pixels(path), np.moveaxis(pixels[0, 0], 0, -1))


@pytest.mark.parametrize(("axis", "kind"), [("Z", "z-stack"), ("T", "time series")])
def test_stacks_are_refused_and_a_page_can_be_picked(tmp_path: Path, axis: str, kind: str) -> None:
    pixels = noise((3, 20, 30), "uint16")
    path = write(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": f"{axis}YX"})
    with pytest.raises(ImageError, match=rf"{kind} \({axis} 3 x Y 20 x X 30\).*page="):
        readers.read_pixels(path)
    np.testing.assert_array_equal(readers.read_pixels(path, page=1), pixels[1])
    for page in (3, -1):
        with pytest.raises(ImageError, match=f"no page {page}, the file has 3"):
            readers.read_pixels(path, page=page)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_pages_without_a_meaning_are_not_guessed(tmp_path: Path, count: int) -> None:
    pixels = noise((count, 20, 30), "uint16")
    path = write(tmp_path / "a.tif", pixels, metadata=None, photometric="minisblack")
    with pytest.raises(ImageError, match=r"does not say what its pages are.*page=.*axes='CYX'"):
        readers.read_pixels(path)
    as_channels = readers.read_pixels(path, axes="cyx")
    np.testing.assert_array_equal(as_channels, np.moveaxis(pixels, 0, -1))
    np.testing.assert_array_equal(readers.read_pixels(path, page=count - 1), pixels[-1])


@pytest.mark.parametrize("axes", ["YX", "CZYX", "CCX", "CZX", "YYX", ""])
def test_axes_must_fit_the_file(tmp_path: Path, axes: str) -> None:
    path = write(tmp_path / "a.tif", noise((2, 20, 30), "uint8"), metadata={"axes": "CYX"})
    with pytest.raises(ImageError, match=r"do not name the axes of an image of shape \(2, 20, 30"):
        readers.read_pixels(path, axes=axes)


def test_axes_order_the_image(tmp_path: Path) -> None:
    pixels = noise((30, 2, 20), "uint8")
    path = write(tmp_path / "a.tif", pixels, metadata=None, photometric="minisblack")
    read = readers.read_pixels(path, axes="XCY")
    np.testing.assert_array_equal(read, pixels.transpose(2, 0, 1))


def test_several_images_in_a_tiff_are_refused(tmp_path: Path) -> None:
    small = noise((5, 6), "uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(noise((20, 30), "uint8"))
        tiff.write(small)
    with pytest.raises(ImageError, match=r"2 images \(\(20, 30\), \(5, 6\)\)"):
        readers.read_pixels(tmp_path / "a.tif")
    np.testing.assert_array_equal(readers.read_pixels(tmp_path / "a.tif", page=1), small)


def test_ome_image_with_a_part_in_an_absent_file(tmp_path: Path) -> None:
    pixels = noise((20, 30), "uint16")
    parts = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:'
        f"0000000{c}-0000-0000-0000-000000000000</UUID></TiffData>"
        for c, name in enumerate(["a.ome.tif", "absent.ome.tif"])
    )
    description = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/'
        'OME/2016-06" UUID="urn:uuid:00000000-0000-0000-0000-000000000000"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" '
        f'SizeC="2" SizeZ="1" SizeT="1">{parts}</Pixels></Image></OME>'
    )
    path = write(tmp_path / "a.ome.tif", pixels, description=description, metadata=None)
    with pytest.raises(ImageError, match="parts of the image are missing"):
        readers.read_pixels(path)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    colour, grey = noise((20, 30, 4), "uint16"), noise((20, 30, 2), "uint8")
    for path in (
        write(tmp_path / "a.png", colour),
        write(tmp_path / "a.tif", colour, photometric="rgb", extrasamples=["unassalpha"]),
    ):
        np.testing.assert_array_equal(readers.read_pixels(path), colour[..., :3])
    np.testing.assert_array_equal(
        readers.read_pixels(write(tmp_path / "b.png", grey)), grey[..., 0]
    )


def test_alpha_of_a_page_is_dropped_whatever_the_first_page_is(tmp_path: Path) -> None:
    colour = noise((20, 30, 4), "uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(noise((20, 30), "uint8"))
        tiff.write(colour, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(readers.read_pixels(tmp_path / "a.tif", page=1), colour[..., :3])


def test_fourth_channel_of_a_microscope_is_kept(tmp_path: Path) -> None:
    pixels = noise((4, 20, 30), "uint16")
    path = write(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "CYX"})
    assert readers.read_image(path, channels=("3", "0")).tolist() == pixels[[3, 0]].tolist()


def test_display_settings_of_a_tiff_do_not_change_its_values(tmp_path: Path) -> None:
    pixels = noise((20, 30), "uint8")
    inverted = write(tmp_path / "a.tif", pixels, photometric="miniswhite")
    table = noise((3, 256), "uint16")
    coloured = write(tmp_path / "b.tif", pixels, photometric="palette", colormap=table)
    for path in (inverted, coloured):
        np.testing.assert_array_equal(readers.read_pixels(path), pixels)


@pytest.mark.parametrize(
    ("channels", "first", "second"),
    [
        (("gray", "none"), 2.0, 0),
        (("green", "red"), 2.0, 1.0),
        (("blue", "gray"), 3.0, 2.0),
        (("2", "0"), 3.0, 1.0),
    ],
)
def test_planes_by_name(channels: tuple[str, str], first: float, second: float) -> None:
    pixels = np.broadcast_to(np.array([1, 2, 3], np.uint16), (4, 5, 3))
    image = readers.select_planes(pixels, channels)
    assert image.dtype == np.float32
    assert image.shape == (2, 4, 5)
    assert (image[0] == first).all()
    assert (image[1] == second).all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_channels_that_differ_must_be_named(tmp_path: Path, count: int) -> None:
    pixels = np.full((20, 30, count), 7, np.uint16)
    assert (readers.select_planes(pixels) == np.array([7, 0])[:, None, None]).all()
    pixels[3, 4, -1] += 1
    options = {"metadata": {"axes": "YXC"}, "photometric": "minisblack"}
    path = write(tmp_path / "a.tif", pixels, **options)
    names = ["0 (red)", "1 (green)", "2 (blue)", "3", "4"][:count]
    with pytest.raises(ImageError, match=rf"a\.tif: the image has {count} channels") as caught:
        readers.read_image(path)
    assert "channels=('green', 'red')" in str(caught.value)
    assert f"There are: {', '.join(names)}." in str(caught.value)
    mean = readers.read_image(path, channels=("gray", "none"))
    assert mean[0, 3, 4] == pytest.approx(7 + 1 / count)


def test_equal_channels_may_hold_what_is_no_number_alike() -> None:
    pixels = np.full((4, 5, 2), np.nan)
    with pytest.raises(ImageError, match="20 pixels are NaN"):
        readers.select_planes(pixels)


def test_gray_does_not_overflow() -> None:
    image = readers.select_planes(np.full((2, 3, 3), 65535, np.uint16), ("gray", "none"))
    assert (image[0] == 65535).all()


@pytest.mark.parametrize("channels", [("green", "red"), ("gray", "1"), ("-1", "none"), ("²", "0")])
def test_channels_that_are_not_there(channels: tuple[str, str]) -> None:
    with pytest.raises(ImageError, match="the image has 1"):
        readers.select_planes(np.zeros((4, 5)), channels)


@pytest.mark.parametrize("channels", [("none", "gray"), ("gray",), ("red", "green", "blue")])
def test_channels_must_name_two_planes(channels: tuple[str, str]) -> None:
    with pytest.raises(ImageError, match="plane to segment and a nucleus plane"):
        readers.select_planes(np.zeros((4, 5, 3)), channels)


@pytest.mark.parametrize("shape", [(4,), (0, 5), (2, 3, 4, 5)])
def test_arrays_that_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="shape"):
        readers.select_planes(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_pixels_that_are_no_numbers_are_counted(tmp_path: Path, bad: float) -> None:
    pixels = np.zeros((20, 30))
    pixels[3, 4:7] = bad
    path = write(tmp_path / "a.tif", pixels)
    with pytest.raises(ImageError, match=r"a\.tif: 3 pixels are NaN, infinite"):
        readers.read_image(path)


def test_damage_in_an_unused_channel_is_no_matter() -> None:
    pixels = np.ones((4, 5, 2))
    pixels[0, 0, 1] = np.nan
    assert (readers.select_planes(pixels, ("0", "none"))[0] == 1).all()


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_images_are_read(tmp_path: Path, value: int) -> None:
    path = write(tmp_path / "a.png", np.full((4, 5), value, np.uint16))
    assert (readers.read_image(path)[0] == value).all()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_cut_files(tmp_path: Path, name: str, part: float) -> None:
    path = write(tmp_path / name, noise((60, 70), "uint8"))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ImageError, match=r"damaged|cut off"):
        readers.read_pixels(path)


@pytest.mark.parametrize("n_bytes", [4, 8, 9, 50])
def test_tiffs_cut_within_their_head(tmp_path: Path, n_bytes: int) -> None:
    path = write(tmp_path / "a.tif", noise((60, 70), "uint8"))
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ImageError, match=r"damaged.*Fetch or export"):
        readers.read_pixels(path)


def test_one_flipped_byte_in_a_png(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", noise((60, 70), "uint16"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"damaged.*Fetch or export"):
        readers.read_pixels(path)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        readers.read_pixels(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="cannot be read"):
        readers.read_masks(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageError, match="0 bytes"):
        readers.read_pixels(tmp_path / "a.png")
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(ImageError, match="not a PNG, TIFF or JPEG"):
        readers.read_pixels(tmp_path / "a.png")
    with pytest.raises(ImageError, match="complex64 and shape"):
        readers.read_pixels(write(tmp_path / "a.tif", np.zeros((4, 5), np.complex64)))


@pytest.mark.filterwarnings("ignore:.*zero-size")
def test_an_image_without_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((0, 30), np.uint8), metadata=None)
    with pytest.raises(ImageError):
        readers.read_pixels(path)


def test_labels_are_renumbered_in_their_order(tmp_path: Path) -> None:
    masks = np.array([[0, 900, 900], [7, 0, 40000]], np.uint16)
    read = readers.read_masks(write(tmp_path / "a.png", masks))
    assert read.dtype == np.int32
    assert read.tolist() == [[0, 2, 2], [1, 0, 3]]


@pytest.mark.filterwarnings("ignore:.*one label in")
@given(arrays(np.uint32, (4, 5), elements=st.sampled_from([0, 1, 2, 300, 70_000, 2**32 - 1])))
def test_relabelling_keeps_cells_apart_and_ordered(masks: np.ndarray) -> None:
    relabelled = readers.relabel(masks)
    assert ((relabelled == 0) == (masks == 0)).all()
    assert relabelled.max() == len(np.unique(masks[masks > 0]))
    before, after = masks.ravel(), relabelled.ravel()
    assert ((before[:, None] < before) == (after[:, None] < after)).all()


def test_labels_without_background() -> None:
    assert readers.relabel(np.array([[3, 3], [5, 9]])).tolist() == [[1, 1], [2, 3]]


def test_masks_without_cells() -> None:
    assert not readers.relabel(np.zeros((4, 5))).any()


def test_whole_floats_are_labels(tmp_path: Path) -> None:
    masks = np.array([[0, 1.0, 1.0], [4.0, 0, 2.0]], np.float32)
    assert readers.read_masks(write(tmp_path / "a.tif", masks)).tolist() == [[0, 1, 1], [3, 0, 2]]


@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf])
def test_other_floats_are_not(bad: float) -> None:
    with pytest.raises(ImageError, match="masks are whole numbers"):
        readers.relabel(np.array([[bad, bad, 1.0]]))


def test_negative_labels() -> None:
    with pytest.raises(ImageError, match="from -3 to 2"):
        readers.relabel(np.array([[0, -3, 2]]))


@pytest.mark.parametrize("shape", [(4, 5, 3), (20,), (0, 4)])
def test_masks_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"of the shape \(H, W\)"):
        readers.relabel(np.zeros(shape, int))


def test_masks_of_cellpose_are_told_by_their_content(tmp_path: Path) -> None:
    masks = np.array([[0, 900, 900], [7, 0, 40000]])
    write_seg(tmp_path / "a_seg.npy", masks)
    (tmp_path / "a_seg.npy").rename(tmp_path / "a.png")
    assert readers.read_masks(tmp_path / "a.png").tolist() == [[0, 2, 2], [1, 0, 3]]
    with pytest.raises(ImageError, match="not a PNG, TIFF or JPEG"):
        readers.read_pixels(tmp_path / "a.png")


def test_lossy_masks_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", np.zeros((20, 30), np.uint8))
    with pytest.raises(ImageError, match="JPEG is lossy"):
        readers.read_masks(path)


def test_binary_masks_draw_a_warning() -> None:
    masks = np.zeros((8, 9), np.uint8)
    masks[1:3, 1:3] = masks[5:7, 5:7] = 255
    with pytest.warns(UserWarning, match="one label in 2 pieces"):
        assert readers.relabel(masks).max() == 1


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_labels_written_are_read_again(tmp_path: Path, name: str) -> None:
    masks = RANDOM.integers(0, 65536, (20, 30)).astype(np.int32)
    readers.write_labels(tmp_path / name, masks)
    assert readers.read_pixels(tmp_path / name).dtype == np.uint16
    np.testing.assert_array_equal(readers.read_pixels(tmp_path / name), masks)
    other = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(other, masks)


def test_many_labels_need_a_tiff(tmp_path: Path) -> None:
    masks = np.array([[0, 65536], [1, 2]])
    with pytest.raises(ImageError, match=r"up to 65535.*\.tif"):
        readers.write_labels(tmp_path / "a.png", masks)
    for many in (masks, masks + 2**32):
        readers.write_labels(tmp_path / "a.tif", many)
        assert readers.read_pixels(tmp_path / "a.tif").tolist() == many.tolist()


@pytest.mark.parametrize(
    "masks", [np.zeros((2, 3, 4), int), np.array([[-1]]), np.full((2, 2), 0.5), np.zeros((0, 2))]
)
def test_only_labels_are_written(tmp_path: Path, masks: np.ndarray) -> None:
    with pytest.raises(ImageError, match="masks are whole numbers from 0"):
        readers.write_labels(tmp_path / "a.tif", masks)
    assert not list(tmp_path.iterdir())


def test_labels_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    readers.write_labels(path, np.array([[1, 2]]))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ImageError, match="No space left"):
        readers.write_labels(path, np.array([[3, 4]]))
    assert readers.read_pixels(path).tolist() == [[1, 2]]
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(ImageError, match="as PNG, up to 65535, or as TIFF"):
        readers.write_labels(tmp_path / "a.jpg", np.array([[3, 4]]))


def test_hash_is_of_little_endian_bytes_in_c_order() -> None:
    pixels = np.array([[1, 2], [3, 4]], "<u2")
    # printf '\x01\x00\x02\x00\x03\x00\x04\x00' | sha256sum
    known = "ea99f710d9d0b8ba192295c969a63ed7ce8fc5743da20d2057fa2b6d2c404bfb"
    assert readers.pixel_hash(pixels) == known
    assert readers.pixel_hash(pixels.astype(">u2")) == known
    assert readers.pixel_hash(np.asfortranarray(pixels)) == known
    assert readers.pixel_hash(pixels.T) != known


@pytest.mark.real_data
def test_real_files_decode_to_the_published_pixels(real_data: Path) -> None:
    with (real_data / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    contrast = [row for row in rows if row["dataset"] == "cellpose_contrast35"]
    firsts = {row["dataset"]: row for row in reversed(rows)}.values()
    assert len(contrast) == 35
    for row in [*contrast, *firsts]:
        folder = real_data / row["dataset"]
        pixels = readers.read_pixels(folder / row["image"])
        assert str(pixels.dtype) == row["dtype"]
        assert readers.pixel_hash(pixels) == row["image_pixel_sha256"], row["image"]
        masks = readers.read_pixels(folder / row["masks"])
        assert readers.pixel_hash(masks) == row["masks_pixel_sha256"], row["masks"]
        assert readers.read_masks(folder / row["masks"]).max() == int(row["cells"])


@pytest.mark.real_data
def test_livecell_tiff_is_read(real_data: Path) -> None:
    path = next((real_data / "raw_samples" / "livecell").rglob("*.tif"))
    assert readers.read_image(path).shape == (2, 520, 704)

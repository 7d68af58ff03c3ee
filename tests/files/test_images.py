"""Files in every format and depth, and what is refused and why."""

import csv
from functools import partial
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

from scellseg_lib.errors import AxesNeeded, ChannelsNeeded, ImageError
from scellseg_lib.files import images
from tests.corpus import expect
from tests.corpus.test_images import PLAIN, tiff

RANDOM = np.random.default_rng(0)
GREY, COLOUR, PAGES = (20, 30), (20, 30, 3), (3, 20, 30)


def noise(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    """Random pixels over the whole range of an integer type, or around 0."""
    if np.dtype(dtype).kind == "f":
        return RANDOM.normal(0, 1000, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    """Write an image by its ending, by other means than the library's own."""
    others = {".png": imagecodecs.png_encode, ".jpg": partial(imagecodecs.jpeg8_encode, level=100)}
    path.write_bytes(others.get(path.suffix, tiff)(pixels, **options))
    return path


def channels(axes: str, **options):
    return {"photometric": "minisblack", "metadata": {"axes": axes}} | options


DEPTHS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
CYX = {"metadata": {"axes": "CYX"}}
ALPHA = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
# A file, the pixels that are written, how, how they are read, and what of them.
READ = [
    *(("a.png", shape, dtype, {}, {}, np.s_[:])
      for shape in (GREY, COLOUR) for dtype in ("uint8", "uint16")),
    *(("a.tif", shape, dtype, channels("YXC"[: len(shape)]), {}, np.s_[:])
      for shape in (GREY, COLOUR, (20, 30, 2)) for dtype in DEPTHS),
    *((name, shape, "uint16", options, reading, (1, 2, 0)) for name, shape, options, reading in (
        ("imagej.tif", PAGES, {"imagej": True} | CYX, {}),
        ("of.ome.tif", PAGES, {"ome": True} | CYX, {}),
        ("hyperstack.ome.tif", (1, 1, *PAGES), {"ome": True, "metadata": {"axes": "TZCYX"}}, {}),
        ("big.tif", PAGES, channels("CYX", bigtiff=True), {}),
        ("packed.tif", PAGES, channels("CYX", compression="zlib"), {}),
        ("colour.tif", PAGES, {"photometric": "rgb", "planarconfig": "separate"}, {}),
        ("motorola.tif", PAGES, {"byteorder": ">", "imagej": True} | CYX, {}),
        ("unsaid.tif", PAGES, PLAIN, {"axes": "cyx"}))),
    ("turned.tif", (30, 3, 20), "uint16", PLAIN, {"axes": "XCY"}, (2, 0, 1)),
    # What is for display alone is left out: alpha, and what stored values are shown as.
    ("a.png", (20, 30, 4), "uint8", {}, {}, np.s_[..., :3]),
    ("a.png", (20, 30, 2), "uint8", {}, {}, np.s_[..., 0]),
    ("a.tif", (20, 30, 4), "uint8", ALPHA, {}, np.s_[..., :3]),
    ("a.tif", GREY, "uint8", {"photometric": "miniswhite"}, {}, np.s_[:]),
    ("a.tif", GREY, "uint8", {"photometric": "palette", "colormap": noise((3, 256))}, {}, np.s_[:]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "dtype", "options", "reading", "part"), READ)
def test_pixels_are_read_as_they_are_stored(tmp_path, name, shape, dtype, options, reading, part):
    pixels = noise(shape, dtype)
    path = write(tmp_path / name, pixels, **options)
    turned = isinstance(part, tuple) and isinstance(part[0], int)
    right = np.squeeze(pixels).transpose(part) if turned else pixels[part]
    for called in (name, "content_counts.jpg"):
        read = images.read_pixels(path.rename(tmp_path / called), **reading)
        np.testing.assert_array_equal(read, right, strict=True)


def test_jpeg_is_read(tmp_path):
    for shape in (GREY, COLOUR):
        pixels = np.full(shape, 100, np.uint8)
        pixels[:, 15:] = 200
        read = images.read_pixels(write(tmp_path / "a.jpg", pixels))
        assert read.shape == shape
        np.testing.assert_allclose(read, pixels, atol=3)


# A TIFF of these pixels, what is asked for, and why it cannot be read.
UNCLEAR = [
    (PAGES, channels("ZYX", imagej=True), {}, r"z-stack \(Z 3 x Y 20 x X 30\)"),
    (PAGES, channels("TYX", imagej=True), {}, r"time series \(T 3 x Y 20 x X 30\)"),
    (PAGES, PLAIN, {"page": 3}, "no page 3, the file has 3"),
    (PAGES, PLAIN, {"page": -1}, "no page -1, the file has 3"),
    *(((n, *GREY), PLAIN, {}, "does not say what its pages are") for n in (2, 3, 4, 5)),
    *(
        (PAGES, CYX, {"axes": axes}, r"do not name the axes of an image of shape \(3, 20, 30")
        for axes in ("YX", "CZYX", "CCX", "CZX", "YYX", "")
    ),
]


@pytest.mark.parametrize(("shape", "options", "reading", "why"), UNCLEAR)
def test_pages_are_not_guessed(tmp_path, shape, options, reading, why):
    pixels = noise(shape)
    path = write(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(AxesNeeded, match=rf"a\.tif: .*{why}.*page=.*axes='CYX'") as caught:
        images.read_pixels(path, **reading)
    assert f"page=..., 0 to {len(pixels) - 1}" in str(caught.value)
    np.testing.assert_array_equal(images.read_pixels(path, page=1), pixels[1])


def test_several_images_in_a_tiff_are_refused(tmp_path):
    path, colour = tmp_path / "a.tif", noise((5, 6, 4), "uint8")
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(noise(GREY, "uint8"))
        tiff.write(colour, photometric="rgb", extrasamples=["unassalpha"])
    expect(lambda: images.read_pixels(path), AxesNeeded, r"2 images \(\(20, 30\), \(5, 6, 4\)\)")
    # The alpha of a page is dropped whatever the first page is.
    np.testing.assert_array_equal(images.read_pixels(path, page=1), colour[..., :3])


STACK = np.broadcast_to(np.array([1, 2, 3], np.uint16), (4, 5, 3))
# Pixels, the planes that are asked for, and their values or what is said.
PLANES = [
    (STACK, ("gray", "none"), (2, 0)),
    (STACK, ("green", "red"), (2, 1)),
    (STACK, ("blue", "gray"), (3, 2)),
    (STACK, ("2", "0"), (3, 1)),
    *((np.full(shape, 7), None, (7, 0)) for shape in ((4, 5, 3), (4, 5))),  # all are equal
    (np.full((4, 5, 3), 65535, np.uint16), ("gray", "none"), (65535, 0)),  # no overflow
    (np.stack([np.full((4, 5), 3), np.full((4, 5), np.nan)], 2), ("0", "none"), (3, 0)),  # unused
    *((np.zeros((4, 5)), one, "one of nuclei of this image") for one in (
        ("green", "red"), ("-1", "none"), ("gray", "1"), ("²", "0"))),
    *((STACK, one, "are not a channel") for one in (("none", "gray"), ("gray",), ("0", "1", "2"))),
    *((np.full((4, 5, 2), x), None, "20 pixels are NaN") for x in (np.nan, np.inf, -np.inf, 1e300)),
]  # fmt: skip


@pytest.mark.parametrize(("pixels", "wanted", "right"), PLANES)
def test_planes_by_name(tmp_path, pixels, wanted, right):
    path = write(tmp_path / "a.tif", pixels, **channels("YXC"[: pixels.ndim]))
    if isinstance(right, str):
        expect(lambda: images.read_image(path, channels=wanted), ImageError, right)
        return
    image = images.read_image(path, channels=wanted)
    assert (image.dtype, image.shape) == (np.float32, (2, 4, 5))
    assert (image == np.array(right)[:, None, None]).all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_channels_that_differ_must_be_named(tmp_path, count):
    pixels = np.full((20, 30, count), 7, np.uint16)
    pixels[3, 4, -1] += 1
    path = write(tmp_path / "a.tif", pixels, **channels("YXC"))
    with pytest.raises(ChannelsNeeded, match=rf"a\.tif: the image has {count} channels") as caught:
        images.read_image(path)
    assert caught.value.channels == ["red", "green", "blue", "3", "4"][:count]
    told = ["0 (red)", "1 (green)", "2 (blue)", "3", "4"][:count]
    assert "such as channels=('green', 'red'); gray is the mean of all" in str(caught.value)
    assert f"There are: {', '.join(told)}." in str(caught.value)
    with pytest.raises(ChannelsNeeded, match=r"such as channels=\('gray', 'none'\)"):
        images.read_image(write(tmp_path / "b.tif", pixels[..., 0]), channels=("green", "red"))
    mean = images.read_image(path, channels=("gray", "none"))
    assert mean[0, 3, 4] == pytest.approx(7 + 1 / count)
    with pytest.raises(ChannelsNeeded, match=rf"tif: \('red', '{count}'\) are not a channel"):
        images.read_image(path, channels=("red", str(count)))


NO_LABELS = [np.array([[bad, 1.0]]) for bad in (0.5, np.nan, np.inf)] + [np.array([[0, -3, 2]])]
NO_LABELS += [np.zeros(shape, int) for shape in ((4, 5, 3), (20,), (0, 4))]


@pytest.mark.parametrize("masks", NO_LABELS)
def test_what_is_no_label_is_neither_read_nor_written(tmp_path, masks):
    said = "masks are whole numbers from 0"
    expect(lambda: images.relabel(masks), ImageError, said)
    expect(lambda: images.write_labels(tmp_path / "a.tif", masks), ImageError, rf"a\.tif: {said}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_labels_written_are_read_again(tmp_path, name):
    masks = np.kron(RANDOM.integers(0, 65536, GREY), np.ones((20, 20), int)).astype(np.int32)
    images.write_labels(tmp_path / name, masks)
    ours, other = images.read_pixels(tmp_path / name), cv2.imread(str(tmp_path / name), -1)
    np.testing.assert_array_equal(ours, masks.astype(np.uint16), strict=True)
    np.testing.assert_array_equal(other, masks)
    assert (tmp_path / name).stat().st_size < masks.size * 2 / 20  # compressed


def test_many_labels_need_a_tiff(tmp_path):
    masks = np.array([[0, 65536], [1, 2]])
    for name in ("a.png", "a.jpg"):
        with pytest.raises(ImageError, match=r"as PNG, up to 65535, or as TIFF.*\.tif"):
            images.write_labels(tmp_path / name, masks)
    for many in (masks, masks + 2**32):
        images.write_labels(tmp_path / "a.tif", many)
        assert images.read_pixels(tmp_path / "a.tif").tolist() == many.tolist()


def test_hash_is_of_little_endian_bytes_in_c_order():
    pixels = np.array([[1, 2], [3, 4]], "<u2")
    # printf '\x01\x00\x02\x00\x03\x00\x04\x00' | sha256sum
    known = "ea99f710d9d0b8ba192295c969a63ed7ce8fc5743da20d2057fa2b6d2c404bfb"
    for same in (pixels, pixels.astype(">u2"), np.asfortranarray(pixels)):
        assert images.pixel_hash(same) == known
    assert images.pixel_hash(pixels.T) != known


@pytest.mark.real_data
def test_real_files_decode_to_the_published_pixels(real_data):
    with (real_data / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    contrast = [row for row in rows if row["dataset"] == "cellpose_contrast35"]
    firsts = {row["dataset"]: row for row in reversed(rows)}.values()
    assert len(contrast) == 35
    for row in [*contrast[::5], *firsts]:
        folder = real_data / row["dataset"]
        pixels, masks = (images.read_pixels(folder / row[name]) for name in ("image", "masks"))
        assert str(pixels.dtype) == row["dtype"]
        assert images.pixel_hash(pixels) == row["image_pixel_sha256"], row["image"]
        assert images.pixel_hash(masks) == row["masks_pixel_sha256"], row["masks"]
        assert images.read_masks(folder / row["masks"]).max() == int(row["cells"])
    livecell = next((real_data / "raw_samples" / "livecell").rglob("*.tif"))
    assert images.read_image(livecell).shape == (2, 520, 704)

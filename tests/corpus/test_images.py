"""Image and mask files that people have: whole, cut, damaged, of other kinds, and no files."""

import io
import os
import socket
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from scellseg_lib import load_dataset
from scellseg_lib.errors import AxesNeeded, DatasetError, ImageError, ScellsegWarning
from scellseg_lib.files import layout
from scellseg_lib.files.images import read_masks, read_pixels, relabel
from tests.corpus import expect
from tests.files.test_layout import make
from tests.files.test_seg_npy import BY_CELLPOSE

RANDOM = np.random.default_rng(0)
Y, X = np.mgrid[:48, :60]
GREY = ((np.sin(Y / 7) + np.cos(X / 9) + 2) * 500 + RANDOM.integers(0, 30, Y.shape)).astype("u2")
STACK, PAIR = np.stack([GREY + 7 * k for k in range(5)]), np.stack([GREY, GREY // 2])
COLOUR = np.stack([GREY // 9, GREY // 10, GREY // 11], axis=2).astype("u1")
CELLS = np.pad(np.kron(np.array([[1, 0, 2], [0, 0, 0], [3, 0, 4]], "u1"), np.ones((6, 6), "u1")), 2)
PLAIN = {"photometric": "minisblack", "metadata": None}


def tiff(pixels: np.ndarray, axes: str = "", **options) -> bytes:
    file = io.BytesIO()
    how = PLAIN | ({"metadata": {"axes": axes}} if axes else {})
    how |= {"photometric": "rgb"} if pixels.shape[2:] == (3,) else {}
    tifffile.imwrite(file, pixels, **how | options)
    return file.getvalue()


def other(pixels: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(pixels, "P")
        image.putpalette([7 * k % 256 for k in range(768)])
    (image.convert(mode) if mode == "CMYK" else image).save(file, kind, **options)
    return file.getvalue()


def edit(content: bytes, **tags) -> bytes:
    file = io.BytesIO(content)
    with tifffile.TiffFile(file, mode="r+b") as opened:
        for name, value in tags.items():
            tag = opened.pages[0].tags[name]
            tag.overwrite(value(tag.value) if callable(value) else value)
    return file.getvalue()


def without(content: bytes, name: str, value: int = 0) -> bytes:
    """A TIFF whose third segment has another offset, or another number of bytes."""
    return edit(content, **{name: lambda old: (*old[:2], value, *old[3:])})


def pyramid() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for step in (1, 2, 4):
            writer.write(GREY[::step, ::step], tile=(16, 16), **PLAIN)
    return file.getvalue()


def sub_pyramid() -> bytes:
    """Two channels of OME, each with a smaller one in a SubIFD."""
    file, planes = io.BytesIO(), np.stack([GREY, GREY + 1])
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(planes, subifds=1, photometric="minisblack", metadata={"axes": "CYX"})
        writer.write(planes[:, ::2, ::2], photometric="minisblack", subfiletype=1)
    return file.getvalue()


def retype(content: bytes, tag: int) -> bytes:
    """A TIFF whose tag is of a type that there is not."""
    at = content.index(struct.pack("<H", tag)) + 2
    return content[:at] + b"\x63\0" + content[at + 2 :]


TILES = {"tile": (16, 16)}
WHOLE = {
    "one strip": tiff(GREY),
    "strips": tiff(GREY, rowsperstrip=8),
    "tiles": tiff(GREY, **TILES),
    "BigTIFF": tiff(GREY, bigtiff=True, compression="lzw", **TILES),
    "pyramid": pyramid(),
    "planes apart": tiff(np.moveaxis(COLOUR, 2, 0).copy(), photometric="rgb", rowsperstrip=8),
    "by Pillow": other(COLOUR, "TIFF", compression="tiff_lzw"),
    "ImageJ": tiff(PAIR, "CYX", imagej=True),
    "ImageJ stack": tiff(STACK, "ZYX", imagej=True),
    "OME": tiff(PAIR, "CYX", ome=True),
    "packed OME": tiff(PAIR, "CYX", ome=True, compression="zlib"),
    "pages": tiff(STACK),
    "packed pages": tiff(STACK, compression="zlib"),
    **{
        f"{kind} {name}": tiff(COLOUR, compression=kind, **how)
        for kind in ("lzw", "zlib", "zstd", "packbits", "jpeg")
        for name, how in (("strips", {"rowsperstrip": 8}), ("tiles", TILES))
    },
    "PNG": imagecodecs.png_encode(GREY),
    "JPEG": imagecodecs.jpeg8_encode(COLOUR, level=90),
    "progressive": other(COLOUR, "JPEG", progressive=True),
    "restarts": other(COLOUR, "JPEG", restart_marker_rows=1),
    "_seg.npy": BY_CELLPOSE.read_bytes(),
}
READING = [{}, {"page": 0}, {"page": 1}, {"axes": "CYX"}]


def look(path: Path, content: bytes, **reading) -> np.ndarray | None:
    """Pixels of a file, or None where the library refuses it in words."""
    path.write_bytes(content)
    try:
        return read_masks(path) if content.startswith(b"\x93NUM") else read_pixels(path, **reading)
    except ImageError as error:
        return None if error.remedy and path.name in str(error) else np.zeros(0)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_file_is_read_as_it_was_or_refused(tmp_path, kind):
    whole, path = WHOLE[kind], tmp_path / "a.bin"
    several = kind.endswith(("pages", "stack", "OME", "ImageJ"))
    for reading in READING if several else READING[:1]:
        right, refused = look(path, whole, **reading), 0
        for part in range(20):
            for rest in (b"", bytes(len(whole) - part * len(whole) // 20)):
                if rest and not kind.endswith(("JPEG", "progressive", "restarts", "PNG")):
                    continue  # zeros are pixels, where a format has no check of its own
                found = look(path, whole[: part * len(whole) // 20] + rest, **reading)
                refused += found is None
                assert found is None or right is not None
                if found is not None:
                    np.testing.assert_array_equal(found, right)
        assert refused >= 9


def ome(channels: int) -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image'
        ' ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="60" SizeY='
        f'"48" SizeC="{channels}" SizeZ="1" SizeT="1"><TiffData/></Pixels></Image></OME>'
    )


OTHER_FILE = '<TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="absent.ome.tif">urn:uuid:'
OTHER_FILE += "00000001-0000-0000-0000-000000000000</UUID></TiffData></Pixels>"
IMAGEJ = "ImageJ=1.53\nimages={0}\nchannels={0}\n"
BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha">'
BOMB += "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in pairwise("abcdefghij"))
MISSING = "pixels are missing, the file may be cut off"
NO_LABELS = "whole numbers from 0.*one plane, not colours"
# Content of a file, and the pixels or the words of the error; then as masks.
PIXELS = [
    *((without(WHOLE["tiles"], f"Tile{n}"), MISSING) for n in ("Offsets", "ByteCounts")),
    *((without(WHOLE["zlib tiles"], f"Tile{n}"), MISSING) for n in ("Offsets", "ByteCounts")),
    *((without(WHOLE["lzw strips"], f"Strip{n}"), MISSING) for n in ("Offsets", "ByteCounts")),
    (without(WHOLE["tiles"], "TileOffsets", 10**6), MISSING),
    *((tiff(STACK[:3], description=IMAGEJ.format(n), **how), "3 pages|ImageJ|out of range")
      for n in (2, 5) for how in ({}, {"compression": "zlib"})),
    *((tiff(STACK[:n], description=ome(c)), "damaged.*OME series (is missing 1 frame|expected)")
      for n, c in ((1, 2), (3, 2), (2, 1), (2, 3))),
    (tiff(GREY, description=ome(2).replace("<TiffData/></Pixels>", OTHER_FILE)),
     "failed to read 'absent.ome"),
    (tiff(STACK[:2], description=ome(2)), np.moveaxis(STACK[:2], 0, 2)),
    (tiff(GREY, description='{"shape": ' + "[" * 99_999), "damaged"),
    *((tiff(GREY, description=text), GREY) for text in (
        BOMB + "]><OME>&j;</OME>", b"\x81 of no alphabet", ome(1).replace("<Pixels", "<Pix<els"))),
    (retype(tiff(GREY, extratags=[(65000, "I", 1, 5, True)]), 65000), GREY),
    (retype(tiff(GREY), 258), "damaged.*258"),
    *((edit(WHOLE["one strip"], StripByteCounts=n), GREY) for n in (0, 5, 10**6)),
    (edit(WHOLE["jpeg tiles"], TileByteCounts=lambda n: (n[0], n[1] - 40, *n[2:])), MISSING),
    (sub_pyramid(), np.stack([GREY, GREY + 1], 2)),
    (edit(WHOLE["zlib strips"], ImageWidth=10**9, ImageLength=10**9), "damaged|megapixels"),
    (tiff(np.zeros((4, 5), "c8")), "type complex64 and shape"),
    (tiff(GREY)[:8], "damaged.*Fetch or export"),
    (b"", "0 bytes"),
    (b"not an image", "not a PNG, TIFF or JPEG.*OME-TIFF.*Bio-Formats"),
    (b"BM" + bytes(60), "not a PNG, TIFF or JPEG"),
    (other(COLOUR, "JPEG", "CMYK"), "CMYK"),
    (other(CELLS, "PNG", "P")[:-30], "damaged"),
]  # fmt: skip
LABELS = [
    *((tiff(CELLS.astype(kind) * by), CELLS) for kind, by in (
        ("u1", 9), ("u4", 10**9), ("i4", 5 * 10**8), ("u8", 2**60), ("i8", 2**60), ("f8", 2.0**60),
        ("f4", 2.0**30), ("f2", 2))),
    (tiff(np.array([[0, 900, 900], [7, 0, 40_000]], "u2")), [[0, 2, 2], [1, 0, 3]]),
    (tiff(np.array([[3, 3], [5, 9]], "u2")), [[1, 1], [2, 3]]),
    (tiff(np.zeros((2, 2), "u1")), [[0, 0], [0, 0]]),

    (tiff(CELLS.astype("u8") * 2**62), NO_LABELS),
    (tiff(CELLS.astype("f8") * 2.0**62), NO_LABELS),
    (tiff(CELLS - 1.0), NO_LABELS),
    (tiff(CELLS / 2), NO_LABELS),
    *((other(CELLS, "PNG", "P", **how), CELLS) for how in ({}, {"bits": 4}, {"transparency": 0})),
    (other(np.stack([CELLS] * 3, 2), "PNG"), NO_LABELS),
    (other(CELLS, "JPEG"), "JPEG does not keep labels"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(PIXELS) + len(LABELS)))
def test_what_a_file_holds_is_read_or_said(tmp_path, case):
    content, right = [*PIXELS, *LABELS][case]
    read = read_pixels if case < len(PIXELS) else read_masks
    (tmp_path / "a.png").write_bytes(content)
    words = rf"a\.png: .*({right})" if isinstance(right, str) else ""
    expect(lambda: read(tmp_path / "a.png"), ImageError if words else right, words)


def test_the_limit_in_megapixels_is_said_and_can_be_changed(tmp_path, monkeypatch):
    path, pixels, png = tmp_path / "a.png", np.zeros((2000, 2000), "u1"), WHOLE["PNG"]
    header = png[12:16] + struct.pack(">II", 30_000, 30_000) + png[24:29]  # as if it were so large
    path.write_bytes(png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:])
    expect(lambda: read_pixels(path), ImageError, "900 mega.* 400.*SCELLSEG_MEGAPIXELS")
    for content in (*(other(pixels, kind) for kind in ("PNG", "JPEG", "TIFF")), tiff(pixels)):
        path.write_bytes(content)
        monkeypatch.setenv("SCELLSEG_MEGAPIXELS", "3")
        expect(lambda: read_pixels(path), ImageError, "4 mega.* 3.*SCELLSEG_MEGAPIXELS")
        monkeypatch.setenv("SCELLSEG_MEGAPIXELS", "4")
        assert read_pixels(path).shape == (2000, 2000)
    path.write_bytes(tiff(np.stack([pixels] * 3), "ZYX", imagej=True))
    expect(lambda: read_pixels(path), AxesNeeded, "z-stack")  # before it is too large
    assert read_pixels(path, page=1).shape == (2000, 2000)
    monkeypatch.setenv("SCELLSEG_MEGAPIXELS", "many")
    expect(lambda: read_pixels(path, page=1), ImageError, "the limit, many.*SCELLSEG_MEGAPIXELS")


def test_an_image_in_several_files_has_the_pages_of_all(tmp_path):
    names, planes = ("a.ome.tif", "b.ome.tif"), ""
    marks = [f"urn:uuid:0000000{k}-0000-0000-0000-000000000000" for k in range(2)]
    for k in range(4):
        file = f'<UUID FileName="{names[k // 2]}">{marks[k // 2]}</UUID>'
        planes += f'<TiffData FirstC="{k}" IFD="{k % 2}" PlaneCount="1">{file}</TiffData>'
    for k, name in enumerate(names):
        text = ome(4).replace("<TiffData/>", planes).replace("<OME ", f'<OME UUID="{marks[k]}" ')
        (tmp_path / name).write_bytes(tiff(STACK[2 * k : 2 * k + 2], description=text))
    np.testing.assert_array_equal(read_pixels(tmp_path / names[0]), np.moveaxis(STACK[:4], 0, 2))
    (tmp_path / names[1]).write_bytes((tmp_path / names[1]).read_bytes()[:-4000])
    expect(lambda: read_pixels(tmp_path / names[0]), ImageError, "failed to read 'b.ome")


# What is no file that can be read, and how it is made.
NO_FILES = {
    "a folder": Path.mkdir,
    "a folder, pipe": os.mkfifo,
    "a folder, pipe or": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "a folder, pipe or device": lambda path: path.symlink_to("/dev/zero"),
    "No such": lambda path: None,
    "Too many levels": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("why", NO_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, why):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    NO_FILES[why](Path("x.png"))
    for read in (read_pixels, read_masks):
        expect(lambda read=read: read("x.png"), ImageError, rf"x\.png: .*{why}")
        for name in ("a\0b.png", "x" * 300 + ".png"):  # no file can have such a name
            expect(lambda read=read, name=name: read(name), ImageError, "cannot be read")


@pytest.mark.parametrize("name", ["x" * 224, "a\nb", "a b'c$\\frac$<i>", "ü\u202e", "\udcff", "a_"])
def test_odd_names_are_found_and_read(tmp_path, name):
    for ending, content in ((".png", WHOLE["PNG"]), ("_masks.tif", tiff(np.ones_like(GREY)))):
        (tmp_path / f"{name}{ending}").write_bytes(content)
    (one,) = layout.find_samples(tmp_path)
    assert (one.name, one.split) == (name, "shot")
    np.testing.assert_array_equal(read_pixels(one.image), GREY)


# Masks, and what a warning says of them; or nothing.
DOUBTS = [
    (CELLS, ""),
    (CELLS > 0, "1 of 1 labels lie in pieces: label 1 in 4.*a class"),
    (np.where(CELLS, 2, 1), "1 of 2 labels lie in pieces: label 2 in 4"),
    (np.where(CELLS % 2, 1, (CELLS > 0) * 2), "2 of 2 labels lie in pieces: label 1 in 2, label 2"),
    (np.where(CELLS == 4, 3, CELLS), "1 of 3 labels lie in pieces: label 3 in 2.*a class"),
    (np.where(CELLS, CELLS, 255), "label 255 reaches all edges.*on 0"),
    (np.where(CELLS == 1, 1, 7), "label 7 reaches all edges"),
    (np.full((9, 9), 1), "label 1 reaches all edges"),
    (np.pad(np.ones((9, 9), int), 1), ""),
    (np.array([[3, 3], [5, 9]]), ""),  # cells may lie side by side, without background
    (np.eye(9, dtype=int), ""),
    (np.where(np.indices(CELLS.shape).sum(0) == 0, 4, CELLS), ""),  # a stray pixel
]


@pytest.mark.parametrize(("masks", "words"), DOUBTS)
def test_classes_pieces_and_a_labelled_background_are_told(recwarn, masks, words):
    read = relabel(np.asarray(masks, np.int64), where="a.tif")
    assert ((read[:, :, None] == read.ravel()) == (masks[:, :, None] == masks.ravel())).all()
    told = [str(one.message) for one in recwarn if one.category is ScellsegWarning]
    assert len(told) == bool(words)
    if words:
        expect(lambda: relabel(masks, where="a.tif"), ScellsegWarning, rf"a\.tif: .*{words}")


def test_a_page_is_that_of_the_masks_too(tmp_path):
    planes = [np.roll(CELLS, k, 1) for k in range(3)]
    for name, masks in (("a", np.stack(planes)), ("b", planes[0])):
        (tmp_path / f"{name}.tif").write_bytes(tiff(np.stack(planes) * 50))
        (tmp_path / f"{name}_masks.tif").write_bytes(tiff(masks))
    several, one = load_dataset(tmp_path, page=1)
    for sample, plane in ((several, planes[1]), (one, planes[0])):
        np.testing.assert_array_equal(sample.image[0], planes[1] * 50)
        np.testing.assert_array_equal(sample.masks > 0, plane > 0)
    expect(lambda: load_dataset(tmp_path)[0].masks, ImageError, "page=")


FOREIGN = "a.czi b.ND2 c.lif d.lsm e.bmp f.ome.zarr g.oib h.vsi i.svs j.h5 k.ilp l.dv m.stk"
# Files of a folder; what is told as not read; the images.
FOLDERS = [
    (f"x.tif notes.txt classes.csv {FOREIGN}", FOREIGN.split(), ["x"]),
    (f"shot/x.tif shot/x_masks.tif query/y.tif {' query/'.join(['', *FOREIGN.split()])}",
     FOREIGN.split(), ["x", "y"]),
    (FOREIGN, FOREIGN.split(), None),
    ("x.tif x_outlines.png y_outlines.png", ["y_outlines.png"], ["x"]),
    ("x_img.tif y.tif z.png w.jpg", [], ["w", "x", "y", "z"]),
]  # fmt: skip


@pytest.mark.parametrize(("names", "left", "images"), FOLDERS)
def test_what_is_not_read_in_a_folder_is_named(tmp_path, recwarn, names, left, images):
    make(tmp_path, *names.split())
    if images is None:
        words = f"no images, but .*{', '.join(left)}.*Bio-Formats"
        expect(lambda: layout.list_images(tmp_path), DatasetError, words)
        return
    for find in (layout.list_images, layout.find_samples, layout.find_images):
        assert [one[0] if isinstance(one, tuple) else one.name for one in find(tmp_path)] == images
    told = [str(one.message) for one in recwarn if one.category is ScellsegWarning]
    assert bool(told) == bool(left)
    assert all(f": {', '.join(left)}. Save it as OME-TIFF" in one for one in told)

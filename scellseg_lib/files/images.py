"""Image and mask files in, label files out; what a file leaves open is asked for, never guessed."""

import hashlib
import os
import re
import warnings
from contextlib import ExitStack
from io import BytesIO
from logging import LogRecord
from os import PathLike
from pathlib import Path
from threading import get_ident
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from skimage.measure import label
from skimage.segmentation import relabel_sequential

from scellseg_lib.atomic import whole
from scellseg_lib.errors import AxesNeeded, ChannelsNeeded, ImageError, ScellsegWarning, telling
from scellseg_lib.files.layout import CONVERT
from scellseg_lib.files.seg_npy import read_seg
from scellseg_lib.samples import INT64_MAX, as_labels

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_PNG, _JPEG, _NUMPY = b"\x89PNG", b"\xff\xd8\xff", b"\x93NUM"
_DAMAGED = "Fetch or export the file again."
# What tifffile says where it puts zeros or a part in the place of pixels; 256 to 347 are tags.
_MADE_UP = re.compile(
    r"> (\w+ series (?!raised)|invalid (shaped|page)|LSM|MMStack (series|is missing)|missing Byte)"
    r"|<(asarray|_load)|Tag (25[6-9]|262|266|27[0378]|279|284|317|32[2-5]|33[89]|347) @\d+> inv"
)


def read_pixels(
    path: str | PathLike[str], *, axes: str | None = None, page: int | None = None
) -> np.ndarray:
    """Stored values of a 2D PNG, JPEG or TIFF, in the file's own type: [H, W] or [H, W, C].

    The content says which. Alpha is dropped; a TIFF's colour table and inversion, being for
    display, are ignored. ImageError for a file that is missing or damaged.

    ``axes`` are those of a TIFF, a letter each, such as "CYX", where it does not say them itself or
    says them wrongly: Y, X, and C or S for channels; others must be of length 1. ``page`` is the
    one to read, from 0; AxesNeeded where there are several that nobody says to be channels.
    """
    signature = _read_signature(path := Path(path))
    with telling("the file is damaged or of an unsupported kind", path, _DAMAGED, ImageError):
        if signature in _TIFF:
            pixels = _read_tiff(path, axes, page)
        elif signature == _PNG:
            _check_count(PngImageFile(BytesIO(path.read_bytes())).size)
            pixels = imagecodecs.png_decode(path.read_bytes())
            if pixels.shape[2:] in ((2,), (4,)):  # the last is alpha by PNG's definition
                pixels = pixels[..., :-1]
        elif signature.startswith(_JPEG):
            picture = JpegImageFile(path)
            _check_count(picture.size)
            pixels = np.asarray(picture)  # an error if it is cut, where other decoders fill in grey
            if picture.mode == "CMYK":
                raise ImageError("CMYK colours are not intensities", remedy="Export as RGB.")
        else:
            raise ImageError("this is not a PNG, TIFF or JPEG file", remedy=CONVERT)
        if pixels.size == 0 or pixels.dtype.kind not in "buif":
            what = f"pixels of type {pixels.dtype} and shape {pixels.shape} are not supported"
            raise ImageError(what, remedy="Export it as integers or real floats.")
    pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    return pixels.astype(np.uint8) if pixels.dtype.kind == "b" else pixels


def read_image(
    path: str | PathLike[str], *, channels: tuple[str, str] | None = None, **reading: Any
) -> np.ndarray:
    """Plane to segment and nucleus plane of a file: float32[2, H, W]; ``reading``: `read_pixels`.

    Each of ``channels`` is "red", "green", "blue" (the first, second, third channel), an index "0"
    to "N-1", or "gray" (the mean of all channels); the second may be "none": zeros. None: the only
    channel, or that which all are equal to, and no nuclei. ChannelsNeeded where they differ, or one
    is not there. ImageError if values are not finite as float32.
    """
    stack = np.atleast_3d(read_pixels(path, **reading))
    names = ["red", "green", "blue", *map(str, range(3, stack.shape[2]))][: stack.shape[2]]
    if channels is None:
        if not np.array_equal(stack[..., 1:], stack[..., :-1], equal_nan=True):
            what = f"the image has {len(names)} channels that differ, and none is named"
            raise ChannelsNeeded(what, names, where=path)
        channels = ("0", "none")
    known = {called: stack[..., k] for k, name in enumerate(names) for called in (name, str(k))}
    known |= {"gray": stack.mean(axis=2, dtype=np.float64)} if "gray" in channels else {}
    if len(channels) != 2 or channels[0] not in known or channels[1] not in [*known, "none"]:
        what = f"{channels!r} are not a channel to segment and one of nuclei of this image"
        raise ChannelsNeeded(what, names, where=path)
    nuclei = known.get(channels[1], np.zeros(stack.shape[:2]))
    with np.errstate(over="ignore"):  # what overflows is counted below
        image = np.array([known[channels[0]], nuclei], np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(image))):
        what = f"{bad} pixels are NaN, infinite or beyond the range of float32"
        raise ImageError(what, where=path, remedy="Replace them, by the background for example.")
    return image


def read_masks(path: str | PathLike[str], *, page: int | None = None) -> np.ndarray:
    """Read a label image, or the masks of Cellpose's ``_seg.npy``: int32[H, W], see `relabel`."""
    return relabel(read_labels(path, page=page), where=path)


def read_labels(path: str | PathLike[str], *, page: int | None = None) -> np.ndarray:
    """Labels of a file of masks (an indexed PNG's indices), or of its ``page``: integers[H, W]."""
    signature = _read_signature(path := Path(path))
    if signature.startswith(_JPEG):
        raise ImageError("JPEG does not keep labels", where=path, remedy="Save them as PNG.")
    try:
        labels = read_seg(path)["masks"] if signature == _NUMPY else read_pixels(path)
    except AxesNeeded:
        labels = read_pixels(path, page=page)
    if signature == _PNG and (picture := PngImageFile(BytesIO(path.read_bytes()))).mode == "P":
        labels = np.asarray(picture)
    return as_labels(labels, path, largest=INT64_MAX)


def relabel(masks: np.ndarray, *, where: str | PathLike[str] = "masks") -> np.ndarray:
    """Number labels 1 to n in their order, int32[H, W]; warn of labels in pieces, or all around."""
    masks = as_labels(masks, where, largest=INT64_MAX)
    contiguous, _, old = relabel_sequential(masks)
    pieces = label(masks, connectivity=2)
    owners, areas = np.zeros(pieces.max() + 1, np.int64), np.bincount(pieces.ravel())
    owners[pieces] = contiguous
    largest = np.zeros(contiguous.max() + 1)
    np.maximum.at(largest, owners, areas)
    counts = np.bincount(owners[areas >= largest[owners] / 10])[1:]  # stray pixels are no cells
    split = [f"label {old[k]} in {n}" for k, n in enumerate(counts, 1) if n > 1]
    around, what = {*masks[0]} & {*masks[-1]} & {*masks[:, 0]} & {*masks[:, -1]} - {0}, ""
    remedy = "Each label counts as one cell, on 0: number the pieces apart where it is a class."
    if split:
        what = f"{len(split)} of {len(counts)} labels lie in pieces: {', '.join(split[:3])}"
    elif around and (len(counts) > 1 or masks.all()):
        what = f"label {min(around)} reaches all edges of the image"
    if what:
        warnings.warn(ScellsegWarning(what, where=where, remedy=remedy), stacklevel=3)
    return contiguous.astype(np.int32)


def write_labels(path: str | PathLike[str], masks: np.ndarray) -> None:
    """Write a label image as it is: a 16-bit PNG, or a TIFF, of more bits where 16 are too few."""
    path = Path(path)
    masks = as_labels(masks, path, largest=INT64_MAX)
    suffix, depth = path.suffix.lower(), np.promote_types("u2", np.min_scalar_type(masks.max()))
    if suffix not in (".tif", ".tiff") and (suffix != ".png" or depth != np.uint16):
        what = "labels are written as PNG, up to 65535, or as TIFF"
        raise ImageError(what, where=path, remedy="Name the file .tif.")
    labels = np.ascontiguousarray(masks, depth)
    with whole(path) as part:
        if suffix == ".png":
            part.write_bytes(imagecodecs.png_encode(labels))
        else:
            tifffile.imwrite(part, labels, compression="zlib", photometric="minisblack", ome=False)


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of the decoded pixels: C order, little endian, without the shape."""
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


def _read_signature(path: Path) -> bytes:
    """First four bytes of a file, by which its format is known."""
    with telling("the file cannot be read", path, "Check the path.", ImageError):
        if path.exists() and not path.is_file():
            raise ImageError("a folder, pipe or device is no file", remedy="Give one.")
        if signature := np.fromfile(path, "u1", 4).tobytes():
            return signature
        raise ImageError("the file is empty (0 bytes)", remedy=_DAMAGED)


def _check_count(shape: tuple[int, ...]) -> None:
    """Refuse an image before it asks for more memory than there may be."""
    limit, asked = os.environ.get("SCELLSEG_MEGAPIXELS") or "400", np.prod(shape, dtype=float) / 1e6
    if not re.fullmatch("[0-9]+([.][0-9]+)?", limit) or asked > float(limit):
        what = f"{asked:.0f} megapixels are not within the limit, {limit}"
        remedy = "Crop it, or set the environment variable SCELLSEG_MEGAPIXELS as memory allows."
        raise ImageError(what, remedy=remedy)


def _read_tiff(path: Path, axes: str | None, page: int | None) -> np.ndarray:
    """Decode the one image of a TIFF to [H, W] or [H, W, C], without alpha; heed tifffile's log."""
    thread = get_ident()

    def heed(record: LogRecord) -> bool:
        if record.thread == thread and _MADE_UP.search(record.getMessage()):
            raise ValueError(record.getMessage())
        return record.thread != thread

    with ExitStack() as closing:
        tifffile.logger().addFilter(heed)
        closing.callback(tifffile.logger().removeFilter, heed)
        tiff = closing.enter_context(tifffile.TiffFile(path))
        count, series = len(tiff.pages), tiff.series if page is None else []
        if len(series) > 1:
            shapes = ", ".join(str(one.shape) for one in series)
            raise AxesNeeded(f"the file holds {len(series)} images ({shapes})", count)
        if page is not None and not 0 <= page < count:
            raise AxesNeeded(f"there is no page {page}, the file has {count}", count)
        chosen: Any = series[0] if page is None else tiff.pages[page]
        axes, known = chosen.axes if axes is None else axes.upper(), chosen.keyframe
        several = _name_channels(axes, chosen.shape, count)
        _check_count(chosen.shape)
        if page is None:
            smaller = sum(not one.is_subifd for level in chosen.levels[1:] for one in level.pages)
            elsewhere = sum(one.parent is not tiff for one in chosen.pages)  # in other files
            if 1 < count != chosen.size / known.size + smaller - elsewhere:
                raise ValueError(f"it has {count} pages, but tells of an image of {chosen.shape}")
        for one in chosen.pages if page is None else [chosen]:
            _check_segments(one, known)
        pixels = chosen.asarray()
    others = "".join(axis for axis in axes if axis not in f"YX{several}")  # of length 1
    pixels = tifffile.transpose_axes(pixels, axes, f"{others}YX{several}")[(0,) * len(others)]
    # Of ExtraSamples, 1 and 2 are associated and unassociated alpha.
    alpha = sum(sample in (1, 2) for sample in known.extrasamples) if several == "S" else 0
    return pixels[..., :-alpha] if alpha else pixels


def _name_channels(axes: str, shape: tuple[int, ...], count: int) -> str:
    """Axis of the channels, or none; AxesNeeded where there are more, or the axes are not known."""
    if not set("YX") <= set(axes) or len(axes) != len(shape) or len(set(axes)) != len(axes):
        raise AxesNeeded(f"axes {axes!r} do not name the axes of an image of shape {shape}", count)
    lengths = {axis: n for axis, n in zip(axes, shape, strict=True) if axis in "YX" or n > 1}
    if (several := "".join(axis for axis in lengths if axis not in "YX")) in ("", "C", "S"):
        return several
    kinds = {"Z": "z-stack", "T": "time series"}
    known = [f"a 2D image is needed, this is a {kinds[axis]}" for axis in kinds if axis in several]
    size = " x ".join(f"{axis} {length}" for axis, length in lengths.items())
    raise AxesNeeded(f"{[*known, 'the file does not say what its pages are'][0]} ({size})", count)


def _check_segments(page: Any, known: Any) -> None:
    """Refuse a page that lacks strips or tiles, or ends of them."""
    file, starts, lengths = page.parent.filehandle, page.dataoffsets, page.databytecounts
    if known.is_contiguous:  # and read as one, whatever its numbers of bytes
        starts, lengths = starts[:1], [known.nbytes]
    elif len(starts) != np.prod(known.chunked):
        lengths = [0] * len(starts)
    jpeg = np.memmap(file.path, mode="r") if known.compression == 7 else None  # else grey fills it
    for start, length in zip(starts, lengths, strict=True):
        ends = jpeg is None or bytes(jpeg[start : start + length]).rstrip(b"\0")[-2:] == b"\xff\xd9"
        if min(start, length) < 1 or start + length > file.size or not ends:
            raise ValueError("pixels are missing, the file may be cut off")

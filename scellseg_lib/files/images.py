"""Image and mask files in, label files out.

PNG, TIFF and JPEG are told apart by their content, and decoded at their full depth. What a file
leaves open, such as the meaning of the pages of a plain TIFF, is asked for and never guessed.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from skimage.measure import label
from skimage.segmentation import relabel_sequential

from scellseg_lib import errors
from scellseg_lib.atomic import whole
from scellseg_lib.errors import AxesNeeded, ChannelsNeeded, ImageError, ScellsegError
from scellseg_lib.files.layout import CONVERT
from scellseg_lib.files.seg_npy import read_seg
from scellseg_lib.samples import INT64_MAX, as_labels

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_PNG, _JPEG, _NUMPY = b"\x89PNG", b"\xff\xd8\xff", b"\x93NUM"
_DAMAGED = "Fetch or export the file again."
_MADE_UP = re.compile(r"> (\w+ series|LSM file|MMStack (series|is missing)|<asarray>)")


def read_pixels(
    path: str | PathLike[str], *, axes: str | None = None, page: int | None = None
) -> np.ndarray:
    """Stored values of a 2D PNG, JPEG or TIFF, in the file's own type: [H, W] or [H, W, C].

    Alpha is dropped; a TIFF's colour table and inversion are ignored, being for display.
    ImageError for a file that is missing or damaged.

    Parameters
    ----------
    axes : str, optional
        Meaning of a TIFF's axes, one letter each, such as ``"CYX"``, where the file does not say
        so itself or says it wrongly: Y, X, and C or S for channels; others must be of length 1.
    page : int, optional
        The one page of a TIFF to read, from 0. AxesNeeded where there are several, and neither the
        file nor ``axes`` says that they are channels.
    """
    path = Path(path)
    signature = _read_signature(path)
    try:
        if signature in _TIFF:
            pixels = _read_tiff(path, axes, page)
        elif signature == _PNG:
            with PngImageFile(path) as header:
                _check_count(header.size)
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
    except ImageError as error:
        error.where = path
        raise
    except Exception as error:  # decoders raise a dozen types of their own
        what = f"the file is damaged or of an unsupported kind ({error})"
        raise ImageError(what, where=path, remedy=_DAMAGED) from error
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
    if len(channels) != 2 or channels[0] == "none":
        what = f"channels {channels!r} do not name a plane to segment and a nucleus plane"
        raise ChannelsNeeded(what, names, where=path)
    known = {called: k for k, name in enumerate(names) for called in (name, str(k))}
    image = np.zeros((2, *stack.shape[:2]), np.float32)
    for name, plane in zip(channels, image, strict=True):
        with np.errstate(over="ignore"):  # what overflows is counted below
            if name == "gray":
                plane[:] = stack.mean(axis=2, dtype=np.float64)
            elif name in known:
                plane[:] = stack[..., known[name]]
            elif name != "none":
                what = f"channel {name!r} was asked for, the image has {len(names)}"
                raise ChannelsNeeded(what, names, where=path)
    if bad := int(np.count_nonzero(~np.isfinite(image))):
        what = f"{bad} pixels are NaN, infinite or beyond the range of float32"
        raise ImageError(what, where=path, remedy="Replace them, by the background for example.")
    return image


def read_masks(path: str | PathLike[str], *, page: int | None = None) -> np.ndarray:
    """Read a label image, or the masks of Cellpose's ``_seg.npy``: int32[H, W], see `relabel`.

    The labels of an indexed PNG are its indices. ``page``, that of the image, is read of several.
    """
    path = Path(path)
    signature = _read_signature(path)
    if signature == _NUMPY:
        return relabel(read_seg(path)["masks"], where=path)
    if signature.startswith(_JPEG):
        raise ImageError("JPEG does not keep labels", where=path, remedy="Save them as PNG.")
    try:
        masks = read_pixels(path)
    except AxesNeeded:
        if page is None:
            raise
        masks = read_pixels(path, page=page)
    if masks.ndim == 3 and signature == _PNG:
        indices = np.asarray(PngImageFile(path))  # of what is no indexed PNG colours
        masks = indices if indices.ndim == 2 else masks
    return relabel(masks, where=path)


def relabel(masks: np.ndarray, *, where: str | PathLike[str] = "masks") -> np.ndarray:
    """Check labels and number them 1 to n without gaps, in their old order: int32[H, W].

    Warns of labels in pieces, as classes and binary masks have them, and of a labelled background.
    """
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
    if split:
        what = f"{len(split)} of {len(counts)} labels lie in pieces: {', '.join(split[:3])}"
    elif around and (len(counts) > 1 or masks.all()):
        what = f"label {min(around)} reaches all edges of the image"
    if what:
        remedy = "Each label counts as one cell: number the cells, on 0, if it stands for a class."
        warnings.warn(errors.ScellsegWarning(what, where=where, remedy=remedy), stacklevel=2)
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
    with whole(path) as scratch:
        if suffix == ".png":
            scratch.write_bytes(imagecodecs.png_encode(labels))
        else:
            tifffile.imwrite(
                scratch, labels, compression="zlib", photometric="minisblack", ome=False
            )


@contextmanager
def survive(failed: dict[str, ScellsegError], key: str, name: str) -> Iterator[None]:
    """Note an error as the failure of the image `name`: the others go on."""
    try:
        yield
    except Exception as error:
        remedy, what = "The other images are not affected.", str(error) or type(error).__name__
        told = error if isinstance(error, ScellsegError) else ImageError(what, remedy=remedy)
        told.where = name if told.where is None else told.where
        failed[key] = told


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of the decoded pixels: C order, little endian, without the shape."""
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


def _read_signature(path: Path) -> bytes:
    """First four bytes of a file, by which its format is known."""
    try:
        if path.exists() and not path.is_file():
            raise ImageError("a folder, pipe or device is no file", where=path, remedy="Give one.")
        with path.open("rb") as file:
            signature = file.read(4)
    except (OSError, ValueError) as error:
        what = f"the file cannot be read ({getattr(error, 'strerror', error)})"
        raise ImageError(what, where=path, remedy="Check the path.") from error
    if not signature:
        raise ImageError("the file is empty (0 bytes)", where=path, remedy=_DAMAGED)
    return signature


def _check_count(shape: tuple[int, ...]) -> None:
    """Refuse an image before it asks for more memory than there may be."""
    limit, asked = float(os.environ.get("SCELLSEG_MEGAPIXELS") or 400), np.prod(shape) / 1e6
    if asked > limit:
        remedy = "Crop it, or set the environment variable SCELLSEG_MEGAPIXELS if memory allows it."
        raise ImageError(
            f"{asked:.0f} megapixels are more than the limit, {limit:g}", remedy=remedy
        )


def _read_tiff(path: Path, axes: str | None, page: int | None) -> np.ndarray:
    """Decode the one image of a TIFF to [H, W] or [H, W, C], without alpha; heed tifffile's log."""

    def heed(record: Any) -> Any:
        if record.levelname == "ERROR" or _MADE_UP.search(record.getMessage()):
            raise ValueError(record.getMessage())

    with ExitStack() as closing:
        tifffile.logger().addFilter(heed)
        closing.callback(tifffile.logger().removeFilter, heed)
        tiff = closing.enter_context(tifffile.TiffFile(path))
        count, series = len(tiff.pages), tiff.series
        if page is None and len(series) > 1:
            shapes = ", ".join(str(one.shape) for one in series)
            raise AxesNeeded(f"the file holds {len(series)} images ({shapes})", count)
        if page is not None and not 0 <= page < count:
            raise AxesNeeded(f"there is no page {page}, the file has {count}", count)
        chosen: Any = series[0] if page is None else tiff.pages[page]
        planes, known = [*chosen.pages] if page is None else [chosen], chosen.keyframe
        _check_count(chosen.shape)
        smaller = 0 if page is not None else sum(len(one.pages) for one in chosen.levels[1:])
        if page is None and 1 < count - smaller != chosen.size / known.size:
            raise ValueError(f"it has {count} pages, but tells of an image of {chosen.shape}")
        for one in planes:
            starts, lengths = np.array(one.dataoffsets), np.array(one.databytecounts)
            if min(*starts, *lengths) < 1 or max(starts + lengths) > one.parent.filehandle.size:
                raise ValueError("pixels are missing, the file may be cut off")
        pixels, axes = chosen.asarray(), chosen.axes if axes is None else axes.upper()
    if not set("YX") <= set(axes) or len(axes) != pixels.ndim or len(set(axes)) != len(axes):
        what = f"axes {axes!r} do not name the axes of an image of shape {pixels.shape}"
        raise AxesNeeded(what, count)
    kept = [k for k, axis in enumerate(axes) if axis in "YX" or pixels.shape[k] > 1]
    axes, pixels = "".join(axes[k] for k in kept), pixels.reshape([pixels.shape[k] for k in kept])
    several = [axis for axis in axes if axis not in "YX"]
    if several not in ([], ["C"], ["S"]):
        what = "the file does not say what its pages are"
        for axis, kind in (("T", "time series"), ("Z", "z-stack")):
            what = f"a 2D image is needed, this is a {kind}" if axis in several else what
        size = " x ".join(
            f"{axis} {length}" for axis, length in zip(axes, pixels.shape, strict=True)
        )
        raise AxesNeeded(f"{what} ({size})", count)
    pixels = tifffile.transpose_axes(pixels, axes, "".join(["YX", *several]))
    # Of ExtraSamples, 1 and 2 are associated and unassociated alpha.
    alpha = sum(sample in (1, 2) for sample in known.extrasamples) if several == ["S"] else 0
    return pixels[..., :-alpha] if alpha else pixels

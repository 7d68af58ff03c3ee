"""Image and mask files in, label files out.

PNG, TIFF and JPEG are told apart by their content, not by their names, and decoded at their full
depth: 16-bit RGB PNGs stay 16 bits (many readers cut them to 8). What a file leaves open, such as
the meaning of the pages of a plain TIFF, is asked for and never guessed.
"""

from __future__ import annotations

import hashlib
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile

from scellseg_lib.atomic import whole
from scellseg_lib.errors import ImageError
from scellseg_lib.files import tiff
from scellseg_lib.files.seg_npy import read_seg
from scellseg_lib.samples import INT64_MAX, as_labels

_COLOURS = {"red": 0, "green": 1, "blue": 2}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_PNG, _JPEG, _NUMPY = b"\x89PNG", b"\xff\xd8\xff", b"\x93NUM"
_DAMAGED = "Fetch or export the file again."


def read_pixels(
    path: str | PathLike[str], *, axes: str | None = None, page: int | None = None
) -> np.ndarray:
    """Stored values of a 2D image, in the file's own type.

    Alpha is dropped. The colour table and the inversion of a TIFF are ignored: in microscopy they
    are for display, and the stored values are the intensities or the labels. A palette PNG gives
    its colours.

    Parameters
    ----------
    path : path
        A PNG, JPEG or TIFF file (ImageJ, OME and BigTIFF among them).
    axes : str, optional
        Meaning of a TIFF's axes, one letter each, such as ``"CYX"``, where the file does not say
        so itself or says it wrongly: Y, X, and C or S for channels; others must be of length 1.
    page : int, optional
        The one page of a TIFF to read, from 0: a plane of a stack or of a series.

    Returns
    -------
    ndarray, [H, W] or [H, W, C]
        Booleans come as uint8.

    Raises
    ------
    ImageError
        If the file is missing, damaged, empty, not 2D, or leaves open what its pages are.
    """
    path = Path(path)
    signature = _signature(path)
    try:
        if signature in _TIFF:
            pixels = tiff.read_tiff(path, axes, page)
        elif signature == _PNG:
            pixels = imagecodecs.png_decode(path.read_bytes())
            if pixels.shape[2:] in ((2,), (4,)):  # the last is alpha by PNG's definition
                pixels = pixels[..., :-1]
        elif signature.startswith(_JPEG):
            pixels = _decode_jpeg(path.read_bytes())
        else:
            raise ImageError("this is not a PNG, TIFF or JPEG file", remedy="Export it as TIFF.")
        if pixels.size == 0:
            what = f"the image has no pixels (shape {pixels.shape})"
            raise ImageError(what, remedy=_DAMAGED)
        if pixels.dtype.kind not in "buif":
            remedy = "Export it as integers or real floats."
            raise ImageError(f"pixels of type {pixels.dtype} are not supported", remedy=remedy)
    except ImageError as error:
        raise ImageError(error.what, where=path, remedy=error.remedy) from None
    except Exception as error:  # decoders raise a dozen types of their own
        raise ImageError(
            f"the file is damaged or of an unsupported kind ({error})", where=path, remedy=_DAMAGED
        ) from error
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    return pixels.astype(np.uint8) if pixels.dtype.kind == "b" else pixels


def read_image(
    path: str | PathLike[str],
    *,
    channels: tuple[str, str] | None = None,
    axes: str | None = None,
    page: int | None = None,
) -> np.ndarray:
    """Read the plane to segment and the nucleus plane of an image file.

    Parameters
    ----------
    path, axes, page
        See `read_pixels`.
    channels : (str, str), optional
        See `select_planes`.

    Returns
    -------
    float32[2, H, W]
        Raw intensities, not normalised.

    Raises
    ------
    ImageError
        As `read_pixels` and `select_planes`.
    """
    return select_planes(read_pixels(path, axes=axes, page=page), channels, where=path)


def select_planes(
    pixels: np.ndarray,
    channels: tuple[str, str] | None = None,
    *,
    where: str | PathLike[str] | None = None,
) -> np.ndarray:
    """Plane to segment and nucleus plane of an image.

    Parameters
    ----------
    pixels : ndarray, [H, W] or [H, W, C]
        Integers or floats. 32-bit integers and 64-bit floats are rounded to float32.
    channels : (str, str), optional
        The plane to segment and the nucleus plane, each ``"red"``, ``"green"``, ``"blue"`` (the
        first, second, third channel), an index ``"0"`` to ``"N-1"``, or ``"gray"`` (the mean of
        all channels). The second may be ``"none"``: zeros. None: the only channel, or that which
        all are equal to, and no nuclei.
    where : path, optional
        The file, for messages.

    Returns
    -------
    float32[2, H, W]

    Raises
    ------
    ImageError
        If the shape is not of an image, a channel does not exist, none is named though they
        differ, or values of the chosen planes are NaN, infinite or beyond float32.
    """
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        what = f"an image has the shape (H, W) or (H, W, C), this has {pixels.shape}"
        raise ImageError(what, where=where, remedy="Give one 2D image, its channels last.")
    stack = np.atleast_3d(pixels)
    if channels is None:
        channels = _only_channel(stack, where)
    if len(channels) != 2 or channels[0] == "none":
        what = f"channels {channels!r} do not name a plane to segment and a nucleus plane"
        remedy = 'Give two names, such as ("gray", "none") or ("green", "red").'
        raise ImageError(what, where=where, remedy=remedy)
    with np.errstate(over="ignore"):  # what overflows is counted below
        image = np.stack([_plane(stack, name, where) for name in channels])
    bad = int(np.count_nonzero(~np.isfinite(image)))
    if bad:
        what = f"{bad} pixels are NaN, infinite or beyond the range of float32"
        remedy = "Replace them, for example by the background's value."
        raise ImageError(what, where=where, remedy=remedy)
    return image


def read_masks(
    path: str | PathLike[str], *, axes: str | None = None, page: int | None = None
) -> np.ndarray:
    """Read a label image, or the masks of Cellpose's ``_seg.npy``.

    Parameters
    ----------
    path, axes, page
        See `read_pixels`.

    Returns
    -------
    int32[H, W]
        0 background, cells 1 to n in the order of the labels in the file; see `relabel`.

    Raises
    ------
    ImageError
        If the file cannot be read, or does not hold labels.
    """
    signature = _signature(Path(path))
    if signature == _NUMPY:
        return relabel(read_seg(Path(path))["masks"], where=path)
    if signature.startswith(_JPEG):
        what = "JPEG is lossy and does not keep labels"
        raise ImageError(what, where=path, remedy="Save them as PNG.")
    return relabel(read_pixels(path, axes=axes, page=page), where=path)


def relabel(masks: np.ndarray, *, where: str | PathLike[str] | None = None) -> np.ndarray:
    """Check labels and number them 1 to n without gaps, in their old order.

    Floats are accepted where they are whole numbers. A single label in several pieces draws a
    warning, since it is mostly a binary mask, in which the cells are not told apart.

    Parameters
    ----------
    masks : ndarray, [H, W]
        0 is background.
    where : path, optional
        The file, for messages.

    Returns
    -------
    int32[H, W]

    Raises
    ------
    ImageError
        If the shape is not [H, W], or a label is negative or not a whole number.
    """
    masks = as_labels(masks, where, largest=INT64_MAX)
    labels, places = np.unique(masks, return_inverse=True)
    contiguous = (places + (labels[0] > 0)).reshape(masks.shape).astype(np.int32)
    if contiguous.max() == 1:
        pieces = cv2.connectedComponents(contiguous.astype(np.uint8))[0] - 1
        if pieces > 1:
            warnings.warn(
                f"{where or 'masks'}: one label in {pieces} pieces counts as one cell; "
                "number the cells if this is a binary mask.",
                stacklevel=2,
            )
    return contiguous


def write_labels(path: str | PathLike[str], masks: np.ndarray) -> None:
    """Write a label image, whole or not at all (a temporary file, then a rename).

    Parameters
    ----------
    path : path
        ``.png`` gives a 16-bit PNG; ``.tif`` or ``.tiff`` a TIFF, of 32 or 64 bits where 16 are
        too few.
    masks : integers, [H, W]
        Written as they are, without renumbering.

    Raises
    ------
    ImageError
        If the masks are not labels, or too many for a PNG, or the file cannot be written.
    """
    path = Path(path)
    masks = as_labels(masks, path, largest=INT64_MAX)
    suffix, depth = path.suffix.lower(), np.promote_types("u2", np.min_scalar_type(masks.max()))
    deep = depth != np.uint16
    if suffix not in (".tif", ".tiff") and (deep or suffix != ".png"):
        what = "a PNG holds labels up to 65535" if deep else "labels are written as PNG or TIFF"
        raise ImageError(what, where=path, remedy="Name the file .tif.")
    labels = np.ascontiguousarray(masks, depth)
    try:
        with whole(path) as part:
            if suffix == ".png":
                part.write_bytes(imagecodecs.png_encode(labels))
            else:
                look: Any = {"compression": "zlib", "photometric": "minisblack", "ome": False}
                tifffile.imwrite(part, labels, **look)
    except OSError as error:
        raise ImageError(
            f"the file cannot be written ({error.strerror})",
            where=path,
            remedy="Check the folder and the space on its disk.",
        ) from error


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of the decoded pixels: C order, little endian, without the shape.

    It is the same whatever file format holds them.
    """
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


def _only_channel(stack: np.ndarray, where: str | PathLike[str] | None) -> tuple[str, str]:
    """Names for the one channel of an [H, W, C] image; ImageError if there is a choice to make."""
    count = stack.shape[2]
    if count > 1 and not np.array_equal(stack[..., 1:], stack[..., :-1], equal_nan=True):
        names = [f"{i} ({name})" for name, i in _COLOURS.items()] + list(map(str, range(3, count)))
        raise ImageError(
            f"the image has {count} channels that differ, and none is named",
            where=where,
            remedy='Name the one to segment and that of the nuclei, such as channels=("green", '
            '"red"), or ask for the mean of all by channels=("gray", "none"). There are: '
            f"{', '.join(names[:count])}.",
        )
    return "0", "none"


def _plane(stack: np.ndarray, name: str, where: str | PathLike[str] | None) -> np.ndarray:
    """One named plane of an [H, W, C] image, as float32[H, W]."""
    count = stack.shape[2]
    if name == "none":
        return np.zeros(stack.shape[:2], np.float32)
    if name == "gray":
        return stack.mean(axis=2, dtype=np.float64).astype(np.float32)
    index = int(name) if name.isascii() and name.isdigit() else _COLOURS.get(name, count)
    if index >= count:
        raise ImageError(
            f"channel {name!r} was asked for, the image has {count}",
            where=where,
            remedy='Name others, such as channels=("gray", "none"): red, green, blue, gray, none, '
            f"or an index up to {count - 1}.",
        )
    return stack[..., index].astype(np.float32)


def _signature(path: Path) -> bytes:
    """First four bytes of a file, by which its format is known."""
    try:
        with path.open("rb") as file:
            signature = file.read(4)
    except OSError as error:
        raise ImageError(
            f"the file cannot be read ({error.strerror})", where=path, remedy="Check the path."
        ) from error
    if not signature:
        raise ImageError("the file is empty (0 bytes)", where=path, remedy=_DAMAGED)
    return signature


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decode to [H, W] or [H, W, 3]; ImageError, without the file's name, where that fails."""
    # The decoder fills what is missing with grey: only the end marker shows a cut file.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ImageError("the file is cut off", remedy=_DAMAGED)
    pixels: np.ndarray = imagecodecs.jpeg8_decode(data)
    if pixels.shape[2:] == (4,):
        raise ImageError("CMYK colours are not intensities", remedy="Export as RGB.")
    return pixels

"""TIFF files of one 2D image: what their axes mean, and refusal where they do not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from scellseg_lib.errors import ImageError

_ALPHA = (1, 2)  # values of ExtraSamples: associated and unassociated alpha


def read_tiff(path: Path, axes: str | None, page: int | None) -> np.ndarray:
    """Decode the one image of a TIFF, without alpha; see `readers.read_pixels`.

    Returns
    -------
    ndarray, [H, W] or [H, W, C]

    Raises
    ------
    ImageError
        If the file holds more than one 2D image, or leaves open what its axes are.
    """
    pixels, named, extra_samples = _content(path, page)
    axes = named if axes is None else axes.upper()
    if len(axes) != pixels.ndim or not set("YX") <= set(axes) or len(set(axes)) != len(axes):
        raise ImageError(
            f"axes {axes!r} do not name the axes of an image of shape {pixels.shape}",
            where=path,
            remedy='Give one letter for each, such as axes="CYX".',
        )
    lengths = dict(zip(axes, pixels.shape, strict=True))
    _refuse_stack(lengths, path)
    kept = "YX" + "".join(axis for axis in axes if axis in "CS" and lengths[axis] > 1)
    left = [axis for axis in axes if axis in kept]
    pixels = pixels.squeeze(tuple(place for place, axis in enumerate(axes) if axis not in kept))
    pixels = pixels.transpose([left.index(axis) for axis in kept])
    alpha = sum(sample in _ALPHA for sample in extra_samples) if kept == "YXS" else 0
    if alpha:
        pixels = pixels[:, :, : lengths["S"] - alpha]
    return pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels


def _content(path: Path, page: int | None) -> tuple[Any, str, tuple[int, ...]]:
    """Pixels, the names of their axes, and the kinds of extra samples."""
    with tifffile.TiffFile(path) as tiff:
        count = len(tiff.pages)
        if page is not None and not 0 <= page < count:
            raise ImageError(f"there is no page {page}, the file has {count}", where=path)
        if page is None and len(tiff.series) != 1:
            shapes = ", ".join(str(series.shape) for series in tiff.series)
            raise ImageError(
                f"the file holds {len(tiff.series)} images ({shapes})",
                where=path,
                remedy=f"Give page=, 0 to {count - 1}, or save the image as a file of its own.",
            )
        chosen: Any = tiff.series[0] if page is None else tiff.pages[page]
        if page is None and any(part is None for part in chosen.pages):
            raise ImageError(
                "parts of the image are missing",
                where=path,
                remedy="Put the files that belong to it into the same folder.",
            )
        return chosen.asarray(), chosen.axes, tuple(map(int, tiff.pages.first.extrasamples))


def _refuse_stack(lengths: dict[str, int], path: Path) -> None:
    """Raise ImageError unless the axes are those of one 2D image."""
    size = " x ".join(f"{axis} {length}" for axis, length in lengths.items())
    long = {axis for axis, length in lengths.items() if length > 1 and axis not in "YX"}
    if long & {"Z", "T"}:
        kind = "z-stack" if "Z" in long else "time series"
        raise ImageError(
            f"a 2D image is needed, this is a {kind} ({size})",
            where=path,
            remedy="Give page= for one of its planes, or save that plane as a file of its own.",
        )
    if len(long) > 1 or not long <= {"C", "S"}:
        raise ImageError(
            f"the file does not say what its pages are ({size})",
            where=path,
            remedy='Say axes="CYX" if they are channels, or give page= for one of them.',
        )

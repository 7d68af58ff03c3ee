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
        C may be 1, where a second sample was alpha.

    Raises
    ------
    ImageError
        If the file holds more than one 2D image, or leaves open what its axes are; without the
        file's name, which `readers` adds.
    """
    pixels, named, extra_samples = _content(path, page)
    axes = named if axes is None else axes.upper()
    if len(axes) != pixels.ndim or not set("YX") <= set(axes) or len(set(axes)) != len(axes):
        raise ImageError(
            f"axes {axes!r} do not name the axes of an image of shape {pixels.shape}",
            remedy='Give one letter for each, such as axes="CYX".',
        )
    channels = _channel_axis(dict(zip(axes, pixels.shape, strict=True)))
    single = "".join(axis for axis in axes if axis not in "YX" + channels)
    pixels = pixels.transpose([axes.index(axis) for axis in single + "YX" + channels])
    pixels = pixels[(0,) * len(single)]
    alpha = sum(sample in _ALPHA for sample in extra_samples) if channels == "S" else 0
    return pixels[:, :, :-alpha] if alpha else pixels


def _content(path: Path, page: int | None) -> tuple[Any, str, tuple[int, ...]]:
    """Pixels, the names of their axes, and the kinds of extra samples."""
    with tifffile.TiffFile(path) as tiff:
        count = len(tiff.pages)
        if not count:
            raise ValueError("there is no image in it")
        if page is not None and not 0 <= page < count:
            what = f"there is no page {page}, the file has {count}"
            raise ImageError(what, remedy=f"Give page=, 0 to {count - 1}.")
        if page is None and len(tiff.series) != 1:
            shapes = ", ".join(str(series.shape) for series in tiff.series)
            raise ImageError(
                f"the file holds {len(tiff.series)} images ({shapes})",
                remedy=f"Give page=, 0 to {count - 1}, or save the image as a file of its own.",
            )
        chosen: Any = tiff.series[0] if page is None else tiff.pages[page]
        if page is None and any(part is None for part in chosen.pages):
            raise ImageError(
                "parts of the image are missing",
                remedy="Put the files that belong to it into the same folder.",
            )
        return chosen.asarray(), chosen.axes, tuple(map(int, chosen.keyframe.extrasamples))


def _channel_axis(lengths: dict[str, int]) -> str:
    """The axis of an image's channels, if it has one; ImageError unless it is one 2D image."""
    size = " x ".join(f"{axis} {length}" for axis, length in lengths.items())
    long = [axis for axis, length in lengths.items() if length > 1 and axis not in "YX"]
    if "Z" in long or "T" in long:
        kind = "z-stack" if "Z" in long else "time series"
        raise ImageError(
            f"a 2D image is needed, this is a {kind} ({size})",
            remedy="Give page= for one of its planes, or save that plane as a file of its own.",
        )
    if long not in ([], ["C"], ["S"]):
        raise ImageError(
            f"the file does not say what its pages are ({size})",
            remedy='Say axes="CYX" if they are channels, or give page= for one of them.',
        )
    return "".join(long)

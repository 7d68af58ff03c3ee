"""Pictures of an image as the browser takes them, and a still one for where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from scellseg_lib.errors import ImageError

STILL_SIDE = 900
"""Largest side of a still picture, px."""
OUTLINE = (255, 210, 0)
REFERENCE = (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Layer:
    """One picture: a channel, or another that was made of the image.

    Attributes
    ----------
    name : str
    pixels : uint8[H, W], uint16[H, W] or uint8[H, W, 3]
        Whole numbers for intensities, or colours.
    low, high : float
        Intensities that the numbers' 0 and largest stand for.
    channel : bool
        Whether it is a channel of the image.
    """

    name: str
    pixels: np.ndarray
    low: float = 0.0
    high: float = 255.0
    channel: bool = True

    def described(self) -> dict[str, Any]:
        """What goes to the page beside the pixels."""
        kind = "rgb" if self.pixels.ndim == 3 else str(self.pixels.dtype)
        low, high = self.low, self.high
        return {"name": self.name, "kind": kind, "low": low, "high": high, "channel": self.channel}


def layers_of(
    image: np.ndarray, channels: Sequence[str], others: Mapping[str, np.ndarray]
) -> list[Layer]:
    """Layers of an image, number[H, W] or number[H, W, C], and of further pictures.

    Raises
    ------
    ImageError
        For what is no image, names that do not fit, or sizes that differ.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or not image.size or image.dtype.kind not in "buif":
        raise ImageError(
            f"an image of shape {image.shape} and {image.dtype} cannot be shown",
            remedy="Give [H, W], or [H, W, C] with the channels last.",
        )
    planes = np.atleast_3d(image)
    names = list(channels) or _usual_names(planes)
    if len(names) != planes.shape[2]:
        raise ImageError(
            f"the image has {planes.shape[2]} channels, {len(names)} are named",
            remedy="Name each channel once.",
        )
    found = [_layer(name, planes[..., k], channel=True) for k, name in enumerate(names)]
    return found + pictures_of(others, image.shape[:2])


def pictures_of(others: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> list[Layer]:
    """Layers of pictures beside the channels, uint8[H, W, 3] or number[H, W].

    Raises
    ------
    ImageError
        For another size than that of the image, or what is no picture.
    """
    found = []
    for name, pixels in others.items():
        if pixels.shape[:2] != shape:
            raise ImageError(
                f"{name!r} is of {pixels.shape[:2]} px, the image of {shape}",
                remedy="Give pictures of the image's size.",
            )
        if pixels.ndim > 2 and (pixels.dtype != np.uint8 or pixels.shape[2:] != (3,)):
            raise ImageError(
                f"{name!r} is of {pixels.dtype} and the shape {pixels.shape}",
                remedy="Give intensities of the shape [H, W], or colours as uint8[H, W, 3].",
            )
        found.append(_layer(name, pixels, channel=False))
    return found


def composed(layers: Sequence[Layer]) -> np.ndarray:
    """Picture of the channels, the first three as red, green and blue, uint8[H, W, 3]."""
    channels = [layer for layer in layers if layer.channel][:3]
    planes = [_stretched(layer.pixels) for layer in channels]
    if len(planes) == 1:
        planes *= 3
    planes += [np.zeros_like(planes[0])] * (3 - len(planes))
    return np.dstack(planes)


def still(
    picture: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray | None,
    colours: Sequence[np.ndarray | None] = (None, None),
) -> bytes:
    """PNG of a picture, uint8[H, W, 3], with outlines of the cells, int32[H, W]."""
    scale = min(1.0, STILL_SIDE / max(picture.shape[:2]))
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    drawn = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for cells, table, usual in zip((labels, reference), colours, (OUTLINE, REFERENCE), strict=True):
        if cells is None:
            continue
        small = cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST_EXACT)
        edge = edges(small)
        if table is None:
            drawn[edge] = usual
        else:
            known = np.minimum(small[edge], len(table) - 1)
            shown = table[known, 3:] > 0
            drawn[edge] = np.where(shown, table[known, :3], drawn[edge])
    return cv2.imencode(".png", drawn[..., ::-1])[1].tobytes()


def edges(labels: np.ndarray) -> np.ndarray:
    """Pixels of cells with another label beside them, bool[H, W]."""
    padded = np.pad(labels, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (centre > 0) & np.logical_or.reduce([centre != other for other in beside])


def _usual_names(planes: np.ndarray) -> list[str]:
    n_channels = planes.shape[2]
    if n_channels == 1:
        return ["image"]
    return (
        ["red", "green", "blue"]
        if n_channels == 3
        else [f"channel {k + 1}" for k in range(n_channels)]
    )


def _layer(name: str, pixels: np.ndarray, *, channel: bool) -> Layer:
    if pixels.ndim == 3 or pixels.dtype == np.uint8:
        return Layer(name, np.ascontiguousarray(pixels, np.uint8), channel=channel)
    values = np.nan_to_num(pixels.astype(np.float32), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (65535 / (high - low) if high > low else 0.0)
    return Layer(name, np.round(scaled).astype(np.uint16), low, high, channel)


def _stretched(plane: np.ndarray) -> np.ndarray:
    """1st to 99th percentile as 0 to 255."""
    low, high = np.percentile(plane, (1, 99))
    return np.clip((plane - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)

"""Cut images into tiles that fit the network, and blend the tiles' maps again."""

import math
import os
import re
from functools import cache

import numpy as np

from scellseg_lib.augment import MEAN_DIAMETER
from scellseg_lib.errors import ImageError
from scellseg_lib.model import Model
from scellseg_lib.samples import Sample, normalise, resize

TILE = 224  # side of a tile, pixels of the 30-px scale (docs/method.md, section 5)
OVERLAP = 0.1  # least overlap of neighbouring tiles, as a share of the side
EDGE = 8  # least width of the black border, without which cells at an image's edge are lost


def starts(length: int) -> list[int]:
    """First pixels of the fewest evenly spaced tiles that cover ``length`` and overlap enough."""
    if length <= TILE:
        return [0]
    n = math.ceil((length - TILE) / (TILE * (1 - OVERLAP))) + 1
    return [round(i * (length - TILE) / (n - 1)) for i in range(n)]


def padding(length: int, stride: int) -> tuple[int, int]:
    """Pixels before and after ``length`` that make up the border and a multiple of two strides."""
    missing = -(length + 2 * EDGE) % (2 * stride)
    return EDGE + missing // 2, EDGE + missing - missing // 2


@cache
def taper(height: int, width: int) -> np.ndarray:
    """Weight float32[height, width] of a tile: 1 in the middle, smoothly less to the edges."""
    distances = [(np.abs(np.arange(side) - (side - 1) / 2), side / 2) for side in (height, width)]
    profiles = [1 / (1 + np.exp((away - (half - 20)) / 7.5)) for away, half in distances]
    return np.outer(*profiles).astype(np.float32)


class TiledImage:
    """Tiles of a normalised image float32[2, h, w] going out, and its maps coming in."""

    def __init__(self, image: np.ndarray, stride: int) -> None:
        self._pads = [padding(length, stride) for length in image.shape[1:]]
        self.image = np.pad(image, ((0, 0), *self._pads))
        height, width = self.image.shape[1:]
        self.sides = (min(TILE, height), min(TILE, width))
        self.corners = [(y, x) for y in starts(height) for x in starts(width)]
        self.missing = len(self.corners)
        self._sum: np.ndarray | None = None
        self._weight = np.zeros((height, width), np.float32)
        self._style: np.ndarray | float = 0.0

    def tile(self, index: int) -> np.ndarray:
        """Tile float32[2, side, side] at the corner of that index."""
        y, x = self.corners[index]
        return self.image[:, y : y + self.sides[0], x : x + self.sides[1]]

    def add(self, index: int, maps: np.ndarray, style: np.ndarray) -> None:
        """Blend in the maps float32[K, side, side] and style of tile ``index``."""
        if self._sum is None:
            self._sum = np.zeros((len(maps), *self.image.shape[1:]), np.float32)
        y, x = self.corners[index]
        weight = taper(*self.sides)
        self._sum[:, y : y + self.sides[0], x : x + self.sides[1]] += maps * weight
        self._weight[y : y + self.sides[0], x : x + self.sides[1]] += weight
        self._style = self._style + style
        self.missing -= 1

    def maps(self) -> np.ndarray:
        """Blended maps float32[K, h, w], once no tile is missing; the tiles are given up."""
        assert self._sum is not None
        (top, bottom), (left, right) = self._pads
        self._sum /= self._weight
        maps = self._sum[:, top:-bottom, left:-right]
        del self.image, self._sum, self._weight
        return maps

    def style(self) -> np.ndarray:
        """Mean style of the tiles, of unit length, float32[S]."""
        style = np.asarray(self._style, np.float32)
        return style / max(float(np.linalg.norm(style)), 1e-8)


def cut_tiles(model: Model, sample: Sample, diameter: float) -> TiledImage:
    """Normalise an image as the model's card says, and bring it to the 30-px scale."""
    scale = MEAN_DIAMETER / diameter
    megapixels = sample.image[0].size * scale**2 / 1e6
    limit = os.environ.get("SCELLSEG_MEGAPIXELS") or "400"
    if not re.fullmatch("[0-9]+([.][0-9]+)?", limit) or megapixels > float(limit):
        what = f"it has {megapixels:.0f} megapixels once its cells of {diameter:g} px have 30, "
        what += f"the limit is {limit}"
        remedy = "Give their {diameter} in pixels, or set SCELLSEG_MEGAPIXELS: each takes 60 MB."
        raise ImageError(what, where=sample.name, remedy=remedy, options={"diameter": None})
    even = normalise(sample.image, sample.name, cells=diameter if model.card.robust else None)
    return TiledImage(resize(even, scale), model.network.stride)

"""What synthetic images are made of: random fields, outlines, filaments, labels, a camera."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage
from skimage.measure import regionprops

Shape = tuple[int, int]
RAYS = 180


class Outline(NamedTuple):
    """A star-shaped outline on the pixels around it, arrays of [h, w]; lengths in px."""

    window: tuple[slice, slice]  # where these pixels lie in the image; empty outside it
    level: np.ndarray  # distance from the centre over the radius there: 1 on the outline
    depth: np.ndarray  # how far inside the outline along the ray; negative outside
    ray: np.ndarray  # index of the ray, for `draw_ring`
    y: float
    x: float
    radius: float  # of the disc of equal area
    core: float  # radius of the body without its processes

    def soften(self, width: float, inset: float = 0.0) -> np.ndarray:
        """Body with an edge blurred over `width` px, `inset` px inside the outline: 0 to 1."""
        return 1 / (1 + np.exp(-np.clip((self.depth - inset) / (0.5 * width), -30, 30)))

    def draw_rim(self, width: float, inset: float = 0.0) -> np.ndarray:
        """Line of `width` px (SD) along the outline, `inset` px inside it: 0 to 1."""
        return np.exp(-0.5 * ((self.depth - inset) / width) ** 2)


@dataclass(frozen=True)
class Scene:
    """The image to be made: its random numbers, its height and width."""

    rng: np.random.Generator
    shape: Shape

    def draw_field(self, sigma: float) -> np.ndarray:
        """Smooth Gaussian random field, float32[H, W], mean 0 and SD 1, blurred by `sigma` px."""
        step = max(1, int(sigma / 2))
        coarse = (self.shape[0] // step + 3, self.shape[1] // step + 3)
        noise = blur(self.rng.standard_normal(coarse), sigma / step)
        noise = cv2.resize(noise, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        noise = noise[: self.shape[0], : self.shape[1]]
        return (noise - noise.mean()) / max(float(noise.std()), 1e-6)

    def draw_bends(self, radius: float) -> np.ndarray:
        """Smooth displacement for `draw_outline`, float32[2, H, W] px, for cells of `radius` px."""
        pair = [self.draw_field(0.7 * radius) for _ in range(2)]
        return np.stack(pair) * np.float32(0.2 * radius)

    def draw_ring(self, sigma: float) -> np.ndarray:
        """Smooth periodic noise around an outline, float64[RAYS], SD 1; `sigma` in rays."""
        noise = ndimage.gaussian_filter1d(self.rng.standard_normal(RAYS), sigma, mode="wrap")
        return noise / max(noise.std(), 1e-6)

    def draw_outline(
        self,
        y: float,
        x: float,
        radius: float,
        *,
        elongation: float = 1.0,
        rough: float = 0.06,
        spikes: tuple[int, float, float] = (0, 1.0, 0.12),
        warp: np.ndarray | None = None,
    ) -> Outline:
        """Random star-shaped outline of area ``pi * radius ** 2`` around (y, x).

        `elongation` is the ratio of the axes, `rough` the SD of the waves, `spikes` the number of
        processes, their mean length (radii) and width (rad); `warp`, of `draw_bends`, bends them.
        """
        theta = np.arange(RAYS) * (2 * np.pi / RAYS)
        turn = self.rng.uniform(0, np.pi)
        c2, s2 = np.cos(theta - turn) ** 2, np.sin(theta - turn) ** 2
        radii = 1 / np.sqrt(c2 / elongation + s2 * elongation)
        radii *= np.exp(rough * (self.draw_ring(14) + 0.4 * self.draw_ring(5)))
        number, length, width = spikes
        for _ in range(number):
            at, long = self.rng.uniform(0, 2 * np.pi), length * self.rng.gamma(3.0, 1 / 3)
            away = np.abs((theta - at + np.pi) % (2 * np.pi) - np.pi)
            radii += long * np.exp(-away / (width * self.rng.uniform(0.7, 1.5)))
        radii *= radius / np.sqrt(np.mean(radii**2))
        reach = float(radii.max()) * 1.15 + 8
        top, left = max(0, int(y - reach)), max(0, int(x - reach))
        bottom, right = np.minimum(self.shape, (int(y + reach) + 1, int(x + reach) + 1)).tolist()
        if bottom - top < 2 or right - left < 2:
            bottom, right = top, left
        dy = (np.arange(top, bottom) - y)[:, None].astype(np.float32)
        dx = (np.arange(left, right) - x)[None].astype(np.float32)
        if warp is not None:
            dy = dy + warp[0, top:bottom, left:right]
            dx = dx + warp[1, top:bottom, left:right]
        ray = np.rint(np.arctan2(dy, dx) * (RAYS / (2 * np.pi))).astype(np.int64) % RAYS
        local = radii.astype(np.float32)[ray]
        distance = np.sqrt(dy * dy + dx * dx)
        window, core = (slice(top, bottom), slice(left, right)), float(np.quantile(radii, 0.1))
        return Outline(window, distance / local, local - distance, ray, y, x, radius, core)

    def scatter(
        self, radii: np.ndarray, spacing: float, density: np.ndarray | None = None
    ) -> np.ndarray:
        """Place discs at random, no two closer than `spacing` times the sum of their radii.

        `density` (float[H, W], 0 to 1) is the chance that a place is taken. Returns float64[n, 3]:
        y, x, radius of the discs that found a place in 25 tries, in the order given.
        """
        placed, count = np.empty((len(radii), 3)), 0
        for radius in radii:
            for v, u, chance in self.rng.random((25, 3)):
                y = -0.4 * radius + v * (self.shape[0] + 0.8 * radius)
                x = -0.4 * radius + u * (self.shape[1] + 0.8 * radius)
                row = min(max(int(y), 0), self.shape[0] - 1)
                col = min(max(int(x), 0), self.shape[1] - 1)
                if density is not None and chance > density[row, col]:
                    continue
                gap = np.hypot(placed[:count, 0] - y, placed[:count, 1] - x)
                if np.all(gap >= spacing * (placed[:count, 2] + radius)):
                    placed[count] = y, x, radius
                    count += 1
                    break
        return placed[:count]

    def draw_strokes(
        self, starts: np.ndarray, length: float, width: int, bend: float
    ) -> np.ndarray:
        """Draw short bent filaments from `starts`, float[n, 3] (y, x, brightness): float32[H, W].

        `length` is in px, `width` in half pixels, `bend` the SD of the turn per eighth, rad.
        """
        n = len(starts)
        turns = self.rng.uniform(0, 2 * np.pi, (n, 1))
        turns = turns + np.cumsum(bend * self.rng.standard_normal((n, 8)), axis=1)
        steps = length / 8 * self.rng.uniform(0.5, 1.5, (n, 1))
        y = starts[:, :1] + np.cumsum(steps * np.sin(turns), axis=1)
        x = starts[:, 1:2] + np.cumsum(steps * np.cos(turns), axis=1)
        points = np.rint(np.stack([x, y], axis=-1) * 2).astype(np.int32)
        canvas = np.zeros((2 * self.shape[0], 2 * self.shape[1]), np.uint8)
        for number in np.argsort(starts[:, 2], kind="stable"):
            grey = int(255 * min(max(starts[number, 2], 0.0), 1.0))
            cv2.polylines(canvas, [points[number]], False, grey, width)
        small = cv2.resize(canvas, self.shape[::-1], interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) / 255

    def expose(
        self, light: np.ndarray, gain: float, read: float, sigma: float, bias: float = 0.0
    ) -> np.ndarray:
        """Expose `light` to whole counts of 16 bits: blur of `sigma` px, photon and read noise.

        `gain` is counts per photon, `read` the SD of the read noise, `bias` the counts in the dark.
        """
        counts = blur(light, sigma)
        spread = np.sqrt(gain * np.maximum(counts - bias, 0) + read**2)
        counts = counts + spread * self.rng.standard_normal(counts.shape).astype(np.float32)
        return np.clip(np.rint(counts), 0, 65535).astype(np.float32)


def blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of `sigma` px with mirrored borders, float32[H, W]."""
    return cv2.GaussianBlur(plane.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def assign(outlines: Sequence[Outline], shape: Shape, reach: float = 1.0) -> np.ndarray:
    """Label pixels by the outline that they are deepest in (`level` below `reach`): int32[H, W]."""
    best, labels = np.full(shape, reach, np.float32), np.zeros(shape, np.int32)
    for number, outline in enumerate(outlines, 1):
        take = outline.level < best[outline.window]
        best[outline.window][take] = outline.level[take]
        labels[outline.window][take] = number
    return labels


def clean(labels: np.ndarray, minimum: float) -> np.ndarray:
    """Keep the largest piece (4-neighbours) of every label, at least `minimum` px; number 1..n."""
    cleaned, number = np.zeros_like(labels), 0
    for cell in regionprops(labels):
        pieces, _ = ndimage.label(cell.image)
        areas = np.bincount(pieces.ravel())[1:]
        if areas.max() >= minimum:
            number += 1
            cleaned[cell.slice][pieces == areas.argmax() + 1] = number
    return cleaned

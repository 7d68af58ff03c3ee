"""Building blocks of synthetic images: random fields, cell outlines, placing, labels, camera.

Only numpy's ``Generator`` makes random numbers, and noise is Gaussian with the variance of photon
counting rather than drawn by rejection, so that rounding differences between machines cannot
change how many random numbers are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from skimage.measure import label as connected_components

Shape = tuple[int, int]
RAYS = 180


def field(rng: np.random.Generator, shape: Shape, sigma: float) -> np.ndarray:
    """Smooth Gaussian random field, float32[H, W], mean 0 and SD 1, blurred by `sigma` px."""
    step = max(1, int(sigma / 2))
    coarse = (shape[0] // step + 3, shape[1] // step + 3)
    noise: np.ndarray = rng.standard_normal(coarse).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigma / step, borderType=cv2.BORDER_REFLECT)
    if step > 1:
        size = (coarse[1] * step, coarse[0] * step)
        noise = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def bends(rng: np.random.Generator, shape: Shape, radius: float) -> np.ndarray:
    """Smooth displacement for `outline`, float32[2, H, W] px, for cells of `radius` px."""
    pair = [field(rng, shape, 0.7 * radius) for _ in range(2)]
    return np.stack(pair) * np.float32(0.2 * radius)


def ring_noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Smooth periodic noise around an outline, float64[RAYS], SD 1; `sigma` in rays."""
    noise = ndimage.gaussian_filter1d(rng.standard_normal(RAYS), sigma, mode="wrap")
    return noise / max(noise.std(), 1e-6)


@dataclass(frozen=True)
class Patch:
    """A star-shaped outline on the pixels around it.

    Attributes
    ----------
    window : tuple of slice
        Where the patch lies in the image.
    level : float32[h, w]
        Distance from the centre over the outline's radius in that direction: 1 on the outline.
    depth : float32[h, w]
        Pixels inside the outline along the ray; negative outside.
    ray : int64[h, w]
        Index of the ray, for `ring_noise`.
    y, x, radius : float
        Centre and radius of the disc of equal area, px.
    core : float
        Radius of the body without its processes, px.
    """

    window: tuple[slice, slice]
    level: np.ndarray
    depth: np.ndarray
    ray: np.ndarray
    y: float
    x: float
    radius: float
    core: float

    def soft(self, width: float, inset: float = 0.0) -> np.ndarray:
        """Body with an edge blurred over `width` px, `inset` px inside the outline: 0 to 1."""
        return 1 / (1 + np.exp(-np.clip((self.depth - inset) / (0.5 * width), -30, 30)))

    def rim(self, width: float, inset: float = 0.0) -> np.ndarray:
        """Line of `width` px (SD) along the outline, `inset` px inside it: 0 to 1."""
        return np.exp(-0.5 * ((self.depth - inset) / width) ** 2)


def outline(
    rng: np.random.Generator,
    shape: Shape,
    y: float,
    x: float,
    radius: float,
    *,
    elongation: float = 1.0,
    angle: float | None = None,
    rough: float = 0.06,
    spikes: int = 0,
    spike_length: float = 1.0,
    spike_width: float = 0.12,
    warp: np.ndarray | None = None,
) -> Patch | None:
    """Random star-shaped outline of area ``pi * radius ** 2`` around (y, x).

    `elongation` is the ratio of the axes, `rough` the SD of the outline's waves, `spikes` the
    number of processes, `spike_length` (radii) and `spike_width` (rad) their mean size;
    `warp`, float32[2, H, W] in px, bends the whole image plane, so that processes are not straight.
    Returns None when nothing of it lies in the image.
    """
    theta = np.arange(RAYS) * (2 * np.pi / RAYS)
    turn = rng.uniform(0, np.pi) if angle is None else angle
    c2, s2 = np.cos(theta - turn) ** 2, np.sin(theta - turn) ** 2
    radii = 1 / np.sqrt(c2 / elongation + s2 * elongation)
    radii *= np.exp(rough * (ring_noise(rng, 14) + 0.4 * ring_noise(rng, 5)))
    for _ in range(spikes):
        at, length = rng.uniform(0, 2 * np.pi), spike_length * rng.gamma(3.0, 1 / 3)
        away = np.abs((theta - at + np.pi) % (2 * np.pi) - np.pi)
        radii += length * np.exp(-away / (spike_width * rng.uniform(0.7, 1.5)))
    radii *= radius / np.sqrt(np.mean(radii**2))
    reach = float(radii.max()) * 1.15 + 8
    top, left = max(0, int(y - reach)), max(0, int(x - reach))
    bottom, right = min(shape[0], int(y + reach) + 1), min(shape[1], int(x + reach) + 1)
    if bottom - top < 2 or right - left < 2:
        return None
    dy = (np.arange(top, bottom) - y)[:, None].astype(np.float32)
    dx = (np.arange(left, right) - x)[None].astype(np.float32)
    if warp is not None:
        dy = dy + warp[0, top:bottom, left:right]
        dx = dx + warp[1, top:bottom, left:right]
    ray = np.rint(np.arctan2(dy, dx) * (RAYS / (2 * np.pi))).astype(np.int64) % RAYS
    local = radii.astype(np.float32)[ray]
    distance = np.sqrt(dy * dy + dx * dx)
    window = (slice(top, bottom), slice(left, right))
    core = float(np.quantile(radii, 0.1))
    return Patch(window, distance / local, local - distance, ray, y, x, radius, core)


def scatter(
    rng: np.random.Generator,
    shape: Shape,
    radii: np.ndarray,
    spacing: float,
    density: np.ndarray | None = None,
    tries: int = 25,
) -> np.ndarray:
    """Place discs at random, no two closer than `spacing` times the sum of their radii.

    `density` (float[H, W], 0 to 1) is the chance that a place is taken.
    Returns float64[n, 3]: y, x, radius of the discs that found a place, in the order given.
    """
    placed = np.empty((len(radii), 3))
    count = 0
    for radius in radii:
        draws = rng.random((tries, 3))
        for v, u, chance in draws:
            y = -0.4 * radius + v * (shape[0] + 0.8 * radius)
            x = -0.4 * radius + u * (shape[1] + 0.8 * radius)
            row, col = min(max(int(y), 0), shape[0] - 1), min(max(int(x), 0), shape[1] - 1)
            if density is not None and chance > density[row, col]:
                continue
            gap = np.hypot(placed[:count, 0] - y, placed[:count, 1] - x)
            if np.all(gap >= spacing * (placed[:count, 2] + radius)):
                placed[count] = y, x, radius
                count += 1
                break
    return placed[:count]


def assign(patches: Sequence[Patch], shape: Shape, reach: float = 1.0) -> np.ndarray:
    """Label pixels by the outline that they are deepest in (`level` below `reach`): int32[H, W]."""
    best = np.full(shape, reach, np.float32)
    labels = np.zeros(shape, np.int32)
    for number, patch in enumerate(patches, 1):
        take = patch.level < best[patch.window]
        best[patch.window][take] = patch.level[take]
        labels[patch.window][take] = number
    return labels


def clean(labels: np.ndarray, minimum: float) -> np.ndarray:
    """Keep the largest piece (4-neighbours) of every label, at least `minimum` px; number 1..n."""
    pieces = connected_components(labels, background=0, connectivity=1)
    area = np.bincount(pieces.ravel())
    owner = np.zeros(len(area), np.int64)
    owner[pieces.ravel()] = labels.ravel()
    order = np.argsort(-area, kind="stable")
    order = order[(owner[order] > 0) & (area[order] >= minimum)]
    kept, first = np.unique(owner[order], return_index=True)
    new = np.zeros(len(area), np.int32)
    new[order[first]] = np.arange(1, len(kept) + 1)
    return new[pieces]


def strokes(
    rng: np.random.Generator,
    shape: Shape,
    starts: np.ndarray,
    length: float,
    width: int,
    bend: float,
) -> np.ndarray:
    """Draw short bent filaments: float32[H, W], 0 to 1.

    `starts` is float[n, 3] (y, x, brightness 0 to 1); `length` px, `width` in half pixels,
    `bend` SD of the turn per eighth of the length, rad. Drawn at twice the size, then averaged.
    """
    canvas = np.zeros((2 * shape[0], 2 * shape[1]), np.uint8)
    n = len(starts)
    turns = rng.uniform(0, 2 * np.pi, (n, 1)) + np.cumsum(
        bend * rng.standard_normal((n, 8)), axis=1
    )
    steps = length / 8 * rng.uniform(0.5, 1.5, (n, 1))
    y = starts[:, :1] + np.cumsum(steps * np.sin(turns), axis=1)
    x = starts[:, 1:2] + np.cumsum(steps * np.cos(turns), axis=1)
    points = np.rint(np.stack([x, y], axis=-1) * 2).astype(np.int32)
    for number in np.argsort(starts[:, 2], kind="stable"):
        grey = int(255 * min(max(starts[number, 2], 0.0), 1.0))
        cv2.polylines(canvas, [points[number]], False, grey, width)
    return cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of `sigma` px with mirrored borders, float32[H, W]."""
    return cv2.GaussianBlur(plane.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def camera(
    rng: np.random.Generator,
    light: np.ndarray,
    *,
    gain: float,
    read: float,
    sigma: float = 0.7,
    bias: float = 0.0,
) -> np.ndarray:
    """Expose `light` (counts): blur by the lens, then photon noise and read noise.

    `gain` is counts per photon, `read` the SD of the read noise (counts), `sigma` the blur (px),
    `bias` the counts without light. Returns float32[H, W], whole counts of 16 bits.
    """
    counts = blur(light, sigma)
    spread = np.sqrt(gain * np.maximum(counts - bias, 0) + read**2)
    counts = counts + spread * rng.standard_normal(counts.shape).astype(np.float32)
    return np.clip(np.rint(counts), 0, 65535).astype(np.float32)

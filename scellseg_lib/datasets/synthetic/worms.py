"""*C. elegans* in bright field, after BBBC010: worms inside the octagonal field stop of a well."""

import numpy as np
from scipy import ndimage

from scellseg_lib.datasets.synthetic.scene import Scene, blur

POINTS = 72
_S = np.linspace(0, 1, POINTS)  # along a worm, from head to tail

Window = tuple[slice, slice]
Worm = tuple[Window, np.ndarray, np.ndarray]  # where it lies, its mask, the light let through


def draw_worms(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Bright-field worms and their labels; pixels shared by two belong to the smaller one."""
    rng, shape = scene.rng, scene.shape
    stop = _draw_stop(scene)
    inside = 1 / (1 + np.exp(-np.clip(stop / 0.55, -30, 30)))
    y = np.arange(shape[0])[:, None] / shape[0] - rng.normal(0.53, 0.02)
    x = np.arange(shape[1])[None] / shape[1] - rng.normal(0.545, 0.02)
    lamp = rng.normal(2790, 60) / (1 + 5.6 * y**2 + 7.0 * x**2)
    transmission = _draw_debris(scene)
    labels, areas = np.zeros(shape, np.int32), dict[int, int]()
    wanted = max(1, round(rng.integers(11, 18) * float((stop > 0).sum()) / 160_000))
    for _ in range(40 * wanted):
        if len(areas) == wanted:
            break
        worm = _draw_worm(rng, stop, rng.uniform(0, 1, 2) * shape)
        if worm is None or not _fits(labels, areas, *worm[:2]):
            continue
        window, mask, through = worm
        number, area, there = len(areas) + 1, int(mask.sum()), labels[window]
        smaller = [other for other in areas if areas[other] < area]
        there[mask & ~np.isin(there, smaller)] = number
        areas[number] = area
        below = transmission[window]
        transmission[window] = np.where(
            through < below, through * (0.8 + 0.2 * below), below * (0.8 + 0.2 * through)
        )
    glow = 34 * np.exp(np.minimum(stop, 0) / 9) + 40 * np.exp(np.minimum(stop, 0) / 90)
    light = 96 + glow + inside * lamp * transmission
    return scene.expose(light, gain=0.16, read=2.6, sigma=0.75, bias=96), labels


def _draw_stop(scene: Scene) -> np.ndarray:
    """Signed distance to the field stop (a square with round-cut corners), px; positive inside."""
    shape = scene.shape
    half = 0.39 * min(shape[0], shape[1] * 0.75)
    centre = np.array([0.567, 0.511]) * shape + scene.rng.normal(0, 3, 2)
    y = np.abs(np.arange(shape[0]) - centre[0])[:, None]
    x = np.abs(np.arange(shape[1]) - centre[1])[None]
    bow = half + 0.01 * half * (1 - (np.minimum(y, x) / half) ** 2)
    corner = 1.19 * half - 0.6 * (y + x) / np.sqrt(2) - 0.4 * np.sqrt(y**2 + x**2)
    sides = np.exp(-np.stack([bow - y + 0 * x, bow - x + 0 * y, corner]) / 5.0)
    return (-5.0 * np.log(sides.sum(0))).astype(np.float32)


def _draw_debris(scene: Scene) -> np.ndarray:
    """Transmission of specks and smudges in the well, float32[H, W]."""
    shape, specks = scene.shape, np.zeros(scene.shape, np.float32)
    for y, x, size in scene.scatter(scene.rng.uniform(0.6, 1.6, 30), 1.0):
        row, col = min(max(int(y), 0), shape[0] - 2), min(max(int(x), 0), shape[1] - 2)
        specks[row : row + 2, col : col + int(1 + size)] = 0.5 * size
    smudges = np.maximum(scene.draw_field(7) - 2.4, 0) * 0.13
    return 1 - np.clip(blur(specks, 0.8) + smudges, 0, 0.7)


def _draw_midline(rng: np.random.Generator, length: float) -> np.ndarray:
    """Midline of a worm, float64[POINTS, 2] (y, x) about its centroid: a rod, a wave or a coil."""
    kind = rng.random()
    if kind < 0.35:
        bend, wave = rng.normal(0, 0.35), rng.normal(0, 0.4)
    elif kind < 0.85:
        bend, wave = rng.normal(0, 1.3), rng.normal(0, 2.6)
    else:
        bend, wave = rng.choice([-1, 1]) * rng.uniform(3.0, 5.2), rng.normal(0, 1.5)
    turn = bend * (_S - 0.5) * (0.6 + 0.8 * _S) + wave / np.pi * np.sin(
        2 * np.pi * rng.uniform(0.8, 1.3) * _S + rng.uniform(0, 2 * np.pi)
    )
    turn += rng.uniform(0, 2 * np.pi)
    line = np.cumsum(np.stack([np.sin(turn), np.cos(turn)], axis=1), axis=0) * (length / POINTS)
    return line - line.mean(axis=0)


def _draw_half_width(rng: np.random.Generator) -> np.ndarray:
    """Half-width along the worm, px: blunt head, longer tapering tail."""
    widest = rng.normal(5.5, 0.3)
    head = 0.55 + 0.45 * np.sin(np.clip(_S / rng.uniform(0.3, 0.42), 0, 1) * np.pi / 2)
    head *= np.sqrt(np.clip(_S / 0.05, 0, 1))
    tail = np.sin(np.clip((1 - _S) / rng.uniform(0.4, 0.5), 0, 1) * np.pi / 2)
    return 0.6 + widest * head * tail**0.85


def _draw_worm(rng: np.random.Generator, stop: np.ndarray, centre: np.ndarray) -> Worm | None:
    """One worm about a centre (y, x); None outside the well."""
    line, half = _draw_midline(rng, rng.normal(112, 8)) + centre, _draw_half_width(rng)
    low, high = np.floor(line.min(0) - 14).astype(int), np.ceil(line.max(0) + 14).astype(int)
    grain, stretch = rng.standard_normal((POINTS + 8, 25)), rng.standard_normal(POINTS)
    is_outside = (low < 0).any() or (high >= stop.shape).any()
    if is_outside or (stop[*np.rint(line).astype(int).T] < half + 3).any():
        return None
    y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
    away = (y[..., None] - line[:, 0]) ** 2 + (x[..., None] - line[:, 1]) ** 2
    near, distance = away.argmin(-1), np.sqrt(away.min(-1))
    tangent = np.gradient(line, axis=0)
    side = (x - line[near, 1]) * tangent[near, 0] - (y - line[near, 0]) * tangent[near, 1]
    depth, across = half[near] - distance, np.sign(side) * distance
    # Texture lives in the worm's own coordinates, so that gut and gonad run along the body.
    texture = ndimage.gaussian_filter(grain, (1.3, 1.3), mode="nearest")
    texture, at = texture / texture.std(), [near + 4.0, across * 1.4 + 12]
    texture = ndimage.map_coordinates(texture, at, order=1, mode="nearest")
    along = ndimage.gaussian_filter1d(stretch, 6)[near] / 0.22
    thick = np.clip(half[near] / 5.5, 0, 1)
    body = 1 / (1 + np.exp(-np.clip((depth - 0.6) / 0.45, -30, 30)))
    gut = np.exp(-0.5 * (across / (0.55 * half[near])) ** 2)
    absorb = 0.28 + 0.2 * thick + thick * gut * (0.22 + 0.08 * along) + 0.095 * texture * thick
    absorb += 0.13 * np.exp(-0.5 * ((depth - 0.9) / 0.6) ** 2)
    light_line = 0.20 * np.exp(-0.5 * ((depth - 2.2) / 0.6) ** 2) * (0.5 + 0.5 * np.sign(side))
    halo = 0.05 * np.exp(-np.maximum(-depth, 0) / 1.6)
    halo = halo - 0.02 * np.exp(-0.5 * ((depth + 3.5) / 1.5) ** 2)
    transmission = 1 - body * np.clip(absorb - light_line, 0.05, 0.85) - (1 - body) * halo
    return (slice(low[0], high[0]), slice(low[1], high[1])), depth > 0, transmission


def _fits(labels: np.ndarray, areas: dict[int, int], window: Window, mask: np.ndarray) -> bool:
    """Whether a worm leaves every worm in one piece and covers little of any."""
    there, area = labels[window], int(mask.sum())
    for other in np.unique(there[mask & (there > 0)]):
        if int((mask & (there == other)).sum()) > 0.06 * min(areas[other], area):
            return False
        rest = mask & (there != other)
        if area < areas[other]:
            rest = labels == other
            rest[window] &= ~mask
        if ndimage.label(rest)[1] != 1:
            return False
    return bool(ndimage.label(mask)[1] == 1)

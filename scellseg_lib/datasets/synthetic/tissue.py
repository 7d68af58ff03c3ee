"""Single-channel contrast styles: cell membranes, neurons in cortex, and piled fruit."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from scellseg_lib.datasets.synthetic.shapes import (
    Shape,
    assign,
    blur,
    camera,
    clean,
    field,
    outline,
    ring_noise,
    scatter,
    strokes,
)

Planes = tuple[np.ndarray, np.ndarray]


def _grey(plane: np.ndarray) -> np.ndarray:
    """Image float32[2, H, W] whose second plane is empty."""
    return np.stack([plane, np.zeros_like(plane)])


def _ducts(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Curved empty clefts between the lobes of a gland, bool[H, W]."""
    ground = field(rng, shape, 75)
    width = 0.05 + 0.05 * np.abs(field(rng, shape, 30))
    slope = np.hypot(*np.gradient(ground)) * 75
    clefts = np.abs(ground - rng.normal(0, 0.4)) < width * (0.3 + slope)
    outside = field(rng, shape, 110) < rng.uniform(-1.9, -0.4)
    return clefts | outside


def cytomembrane(rng: np.random.Generator, shape: Shape) -> Planes:
    """Gland tissue with stained cell membranes: image float32[2, H, W], labels int32[H, W]."""
    number = int(1.5 * shape[0] * shape[1] / (np.pi * 14.5**2))
    radii = np.sort(14.5 * np.exp(0.24 * rng.standard_normal(number)))[::-1]
    empty = _ducts(rng, shape)
    places = scatter(rng, shape, radii, 0.8, 1.0 - empty)
    cells = [
        outline(rng, shape, y, x, radius, elongation=rng.uniform(1, 1.8), rough=0.07)
        for y, x, radius in places
    ]
    patches = [cell for cell in cells if cell is not None]
    labels = assign(patches, shape, 1.2)
    labels[empty] = 0
    labels = clean(labels, 120)
    wall = np.zeros(shape, bool)
    wall[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    wall[1:] |= labels[1:] != labels[:-1]
    away = cv2.distanceTransform((~wall).astype(np.uint8), cv2.DIST_L2, 5)
    own = np.exp(0.3 * rng.standard_normal(labels.max() + 1)).astype(np.float32)
    own[0] = 0
    patchy = np.exp(0.75 * field(rng, shape, 3.5) + 0.35 * field(rng, shape, 25) - 0.2)
    dots = np.maximum(field(rng, shape, 1.2) - 1.0, 0)
    line = np.exp(-0.5 * (away / 1.1) ** 2)
    lumps = np.maximum(field(rng, shape, 14) - 1.6, 0) ** 1.3 * (1 + 0.3 * field(rng, shape, 3))
    inner = (
        own[labels]
        * (1 + 0.2 * field(rng, shape, 1.2) + 0.2 * field(rng, shape, 3))
        * (0.75 + 0.35 * np.exp(-away / 4))
    )
    centre = 1 - 0.45 / (1 + np.exp(-(away - 8.5)))
    body = labels > 0
    depth = np.clip(1 + 0.3 * field(rng, shape, 60), 0.3, None)
    light = depth * (
        4000 * inner * centre
        + 5400 * line * patchy
        + 3600 * dots * patchy * np.exp(-away / 5) * body
        + 8000 * lumps * (0.3 + 0.7 * body)
    )
    light += 0.10 * blur(light, 9)
    return _grey(camera(rng, 420 + light, gain=26.0, read=60, sigma=0.75)), labels


def style1(rng: np.random.Generator, shape: Shape) -> Planes:
    """Neurons as faint rings in the haze of cortex: image float32[2, H, W], labels int32[H, W]."""
    dense = rng.random() < 0.2
    per_area = 1.15e-3 if dense else rng.uniform(2.9e-4, 4.2e-4)
    number = max(2, int(per_area * shape[0] * shape[1]))
    places = scatter(rng, shape, 11.6 * np.exp(0.1 * rng.standard_normal(number)), 1.02)
    neuropil = field(rng, shape, 1.8) + 0.8 * field(rng, shape, 4)
    light = np.exp(0.09 * neuropil + 0.05 * field(rng, shape, 12))
    points = np.column_stack([rng.random((500, 2)) * shape, rng.uniform(0.1, 1, 500) ** 2])
    light += 0.6 * blur(strokes(rng, shape, points, 12, 3, 0.4), 1.2)
    holes = np.zeros(shape, np.float32)
    starts = rng.random((3, 2)) * shape
    holes += blur(strokes(rng, shape, np.column_stack([starts, np.ones(3)]), 90, 13, 0.3), 4)
    patches = []
    for y, x, radius in places:
        cell = outline(rng, shape, y, x, radius, elongation=rng.uniform(1, 1.35), rough=0.05)
        if cell is None:
            continue
        patches.append(cell)
        bright = min(0.3 * float(np.exp(0.75 * rng.standard_normal())), 1.8)
        solid = rng.random() < 0.12
        patchy = np.clip(1 + 0.4 * ring_noise(rng, 12), 0.2, 2)[cell.ray]
        ring = cell.rim(1.7, 2.6) * patchy * bright * 1.3
        core = cell.soft(2.0, 5.0) * (bright * 1.6 if solid else -0.12)
        light[cell.window] += ring + core + 0.35 * bright * cell.soft(3.0)
    free = ndimage.distance_transform_edt(assign(patches, shape, 1.15) == 0) > 7
    for y, x, radius in scatter(rng, shape, rng.uniform(4, 7, max(2, number // 4)), 2.0, free):
        hole = outline(rng, shape, y, x, radius, elongation=rng.uniform(1, 1.8))
        if hole is not None:
            holes[hole.window] += hole.soft(3.5)
    light *= 1 - 0.8 * np.clip(holes, 0, 1)
    light *= np.clip(1 + 0.33 * field(rng, shape, 130), 0.25, None)
    level = rng.uniform(4200, 13_000)
    plane = camera(rng, 500 + level * light, gain=3.0, read=40, sigma=1.2)
    return _grey(plane), clean(assign(patches, shape), 80)


def style3(rng: np.random.Generator, shape: Shape) -> Planes:
    """Piled fruit: shaded, mottled balls that hide each other; image float32[2, H, W], labels."""
    size = rng.uniform(13, 25)
    number = int(2.6 * shape[0] * shape[1] / (np.pi * size**2))
    radii = size * np.exp(0.1 * rng.standard_normal(number))
    places = scatter(rng, shape, radii, 0.62)
    sun = np.array([rng.normal(-0.45, 0.2), rng.normal(0, 0.3), 0.8])
    sun /= np.linalg.norm(sun)
    skin = field(rng, shape, 0.9) + field(rng, shape, 4) + 0.8 * field(rng, shape, 11)
    light = np.full(shape, 0.05, np.float32) * (1 + 0.3 * field(rng, shape, 3))
    labels = np.zeros(shape, np.int32)
    for number, (y, x, radius) in enumerate(places[rng.permutation(len(places))], 1):
        ball = outline(rng, shape, y, x, radius, elongation=rng.uniform(1, 1.25), rough=0.025)
        if ball is None:
            continue
        window, level = ball.window, ball.level
        light[window] *= 1 - 0.6 * np.exp(-np.clip(-ball.depth, 0, None) / (0.12 * radius))
        up = np.sqrt(np.clip(1 - level**2, 0, 1))
        theta = ball.ray * (2 * np.pi / 180)
        facing = np.clip(
            level * (np.sin(theta) * sun[0] + np.cos(theta) * sun[1]) + up * sun[2], 0, 1
        )
        shine = np.clip((facing - 0.93) / 0.07, 0, 1) ** 3 * rng.uniform(0.05, 0.6)
        tone = float(np.clip(rng.normal(0.6, 0.24), 0.15, 1.2))
        mottle = np.clip(1 + rng.uniform(0.06, 0.2) * skin[window], 0.4, 1.6)
        shade = tone * (0.22 + 0.95 * facing) * (0.55 + 0.45 * up**0.5) * mottle + shine
        if rng.random() < 0.3:
            _stalk(rng, shade, ball.level)
        body = ball.soft(0.9)
        light[window] = light[window] * (1 - body) + shade * body
        # As in the real annotation, a thin unlabelled seam parts fruits that touch.
        labels[window][level < 1] = 0
        labels[window][ball.depth > 0.6] = number
    stems = np.column_stack([rng.random((14, 2)) * shape, rng.uniform(0.3, 0.9, 14)])
    light = np.maximum(light, strokes(rng, shape, stems, 1.1 * size, 3, 0.2) * 0.8)
    counts = 62_000 * (1 - np.exp(-1.55 * light))
    plane = camera(rng, counts, gain=18.0, read=200, sigma=0.65)
    return _grey(plane), clean(labels, 0.10 * np.pi * size**2)


def _stalk(rng: np.random.Generator, shade: np.ndarray, level: np.ndarray) -> None:
    """Darken the hollow where the stalk sat, in place."""
    rows, cols = np.nonzero(level < 0.6)
    if len(rows) == 0:
        return
    at = int(rng.random() * len(rows))
    y = np.arange(shade.shape[0])[:, None] - rows[at]
    x = np.arange(shade.shape[1])[None] - cols[at]
    shade *= 1 - 0.75 * np.exp(-(y**2 + x**2) / (2 * rng.uniform(1.5, 3.0) ** 2))

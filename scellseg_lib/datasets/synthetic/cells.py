"""Images of cells: phase contrast, mitochondria around nuclei, and the paper's contrast styles.

Each makes an image, float32[H, W], or [2, H, W] if its second plane is nuclei, and its labels.
"""

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from scellseg_lib.datasets.synthetic.scene import Outline, Scene, assign, blur, clean

Planes = tuple[np.ndarray, np.ndarray]


def draw_phase(scene: Scene) -> Planes:
    """Phase contrast: a sine of thickness minus its own blur makes halo, grey body, bright ring."""
    rng, shape = scene.rng, scene.shape
    number = int(rng.uniform(0.3, 0.48) * shape[0] * shape[1] / (np.pi * 21.8**2))
    radii = np.sort(21.8 * np.exp(0.13 * rng.standard_normal(number)))[::-1]
    places = scene.scatter(radii, 0.83, _draw_clusters(scene, 55, 0.45))
    fine, granules = scene.draw_field(1.1), scene.draw_field(1.7)
    thickness = 0.035 * fine + 0.05 * scene.draw_field(40)
    warp, cells = scene.draw_bends(20), []
    for y, x, radius in places:
        tall = rng.random() < 0.5
        bent = None if tall else warp
        size, rough = (0.9 * radius, 0.04) if tall else (radius, 0.1)
        long = rng.uniform(1.0, 1.2) if tall else rng.uniform(1.2, 2.8)
        spikes = (0 if tall else int(rng.integers(0, 4)), 1.0, 0.2)
        cell = scene.draw_outline(
            y, x, size, elongation=long, rough=rough, spikes=spikes, warp=bent
        )
        nucleus = _draw_nucleus(scene, cell, 0.42 * radius, 2.0, bent)
        if nucleus is None:
            continue
        cells.append(cell)
        grain = granules[cell.window] * (1 + 0.5 * fine[cell.window])
        dome = np.sqrt(np.clip(1 - cell.level**2, 0, 1))
        height = rng.uniform(2.4, 5.5) if tall else rng.uniform(0.1, 0.45)
        body = height * dome + 0.6 * cell.soften(2.0, 1.0)
        body += cell.soften(3.0, 2.0) * (0.12 * grain + 0.3 * (grain > 2.2) - 0.4 * (grain < -2.5))
        thickness[cell.window] += body
        thickness[nucleus.window] += nucleus.soften(2.0) * 0.12 + nucleus.draw_rim(1.0) * 0.18
        for dy, dx in rng.normal(0, 0.2 * radius, (int(rng.integers(1, 4)), 2)):
            spot = scene.draw_outline(y + dy, x + dx, rng.uniform(1.5, 2.6))
            thickness[spot.window] += 0.45 * spot.soften(1.5)
    passed = thickness - 0.5 * blur(thickness, 5) - 0.42 * blur(thickness, 14)
    angle = np.clip(1.5 * passed, -1.57, None)
    # Thick cells wrap faster than the blurs model: their middle is grey to bright, not black.
    thick = np.clip(angle - 1.3, 0, None)
    angle = np.where(thick > 0, 1.3 + 2.5 * (1 - np.exp(-0.72 * thick)), angle)
    signal = -np.sin(angle) + 0.08 * granules * np.clip(thickness, 0, 1)
    light = 31_800 * (1 + 0.012 * scene.draw_field(90))
    light = light + np.where(signal > 0, 24_000, 15_000) * signal
    plane = scene.expose(light, gain=4.0, read=220, sigma=0.8)
    return plane, clean(assign(cells, shape), 60)


def draw_mito(scene: Scene) -> Planes:
    """Mitochondria scattered around nuclei; the boundary of the labelled cells is not seen."""
    rng, shape = scene.rng, scene.shape
    number = int(0.8 * shape[0] * shape[1] / (np.pi * 36**2))
    radii = np.sort(36 * np.exp(0.15 * rng.standard_normal(number)))[::-1]
    places = scene.scatter(radii, 0.74, _draw_clusters(scene, 80, 0.7))
    cells, starts = [], []
    haze, nuclei = np.zeros((2, *shape), np.float32)
    chromatin = scene.draw_field(1.6) + scene.draw_field(4)
    for y, x, radius in places:
        cell = scene.draw_outline(y, x, radius, elongation=rng.uniform(1, 1.9), rough=0.09)
        nucleus = _draw_nucleus(scene, cell, 0.36 * radius, 3.0)
        if nucleus is None:
            continue
        cells.append(cell)
        bright = float(np.exp(0.35 * rng.standard_normal()))
        haze[cell.window] += 0.1 * bright * np.clip(1 - cell.level, 0, 1) ** 0.8
        haze[nucleus.window] *= 1 - 0.75 * nucleus.soften(2.0)
        chance = np.zeros(shape)
        chance[cell.window] = np.clip(1.25 - 1.2 * cell.level, 0, 1) * (cell.level < 0.97)
        chance[nucleus.window][nucleus.depth > 0] = 0
        draws = rng.random((int(0.16 * np.pi * radius**2), 3))
        where = (draws[:, :2] * cell.level.shape).astype(int) + [s.start for s in cell.window]
        where = where[draws[:, 2] < chance[*where.T]]
        shine = 0.28 * bright * np.exp(0.4 * rng.standard_normal(len(where)))
        starts.append(np.column_stack([where, shine]))
        grain = 1 + 0.16 * chromatin[nucleus.window]
        nuclei[nucleus.window] += rng.uniform(0.45, 1.0) * grain * nucleus.soften(2.5)
    threads = scene.draw_strokes(np.concatenate(starts), 7.0, 2, 0.35)
    light = 420 + 21_000 * (threads + 0.35 * blur(threads, 4) + haze)
    first = scene.expose(light, gain=9.0, read=90, sigma=0.9)
    second = scene.expose(380 + 17_000 * nuclei + 500 * haze, gain=9.0, read=90, sigma=1.0)
    return np.stack([first, second]), clean(assign(cells, shape), 80)


FLUORESCENCE: dict[str, tuple] = {
    "name": ("Kc167", "macrophagocyte", "neurocyte", "style2"),
    "radius": (16.6, 27, 17, 7.3),
    "spread": (0.12, 0.22, 0.26, 0.16),
    "density": ((500, 850), (160, 320), (100, 380), (560, 1050)),  # cells per megapixel, a range
    "spacing": (0.74, 0.82, 0.9, 1.0),
    "filled": (0.68, 0.75, 0.9, 0.95),  # part of the image where they lie
    "elongation": (1.2, 1.5, 1.5, 1.4),
    "rough": (0.06, 0.12, 0.06, 0.07),
    "spikes": ((0, 2), (0, 5), (1, 6), (0, 2)),
    "spike_size": ((0.4, 0.12), (0.6, 0.14), (1.5, 0.17), (0.5, 0.25)),
    "nucleus": (9.0, 11.0, 8.8, 4.4),
    "rim": (0.42, 0.38, 0.15, 0.25),  # light of the edge
    "rim_width": (2.0, 1.7, 0.9, 1.4),
    "inner": (0.5, 0.5, 0.38, 1.0),  # of the body
    "streaks": (0.4, 0.6, 0.7, 0.2),  # along its rays
    "glow": (0.05, 0.3, 0.75, 0.0),  # around the nucleus
    "light": (17_000, 19_500, 13_000, 11_500),
    "dark": ((700, 500), (500, 300), (550, 2000), (1450, 2050)),
    "defocus": (0.22, 0.3, 0.03, 0.2),
    "bleed": (0.08, 0.08, 0.02, 0.04),
    "lens": (0.8, 0.8, 0.5, 0.7),
}
"""How the cells of the two-channel styles look; lengths in px, light in counts."""


def draw_fluorescence(scene: Scene, name: str) -> Planes:
    """Cytoplasm and nuclei of one of the styles in ``FLUORESCENCE``."""
    rng, shape, column = scene.rng, scene.shape, FLUORESCENCE["name"].index(name)
    style = SimpleNamespace(**{key: values[column] for key, values in FLUORESCENCE.items()})
    number = max(2, int(rng.uniform(*style.density) * 1e-6 * shape[0] * shape[1]))
    radii = np.sort(style.radius * np.exp(style.spread * rng.standard_normal(number)))[::-1]
    ground = _draw_clusters(scene, 3.5 * style.radius, style.filled)
    places = scene.scatter(radii, style.spacing, ground)
    grains = np.stack([scene.draw_field(0.9), scene.draw_field(0.16 * style.radius + 0.6)])
    # Kc167 cells are round; the others are not.
    warp = None if name == "Kc167" else scene.draw_bends(style.radius)
    layers = np.zeros((2, 2, *shape), np.float32)  # sharp and out of focus; cytoplasm and nuclei
    cells = []
    for y, x, radius in places:
        elongation = 1 + (style.elongation - 1) * rng.gamma(2.0, 0.5)
        spikes = int(rng.integers(style.spikes[0], style.spikes[1] + 1)), *style.spike_size
        looks = {"elongation": elongation, "rough": style.rough, "spikes": spikes, "warp": warp}
        cell = scene.draw_outline(y, x, radius, **looks)
        nucleus = _draw_nucleus(scene, cell, style.nucleus, 0.05 * radius, warp)
        if nucleus is not None:
            cells.append(cell)
            _shine(scene, style, cell, nucleus, layers, grains)
    if name == "style2":
        _add_glia(scene, *layers[0])
    soft = [blur(plane, 0.14 * style.radius + 0.8) for plane in layers[1]]
    planes = layers[0] + 0.8 * np.stack(soft)
    labels = clean(assign(cells, shape), 0.15 * style.radius**2 * np.pi)
    haze = 0.10 * blur(planes[0], 12) + 0.06 * blur(planes[0], 4)
    uneven = 1 + 0.12 * scene.draw_field(90)
    first = style.dark[0] * uneven + style.light * (planes[0] + haze)
    second = style.dark[1] + 1.45 * style.light * (planes[1] + 0.09 * blur(planes[1], 8))
    image = [scene.expose(light, gain=14.0, read=60, sigma=style.lens) for light in (first, second)]
    return np.stack(image), labels


def _shine(
    scene: Scene, look: Any, cell: Outline, nucleus: Outline, layers: np.ndarray, grains: np.ndarray
) -> None:
    """Add the light of one cell to the cytoplasm and the nuclei of one of the layers."""
    rng = scene.rng
    fine, coarse = grains[:, *cell.window]
    cytoplasm, nuclei = layers[int(rng.random() < look.defocus)]
    bright = float(np.exp((0.65 if look.glow == 0 else 0.38) * rng.standard_normal()))
    patchy = np.clip(0.75 + 0.6 * scene.draw_ring(6), 0.05, 2.5)[cell.ray]
    streaks = (0.6 * scene.draw_ring(1 + 35 / cell.radius) + 0.4 * scene.draw_ring(6))[cell.ray]
    body = cell.soften(1.5, 0.5)
    texture = np.clip(1 + 0.1 * fine + 0.26 * coarse, 0.15, None)
    streaky = np.clip(1 + look.streaks * streaks * np.clip(cell.level, 0, 1.2) ** 2, 0.1, None)
    light = look.inner * body * texture * streaky
    light += look.rim * 1.6 * cell.draw_rim(look.rim_width, 1.5) * patchy * texture
    light += 0.25 * look.rim * cell.draw_rim(1.2, -2.0) * np.clip(streaks, 0, None)
    y, x = np.ogrid[cell.window]
    near = np.hypot(y - nucleus.y, x - nucleus.x)
    light += look.glow * 1.6 * body * np.exp(-near / (1.1 * nucleus.radius)) * texture
    cytoplasm[cell.window] += bright * light
    kernel = nucleus.soften(2.2)
    cytoplasm[nucleus.window] *= 1 - (0.65 if look.glow == 0 else 0.3) * kernel
    fine, coarse = grains[:, *nucleus.window]
    chromatin = np.clip(1 + 0.2 * fine + 0.22 * coarse, 0.1, 2)
    shine = float(np.clip(np.exp(0.3 * rng.standard_normal()), 0.4, 2)) * kernel * chromatin
    if look.glow == 0:  # neurons of the brain: a pale nucleus with bright nucleoli
        shine = 0.35 * shine + 0.9 * shine * (coarse > 1.1)
    nuclei[nucleus.window] += shine
    cytoplasm[nucleus.window] += look.bleed * 0.8 * shine
    nuclei[cell.window] += look.bleed * 0.25 * bright * light


def _add_glia(scene: Scene, cytoplasm: np.ndarray, nuclei: np.ndarray) -> None:
    """Add the small nuclei without cytoplasm and the blurred scraps that style2 has, unlabelled."""
    rng, number = scene.rng, int(320e-6 * scene.shape[0] * scene.shape[1])
    for y, x, radius in scene.scatter(rng.uniform(3.0, 4.6, number), 1.0):
        spot = scene.draw_outline(y, x, radius, elongation=rng.uniform(1, 2), rough=0.05)
        nuclei[spot.window] += rng.uniform(0.5, 1.4) * spot.soften(1.5)
    scraps = np.maximum(scene.draw_field(2.2) - 2.0, 0) + np.maximum(scene.draw_field(4) - 2.2, 0)
    cytoplasm += 0.22 * scraps


def draw_cytomembrane(scene: Scene) -> Planes:
    """Gland tissue with stained cell membranes, and curved empty clefts between its lobes."""
    rng, shape = scene.rng, scene.shape
    number = int(1.5 * shape[0] * shape[1] / (np.pi * 14.5**2))
    radii = np.sort(14.5 * np.exp(0.24 * rng.standard_normal(number)))[::-1]
    ground = scene.draw_field(75)
    width = 0.05 + 0.05 * np.abs(scene.draw_field(30))
    slope = np.hypot(*np.gradient(ground)) * 75
    empty = np.abs(ground - rng.normal(0, 0.4)) < width * (0.3 + slope)
    empty |= scene.draw_field(110) < rng.uniform(-1.9, -0.4)
    cells = [
        scene.draw_outline(*place, elongation=rng.uniform(1, 1.8), rough=0.07)
        for place in scene.scatter(radii, 0.8, 1.0 - empty)
    ]
    labels = clean(np.where(empty, 0, assign(cells, shape, 1.2)), 120)
    wall = np.zeros(shape, bool)
    wall[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    wall[1:] |= labels[1:] != labels[:-1]
    away = cv2.distanceTransform((~wall).astype(np.uint8), cv2.DIST_L2, 5)
    own = np.exp(0.3 * rng.standard_normal(labels.max() + 1)).astype(np.float32)
    own[0] = 0
    patchy = np.exp(0.75 * scene.draw_field(3.5) + 0.35 * scene.draw_field(25) - 0.2)
    dots = np.maximum(scene.draw_field(1.2) - 1.0, 0)
    line = np.exp(-0.5 * (away / 1.1) ** 2)
    lumps = np.maximum(scene.draw_field(14) - 1.6, 0) ** 1.3 * (1 + 0.3 * scene.draw_field(3))
    inner = own[labels] * (1 + 0.2 * scene.draw_field(1.2) + 0.2 * scene.draw_field(3))
    inner = inner * (0.75 + 0.35 * np.exp(-away / 4))
    centre = 1 - 0.45 / (1 + np.exp(-(away - 8.5)))
    body = labels > 0
    depth = np.clip(1 + 0.3 * scene.draw_field(60), 0.3, None)
    light = depth * (
        4000 * inner * centre
        + 5400 * line * patchy
        + 3600 * dots * patchy * np.exp(-away / 5) * body
        + 8000 * lumps * (0.3 + 0.7 * body)
    )
    light += 0.10 * blur(light, 9)
    return scene.expose(420 + light, gain=26.0, read=60, sigma=0.75), labels


def draw_style1(scene: Scene) -> Planes:
    """Neurons as faint rings in the haze of cortex."""
    rng, shape = scene.rng, scene.shape
    per_area = 1.15e-3 if rng.random() < 0.2 else rng.uniform(2.9e-4, 4.2e-4)
    number = max(2, int(per_area * shape[0] * shape[1]))
    places = scene.scatter(11.6 * np.exp(0.1 * rng.standard_normal(number)), 1.02)
    neuropil = scene.draw_field(1.8) + 0.8 * scene.draw_field(4)
    light = np.exp(0.09 * neuropil + 0.05 * scene.draw_field(12))
    points = np.column_stack([rng.random((500, 2)) * shape, rng.uniform(0.1, 1, 500) ** 2])
    light += 0.6 * blur(scene.draw_strokes(points, 12, 3, 0.4), 1.2)
    vessels = np.column_stack([rng.random((3, 2)) * shape, np.ones(3)])
    holes, cells = blur(scene.draw_strokes(vessels, 90, 13, 0.3), 4), []
    for place in places:
        cell = scene.draw_outline(*place, elongation=rng.uniform(1, 1.35), rough=0.05)
        cells.append(cell)
        bright = min(0.3 * float(np.exp(0.75 * rng.standard_normal())), 1.8)
        solid = rng.random() < 0.12
        patchy = np.clip(1 + 0.4 * scene.draw_ring(12), 0.2, 2)[cell.ray]
        ring = cell.draw_rim(1.7, 2.6) * patchy * bright * 1.3
        core = cell.soften(2.0, 5.0) * (bright * 1.6 if solid else -0.12)
        light[cell.window] += ring + core + 0.35 * bright * cell.soften(3.0)
    free = ndimage.distance_transform_edt(assign(cells, shape, 1.15) == 0) > 7
    for place in scene.scatter(rng.uniform(4, 7, max(2, number // 4)), 2.0, free):
        hole = scene.draw_outline(*place, elongation=rng.uniform(1, 1.8))
        holes[hole.window] += hole.soften(3.5)
    light *= 1 - 0.8 * np.clip(holes, 0, 1)
    light *= np.clip(1 + 0.33 * scene.draw_field(130), 0.25, None)
    plane = scene.expose(500 + rng.uniform(4200, 13_000) * light, gain=3.0, read=40, sigma=1.2)
    return plane, clean(assign(cells, shape), 80)


def draw_style3(scene: Scene) -> Planes:
    """Piled fruit: shaded, mottled balls that hide each other."""
    rng, shape = scene.rng, scene.shape
    size = rng.uniform(13, 25)
    number = int(2.6 * shape[0] * shape[1] / (np.pi * size**2))
    places = scene.scatter(size * np.exp(0.1 * rng.standard_normal(number)), 0.62)
    sun = np.array([rng.normal(-0.45, 0.2), rng.normal(0, 0.3), 0.8])
    sun /= np.linalg.norm(sun)
    skin = scene.draw_field(0.9) + scene.draw_field(4) + 0.8 * scene.draw_field(11)
    light = np.full(shape, 0.05, np.float32) * (1 + 0.3 * scene.draw_field(3))
    labels = np.zeros(shape, np.int32)
    for number, (y, x, radius) in enumerate(places[rng.permutation(len(places))], 1):
        ball = scene.draw_outline(y, x, radius, elongation=rng.uniform(1, 1.25), rough=0.025)
        window, level = ball.window, ball.level
        light[window] *= 1 - 0.6 * np.exp(-np.clip(-ball.depth, 0, None) / (0.12 * radius))
        up = np.sqrt(np.clip(1 - level**2, 0, 1))
        theta = ball.ray * (2 * np.pi / 180)
        across = np.sin(theta) * sun[0] + np.cos(theta) * sun[1]
        facing = np.clip(level * across + up * sun[2], 0, 1)
        shine = np.clip((facing - 0.93) / 0.07, 0, 1) ** 3 * rng.uniform(0.05, 0.6)
        tone = float(np.clip(rng.normal(0.6, 0.24), 0.15, 1.2))
        mottle = np.clip(1 + rng.uniform(0.06, 0.2) * skin[window], 0.4, 1.6)
        shade = tone * (0.22 + 0.95 * facing) * (0.55 + 0.45 * up**0.5) * mottle + shine
        rows, cols = np.nonzero(level < 0.6)
        if rng.random() < 0.3 and len(rows):  # the hollow where the stalk sat
            at = int(rng.random() * len(rows))
            y, x = np.ogrid[: shade.shape[0], : shade.shape[1]]
            away = (y - rows[at]) ** 2 + (x - cols[at]) ** 2
            shade *= 1 - 0.75 * np.exp(-away / (2 * rng.uniform(1.5, 3.0) ** 2))
        body = ball.soften(0.9)
        light[window] = light[window] * (1 - body) + shade * body
        # As in the real annotation, a thin unlabelled seam parts fruits that touch.
        labels[window][level < 1] = 0
        labels[window][ball.depth > 0.6] = number
    stems = np.column_stack([rng.random((14, 2)) * shape, rng.uniform(0.3, 0.9, 14)])
    light = np.maximum(light, scene.draw_strokes(stems, 1.1 * size, 3, 0.2) * 0.8)
    plane = scene.expose(62_000 * (1 - np.exp(-1.55 * light)), gain=18.0, read=200, sigma=0.65)
    return plane, clean(labels, 0.10 * np.pi * size**2)


def _draw_clusters(scene: Scene, scale: float, filled: float) -> np.ndarray:
    """Where cells may lie: float32[H, W], near 1 in clusters that cover about `filled`."""
    ground = scene.draw_field(scale)
    level = np.quantile(ground[::4, ::4], 1 - filled)
    return 1 / (1 + np.exp(-np.clip(8 * (ground - level), -30, 30))) + 0.02


def _draw_nucleus(
    scene: Scene, cell: Outline, radius: float, stray: float, warp: np.ndarray | None = None
) -> Outline | None:
    """Nucleus of mean `radius` px, off the cell's centre by `stray` px (SD); None out of sight."""
    dy, dx = scene.rng.normal(0, stray, 2)
    size = min(radius * float(np.clip(scene.rng.normal(1, 0.12), 0.6, 1.5)), 0.72 * cell.core)
    elongation = scene.rng.uniform(1, 1.5)
    nucleus = scene.draw_outline(cell.y + dy, cell.x + dx, size, elongation=elongation, warp=warp)
    return nucleus if nucleus.level.size else None

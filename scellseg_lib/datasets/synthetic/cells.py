"""Cells in phase contrast, mitochondria around nuclei, and fluorescent cells of four styles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scellseg_lib.datasets.synthetic.shapes import (
    Patch,
    Shape,
    assign,
    bends,
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


def _clusters(rng: np.random.Generator, shape: Shape, scale: float, filled: float) -> np.ndarray:
    """Where cells may lie: float32[H, W], near 1 in clusters that cover about `filled`."""
    ground = field(rng, shape, scale)
    level = np.quantile(ground[::4, ::4], 1 - filled)
    return 1 / (1 + np.exp(-np.clip(8 * (ground - level), -30, 30))) + 0.02


def _nucleus(
    rng: np.random.Generator,
    shape: Shape,
    cell: Patch,
    radius: float,
    stray: float,
    warp: np.ndarray | None = None,
) -> Patch | None:
    """Outline of a nucleus of mean `radius` px, off the cell's centre by `stray` px (SD)."""
    dy, dx = rng.normal(0, stray, 2)
    size = min(radius * float(np.clip(rng.normal(1, 0.12), 0.6, 1.5)), 0.72 * cell.core)
    return outline(
        rng, shape, cell.y + dy, cell.x + dx, size, elongation=rng.uniform(1, 1.5), warp=warp
    )


def _phase_contrast(thickness: np.ndarray, granules: np.ndarray) -> np.ndarray:
    """Light above the background, counts, that a phase microscope makes of optical thickness."""
    passed = thickness - 0.5 * blur(thickness, 5) - 0.42 * blur(thickness, 14)
    angle = np.clip(1.5 * passed, -1.57, None)
    # Thick cells wrap faster than the blurs model: their middle is grey to bright, not black.
    thick = np.clip(angle - 1.3, 0, None)
    angle = np.where(thick > 0, 1.3 + 2.5 * (1 - np.exp(-0.72 * thick)), angle)
    signal = -np.sin(angle) + 0.08 * granules * np.clip(thickness, 0, 1)
    return np.where(signal > 0, 24_000, 15_000) * signal


def phase(rng: np.random.Generator, shape: Shape) -> Planes:
    """Phase contrast: image float32[2, H, W] (second plane zeros), labels int32[H, W].

    The microscope turns optical thickness into light: thickness minus its own blur (the phase ring
    passes the low frequencies) through a sine, which makes the bright halo, the grey body and, in
    round thick cells, the bright ring, as in a real one.
    """
    number = int(rng.uniform(0.3, 0.48) * shape[0] * shape[1] / (np.pi * 21.8**2))
    radii = np.sort(21.8 * np.exp(0.13 * rng.standard_normal(number)))[::-1]
    places = scatter(rng, shape, radii, 0.83, _clusters(rng, shape, 55, 0.45))
    fine, granules = field(rng, shape, 1.1), field(rng, shape, 1.7)
    thickness = 0.035 * fine + 0.05 * field(rng, shape, 40)
    warp, patches = bends(rng, shape, 20), []
    for y, x, radius in places:
        tall = rng.random() < 0.5
        bent = None if tall else warp
        cell = outline(
            rng,
            shape,
            y,
            x,
            radius * (0.9 if tall else 1.0),
            elongation=rng.uniform(1.0, 1.2) if tall else rng.uniform(1.2, 2.8),
            rough=0.04 if tall else 0.1,
            spikes=0 if tall else int(rng.integers(0, 4)),
            spike_length=1.0,
            spike_width=0.2,
            warp=bent,
        )
        nucleus = None if cell is None else _nucleus(rng, shape, cell, 0.42 * radius, 2.0, bent)
        if cell is None or nucleus is None:
            continue
        patches.append(cell)
        grain = granules[cell.window] * (1 + 0.5 * fine[cell.window])
        dome = np.sqrt(np.clip(1 - cell.level**2, 0, 1))
        height = rng.uniform(2.4, 5.5) if tall else rng.uniform(0.1, 0.45)
        body = height * dome + 0.6 * cell.soft(2.0, 1.0)
        body += cell.soft(3.0, 2.0) * (0.12 * grain + 0.3 * (grain > 2.2) - 0.4 * (grain < -2.5))
        thickness[cell.window] += body
        thickness[nucleus.window] += nucleus.soft(2.0) * 0.12 + nucleus.rim(1.0) * 0.18
        for dy, dx in rng.normal(0, 0.2 * radius, (int(rng.integers(1, 4)), 2)):
            spot = outline(rng, shape, y + dy, x + dx, rng.uniform(1.5, 2.6))
            if spot is not None:
                thickness[spot.window] += 0.45 * spot.soft(1.5)
    light = 31_800 * (1 + 0.012 * field(rng, shape, 90)) + _phase_contrast(thickness, granules)
    plane = camera(rng, light, gain=4.0, read=220, sigma=0.8)
    return np.stack([plane, np.zeros_like(plane)]), clean(assign(patches, shape), 60)


def mito(rng: np.random.Generator, shape: Shape) -> Planes:
    """Mitochondria (first plane) scattered around nuclei (second plane), no visible cell boundary.

    Returns image float32[2, H, W] and labels int32[H, W] of whole cells.
    """
    number = int(0.8 * shape[0] * shape[1] / (np.pi * 36**2))
    radii = np.sort(36 * np.exp(0.15 * rng.standard_normal(number)))[::-1]
    places = scatter(rng, shape, radii, 0.74, _clusters(rng, shape, 80, 0.7))
    patches, starts = [], []
    haze, nuclei = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    chromatin = field(rng, shape, 1.6) + field(rng, shape, 4)
    for y, x, radius in places:
        cell = outline(rng, shape, y, x, radius, elongation=rng.uniform(1, 1.9), rough=0.09)
        nucleus = None if cell is None else _nucleus(rng, shape, cell, 0.36 * radius, 3.0)
        if cell is None or nucleus is None:
            continue
        patches.append(cell)
        bright = float(np.exp(0.35 * rng.standard_normal()))
        body = np.clip(1 - cell.level, 0, 1) ** 0.8
        haze[cell.window] += 0.1 * bright * body
        dark = 1 - 0.75 * nucleus.soft(2.0)
        haze[nucleus.window] *= dark
        chance = np.clip(1.25 - 1.2 * cell.level, 0, 1) * (cell.level < 0.97)
        hole = np.zeros(shape, bool)[nucleus.window] | (nucleus.depth > 0)
        draws = rng.random((int(0.16 * np.pi * radius**2), 3))
        row = (draws[:, 0] * chance.shape[0]).astype(int)
        col = (draws[:, 1] * chance.shape[1]).astype(int)
        keep = draws[:, 2] < chance[row, col]
        where = np.stack([row + cell.window[0].start, col + cell.window[1].start], axis=1)[keep]
        inner = where - [nucleus.window[0].start, nucleus.window[1].start]
        within = ((inner >= 0) & (inner < hole.shape)).all(axis=1)
        within[within] = hole[inner[within, 0], inner[within, 1]]
        where = where[~within]
        shine = 0.28 * bright * np.exp(0.4 * rng.standard_normal(len(where)))
        starts.append(np.column_stack([where, shine]))
        grain = 1 + 0.16 * chromatin[nucleus.window]
        nuclei[nucleus.window] += rng.uniform(0.45, 1.0) * grain * nucleus.soft(2.5)
    threads = strokes(rng, shape, np.concatenate(starts), 7.0, 2, 0.35)
    light = 420 + 21_000 * (threads + 0.35 * blur(threads, 4) + haze)
    first = camera(rng, light, gain=9.0, read=90, sigma=0.9)
    second = camera(rng, 380 + 17_000 * nuclei + 500 * haze, gain=9.0, read=90, sigma=1.0)
    return np.stack([first, second]), clean(assign(patches, shape), 80)


@dataclass(frozen=True)
class Style:
    """How the cells of a two-channel fluorescent style look; lengths in px, light in counts.

    `filled` is the part of the image in which cells may lie, `count` their number per megapixel
    (lowest, highest), `rim`, `inner`, `streaks` and `glow` the weights of the bright edge, of the
    body, of radial streaks and of the light that gathers at the nucleus.
    """

    radius: float
    spread: float
    count: tuple[int, int]
    spacing: float
    filled: float
    elongation: float
    rough: float
    spikes: tuple[int, int]
    spike_length: float
    spike_width: float
    nucleus: float
    rim: float
    rim_width: float
    inner: float
    streaks: float
    glow: float
    light: float
    dark: tuple[float, float]
    defocus: float
    bleed: float
    lens: float


STYLES = {
    "Kc167": Style(
        16.6, 0.12, (500, 850), 0.74, 0.68, 1.2, 0.06, (0, 2), 0.4, 0.12, 9.0, 0.42, 2.0, 0.5,
        0.4, 0.05, 17_000, (700, 500), 0.22, 0.08, 0.8,
    ),
    "macrophagocyte": Style(
        27, 0.22, (160, 320), 0.82, 0.75, 1.5, 0.12, (0, 5), 0.6, 0.14, 11.0, 0.38, 1.7, 0.5,
        0.6, 0.3, 19_500, (500, 300), 0.3, 0.08, 0.8,
    ),
    "neurocyte": Style(
        17, 0.26, (100, 380), 0.9, 0.9, 1.5, 0.06, (1, 6), 1.5, 0.17, 8.8, 0.15, 0.9, 0.38,
        0.7, 0.75, 13_000, (550, 2000), 0.03, 0.02, 0.5,
    ),
    "style2": Style(
        7.3, 0.16, (560, 1050), 1.0, 0.95, 1.4, 0.07, (0, 2), 0.5, 0.25, 4.4, 0.25, 1.4, 1.0,
        0.2, 0.0, 11_500, (1450, 2050), 0.2, 0.04, 0.7,
    ),
}  # fmt: skip


def _paint(
    rng: np.random.Generator,
    style: Style,
    cell: Patch,
    nucleus: Patch,
    layers: tuple[Planes, Planes],
    grains: Planes,
) -> None:
    """Add the light of one cell to a layer (sharp, out of focus) of planes (cytoplasm, nucleus)."""
    fine, coarse = grains[0][cell.window], grains[1][cell.window]
    cytoplasm, nuclei = layers[int(rng.random() < style.defocus)]
    bright = float(np.exp((0.65 if style.glow == 0 else 0.38) * rng.standard_normal()))
    patchy = np.clip(0.75 + 0.6 * ring_noise(rng, 6), 0.05, 2.5)[cell.ray]
    streaks = (0.6 * ring_noise(rng, 1 + 35 / cell.radius) + 0.4 * ring_noise(rng, 6))[cell.ray]
    body = cell.soft(1.5, 0.5)
    texture = np.clip(1 + 0.1 * fine + 0.26 * coarse, 0.15, None)
    streaky = np.clip(1 + style.streaks * streaks * np.clip(cell.level, 0, 1.2) ** 2, 0.1, None)
    light = style.inner * body * texture * streaky
    light += style.rim * 1.6 * cell.rim(style.rim_width, 1.5) * patchy * texture
    light += 0.25 * style.rim * cell.rim(1.2, -2.0) * np.clip(streaks, 0, None)
    near = np.hypot(
        np.arange(cell.window[0].start, cell.window[0].stop)[:, None] - nucleus.y,
        np.arange(cell.window[1].start, cell.window[1].stop)[None] - nucleus.x,
    )
    light += style.glow * 1.6 * body * np.exp(-near / (1.1 * nucleus.radius)) * texture
    cytoplasm[cell.window] += bright * light
    kernel = nucleus.soft(2.2)
    cytoplasm[nucleus.window] *= 1 - (0.65 if style.glow == 0 else 0.3) * kernel
    chromatin = np.clip(
        1 + 0.2 * grains[0][nucleus.window] + 0.22 * grains[1][nucleus.window], 0.1, 2
    )
    shine = float(np.clip(np.exp(0.3 * rng.standard_normal()), 0.4, 2)) * kernel * chromatin
    if style.glow == 0:  # neurons of the brain: a pale nucleus with bright nucleoli
        shine = 0.35 * shine + 0.9 * shine * (grains[1][nucleus.window] > 1.1)
    nuclei[nucleus.window] += shine
    cytoplasm[nucleus.window] += style.bleed * 0.8 * shine
    nuclei[cell.window] += style.bleed * 0.25 * bright * light


def fluorescent(rng: np.random.Generator, shape: Shape, name: str) -> Planes:
    """Cells of a two-channel style: image float32[2, H, W] (cytoplasm, nucleus), labels int32."""
    style = STYLES[name]
    number = max(2, int(rng.uniform(*style.count) * 1e-6 * shape[0] * shape[1]))
    radii = np.sort(style.radius * np.exp(style.spread * rng.standard_normal(number)))[::-1]
    ground = _clusters(rng, shape, 3.5 * style.radius, style.filled)
    places = scatter(rng, shape, radii, style.spacing, ground)
    grains = (field(rng, shape, 0.9), field(rng, shape, 0.16 * style.radius + 0.6))
    # Kc167 cells are round; the others are not.
    warp = None if name == "Kc167" else bends(rng, shape, style.radius)
    sharp, soft = np.zeros((2, 2, *shape), np.float32)
    patches = []
    for y, x, radius in places:
        cell = outline(
            rng,
            shape,
            y,
            x,
            radius,
            elongation=1 + (style.elongation - 1) * rng.gamma(2.0, 0.5),
            rough=style.rough,
            spikes=int(rng.integers(style.spikes[0], style.spikes[1] + 1)),
            spike_length=style.spike_length,
            spike_width=style.spike_width,
            warp=warp,
        )
        if cell is None:
            continue
        nucleus = _nucleus(rng, shape, cell, style.nucleus, 0.05 * radius, warp)
        if nucleus is not None:
            patches.append(cell)
            _paint(rng, style, cell, nucleus, ((sharp[0], sharp[1]), (soft[0], soft[1])), grains)
    if name == "style2":
        _glia(rng, shape, (sharp[0], sharp[1]))
    planes = [sharp[i] + 0.8 * blur(soft[i], 0.14 * style.radius + 0.8) for i in (0, 1)]
    labels = clean(assign(patches, shape), 0.15 * style.radius**2 * np.pi)
    haze = 0.10 * blur(planes[0], 12) + 0.06 * blur(planes[0], 4)
    uneven = 1 + 0.12 * field(rng, shape, 90)
    first = style.dark[0] * uneven + style.light * (planes[0] + haze)
    second = style.dark[1] + 1.45 * style.light * (planes[1] + 0.09 * blur(planes[1], 8))
    image = [camera(rng, light, gain=14.0, read=60, sigma=style.lens) for light in (first, second)]
    return np.stack(image), labels


def _glia(rng: np.random.Generator, shape: Shape, planes: Planes) -> None:
    """Add the small nuclei without cytoplasm and the blurred scraps that style2 has, unlabelled."""
    number = int(320e-6 * shape[0] * shape[1])
    for y, x, radius in scatter(rng, shape, rng.uniform(3.0, 4.6, number), 1.0):
        spot = outline(rng, shape, y, x, radius, elongation=rng.uniform(1, 2), rough=0.05)
        if spot is not None:
            planes[1][spot.window] += rng.uniform(0.5, 1.4) * spot.soft(1.5)
    scraps = np.maximum(field(rng, shape, 2.2) - 2.0, 0) + np.maximum(field(rng, shape, 4) - 2.2, 0)
    planes[0][...] += 0.22 * scraps

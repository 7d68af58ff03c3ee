"""Small drawings of the panels as SVG: the curve of the losses, and the disk of the diameter."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import imagecodecs
import numpy as np

from scellseg_lib.samples import MINIMAL_RANGE

WIDTH, HEIGHT = 560, 200
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
MAX_POINTS = 400
"""More than a curve of this width can show."""
CURVES = {
    "segmentation": ("#0072B2", "error on the annotated images"),
    "loss": ("#E69F00", "with the comparison of styles"),
}
BOX = 170
"""Side of each of the two pictures of the diameter, px on the screen."""


def loss_curve(log: Sequence[Mapping[str, float]], n_steps: int) -> str:
    """Draw the losses of a fine-tuning over its steps.

    Parameters
    ----------
    log : sequence of mapping
        ``step`` and the losses ``segmentation`` and ``loss``, as `finetune` logs them. The second
        is drawn where it is another.
    n_steps : int
        End of the axis.

    Returns
    -------
    str
        An SVG; each step is a dot, the line their mean over a tenth of the steps.
    """
    if not log:
        return ""
    steps = np.array([entry["step"] for entry in log], float)
    curves = {name: np.array([entry[name] for entry in log]) for name in CURVES}
    if np.array_equal(curves["segmentation"], curves["loss"]):
        del curves["loss"]
    top = _round_up(max(float(values.max()) for values in curves.values()))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    across = LEFT + width * steps / n_steps
    parts = _axes(top, n_steps)
    for place, (name, values) in enumerate(curves.items()):
        colour, says = CURVES[name]
        thin = max(1, -(-len(values) // MAX_POINTS))
        down = TOP + height * (1 - values / top)
        smooth = TOP + height * (1 - _running_mean(values, max(1, len(values) // 10)) / top)
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.5" fill="{colour}" fill-opacity="0.35"/>'
            for x, y in zip(across[::thin], down[::thin], strict=True)
        ]
        line = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in zip(across[::thin], smooth[::thin], strict=True)
        )
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{WIDTH - RIGHT}" y="{TOP + 12 + 15 * place}" text-anchor="end" '
            f'fill="{colour}">{says}</text>'
        )
    title = f"Loss over {len(log)} of {n_steps} steps, now {curves['segmentation'][-1]:.3g}"
    return _svg(WIDTH, HEIGHT, title, parts)


def diameter_disk(crop: np.ndarray, diameter: float) -> str:
    """Draw a disk of the cells' diameter beside a piece of an image, both to the same scale.

    Parameters
    ----------
    crop : number[N, N]
        Piece of a plane.
    diameter : float
        In pixels of the image.
    """
    scale = BOX / len(crop)
    low, high = np.percentile(crop, (1, 99))
    grey = np.clip((crop - low) / max(high - low, MINIMAL_RANGE), 0, 1) * 255
    png = base64.b64encode(imagecodecs.png_encode(grey.astype(np.uint8))).decode()
    middle, radius, gap = BOX / 2, diameter * scale / 2, 12
    parts = [
        f'<image href="data:image/png;base64,{png}" width="{BOX}" height="{BOX}"/>',
        f'<rect x="{BOX + gap}" width="{BOX}" height="{BOX}" fill="#f2f2f2"/>',
        f'<circle class="disk" cx="{BOX + gap + middle:g}" cy="{middle:g}" r="{radius:.2f}" '
        'fill="#0072B2" fill-opacity="0.6"/>',
        f'<text x="{BOX + gap + middle:g}" y="{BOX - 8}" text-anchor="middle" fill="#222">'
        f"{diameter:.0f} px</text>",
    ]
    title = f"A piece of an annotated image beside a disk of {diameter:.0f} px"
    return _svg(2 * BOX + gap, BOX, title, parts)


def _axes(top: float, n_steps: int) -> list[str]:
    low, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT},{TOP}V{low}H{right}" fill="none" stroke="#555"/>']
    for share in (0, 0.5, 1):
        x, y = LEFT + (right - LEFT) * share, low - (low - TOP) * share
        parts += [
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * share:.3g}</text>',
            f'<text x="{x:.1f}" y="{low + 15}" text-anchor="middle">{n_steps * share:g}</text>',
        ]
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'
    )
    return parts


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and those before it, `window` at most."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _round_up(value: float) -> float:
    """Next of 1, 2, 5, 10 .. that an axis may end at; 1 for 0."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(value))
    return float(next(unit * step for step in (1, 2, 5, 10) if unit * step >= value))


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="max-width:100%" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12" fill="#333">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )

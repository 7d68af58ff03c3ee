"""Truth against prediction in colours, words and one curve; all from `metrics`, no widget here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scellseg_lib import metrics
from scellseg_lib.metrics import THRESHOLDS, ObjectMatches, Scores
from scellseg_lib.plots import STYLE
from scellseg_lib.workbench.forms import count

IOUS = tuple(percent / 100 for percent in range(50, 96))
"""IoU thresholds that can be chosen: every hundredth from 0.50 to 0.95."""
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = "#009E73", "#E69F00", "#0072B2"
"""Of Okabe and Ito's colours, which colour-blind readers tell apart."""
COLOURS = {"TP": TRUE_POSITIVE, "FP": FALSE_POSITIVE, "FN": FALSE_NEGATIVE}
FILL = 120
"""Opacity of found cells, of 255: the image is seen through them."""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 320, 215, 44, 12, 18, 55
_MIDDLE = (_LEFT + _WIDTH - _RIGHT) / 2

Side = Literal["predicted", "true"]
SIDES: tuple[Side, ...] = ("predicted", "true")


@dataclass(frozen=True, eq=False)
class Standing:
    """How well one image is segmented.

    Attributes
    ----------
    name : str
        Of the image.
    scores : Scores or None
        At `IOUS`; None where no true cells are known.
    problem : str
        Why the image cannot be compared, in words; empty where it can.
    pending : bool
        Whether nobody has looked at its cells yet.
    """

    name: str
    scores: Scores | None = None
    problem: str = ""
    pending: bool = False

    def ap(self, iou: float) -> float:
        """Average precision at one of `IOUS`; nan without scores."""
        return float(self.scores.ap[position(iou)]) if self.scores else math.nan

    @property
    def mean_ap(self) -> float:
        """Mean of the average precision over 0.50, 0.55 .. 0.95; nan without scores."""
        if self.scores is None:
            return math.nan
        return float(np.mean([self.ap(iou) for iou in THRESHOLDS]))


def position(iou: float) -> int:
    """Index in `IOUS` of the threshold that is nearest."""
    return min(max(round(iou * 100) - 50, 0), len(IOUS) - 1)


def scores(true: np.ndarray, predicted: np.ndarray) -> Scores:
    """Scores of one image at `IOUS`; parameters, and MetricError, as in `metrics.scores`."""
    return metrics.scores(true, predicted, IOUS)


def worst_first(standings: Sequence[Standing], iou: float) -> list[int]:
    """Positions of images in the order of their AP at a threshold, the lowest first.

    Equal ones are ordered by their mean AP, then stay in the order given. Images without true cells
    follow, and last those that cannot be compared.
    """

    def place(index: int) -> tuple[int, float, float]:
        standing = standings[index]
        if standing.scores is None:
            return (2 if standing.problem else 1, 0.0, 0.0)
        return (0, standing.ap(iou), standing.mean_ap)

    return sorted(range(len(standings)), key=place)


def line(standing: Standing, iou: float) -> str:
    """Say how an image stands, for a list: AP at the threshold, mean AP, name."""
    if standing.pending:
        return f"... · {standing.name}"
    if standing.problem:
        return f"cannot be compared · {standing.name}"
    if standing.scores is None:
        return f"no true cells given · {standing.name}"
    return f"AP {standing.ap(iou):.2f} · mean {standing.mean_ap:.2f} · {standing.name}"


def summary(standings: Sequence[Standing], iou: float, *, n_stale: int = 0) -> str:
    """Say how all images stand, and that some are marked by a star as not up to date, as HTML."""
    text = f"<b>{count(len(standings), 'image')}</b>, the worst first"
    scored = [standing for standing in standings if standing.scores is not None]
    if scored:
        ap = np.mean([standing.ap(iou) for standing in scored])
        mean = np.mean([standing.mean_ap for standing in scored])
        text += (
            f"<br>{_of(len(scored))} with true cells: AP {ap:.2f} at IoU {iou:.2f}, "
            f"mean AP {mean:.2f} (IoU 0.50 to 0.95)"
        )
    if n_stale:
        text += f"<br>* {count(n_stale, 'image')} still at the thresholds before"
    return f'<div style="line-height:1.4">{text}</div>'


def colours(found: ObjectMatches, side: Side) -> np.ndarray:
    """Colour each cell of one side by what became of it.

    Parameters
    ----------
    found : ObjectMatches
        Of `metrics.match`.
    side : {"predicted", "true"}
        Found cells are to be filled, green (true positive) or orange (false positive); true cells
        to be outlined, green where they were found and blue where they were missed.

    Returns
    -------
    uint8[n + 1, 4]
        Red, green, blue and opacity by label, up to the highest; labels that no cell has, and the
        background, are not seen.
    """
    objects = _of_side(found, side)
    labels = objects["label"].to_numpy(np.int64)
    table = np.zeros((labels.max(initial=0) + 1, 4), np.uint8)
    if len(labels):
        chosen = to_rgba_array([COLOURS[outcome] for outcome in objects["outcome"]])
        table[labels] = np.round(chosen * 255)
        table[labels, 3] = FILL if side == "predicted" else 255
    return table


def tips(found: ObjectMatches, side: Side) -> list[str]:
    """Say of each cell of one side, by label, what became of it; index 0 is empty."""
    objects = _of_side(found, side)
    texts = [""] * (int(objects["label"].max()) + 1 if len(objects) else 1)
    for label, outcome, partner, iou in zip(
        objects["label"], objects["outcome"], objects["partner"], objects["iou"], strict=True
    ):
        texts[label] = {
            ("predicted", "TP"): f"cell {label}: matches true cell {partner}, IoU {shown(iou)}, "
            "true positive",
            ("predicted", "FP"): f"cell {label}: matches no true cell (best IoU {shown(iou)}), "
            "false positive",
            ("true", "TP"): f"true cell {label}: found as cell {partner}, IoU {shown(iou)}, "
            "true positive",
            ("true", "FN"): f"true cell {label}: missed (best IoU {shown(iou)}), false negative",
        }[side, outcome]
    return texts


def sizes(masks: np.ndarray) -> list[str]:
    """Say of each cell, by label, how large it is: all that is known without true cells."""
    areas = np.bincount(masks.ravel())
    return ["", *(f"cell {i}: {area} pixels" for i, area in enumerate(areas[1:], start=1))]


def n_cells(masks: np.ndarray) -> int:
    """Number of cells in labels, int[H, W], that need not be contiguous."""
    return int(np.count_nonzero(np.bincount(masks.ravel())[1:]))


def shown(iou: float) -> str:
    """IoU with two decimals, cut off: 0.4999 is no 0.50, which a threshold of 0.50 would admit."""
    return f"{math.floor(iou * 100 + 1e-6) / 100:.2f}"


def legend(found: ObjectMatches | None, masks: np.ndarray, iou: float) -> str:
    """Say what the colours mean and how many cells there are of each, as HTML.

    Parameters
    ----------
    found : ObjectMatches or None
        None: no true cells are known.
    masks : int[H, W]
        Found cells.
    iou : float
        Threshold.
    """
    if found is None:
        return (
            f'<div style="line-height:1.4"><b>{count(n_cells(masks), "cell")}</b> found. No true '
            "cells are known of this image: annotate it to see which are right.</div>"
        )
    rows = (
        (TRUE_POSITIVE, "filled, outlined", found.tp, "true positive", "found, and right"),
        (FALSE_POSITIVE, "filled", found.fp, "false positive", "found, but no true cell fits"),
        (FALSE_NEGATIVE, "outlined", found.fn, "false negative", "a true cell that was missed"),
    )
    body = "".join(
        f'<tr><td>{_swatch(colour, look)}</td><td style="text-align:right"><b>{number}</b></td>'
        f"<td>{name}: {meaning}</td></tr>"
        for colour, look, number, name, meaning in rows
    )
    return (
        f'<table style="line-height:1.4">{body}</table><div style="line-height:1.4">A found cell '
        f"is right when its IoU with a true cell is {iou:.2f} or more. IoU: the pixels that both "
        "share, divided by the pixels of either.</div>"
    )


def curve(chosen: Scores | None, iou: float, before: Scores | None = None) -> str:
    """Draw AP against the IoU threshold as SVG, the present threshold marked.

    Parameters
    ----------
    chosen : Scores or None
        At `IOUS`. None: an empty string is returned.
    iou : float
        Present threshold.
    before : Scores, optional
        Of the model's own settings, drawn dashed.
    """
    if chosen is None:
        return ""
    ap = float(chosen.ap[position(iou)])
    x, y = _xy(iou, ap)
    parts = [_frame()]
    if before is not None:
        parts.append(_path(before, dashed=True))
        parts.append(
            f'<text x="{_MIDDLE}" y="{_HEIGHT - 6}" text-anchor="middle" fill="#595959">dashed: '
            "before the thresholds were moved</text>"
        )
    parts.append(_path(chosen))
    anchor = "end" if iou > 0.7 else "start"
    text_x = x + (-6 if anchor == "end" else 6)
    parts.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
        f'stroke="#222222" stroke-dasharray="2 2"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#222222"/>'
        f'<text x="{text_x:.1f}" y="12" text-anchor="{anchor}" '
        f'font-weight="bold">AP {ap:.2f} at IoU {iou:.2f}</text>'
    )
    label = f"Average precision by IoU threshold; {ap:.2f} at {iou:.2f}"
    return (
        f'<svg class="scellseg-curve" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{label}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="11" '
        f'fill="#222222">{"".join(parts)}</svg>'
    )


def still(picture: bytes, title: str, chosen: Scores | None, iou: float) -> bytes:
    """Put a picture of the cells beside the AP curve, for where no browser is.

    Parameters
    ----------
    picture : bytes
        PNG.
    title : str
        Over the picture.
    chosen : Scores or None
        At `IOUS`; None: no curve.
    iou : float
        Marked in the curve.

    Returns
    -------
    bytes
        PNG.
    """
    with plt.style.context(STYLE):
        figure = Figure(figsize=(9, 4) if chosen else (6, 4), layout="constrained")
        panels = figure.subplots(1, 2 if chosen else 1, squeeze=False, width_ratios=_ratios(chosen))
        panels[0, 0].imshow(plt.imread(BytesIO(picture)), interpolation="antialiased")
        panels[0, 0].set_axis_off()
        panels[0, 0].set_title(title, wrap=True)
        if chosen:
            _say_below(panels[0, 0], chosen, iou)
            axes, ap = panels[0, 1], float(chosen.ap[position(iou)])
            axes.plot(IOUS, chosen.ap, color="black")
            axes.plot(iou, ap, "o", color="black", label=f"AP {ap:.2f} at IoU {iou:.2f}")
            axes.set(xlabel="IoU threshold", ylabel="AP = TP / (TP + FP + FN)", ylim=(0, 1.02))
            axes.legend(loc="lower left")
        out = BytesIO()
        figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def _say_below(axes: Axes, chosen: Scores, iou: float) -> None:
    """Write below a still picture what its colours mean, and how many cells there are of each."""
    at = position(iou)
    rows = (
        (TRUE_POSITIVE, f"green: {count(chosen.tp[at], 'true positive')} (found, and right)"),
        (FALSE_POSITIVE, f"orange: {count(chosen.fp[at], 'false positive')} (no true cell fits)"),
        (FALSE_NEGATIVE, f"blue: {count(chosen.fn[at], 'false negative')} (true cell missed)"),
    )
    dots = [Line2D([], [], color=colour, marker="s", ls="", label=text) for colour, text in rows]
    axes.legend(handles=dots, loc="upper center", bbox_to_anchor=(0.5, 0))


def _of_side(found: ObjectMatches, side: Side) -> pd.DataFrame:
    return found.objects[found.objects["side"] == side]


def _ratios(chosen: Scores | None) -> list[float]:
    return [1.5, 1] if chosen else [1]


def _swatch(colour: str, look: str) -> str:
    """Show a colour as the cells have it: filled, outlined or both."""
    fill = colour + "78" if "filled" in look else "transparent"
    border = colour if "outlined" in look else "transparent"
    return (
        f'<span title="{look}" style="display:inline-block;width:14px;height:14px;'
        f'box-sizing:border-box;border-radius:4px;background:{fill};border:3px solid {border}">'
        "</span>"
    )


def _xy(iou: float, ap: float) -> tuple[float, float]:
    """Place in the curve's picture, pixels."""
    across = (iou - IOUS[0]) / (IOUS[-1] - IOUS[0])
    return (
        _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
        _HEIGHT - _BOTTOM - ap * (_HEIGHT - _TOP - _BOTTOM),
    )


def _path(chosen: Scores, *, dashed: bool = False) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*_xy(*at)) for at in zip(IOUS, chosen.ap, strict=True))
    stroke = 'stroke="#767676" stroke-dasharray="4 3"' if dashed else 'stroke="#222222"'
    return f'<polyline points="{points}" fill="none" {stroke} stroke-width="1.8"/>'


def _frame() -> str:
    """Axes of the curve with their ticks and labels."""
    parts = []
    for ap in (0.0, 0.5, 1.0):
        x, y = _xy(IOUS[0], ap)
        parts.append(
            f'<line x1="{x:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="#dddddd"/><text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{ap:.1f}'
            "</text>"
        )
    for iou in (0.5, 0.6, 0.7, 0.8, 0.9):
        x, y = _xy(iou, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle">{iou:.1f}</text>')
    low = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{_MIDDLE}" y="{_HEIGHT - 23}" text-anchor="middle">IoU threshold</text>'
        f'<text transform="translate(12 {low}) rotate(-90)" text-anchor="middle">'
        "average precision (AP)</text>"
    )
    return "".join(parts)


def _of(number: int) -> str:
    return "In the one image" if number == 1 else f"Over the {number} images"

"""Diagrams in millimetres of the printed page: what ``diagrams.yaml`` says is drawn."""

from pathlib import Path as File

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Polygon
from matplotlib.path import Path

from scellseg_lib.datasets.manifest import read_yaml

PLANS = read_yaml(File(__file__).with_name("diagrams.yaml"))
COLOURS, LOOKS = PLANS["colours"], PLANS["looks"]  # of boxes; colour and style of arrows
DOWN, STYLE, GATE = "downsampling unit", "style embedding", "attention gate"
UP, DENSE, TASKER = "upsampling unit", "dense unit", "Tasker"
Place = Patch | tuple[float, ...]


def open_canvas(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Return a panel in which a unit is a millimetre, its lower left corner at (x, y) of a page."""
    wide, high = 25.4 * figure.get_size_inches()
    axes = figure.add_axes((x / wide, y / high, width / wide, height / high))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return axes


def draw_plan(axes: Axes, name: str, **facts: object) -> None:
    """Draw a diagram of ``diagrams.yaml``, with ``facts`` in its words."""
    plan, boxes = PLANS[name], dict[str, Patch]()
    for key, box in plan["boxes"].items():
        boxes[key] = draw_box(axes, **{"text": key.strip("'")} | box)
    for look in LOOKS:
        for line in plan.get(look, ()):
            words = line.split(" > ")
            places = [boxes.get(w) or tuple(map(float, w.split())) for w in words]
            draw_arrow(axes, *places, kind=look)
    for x, y, text, *side in plan.get("words", ()):
        axes.text(x, y, text.format(**facts), ha=[*side, "center"][0], va="top", fontsize=6)


def draw_box(
    axes: Axes, at: tuple[float, float], text: str, colour: str = "0.5", size: tuple = (12.5, 6.5)
) -> Patch:
    """Draw a box around a place; ``size`` is its width, height, and that of its right side."""
    width, left, right = size[0], size[1], size[-1]
    corners = np.array([(-width, -left), (width, -right), (width, right), (-width, left)])
    edge = COLOURS.get(colour, colour)
    tint = [0.7 + 0.3 * channel for channel in to_rgb(edge)]
    box = Polygon(np.add(at, corners / 2), facecolor=tint, edgecolor=edge, linewidth=0.7)
    axes.add_patch(box)
    axes.text(*at, text, ha="center", va="center", fontsize=5.5, linespacing=1.1)
    return box


def draw_arrow(axes: Axes, *places: Place, kind: str = "arrows") -> None:
    """Draw one of `LOOKS` through points, from and to the sides of boxes where they are its ends.

    A ``learnt`` one has another beside it, the other way.
    """
    points = np.array([_clip(place, place)[0] for place in places])
    points[0], points[-1] = _clip(places[0], points[1])[1], _clip(places[-1], points[-2])[1]
    if kind == "learnt":
        ways = np.diff(points, axis=0)
        normals = ways[:, ::-1] / np.hypot(*ways.T)[:, None] * (1.2, -1.2)
        aside = np.vstack([normals[:1], normals[:-1] + normals[1:], normals[-1:]])
        draw_arrow(axes, *map(tuple, (points + aside)[::-1]), kind="back")
    colour, style = LOOKS[kind]
    head = "-" if kind == "shared" else "-|>,head_length=3,head_width=1.4"
    arrow = FancyArrowPatch(path=Path(points), arrowstyle=head, color=colour, linestyle=style)
    arrow.set(linewidth=0.7, mutation_scale=1, zorder=0.9)
    axes.add_patch(arrow)


def _clip(place: Place, towards: Place) -> tuple[np.ndarray, np.ndarray]:
    """Middle of a box, and where the way from there to a point leaves it; a point is both."""
    if not isinstance(place, Patch):
        return np.array(place), np.array(place)
    corners = place.get_path().get_extents().get_points()
    middle = corners.mean(axis=0)
    way = (middle if isinstance(towards, Patch) else np.array(towards)) - middle
    share = np.min(np.ptp(corners, axis=0) / 2 / np.maximum(np.abs(way), 1e-9))
    return middle, middle + share * way

"""The pipeline and what contrastive fine-tuning does to styles, drawn from its objects (Fig. 1)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from scellseg_lib.metrics import match
from scellseg_lib.paper.figures.diagrams import COLOURS, draw_plan
from scellseg_lib.paper.figures.scores import name_panel
from scellseg_lib.paper.styles import stack_styles
from scellseg_lib.plots import PREDICTED, TRUE, colour_flows, contours
from scellseg_lib.samples import Sample, normalise
from scellseg_lib.segmentation import Cells

ROLE_MARKERS = {"shot": "o", "query": "^", "contrast": "s"}


def draw_pipeline(
    axes: Axes,
    kinds: Sequence[Sample],
    shots: Sequence[Sample],
    query: Sample,
    found: Sequence[Cells],
    sources: str,
) -> None:
    """Draw the way from pre-training to masks on a canvas of 174 by 70 mm (Fig. 1a).

    ``kinds`` are images of pre-training, as many as shots, and ``sources`` says where they are
    from; ``found`` is what the model finds in the query directly, and when it is tuned.
    """
    for i, (kind, shot) in enumerate(zip(kinds, shots, strict=False)):
        x, y = 4 + 7.5 * (i % 4), 62 - 7.5 * (i // 4)
        _draw_sample(axes, (x, y, 7), kind, 180)
        draw_outlines(_draw_sample(axes, (x + 144, y, 7), shot), shot.masks, TRUE, "-", 0.3)
    _draw_sample(axes, (87, 26, 28), query)
    height, width = query.masks.shape
    for cells, x, outward in zip(found, (51, 123), (-36, 36), strict=True):
        flows, masks = (_draw_sample(axes, (at, 26, 28), query) for at in (x, x + outward))
        flows.images[0].set(data=colour_flows(cells.flows))  # at the 30-px scale
        flows.images[0].set_extent((-0.5, width - 0.5, height - 0.5, -0.5))
        draw_outlines(masks, query.masks, TRUE, "-", 0.6)
        draw_outlines(masks, cells.masks, PREDICTED, ":", 0.8)
    # A match stands on both sides.
    right = [match(query.masks, one.masks)["outcome"].eq("TP").sum() // 2 for one in found]
    facts = {"sources": sources, "n_shots": len(shots), "n_cells": query.masks.max()}
    draw_plan(axes, "pipeline", directly=right[0], tuned=right[1], **facts)


def draw_strategy(axes: Axes, shot: Sample, query: Sample, contrast: Sample) -> None:
    """Draw a step of contrastive fine-tuning on a canvas of 174 by 74 mm (Fig. 1b)."""
    draw_plan(axes, "strategy")
    for y, sample in ((66, shot), (40, query), (18, contrast)):
        _draw_sample(axes, (9, y, 15), sample, side=150)


def _draw_sample(
    axes: Axes, place: tuple[float, float, float], sample: Sample, side: float | None = None
) -> Axes:
    """Draw a square, ``side`` pixels of an image (None: all its cells), round (x, y) of a size."""
    x, y, size = place
    panel = axes.inset_axes((x - size / 2, y - size / 2, size, size), transform=axes.transData)
    first, second = np.clip(normalise(sample.image), 0, 1)
    panel.imshow(np.stack((second, first, second) if second.any() else [first] * 3, axis=2))
    low, middle, high = np.quantile(np.nonzero(sample.masks)[::-1], (0, 0.5, 1), axis=1)
    if not side:
        middle, side = (low + high) / 2, 10 + np.max(high - low)
    (left, top), (right, bottom) = middle - side / 2, middle + side / 2
    panel.set(xlim=(left, right), ylim=(bottom, top))
    panel.set_axis_off()
    return panel


def draw_outlines(
    axes: Axes, masks: np.ndarray, colour: str, style: str, width: float = 0.8
) -> None:
    """Draw the outlines of cells over an image."""
    lines = LineCollection(contours(masks), colors=colour, linestyles=style, linewidths=width)
    axes.add_collection(lines, autolim=False)


def draw_style_plane(axes: Sequence[Axes], styles: pd.DataFrame) -> None:
    """Draw style embeddings of shots, queries and contrasts, in the plane of largest variance.

    The frame is as for `styles.compare_distances`; a panel each ``when``, in the first one's plane.
    """
    from sklearn.decomposition import PCA  # takes a second

    parts = [part for _, part in styles.groupby("when", sort=False)]
    plane = PCA(2).fit(stack_styles(parts[0]))
    for panel, part, letter in zip(axes, parts, "cdefg", strict=False):
        points = plane.transform(stack_styles(part))
        for role, marker in reversed(ROLE_MARKERS.items()):
            x, y = points[(part["role"] == role).to_numpy()].T
            label = f"{role} (n = {len(x)} images)"
            panel.scatter(x, y, s=8, color=COLOURS[role], marker=marker, linewidths=0, label=label)
        panel.set(xlabel="first component (no unit)", ylabel="second component (no unit)")
        panel.label_outer()
        name_panel(panel, letter, str(part["when"].iloc[0]))
    axes[-1].legend()

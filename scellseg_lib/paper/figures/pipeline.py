"""The pipeline and what contrastive fine-tuning does to styles, drawn from its objects (Fig. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation
from sklearn.decomposition import PCA

from scellseg_lib.model import Model
from scellseg_lib.network import count_parameters
from scellseg_lib.paper.styles import styles_of
from scellseg_lib.plots import PREDICTED, STYLE, TRUE, contours, flow_colours
from scellseg_lib.samples import Sample, normalise
from scellseg_lib.segmentation import Cells

ROLES = {"shot": ("#D55E00", "o"), "query": ("#0072B2", "^"), "contrast": ("0.6", "s")}


def pipeline(model: Model, shots: Sequence[Sample], found: Cells, query: Sample) -> Figure:
    """Draw the way from annotated images to masks: shots, their flows, a query, its flows, masks.

    Parameters
    ----------
    model : Model
        That segmented the query.
    shots : sequence of Sample
        Labelled; the first is shown.
    found : Cells
        Of the query.
    query : Sample
    """
    shot = shots[0]
    targets = model.representation.targets(shot.masks)
    n_parameters = count_parameters(model.network) / 1e6
    levels = ", ".join(map(str, model.network.levels))
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(10, 2.5), layout="constrained")
        figure.get_layout_engine().set(wspace=0.12)  # type: ignore[union-attr,call-arg]
        grid = figure.subplots(1, 5)
        for axes in grid:
            axes.set_axis_off()
        grid[0].imshow(normalise(shot.image)[0], vmin=0, vmax=1)
        grid[0].add_collection(_outlines(shot.masks, TRUE, "-"), autolim=False)
        grid[1].imshow(flow_colours(targets[:2]))
        grid[2].imshow(normalise(query.image)[0], vmin=0, vmax=1)
        grid[3].imshow(flow_colours(found.flows))
        grid[4].imshow(normalise(query.image)[0], vmin=0, vmax=1)
        grid[4].add_collection(_outlines(found.masks, PREDICTED, ":"), autolim=False)
        titles = (
            f"{len(shots)} shots: images and masks\n(n = {shot.masks.max()} cells in this one)",
            "what is learnt from them:\nflows to each cell's centre (Eq. 1)",
            "query: an image without masks,\nwhose style guides too (Eq. 2)",
            f"{model.card.architecture}, {n_parameters:.2f} M parameters\n(levels {levels})",
            f"masks: pixels that flow together\n(n = {found.masks.max()} cells)",
        )
        for letter, axes, title in zip("abcde", grid, titles, strict=True):
            axes.set_title(f"{letter}   {title}", fontsize=7)
        for left, right in ((0, 1), (2, 3), (3, 4)):
            _arrow_between(grid[left], grid[right])
    return figure


def style_plane(frame: pd.DataFrame, axes: Sequence[Axes]) -> None:
    """Draw style embeddings of shots, queries and contrasts, in the plane of largest variance.

    Parameters
    ----------
    frame : DataFrame
        Of `embedding.style_embeddings`, with columns ``role`` ("shot", "query", "contrast") and
        ``when``; a panel for each of the latter. The plane is that of the first.
    axes : sequence of Axes
        As many as there are panels.
    """
    parts = [part for _, part in frame.groupby("when", sort=False)]
    plane = PCA(2).fit(styles_of(parts[0]))
    with plt.style.context(STYLE):
        for panel, part in zip(axes, parts, strict=True):
            points = plane.transform(styles_of(part))
            for role, (colour, marker) in reversed(ROLES.items()):
                chosen = points[(part["role"] == role).to_numpy()]
                panel.scatter(
                    chosen[:, 0],
                    chosen[:, 1],
                    s=12,
                    color=colour,
                    marker=marker,
                    linewidths=0,
                    label=f"{role} (n = {len(chosen)} images)",
                )
            panel.set(xlabel="first component (no unit)", ylabel="second component (no unit)")
            panel.set_title(str(part["when"].iloc[0]), fontsize=8)
        axes[0].legend(fontsize=6)


def pair_distances(frame: pd.DataFrame) -> pd.DataFrame:
    """Measure how far shots' styles are from queries' and contrasts': the two terms of Eq. 2.

    Parameters
    ----------
    frame : DataFrame
        As in `style_plane`.

    Returns
    -------
    DataFrame
        One row for each ``when``: means over all pairs of the mean squared difference,
        ``shot_query`` and ``shot_contrast``, and their ``ratio``.
    """
    rows = []
    for when, part in frame.groupby("when", sort=False):
        styles = {role: styles_of(group) for role, group in part.groupby("role")}
        shot_query, shot_contrast = (
            float(((styles["shot"][:, None] - styles[other][None]) ** 2).mean())
            for other in ("query", "contrast")
        )
        distances = {"shot_query": shot_query, "shot_contrast": shot_contrast}
        rows.append({"when": when} | distances | {"ratio": shot_query / shot_contrast})
    return pd.DataFrame(rows)


def before_after(
    sample: Sample, found: Mapping[str, Cells], pairs: np.ndarray, axes: Sequence[Axes], side: int
) -> None:
    """Draw flows and masks of an image by several models, around touching cells (Fig. 3).

    Parameters
    ----------
    sample : Sample
        Labelled.
    found : mapping of str to Cells
        What is said above a model's panels -> the image as it segments it.
    pairs : int[n, 2]
        Labels of touching true cells to point at; the window lies around the first.
    axes : sequence of Axes
        Two for each model: flows, then masks over the image.
    side : int
        Of the window, pixels.
    """
    height, width = sample.masks.shape
    borders = [_border(sample.masks, *pair) for pair in pairs.tolist()]
    y, x = borders[0] if borders else (height / 2, width / 2)
    top = min(max(y - side / 2, 0), max(height - side, 0))
    left = min(max(x - side / 2, 0), max(width - side, 0))
    with plt.style.context(STYLE):
        for i, (name, cells) in enumerate(found.items()):
            flows, masks = axes[2 * i], axes[2 * i + 1]
            # At the 30-px scale, stretched over the image's own pixels.
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            flows.imshow(flow_colours(cells.flows), extent=extent)
            masks.imshow(normalise(sample.image)[0], vmin=0, vmax=1)
            masks.add_collection(_outlines(sample.masks, TRUE, "-"), autolim=False)
            masks.add_collection(_outlines(cells.masks, PREDICTED, ":"), autolim=False)
            for row, column in borders:
                masks.annotate(
                    "",
                    xy=(column, row),
                    xytext=(column + side / 12, row - side / 12),
                    arrowprops={"arrowstyle": "->", "color": "#56B4E9"},
                    annotation_clip=True,
                )
            for panel, what in ((flows, "flows"), (masks, "masks")):
                panel.set(xlim=(left, left + side), ylim=(top + side, top))
                panel.set_axis_off()
                panel.set_title(f"{name}: {what}", fontsize=7)


def _border(masks: np.ndarray, first: int, second: int) -> tuple[float, float]:
    """Middle (y, x) of the pixels of the first cell that touch the second."""
    beside = binary_dilation(masks == second, np.ones((3, 3))) & (masks == first)
    rows, columns = np.nonzero(beside)
    return float(rows.mean()), float(columns.mean())


def _outlines(masks: np.ndarray, colour: str, style: str) -> LineCollection:
    return LineCollection(contours(masks), colors=colour, linestyles=style, linewidths=0.8)


def _arrow_between(left: Axes, right: Axes) -> None:
    """Draw an arrow from a panel's right edge to the next panel's left edge."""
    left.annotate(
        "",
        xy=(0, 0.5),
        xycoords=right.transAxes,
        xytext=(1, 0.5),
        textcoords=left.transAxes,
        arrowprops={"arrowstyle": "->", "color": "black"},
    )

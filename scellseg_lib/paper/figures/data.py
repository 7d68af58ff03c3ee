"""Data sets, drawn: example images, sizes and numbers of cells, style embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from scellseg_lib.plots import STYLE, TRUE, contours
from scellseg_lib.samples import Sample, normalise


def examples(samples: Sequence[Sample], titles: Sequence[str], columns: int = 4) -> Figure:
    """Draw images with the outlines of their cells, a panel each.

    Parameters
    ----------
    samples : sequence of Sample
        With masks. An image of two planes is shown in green, with the nuclei in magenta.
    titles : sequence of str
    columns : int
        Panels in a row.
    """
    rows = -(-len(samples) // columns)
    with plt.style.context(STYLE):
        size = (1.8 * columns, 1.75 * rows)
        figure = plt.figure(figsize=size, layout="constrained", dpi=70)  # small in a notebook
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, sample, title in zip(grid, samples, titles, strict=False):
            axes.imshow(_colours(sample.image))
            lines = LineCollection(contours(sample.masks), colors=TRUE, linewidths=0.4)
            axes.add_collection(lines, autolim=False)
            n_cells = int(sample.masks.max())
            axes.set_title(f"{title}\nn = {n_cells} cells", fontsize=7)
    return figure


def _colours(image: np.ndarray) -> np.ndarray:
    """Show a plane in grey, two as green and magenta; float32[H, W, 3] within 0..1."""
    planes = np.clip(normalise(image), 0, 1)
    first, second = planes
    if not image[1].any():
        return np.repeat(first[..., None], 3, axis=2)
    return np.stack((second, first, second), axis=2)


def sizes(frame: pd.DataFrame, value: str, label: str, axes: Axes | None = None) -> Axes:
    """Draw a number of every image, a row for each data set, on a logarithmic axis.

    Parameters
    ----------
    frame : DataFrame
        Of `census.census`.
    value : str
        One of its columns.
    label : str
        What it is, with its unit.
    axes : Axes, optional
        None: those of a new figure.
    """
    frame = frame[frame[value] > 0]
    counts = frame.groupby("data", sort=False).size()
    names = {name: f"{name} (n = {n})" for name, n in counts.items()}
    with plt.style.context(STYLE):
        axes = axes or plt.figure(layout="constrained").subplots()
        rng = np.random.default_rng(0)  # points of a row lie apart, and the same every time
        for row, (name, colour) in enumerate(zip(names, _palette(len(names)), strict=True)):
            values = frame[frame["data"] == name][value]
            heights = row + rng.uniform(-0.25, 0.25, len(values))
            axes.scatter(values, heights, s=6, color=colour, alpha=0.6, linewidths=0)
        axes.set_yticks(range(len(names)), list(names.values()))
        axes.invert_yaxis()
        medians = frame.groupby("data", sort=False)[value].median()
        axes.plot(medians, range(len(medians)), "|", color="black", markersize=10)
        axes.set(xscale="log", xlabel=label, ylabel="")
        axes.set_title("one point an image; bar: median over images", fontsize=7)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return axes


def embedding(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Draw a t-SNE of style embeddings, a colour for each data set (Fig. 2b).

    Parameters
    ----------
    frame : DataFrame
        Of `embedding.tsne`: ``data``, ``x``, ``y``.
    axes : Axes, optional
        None: those of a new figure.
    """
    with plt.style.context(STYLE):
        axes = axes or plt.figure(figsize=(6, 3.6), layout="constrained").subplots()
        names = list(dict.fromkeys(frame["data"]))
        markers = "osD^v<>Ph*X"
        for i, (name, colour) in enumerate(zip(names, _palette(len(names)), strict=True)):
            part = frame[frame["data"] == name]
            axes.scatter(
                part["x"],
                part["y"],
                s=10,
                color=colour,
                marker=markers[i % len(markers)],
                linewidths=0,
                label=f"{name} (n = {len(part)})",
            )
        axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6)
    return axes


def _palette(n: int) -> list[tuple[float, ...]]:
    """The style's colours, lighter in the second round."""
    with plt.style.context(STYLE):
        cycle = seaborn.color_palette(plt.rcParams["axes.prop_cycle"].by_key()["color"])
    lighter = [tuple(0.5 + 0.5 * channel for channel in colour) for colour in cycle]
    return [*cycle, *lighter][:n]

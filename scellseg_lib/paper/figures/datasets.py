"""Data sets: counts and sizes of cells, examples, styles (Fig. 2a-b, Ext. Data Fig. 2 and 3)."""

from collections.abc import Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from scellseg_lib.errors import ImageError
from scellseg_lib.paper.figures.pipeline import draw_outlines
from scellseg_lib.paper.figures.scores import name_data
from scellseg_lib.plots import TRUE
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset, Sample, normalise

MARKERS = "osD^v<>Ph*X"


def count_cells(datasets: Sequence[Dataset]) -> pd.DataFrame:
    """Count and measure the cells of every image: a census.

    One row an image. Sizes are in pixels, the diameter is of the circle of equal area, and
    ``coverage`` the share that is in cells. An image that does not fit its masks is left out.
    """
    pairs = [(data.name, sample) for data in datasets for sample in data]
    rows = []
    for name, kept in progress_bar(pairs, len(pairs), "census"):
        sample = replace(kept)  # its pixels go with it: all images together may not fit in memory
        try:
            height, width = sample.image.shape[1:]
            areas = np.bincount(sample.masks.ravel())[1:]
        except ImageError:
            continue
        areas = areas[areas > 0]
        row: dict[str, object] = {"data": name, "split": sample.split, "image": sample.name}
        row |= {"height": height, "width": width, "cells": len(areas)}
        row["mean_area"] = areas.mean() if len(areas) else np.nan
        row["median_diameter"] = sample.diameter
        rows.append(row | {"coverage": areas.sum() / (height * width)})
    return pd.DataFrame(rows)


def sum_up_census(census: pd.DataFrame) -> pd.DataFrame:
    """Sum up by data set and split: images, cells, and means of the others over the images."""
    groups = census.groupby(["data", "split"], sort=False)
    sums = groups.agg(images=("image", "size"), cells=("cells", "sum"))
    means = groups[["mean_area", "median_diameter", "coverage"]].mean()
    span = groups["cells"].agg(["min", "max"]).add_prefix("cells_")
    return sums.join(span).join(means).reset_index()


def draw_examples(samples: Sequence[Sample], titles: Sequence[str], columns: int = 4) -> Figure:
    """Draw images with the outlines of their cells; of two planes in green, nuclei in magenta."""
    rows = -(-len(samples) // columns)
    size = (1.8 * columns, 1.75 * rows)
    figure = plt.figure(figsize=size, layout="constrained", dpi=70)  # small in a notebook
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, sample, title in zip(grid, samples, titles, strict=False):
        first, second = np.clip(normalise(sample.image), 0, 1)
        planes = (second, first, second) if sample.image[1].any() else (first, first, first)
        axes.imshow(np.stack(planes, axis=2))
        draw_outlines(axes, sample.masks, TRUE, "-", width=0.4)
        axes.set_title(f"{title}\nn = {sample.masks.max()} cells", fontsize=7)
    return figure


def draw_sizes(axes: Axes, census: pd.DataFrame, value: str, label: str) -> None:
    """Draw a column of `count_cells` for every image, a row a data set, on a logarithmic axis."""
    groups = census[census[value] > 0].groupby("data", sort=False)
    rng = np.random.default_rng(0)  # points of a row lie apart, and the same every time
    names = []
    for row, (name, part) in enumerate(groups):
        heights = row + rng.uniform(-0.25, 0.25, len(part))
        axes.scatter(part[value], heights, s=6, color=_colour(row), alpha=0.6, linewidths=0)
        names.append(f"{name_data(str(name))} (n = {len(part)})")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.plot(groups[value].median(), range(len(names)), "|", color="black", markersize=10)
    axes.set(xscale="log", xlabel=label, ylabel="")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")


def draw_embedding(axes: Axes, layout: pd.DataFrame) -> None:
    """Draw a t-SNE of style embeddings, of `styles.lay_out`: a colour for each data set."""
    for i, (name, part) in enumerate(layout.groupby("data", sort=False)):
        label, marker = f"{name_data(str(name))} (n = {len(part)})", MARKERS[i % len(MARKERS)]
        axes.scatter(
            part["x"], part["y"], s=10, color=_colour(i), marker=marker, linewidths=0, label=label
        )
    axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6)


def _colour(i: int) -> tuple[float, ...]:
    """The style's colours in turn, lighter in the second round."""
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    colour = to_rgb(cycle[i % len(cycle)])
    return colour if i < len(cycle) else tuple(0.5 + 0.5 * channel for channel in colour)

"""Data sets: counts and sizes of cells, examples, styles (Fig. 2a-b, Ext. Data Fig. 2 and 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scellseg_lib.errors import ImageError
from scellseg_lib.paper.figures.diagrams import COLOURS
from scellseg_lib.paper.figures.pipeline import ROLE_MARKERS, draw_outlines
from scellseg_lib.paper.figures.scores import PAGE, name_data, name_panel, start_figure
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
        row["sd_area"] = areas.std(ddof=1) if len(areas) > 1 else np.nan
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


def draw_examples(
    examples: Mapping[str, Sample | str], columns: int = 4, *, letter: str = "", note: str = ""
) -> Figure:
    """Draw images by their titles, with outlines of cells; of two planes in green and magenta.

    Words stand where an image may not be shown; a ``note`` stands within each image.
    """
    rows = -(-len(examples) // columns)
    figure, grid = start_figure(rows, columns, PAGE / columns)
    figure.set_dpi(64)  # small in a notebook
    for axes in grid.flat:
        axes.set_axis_off()
        axes.set_anchor("N")
    for axes, (title, shown) in zip(grid.flat, examples.items(), strict=False):
        name_panel(axes, letter if axes is grid[0, 0] else "", title)
        if isinstance(shown, str):
            axes.imshow(np.full((1, 1, 3), 0.93))
            axes.text(0, 0, shown, ha="center", va="center")
            continue
        first, second = np.clip(normalise(shown.image), 0, 1)
        planes = (second, first, second) if shown.image[1].any() else (first, first, first)
        axes.imshow(np.stack(planes, axis=2))
        draw_outlines(axes, shown.masks, TRUE, "-", width=0.4)
        where = {"transform": axes.transAxes, "va": "bottom"}
        axes.text(0.5, 1.01, f"n = {shown.masks.max()} cells", ha="center", size=5.5, **where)
        box = {"facecolor": "black", "edgecolor": "none", "pad": 1.5}
        axes.text(0.02, 0.02, note, color="white", bbox=box if note else None, size=6, **where)
    return figure


def draw_sizes(axes: Axes, census: pd.DataFrame, value: str, label: str, deviation: str) -> None:
    """Draw a column of `count_cells` for every image of a data set, shots apart from queries.

    Either rises from left to right; bars are the column ``deviation``, if it is not "".
    """
    start = 0
    for split, name in (("shot", "shots"), ("query", "queries")):
        part = census[census["split"] == split].dropna(subset=value).sort_values(value)
        colour, marker = COLOURS[split], ROLE_MARKERS[split]
        places, bars = np.arange(start, start + len(part)), part[deviation] if deviation else None
        told = f"{name}: {part[value].mean():.0f} ± {part[value].std():.0f} (n = {len(part)})"
        axes.errorbar(
            places, part[value], bars, fmt=marker, color=colour, elinewidth=0.5, label=told
        )
        start += len(part) + 2
    axes.set(xlabel="images", ylabel=label, xticks=[], ylim=(0, 1.35 * axes.get_ylim()[1]))
    axes.legend(loc="upper center")


def draw_embedding(axes: Axes, layout: pd.DataFrame) -> None:
    """Draw a t-SNE of style embeddings, of `styles.lay_out`: a colour for each data set."""
    for i, (name, part) in enumerate(layout.groupby("data", sort=False)):
        label, marker = f"{name_data(str(name))} (n = {len(part)})", MARKERS[i % len(MARKERS)]
        where = part["x"], part["y"]
        axes.scatter(*where, s=10, color=f"C{i}", marker=marker, linewidths=0, label=label)
    axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6)

"""Counts and sizes of the cells of data sets (Extended Data Fig. 3, Extended Data Table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from scellseg_lib.errors import ImageError
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset


def census(datasets: Sequence[Dataset]) -> pd.DataFrame:
    """Count and measure the cells of every image.

    Parameters
    ----------
    datasets : sequence of Dataset
        Labelled. An image whose files do not fit each other, or its manifest, is left out.

    Returns
    -------
    DataFrame
        One row an image: ``data``, ``split``, ``image``, ``height``, ``width`` (px), ``cells``,
        ``mean_area`` (px), ``median_diameter`` (px, of the circle of equal area) and ``coverage``,
        the share of the image that is in cells.
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
        rows.append(
            {
                "data": name,
                "split": sample.split,
                "image": sample.name,
                "height": height,
                "width": width,
                "cells": len(areas),
                "mean_area": areas.mean() if len(areas) else np.nan,
                "median_diameter": sample.diameter,
                "coverage": areas.sum() / (height * width),
            }
        )
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum a census up by data set and split: images, cells, means of the others over the images."""
    groups = frame.groupby(["data", "split"], sort=False)
    sums = groups.agg(images=("image", "size"), cells=("cells", "sum"))
    means = groups[["mean_area", "median_diameter", "coverage"]].mean()
    span = groups["cells"].agg(["min", "max"]).add_prefix("cells_")
    return sums.join(span).join(means).reset_index()

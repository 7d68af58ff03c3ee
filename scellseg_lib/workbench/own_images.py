"""One's own images in a notebook: an example folder, pictures of it, how far images are from what a
model knows, the learning curve, and measurements to take away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tifffile
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from scellseg_lib.atomic import whole
from scellseg_lib.datasets import synthetic
from scellseg_lib.files import export
from scellseg_lib.files import images as readers
from scellseg_lib.learning_curve import Expectation
from scellseg_lib.model import Model
from scellseg_lib.plots import STYLE, contours
from scellseg_lib.samples import Dataset, Sample, normalise, resize
from scellseg_lib.segmentation import Cells, style_distance
from scellseg_lib.style import embed

PARAMETERS: dict[str, Any] = {
    "FOLDER": "",
    "CHANNELS": [],
    "MODEL": "scellseg",
    "LEVELS": [],
    "STRATEGY": "classic",
    "STEPS": 20,
    "FOLDS": 3,
    "MORE": 2,
    "SEED": 0,
    "SHOWN": 3,
    "COMPUTE": False,
}
"""Parameters of the notebook, with values of their types."""
BLUE, ORANGE, SKY, GREY = "#0072B2", "#D55E00", "#56B4E9", "0.45"
EDGE: list[AbstractPathEffect] = [withStroke(linewidth=2.2, foreground="black")]
"""A dark rim, so that a bright line is seen on a white image too."""
WELL = np.s_[80:495, 145:565]
"""Where the worms of a synthetic image are."""
KERNEL = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (45, 45))


def example_folder(folder: Path, n_shot: int = 6, n_query: int = 3) -> Path:
    """Write a folder as one has it: annotated images in ``shot/``, others in ``query/``.

    They show worms in dark field, bright on black, as the packaged models have seen none: synthetic
    ones without their well, greys turned round, blurred and with noise. What exists is left alone.

    Parameters
    ----------
    folder : path
    n_shot, n_query : int
        Images of either kind.

    Returns
    -------
    Path
        The folder.
    """
    for number in range(n_shot + n_query):
        part = "shot" if number < n_shot else "query"
        place = folder / part / f"worms_{number + 1}"
        files = [place.with_name(place.name + end) for end in ("_img.tif", "_masks.tif")]
        if all(file.exists() for file in files[: 2 if part == "shot" else 1]):
            continue
        image, masks = synthetic.make_image("worms", (77, number))
        # What is narrower than the kernel and darker than its surroundings: worms, not the well.
        bright = cv2.morphologyEx(image[0], cv2.MORPH_BLACKHAT, KERNEL)[WELL]
        bright = cv2.GaussianBlur(bright, (0, 0), 1.5)
        noise = np.random.default_rng(number).normal(0, 0.3 * bright.std(), bright.shape)
        dark = np.clip(200 + bright + noise, 0, None).round().astype(np.uint16)
        with whole(files[0]) as scratch:
            tifffile.imwrite(scratch, dark, compression="zlib", photometric="minisblack")
        if part == "shot":
            readers.write_labels(files[1], readers.relabel(masks[WELL].copy()))
    return folder


def to_segment(images: Dataset) -> Dataset:
    """Images of ``query/`` without masks; an empty data set where there are none."""
    queries = tuple(sample for sample in images if "query" in sample.split.split("+"))
    return replace(images, samples=queries).without_masks()


def gallery(
    samples: Sequence[Sample],
    cells: Sequence[np.ndarray],
    diameter: float | None = None,
    columns: int = 3,
) -> Figure:
    """Draw images with the outlines of their cells.

    Parameters
    ----------
    samples : sequence of Sample
    cells : sequence of int[H, W]
        Labels of each image, annotated or found.
    diameter : float, optional
        Of the cells, px: shown as a disc in the corner of each image.
    columns : int
        Pictures in a row.
    """
    rows = -(-len(samples) // columns)
    height, width = samples[0].image.shape[1:]
    size = (8.4, (8.4 / columns * height / width + 0.3) * rows)
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=size, layout="constrained", dpi=70)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, sample, labels in zip(grid, samples, cells, strict=False):
            axes.imshow(
                _shades(sample.image, figure.dpi * size[0] / columns),
                vmin=0,
                vmax=1,
                extent=(-0.5, labels.shape[1] - 0.5, labels.shape[0] - 0.5, -0.5),
            )
            lines = LineCollection(contours(labels), colors=SKY, linewidths=1.0, path_effects=EDGE)
            axes.add_collection(lines, autolim=False)
            n_cells = np.count_nonzero(np.unique(labels))
            axes.set_title(f"{sample.name}: {n_cells} cell{'' if n_cells == 1 else 's'}")
            if diameter:
                _disc(axes, diameter, labels.shape)
    return figure


def style_check(model: Model, samples: Sequence[Sample], diameter: float) -> pd.DataFrame:
    """How far images are from those that a model has learnt from.

    Parameters
    ----------
    model : Model
    samples : sequence of Sample
    diameter : float
        Of their cells, px.

    Returns
    -------
    DataFrame
        One row an image: ``image``, ``distance`` (of its style to the nearest that the model knows,
        1 being the largest among the images it has learnt from; NaN where the model does not say
        what it has seen), and ``in words``.
    """
    rows = []
    for sample in samples:
        distance = style_distance(embed(model, sample, diameter), model.card)
        known = bool(model.card.styles) and model.card.style_radius > 0
        words = "far from anything the model has seen" if distance > 1 else "like what it has seen"
        rows.append(
            {
                "image": sample.name,
                "distance": distance if known else float("nan"),
                "in words": words if known else "the model does not say what it has seen",
            }
        )
    return pd.DataFrame(rows, columns=["image", "distance", "in words"])


def style_sentence(table: pd.DataFrame) -> str:
    """Say what a `style_check` found, and what to do."""
    n, known = len(table), table.dropna(subset="distance")
    far = known[known["distance"] > 1]
    if known.empty:
        return "The model does not say which images it has seen: look at its masks with care."
    if far.empty:
        none = f"None of the {n} images is" if n > 1 else "This image is not"
        return f"{none} far from what the model has seen."
    largest = f"up to {far['distance'].max():.1f} times as far as is usual among its own images"
    if len(far) == n:
        subject = "These images are" if n > 1 else "This image is"
        return (
            f"{subject} far from anything the model has seen ({largest}): do not trust it before "
            "it has been fine-tuned on some of them."
        )
    verb = "is" if len(far) == 1 else "are"
    return (
        f"{len(far)} of the {n} images {verb} far from anything the model has seen ({largest}): "
        f"{', '.join(far['image'])}. Annotate one like that, and fine-tune again."
    )


def curve_plot(
    frame: pd.DataFrame,
    expected: Expectation,
    n_shots: int,
    more: int = 2,
    axes: Axes | None = None,
) -> Axes:
    """Draw scores against the number of annotated images, with the curve and what more would add.

    Parameters
    ----------
    frame : DataFrame
        As `learning_curve.cross_validate` gives.
    expected : Expectation
        Of these scores.
    n_shots, more : int
        Annotated images that there are, and how many are thought of beyond.
    axes : Axes, optional
        None: those of a new figure, with a legend.
    """
    tuned = frame[frame["n_shots"] > 0]
    most, end = tuned["n_shots"].max(), n_shots + more
    with plt.style.context(STYLE):
        alone = axes is None
        axes = axes or plt.figure(figsize=(6.4, 4.2), layout="constrained").subplots()
        untuned = frame.loc[frame["n_shots"] == 0, "map"].mean()
        axes.axhline(
            untuned, color=GREY, linestyle=":", label="mean of the model as it was, not tuned"
        )
        if fit := expected.fit:
            inside, beyond = np.linspace(1, most, 100), np.linspace(most, end + 0.5, 100)
            low, high = fit.confidence_band(np.linspace(1, end + 0.5, 200))
            axes.fill_between(
                np.linspace(1, end + 0.5, 200), low, high, color=BLUE, alpha=0.13, linewidth=0
            )
            axes.plot(inside, fit.predict(inside), color=BLUE, label="curve, with its 95 % band")
            label = "extrapolated: nothing was measured here"
            axes.plot(beyond, fit.predict(beyond), color=BLUE, linestyle="--", label=label)
            _arrow(axes, expected, n_shots, end)
        label = "one score: learnt from some, tested on others"
        axes.plot(tuned["n_shots"], tuned["map"], "o", color=BLUE, alpha=0.35, mew=0, label=label)
        means = tuned.groupby("n_shots")["map"].mean()
        axes.plot(means.index, means, "D", color="black", markersize=5, label="their mean")
        axes.set(
            xlim=(0, end + 0.6), ylim=(0, 1), xlabel="annotated images that the model learns from"
        )
        axes.set_ylabel("score on images held out (mAP; 1 is perfect)")
        axes.set_xticks(range(end + 1) if end < 15 else range(0, end + 1, 5))
        if alone:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return axes


def results_folder(runs: Path, folder: str | Path, name: str) -> Path:
    """Where results of a folder go: two folders of the same name do not share one.

    Parameters
    ----------
    runs : Path
        Holds all results.
    folder : str or Path
        Of the images; what is none, such as a data set's name or "", needs no further mark.
    name : str
        Of the images.

    Returns
    -------
    Path
        ``runs/NAME``, of a folder with six hex digits of its full path.
    """
    if not folder or not Path(folder).is_dir():
        return runs / name
    mark = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:6]
    return runs / f"{name}-{mark}"


def save_results(found: Sequence[Cells], samples: Dataset, folder: Path) -> pd.DataFrame:
    """Write masks (TIFF), outlines for ImageJ and one table of measurements of all cells.

    Parameters
    ----------
    found : sequence of Cells
        One an image, in the order of the samples.
    samples : Dataset
    folder : path
        ``masks/``, ``imagej/`` and ``measurements.csv`` go into it. Masks and outlines of a former
        run are removed from there, also those of images that are there no more.

    Returns
    -------
    DataFrame
        ``image`` and `export.measurements`, a row a cell; px and intensities as in the files.
    """
    names = [name for name in samples.channels if name != "none"]
    tables = []
    former = [
        *folder.glob("masks/*_masks.tif"),
        *folder.glob(f"imagej/*{export.FORMATS['imagej']}"),
    ]
    for file in former:
        file.unlink()
    for cells, sample in zip(found, samples, strict=True):
        readers.write_labels(folder / "masks" / f"{sample.name}_masks.tif", cells.masks)
        planes = np.moveaxis(sample.image[: len(names)], 0, 2)
        table = export.measurements(cells.masks, planes, names)
        table.insert(0, "image", sample.name)
        tables.append(table)
    export.export(folder / "masks", folder / "imagej", ["imagej"], overwrite=True)
    every = pd.concat(tables, ignore_index=True)
    with whole(folder / "measurements.csv") as scratch:
        every.to_csv(scratch, index=False)
    return every


def _shades(image: np.ndarray, width: float) -> np.ndarray:
    """The plane to segment at the width of its picture, in few shades: noise makes files large."""
    plane = np.clip(normalise(image)[:1], 0, 1)
    plane = resize(plane, min(1.0, width / plane.shape[2]))[0]
    return np.round(16 * cv2.GaussianBlur(plane, (0, 0), 0.6)) / 16


def _disc(axes: Axes, diameter: float, shape: tuple[int, ...]) -> None:
    """Disc of the cells' diameter, at the lower left."""
    centre = (diameter / 2 + 8, shape[0] - diameter / 2 - 8)
    axes.add_patch(Circle(centre, diameter / 2, facecolor=ORANGE, edgecolor="white", linewidth=0.8))
    place = (diameter + 16, centre[1])
    text = axes.text(*place, f"{diameter:.0f} px", color="white", va="center", fontsize="small")
    text.set_path_effects(EDGE)


def _arrow(axes: Axes, expected: Expectation, n_shots: int, end: int) -> None:
    """The expected gain, as a bar of its interval that starts from the curve where one is now."""
    assert expected.fit is not None
    now = float(expected.fit.predict(np.array(n_shots)))
    label = "all images that are annotated now"
    axes.plot([n_shots], [now], "o", color=ORANGE, mfc="white", markersize=7, label=label)
    bars = [[expected.gain - expected.low], [expected.high - expected.gain]]
    label = "expected with more annotated images (95 %)"
    axes.errorbar(
        [end], [now + expected.gain], yerr=bars, fmt="o", color=ORANGE, capsize=4, label=label
    )

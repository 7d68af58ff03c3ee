"""Figures in one style, saved the same byte for byte beside a file that says their origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.ndimage import find_objects
from skimage.measure import find_contours

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.samples import normalise

STYLE = paths.PACKAGE / "scellseg.mplstyle"
PREDICTED, TRUE = "red", "#F0E442"
DOTS = 200  # per inch, as in the style file: an overlay keeps its image's pixels, up to 2000


def overlay(
    image: np.ndarray, masks: np.ndarray, true: np.ndarray | None = None, axes: Axes | None = None
) -> Axes:
    """Draw contours of cells on an image: predicted dotted red, true yellow (the paper's Fig. 3).

    Parameters
    ----------
    image : number[H, W] or [2, H, W]
        The first plane is shown, its 1st to 99th percentile from black to white.
    masks, true : int[H, W]
        Predicted labels, and true ones where they are known.
    axes : Axes, optional
        None: those of a new figure.

    Raises ImageError if image and masks differ in size.
    """
    plane = np.asarray(image if np.ndim(image) == 2 else image[0], np.float32)
    sides = [("truth", true, TRUE, "-"), ("prediction", masks, PREDICTED, ":")]
    with plt.style.context(STYLE):
        if axes is None:
            axes = _image_axes(plane.shape)
        axes.imshow(normalise(plane[None])[0], vmin=0, vmax=1)
        for name, labels, colour, style in sides:
            if labels is None:
                continue
            if labels.shape != plane.shape:
                raise ImageError(
                    f"the image is {plane.shape}, the {name} {labels.shape} pixels",
                    remedy="Give labels of this image, at its size.",
                )
            n_cells = np.count_nonzero(np.unique(labels))
            lines = LineCollection(contours(labels), colors=colour, linestyles=style)
            lines.set_label(f"{name} (n = {n_cells} cells)")
            axes.add_collection(lines, autolim=False)
        axes.set_axis_off()
        # Below the image, on grey: yellow is not seen on white.
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0), frameon=True, facecolor="0.6")
    return axes


def contours(masks: np.ndarray) -> list[np.ndarray]:
    """Outlines of all cells, each float64[n, 2] of (x, y) in pixels; pieces count apart."""
    found = []
    for label, box in enumerate(find_objects(masks.astype(np.int32)), start=1):
        if box is not None:
            inside = np.pad(masks[box] == label, 1).astype(np.float32)
            corner = (box[1].start - 1, box[0].start - 1)
            found += [line[:, ::-1] + corner for line in find_contours(inside, 0.5)]
    return found


def ap_curve(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Draw average precision against the IoU threshold, one curve for each label.

    Parameters
    ----------
    frame : DataFrame
        As `metrics.evaluate` gives, with a column ``label`` where there are several curves, and
        ``seed`` where runs are repeated: then the band is the standard deviation over seeds.
    axes : Axes, optional
        None: those of a new figure.
    """
    frame = frame.assign(**{k: "" for k in ("label", "seed") if k not in frame})
    repeated = False
    with plt.style.context(STYLE):
        axes = axes or plt.figure().subplots()
        for label, part in frame.groupby("label", sort=False):
            runs = part.groupby(["seed", "threshold"])["ap"].mean().unstack("threshold")
            mean, count = runs.mean(), f"n = {part['image'].nunique()} images"
            count += f", {len(runs)} seeds" if len(runs) > 1 else ""
            name = f"{label!s} ({count})" if label else count
            (line,) = axes.plot(mean.index, mean.to_numpy(), marker="o", label=name)
            if len(runs) > 1:
                deviation, repeated = runs.std(ddof=1), True
                low, high = mean - deviation, mean + deviation
                colour = line.get_color()
                axes.fill_between(mean.index, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.set(xlabel="IoU threshold", ylabel="AP = TP / (TP + FP + FN)", ylim=(0, 1))
        axes.legend(
            title="mean over images" + ("; band: SD over seeds" if repeated else ""),
            title_fontsize="small",
            loc="upper center",  # of the space below: curves go through every corner of the panel
            bbox_to_anchor=(0.5, -0.16),
        )
    return axes


def save(figure: Figure, path: str | Path, origin: dict[str, Any]) -> Path:
    """Write ``PATH.svg`` and ``PATH.png`` (returned), and their origin as ``PATH.json``.

    Equal figures give equal bytes: no dates, no random names.

    Parameters
    ----------
    figure : Figure
    path : path
        Without a suffix; its folder is made if need be.
    origin : dict
        Parameters, hashes of data and weights, versions, commit: what another needs to remake it.
    """
    path = Path(path)
    with whole(path.with_name(f"{path.name}.json")) as scratch:
        scratch.write_text(json.dumps(origin, indent=2, sort_keys=True, default=str) + "\n")
    _write(figure, path.with_name(f"{path.name}.svg"), {"Date": None, "Creator": None})
    return _write(figure, path.with_name(f"{path.name}.png"), {"Software": None})


def saved(path: str | Path, width: float = 8) -> Axes:
    """Show a figure that `save` has written: where what it is drawn from may not be at hand.

    Parameters
    ----------
    path : path
        Without a suffix.
    width : float
        Inches.

    Raises
    ------
    DatasetError
        If there is none.
    """
    file = Path(f"{path}.png")
    if not file.is_file():
        raise DatasetError(
            "the figure has not been drawn",
            where=file,
            remedy="Restore it from the repository, or have its images at hand (SCELLSEG_DATA).",
        )
    picture = plt.imread(file)
    size = (width, width * picture.shape[0] / picture.shape[1])
    axes = plt.figure(figsize=size, layout="constrained").subplots()
    axes.imshow(picture, interpolation="antialiased")
    axes.set_axis_off()
    return axes


def save_overlay(path: Path, image: np.ndarray, masks: np.ndarray) -> None:
    """Write the `overlay` of one image as a PNG, whole or not at all."""
    if figure := overlay(image, masks).get_figure(root=True):
        _write(figure, path, {"Software": None})
        plt.close(figure)


def _image_axes(shape: tuple[int, ...]) -> Axes:
    """Axes of a new figure that an image of this height and width fills; the legend lies below."""
    longer = np.clip(max(shape) / DOTS, 5, 10)
    height, width = longer * np.array(shape) / max(shape)
    return plt.figure(figsize=(width, height)).add_axes((0, 0, 1, 1))


def _write(figure: Figure, path: Path, metadata: dict[str, Any]) -> Path:
    """Write one file, whole or not at all."""
    with plt.style.context(STYLE), whole(path) as scratch:
        figure.savefig(
            scratch, format=path.suffix[1:], metadata=metadata, bbox_inches="tight", pad_inches=0.05
        )
    return path

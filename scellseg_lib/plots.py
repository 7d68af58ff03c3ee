"""Figures in one style, saved the same byte for byte beside a file that says their origin."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from skimage.measure import find_contours, regionprops

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.network import ARCHITECTURES
from scellseg_lib.samples import normalise

STYLE = paths.PACKAGE / "scellseg.mplstyle"
PREDICTED, TRUE = "red", "#F0E442"
METHODS = {("scellseg", "contrastive"): "Scellseg-CFT"} | {
    (model, "classic"): f"{ARCHITECTURES[model].title}-FT" for model in ARCHITECTURES
}
"""What the tuned models of Fig. 2 are called, by model and strategy, in the order of the paper."""
LOOKS = {m: (f"C{i}", "os^Dv<"[i]) for i, m in enumerate(METHODS.values())}  # colour, marker
LOOKS |= {one.title: LOOKS[f"{one.title}-FT"] for one in ARCHITECTURES.values()}  # not tuned


def overlay(
    image: np.ndarray, masks: np.ndarray, true: np.ndarray | None = None, axes: Axes | None = None
) -> Axes:
    """Draw contours of cells on an image: predicted dotted red, true yellow (the paper's Fig. 3).

    Of an image number[H, W] or [2, H, W] the first plane is shown, its 1st to 99th percentile from
    black to white; the labels are int[H, W] of its size, else ImageError. None: new axes.
    """
    plane = np.asarray(image if np.ndim(image) == 2 else image[0], np.float32)
    sides = [("truth", true, TRUE, "-"), ("prediction", masks, PREDICTED, ":")]
    with plt.style.context(STYLE):
        axes = axes or plt.figure().subplots()
        axes.imshow(normalise(plane[None])[0], vmin=0, vmax=1)
        for name, labels, colour, style in sides:
            if labels is None:
                continue
            if labels.shape != plane.shape:
                what = f"the image is {plane.shape}, the {name} {labels.shape} pixels"
                raise ImageError(what, remedy="Give labels of this image, at its size.")
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
    for cell in regionprops(masks.astype(np.int32)):
        inside = np.pad(cell.image, 1).astype(np.float32)
        corner = (cell.bbox[1] - 1, cell.bbox[0] - 1)
        found += [line[:, ::-1] + corner for line in find_contours(inside, 0.5)]
    return found


def colour_flows(flows: np.ndarray) -> np.ndarray:
    """Colour unit flows (dy, dx), float[2, H, W], by their direction: float64[H, W, 3], 0 to 1."""
    hue = np.arctan2(flows[0], flows[1]) / (2 * np.pi) % 1
    length = np.clip(np.hypot(flows[0], flows[1]), 0, 1)
    return hsv_to_rgb(np.stack((hue, np.full_like(hue, 0.85), length), axis=-1))


def ap_curve(frame: pd.DataFrame, axes: Axes | None = None, *, marked: float | None = None) -> Axes:
    """Draw average precision against the IoU threshold, from a frame of `metrics.evaluate`.

    It may have a column ``label``, for several curves, and ``seed``, where runs are repeated: the
    band is then the standard deviation over seeds. At a threshold that is ``marked``, the first
    curve's height is told.
    """
    frame = frame.assign(**{name: "" for name in ("label", "seed") if name not in frame})
    several_images = frame["image"].nunique() > 1
    title = "mean over images" if several_images else None
    with plt.style.context(STYLE):
        axes = axes or plt.figure().subplots()
        for position, (label, part) in enumerate(frame.groupby("label", sort=False)):
            runs = part.groupby(["seed", "threshold"])["ap"].mean().unstack("threshold")
            mean, name = runs.mean(), str(label).replace("$", r"\$")  # no mathematics
            if several_images:
                count = f"n = {part['image'].nunique()} images"
                count += f", {len(runs)} seeds" if len(runs) > 1 else ""
                name = f"{name} ({count})" if name else count
            marker = "o" if len(mean) <= 20 else ""  # with a value at every hundredth, a plain line
            (line,) = axes.plot(mean.index, mean.to_numpy(), marker=marker, label=name)
            colour = line.get_color()
            if len(runs) > 1:
                low, high = mean - runs.std(ddof=1), mean + runs.std(ddof=1)
                axes.fill_between(mean.index, low, high, color=colour, alpha=0.25, linewidth=0)
                title = "mean over images; band: SD over seeds"
            if marked is not None and position == 0:
                height = float(np.interp(marked, mean.index.to_numpy(float), mean.to_numpy()))
                told = f"AP {height:.2f} at IoU {marked:.2f}"
                axes.axvline(marked, color="0.4", linestyle=":", linewidth=1)
                axes.plot([marked], [height], "o", color=colour, markersize=6, label=told)
        axes.set(xlabel="IoU threshold", ylabel="AP = TP / (TP + FP + FN)", ylim=(0, 1))
        # Below the panel: curves go through every corner of it.
        place = (0.5, -0.16)
        axes.legend(title=title, title_fontsize="small", loc="upper center", bbox_to_anchor=place)
    return axes


def save(figure: Figure, path: str | Path, origin: dict[str, Any]) -> Path:
    """Write ``PATH.svg`` and ``PATH.png`` (returned), and their origin as ``PATH.json``.

    The origin is what another needs to remake it: parameters, hashes, versions, commit. Equal
    figures give equal bytes: no dates, no random names.
    """
    path = Path(path)
    with whole(path.with_name(f"{path.name}.json")) as scratch:
        scratch.write_text(json.dumps(origin, indent=2, sort_keys=True, default=str) + "\n")
    undated = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    for suffix, metadata in undated.items():
        options: dict[str, Any] = {"format": suffix, "metadata": metadata, "pad_inches": 0.05}
        file = path.with_name(f"{path.name}.{suffix}")
        with plt.style.context(STYLE), whole(file) as scratch:
            figure.savefig(scratch, bbox_inches="tight", **options)
    return file


def show_saved(path: str | Path, width: float = 8) -> Axes:
    """Show a figure that `save` has written (the path without a suffix), so many inches wide.

    For where what it is drawn from may not be at hand. DatasetError if there is none.
    """
    file = Path(f"{path}.png")
    if not file.is_file():
        remedy = "Restore it from the repository, or have its images at hand (SCELLSEG_DATA)."
        raise DatasetError("the figure has not been drawn", where=file, remedy=remedy)
    picture = plt.imread(file)
    size = (width, width * picture.shape[0] / picture.shape[1])
    axes = plt.figure(figsize=size, layout="constrained").subplots()
    axes.imshow(picture, interpolation="antialiased")
    axes.set_axis_off()
    return axes

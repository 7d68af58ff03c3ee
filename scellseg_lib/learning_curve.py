"""One's own images: how a model gets better with every annotated one, and what more would add.

Around it stands what a notebook needs besides: an example folder, pictures, how far images are from
what a model knows, and measurements to take away.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from scellseg_lib.device import choose_precision
from scellseg_lib.errors import ScellsegError, TrainingError, telling
from scellseg_lib.files import export
from scellseg_lib.files.images import relabel, write_labels
from scellseg_lib.finetuning import RECIPES, STRATEGIES, choose_options, finetune
from scellseg_lib.metrics import MEASURED, evaluate, summary
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.plots import STYLE, contours
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset, Sample, normalise, resize
from scellseg_lib.segmentation import Cells, FarFromModel, segment, style_distance
from scellseg_lib.stats import HyperbolaFit, fit_hyperbola
from scellseg_lib.style import embed
from scellseg_lib.training import Progress

PARAMETERS: dict[str, Any] = {"FOLDER": "", "CHANNELS": [], "MODEL": "scellseg", "LEVELS": []}
PARAMETERS |= {"RECIPE": "quick", "STEPS": 0, "FOLDS": 3, "MORE": 50, "SECONDS": 30.0, "SEED": 0}
PARAMETERS |= {"SHOWN": 3, "COMPUTE": False}
"""Parameters of the notebook, with values of their types."""

VERSION = 2  # of how a score is computed: those of another one are not taken over
COLUMNS: dict[str, type] = {"key": str, "fold": int, "n_shots": int, "shots": str, "held_out": str}
COLUMNS |= {"cells": int} | dict.fromkeys(("ap50", "ap75", "map", "maji", *MEASURED), float)
"""Of the table of scores, with their types; ``cells`` are those that were learnt from."""


def plan_folds(n_images: int, n_folds: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Divide annotated images into folds (pool, held out), so that each is held out once.

    The first k of a pool are its k shots: those of a smaller number are among those of a larger
    one. There are no folds of fewer than two images; TrainingError if fewer than two are asked for.
    """
    if n_folds < 2:
        what = f"{n_folds} folds leave nothing to compare"
        raise TrainingError(what, remedy="Ask for two folds or more.")
    if n_images < 2:
        return []
    order = np.random.default_rng(seed).permutation(n_images)
    folds = []
    for number, held_out in enumerate(np.array_split(order, min(n_folds, n_images))):
        others = np.setdiff1d(order, held_out)
        pool = np.random.default_rng((seed, number)).permutation(others)
        folds.append((pool.tolist(), sorted(held_out.tolist())))
    return folds


def choose_counts(n_pool: int) -> list[int]:
    """Numbers of shots to try: 1, 2, 4, 8 .. and all of a pool."""
    powers = [2**i for i in range(n_pool.bit_length()) if 2**i < n_pool]
    return [*powers, n_pool] if n_pool else []


def cross_validate(
    model: Model,
    shots: Sequence[Sample],
    file: Path,
    *,
    queries: Sequence[Sample] | None = None,
    recipe: str = "best",
    n_folds: int = 5,
    report: Callable[[int, int], object] = lambda done, total: None,
    **options: Any,
) -> pd.DataFrame:
    """Tune on 1, 2, 4 .. of the annotated images, and score on others of them, never on a query.

    A score is in the file as soon as it is there, and is computed again only if an image, a mask,
    the model or a setting has changed.

    Parameters
    ----------
    model : Model
        Left as it is. Its own scores, untuned, are those of 0 shots.
    shots : sequence of Sample
        Annotated images; those without a cell are left out.
    file : path
        Table of the scores (CSV), made if need be; DatasetError if it is no such table.
    queries, recipe, n_folds, **options
        See `finetune` and `plan_folds`; the seed is that of both.
    report : callable
        Called at every step with how many are done, of how many; what it raises ends all.

    Returns
    -------
    DataFrame
        One row a fold and number of shots: `COLUMNS`, means over the images held out of scores
        and relative errors. Empty with fewer than two images.
    """
    images = [sample for sample in shots if sample.masks.any()]
    chosen = choose_options(recipe, **options)
    folds = plan_folds(len(images), n_folds, chosen.seed)
    counts = [0, *choose_counts(min((len(pool) for pool, _ in folds), default=0))]
    precision = choose_precision(model.device)
    seen = (queries or ()) if STRATEGIES[chosen.strategy] else ()
    identity = chosen.model_dump() | {
        "version": VERSION,
        "weights": weights_hash(model.network),
        "decoding": model.card.decoding.model_dump() | {"flips": RECIPES[recipe].flips},
        "precision": asdict(precision),
        "queries": _hash_images(seen),
    }
    plan = [(fold, n) for fold in range(len(folds)) for n in counts]
    known, keys = _read_scores(file), []
    for done, (fold, n) in enumerate(progress_bar(plan, len(plan), "learning curve", unit="score")):
        pool, held_out = ([images[i] for i in part] for part in folds[fold])
        learnt = pool[:n]
        sized = learnt or pool  # those whose diameter is taken
        hashes = [_hash_images(part, masks=True) for part in (sized, held_out)]
        score = json.dumps(identity | {"n_shots": n, "images": hashes}, sort_keys=True)
        key = hashlib.sha256(score.encode()).hexdigest()[:16]
        keys.append(key)
        if key in set(known["key"]):
            continue
        tuned = model
        if learnt:
            tell = partial(_tell_steps, report, done, len(plan))
            told: Any = options | {"precision": precision, "callback": tell}
            tuned = finetune(model, learnt, queries, recipe, **told)
        diameter = float(np.mean([sample.diameter for sample in sized]))
        with warnings.catch_warnings(action="ignore", category=FarFromModel):  # one an image
            how: dict[str, Any] = {
                "diameter": diameter,
                "flips": RECIPES[recipe].flips,
                "precision": precision,
            }
            found = segment(tuned, held_out, progress=False, **how)
        names = ("; ".join(sample.name for sample in part) for part in (learnt, held_out))
        row = {"key": key, "fold": fold, "n_shots": n, "cells": sum(count_cells(learnt))}
        row |= zip(("shots", "held_out"), names, strict=True)
        scored = evaluate(found, held_out)
        row |= {**summary(scored), **scored.drop_duplicates("image")[[*MEASURED]].mean()}
        rows = [*_read_scores(file).to_dict("records"), row]
        with whole(file) as scratch:
            pd.DataFrame(rows, columns=[*COLUMNS]).to_csv(scratch, index=False)
        known = _read_scores(file)
    return known.drop_duplicates("key").set_index("key").loc[keys].reset_index()


def _tell_steps(report: Callable, done: int, n_scores: int, now: Progress) -> None:
    report(done * now.n_steps + now.step, n_scores * now.n_steps)


def count_cells(samples: Sequence[Sample]) -> list[int]:
    """Number of annotated cells of each image."""
    return [int(np.count_nonzero(np.unique(sample.masks))) for sample in samples]


def _hash_images(samples: Sequence[Sample], *, masks: bool = False) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr(sample.image.shape).encode() + sample.image.tobytes())
        if masks:
            digest.update(sample.masks.tobytes())
    return digest.hexdigest()


def _read_scores(file: Path) -> pd.DataFrame:
    """The scores that are known; none where there is no file."""
    if not file.exists():
        return pd.DataFrame(columns=[*COLUMNS])
    remedy = "Restore it, or remove it: the scores are then computed anew."
    with telling("the table of scores cannot be read", file, remedy):
        how: Any = {"keep_default_na": False, "na_values": dict.fromkeys(MEASURED, "")}
        return pd.read_csv(file, dtype=COLUMNS, **how)[[*COLUMNS]]


BLUE, ORANGE, SKY = "#0072B2", "#D55E00", "#56B4E9"
NOTICEABLE = 0.005  # a smaller gain in mAP is 0.00 to two decimals


@dataclass(frozen=True)
class Expectation:
    """What more cells are expected to add, in words; the curve if there is one, and its gain."""

    sentence: str
    fit: HyperbolaFit | None = None
    gain: float = np.nan
    low: float = np.nan
    high: float = np.nan


def expect(
    frame: pd.DataFrame, cells: Sequence[int], more: int = 50, seconds: float = 30.0
) -> Expectation:
    """Say what `more` cells are expected to add to those of the annotated images.

    There are ``cells`` in each of these, and one takes so many ``seconds`` to draw. The frame is
    that of `cross_validate`. Scores of a fold count as independent: how hard its images are is
    taken for scatter, which makes the interval wider.
    """
    tuned, n_cells, end = frame[frame["n_shots"] > 0], sum(cells), sum(cells) + more
    n_images, minutes = more * len(cells) / max(n_cells, 1), more * seconds / 60
    effort = f"{n_images:.1f} images like yours, {minutes:.0f} minutes at {seconds:.0f} s a cell"
    what = f"{more} more cells ({effort})"
    none = Expectation(f"What {what} would add cannot be told: {_explain_none(tuned)}")
    try:
        fit = fit_hyperbola(tuned["cells"].to_numpy(), tuned["map"].to_numpy())
    except ScellsegError:
        return none
    now, then = fit.predict(np.array([n_cells, end])).tolist()
    low, high = (float(limit) for limit in fit.confidence_band(np.array(end), n_cells))
    level, note = max(-low, high) < 2 * NOTICEABLE, ""
    if level:
        note = ": the curve has levelled off"
    elif fit.kd < 0:  # it falls: no curve of something that learns
        return none
    elif low < NOTICEABLE:
        note = ": that may be nothing at all, the scores differ too much from image to image"
    sentence = (
        f"{what} are expected to add {_sign(then - now)} mAP "
        f"({_sign(low)} to {_sign(high)}){note}. This is an extrapolation, with its 95 % interval: "
        f"scores were measured with {tuned['cells'].min()} to {tuned['cells'].max()} cells, and "
        f"the curve through them is drawn on to {end:.0f}."
    )
    return Expectation(sentence, fit, then - now, low, high)


def _explain_none(tuned: pd.DataFrame) -> str:
    """Why no rising hyperbola passes through these scores."""
    if tuned.empty:
        return "it takes at least three annotated images, of which one is held out to test on."
    if tuned["n_shots"].nunique() < 2:
        return "all scores are of models tuned on one image. Annotate at least three images."
    means = tuned.groupby("n_shots")["map"].mean()
    if np.ptp(tuned["map"]) == 0:
        why = "the score is the same with any number of images"
    elif means.iloc[-1] > means.iloc[0]:
        why = "the score still rises and does not level off, so that its limit cannot be seen"
    else:
        why = "the score does not rise with the number of images: annotate all alike, or learn more"
    told = ", ".join(f"{score:.2f} with {n}" for n, score in means.items())
    return f"{why} (mean mAP by images learnt from: {told})."


def _sign(value: float) -> str:
    """Two decimals, with a proper minus, and never minus nothing."""
    return f"{value:z.2f}".replace("-", "\N{MINUS SIGN}")


def draw_curve(
    axes: Axes, frame: pd.DataFrame, expected: Expectation, n_cells: int, more: int = 50
) -> None:
    """Draw the scores that `expect` was given, with the curve and what more cells would add."""
    tuned, untuned = frame[frame["n_shots"] > 0], frame[frame["n_shots"] == 0]
    most, end = tuned["cells"].max(), n_cells + more
    label = "mean of the model as it was, not tuned"
    axes.axhline(untuned["map"].mean(), color="0.45", linestyle=":", label=label)
    if fit := expected.fit:
        x = np.linspace(1, end, 200)
        axes.fill_between(x, *fit.confidence_band(x), color=BLUE, alpha=0.13, linewidth=0)
        inside, beyond = np.linspace(1, most, 100), np.linspace(most, end, 100)
        axes.plot(inside, fit.predict(inside), color=BLUE, label="curve, with its 95 % band")
        label = "extrapolated: nothing was measured here"
        axes.plot(beyond, fit.predict(beyond), color=BLUE, linestyle="--", label=label)
        now = float(fit.predict(np.array(n_cells)))
        label = "all cells that are annotated now"
        axes.plot([n_cells], [now], "o", color=ORANGE, mfc="white", markersize=7, label=label)
        then = now + expected.gain
        bars = [[expected.gain - expected.low], [expected.high - expected.gain]]
        label = "expected with more annotated cells (95 %)"
        axes.errorbar([end], [then], bars, fmt="o", color=ORANGE, capsize=4, label=label)
    label = "one score: learnt from some, tested on others"
    axes.plot(tuned["cells"], tuned["map"], "o", color=BLUE, alpha=0.35, mew=0, label=label)
    means = tuned.groupby("n_shots")[["cells", "map"]].mean()
    label = "their mean, for 1, 2, 4 .. images"
    axes.plot(means["cells"], means["map"], "D", color="black", markersize=5, label=label)
    axes.set(xlim=(0, 1.03 * end), xlabel="annotated cells that the model learns from")
    axes.set(ylim=(0, 1), ylabel="score on images held out (mAP; 1 is perfect)")


def write_example(folder: Path, n_shot: int = 6, n_query: int = 3) -> Path:
    """Write a folder as one has it: annotated images in ``shot/``, others in ``query/``.

    They show worms in dark field, as the packaged models have seen none: synthetic ones without
    their well, greys turned round, blurred and with noise. What exists is left alone.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (45, 45))
    within_well = np.s_[80:495, 145:565]
    for number in range(n_shot + n_query):
        annotated = number < n_shot
        stem = folder / ("shot" if annotated else "query") / f"worms_{number + 1}"
        file, labels = Path(f"{stem}_img.tif"), Path(f"{stem}_masks.tif")
        if file.exists() and (labels.exists() or not annotated):
            continue
        image, masks = synthetic.make_image("worms", (77, number))
        # What is narrower than the kernel and darker than its surroundings: worms, not the well.
        bright = cv2.morphologyEx(image[0], cv2.MORPH_BLACKHAT, kernel)[within_well]
        bright = cv2.GaussianBlur(bright, (0, 0), 1.5)
        noise = np.random.default_rng(number).normal(0, 0.3 * bright.std(), bright.shape)
        dark = np.clip(200 + bright + noise, 0, None).round().astype(np.uint16)
        with whole(file) as scratch:
            tifffile.imwrite(scratch, dark, compression="zlib", photometric="minisblack")
        if annotated:
            write_labels(labels, relabel(masks[within_well].copy()))
    return folder


def select_queries(images: Dataset) -> Dataset:
    """Images of ``query/`` without masks; an empty data set where there are none."""
    queries = tuple(sample for sample in images if "query" in sample.split.split("+"))
    return replace(images, samples=queries).without_masks()


def draw_gallery(
    samples: Sequence[Sample], cells: Sequence[np.ndarray], diameter: float | None = None
) -> Figure:
    """Draw images with the outlines of their cells, of labels int[H, W], three in a row.

    A diameter of the cells, px, is shown as a disc in the corner of each image.
    """
    rows = -(-len(samples) // 3)
    height, width = samples[0].image.shape[1:]
    size = (8.4, (2.8 * height / width + 0.3) * rows)
    # A dark rim, so that a bright line is seen on a white image too.
    rim: list[AbstractPathEffect] = [withStroke(linewidth=2.2, foreground="black")]
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=size, layout="constrained", dpi=70)
        grid = figure.subplots(rows, 3, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, sample, labels in zip(grid, samples, cells, strict=False):
            # At the width of its picture and in few shades: noise makes files large.
            plane = np.clip(normalise(sample.image)[:1], 0, 1)
            plane = resize(plane, min(1.0, figure.dpi * 2.8 / plane.shape[2]))[0]
            shades = np.round(16 * cv2.GaussianBlur(plane, (0, 0), 0.6)) / 16
            extent = (-0.5, labels.shape[1] - 0.5, labels.shape[0] - 0.5, -0.5)
            axes.imshow(shades, vmin=0, vmax=1, extent=extent)
            lines = LineCollection(contours(labels), colors=SKY, linewidths=1.0, path_effects=rim)
            axes.add_collection(lines, autolim=False)
            n_cells = np.count_nonzero(np.unique(labels))
            title = f"{sample.name}: {n_cells} cell{'' if n_cells == 1 else 's'}"
            axes.set_title(title, parse_math=False)
            if diameter:
                x, y = diameter / 2 + 8, labels.shape[0] - diameter / 2 - 8
                look = {"facecolor": ORANGE, "edgecolor": "white", "linewidth": 0.8}
                axes.add_patch(Circle((x, y), diameter / 2, **look))
                told = {"color": "white", "va": "center", "fontsize": "small"}
                axes.text(diameter + 16, y, f"{diameter:.0f} px", path_effects=rim, **told)
    return figure


def check_styles(model: Model, samples: Sequence[Sample], diameter: float) -> pd.DataFrame:
    """Measure how far images are from what a model has learnt from; the diameter is in px.

    See `style_distance`; NaN where the model does not say what it has seen.
    """
    table = pd.DataFrame({"image": [sample.name for sample in samples], "distance": np.nan})
    table["in words"] = "the model does not say what it has seen"
    if model.card.styles and model.card.style_radius > 0:
        styles = [embed(model, sample, diameter) for sample in samples]
        table["distance"] = [style_distance(style, model.card) for style in styles]
        far, near = "far from anything the model has seen", "like what it has seen"
        table["in words"] = np.where(table["distance"] > 1, far, near)
    return table


def tell_styles(table: pd.DataFrame) -> str:
    """Say what `check_styles` found, and what to do."""
    far = table[table["distance"] > 1]
    if table["distance"].isna().all():
        return "The model does not say which images it has seen: look at its masks with care."
    if far.empty:
        return "No image is far from what the model has seen."
    told = f"Far from anything the model has seen: {len(far)} of {len(table)} images (up to "
    told += f"{far['distance'].max():.1f} times as far as is usual among its own). "
    if len(far) == len(table):
        return f"{told}Do not trust it before it has been fine-tuned on some of them."
    return f"{told}Annotate one like {', '.join(far['image'])}, and fine-tune again."


def place_results(runs: Path, folder: str | Path, name: str) -> Path:
    """Folder of the results of some images, ``runs/NAME``; two folders of one name do not share it,
    but have six hex digits of their path.
    """
    if not folder or not Path(folder).is_dir():
        return runs / name
    mark = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:6]
    return runs / f"{name[:60]}-{mark}"


def save_results(found: Sequence[Cells], samples: Dataset, folder: Path) -> pd.DataFrame:
    """Write ``masks/`` (TIFF), ``imagej/`` and ``measurements.csv``, whose rows are returned.

    Masks and outlines of a former run are removed, also those of images that are there no more.
    """
    for pattern in ("masks/*_masks.tif", f"imagej/*{export.FORMATS['imagej']}"):
        for file in folder.glob(pattern):
            file.unlink()
    names = [name for name in samples.channels if name != "none"]
    tables = {}
    for cells, sample in zip(found, samples, strict=True):
        write_labels(folder / "masks" / f"{sample.name}_masks.tif", cells.masks)
        planes = np.moveaxis(sample.image[: len(names)], 0, 2)
        tables[sample.name] = export.measurements(cells.masks, planes, names)
    export.export(folder / "masks", folder / "imagej", ["imagej"], overwrite=True)
    every = pd.concat(tables, names=["image"]).reset_index("image").reset_index(drop=True)
    with whole(folder / "measurements.csv") as scratch:
        every.to_csv(scratch, index=False)
    return every

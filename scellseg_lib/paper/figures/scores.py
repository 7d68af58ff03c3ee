"""Scores of trials, drawn: against IoU thresholds, shots, steps and choices."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from scellseg_lib.datasets.manifest import read_yaml
from scellseg_lib.network import ARCHITECTURES
from scellseg_lib.plots import LOOKS, METHODS, STYLE
from scellseg_lib.stats import HyperbolaFit, sidak_comparisons, two_way_anova, two_way_rm_anova

PRINT = [
    STYLE,
    {"font.size": 7, "legend.fontsize": 6, "axes.linewidth": 0.6, "figure.dpi": 110}
    | {"lines.linewidth": 1.0, "lines.markersize": 3, "errorbar.capsize": 2},
]
"""Style of the paper's figures, for a journal's page."""
PAGE = 7.2  # its width, inches
MEANS = {"ap50": "AP@0.5", "ap75": "AP@0.75", "map": "mAP", "maji": "mAJI"}
NAMES = read_yaml(Path(__file__).with_name("names.yaml"))
"""What data sets are called in figures; one of another name by itself."""


def add_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``label``, the name of the method or of the model not tuned, and ``tuned`` to trials."""
    pairs = zip(frame["model"], frame["strategy"], strict=True)
    labels = [METHODS.get(pair, ARCHITECTURES[pair[0]].title) for pair in pairs]
    return frame.assign(label=labels, tuned=frame["strategy"] != "direct")


def name_data(name: str) -> str:
    """Name of a data set for people."""
    return NAMES.get(name, name.replace("_", " "))


def start_figure(rows: int, columns: int, height: float = 2.2) -> tuple[Figure, np.ndarray]:
    """Return a figure of a page's width, or of half of it, and its panels [rows, columns]."""
    size = (PAGE if columns > 1 else PAGE / 2, height * rows)
    figure = plt.figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def name_panel(axes: Axes, letter: str, title: str = "") -> None:
    """Put a panel's bold letter outside its corner, and a title above it and its numbers."""
    axes.set_title(title, pad=11)
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "size": 9}
    axes.annotate(letter, (0, 1), (-24, 8), **place, weight="bold")  # type: ignore[arg-type]


def add_legend(figure: Figure, ncols: int = 4) -> None:
    """Tell once, below all panels, what their lines and points are."""
    known: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    order = sorted(known, key=lambda name: [*LOOKS, name].index(name.removesuffix(", not tuned")))
    handles = [known[name] for name in order]
    figure.legend(handles, order, loc="outside lower center", ncols=ncols)


def draw_transfer(
    axes: Axes,
    frame: pd.DataFrame,
    *,
    stars: Mapping[str, Sequence[float]] | None = None,
    least: float = 0.01,
) -> None:
    """Draw AP against the IoU threshold, models not tuned dotted and tuned solid (Fig. 2c-e).

    The frame is of one data set, protocol and cell threshold, with the columns of `add_labels`.
    ``stars`` are, by the sign to be drawn, the IoU thresholds at which a difference is significant;
    curves under ``least`` are left out, as in the paper.
    """
    for (label, tuned), part in frame.groupby(["label", "tuned"], sort=False):
        runs = part.groupby(["seed", "threshold"])["ap"].mean().unstack("threshold")
        mean = runs.mean()
        if mean.max() < least:
            continue
        deviation = runs.std() if len(runs) > 1 else None
        colour, marker = LOOKS[str(label)]
        name, line = (label, f"{marker}-") if tuned else (f"{label}, not tuned", ":")
        axes.errorbar(mean.index, mean.to_numpy(), deviation, fmt=line, color=colour, label=name)
    for row, (sign, thresholds) in enumerate((stars or {}).items()):
        for threshold in thresholds:
            axes.text(threshold, 1.0 - 0.05 * row, sign, ha="center", va="top")
    axes.set(xlabel="IoU threshold", ylabel="AP = TP / (TP + FP + FN)", ylim=(0, 1.02))
    _tell_number(axes, frame)


def compare_at_thresholds(
    frame: pd.DataFrame, first: str, second: str
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]] | None:
    """Repeated-measures ANOVA of two methods and the thresholds, and Sidak's comparisons (Fig. 2).

    Comparisons are by sign: ``*`` with random states matched, ``+`` not. Thresholds at which every
    trial is 0 are left out, as they thin the common error. None without two states of both.
    """
    by = ["label", "seed", "threshold"]
    pair = frame[frame["label"].isin([first, second])].groupby(by, as_index=False)["ap"].mean()
    both = pair.groupby("seed")["label"].transform("nunique") == 2
    pair = pair[both & (pair.groupby("threshold")["ap"].transform("max") > 0)]
    if pair["seed"].nunique() < 2:
        return None
    pair["label"] = pd.Categorical(pair["label"], [first, second])
    tables = {
        sign: sidak_comparisons(pair, "ap", "label", "threshold", "seed", matched=sign == "*")
        for sign in "*+"
    }
    return two_way_rm_anova(pair, "ap", ["label", "threshold"], None, "seed"), tables


def draw_shot_scale(
    axes: Axes,
    runs: pd.DataFrame,
    fits: Mapping[str, HyperbolaFit],
    value: str = "map",
    notes: Sequence[str] = (),
) -> None:
    """Draw a score over the number of shots: points, mean and SD, and hyperbolas (Fig. 5a).

    Methods stand side by side. Their R is in the panel, after the ``notes``; a band of 95 %
    confidence needs two states.
    """
    x, told = np.linspace(0, runs["n_shots"].max() * 1.05, 200)[1:], [*notes]
    for i, (label, part) in enumerate(runs.groupby("label", sort=False)):
        (colour, marker), aside = LOOKS[str(label)], 0.2 * (i - 1)
        if fit := fits.get(str(label)):
            if part["seed"].nunique() > 1:
                band = fit.confidence_band(x)
                axes.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, fit.predict(x), color=colour)
            told.append(f"{label}: R = {fit.r:.2f}")
        axes.plot(part["n_shots"] + aside, part[value], ".", color=colour, alpha=0.5, ms=2)
        found = part.groupby("n_shots")[value].agg(["mean", "std"]).fillna(0)
        look: dict[str, Any] = {"color": colour, "fmt": marker, "capsize": 1.5, "label": label}
        axes.errorbar(found.index + aside, found["mean"], found["std"], elinewidth=0.7, **look)
    where, text = axes.transAxes, "\n".join(told)
    axes.text(0.99, 0.02, text, ha="right", va="bottom", transform=where, fontsize=5.5)
    low, high = runs[value].min(), runs[value].max()
    axes.set(xlabel="shots (annotated images)", ylabel=MEANS[value], xlim=(0, None))
    axes.set_ylim(max(0, low - 0.8 * (high - low) - 0.02), high + 0.15 * (high - low))
    _tell_number(axes, runs)


def draw_differences(axes: Axes, runs: pd.DataFrame, first: str, second: str, value: str) -> None:
    """Draw by how much a method is ahead of another in the same random state, over shots (Fig. 5b).

    A point a state, their mean, and its 95 % interval by Student's t where there are two or more.
    """
    wide = runs.pivot_table(value, ["n_shots", "seed"], "label", sort=False)
    ahead = (wide[first] - wide[second]).dropna().groupby("n_shots")
    found = ahead.agg(["mean", "sem", "size"])
    half = found["sem"] * student.ppf(0.975, found["size"].clip(lower=2) - 1)
    places = np.arange(len(found))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.errorbar(places, found["mean"], half.fillna(0), fmt="_", color=LOOKS[first][0], ms=8)
    for place, (_, gaps) in zip(places, ahead, strict=True):
        axes.plot([place] * len(gaps), gaps, "k.", markersize=3)
    axes.set_xticks(places, found.index)
    ylabel = f"{MEANS[value]}: {first} - {second.removeprefix('Scellseg-')}"
    axes.set(xlabel="shots (annotated images)", ylabel=ylabel)


def compare_over_shots(runs: pd.DataFrame, value: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Two-way ANOVA of Scellseg-CFT against two others and the number of shots, by data set.

    Only numbers of shots that both have; nothing where a single state leaves no error to compare
    with. Pm of the paper is the ``p`` of the row "label".
    """
    found = {}
    for (name, part), rival in product(runs.groupby("data", sort=False), ("Cellpose", "Scellseg")):
        pair = part[part["label"].isin(["Scellseg-CFT", f"{rival}-FT"])]
        pair = pair[pair.groupby("n_shots")["label"].transform("nunique") == 2]
        cells = pair.groupby(["label", "n_shots"]).size()
        if pair["n_shots"].nunique() > 1 and len(pair) > len(cells):
            found[str(name), f"{rival}-FT"] = two_way_anova(pair, value, ["label", "n_shots"])
    return found


def draw_over_shots(
    runs: pd.DataFrame,
    value: str,
    fits: Mapping[tuple[str, str], HyperbolaFit],
    anovas: Mapping[tuple[str, str], pd.DataFrame],
) -> Figure:
    """Draw Fig. 5 (mAP) or Extended Data Fig. 5 (mAJI): fits with Pm, and CFT's lead over FT."""
    groups = runs.groupby("data", sort=False)
    figure, panels = start_figure(2, len(groups))
    for i, ((name, part), (above, below)) in enumerate(zip(groups, panels.T, strict=True)):
        mine = {label: fit for (data, label), fit in fits.items() if data == name}
        tests = {rival: anova for (data, rival), anova in anovas.items() if data == name}
        notes = [f"Pm against {rival}: {anova['p']['label']:.2g}" for rival, anova in tests.items()]
        draw_shot_scale(above, part, mine, value, notes)
        name_panel(above, "" if i else "a", name_data(str(name)))
        draw_differences(below, part, "Scellseg-CFT", "Scellseg-FT", value)
        name_panel(below, "" if i else "b")
    add_legend(figure)
    return figure


def draw_choices(
    axes: Axes, runs: pd.DataFrame, value: str, label: str, by: str = "data", xlabel: str = ""
) -> None:
    """Draw a score of several choices side by side, in groups: mean, SD and each random state.

    ``runs`` has a row a trial: the choice's ``label``, the scores in the column ``value`` (named by
    the argument ``label``) and groups in the column ``by`` (named by ``xlabel`` where need be).
    """
    groups, labels = list(dict.fromkeys(runs[by])), list(dict.fromkeys(runs["label"]))
    width = 0.8 / len(labels)
    for i, name in enumerate(labels):
        mine = runs[runs["label"] == name]
        scores = mine.groupby(by)[value]
        mean, deviation = scores.mean().reindex(groups), scores.std().reindex(groups).fillna(0)
        places = [j + (i - (len(labels) - 1) / 2) * width for j in range(len(groups))]
        colour, _ = LOOKS.get(name, (f"C{i}", ""))
        axes.errorbar(places, mean, deviation, fmt="_", color=colour, label=name, ms=6)
        for place, group in zip(places, groups, strict=True):
            points = mine[mine[by] == group][value]
            axes.plot([place] * len(points), points, ".", color=colour, markersize=3, alpha=0.6)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlabel=xlabel, ylabel=label)
    _tell_number(axes, runs)


def _tell_number(axes: Axes, frame: pd.DataFrame) -> None:
    """Say above a panel what is drawn, and of how many random states and images."""
    tuned = frame[frame["strategy"] != "direct"]
    counted = (tuned if len(tuned) else frame).groupby(["data", "label", "n_shots"])
    states = counted["seed"].nunique()
    fewest, most = states.min(), states.max()
    span = f"{most}" if fewest == most else f"{fewest} to {most}"
    told = f"mean and SD, n = {span} random states" if most > 1 else "n = 1 random state"
    if "image" in frame:
        told = f"{told} x {frame['image'].nunique()} images"
    axes.text(0.5, 1.01, told, ha="center", va="bottom", transform=axes.transAxes, fontsize=5.5)


def draw_training_log(
    axes: Axes, logs: Mapping[str, pd.DataFrame], loss: str = "loss (Eq. 1)"
) -> None:
    """Draw logs by their names: training faintly, validation strongly (Extended Data Fig. 7).

    A model has its colour in all figures, and hollow points as "MODEL, of another kind"; what is no
    model, such as a subset, has a shade, from dark to light. Training may begin above the panel.
    """
    for i, (name, log) in enumerate(logs.items()):
        model, *kind = name.split(", ")
        colour, marker = LOOKS.get(model, (plt.get_cmap("viridis")(i / len(logs)), "o"))
        smooth = log["loss"].rolling(25, min_periods=1).mean()
        axes.plot(log["step"], smooth, color=colour, alpha=0.35, linewidth=0.6)
        validated = log.dropna(subset="validation_loss")
        x, y = validated["step"], validated["validation_loss"]
        face = "white" if kind else colour
        axes.plot(x, y, f"{marker}-", color=colour, label=name, markerfacecolor=face)
    highest = max(log["validation_loss"].max() for log in logs.values())
    axes.set(xlabel="optimiser step (8 patches)", ylabel=loss, xlim=0, ylim=(0, 1.3 * highest))
    axes.legend()
    where, told = axes.transAxes, "validation; faint: training, mean of 25 steps"
    axes.text(0.5, 1.01, told, ha="center", va="bottom", transform=where, fontsize=5.5)

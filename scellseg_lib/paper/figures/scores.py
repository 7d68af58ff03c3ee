"""Scores of trials, drawn: against IoU thresholds, shots, steps and choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scellseg_lib.network import ARCHITECTURES
from scellseg_lib.plots import STYLE
from scellseg_lib.stats import HyperbolaFit

TITLES = {name: one.title for name, one in ARCHITECTURES.items()}
NEGLIGIBLE = 0.01
"""Curves that stay under it are left out of Fig. 2, as in the paper."""


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``label``, the model's name ("-CFT" if tuned contrastively), and ``tuned`` to trials.

    Parameters
    ----------
    frame : DataFrame
        Rows of `Store.frame` or of `run.table`.
    """
    contrastive = frame["strategy"].map({"contrastive": "-CFT"}).fillna("")
    return frame.assign(
        label=frame["model"].map(TITLES) + contrastive, tuned=frame["strategy"] != "direct"
    )


def transfer(
    frame: pd.DataFrame,
    stars: Sequence[float] = (),
    value: str = "ap",
    axes: Axes | None = None,
    least: float = NEGLIGIBLE,
) -> Axes:
    """Draw AP against the IoU threshold, models directly dotted and tuned solid (Fig. 2c-e).

    Parameters
    ----------
    frame : DataFrame
        Of one data set, protocol and cell threshold, with columns ``label`` and ``tuned``.
    stars : sequence of float
        IoU thresholds at which a difference is significant.
    value : {"ap", "aji"}
        Column of the scores.
    axes : Axes, optional
        None: those of a new figure.
    least : float
        Curves that stay under it are left out.
    """
    names = {"ap": "AP = TP / (TP + FP + FN)", "aji": "AJI(t) (Eq. 5)"}
    with plt.style.context(STYLE):
        axes = axes or plt.figure(layout="constrained").subplots()
        colours = dict(zip(dict.fromkeys(frame["label"]), cycle(_colours()), strict=False))
        for (label, tuned), part in frame.groupby(["label", "tuned"], sort=False):
            runs = part.groupby(["seed", "threshold"])[value].mean().unstack("threshold")
            mean, deviation = runs.mean(), runs.std(ddof=1)
            if mean.max() < least:
                continue
            name = f"{label}, {'tuned' if tuned else 'directly'} (n = {_states(len(runs))})"
            axes.errorbar(
                mean.index,
                mean.to_numpy(),
                yerr=deviation if len(runs) > 1 else None,
                color=colours[label],
                label=name,
                capsize=2,
                linestyle="-" if tuned else ":",
                marker="o" if tuned else "",
            )
        for threshold in stars:
            axes.text(threshold, 0.97, "*", ha="center", va="top", fontsize=12)
        n_images = frame["image"].nunique()
        axes.set(xlabel="IoU threshold", ylabel=names[value], ylim=(0, 1))
        axes.legend(fontsize=6)
        axes.set_title(f"mean over {n_images} images; bars: SD over random states", fontsize=7)
    return axes


def shot_scale(
    frame: pd.DataFrame,
    fits: Mapping[str, HyperbolaFit],
    value: str = "map",
    label: str = "mAP",
    axes: Axes | None = None,
) -> Axes:
    """Draw scores against the number of shots with their hyperbolas (Fig. 5).

    Parameters
    ----------
    frame : DataFrame
        One row a trial: ``label``, ``n_shots`` and the value; every random state is a point.
    fits : mapping of str to HyperbolaFit
        Of the labels; one without a fit shows its points alone.
    value, label : str
        Column of the scores, and what it is.
    axes : Axes, optional
        None: those of a new figure.
    """
    with plt.style.context(STYLE):
        axes = axes or plt.figure(layout="constrained").subplots()
        x = np.linspace(0, frame["n_shots"].max() * 1.05, 200)[1:]
        for (method, part), colour in zip(
            frame.groupby("label", sort=False), cycle(_colours()), strict=False
        ):
            name = f"{method} (n = {len(part)} trials)"
            if fit := fits.get(str(method)):
                low, high = fit.confidence_band(x)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(x, fit.predict(x), color=colour)
                name = f"{method} (n = {len(part)} trials, R = {fit.r:.2f})"
            axes.plot(part["n_shots"], part[value], "o", color=colour, alpha=0.8, label=name)
        axes.set(xlabel="shots (annotated images)", ylabel=label, ylim=(0, None), xlim=(0, None))
        axes.legend(fontsize=6)
        axes.set_title("one point a random state; band: 95 % confidence", fontsize=7)
    return axes


def choices(
    frame: pd.DataFrame,
    value: str,
    label: str,
    by: str = "data",
    xlabel: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Draw a score of several choices side by side, in groups: mean, SD and each random state.

    Parameters
    ----------
    frame : DataFrame
        One row a trial: ``label``, the column ``by`` and the value.
    value : str
        Column of the scores.
    label : str
        What it is.
    by : str
        Column of the groups.
    xlabel : str
        What these are, where their names do not say it.
    axes : Axes, optional
        None: those of a new figure.
    """
    groups, labels = list(dict.fromkeys(frame[by])), list(dict.fromkeys(frame["label"]))
    width = 0.8 / len(labels)
    with plt.style.context(STYLE):
        axes = axes or plt.figure(layout="constrained").subplots()
        for i, (name, colour) in enumerate(zip(labels, cycle(_colours()), strict=False)):
            part = frame[frame["label"] == name].groupby(by)[value]
            places = [j + (i - (len(labels) - 1) / 2) * width for j in range(len(groups))]
            mean, deviation = part.mean().reindex(groups), part.std(ddof=1).reindex(groups)
            n = part.size()
            count = _states(n.min()) if n.min() == n.max() else f"{n.min()} to {_states(n.max())}"
            named = f"{name} (n = {count})"
            axes.bar(places, mean, width * 0.9, color=colour, alpha=0.6, label=named)
            axes.errorbar(places, mean, deviation, fmt="none", ecolor="black", capsize=2)
            for place, group in zip(places, groups, strict=True):
                points = frame[(frame["label"] == name) & (frame[by] == group)][value]
                axes.plot([place] * len(points), points, "k.", markersize=3)
        axes.set_xticks(range(len(groups)), groups, fontsize=7)
        axes.set(xlabel=xlabel, ylabel=label, ylim=(0, None))
        below = -0.2 if xlabel else -0.08
        axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, below), ncols=3)
        axes.set_title("bars: mean and SD; one point a random state", fontsize=7)
    return axes


def training_log(logs: Mapping[str, pd.DataFrame], axes: Axes | None = None) -> Axes:
    """Draw losses against steps: training faintly, validation strongly (Extended Data Fig. 7).

    Parameters
    ----------
    logs : mapping of str to DataFrame
        Columns ``step``, ``loss`` and ``validation_loss``, by the model's name.
    axes : Axes, optional
        None: those of a new figure.
    """
    with plt.style.context(STYLE):
        axes = axes or plt.figure(layout="constrained").subplots()
        for (name, log), colour in zip(logs.items(), cycle(_colours()), strict=False):
            smooth = log["loss"].rolling(25, min_periods=1).mean()
            axes.plot(log["step"], smooth, color=colour, alpha=0.35, linewidth=0.8)
            validated = log.dropna(subset="validation_loss")
            axes.plot(
                validated["step"], validated["validation_loss"], "o-", color=colour, label=name
            )
        axes.set(xlabel="optimiser step (8 patches)", ylabel="loss (Eq. 1)", ylim=(0, None))
        axes.legend(fontsize=6)
        axes.set_title("validation; faint: training, mean of 25 steps", fontsize=7)
    return axes


def _colours() -> list[str]:
    return plt.rcParams["axes.prop_cycle"].by_key()["color"]


def _states(n: int) -> str:
    return "1 state" if n == 1 else f"{n} states"

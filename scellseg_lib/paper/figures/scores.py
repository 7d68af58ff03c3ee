"""Scores of trials, drawn: against IoU thresholds, shots, steps and choices."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scellseg_lib.network import ARCHITECTURES
from scellseg_lib.stats import HyperbolaFit

NEGLIGIBLE = 0.01  # curves that stay under it are left out of Fig. 2, as in the paper
SCORES = {"ap": "AP = TP / (TP + FP + FN)", "aji": "AJI(t) (Eq. 5)"}


def add_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``label``, the model's name ("-CFT" if tuned contrastively), and ``tuned`` to trials."""
    titles = frame["model"].map({name: one.title for name, one in ARCHITECTURES.items()})
    contrastive = frame["strategy"].map({"contrastive": "-CFT"}).fillna("")
    return frame.assign(label=titles + contrastive, tuned=frame["strategy"] != "direct")


def draw_transfer(
    axes: Axes,
    frame: pd.DataFrame,
    value: str = "ap",
    *,
    stars: Sequence[float] = (),
    least: float = NEGLIGIBLE,
) -> None:
    """Draw AP against the IoU threshold, models directly dotted and tuned solid (Fig. 2c-e).

    The frame is of one data set, protocol and cell threshold, with the columns of `add_labels`;
    ``value`` is its "ap" or "aji". ``stars`` are the IoU thresholds at which a difference is
    significant; curves that stay under ``least`` are left out.
    """
    colours = {label: f"C{i}" for i, label in enumerate(frame["label"].unique())}
    for (label, tuned), part in frame.groupby(["label", "tuned"], sort=False):
        runs = part.groupby(["seed", "threshold"])[value].mean().unstack("threshold")
        mean = runs.mean()
        if mean.max() < least:
            continue
        deviation = runs.std() if len(runs) > 1 else None
        how, fmt = ("tuned", "o-") if tuned else ("directly", ":")
        how = f"{label}, {how} (n = {len(runs)} state{'s' * (len(runs) > 1)})"
        colour, heights = colours[label], mean.to_numpy()
        axes.errorbar(mean.index, heights, deviation, fmt=fmt, color=colour, label=how, capsize=2)
    for threshold in stars:
        axes.text(threshold, 0.97, "*", ha="center", va="top", fontsize=12)
    axes.set(xlabel="IoU threshold", ylabel=SCORES[value], ylim=(0, 1))
    axes.legend(fontsize=6)
    n_images = frame["image"].nunique()
    axes.set_title(f"mean over {n_images} images; bars: SD over random states", fontsize=7)


def draw_shot_scale(axes: Axes, runs: pd.DataFrame, fits: Mapping[str, HyperbolaFit]) -> None:
    """Draw mAP against the number of shots: a point a trial, and the hyperbolas found (Fig. 5)."""
    x = np.linspace(0, runs["n_shots"].max() * 1.05, 200)[1:]
    for i, (label, part) in enumerate(runs.groupby("label", sort=False)):
        colour, r = f"C{i}", ""
        if fit := fits.get(str(label)):
            axes.fill_between(x, *fit.confidence_band(x), color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, fit.predict(x), color=colour)
            r = f", R = {fit.r:.2f}"
        name = f"{label} (n = {len(part)} trials{r})"
        axes.plot(part["n_shots"], part["map"], "o", color=colour, alpha=0.8, label=name)
    axes.set(xlabel="shots (annotated images)", ylabel="mAP", ylim=(0, None), xlim=(0, None))
    axes.legend(fontsize=6)
    axes.set_title("one point a random state; band: 95 % confidence", fontsize=7)


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
        mean, deviation = scores.mean().reindex(groups), scores.std().reindex(groups)
        fewest, most = scores.size().min(), scores.size().max()
        span = most if fewest == most else f"{fewest} to {most}"
        places = [j + (i - (len(labels) - 1) / 2) * width for j in range(len(groups))]
        named = f"{name} (n = {span} {'states' if most > 1 else 'state'})"
        axes.bar(places, mean, width * 0.9, color=f"C{i}", alpha=0.6, label=named)
        axes.errorbar(places, mean, deviation, fmt="none", ecolor="black", capsize=2)
        for place, group in zip(places, groups, strict=True):
            points = mine[mine[by] == group][value]
            axes.plot([place] * len(points), points, "k.", markersize=3)
    axes.set_xticks(range(len(groups)), groups, fontsize=7)
    axes.set(xlabel=xlabel, ylabel=label, ylim=(0, None))
    below = -0.2 if xlabel else -0.08
    axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, below), ncols=3)
    axes.set_title("bars: mean and SD; one point a random state", fontsize=7)


def draw_training_log(axes: Axes, logs: Mapping[str, pd.DataFrame]) -> None:
    """Draw logs by their names: training faintly, validation strongly (Extended Data Fig. 7)."""
    for i, (name, log) in enumerate(logs.items()):
        smooth = log["loss"].rolling(25, min_periods=1).mean()
        axes.plot(log["step"], smooth, color=f"C{i}", alpha=0.35, linewidth=0.8)
        validated = log.dropna(subset="validation_loss")
        axes.plot(validated["step"], validated["validation_loss"], "o-", color=f"C{i}", label=name)
    axes.set(xlabel="optimiser step (8 patches)", ylabel="loss (Eq. 1)", ylim=(0, None))
    axes.legend(fontsize=6)
    axes.set_title("validation; faint: training, mean of 25 steps", fontsize=7)

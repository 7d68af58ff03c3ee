"""Compute trials: tune, segment, score; what is in the store is not computed again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from scellseg_lib import paths
from scellseg_lib.checkpoint import kept_precision, weights_hash
from scellseg_lib.data import Dataset, load_dataset
from scellseg_lib.experiment.store import Store
from scellseg_lib.experiment.trial import PROTOCOLS, Trial, key
from scellseg_lib.finetune import finetune
from scellseg_lib.metrics import evaluate
from scellseg_lib.model import Model, library_versions, load_model
from scellseg_lib.precision import Precision, choose
from scellseg_lib.progress import progress_bar
from scellseg_lib.segment import decode, predict

CELL_THRESHOLDS = (0.5, 0.0)
"""Of the released scripts, and of Cellpose."""


def run(
    trial: Trial, model: Model, data: Dataset, contrast: Dataset | None, scratch: Path
) -> pd.DataFrame:
    """Tune, segment and score.

    Parameters
    ----------
    trial : Trial
    model : Model
        That the trial starts from.
    data, contrast : Dataset
        That the trial names.
    scratch : path
        Folder for tuned models and checkpoints, from which a killed run goes on.

    Returns
    -------
    DataFrame
        One row for each cell threshold, image and IoU threshold, see `metrics.evaluate`.
    """
    tuned, best = tune(trial, model, data, contrast, scratch), PROTOCOLS[trial.protocol]
    images, precision = data.split(trial.split), _precision(trial, model)
    unlabelled = images.without_masks()
    predictions = list(predict(tuned, unlabelled, flips=best, precision=precision))
    frames = []
    for threshold in CELL_THRESHOLDS:
        decoding = replace(tuned.card.decoding, cell_threshold=threshold)
        masks = [
            decode(prediction, tuned.representation, decoding, resample=best)
            for prediction in predictions
        ]
        frames.append(evaluate(masks, images).assign(cell_threshold=threshold))
    return pd.concat(frames, ignore_index=True)


def tune(
    trial: Trial, model: Model, data: Dataset, contrast: Dataset | None, scratch: Path
) -> Model:
    """Model of a trial, fine-tuned unless an earlier trial has left it in ``scratch``.

    Fine-tuning gets the images to be segmented without masks, and goes on from its checkpoint.
    """
    shots = trial.shot_samples(data)
    if trial.strategy == "direct":
        return replace(model, card=model.card.model_copy(update={"diameter": shots.diameter}))
    name = key(trial.tuning().identity(data, contrast, weights_hash(model.network)))
    kept = scratch / f"{trial.model}_{trial.strategy}_{trial.n_shots}_{trial.seed}_{name}"
    file, checkpoint = kept.with_suffix(".safetensors"), kept.with_suffix(".checkpoint")
    if file.is_file():
        return load_model(file)
    tuned = finetune(
        model,
        shots,
        queries=data.split(trial.split).without_masks(),
        strategy=trial.strategy,
        contrast=contrast,
        steps=trial.steps,
        seed=trial.seed,
        # A run that was killed goes on as it began, whatever layout is fast here and now.
        precision=kept_precision(checkpoint) or _precision(trial, model),
        checkpoint=checkpoint,
        **dict(trial.options),
    )
    tuned.save(file)
    return tuned


def run_missing(
    trials: Sequence[Trial],
    store: Store,
    scratch: Path,
    *,
    limit_seconds: float | None = None,
) -> list[str]:
    """Compute the trials that a store lacks, in their order.

    Parameters
    ----------
    trials : sequence of Trial
    store : Store
        Gets each result as soon as it is there.
    scratch : path
        See `run`.
    limit_seconds : float, optional
        No trial is begun after this time.

    Returns
    -------
    list of str
        Keys of the trials, those not computed for want of time left out.
    """
    began, keys = time.monotonic(), []
    names = {trial.data for trial in trials} | {trial.contrast for trial in trials} - {""}
    datasets = {name: load_dataset(name) for name in sorted(names)}
    for trial in progress_bar(trials, len(trials), "trials", unit="trial"):
        model = load_model(trial.model, trial.weights, levels=trial.levels)  # type: ignore[arg-type]
        data, contrast = datasets[trial.data], datasets.get(trial.contrast)
        identity = trial.identity(data, contrast, weights_hash(model.network))
        name = key(identity)
        if name not in store:
            if limit_seconds is not None and time.monotonic() - began > limit_seconds:
                break
            known, start = origin(identity), time.monotonic()
            scores = run(trial, model, data, contrast, scratch)
            store.put(name, scores, known | {"seconds": round(time.monotonic() - start)})
        keys.append(name)
    return keys


def origin(identity: dict[str, Any]) -> dict[str, Any]:
    """What another needs to repeat a trial: its identity, versions, and the commit at its start."""
    return {"trial": identity, "versions": library_versions(), "commit": _commit()}


def _precision(trial: Trial, model: Model) -> Precision:
    """Numeric type of the trial, in the layout that is fast here."""
    return replace(choose(model.device, model.network.levels), dtype=trial.precision)


def _commit() -> str | None:
    """Commit of the code, where it is a clone, with a mark if tracked files differ from it."""
    git = ["git", "-C", str(paths.REPOSITORY)]
    commands = [*git, "rev-parse", "HEAD"], [*git, "status", "--porcelain", "-uno"]
    try:
        commit, changes = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" and changes" if changes else "")


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over images of AP@0.5, AP@0.75, mAP and mAJI; one row a trial and cell threshold."""
    fields = ["data", "weights", "protocol", "model", "strategy", "n_shots", "seed"]
    rows = []
    for (_, threshold), part in frame.groupby(["key", "cell_threshold"], sort=False):
        at = part.groupby("threshold")[["ap", "aji"]].mean()
        rows.append(
            part.iloc[0][["key", *fields]].to_dict()
            | {"cell_threshold": threshold, "ap50": at["ap"][0.5], "ap75": at["ap"][0.75]}
            | {"map": at["ap"].mean(), "maji": at["aji"].mean()}
        )
    return pd.DataFrame(rows)

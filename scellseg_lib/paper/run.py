"""Compute trials: tune, segment, score; what is in the store is not computed again."""

from __future__ import annotations

import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.datasets.load import find_readable, load_dataset, load_pretraining_subset
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.device import Precision, choose_precision, machine
from scellseg_lib.errors import ScellsegError
from scellseg_lib.finetuning import finetune
from scellseg_lib.metrics import evaluate
from scellseg_lib.model import Model, library_versions, new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.paper import as_released
from scellseg_lib.paper.profile import Profile
from scellseg_lib.paper.store import Store
from scellseg_lib.paper.trial import PROTOCOLS, Trial, key
from scellseg_lib.pretraining import PretrainRecipe, log_of, pretrain
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset
from scellseg_lib.segmentation import Cells, Prediction, decode, predict
from scellseg_lib.training import read_run

CELL_THRESHOLDS = (0.5, 0.0)
"""Of the released scripts, and of Cellpose."""


@dataclass
class Outcome:
    """What became of trials."""

    keys: list[str] = field(default_factory=list)
    """Of those whose results are in the store now."""
    computed: int = 0
    """How many of these were not there before."""
    failed: dict[Trial, str] = field(default_factory=dict)
    """Why the others have none; those not begun for want of time are in neither."""


@dataclass(frozen=True)
class Place:
    """Where trials are computed and kept.

    Parameters
    ----------
    store : Store
        Gets each result as soon as it is there.
    scratch : path
        Folder for tuned and pre-trained models and for checkpoints, from which a killed run goes
        on.
    pretraining : PretrainRecipe, optional
        How models of the trials whose weights are ``"subset:NAME"`` are pre-trained; None: by the
        paper's recipe.
    """

    store: Store
    scratch: Path
    pretraining: PretrainRecipe | None = None


def place_of(profile: Profile) -> Place:
    """Where the trials of a profile are kept: committed results, and ``runs/`` beside them."""
    store = Store(paths.results(profile.name) / "trials")
    return Place(store, paths.runs() / "trials", profile.pretraining)


def results(
    trials: Sequence[Trial], profile: Profile, *, compute_missing: bool = False
) -> pd.DataFrame:
    """Scores of those of some trials that there are, computed first where that is asked for.

    Parameters
    ----------
    trials : sequence of Trial
        Of an experiment, see `grid`.
    profile : Profile
    compute_missing : bool

    Returns
    -------
    DataFrame
        As `Store.frame` gives.

    Raises
    ------
    ScellsegError
        When a trial that was to be computed fails.
    DatasetError
        When there is none of the trials.
    """
    place, keys = place_of(profile), None
    if compute_missing:
        outcome = run_missing(trials, place)
        keys, failed = outcome.keys, outcome.failed
        for trial, reason in failed.items():
            raise ScellsegError(
                f"{len(failed)} of {len(trials)} trials failed, the first of them {trial.model} on "
                f"{trial.data}",
                remedy=f"Mend this first: {reason}",
            )
    return place.store.frame(among=set(trials), keys=keys)


def run_missing(
    trials: Sequence[Trial], place: Place, *, limit_seconds: float | None = None
) -> Outcome:
    """Compute the trials that a store lacks, in their order; one that fails stops no other.

    Parameters
    ----------
    trials : sequence of Trial
    place : Place
    limit_seconds : float, optional
        No trial is begun after this time.

    Returns
    -------
    Outcome
    """
    began = time.monotonic()

    def in_time() -> Iterator[Trial]:
        for trial in trials:
            if limit_seconds is None or time.monotonic() - began <= limit_seconds:
                yield trial

    return gather(
        progress_bar(in_time(), len(trials), "trials", unit="trial"),
        lambda trial: compute(trial, place),
    )


def gather(trials: Iterable[Trial], computed: Callable[[Trial], tuple[str, bool]]) -> Outcome:
    """Collect what `compute` says of each trial, or why it failed."""
    outcome = Outcome()
    for trial in trials:
        try:
            name, new = computed(trial)
        except Exception as error:
            outcome.failed[trial] = str(error) or type(error).__name__
        else:
            outcome.keys.append(name)
            outcome.computed += new
    return outcome


def compute(trial: Trial, place: Place) -> tuple[str, bool]:
    """Compute one trial unless the store has it; returns its key, and whether it is new."""
    images, model = needed(trial), start(trial, place)
    identity = trial.identity(images, weights_hash(model.network))
    name = key(identity)
    if name in place.store:
        return name, False
    known, began = origin(identity) | {"machine": machine(model.device)}, time.monotonic()
    scores = run(trial, model, images, place.scratch)
    place.store.put(name, scores, known | {"seconds": round(time.monotonic() - began)})
    return name, True


def needed(trial: Trial) -> dict[str, Dataset]:
    """Data sets that a trial uses, by name."""
    return {name: _images(name) for name in trial.needs}


@lru_cache(maxsize=8)
def _images(name: str) -> Dataset:
    """Data set whose pixels stay in memory for the next trial."""
    return load_dataset(name)


def start(trial: Trial, place: Place) -> Model:
    """Model that a trial starts from; one of a subset is pre-trained where that is not done yet."""
    if trial.weights == "untrained":
        return new_model(trial.model, trial.levels)
    if not trial.weights.startswith("subset:"):
        return load_model(trial.model, trial.weights, levels=trial.levels)
    file = pretrained_file(trial, place)
    if not file.is_file():
        model = pretrain(
            trial.model,  # type: ignore[arg-type]
            [d for data in load_pretraining_subset(_subset(trial)) if len(d := _whole(data))],
            levels=trial.levels,
            recipe=place.pretraining,
            checkpoint=file.with_suffix(".checkpoint"),
        )
        with whole(log_of(file)) as scratch:
            pd.DataFrame(model.log).to_csv(scratch, index=False)
        model.save(file)
        file.with_suffix(".checkpoint").unlink(missing_ok=True)
    return load_model(file)


def _whole(data: Dataset) -> Dataset:
    """Images of a set that can be read: a damaged one should not stop what takes hours."""
    kept, wrong = find_readable(data, masks=True)
    if wrong:
        what = f"{len(wrong)} of the {len(data)} images of {data.name!r} are left out"
        warnings.warn(f"{what}, the first: {wrong[0]}", stacklevel=2)
    return kept


def pretrained_file(trial: Trial, place: Place) -> Path:
    """Where the model is kept that a trial of a subset starts from, by its recipe."""
    recipe = key(place.pretraining.model_dump()) if place.pretraining else "paper"
    return place.scratch / f"{trial.model}_{trial.levels[0]}_{_subset(trial)}_{recipe}.safetensors"


def _subset(trial: Trial) -> str:
    return trial.weights.removeprefix("subset:")


def tuned_model(trial: Trial, place: Place) -> Model:
    """Model that a trial segments with, tuned first unless an earlier trial has left it."""
    return tune(trial, start(trial, place), needed(trial), place.scratch)


def segmented(trial: Trial, place: Place) -> tuple[Dataset, list[Cells]]:
    """Images of a trial and what its model makes of them, at the first of `CELL_THRESHOLDS`."""
    images = needed(trial)
    predictions, decoder = _predicted(trial, tuned_model(trial, place), images)
    masks = decoder(CELL_THRESHOLDS[0])
    cells = [Cells(one.name, found, one) for one, found in zip(predictions, masks, strict=True)]
    return trial.tested(images), cells


def run(trial: Trial, model: Model, images: Mapping[str, Dataset], scratch: Path) -> pd.DataFrame:
    """Tune, segment and score.

    Parameters
    ----------
    trial : Trial
    model : Model
        That the trial starts from.
    images : mapping of str to Dataset
        Those of `Trial.needs`.
    scratch : path
        See `Place`.

    Returns
    -------
    DataFrame
        One row for each cell threshold, image and IoU threshold, see `metrics.evaluate`.
    """
    _, decoder = _predicted(trial, tune(trial, model, images, scratch), images)
    tested = trial.tested(images)
    frames = [
        evaluate(decoder(threshold), tested).assign(cell_threshold=threshold)
        for threshold in CELL_THRESHOLDS
    ]
    return pd.concat(frames, ignore_index=True)


def _predicted(
    trial: Trial, model: Model, images: Mapping[str, Dataset]
) -> tuple[list[Prediction], Callable[[float], list[np.ndarray]]]:
    """Maps of a trial's images, and what makes masks of them at a cell threshold.

    All images are taken at the model's diameter, or each of another set at its own true one; one
    without cells at the mean of that set's others.
    """
    protocol, tested = PROTOCOLS[trial.protocol], trial.tested(images)
    precision = _precision(trial, model)
    options: dict[str, Any] = {"flips": protocol.flips, "precision": precision}
    representation, decoding, diameter = model.representation, model.card.decoding, None
    if protocol.as_released:
        shots = trial.shot_samples(images)
        representation, decoding, diameter = as_released.decoder(model, shots, precision)
    if trial.tested_on:
        usual = tested.diameter
        predictions = [
            prediction
            for sample in tested
            for prediction in predict(
                model,
                [sample.without_masks()],
                diameter=diameter or (usual if np.isnan(sample.diameter) else sample.diameter),
                **options,
            )
        ]
    else:
        predictions = list(predict(model, tested.without_masks(), diameter=diameter, **options))

    def decoder(threshold: float) -> list[np.ndarray]:
        chosen = decoding.model_copy(update={"cell_threshold": threshold})
        return [decode(p, representation, chosen, resample=protocol.resample) for p in predictions]

    return predictions, decoder


def tune(trial: Trial, model: Model, images: Mapping[str, Dataset], scratch: Path) -> Model:
    """Model of a trial, fine-tuned unless an earlier trial has left it in ``scratch``.

    Fine-tuning gets the images to be segmented without masks, and goes on from its checkpoint.
    """
    shots = trial.shot_samples(images)
    if trial.strategy == "direct":
        return replace(model, card=model.card.model_copy(update={"diameter": shots.diameter}))
    name = key(trial.tuning().identity(images, weights_hash(model.network)))
    kept = scratch / f"{trial.model}_{trial.strategy}_{trial.n_shots}_{trial.seed}_{name}"
    file, checkpoint = kept.with_suffix(".safetensors"), kept.with_suffix(".checkpoint")
    if file.is_file():
        checkpoint.unlink(missing_ok=True)  # of a run that was killed when it had saved the model
        return load_model(file)
    begun = read_run(checkpoint)
    tuned = finetune(
        model,
        shots,
        queries=trial.query_samples(images),
        strategy=trial.strategy,
        contrast=images.get(trial.contrast),
        steps=trial.steps,
        seed=trial.seed,
        # A run that was killed goes on as it began, whatever layout is fast here and now.
        precision=begun.precision if begun else _precision(trial, model),
        checkpoint=checkpoint,
        **dict(trial.options),
    )
    tuned.save(file)
    checkpoint.unlink(missing_ok=True)
    return tuned


def origin(identity: dict[str, Any]) -> dict[str, Any]:
    """What another needs to repeat a trial: its identity, versions, and the commit at its start."""
    return {"trial": identity, "versions": library_versions(), "commit": commit()}


def _precision(trial: Trial, model: Model) -> Precision:
    """Numeric type of the trial, in the layout that is fast here."""
    return replace(choose_precision(model.device, model.network.levels), dtype=trial.precision)


def commit() -> str | None:
    """Commit of the code, where it is a clone, with a mark if the library differs from it."""
    git = ["git", "-C", str(paths.REPOSITORY)]
    commands = [*git, "rev-parse", "HEAD"], [*git, "status", "--porcelain", "--", "scellseg_lib"]
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
    fields = ["data", "tested_on", "weights", "protocol", "model", "strategy", "options"]
    fields += ["queries", "steps", "n_shots", "seed"]
    rows = []
    for (_, threshold), part in frame.groupby(["key", "cell_threshold"], sort=False):
        at = part.groupby("threshold")[["ap", "aji"]].mean()
        rows.append(
            part.iloc[0][["key", *fields]].to_dict()
            | {"cell_threshold": threshold, "ap50": at["ap"][0.5], "ap75": at["ap"][0.75]}
            | {"map": at["ap"].mean(), "maji": at["aji"].mean()}
        )
    return pd.DataFrame(rows)

"""Compute trials: one (tune, segment, score), those that a store lacks, here or on a cluster."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.augment import prepare
from scellseg_lib.contrast import ContrastiveTerm
from scellseg_lib.datasets.load import find_readable, load_dataset, load_pretraining_subset
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.device import Precision, choose_precision, default_device, machine
from scellseg_lib.errors import ScellsegError
from scellseg_lib.finetuning import FinetuneOptions, finetune, recalibrate
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.model import Model, library_versions, new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.paper import as_released
from scellseg_lib.paper.grid import EXPERIMENTS, order_by_state
from scellseg_lib.paper.profile import Profile
from scellseg_lib.paper.store import Store, find_commit
from scellseg_lib.paper.trial import PROTOCOLS, Trial, hash_identity
from scellseg_lib.pretraining import PretrainRecipe, pretrain
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset
from scellseg_lib.segmentation import FLIPS, Cells, Prediction, decode, predict
from scellseg_lib.training import resume_precision, segmentation_loss

CELL_THRESHOLDS = (0.5, 0.0)  # of the released scripts, and of Cellpose


@dataclass(frozen=True)
class Workspace:
    """Where trials are computed and kept."""

    store: Store  # gets each result as soon as it is there
    scratch: Path  # of tuned and pre-trained models, and checkpoints of runs that were killed
    pretraining: PretrainRecipe | None = None  # on subsets; None: by the paper's recipe


def open_workspace(profile: Profile) -> Workspace:
    """Where the trials of a profile are kept: committed results, and ``runs/`` beside them."""
    store = Store(paths.results(profile.name) / "trials")
    return Workspace(store, paths.RUNS / "trials", profile.pretraining)


def compute(trial: Trial, workspace: Workspace) -> tuple[str, bool]:
    """Compute one trial unless the store has it; returns its key, and whether it is new."""
    images, model = load_images(trial), load_start(trial, workspace)
    identity = trial.identify(images, weights_hash(model.network))
    key = hash_identity(identity)
    if key in workspace.store:
        return key, False
    # What another needs to repeat it, as of its start.
    origin = {"trial": identity, "versions": library_versions(), "commit": find_commit()}
    origin["machine"], began = machine(model.device), time.monotonic()
    scores = score(trial, model, images, workspace.scratch)
    workspace.store.put(key, scores, origin | {"seconds": round(time.monotonic() - began)})
    return key, True


def load_images(trial: Trial) -> dict[str, Dataset]:
    """Data sets that a trial uses, by name."""
    return {name: _load_once(name) for name in trial.needs}


_load_once = lru_cache(maxsize=8)(load_dataset)  # the pixels stay in memory for the next trial


def log_of(weights: Path) -> Path:
    """Table of the losses of a pre-training beside its weights: step, loss, validation_loss."""
    return weights.with_name(f"{weights.stem}_log.csv")


def load_start(trial: Trial, workspace: Workspace) -> Model:
    """Model that a trial starts from; one of a subset is pre-trained where that is not done yet."""
    if trial.weights == "untrained":
        return as_released.as_paper(new_model(trial.model, trial.levels))
    if not trial.weights.startswith("subset:"):
        return as_released.as_paper(load_model(trial.model, trial.weights, levels=trial.levels))
    file = locate_pretrained(trial, workspace)
    if not file.is_file():
        subset = load_pretraining_subset(trial.weights.removeprefix("subset:"))
        sources = [_drop_damaged(data) for data in subset]
        model = pretrain(
            trial.model,  # type: ignore[arg-type]
            [data for data in sources if len(data)],
            levels=trial.levels,
            recipe=workspace.pretraining,
            checkpoint=file.with_suffix(".checkpoint"),
        )
        with whole(log_of(file)) as scratch:
            pd.DataFrame(model.log).to_csv(scratch, index=False)
        model.save(file)
        file.with_suffix(".checkpoint").unlink(missing_ok=True)
    return as_released.as_paper(load_model(file))


def _drop_damaged(data: Dataset) -> Dataset:
    """Images of a set that can be read: a damaged one should not stop what takes hours."""
    kept, wrong = find_readable(data, masks=True)
    if wrong:
        what = f"{len(wrong)} of the {len(data)} images of {data.name!r} are left out"
        warnings.warn(f"{what}, the first: {wrong[0]}", stacklevel=2)
    return kept


def locate_pretrained(trial: Trial, workspace: Workspace) -> Path:
    """Where the model is kept that a trial of a subset starts from, by its recipe."""
    recipe, subset = workspace.pretraining, trial.weights.removeprefix("subset:")
    by = hash_identity(recipe.model_dump()) if recipe else "paper"
    return workspace.scratch / f"{trial.model}_{trial.levels[0]}_{subset}_{by}.safetensors"


def load_tuned(trial: Trial, workspace: Workspace) -> Model:
    """Model that a trial segments with, tuned first unless an earlier trial has left it."""
    return tune(trial, load_start(trial, workspace), load_images(trial), workspace.scratch)


def tune(trial: Trial, model: Model, images: Mapping[str, Dataset], scratch: Path) -> Model:
    """Model of a trial, fine-tuned unless an earlier trial has left it in ``scratch``."""
    shots = trial.select_shots(images)
    if trial.strategy == "direct":
        return replace(model, card=model.card.model_copy(update={"diameter": shots.diameter}))
    tuning = hash_identity(trial.drop_scoring().identify(images, weights_hash(model.network)))
    stem = f"{trial.model}_{trial.strategy}_{trial.n_shots}_{trial.seed}_{tuning}"
    file, checkpoint = scratch / f"{stem}.safetensors", scratch / f"{stem}.checkpoint"
    if file.is_file():
        checkpoint.unlink(missing_ok=True)  # of a run that was killed when it had saved the model
        return as_released.as_paper(load_model(file))
    tuned = finetune(
        model,
        shots,
        queries=trial.select_queries(images),
        recipe="paper",
        strategy=trial.strategy,
        contrast=images.get(trial.contrast),
        steps=trial.steps,
        seed=trial.seed,
        precision=resume_precision(checkpoint, _choose_precision(trial)),
        checkpoint=checkpoint,
        **dict(trial.options),
    )
    tuned.save(file)
    checkpoint.unlink(missing_ok=True)
    return tuned


def score(trial: Trial, model: Model, images: Mapping[str, Dataset], scratch: Path) -> pd.DataFrame:
    """Tune a trial's model, segment and score: rows of `metrics.evaluate` by cell threshold."""
    _, decode_at = _predict(trial, tune(trial, model, images, scratch), images)
    tested = trial.select_tested(images)
    frames = [evaluate(decode_at(at), tested).assign(cell_threshold=at) for at in CELL_THRESHOLDS]
    return pd.concat(frames, ignore_index=True)


def segment_tested(trial: Trial, workspace: Workspace) -> tuple[Dataset, list[Cells]]:
    """Images of a trial and what its model makes of them, at the first of `CELL_THRESHOLDS`."""
    images = load_images(trial)
    predictions, decode_at = _predict(trial, load_tuned(trial, workspace), images)
    masks = decode_at(CELL_THRESHOLDS[0])
    cells = [Cells(one.name, found, one) for one, found in zip(predictions, masks, strict=True)]
    return trial.select_tested(images), cells


def _predict(
    trial: Trial, model: Model, images: Mapping[str, Dataset]
) -> tuple[list[Prediction], Callable[[float], list[np.ndarray]]]:
    """Maps of a trial's images, and what makes masks of them at a cell threshold."""
    protocol, tested = PROTOCOLS[trial.protocol], trial.select_tested(images)
    precision = _choose_precision(trial)
    if trial.recalibrated:
        _recalibrate(trial, model, images)
    run_network = partial(predict, model, flips=protocol.flips, precision=precision)
    representation, decoding, diameter = model.representation, model.card.decoding, None
    if protocol.as_released:
        shots = trial.select_shots(images)
        representation, decoding, diameter = as_released.choose_decoder(model, shots, precision)
    if trial.tested_on:  # each image at its own true diameter, one without cells at their mean
        predictions: list[Prediction] = []
        for sample in tested:
            own = tested.diameter if np.isnan(sample.diameter) else sample.diameter
            predictions += run_network([sample.without_masks()], diameter=diameter or own)
    else:
        predictions = list(run_network(tested.without_masks(), diameter=diameter))

    def decode_at(threshold: float) -> list[np.ndarray]:
        chosen = decoding.model_copy(update={"cell_threshold": threshold, "max_size_fraction": 0.4})
        how: dict[str, bool] = {"resample": protocol.resample, "one_piece": False}
        return [decode(one, representation, chosen, **how) for one in predictions]

    return predictions, decode_at


def _recalibrate(trial: Trial, model: Model, images: Mapping[str, Dataset]) -> None:
    """Estimate the running statistics of a tuned model anew, in place, of what its trial says."""
    sources = queries = prepare(trial.select_queries(images), model.card.diameter)
    term = None
    if trial.recalibrated != "query":
        sources = prepare(trial.select_shots(images))
    if trial.recalibrated in ("encoder", "released"):
        styles = [prepare(s, s.diameter) for s in images[trial.contrast].styles().values()]
        options = FinetuneOptions().change(statistics=trial.recalibrated)
        term = ContrastiveTerm(queries, styles, options).to(model.device)
    precision = _choose_precision(trial)
    precision.place(model.network, model.device)
    recalibrate(model, sources, term, trial.seed, precision)


def _choose_precision(trial: Trial) -> Precision:
    """Numeric type of the trial, in the layout that is fast with it."""
    return Precision(trial.precision, channels_last=trial.precision == "bf16")


@dataclass
class SweepOutcome:
    """What became of trials; those not begun for want of time are not in it."""

    keys: list[str] = field(default_factory=list)  # of those whose results are in the store now
    computed: int = 0  # how many of these were not there before
    failed: dict[Trial, str] = field(default_factory=dict)  # why the others have none

    def add(self, trial: Trial, get_result: Callable[[], tuple[str, bool]]) -> None:
        """Take in what `compute` says of a trial, or why it failed."""
        try:
            key, new = get_result()
        except Exception as error:
            self.failed[trial] = str(error) or type(error).__name__
        else:
            self.keys.append(key)
            self.computed += new


def compute_missing(
    trials: Sequence[Trial], workspace: Workspace, *, limit_seconds: float | None = None
) -> SweepOutcome:
    """Compute the trials that a store lacks, in their order; one that fails stops no other."""
    outcome, began = SweepOutcome(), time.monotonic()
    for trial in progress_bar(trials, len(trials), "trials", unit="trial"):
        if limit_seconds is not None and time.monotonic() - began > limit_seconds:
            break
        outcome.add(trial, partial(compute, trial, workspace))
    return outcome


def load_scores(
    trials: Sequence[Trial], profile: Profile, *, compute: bool = False
) -> pd.DataFrame:
    """Scores, by `Store.read_scores`, of the trials that are there; with ``compute`` of all.

    ScellsegError says which of them failed, DatasetError that none is there.
    """
    workspace, keys = open_workspace(profile), None
    if compute:
        outcome = compute_missing(trials, workspace)
        keys = outcome.keys
        for trial, reason in outcome.failed.items():
            what = f"{len(outcome.failed)} of {len(trials)} trials failed, the first of them "
            what += f"{trial.model} on {trial.data}"
            raise ScellsegError(what, remedy=f"Mend this first: {reason}")
    return workspace.store.read_scores(among=trials, keys=keys)


def average_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over images of AP@0.5, AP@0.75, mAP and mAJI; one row a trial and cell threshold."""
    fields = ["key", "data", "tested_on", "weights", "protocol", "model", "strategy", "options"]
    fields += ["queries", "steps", "recalibrated", "n_shots", "seed"]
    parts = frame.groupby(["key", "cell_threshold"], sort=False)[["threshold", "ap", "aji"]]
    scores = parts.apply(lambda part: pd.Series(summary(part))).reset_index()
    return frame.drop_duplicates("key")[fields].merge(scores, on="key")


CONTRASTIVE_WORK = 1.8  # of a contrastive step in classic ones, measured
N_IMAGES = 30  # that a trial segments, about; one costs about a third of a step


def plan_sweep(
    experiments: Sequence[str], profile: Profile, store: Store
) -> tuple[list[Trial], dict[Trial, float]]:
    """Trials of experiments (names in `grid.EXPERIMENTS`, or ``"all"``), and what the store lacks.

    Of those, in the order in which they are to be computed, about how many seconds they take here.
    """
    names = list(EXPERIMENTS) if "all" in experiments else list(experiments)
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        remedy = f"There are: all, {', '.join(EXPERIMENTS)}."
        raise ScellsegError(f"there is no experiment {unknown[0]!r}", remedy=remedy)
    trials = order_by_state(trial for name in names for trial in EXPERIMENTS[name](profile))
    taken = {trial: origin.get("seconds", np.nan) for trial, origin in store.list_trials().items()}
    return trials, {t: estimate_seconds(t, taken) for t in trials if t not in taken}


def estimate_seconds(trial: Trial, taken: Mapping[Trial, float]) -> float:
    """Seconds of a trial: the median of those of its kind, else from a step measured here."""
    names = ("model", "strategy", "steps", "levels", "precision", "data", "tested_on", "protocol")
    kind = attrgetter(*names)
    alike = [s for other, s in taken.items() if kind(other) == kind(trial) and np.isfinite(s)]
    if alike:
        return float(np.median(alike))
    passes = len(FLIPS) if PROTOCOLS[trial.protocol].flips else 1
    steps = trial.steps * (CONTRASTIVE_WORK if trial.contrast else 1.0) + N_IMAGES * passes / 3
    return steps * measure_step(trial.levels)


@cache
def measure_step(levels: tuple[int, ...]) -> float:
    """Seconds of a training step of eight patches, from one of a sixteenth of their pixels."""
    model, device = new_model("scellseg", levels), default_device()
    precision = choose_precision(device)
    precision.place(model.network, device)
    images, targets, seconds = torch.zeros(2, 2, 112, 112), torch.zeros(2, 3, 112, 112), []
    for _ in range(3):
        began = time.monotonic()
        loss, _ = segmentation_loss(model, images, targets, precision)
        loss.backward()
        float(loss.detach())  # waits for a graphics card
        seconds.append(time.monotonic() - began)
    return 16 * min(seconds)


PATIENCE = 20  # seconds in which a scheduler has to answer


def compute_on_cluster(trials: Sequence[Trial], workspace: Workspace, address: str) -> SweepOutcome:
    """Compute the trials that a store lacks on a Dask cluster, one at a time a worker.

    A trial whose worker is lost runs again elsewhere, from its checkpoint where the workers share a
    disk; one that fails, or loses four workers even when run alone, is reported and stops no
    other. The folders must be those of all workers too. The address is ``"local:N"`` for N
    processes on this machine, else that of a scheduler, such as ``"tcp://host:8786"``.
    """
    try:
        from distributed import KilledWorker, as_completed
    except ImportError as error:
        remedy = "Install it: pip install 'scellseg-notebooks[cluster]'."
        raise ScellsegError("the package distributed is missing", remedy=remedy) from error
    outcome = SweepOutcome()
    with _connect(address) as client:
        submit = partial(client.submit, compute, pure=False)
        futures, suspects = {submit(t, workspace): t for t in dict.fromkeys(trials)}, []
        for future in progress_bar(as_completed(futures), len(futures), "trials", unit="trial"):
            if future.status == "error" and isinstance(future.exception(), KilledWorker):
                suspects.append(futures[future])
            else:
                outcome.add(futures[future], future.result)
        # One that waited for a worker which another killed is suspected too: each is tried alone.
        for trial in suspects:
            outcome.add(trial, submit(trial, workspace).result)
    return outcome


@contextmanager
def _connect(address: str) -> Iterator[Any]:
    """Connection to a scheduler; processes of this machine end with it."""
    from distributed import Client, LocalCluster

    kind, _, n = address.partition(":")
    if kind == "local":
        if not n.isdigit() or int(n) < 1:
            what = f"{address!r} is no number of processes"
            raise ScellsegError(what, remedy="Say local:4, for example.")
        options = {"threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(int(n), **options) as cluster, Client(cluster) as client:
            yield client
            # Dask raises when it closes a worker that is just being started in a dead one's place.
            with suppress(TimeoutError):
                client.wait_for_workers(int(n), timeout=PATIENCE)
        return
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        remedy = "Start one with `dask scheduler`, and workers with `dask worker`."
        what = f"no scheduler answers ({error})"
        raise ScellsegError(what, where=address, remedy=remedy) from error
    with client:
        yield client

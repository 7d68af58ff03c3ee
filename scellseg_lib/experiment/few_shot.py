"""Few-shot transfer to one data set, scored on its query images (the paper's Fig. 2c, 8 shots)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from scellseg_lib.checkpoint import weights_hash
from scellseg_lib.data import Dataset
from scellseg_lib.finetune import finetune
from scellseg_lib.metrics import evaluate
from scellseg_lib.model import Model, load_model
from scellseg_lib.precision import choose
from scellseg_lib.segment import decode, predict

CELL_THRESHOLDS = (0.5, 0.0)
"""Of the released scripts, and of Cellpose."""
PROTOCOLS = {"paper": False, "best": True}
"""Decoding at the 30-px scale, or at full size with the maps averaged over the flips."""
KEYS = ["data", "model", "weights", "strategy", "seed", "n_shots", "steps", "protocol"]
"""What tells runs apart, beside the hash of the weights that they start from."""


@dataclass(frozen=True)
class FewShot:
    """One run: which model is tuned how, by which shots, and how its maps are decoded."""

    model: str
    weights: str
    strategy: str
    """"direct" (not tuned), "classic" or "contrastive"."""
    seed: int = 0
    protocol: str = "paper"
    n_shots: int = 8
    steps: int = 100
    data: str = "bbbc010_elegans"


def trials(weights: str, seeds: Sequence[int] = (0, 1, 2)) -> list[FewShot]:
    """All runs of the table: the paper's protocol first, and the first seed first."""
    tuned = [("scellseg", "classic"), ("scellseg", "contrastive"), ("cellpose", "classic")]
    direct = [("scellseg", "direct"), ("cellpose", "direct")]
    return [
        FewShot(model, weights, strategy, seed, protocol)
        for protocol in PROTOCOLS
        for seed in seeds
        for model, strategy in (direct + tuned if seed == seeds[0] else tuned)
    ]


def tune(trial: FewShot, model: Model, data: Dataset, scratch: Path) -> Model:
    """Model of a trial, fine-tuned unless an earlier trial has left it in ``scratch``.

    Fine-tuning gets the query images without masks, and resumes from its checkpoint there.
    """
    identity = asdict(replace(trial, protocol="")) | {"weights": weights_hash(model.network)}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    kept = scratch / f"{trial.model}_{trial.strategy}_{trial.seed}_{key}.safetensors"
    if kept.is_file():
        return load_model(kept)
    shots = data.shots(trial.n_shots, trial.seed)
    if trial.strategy == "direct":
        return replace(model, card=model.card.model_copy(update={"diameter": shots.diameter}))
    tuned = finetune(
        model,
        shots,
        queries=data.query.without_masks(),
        strategy=trial.strategy,
        steps=trial.steps,
        seed=trial.seed,
        checkpoint=kept.with_suffix(".checkpoint"),
    )
    tuned.save(kept)
    return tuned


def run(trial: FewShot, model: Model, data: Dataset, scratch: Path) -> pd.DataFrame:
    """Tune, segment the query images, and score.

    Parameters
    ----------
    trial : FewShot
    model : Model
        That the trial starts from.
    data : Dataset
        With the splits "shot" and "query".
    scratch : path
        Folder for tuned models and checkpoints.

    Returns
    -------
    DataFrame
        One row for each cell threshold, image and IoU threshold.
    """
    origin = {"weights_sha256": weights_hash(model.network)}
    model, best = tune(trial, model, data, scratch), PROTOCOLS[trial.protocol]
    precision = choose(model.device, model.network.levels)
    predictions = list(predict(model, data.query.without_masks(), flips=best, precision=precision))
    frames = []
    for threshold in CELL_THRESHOLDS:
        decoding = replace(model.card.decoding, cell_threshold=threshold)
        masks = [
            decode(prediction, model.representation, decoding, resample=best)
            for prediction in predictions
        ]
        frames.append(evaluate(masks, data.query).assign(cell_threshold=threshold))
    origin |= {key: getattr(trial, key) for key in KEYS} | {"precision": precision.dtype}
    return pd.concat(frames, ignore_index=True).assign(**origin)


def run_missing(
    trials: Sequence[FewShot], data: Dataset, results: Path, scratch: Path
) -> pd.DataFrame:
    """Run the trials that a results file lacks, adding each to it as it ends.

    Parameters
    ----------
    trials : sequence of FewShot
    data : Dataset
    results : path
        CSV; replaced whole, so that a kill loses at most the trial that was running.
    scratch : path
        See `run`.
    """
    columns = [*KEYS, "weights_sha256"]
    frame = pd.read_csv(results) if results.is_file() else pd.DataFrame(columns=columns)
    for trial in trials:
        model = load_model(trial.model, trial.weights)
        key = [getattr(trial, name) for name in KEYS] + [weights_hash(model.network)]
        if (frame[columns] == key).all(axis=1).any():
            continue
        added = run(trial, model, data, scratch)
        frame = pd.concat([frame, added], ignore_index=True) if len(frame) else added
        results.parent.mkdir(parents=True, exist_ok=True)
        whole = results.with_name(f".{results.name}.{os.getpid()}")
        frame.round(6).to_csv(whole, index=False)
        whole.replace(results)
    return frame


def file_hash(path: Path) -> str:
    """SHA-256 of a results file, for the origin of what is drawn from it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over images of AP@0.5, AP@0.75, mAP and mAJI; one row a run and protocol."""
    groups = [*KEYS, "cell_threshold"]
    rows = []
    for key, part in frame.groupby(groups, sort=False):
        at = part.groupby("threshold")["ap"].mean()
        scores = {"ap50": at[0.5], "ap75": at[0.75], "map": at.mean(), "maji": part["aji"].mean()}
        rows.append(dict(zip(groups, key, strict=True)) | scores)
    return pd.DataFrame(rows)

"""How a model gets better with every annotated image, on one's own images, and what more would add.

Of the annotated images some are held out, the model is tuned on 1, 2, 4 .. of the others, and
scored on those held out: on no image that it has learnt from, and on no query image.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as distributions

from scellseg_lib import device as precision_module
from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ScellsegError, TrainingError
from scellseg_lib.finetuning import STRATEGIES, finetune
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.progress import bar
from scellseg_lib.samples import Dataset, Sample
from scellseg_lib.segmentation import FarFromModel, segment
from scellseg_lib.stats import HyperbolaFit, fit_hyperbola

VERSION = 1
"""Of how a fold is computed: with another number, scores of before are not taken over."""
COLUMNS = ("key", "fold", "n_shots", "shots", "held_out", "cells", "ap50", "ap75", "map", "maji")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NOTICEABLE = 0.005
"""A smaller gain in mAP is 0.00 to two decimals."""


@dataclass(frozen=True)
class Fold:
    """Images of one round of the cross-validation, as positions among the annotated ones.

    Attributes
    ----------
    number : int
        From 0.
    pool : tuple of int
        To learn from, in the order in which they are drawn: the first k are the k shots, so that
        those of a smaller number are among those of a larger one.
    held_out : tuple of int
        To be scored on, never learnt from.
    """

    number: int
    pool: tuple[int, ...]
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class Expectation:
    """What more annotated images are expected to add.

    Attributes
    ----------
    sentence : str
        In words: an extrapolation, or why there is none.
    fit : HyperbolaFit or None
        The curve through the scores.
    gain, low, high : float
        Expected difference in mAP and its 95 % interval; NaN without a curve.
    """

    sentence: str
    fit: HyperbolaFit | None = None
    gain: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def plan_folds(n_images: int, n_folds: int, seed: int = 0) -> list[Fold]:
    """Divide annotated images into folds; each image is held out once.

    Parameters
    ----------
    n_images : int
        With fewer than two there are no folds: nothing could be held out.
    n_folds : int
        At least two; as many as there are images at most.
    seed : int
        The same seed gives the same folds and the same order of drawing.

    Raises
    ------
    TrainingError
        For fewer than two folds.
    """
    if n_folds < 2:
        raise TrainingError(
            f"{n_folds} folds leave nothing to compare", remedy="Ask for two folds or more."
        )
    if n_images < 2:
        return []
    order = np.random.default_rng(seed).permutation(n_images)
    folds = []
    for number, part in enumerate(np.array_split(order, min(n_folds, n_images))):
        others = np.setdiff1d(order, part)
        drawn = np.random.default_rng((seed, number)).permutation(others)
        folds.append(Fold(number, tuple(drawn.tolist()), tuple(sorted(part.tolist()))))
    return folds


def shot_counts(n_pool: int) -> tuple[int, ...]:
    """Numbers of shots to try: 1, 2, 4, 8 .. and all of a pool."""
    powers = [2**i for i in range(n_pool.bit_length()) if 2**i < n_pool]
    return (*powers, n_pool) if n_pool else ()


def cross_validate(
    model: Model,
    shots: Sequence[Sample],
    file: Path,
    *,
    queries: Sequence[Sample] | None = None,
    contrast: Dataset | None = None,
    strategy: str = "contrastive",
    steps: int = 100,
    n_folds: int = 5,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Tune on 1, 2, 4 .. of the annotated images, and score on others of them.

    A score is in the file as soon as it is there, and is not computed again unless something has
    changed that it depends on: the images, their masks, the model or a setting.

    Parameters
    ----------
    model : Model
        Left as it is. Its own scores, untuned, are those of 0 shots.
    shots : sequence of Sample
        Annotated images; those without a cell are left out.
    file : path
        Table of the scores (CSV), made if need be.
    queries : sequence of Sample, optional
        Unlabelled images for contrastive tuning; see `finetune`. They are never scored.
    contrast, strategy, steps
        See `finetune`.
    n_folds, seed
        See `plan_folds`; the seed is that of each tuning too.
    report : callable, optional
        Gets how many scores of how many there are; what it raises ends the run, and nothing is
        lost.

    Returns
    -------
    DataFrame
        One row a fold and number of shots: `COLUMNS`, of which ``cells`` are those of the images
        held out, and the scores are means over these images. Empty with fewer than two images.

    Raises
    ------
    DatasetError
        If the file cannot be read, or is no such table.
    TrainingError
        As `finetune` and `plan_folds`.
    """
    images = [sample for sample in shots if sample.masks.any()]
    folds = plan_folds(len(images), n_folds, seed)
    counts = (0, *shot_counts(min((len(fold.pool) for fold in folds), default=0)))
    plan = [(fold, n) for fold in folds for n in counts]
    precision = precision_module.choose_precision(model.device, model.network.levels)
    seen = (queries or ()) if STRATEGIES[strategy].needs_queries else ()
    identity = {
        "version": VERSION,
        "strategy": strategy,
        "steps": steps,
        "seed": seed,
        "weights": weights_hash(model.network),
        "decoding": model.card.decoding.model_dump(),
        "precision": asdict(precision),
        "contrast": contrast.name if contrast else None,
        "queries": [_content(sample) for sample in seen],
    }
    known, keys = _read(file), []
    with bar(len(plan), "learning curve", "score") as shown:
        for done, (fold, n) in enumerate(plan):
            learnt, pool, held = (
                [images[i] for i in part] for part in (fold.pool[:n], fold.pool, fold.held_out)
            )
            keys.append(_key(identity, learnt or pool, held, n))
            if keys[-1] not in set(known["key"]):
                tuned = model
                if n:
                    tuned = finetune(
                        model,
                        learnt,
                        queries,
                        strategy,
                        contrast=contrast,
                        steps=steps,
                        seed=seed,
                        precision=precision,
                    )
                diameter = float(np.mean([sample.diameter for sample in learnt or pool]))
                with warnings.catch_warnings():  # one for each image and fold is too many
                    warnings.simplefilter("ignore", FarFromModel)
                    found = segment(
                        tuned, held, diameter=diameter, precision=precision, progress=False
                    )
                row = _row(keys[-1], fold, learnt, held) | summary(evaluate(found, held))
                known = _add(file, row)
            shown.update()
            if report:
                report(done + 1, len(plan))
    return known.drop_duplicates("key").set_index("key").loc[keys].reset_index()


def gain(fit: HyperbolaFit, n: float, more: float, level: float = 0.95) -> tuple[float, ...]:
    """Rise of a curve from n to n + more shots, with its confidence interval, by the delta method.

    The interval is that of the difference ``D = Y(n + more) - Y(n)`` itself: both heights hang on
    the same Bmax and Kd, and what is uncertain in both alike does not count. ``D -+ t sqrt(g' C
    g)``: g the derivatives of D by (Bmax, Kd), C their covariance, Student's t with as many degrees
    of freedom as points less two. Scores of a fold share their images held out, and count as
    independent: how hard these images are is then taken for scatter, which makes it wider. The
    curve's form is taken for granted.

    Returns
    -------
    gain, low, high : float
    """
    start, end = np.float64(n), np.float64(n + more)
    by_bmax = end / (fit.kd + end) - start / (fit.kd + start)
    by_kd = -fit.bmax * (end / (fit.kd + end) ** 2 - start / (fit.kd + start) ** 2)
    slope = np.array([by_bmax, by_kd])
    error = float(np.sqrt(slope @ fit.covariance @ slope))
    margin = float(distributions.t.ppf((1 + level) / 2, fit.n_points - 2)) * error
    rise = float(fit.bmax * by_bmax)
    return rise, rise - margin, rise + margin


def expectation(frame: pd.DataFrame, n_shots: int, more: int = 2) -> Expectation:
    """Say what more annotated images are expected to add.

    Parameters
    ----------
    frame : DataFrame
        As `cross_validate` gives.
    n_shots : int
        Annotated images that there are.
    more : int
        How many more, from 1.
    """
    tuned = frame[frame["n_shots"] > 0]
    noun, verb = ("image", "is") if more == 1 else ("images", "are")
    count = NUMBERS[more] if more < len(NUMBERS) else str(more)
    reason = _too_few(tuned)
    if not reason:
        try:
            fit = fit_hyperbola(tuned["n_shots"].to_numpy(), tuned["map"].to_numpy())
        except ScellsegError:
            reason = _shape(tuned)
        else:
            rise, low, high = gain(fit, n_shots, more)
            level = max(-low, high) < 2 * NOTICEABLE
            # With a Kd below 0 a hyperbola falls: no curve of something that learns.
            reason = _shape(tuned) if fit.kd < 0 and not level else ""
    if reason:
        return Expectation(f"What {count} more {noun} would add cannot be told: {reason}")
    text = f"{count.capitalize()} more {noun} {verb} expected to add {_signed(rise)} mAP "
    text += f"({_signed(low)} to {_signed(high)})"
    if level:
        text += ": the curve has levelled off"
    elif low < NOTICEABLE:
        text += ": that may be nothing at all, the scores differ too much from image to image"
    most = tuned["n_shots"].max()
    text += (
        ". This is an extrapolation, with its 95 % interval: scores were measured with 1 to "
        f"{most} images, and the curve through them is drawn on to {n_shots + more}."
    )
    return Expectation(text, fit, rise, low, high)


def _too_few(tuned: pd.DataFrame) -> str:
    """Why these scores allow no curve, for what the numbers of images alone say."""
    if tuned.empty:
        return "it takes at least three annotated images, of which one is held out to test on."
    if tuned["n_shots"].nunique() < 2:
        return (
            "all scores are of models tuned on one image, and a curve needs several numbers of "
            "images. Annotate at least three images."
        )
    return ""


def _shape(tuned: pd.DataFrame) -> str:
    """Why no rising hyperbola passes through these scores."""
    means = tuned.groupby("n_shots")["map"].mean()
    listed = ", ".join(f"{score:.2f} with {n}" for n, score in means.items())
    if np.ptp(tuned["map"]) == 0:
        why = "the score is the same with any number of images"
    elif means.iloc[-1] > means.iloc[0]:
        why = "the score still rises and does not level off, so that its limit cannot be seen"
    else:
        why = "the score does not rise with the number of images; annotate them all alike, and try "
        why += "more steps"
    return f"{why} (mean mAP: {listed})."


def _signed(value: float) -> str:
    """Two decimals, with a proper minus, and never minus nothing."""
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _content(sample: Sample, *, masks: bool = False) -> str:
    digest = hashlib.sha256(sample.image.tobytes() + repr(sample.image.shape).encode())
    if masks:
        digest.update(sample.masks.tobytes())
    return digest.hexdigest()


def _key(identity: dict, learnt: Sequence[Sample], held: Sequence[Sample], n: int) -> str:
    """What a score depends on, in 16 characters."""
    used = [[_content(sample, masks=True) for sample in part] for part in (learnt, held)]
    text = json.dumps(identity | {"n_shots": n, "images": used}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _row(
    key: str, fold: Fold, learnt: Sequence[Sample], held: Sequence[Sample]
) -> dict[str, object]:
    return {
        "key": key,
        "fold": fold.number,
        "n_shots": len(learnt),
        "shots": "; ".join(sample.name for sample in learnt),
        "held_out": "; ".join(sample.name for sample in held),
        "cells": sum(len(np.unique(sample.masks)) - 1 for sample in held),
    }


def _read(file: Path) -> pd.DataFrame:
    """The scores that are known; none where there is no file."""
    if not file.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    remedy = "Restore it, or remove it: the scores are then computed anew."
    kinds: dict[str, type] = dict.fromkeys(COLUMNS, float)
    kinds |= dict.fromkeys(("key", "shots", "held_out"), str)
    kinds |= dict.fromkeys(("fold", "n_shots", "cells"), int)
    try:
        frame = pd.read_csv(file, dtype=kinds, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"the table of scores cannot be read ({error})", where=file, remedy=remedy
        ) from error
    if tuple(frame.columns) != COLUMNS:
        raise DatasetError("this is no table of scores", where=file, remedy=remedy)
    return frame


def _add(file: Path, row: dict[str, object]) -> pd.DataFrame:
    """Write a score to the file, behind those that are there by now; returns them all."""
    known = _read(file)
    row = {name: row[name] for name in COLUMNS}
    frame = pd.concat([known, pd.DataFrame([row])], ignore_index=True) if len(known) else None
    frame = pd.DataFrame([row]) if frame is None else frame
    with whole(file) as scratch:
        frame.to_csv(scratch, index=False)
    return _read(file)

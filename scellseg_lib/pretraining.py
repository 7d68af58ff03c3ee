"""Pre-training: from nothing to a model of many styles (docs/method.md, section 4)."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from scellseg_lib import training
from scellseg_lib.augment import Source, labelled_batch, prepare, sources_hash
from scellseg_lib.device import Precision, choose_precision, default_device
from scellseg_lib.errors import TrainingError
from scellseg_lib.model import Model, new_model
from scellseg_lib.network import NetworkName, find_architecture, weights_hash
from scellseg_lib.options import Options
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset

VALIDATE_EVERY = 8  # the last of every 8 images validates


class PretrainRecipe(Options):
    """How to pre-train; the defaults are the paper's, for all models but the U-Nets."""

    optimiser: Literal["sgd", "adam"] = "sgd"
    """SGD with momentum 0.9 (the paper), or Adam."""
    learning_rate: float = Field(default=0.2, ge=0)
    """0.002 for the U-Nets in the paper."""
    weight_decay: float = Field(default=1e-5, ge=0)
    batch_size: int = Field(default=8, ge=1)
    epochs: int = Field(default=500, ge=1)
    """One random patch of each image an epoch."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps instead of epochs."""
    schedule: Literal["paper", "onecycle"] = "paper"
    """"paper": 10 epochs of warm-up, halved every 10 epochs from epoch 410 of 500 on (shares of the
    whole for another length). "onecycle": up over 15 % of the steps, then down to 0 as a cosine."""

    def n_steps(self, n_images: int) -> int:
        """Optimiser steps for a number of training images."""
        return self.steps or self.epochs * math.ceil(n_images / self.batch_size)

    def rate(self, step: int, n_steps: int) -> float:
        """Share of the learning rate at a step."""
        if self.schedule == "onecycle":
            done, rise = step / n_steps, 0.15
            if done < rise:
                return 0.04 + 0.96 * done / rise
            return 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))
        epoch = 500 * step / n_steps
        halvings = max(0, math.floor((epoch - 400) / 10))
        return min(epoch / 10, 1.0) * 0.5**halvings


def pretrain(
    name: NetworkName,
    datasets: Sequence[Dataset],
    *,
    levels: tuple[int, ...] = (32, 64, 128, 256),
    recipe: PretrainRecipe | None = None,
    initial: Model | None = None,
    seed: int = 0,
    precision: Precision | None = None,
    device: torch.device | None = None,
    checkpoint: str | Path | None = None,
    validate_every: int = 100,
    callback: training.Callback | None = None,
) -> Model:
    """Pre-train a model on labelled images of many styles.

    Parameters
    ----------
    name, levels
        One of the five models, and its widths.
    datasets : sequence of Dataset
        All samples serve; the last of every 8 validates.
    recipe : PretrainRecipe, optional
        None: the paper's for this model.
    initial : Model, optional
        Start from its weights: all those of the same model; of another of the same levels, those of
        the extractor whose names and shapes agree.
    seed : int
        Of the weights and the patches.
    precision, device, checkpoint, callback
        As those of `finetune`.
    validate_every : int
        Steps between measurements of the validation loss; the model returned is the last.

    Raises
    ------
    TrainingError
        With fewer than 8 images or initial weights of other levels, and as by `finetune`.
    """
    chosen = recipe or PretrainRecipe(learning_rate=find_architecture(name).learning_rate)
    device = device or default_device()
    precision = precision or training.resume_precision(checkpoint, choose_precision(device))
    model = _start(name, levels, seed, initial)
    samples = [sample for data in datasets for sample in data]
    for sample in progress_bar(samples, len(samples), "read"):
        _ = sample.image, sample.diameter  # kept by the sample
    sources = [source for data in datasets for source in prepare(data)]
    if len(sources) < VALIDATE_EVERY:
        what = f"pre-training needs {VALIDATE_EVERY} images or more, there are {len(sources)}"
        raise TrainingError(what, remedy="Add images, or fine-tune a trained model instead.")
    validation = sources[VALIDATE_EVERY - 1 :: VALIDATE_EVERY]
    learnt = [source for i, source in enumerate(sources, 1) if i % VALIDATE_EVERY]
    n_steps = chosen.n_steps(len(learnt))
    precision.place(model.network, device)
    rates: dict[str, Any] = {"lr": chosen.learning_rate, "weight_decay": chosen.weight_decay}
    kind = partial(torch.optim.SGD, momentum=0.9) if chosen.optimiser == "sgd" else torch.optim.Adam
    optimiser = kind(model.network.parameters(), **rates)

    def losses_at(step: int) -> dict[str, Tensor]:
        indices = epoch_batch(len(learnt), chosen.batch_size, step, seed)
        rng = np.random.default_rng((seed, step))
        batch = labelled_batch(learnt, model.representation, rng, indices=indices)
        return {"loss": training.segmentation_loss(model, *batch, precision)[0]}

    start = weights_hash(initial.network) if initial else None
    identity = {
        "model": name,
        "levels": levels,
        "recipe": chosen.model_dump(),
        "seed": seed,
        "data": [(data.name, len(data)) for data in datasets],
        "pixels": sources_hash([*learnt, *validation]),
        "precision": asdict(precision),
        "initial": start,
    }
    saved = training.Checkpoint(checkpoint, identity, {"network": model.network}, optimiser)
    steps = losses_at, partial(chosen.rate, n_steps=n_steps), n_steps
    validate = partial(validation_loss, model, validation, seed, precision), validate_every
    training.train(model, saved, *steps, validate=validate, callback=callback)
    before = {"weights": start, "recipe": initial.card.recipe} if initial else None
    training.complete_card(model, "pre-trained", datasets, identity | {"initial": before})
    return model


def _start(name: str, levels: tuple[int, ...], seed: int, initial: Model | None) -> Model:
    """Model before its first step."""
    if initial is None:
        return new_model(name, levels, seed=seed)
    card = initial.card
    if tuple(card.levels) != tuple(levels):
        what = f"the initial weights are of levels {tuple(card.levels)}, not {tuple(levels)}"
        raise TrainingError(what, remedy="Give initial weights of the same levels.")
    if card.architecture == name:
        return initial.copy()
    model = new_model(name, levels, seed=seed)
    own = model.network.extractor.state_dict()
    others = initial.network.extractor.state_dict().items()
    fitting = {k: value for k, value in others if k in own and own[k].shape == value.shape}
    model.network.extractor.load_state_dict(own | fitting)
    model.card.origin = f"{card.architecture}, {card.origin}"
    model.card.training_data = card.training_data
    return model


def epoch_batch(n_images: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Images of a step: consecutive parts of one permutation of all images after the other."""
    first = step * batch_size
    epochs = range(first // n_images, (first + batch_size - 1) // n_images + 1)
    orders = [np.random.default_rng((seed, 1, epoch)).permutation(n_images) for epoch in epochs]
    return np.concatenate(orders)[first % n_images :][:batch_size].tolist()


@torch.inference_mode()
def validation_loss(
    model: Model, validation: Sequence[Source], seed: int, precision: Precision
) -> float:
    """Mean loss on one patch, always the same, of each validation image."""
    model.network.eval()
    total = 0.0
    for start in range(0, len(validation), 8):
        part = range(start, min(start + 8, len(validation)))
        rng = np.random.default_rng((seed, 2, start))
        batch = labelled_batch(validation, model.representation, rng, indices=part)
        total += len(part) * float(training.segmentation_loss(model, *batch, precision)[0])
    return total / len(validation)

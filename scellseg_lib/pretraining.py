"""Pre-training (METHOD section 4): from nothing to a model of many styles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from scellseg_lib import device as precision_module
from scellseg_lib.augment import Source, labelled_batch, prepare, sources_hash
from scellseg_lib.device import Precision
from scellseg_lib.errors import TrainingError
from scellseg_lib.model import Model, TrainingData, library_versions, new_model
from scellseg_lib.network import NetworkName, find_architecture
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset
from scellseg_lib.style import remember_styles
from scellseg_lib.training import (
    Callback,
    Checkpoint,
    Steps,
    check_choices,
    check_numbers,
    kept_precision,
    weights_hash,
)

VALIDATE_EVERY = 8
"""The last of every 8 images validates."""


@dataclass(frozen=True)
class PretrainRecipe:
    """How to pre-train; the defaults are the paper's, for all models but the U-Nets."""

    optimiser: Literal["sgd", "adam"] = "sgd"
    """SGD with momentum 0.9 (the paper), or Adam."""
    learning_rate: float = 0.2
    """0.002 for the U-Nets in the paper."""
    weight_decay: float = 1e-5
    batch_size: int = 8
    epochs: int = 500
    """One random patch of each image an epoch."""
    steps: int | None = None
    """Optimiser steps instead of epochs."""
    schedule: Literal["paper", "onecycle"] = "paper"
    """"paper": 10 epochs of warm-up, halved every 10 epochs from epoch 410 of 500 on (shares of the
    whole for another length). "onecycle": up over 15 % of the steps, then down to 0 as a cosine."""

    def __post_init__(self) -> None:
        check_choices(
            {
                "optimiser": (self.optimiser, ("sgd", "adam")),
                "schedule": (self.schedule, ("paper", "onecycle")),
            }
        )
        counts = {"batch_size": self.batch_size, "epochs": self.epochs}
        counts |= {} if self.steps is None else {"steps": self.steps}
        sizes = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        check_numbers(counts=counts, sizes=sizes)

    def n_steps(self, n_images: int) -> int:
        """Optimiser steps for a number of training images."""
        return self.steps or self.epochs * math.ceil(n_images / self.batch_size)

    def rate(self, step: int, n_steps: int) -> float:
        """Learning rate of a step."""
        if self.schedule == "onecycle":
            done, rise = step / n_steps, 0.15
            if done < rise:
                return self.learning_rate * (0.04 + 0.96 * done / rise)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))
        epoch = 500 * step / n_steps
        halvings = max(0, math.floor((epoch - 400) / 10))
        return self.learning_rate * min(epoch / 10, 1.0) * 0.5**halvings


def log_of(weights: Path) -> Path:
    """Table of the losses of a pre-training beside its weights: step, loss, validation_loss."""
    return weights.with_name(f"{weights.stem}_log.csv")


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
    callback: Callback | None = None,
) -> Model:
    """Pre-train a model on labelled images of many styles.

    Parameters
    ----------
    name : str
        One of the five models.
    datasets : sequence of Dataset
        All samples serve; the last of every 8 validates.
    levels : tuple of int
        Widths.
    recipe : PretrainRecipe, optional
        None: the paper's for this model.
    initial : Model, optional
        Start from its weights rather than from random ones: all those of the same model; of
        another, with the same levels, those of the extractor whose names and shapes agree (the
        whole of it for a U-Net from a Cellpose, the downsampling pass for a Scellseg).
    seed : int
        Of the weights and the patches.
    precision : Precision, optional
        None: that of the checkpoint, else what pays on this machine.
    device : torch.device, optional
    checkpoint : path, optional
        Written and left behind as that of `finetune`: a run that finds it goes on from there.
    validate_every : int
        Steps between measurements of the validation loss; the model returned is the last.
    callback : callable, optional
        Gets a `Progress` after each step.

    Returns
    -------
    Model
        On the device; its card holds the recipe, the data and the log of losses.

    Raises
    ------
    TrainingError
        With fewer than 8 images, for a loss that is no longer a number, with initial weights of
        other levels, with a checkpoint of another run, or one that cannot be written.
    """
    recipe = recipe or paper_recipe(name)
    device = device or precision_module.default_device()
    precision_module.keep_memory()
    precision = precision or kept_precision(checkpoint)
    precision = precision or precision_module.choose(device, levels)
    model = _start(name, levels, seed, initial)
    samples = [sample for data in datasets for sample in data]
    for sample in progress_bar(samples, len(samples), "read"):
        _ = sample.image, sample.diameter  # kept by the sample
    training, validation = _split([source for data in datasets for source in prepare(data)])
    n_steps = recipe.n_steps(len(training))

    precision.place(model.network, device)
    optimiser = _optimiser(recipe, model)
    identity = {
        "model": name,
        "levels": levels,
        "recipe": asdict(recipe),
        "seed": seed,
        "data": [(data.name, len(data)) for data in datasets],
        "pixels": sources_hash([*training, *validation]),
        "precision": asdict(precision),
        "initial": weights_hash(initial.network) if initial else None,
    }
    saved = Checkpoint(checkpoint, identity) if checkpoint else None
    modules: dict[str, torch.nn.Module] = {"network": model.network}
    with Steps(n_steps, f"pre-train {name}", modules, optimiser, saved, callback) as steps:
        model.network.train()
        for step in steps:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step, n_steps)
            indices = epoch_batch(len(training), recipe.batch_size, step, seed)
            rng = np.random.default_rng((seed, step))
            loss = _step(model, optimiser, training, indices, rng, precision, device)
            validated = None
            if validation and ((step + 1) % validate_every == 0 or step + 1 == n_steps):
                validated = validation_loss(model, validation, seed, precision, device)
            steps.finish({"loss": loss}, validated)

    model.network.eval()
    model.log = steps.log
    _complete_card(model, datasets, identity, initial)
    remember_styles(model, samples)
    return model


def _start(name: str, levels: tuple[int, ...], seed: int, initial: Model | None) -> Model:
    if initial is None:
        return new_model(name, levels, seed=seed)
    card = initial.card
    if (card.architecture, tuple(card.levels)) == (name, tuple(levels)):
        return initial.copy()
    if tuple(card.levels) != tuple(levels):
        raise TrainingError(
            f"the initial weights are of levels {tuple(card.levels)}, not {tuple(levels)}",
            remedy="Give initial weights of the same levels.",
        )
    model = new_model(name, levels, seed=seed)
    weights = model.network.state_dict()
    fitting = {
        key: value
        for key, value in initial.network.state_dict().items()
        if key in weights and weights[key].shape == value.shape and not key.startswith("tasker")
    }
    model.network.load_state_dict(weights | fitting)
    model.card = model.card.model_copy(
        update={
            "origin": f"{card.architecture}, {card.origin}",
            "training_data": card.training_data,
        }
    )
    return model


def paper_recipe(name: str) -> PretrainRecipe:
    """Return the paper's recipe for a model."""
    return PretrainRecipe(learning_rate=find_architecture(name).learning_rate)


def epoch_batch(n_images: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Images of a step: consecutive parts of one permutation of all images after the other."""
    wanted = range(step * batch_size, (step + 1) * batch_size)
    order = {
        epoch: np.random.default_rng((seed, 1, epoch)).permutation(n_images)
        for epoch in {i // n_images for i in wanted}
    }
    return [int(order[i // n_images][i % n_images]) for i in wanted]


def validation_loss(
    model: Model,
    validation: Sequence[Source],
    seed: int,
    precision: Precision,
    device: torch.device,
) -> float:
    """Mean loss on one patch, always the same, of each validation image."""
    model.network.eval()
    losses, sizes = [], []
    with torch.inference_mode():
        for start in range(0, len(validation), 8):
            part = range(start, min(start + 8, len(validation)))
            rng = np.random.default_rng((seed, 2, start))
            images, targets = labelled_batch(validation, model.representation, rng, indices=part)
            with precision.autocast(device):
                maps = model.network(precision.batch(images, device)).maps
            losses.append(float(model.representation.loss(maps.float(), targets.to(device))))
            sizes.append(len(part))
    model.network.train()
    return float(np.average(losses, weights=sizes))


def _split(sources: list[Source]) -> tuple[list[Source], list[Source]]:
    last = VALIDATE_EVERY - 1
    training = [s for i, s in enumerate(sources) if i % VALIDATE_EVERY != last]
    if len(sources) < VALIDATE_EVERY:
        raise TrainingError(
            f"pre-training needs {VALIDATE_EVERY} images or more, there are {len(sources)}",
            remedy="Add images, or fine-tune a trained model instead.",
        )
    return training, [s for i, s in enumerate(sources) if i % VALIDATE_EVERY == last]


def _optimiser(recipe: PretrainRecipe, model: Model) -> torch.optim.Optimizer:
    parameters = model.network.parameters()
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=recipe.weight_decay)


def _step(
    model: Model,
    optimiser: torch.optim.Optimizer,
    training: Sequence[Source],
    indices: list[int],
    rng: np.random.Generator,
    precision: Precision,
    device: torch.device,
) -> float:
    images, targets = labelled_batch(training, model.representation, rng, indices=indices)
    with precision.autocast(device):
        maps = model.network(precision.batch(images, device)).maps
    loss = model.representation.loss(maps.float(), targets.to(device))
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(f"the loss is {value}", remedy="Lower the learning rate.")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return value


def _complete_card(
    model: Model, datasets: Sequence[Dataset], identity: dict[str, Any], initial: Model | None
) -> None:
    validated = [entry for entry in model.log if "validation_loss" in entry]
    learnt = [
        TrainingData(name=data.name, images=len(data), licence=data.licence) for data in datasets
    ]
    earlier = {"weights": identity["initial"], "recipe": initial.card.recipe} if initial else None
    model.card = model.card.model_copy(
        update={
            "origin": f"pre-trained by the Scellseg notebooks, {len(model.log)} steps"
            + (f"; started from: {model.card.origin}" if model.card.origin else ""),
            "channels": datasets[0].channels,
            "training_data": list(dict.fromkeys([*model.card.training_data, *learnt])),
            "recipe": identity | {"initial": earlier},
            "scores": {"validation_loss": validated[-1]["validation_loss"]} if validated else {},
            "versions": library_versions(),
        }
    )

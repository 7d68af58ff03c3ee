"""Fine-tuning on a few annotated images, classic and contrastive (METHOD section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from scellseg_lib import device as precision_module
from scellseg_lib.augment import Source, labelled_batch, prepare, sources_hash
from scellseg_lib.contrast import ALPHA_RATE, AlphaMode, ContrastiveTerm, StatisticsMode
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.device import Precision
from scellseg_lib.errors import DatasetError, TrainingError
from scellseg_lib.model import Model, TrainingData, library_versions
from scellseg_lib.progress import progress_bar
from scellseg_lib.representation import Decoding
from scellseg_lib.samples import Dataset, Sample, resize_masks
from scellseg_lib.segmentation import predict
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

Layers = Literal["all", "downsampling_fixed", "extractor_fixed"]
Schedule = Literal["halvings", "cosine"]
CONTRAST_SETS = ("cellpose_contrast35", "synthetic_contrast")
"""Contrast images by default: the paper's where they are at hand, else synthetic ones."""


@dataclass(frozen=True)
class Options:
    """What identifies a fine-tuning beside its images; see `finetune`."""

    strategy: str = "contrastive"
    steps: int = 100
    learning_rate: float = 1e-3
    schedule: Schedule = "halvings"
    batch_size: int = 8
    layers: Layers = "all"
    alpha: AlphaMode = "learnt"
    statistics: StatisticsMode = "mixed"
    seed: int = 0

    def __post_init__(self) -> None:
        known: dict[str, Any] = {
            "strategy": _STRATEGIES,
            "schedule": get_args(Schedule),
            "layers": get_args(Layers),
            "alpha": get_args(AlphaMode),
            "statistics": get_args(StatisticsMode),
        }
        check_choices({name: (getattr(self, name), choices) for name, choices in known.items()})
        counts = {"steps": self.steps, "batch_size": self.batch_size}
        sizes = {"learning_rate": self.learning_rate, "seed": self.seed}
        check_numbers(counts=counts, sizes=sizes)

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step: halved after every quarter, or a cosine."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return 0.5 ** (step * 4 // self.steps)


Strategy = Callable[[Sequence[Source], list[Sequence[Source]], Options], nn.Module | None]
"""From query and contrast sources and options to the extra term of the loss, called as
`ContrastiveTerm.forward`; its parameters are learnt too. None: no extra term."""

_STRATEGIES: dict[str, Strategy] = {}


def register_strategy(name: str, strategy: Strategy) -> None:
    """Make a strategy known by its name; a name in use is replaced."""
    _STRATEGIES[name] = strategy


register_strategy("classic", lambda queries, contrast, options: None)
register_strategy(
    "contrastive",
    lambda queries, contrast, options: ContrastiveTerm(
        queries, contrast, alpha_mode=options.alpha, statistics=options.statistics
    ),
)


def finetune(
    model: Model,
    shots: Sequence[Sample],
    queries: Sequence[Sample] | None = None,
    strategy: str = "contrastive",
    *,
    contrast: Dataset | None = None,
    steps: int = 100,
    learning_rate: float = 1e-3,
    schedule: Schedule = "halvings",
    batch_size: int = 8,
    layers: Layers = "all",
    alpha: AlphaMode = "learnt",
    statistics: StatisticsMode = "mixed",
    seed: int = 0,
    precision: Precision | None = None,
    device: torch.device | None = None,
    checkpoint: str | Path | None = None,
    callback: Callback | None = None,
) -> Model:
    """Fit a trained model to a few annotated images.

    Parameters
    ----------
    model : Model
        Left as it is; the tuned one is a copy.
    shots : sequence of Sample
        Annotated images. The mean of their diameters becomes the tuned model's.
    queries : sequence of Sample, optional
        The images to be segmented, whose masks are never looked at: contrastive fine-tuning is then
        transductive, as the paper's. None: the shots serve as queries, the inductive variant.
    strategy : str
        "contrastive" (Eq. 2-3), "classic", or one that was registered.
    contrast : Dataset, optional
        Images of several styles. None: the paper's 35 where they are at hand, else synthetic ones;
        the tuned model's card says which.
    steps : int
        Optimiser steps; the paper's "100 epochs".
    learning_rate : float
        Of Adam.
    schedule : {"halvings", "cosine"}
        Halved after every quarter of the steps (the paper), or down to 0 as a cosine.
    batch_size : int
        Patches a step, drawn with replacement.
    layers : {"all", "downsampling_fixed", "extractor_fixed"}
        What is learnt (Extended Data Fig. 8); fixed parts keep weights and BatchNorm statistics.
    alpha, statistics
        See `ContrastiveTerm`.
    seed : int
        Of the patches.
    precision : Precision, optional
        None: that of the checkpoint, else what pays on this machine; recorded in the card.
    device : torch.device, optional
    checkpoint : path, optional
        Written every half minute and after the last step; a run that finds it goes on from there.
        It is left behind, so that nothing is lost before the model is saved: then remove it
        (``checkpoint.unlink(missing_ok=True)``). It knows the shots by their pixels, query and
        contrast images by name.
    callback : callable, optional
        Gets a `Progress` after each step, and may raise `checkpoint.Enough` to end the run there.
        It has no validation loss: all of a handful of shots are learnt from, and what would be held
        out is better judged by `evaluate`.

    Returns
    -------
    Model

    Raises
    ------
    TrainingError
        Without shots, without an annotated cell, for an unknown strategy, for a loss that is no
        longer a number, with a checkpoint of another run, or one that cannot be written.
    ImageError
        For a query image that cannot be read, at the step that draws it.
    """
    options = Options(
        strategy, steps, learning_rate, schedule, batch_size, layers, alpha, statistics, seed
    )
    if not len(shots):
        raise TrainingError("there are no shots", remedy="Annotate at least one image.")
    device = device or model.device
    precision_module.keep_memory()
    precision = precision or kept_precision(checkpoint)
    precision = precision or precision_module.choose(device, model.network.levels)
    tuned = model.copy()
    precision.place(tuned.network, device)
    sources = prepare(shots)
    diameter = float(np.nanmean([sample.diameter for sample in shots]))
    needs_contrast = strategy != "classic"
    contrasts = (contrast or _default_contrast()) if needs_contrast else None
    if contrasts is not None and not contrasts.styles():
        raise TrainingError(
            f"the contrast images {contrasts.name!r} have no styles",
            remedy="Give samples a style each, or leave contrast= to its default.",
        )
    term = _STRATEGIES[strategy](
        prepare(queries or shots, diameter) if needs_contrast else [],
        [prepare(style, style.diameter) for style in contrasts.styles().values()]
        if contrasts
        else [],
        options,
    )
    run = _Run(tuned, sources, term, options, precision, device)
    identity = asdict(options) | {
        "precision": asdict(precision),
        "weights": weights_hash(model.network),
        "shots": [sample.name for sample in shots],
        "pixels": sources_hash(sources),
        "queries": [sample.name for sample in queries or []],
        "contrast": contrasts.name if contrasts else None,
    }
    saved = Checkpoint(checkpoint, identity) if checkpoint else None
    tuned.log = run.train(saved, callback)
    _complete_card(tuned, model, shots, diameter, identity)
    if tuned.representation.tunes:
        decoding = _tune_thresholds(tuned, shots, precision)
        tuned.card = tuned.card.model_copy(update={"decoding": decoding})
    return tuned


def _default_contrast() -> Dataset:
    for name in CONTRAST_SETS[:-1]:
        try:
            return load_dataset(name)
        except DatasetError:  # not at hand: the synthetic styles stand in, and the card says so
            continue
    return load_dataset(CONTRAST_SETS[-1])


class _Run:
    """One fine-tuning: the loop and what it needs."""

    def __init__(
        self,
        model: Model,
        sources: Sequence[Source],
        term: nn.Module | None,
        options: Options,
        precision: Precision,
        device: torch.device,
    ) -> None:
        self.model, self.sources, self.term = model, sources, term
        self.options, self.precision, self.device = options, precision, device
        extractor = model.network.extractor
        fixed = {"all": [], "downsampling_fixed": [extractor.down], "extractor_fixed": [extractor]}
        self.fixed: list[nn.Module] = fixed[options.layers]  # type: ignore[assignment]
        for part in self.fixed:
            part.requires_grad_(False)
        groups = [{"params": list(model.network.parameters()), "base": options.learning_rate}]
        if term is not None:
            term.to(device)
            groups.append({"params": list(term.parameters()), "base": ALPHA_RATE})
        self.optimiser = torch.optim.Adam(groups)

    def train(self, saved: Checkpoint | None, callback: Callback | None) -> list[dict[str, float]]:
        """Run to the end; returns the log of losses."""
        modules: dict[str, nn.Module] = {"network": self.model.network}
        if self.term is not None:
            modules["term"] = self.term
        n_steps = self.options.steps
        with Steps(n_steps, "fine-tune", modules, self.optimiser, saved, callback) as steps:
            self.model.network.train()
            for part in self.fixed:
                part.eval()
            for step in steps:
                for group in self.optimiser.param_groups:
                    group["lr"] = group["base"] * self.options.rate(step)
                steps.finish(self._step(step))
        self.model.network.requires_grad_(True).eval()
        return steps.log

    def _step(self, step: int) -> dict[str, float]:
        options = self.options
        rng = np.random.default_rng((options.seed, step))
        representation = self.model.representation
        images, targets = labelled_batch(self.sources, representation, rng, options.batch_size)
        with self.precision.autocast(self.device):
            output = self.model.network(self.precision.batch(images, self.device))
        segmentation = representation.loss(output.maps.float(), targets.to(self.device))
        loss: Tensor = segmentation
        losses = {"segmentation": float(segmentation.detach())}
        if self.term is not None:
            # Numbers of their own: the shots' patches are the same for every strategy.
            rng = np.random.default_rng((options.seed, step, 1))
            extra = self.term(
                self.model.network, output.style, rng, step / options.steps, self.precision
            )
            loss = loss + extra
            losses["contrast"] = float(extra.detach())
        losses["loss"] = float(loss.detach())
        if not math.isfinite(losses["loss"]):
            raise TrainingError(
                f"the loss is {losses['loss']} at step {step + 1}",
                remedy="Lower the learning rate, and check the images for odd intensities.",
            )
        self.optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            self.optimiser.step()
        return losses


def _complete_card(
    tuned: Model, model: Model, shots: Sequence[Sample], diameter: float, identity: dict
) -> None:
    name, licence = getattr(shots, "name", "images"), getattr(shots, "licence", "")
    shot_data = TrainingData(name=name, images=len(shots), licence=licence)
    tuned.card = model.card.model_copy(
        update={
            "diameter": round(diameter, 2),
            "channels": getattr(shots, "channels", model.card.channels),
            "origin": f"fine-tuned by the Scellseg notebooks, {len(tuned.log)} steps; "
            f"started from: {model.card.origin}",
            "training_data": [*model.card.training_data, shot_data],
            "recipe": identity | {"initial": model.card.recipe},
            "scores": {},
            "versions": library_versions(),
        }
    )
    remember_styles(tuned, shots)


def _tune_thresholds(model: Model, shots: Sequence[Sample], precision: Precision) -> Decoding:
    """Thresholds of a representation that fits them, searched on the shots at the 30-px scale."""
    maps = predict(model, shots, precision=precision)
    predictions = list(progress_bar(maps, len(shots), "thresholds"))
    truths = [
        resize_masks(sample.masks, prediction.maps.shape[1:])
        for sample, prediction in zip(shots, predictions, strict=True)
    ]
    outputs = [prediction.maps for prediction in predictions]
    return model.representation.tune(model.card.decoding, outputs, truths)

"""Fine-tuning on a few annotated images, classic and contrastive (docs/method.md, section 3)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from scellseg_lib import training
from scellseg_lib.augment import Source, labelled_batch, prepare, sources_hash, unlabelled_batch
from scellseg_lib.contrast import ALPHA_RATE, ContrastiveTerm
from scellseg_lib.datasets.load import DatasetNotHere, load_dataset
from scellseg_lib.device import Precision, choose_precision
from scellseg_lib.errors import OptionError
from scellseg_lib.model import Model
from scellseg_lib.network import momentum, weights_hash
from scellseg_lib.options import Options
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset, Sample, resize_masks
from scellseg_lib.segmentation import predict


class FinetuneOptions(Options):
    """What identifies a fine-tuning beside its images."""

    strategy: str = Field(
        default="contrastive", json_schema_extra=lambda s: s.update(enum=[*STRATEGIES])
    )
    """Way of learning; contrastive is the paper's."""
    steps: int = Field(default=100, ge=1)
    """Optimiser steps; 100 are the paper's "100 epochs"."""
    learning_rate: float = Field(default=1e-3, ge=0, le=1000)
    """Of Adam."""
    schedule: Literal["halvings", "cosine"] = "halvings"
    """Of the learning rate: halved after every quarter of the steps (the paper), or down to 0 as a
    cosine."""
    batch_size: int = Field(default=8, ge=1)
    """Patches a step, drawn with replacement."""
    layers: Literal["all", "downsampling_fixed", "extractor_fixed"] = "all"
    """What is learnt (Extended Data Fig. 8); fixed parts keep weights and BatchNorm statistics."""
    alpha: Literal["learnt", "fixed", "scheduled"] = "learnt"
    """Weight of the contrastive term: learnt (the paper), fixed, or scheduled down to 0."""
    statistics: Literal["encoder", "released", "shot", "query"] = "encoder"
    """What BatchNorm's running statistics see: all patches, those of queries and contrast images in
    the downsampling pass alone (encoder) or in the whole extractor (released: the authors' code);
    those of the shots alone; or, once all is learnt, those of the queries alone."""
    crops: Literal["resized", "clipped"] = "resized"
    """Of queries and contrast images, 156 to 290 px: resized to a patch, as the paper says, or
    clipped and filled up to it, flipped and scaled as the shots' (the authors' code)."""
    seed: int = Field(default=0, ge=0)
    """Random state of the patches."""

    @field_validator("strategy")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name not in STRATEGIES:
            raise PydanticCustomError("strategy", f"Input should be {' or '.join(STRATEGIES)}")
        return name

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return 0.5 ** (step * 4 // self.steps)


# What makes the term that is added to the loss, of queries, contrasts and options; or None.
STRATEGIES: dict[str, Callable[..., nn.Module] | None] = {
    "contrastive": ContrastiveTerm,
    "classic": None,
}


class Recipe(NamedTuple):
    """Options that go together, with help for people; a version rises when an option changes."""

    help: str
    options: FinetuneOptions
    version: int = 1
    flips: bool = False  # of its models' cards


_BEST = FinetuneOptions(strategy="classic", steps=200, schedule="cosine")
RECIPES = {
    "best": Recipe("finds the cells most accurately", _BEST, 2, flips=True),
    "quick": Recipe("for a first look", _BEST.change(steps=64, batch_size=2), 2),
    "paper": Recipe("also learns the look of the images to be segmented", FinetuneOptions()),
}
"""All recipes, the usual one first; how it was found: docs/method.md, section 10."""


def choose_options(recipe: str, **given: Any) -> FinetuneOptions:
    """Options of a recipe, but those that are given and not None; OptionError for others."""
    if recipe not in RECIPES:
        known = f"There are: {', '.join(RECIPES)}."
        raise OptionError("{recipe} is not allowed", remedy=known, options={"recipe": recipe})
    return RECIPES[recipe].options.change(**given)


def finetune(
    model: Model,
    shots: Sequence[Sample],
    queries: Sequence[Sample] | None = None,
    recipe: str = "best",
    *,
    contrast: Dataset | None = None,
    precision: Precision | None = None,
    device: torch.device | None = None,
    checkpoint: str | Path | None = None,
    callback: training.Callback | None = None,
    **options: Any,
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
    recipe : {"best", "quick", "paper"}
        One of `RECIPES`, whose options hold unless they are given.
    contrast : Dataset, optional
        Images of several styles. None: see `default_contrast`.
    precision : Precision, optional
        None: that of the checkpoint, else what pays on this machine; recorded in the card.
    device : torch.device, optional
    checkpoint : path, optional
        Written every half minute and after the last step; a run that finds it goes on from there.
        Remove it once the model is saved.
    callback : callable, optional
        Gets a `Progress` after each step, and may raise `training.Enough` to end the run there.
    **options
        Fields of `FinetuneOptions`.

    Raises
    ------
    TrainingError
        Without an annotated cell, for a loss that is no longer a number, with a checkpoint of
        another run, or one that cannot be written.
    ImageError, OptionError
        For an image that cannot be read, at the step that draws it; for an option not allowed.
    """
    chosen = choose_options(recipe, **options)
    device = device or model.device
    precision = precision or training.resume_precision(checkpoint, choose_precision(device))
    make_term, tuned = STRATEGIES[chosen.strategy], model.copy()
    robust = model.card.robust
    sources = prepare(shots, robust=robust)
    diameter = float(np.nanmean([sample.diameter for sample in shots]))
    seen = prepare(queries or shots, diameter, robust=robust)
    contrasts, term = None, None
    if make_term:
        contrasts = contrast or default_contrast()
        styles = [prepare(s, s.diameter, robust=robust) for s in contrasts.styles().values()]
        term = make_term(seen, styles, chosen)
    precision.place(tuned.network, device)
    extractor = tuned.network.extractor
    parts: dict[str, list[nn.Module]] = {"all": [], "downsampling_fixed": [extractor.down]}
    fixed = parts.get(chosen.layers, [extractor])
    for part in fixed:
        part.requires_grad_(False)
    groups = [{"params": list(tuned.network.parameters()), "lr": chosen.learning_rate}]
    if term is not None:
        groups.append({"params": list(term.to(device).parameters()), "lr": ALPHA_RATE})

    def losses_at(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((chosen.seed, step))
        batch = labelled_batch(sources, tuned.representation, rng, chosen.batch_size)
        segmentation, output = training.segmentation_loss(tuned, *batch, precision)
        if term is None:
            return {"segmentation": segmentation, "loss": segmentation}
        # Numbers of their own: the shots' patches are the same for every strategy.
        rng = np.random.default_rng((chosen.seed, step, 1))
        extra = term(tuned.network, output.style, rng, step / chosen.steps, precision)
        return {"segmentation": segmentation, "contrast": extra, "loss": segmentation + extra}

    identity = chosen.model_dump() | {
        "recipe": f"{recipe} {RECIPES[recipe].version}",
        "precision": asdict(precision),
        "weights": weights_hash(model.network),
        "shots": [sample.name for sample in shots],
        "pixels": sources_hash(sources),
        "queries": [sample.name for sample in queries or []],
        "contrast": contrasts.name if contrasts else None,
    }
    modules = {"network": tuned.network} | ({"term": term} if term else {})
    saved = training.Checkpoint(checkpoint, identity, modules, torch.optim.Adam(groups))
    steps = losses_at, chosen.rate, chosen.steps
    training.train(tuned, saved, *steps, fixed=fixed, callback=callback)
    if chosen.statistics == "query":
        recalibrate(tuned, seen, None, chosen.seed, precision)
    training.complete_card(tuned, "fine-tuned", [shots], identity | {"initial": model.card.recipe})
    tuned.card.diameter, tuned.card.flips = round(diameter, 2), RECIPES[recipe].flips
    if tuned.representation.tunes:  # at the 30-px scale
        predictions = predict(tuned, shots, precision=precision)
        outputs = [one.maps for one in progress_bar(predictions, len(shots), "thresholds")]
        truths = [resize_masks(s.masks, m.shape[1:]) for s, m in zip(shots, outputs, strict=True)]
        tuned.card.decoding = tuned.representation.tune(tuned.card.decoding, outputs, truths)
    return tuned


@torch.no_grad()
def recalibrate(
    model: Model, sources: Sequence[Source], term: nn.Module | None, seed: int, precision: Precision
) -> None:
    """Estimate BatchNorm's running statistics anew: means over 32 batches of eight patches.

    Of the sources alone (of the queries, it is AdaBN), or of what a contrastive term shows, too.
    """
    for layer in model.network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    model.network.train()
    with momentum(model.network, None):
        for batch in range(32):
            rng = np.random.default_rng((seed, batch, 2))
            images = unlabelled_batch(sources, rng).to(model.device)
            with precision.autocast(model.device):
                style = model.network(images).style
            if term is not None:
                term(model.network, style, rng, 1.0, precision)
    model.network.eval()


def default_contrast() -> Dataset:
    """Load the paper's contrast images where they are at hand, else synthetic ones."""
    try:
        return load_dataset("cellpose_contrast35")
    except DatasetNotHere:
        return load_dataset("synthetic_contrast")

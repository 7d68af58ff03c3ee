"""Training runs of a second, for the tests of what training does."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from scellseg_lib import Dataset, Sample, finetune
from scellseg_lib.datasets import synthetic
from scellseg_lib.device import Precision
from scellseg_lib.model import Model, new_model
from scellseg_lib.pretraining import PretrainRecipe, pretrain
from scellseg_lib.training import Progress

LEVELS = (4, 8)
STEPS = 4
PATCH = 64
"""Side of a patch instead of 224: a twelfth of the work. Tests patch `augment.PATCH` with it."""
KINDS = ("classic", "contrastive", "pretrain")
worm = cache(partial(synthetic.make_image, "worms", shape=(200, 200)))
"""Image and masks of a seed."""


def worms(n: int, first: int = 0) -> Dataset:
    samples = tuple(
        Sample(f"worm{i}", lambda i=i: worm(i)[0], lambda i=i: worm(i)[1], "shot")
        for i in range(first, first + n)
    )
    return Dataset("worms", "Worms", "CC0-1.0", samples)


def contrast() -> Dataset:
    """Two styles of two images: smooth and rough, with a square cell each."""

    def picture(i: int) -> np.ndarray:
        noise = np.random.default_rng(i).normal(size=(2, 100, 100)).astype(np.float32)
        return noise if i % 2 else np.cumsum(noise, axis=2)

    masks = np.zeros((100, 100), np.int32)
    masks[40:66, 40:66] = 1
    samples = tuple(
        Sample(f"c{i}", lambda i=i: picture(i), lambda: masks, style=("smooth", "rough")[i % 2])
        for i in range(4)
    )
    return Dataset("tiny_contrast", "Two styles", "CC0-1.0", samples)


def tune(strategy: str = "classic", model: Model | None = None, **options) -> Model:
    settings = {"steps": STEPS, "batch_size": 2, "precision": Precision()}
    settings |= {"queries": worms(2, 5).without_masks(), "contrast": contrast()}
    model = model or new_model("scellseg", LEVELS)
    return finetune(model, worms(2), recipe="paper", strategy=strategy, **settings | options)


def train(name: str = "scellseg", **options) -> Model:
    recipe = PretrainRecipe(steps=STEPS, batch_size=2, learning_rate=0.02)
    settings = {"levels": LEVELS, "recipe": recipe, "precision": Precision()}
    return pretrain(name, [worms(9)], **settings | options)  # type: ignore[arg-type]


class Killed(Exception):
    """The plug is pulled."""


def end_at(step: int, how: type[Exception] = Killed) -> Callable[[Progress], None]:
    """To be called after each step of a run: it ends at this one."""

    def callback(progress: Progress) -> None:
        if progress.step >= step:
            raise how

    return callback


def run(kind: str, checkpoint: Path | None = None, callback: Callable | None = None) -> Model:
    """Run one of `KINDS`; the classic way with a part that is not learnt."""
    options = {"checkpoint": checkpoint, "callback": callback}
    if kind == "classic":
        options["layers"] = "downsampling_fixed"
    return train(**options) if kind == "pretrain" else tune(kind, **options)

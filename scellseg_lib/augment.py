"""Random patches: images and masks are warped, then encoded (docs/method.md, section 2)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from scellseg_lib.errors import TrainingError
from scellseg_lib.representation import Representation
from scellseg_lib.samples import Sample, normalise, resize, resize_masks

PATCH = 224  # side of a training patch, pixels
MEAN_DIAMETER = 30.0  # to which diameter cells are scaled, pixels
MARGIN = 32  # around the targets, so that a cell cut by the edge keeps its centre
KEPT = 64  # unlabelled images kept in memory: 2 GB of 2048 x 2048 pixels
CROP_SIDES = (156, 290)  # of query and contrast patches at the 30-px scale, both included


@dataclass(frozen=True)
class Source:
    """A normalised image and its masks, with the factor that brings it to the 30-px scale."""

    image: np.ndarray
    masks: np.ndarray | None
    scale: float


class UnlabelledSources(Sequence[Source]):
    """Images without masks, read when a patch is drawn; the latest ``KEPT`` stay in memory."""

    def __init__(self, samples: Sequence[Sample], diameter: float, robust: bool) -> None:
        self.samples = samples
        # Copies are read, since a sample keeps its pixels; the cache must not know its owner.
        copied = lambda i: _prepare_one(samples[i].without_masks(), diameter, robust)  # noqa: E731
        self._read = lru_cache(KEPT)(copied)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Source:  # type: ignore[override]
        return self._read(index)


def prepare(
    samples: Sequence[Sample], diameter: float | None = None, *, robust: bool = False
) -> Sequence[Source]:
    """Normalise images and scale them by the diameter, where given, and then without their masks.

    Else each by its own cells, or by the others' mean where it has none; TrainingError without any.
    """
    if diameter is not None:
        return UnlabelledSources(samples, diameter, robust)
    own = [sample.diameter for sample in samples]
    if np.isnan(own).all():
        raise TrainingError("no image has an annotated cell", remedy="Annotate at least one cell.")
    known = np.where(np.isnan(own), np.nanmean(own), own).tolist()
    return [_prepare_one(*pair, robust) for pair in zip(samples, known, strict=True)]


def _prepare_one(sample: Sample, diameter: float, robust: bool) -> Source:
    image = normalise(sample.image, sample.name, cells=diameter if robust else None)
    scale = MEAN_DIAMETER / diameter
    masks = sample.masks if sample.read_masks is not None else None
    if scale < 0.5:  # a bilinear warp would skip pixels: average first
        image, scale = resize(image, scale), 1.0
        masks = resize_masks(masks, image.shape[1:]) if masks is not None else None
    return Source(image, masks, scale)


def sources_hash(sources: Sequence[Source]) -> str:
    """SHA-256 of what is learnt from: pixels, masks and scales."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.image.tobytes())
        digest.update(b"" if source.masks is None else source.masks.tobytes())
        digest.update(repr(source.scale).encode())
    return digest.hexdigest()


def labelled_batch(
    sources: Sequence[Source],
    representation: Representation,
    rng: np.random.Generator,
    size: int = 8,
    indices: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw augmented patches float32 (size, 2, 224, 224) and targets float32 (size, K, 224, 224).

    Of the sources with these indices, else of `size` drawn ones (docs/method.md, section 3).
    """
    images, targets = [], []
    side = PATCH + 2 * MARGIN
    for index in rng.integers(len(sources), size=size) if indices is None else indices:
        source = sources[index]
        assert source.masks is not None
        matrix = _draw_affine(rng, source)
        images.append(_warp_image(source.image, matrix))
        wide = matrix + np.array([[0, 0, MARGIN], [0, 0, MARGIN]])
        warped = cv2.warpAffine(
            source.masks.astype(np.float32), wide, (side, side), flags=cv2.INTER_NEAREST
        )
        encoded = representation.targets(warped.astype(np.int32))
        targets.append(encoded[:, MARGIN:-MARGIN, MARGIN:-MARGIN])
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))


def unlabelled_batch(
    sources: Sequence[Source],
    rng: np.random.Generator,
    side: int | None = None,
    size: int = 8,
    *,
    clipped: bool = False,
) -> Tensor:
    """Draw patches float32 (size, 2, 224, 224) as labelled ones, or with a side.

    Then they are rotated crops of ``side`` px of the 30-px scale, resized; or such crops are taken
    for whole images, so that patches are ``clipped`` or filled up with zeros.
    """
    patches = []
    for index in rng.integers(len(sources), size=size):
        source = sources[index]
        if side is not None and clipped:
            reach = round(side / source.scale)
            y, x = (rng.integers(max(length - reach, 0) + 1) for length in source.image.shape[1:])
            source = replace(source, image=source.image[:, y : y + reach, x : x + reach])
        matrix = _draw_affine(rng, source, None if clipped else side)
        patches.append(_warp_image(source.image, matrix))
    return torch.from_numpy(np.stack(patches))


def _draw_affine(rng: np.random.Generator, source: Source, side: int | None = None) -> np.ndarray:
    """Draw a matrix float64[2, 3] to a patch whose middle lies on the image whatever the angle."""
    scale = source.scale * (PATCH / side if side else rng.uniform(0.75, 1.25))
    flip = side is None and rng.uniform() < 0.5
    angle = rng.uniform(0, 2 * np.pi)
    size = np.array(source.image.shape[:0:-1])
    room = np.maximum(size - PATCH / scale, 0)
    middle = (size - 1) / 2 + (rng.uniform(size=2) - 0.5) * room
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    return np.column_stack((linear, (PATCH - 1) / 2 - linear @ middle))


def _warp_image(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    size = (PATCH, PATCH)
    return np.stack([cv2.warpAffine(p, matrix, size, flags=cv2.INTER_LINEAR) for p in image])

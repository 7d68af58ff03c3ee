"""What lies in an experiment's folder: annotated images, their channels, models to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scellseg_lib.errors import ImageError, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.files.layout import ImageFiles, find_samples
from scellseg_lib.samples import check_size, diameter, diameters
from scellseg_lib.workbench.forms import plain

CROP = 4
"""Side of the piece that is shown of an image, in diameters of its cells."""

Channels = tuple[str, str]
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Shot:
    """An annotated image, or why it is left out."""

    name: str
    image: Path
    problem: str = ""
    cells: int = 0
    diameter: float = float("nan")
    """Median of the cells', px."""
    n_channels: int = 1
    differ: bool = False
    """Whether its channels are different pictures, so that one is to be chosen."""
    middle: tuple[int, int] = (0, 0)
    """Of a cell of that diameter."""


@dataclass(frozen=True)
class Found:
    """What an experiment's folder holds."""

    folder: Path
    shots: tuple[Shot, ...]
    """All annotated images, those that are left out among them."""
    queries: tuple[str, ...]
    """Names of the images to be segmented."""

    @property
    def usable(self) -> tuple[Shot, ...]:
        """Annotated images to learn from."""
        return tuple(shot for shot in self.shots if not shot.problem)

    @property
    def diameter(self) -> float:
        """Mean of the usable shots' diameters, px, which the tuned model gets."""
        return float(np.mean([shot.diameter for shot in self.usable]))

    @property
    def channels(self) -> list[tuple[str, str]]:
        """Channels to choose from, as (label, name); none where there is nothing to choose."""
        if not any(shot.differ for shot in self.usable):
            return []
        least = min(shot.n_channels for shot in self.usable)
        colours = ("red", "green", "blue")
        named = [(f"{i + 1} ({name})", name) for i, name in enumerate(colours[:least])]
        others = [(f"{i + 1}", str(i)) for i in range(len(colours), least)]
        return [*named, *others, ("mean of all", "gray")]

    def crop(self, channels: Channels | None) -> np.ndarray:
        """Piece of an annotated image around a cell of usual size, float32[N, N].

        Raises
        ------
        ImageError
            If the image cannot be read any more, or has no such channel.
        """
        shot = min(self.usable, key=lambda shot: abs(shot.diameter - self.diameter))
        plane = readers.read_image(shot.image, channels=channels)[0]
        side = int(min(CROP * self.diameter, *plane.shape))
        top, left = (
            int(np.clip(middle - side // 2, 0, size - side))
            for middle, size in zip(shot.middle, plane.shape, strict=True)
        )
        return plane[top : top + side, left : left + side]


def look(folder: Path, report: Report = lambda done, total: None) -> Found:
    """Read all annotated images of a folder; one that cannot be used is named, and left out.

    Parameters
    ----------
    folder : Path
        In a layout of `folders.find_samples`.
    report : callable, optional
        Told how many of how many annotated images are read.

    Raises
    ------
    DatasetError
        As `folders.find_samples`.
    """
    samples = find_samples(folder)
    annotated = [sample for sample in samples if sample.split == "shot"]
    shots = []
    for done, sample in enumerate(annotated):
        report(done, len(annotated))
        shots.append(_look_at(sample))
    queries = tuple(sample.name for sample in samples if sample.split == "query")
    return Found(folder, tuple(shots), queries)


def _look_at(sample: ImageFiles) -> Shot:
    try:
        pixels = readers.read_pixels(sample.image)
        assert sample.masks is not None
        masks = readers.read_masks(sample.masks)
        check_size(np.atleast_3d(pixels).transpose(2, 0, 1), masks.shape, "its masks", sample.image)
    except (ScellsegError, OSError) as error:
        return Shot(sample.name, sample.image, plain(error))
    if not masks.any():
        return Shot(sample.name, sample.image, "No cell is drawn in it yet.")
    n_cells, typical, middle = _typical(masks)
    return Shot(
        sample.name,
        sample.image,
        cells=n_cells,
        diameter=typical,
        n_channels=pixels.shape[2] if pixels.ndim == 3 else 1,
        differ=_channels_differ(pixels),
        middle=middle,
    )


def _typical(masks: np.ndarray) -> tuple[int, float, tuple[int, int]]:
    """Number of cells, median of their diameters, and the middle of one of nearly that size, of
    several the one next to the middle of the image.
    """
    areas = np.bincount(masks.ravel())[1:]
    typical = diameter(areas)
    places = [
        np.bincount(masks.ravel(), weights=axis.ravel())[1:] / areas
        for axis in np.indices(masks.shape, np.int32)
    ]
    off = np.hypot(*(place - size / 2 for place, size in zip(places, masks.shape, strict=True)))
    errors = abs(diameters(areas) - typical)
    chosen = int(np.argmin(np.where(errors <= errors.min() + 0.1 * typical, off, np.inf)))
    return areas.size, typical, (int(places[0][chosen]), int(places[1][chosen]))


def _channels_differ(pixels: np.ndarray) -> bool:
    try:
        readers.select_planes(pixels)
    except ImageError:
        return True
    return False


def free_name(folder: Path, wanted: str) -> str:
    """Name for a model that no model, card or unfinished run of the folder has."""
    name, number = wanted, 2
    while any((folder / f"{name}{ending}").exists() for ending in TAKEN):
        name, number = f"{wanted}-{number}", number + 1
    return name


TAKEN = (".safetensors", ".json", ".checkpoint", ".checkpoint.json")
"""Endings of the files that belong to a model's name."""

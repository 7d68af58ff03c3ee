"""Runs over folders: one bad file does not end them, and a run that was stopped goes on.

The outputs are the state: they are written whole or not at all, and what exists is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scellseg_lib import folders, plots, readers
from scellseg_lib.data import Sample
from scellseg_lib.errors import DatasetError, ScellsegError
from scellseg_lib.model import Model
from scellseg_lib.progress import bar
from scellseg_lib.segment import segment

GROUP = 4  # images segmented together: tiles are pooled, and no more is lost when a run is stopped


class Job(NamedTuple):
    """An image file and where its masks and its overlay go."""

    image: Path
    masks: Path
    overlay: Path


@dataclass
class Outcome:
    """What a run over a folder came to."""

    segmented: int = 0
    already: int = 0
    cells: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    """Image files that could not be read, and why."""


def plan(source: Path, output: Path, suffix: str) -> list[Job]:
    """Images of a file or folder (in any layout of `folders.find_samples`), with their outputs.

    Raises
    ------
    DatasetError
        If there are no images, or the masks would come to lie among the images, where they would
        pass for annotations.
    """
    if source.is_dir():
        found = [(sample.image, sample.name) for sample in folders.find_samples(source)]
    else:
        found = [(source, folders.plain_name(source).removesuffix("_img"))]
        source = source.parent
    jobs = []
    for image, name in found:
        folder = output / image.parent.relative_to(source)
        if folder.resolve() == image.parent.resolve():
            raise DatasetError(
                "masks beside the images would pass for annotations",
                where=folder,
                remedy="Give another folder as the output.",
            )
        jobs.append(Job(image, folder / f"{name}_masks{suffix}", folder / f"{name}_overlay.png"))
    return jobs


def segment_files(
    jobs: list[Job],
    model: Model,
    read: Callable[[Path], np.ndarray],
    *,
    overwrite: bool = False,
    overlays: bool = False,
    **settings: Any,
) -> Outcome:
    """Segment image files and write their masks.

    ``read`` gives float32[2, H, W] of an image file. ``overlays`` draws those that are missing,
    also of masks that were there before. The other settings are those of `segment`.
    """
    remaining = [job for job in jobs if overwrite or not job.masks.exists()]
    outcome = Outcome(already=len(jobs) - len(remaining))
    with bar(len(remaining), "segment", "image") as progress:
        for start in range(0, len(remaining), GROUP):
            group = remaining[start : start + GROUP]
            # Read here, so that a bad file stops neither the others nor the pooled tiles.
            good = list(_readable(group, read, outcome))
            samples = [sample for _, sample in good]
            results = segment(model, samples, progress=False, **settings) if samples else []
            for (job, _), cells in zip(good, results, strict=True):
                job.masks.parent.mkdir(parents=True, exist_ok=True)
                job.overlay.unlink(missing_ok=True)  # an older one would show other masks
                readers.write_labels(job.masks, cells.masks)
                outcome.segmented += 1
                outcome.cells += int(cells.masks.max())
            progress.update(len(group))
    lacking = [job for job in jobs if job.masks.exists() and not job.overlay.exists()]
    for job, sample in _readable(lacking, read, outcome) if overlays else ():
        plots.save_overlay(job.overlay, sample.image, readers.read_masks(job.masks))
    return outcome


def _readable(
    jobs: list[Job], read: Callable[[Path], np.ndarray], outcome: Outcome
) -> Iterator[tuple[Job, Sample]]:
    """Jobs with their images, read; those that cannot be are noted in the outcome."""
    for job in jobs:
        try:
            sample = Sample(job.image.name, partial(read, job.image))
            _ = sample.image  # read now, and kept
        except ScellsegError as error:
            outcome.failed[job.image] = str(error)
            continue
        yield job, sample

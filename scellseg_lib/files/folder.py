"""Runs over many images: one bad file does not end them, and a run that was stopped goes on.

The masks are the state: they are written whole or not at all, and what exists is not made again.
``segmented.json`` beside them says what they were made with, so that others do not pass for them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scellseg_lib import plots
from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.files import layout as folders
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.progress import bar
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import Cells, FarFromModel, resolve, segment

GROUP = 4  # images segmented together: tiles are pooled, and no more is lost when a run is stopped
RECORD, OVERLAY = "segmented.json", "_overlay.png"


class Job(NamedTuple):
    """An image and where its masks and its overlay go."""

    sample: Sample
    masks: Path
    overlay: Path


def job_for(sample: Sample, place: Path, suffix: str) -> Job:
    """Job of an image; its outputs are `place` with their endings."""
    masks, overlay = (place.with_name(place.name + end) for end in (f"_masks{suffix}", OVERLAY))
    return Job(sample, masks, overlay)


@dataclass
class Outcome:
    """What a run over many images came to."""

    segmented: int = 0
    already: int = 0
    cells: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Why images could not be read, segmented or written, by the file that is concerned."""

    @contextmanager
    def survives(self, job: Job) -> Iterator[None]:
        """Note an error as the failure of one image."""
        try:
            yield
        except Exception as error:  # whatever it is, the other images are not to suffer
            placed = isinstance(error, ScellsegError) and error.where is not None
            self.failed[str(job.masks)] = str(error) if placed else f"{job.sample.name}: {error}"


def plan(source: Path, output: Path, suffix: str, **reading: Any) -> tuple[list[Job], Outcome]:
    """Images of a file or folder (in any layout of `folders.find_images`), with their outputs.

    ``reading`` are arguments of `readers.read_image`. Files that differ in their ending only, whose
    masks would be the same file, have failed already in the outcome.

    Raises
    ------
    DatasetError
        If there are no images, or the masks would come to lie among the images, where they would
        pass for annotations.
    """
    if source.is_dir():
        found = folders.find_images(source)
    else:
        found = [(folders.plain_name(source).removesuffix("_img"), [source])]
        source = source.parent
    jobs, outcome = [], Outcome()
    for name, files in found:
        place = output / files[0].parent.relative_to(source)
        if place.resolve() == files[0].parent.resolve():
            raise DatasetError(
                "masks beside the images would pass for annotations",
                where=place,
                remedy="Give another folder as the output.",
            )
        if len(files) == 1:
            sample = Sample(files[0].name, partial(readers.read_image, files[0], **reading))
            jobs.append(job_for(sample, place / name, suffix))
        else:
            twins = f"files of the same name: {', '.join(f.name for f in files)}. Keep one of them."
            outcome.failed |= {str(file): f"{file}: {twins}" for file in files}
    return jobs, outcome


def segment_jobs(
    jobs: list[Job],
    model: Model,
    output: Path,
    outcome: Outcome,
    *,
    reading: dict[str, Any],
    overwrite: bool = False,
    overlays: bool = False,
    **settings: Any,
) -> None:
    """Segment images and write their masks.

    Parameters
    ----------
    jobs : list of Job
    model : Model
    output : Path
        Folder of all masks, in which ``segmented.json`` is kept.
    outcome : Outcome
        To be completed.
    reading : dict
        How the images are read, for ``segmented.json``.
    overwrite : bool
        Make anew what exists.
    overlays : bool
        Draw those that are missing, also of masks that were there before.
    **settings
        Of `segment`.

    Raises
    ------
    DatasetError
        If masks are there that were made otherwise.
    ImageError
        For a setting that is no number of its kind.
    """
    _claim(output, jobs, _made_with(model, settings) | reading, overwrite)
    undone = [job for job in jobs if overwrite or not job.masks.exists()]
    drawn = [job for job in jobs if overlays and job not in undone and not job.overlay.exists()]
    outcome.already = len(jobs) - len(undone)

    def write(job: Job, sample: Sample, cells: Cells) -> None:
        with outcome.survives(job):
            readers.write_labels(job.masks, cells.masks)
            outcome.segmented += 1
            outcome.cells += int(cells.masks.max())
            if overwrite if job.overlay.exists() else overlays:
                plots.save_overlay(job.overlay, sample.image, cells.masks)
        progress.update()

    def together(group: list[tuple[Job, Sample]]) -> None:
        left, samples = list(group), [sample for _, sample in group]
        with suppress(Exception) if len(group) > 1 else outcome.survives(group[0][0]):
            segment(
                model,
                samples,
                progress=False,
                callback=lambda cells: write(*left.pop(0), cells),
                **settings,
            )
        for one in left if len(group) > 1 else ():  # one of them is at fault
            together([one])

    total = len(undone) + len(drawn)
    with _doubts_summed_up(), bar(total, "segment", "image") as progress:
        progress.refresh()  # shown at once: the first image may take long
        for start in range(0, len(undone), GROUP):
            if good := list(_readable(undone[start : start + GROUP], outcome)):
                together(good)
            progress.update(min(start + GROUP, len(undone)) - progress.n)  # those that failed
        for job, sample in _readable(drawn, outcome):
            with outcome.survives(job):
                plots.save_overlay(job.overlay, sample.image, readers.read_masks(job.masks))
            progress.update()


def _made_with(model: Model, settings: dict[str, Any]) -> dict[str, Any]:
    """What masks depend on beside their image; the model's own settings where None is given."""
    others = dict(settings)
    names = ("diameter", "cell_threshold", "flow_threshold", "min_size")
    diameter, decoding = resolve(model.card, **{name: others.pop(name, None) for name in names})
    weights = weights_hash(model.network)
    return {"weights": weights, "diameter": diameter, **decoding.model_dump(), **others}


def _claim(output: Path, jobs: list[Job], made_with: dict[str, Any], overwrite: bool) -> None:
    """Write down how the masks of a folder are made, unless some there were made otherwise."""
    record, made_with = output / RECORD, json.loads(json.dumps(made_with))
    before: Any = {}
    with suppress(FileNotFoundError):
        try:
            before = json.loads(record.read_text())
        except ValueError:  # ours are written whole
            before = None
    if not isinstance(before, dict) or (before and "weights" not in before):
        raise DatasetError(
            "this file is not ours",
            where=record,
            remedy="Move it away, or give another folder as the output.",
        )
    ours = {job.masks for job in jobs}
    there = {file for file in ours if file.exists()}
    if before:
        folders = {file.parent for file in ours}
        there |= {file for place in folders for file in place.glob("[!.]*_masks.*")}
    differing = [
        f"{name} {before.get(name, 'unknown')} there, {value} asked for"
        for name, value in made_with.items()
        if before.get(name, "unknown") != value
    ]
    if there and differing:
        if not overwrite or there - ours:
            mixed = "; other masks would stay there" if overwrite else ", or overwrite=True"
            raise DatasetError(
                f"the folder holds masks made otherwise: {'; '.join(differing)}",
                where=output,
                remedy=f"Give another folder as the output{mixed}.",
            )
        for job in jobs:  # now: what is left when this run is stopped would pass for its own
            job.masks.unlink(missing_ok=True)
            job.overlay.unlink(missing_ok=True)
    with whole(record) as scratch:
        scratch.write_text(json.dumps(made_with, indent=1) + "\n")


@contextmanager
def _doubts_summed_up() -> Iterator[None]:
    """Give the first warning of each kind at once, and at the end how many there were."""
    found: dict[bool, list[Any]] = {True: [], False: []}

    def first_only(message: Any, *rest: Any, **options: Any) -> None:
        if isinstance(message, FarFromModel):
            found[message.diameter is None].append(message.diameter)
            if len(found[message.diameter is None]) > 1:
                return
        show(message, *rest, **options)

    with warnings.catch_warnings():
        show, warnings.showwarning = warnings.showwarning, first_only
        yield
    for unlike, diameters in found.items():
        if len(diameters) > 1:
            what, remedy = "are unlike the training images", "Fine-tune on a few of them."
            if not unlike:
                what = "hold cells of another size"
                remedy = "Give {diameter}, the median of what was found."
            size = None if unlike else float(np.median(diameters))
            doubt = FarFromModel(f"{len(diameters)} images in all {what}", remedy, diameter=size)
            warnings.warn(doubt, stacklevel=3)


def _readable(jobs: list[Job], outcome: Outcome) -> Iterator[tuple[Job, Sample]]:
    """Jobs with their images, read; those that cannot be are noted in the outcome."""
    for one in jobs:
        sample = one.sample.without_masks()  # a copy, forgotten with its pixels
        with outcome.survives(one):
            _ = sample.image
            yield one, sample

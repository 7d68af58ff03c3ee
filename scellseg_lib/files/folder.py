"""Runs over many images, and scores of many label files.

One bad file does not end a run, and a run that was stopped goes on: the masks are the state, they
are written whole or not at all, and what exists is not made again. ``segmented.json`` beside them
says what they were made with, so that others do not pass for them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, MasksMadeOtherwise, ScellsegError
from scellseg_lib.files.images import as_image_error, read_image, read_masks, write_labels
from scellseg_lib.files.layout import (
    OVERLAY,
    RECORD,
    find_images,
    find_labels,
    image_name,
)
from scellseg_lib.files.outlines import write_overlay
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.progress import bar, progress_bar
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import (
    FarFromModel,
    Prediction,
    decode,
    far_from_model,
    predict,
    resolve,
)

GROUP = 4  # images segmented together: tiles are pooled, and no more is lost when a run is stopped


class ImageJob(NamedTuple):
    """An image and where its masks and its overlay go."""

    sample: Sample
    masks: Path
    overlay: Path
    image: Path | None = None
    """Its file, where it has one of its own."""


@dataclass
class FolderOutcome:
    """What a run over many images came to, or has come to so far."""

    segmented: int = 0
    already: int = 0
    cells: int = 0
    failed: dict[str, ScellsegError] = field(default_factory=dict)
    """Why images could not be read, segmented or written, by the file that is concerned."""
    doubts: list[FarFromModel] = field(default_factory=list)
    """About images whose scale or style is far from what the model has seen."""

    @contextmanager
    def survives(self, job: ImageJob) -> Iterator[None]:
        """Note an error as the failure of one image."""
        try:
            yield
        except Exception as error:  # whatever it is, the other images are not to suffer
            self.fail(job, error)

    def fail(self, job: ImageJob, error: Exception) -> None:
        """Note why an image could not be segmented."""
        self.failed[str(job.masks)] = as_image_error(error, job.sample.name)

    def add_doubt(self, doubt: FarFromModel) -> None:
        """Note a doubt, and warn of it at once if it is the first of its kind."""
        if not any((one.diameter is None) == (doubt.diameter is None) for one in self.doubts):
            warnings.warn(doubt, stacklevel=2)
        self.doubts.append(doubt)

    def sum_up_doubts(self) -> list[FarFromModel]:
        """Doubts of each kind in one: the only one, or how many there are."""
        sizes = [one for one in self.doubts if one.diameter is not None]
        others = [one for one in self.doubts if one.diameter is None]
        if len(others) > 1:
            what = f"{len(others)} images in all are unlike the training images"
            others = [FarFromModel(what, "Fine-tune on a few of them.")]
        if len(sizes) > 1:
            what = f"{len(sizes)} images in all hold cells of another size"
            remedy = "Give {diameter}, the median of what was found."
            median = float(np.median([one.diameter for one in sizes if one.diameter]))
            sizes = [FarFromModel(what, remedy, diameter=median)]
        return others + sizes


def make_job(sample: Sample, place: Path, suffix: str, image: Path | None = None) -> ImageJob:
    """Job of an image; its outputs are `place` with their endings."""
    masks, overlay = (place.with_name(place.name + end) for end in (f"_masks{suffix}", OVERLAY))
    return ImageJob(sample, masks, overlay, image)


def plan_jobs(
    source: Path, output: Path, suffix: str, **reading: Any
) -> tuple[list[ImageJob], FolderOutcome]:
    """Images of a file or folder (in any layout of `find_images`), with their outputs.

    ``reading`` are arguments of `read_image`. Files that differ in their ending only, whose masks
    would be the same file, have failed already in the outcome.

    Raises
    ------
    DatasetError
        If there are no images, or the masks would come to lie among the images, where they would
        pass for annotations.
    """
    found = find_images(source) if source.is_dir() else [(image_name(source), [source])]
    root = source if source.is_dir() else source.parent
    jobs, outcome = [], FolderOutcome()
    for name, (file, *others) in found:
        place = output / file.parent.relative_to(root)
        if place.resolve() == file.parent.resolve():
            raise DatasetError(
                "masks beside the images would pass for annotations",
                where=place,
                remedy="Give another folder as the output.",
            )
        for twin in [file, *others] if others else ():
            what = f"files of the same name: {', '.join(f.name for f in (file, *others))}"
            outcome.failed[str(twin)] = DatasetError(what, where=twin, remedy="Keep one of them.")
        if not others:
            sample = Sample(file.name, partial(read_image, file, **reading))
            jobs.append(make_job(sample, place / name, suffix, file))
    return jobs, outcome


def segment_jobs(
    jobs: list[ImageJob],
    model: Model,
    output: Path,
    outcome: FolderOutcome,
    *,
    reading: dict[str, Any],
    overwrite: bool = False,
    overlays: bool = False,
    diameter: float | None = None,
    resample: bool = True,
    flips: bool = False,
    callback: Callable[[], None] = lambda: None,
    **thresholds: Any,
) -> None:
    """Segment images and write their masks.

    Parameters
    ----------
    jobs : list of ImageJob
    model : Model
    output : Path
        Folder of all masks, in which ``segmented.json`` is kept.
    outcome : FolderOutcome
        To be completed.
    reading : dict
        How the images are read, for ``segmented.json``.
    overwrite : bool
        Make anew what exists.
    overlays : bool
        Draw those that are missing, also of masks that were there before.
    diameter, resample, flips, **thresholds
        See `segment`.
    callback : callable, optional
        Called after each image that was read, and written; its errors end the run.

    Raises
    ------
    MasksMadeOtherwise
        If masks are there that were made otherwise.
    ImageError
        For a setting that is no number of its kind.

    Warns
    -----
    FarFromModel
        Of the first image of each kind at once, see `FolderOutcome.doubts`.
    """
    diameter, decoding = resolve(model.card, diameter=diameter, **thresholds)
    made_with = {"weights": weights_hash(model.network), "diameter": diameter}
    made_with |= {**decoding.model_dump(), "resample": resample, "flips": flips, **reading}
    _claim(output, jobs, made_with, overwrite)
    undone = [job for job in jobs if overwrite or not job.masks.exists()]
    drawn = [job for job in jobs if overlays and job not in undone and not job.overlay.exists()]
    outcome.already = len(jobs) - len(undone)

    def read(some: list[ImageJob]) -> Iterator[tuple[ImageJob, Sample]]:
        for job in some:
            sample = job.sample.without_masks()  # a copy, forgotten with its pixels
            with outcome.survives(job):
                _ = sample.image
            callback()
            if str(job.masks) not in outcome.failed:
                yield job, sample

    def write(job: ImageJob, sample: Sample, prediction: Prediction) -> None:
        with outcome.survives(job):
            masks = decode(prediction, model.representation, decoding, resample=resample)
            if doubt := far_from_model(prediction, masks, model.card):
                outcome.add_doubt(doubt)
            write_labels(job.masks, masks)
            outcome.segmented += 1
            outcome.cells += int(masks.max())
            if overwrite if job.overlay.exists() else overlays:
                write_overlay(job.overlay, sample.image, masks)
        callback()
        progress.update()

    def segment(group: list[tuple[ImageJob, Sample]]) -> None:
        samples = [sample for _, sample in group]
        predictions = predict(model, samples, diameter=diameter, flips=flips)
        for done, (job, sample) in enumerate(group):
            try:
                prediction = next(predictions)
            except Exception as error:  # one of them is at fault
                if len(group) == 1:
                    outcome.fail(job, error)
                for one in group[done:] if len(group) > 1 else ():
                    segment([one])
                return
            write(job, sample, prediction)

    with bar(len(undone) + len(drawn), "segment", "image") as progress:
        progress.refresh()  # shown at once: the first image may take long
        for start in range(0, len(undone), GROUP):
            segment(list(read(undone[start : start + GROUP])))
            progress.update(min(start + GROUP, len(undone)) - progress.n)  # those that failed
        for job, sample in read(drawn):
            with outcome.survives(job):
                write_overlay(job.overlay, sample.image, read_masks(job.masks))
            progress.update()
    for doubt in outcome.sum_up_doubts():
        if doubt not in outcome.doubts:
            warnings.warn(doubt, stacklevel=2)


def read_record(output: Path) -> dict[str, Any]:
    """What the masks of a folder were made with, by its ``segmented.json``; empty without one.

    DatasetError if the file is not ours.
    """
    file = output / RECORD
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:  # ours are written whole
        record = None
    if not isinstance(record, dict) or "weights" not in record:
        remedy = "Move it away, or give another folder as the output."
        raise DatasetError("this file is not ours", where=file, remedy=remedy)
    return record


def pair_labels(predicted: Path, true: Path | Sequence[Sample]) -> list[tuple[Path, Sample]]:
    """Predicted label files with the true masks of their name, ``NAME_masks.*`` or ``NAME.*``.

    Two files are a pair whatever their names. On the true side may be samples, by their names.

    Raises
    ------
    DatasetError
        If a file has no partner; all such are listed.
    """
    ours = find_labels(predicted)
    if isinstance(true, Path):
        files = find_labels(true)
        if predicted.is_file() and true.is_file():
            files = dict(zip(ours, files.values(), strict=True))
        theirs = {
            name: Sample(name, partial(read_image, file), partial(read_masks, file))
            for name, file in files.items()
        }
    else:
        files, theirs = {}, {sample.name: sample for sample in true}
    lost = sorted(ours.keys() ^ theirs.keys())
    alone = [str((ours | files).get(name, name)) for name in lost]
    if alone or not ours:
        raise DatasetError(
            f"label files without a partner: {', '.join(alone)}" if alone else "no label files",
            where=f"{predicted} and {true}" if isinstance(true, Path) else predicted,
            remedy="Each NAME_masks.* needs a NAME_masks.* or NAME.* on the other side.",
        )
    return [(file, theirs[name]) for name, file in ours.items()]


def score_files(pairs: list[tuple[Path, Sample]]) -> pd.DataFrame:
    """Score label files, one pair in memory at a time; the frame of `evaluate`."""
    frames = []
    for predicted, truth in progress_bar(pairs, len(pairs), "evaluate"):
        # A sample keeps what it has read: the copy is forgotten with its masks.
        frames.append(evaluate([read_masks(predicted)], [replace(truth)]))
    return pd.concat(frames, ignore_index=True)


def score_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each image, and their mean: AP@0.5, AP@0.75, mAP, mAJI and the standard AJI."""
    rows = {
        name: [*summary(part).values(), part["aji_standard"].iloc[0]]
        for name, part in frame.groupby("image", sort=False)
    }
    table = pd.DataFrame(rows, index=["AP@0.5", "AP@0.75", "mAP", "mAJI", "AJI"]).T
    table.loc[f"mean (n = {len(rows)})"] = table.mean()
    return table


def _claim(output: Path, jobs: list[ImageJob], made_with: dict[str, Any], overwrite: bool) -> None:
    """Write down how the masks of a folder are made, unless some there were made otherwise."""
    before, made_with = read_record(output), json.loads(json.dumps(made_with))
    ours = {job.masks for job in jobs}
    there = {file for file in ours if file.exists()}
    if before:
        places = {file.parent for file in ours}
        there |= {file for place in places for file in place.glob("[!.]*_masks.*")}
    asked = {name: (before.get(name, "unknown"), now) for name, now in made_with.items()}
    differing = {name: pair for name, pair in asked.items() if pair[0] != pair[1]}
    if there and differing:
        if not overwrite or there - ours:
            raise MasksMadeOtherwise(differing, not there - ours, where=output)
        for job in jobs:  # now: what is left when this run is stopped would pass for its own
            job.masks.unlink(missing_ok=True)
            job.overlay.unlink(missing_ok=True)
    with whole(output / RECORD) as scratch:
        scratch.write_text(json.dumps(made_with, indent=1) + "\n")

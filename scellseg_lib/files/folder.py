"""Runs over many images, and scores of many label files.

One bad file does not end a run, and a run that was stopped goes on: the masks are the state, and
``segmented.json`` beside them says what they were made with.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scellseg_lib import segmentation
from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, MasksMadeOtherwise, ScellsegError
from scellseg_lib.files import layout
from scellseg_lib.files.images import read_image, read_masks, survive, write_labels
from scellseg_lib.files.outlines import write_overlay
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.progress import bar, progress_bar
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import FarFromModel, Prediction

GROUP = 4  # images segmented together: tiles are pooled, and no more is lost when a run is stopped


class ImageJob(NamedTuple):
    """An image, where its masks go, and its own file if there is one."""

    sample: Sample
    masks: Path
    image: Path | None = None

    @property
    def overlay(self) -> Path:
        """Where its overlay goes."""
        return self.masks.with_name(layout.image_name(self.masks) + layout.OVERLAY)


@dataclass
class FolderOutcome:
    """What a run over many images came to, or has come to so far."""

    segmented: int = 0
    already: int = 0
    cells: int = 0
    failed: dict[str, ScellsegError] = field(default_factory=dict)  # by the file concerned
    doubts: list[FarFromModel] = field(default_factory=list)

    def sum_up_doubts(self) -> list[FarFromModel]:
        """Doubts of each kind in one: the only one, or how many there are."""
        sizes = [one for one in self.doubts if one.diameter is not None]
        others = [one for one in self.doubts if one.style_distance is not None]
        if len(others) > 1:
            what = f"{len(others)} images in all are unlike the training images"
            others = [FarFromModel(what, remedy="Fine-tune on a few of them.")]
        if len(sizes) > 1:
            what = f"{len(sizes)} images in all hold cells of another size"
            remedy = "Give {diameter}, the median of what was found."
            median = float(np.median([one.diameter for one in sizes if one.diameter]))
            sizes = [FarFromModel(what, remedy=remedy, options={"diameter": round(median)})]
        return list(dict.fromkeys(others + sizes))


def plan_jobs(
    source: Path, output: Path, suffix: str, **reading: Any
) -> tuple[list[ImageJob], FolderOutcome]:
    """Images of a file or folder, with their outputs; ``reading`` are arguments of `read_image`.

    Files that differ in their ending only, whose masks would be the same file, have failed already
    in the outcome. DatasetError without images, or where masks would lie among them.
    """
    root, found = source.parent, [(layout.image_name(source), [source])]
    if source.is_dir():
        root, found = source, layout.find_images(source)
    jobs, outcome = [], FolderOutcome()
    for name, files in found:
        place = output / files[0].parent.relative_to(root)
        if place.resolve() == files[0].parent.resolve():
            what = "masks beside the images would pass for annotations"
            raise DatasetError(what, where=place, remedy="Give another folder as the output.")
        what = f"files of the same name: {', '.join(file.name for file in files)}"
        for file in files if len(files) > 1 else ():
            outcome.failed[str(file)] = DatasetError(what, where=file, remedy="Keep one of them.")
        if len(files) == 1:
            sample = Sample(files[0].name, partial(read_image, files[0], **reading))
            jobs.append(ImageJob(sample, place / f"{name}{layout.MASKS}{suffix}", files[0]))
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
    resample: bool = True,
    flips: bool = False,
    callback: Callable[[], None] = lambda: None,
    **chosen: Any,
) -> None:
    """Segment images and write their masks: those that are missing, or all with ``overwrite``.

    ``output`` is the folder of all masks, with ``segmented.json``, into which ``reading`` goes: how
    the images are read. ``outcome`` is completed on the way, and its first doubt is warned of at
    once. ``overlays`` are drawn of masks that were there before, too. ``callback`` is called after
    each image that was read, and written; its errors end the run.
    """
    diameter, decoding = segmentation.resolve(model.card, **chosen)
    made_with = {"weights": weights_hash(model.network), "diameter": diameter}
    made_with |= {**decoding.model_dump(), "resample": resample, "flips": flips, **reading}
    _claim(output, jobs, made_with, overwrite)
    undone = [job for job in jobs if overwrite or not job.masks.exists()]
    drawn = [job for job in jobs if overlays and job not in undone and not job.overlay.exists()]
    outcome.already = len(jobs) - len(undone)

    def read(some: list[ImageJob]) -> Iterator[tuple[ImageJob, Sample]]:
        for job in some:
            sample = job.sample.without_masks()  # a copy, forgotten with its pixels
            with survive(outcome.failed, str(job.masks), sample.name):
                _ = sample.image
            callback()
            if str(job.masks) not in outcome.failed:
                yield job, sample

    def write(job: ImageJob, sample: Sample, prediction: Prediction) -> None:
        masks = segmentation.decode(prediction, model.representation, decoding, resample=resample)
        if doubt := segmentation.far_from_model(prediction, masks, model.card):
            if not outcome.doubts:
                warnings.warn(doubt, stacklevel=2)
            outcome.doubts.append(doubt)
        write_labels(job.masks, masks)
        outcome.segmented += 1
        outcome.cells += int(masks.max())
        if overwrite if job.overlay.exists() else overlays:
            write_overlay(job.overlay, sample.image, masks)

    def segment(group: list[tuple[ImageJob, Sample]]) -> None:
        samples = [sample for _, sample in group]
        predictions = segmentation.predict(model, samples, diameter=diameter, flips=flips)
        for done, (job, sample) in enumerate(group):
            prediction = None
            with survive(outcome.failed, str(job.masks), sample.name):
                prediction = next(predictions)
                write(job, sample, prediction)
            if prediction is None and len(group) > 1:  # one of them is at fault
                del outcome.failed[str(job.masks)]
                for one in group[done:]:
                    segment([one])
                return
            callback()
            progress.update()

    with bar(len(undone) + len(drawn), "segment", "image") as progress:
        progress.refresh()  # shown at once: the first image may take long
        for start in range(0, len(undone), GROUP):
            segment(list(read(undone[start : start + GROUP])))
            progress.update(min(start + GROUP, len(undone)) - progress.n)  # those that failed
        for job, sample in read(drawn):
            with survive(outcome.failed, str(job.masks), sample.name):
                write_overlay(job.overlay, sample.image, read_masks(job.masks))
            progress.update()


def read_record(output: Path) -> dict[str, Any]:
    """What the masks of a folder were made with, by its ``segmented.json``; empty without one."""
    file = output / layout.RECORD
    if not file.exists():
        return {}
    with suppress(ValueError):  # ours are written whole
        record = json.loads(file.read_text())
        if isinstance(record, dict) and "weights" in record:
            return record
    remedy = "Move it away, or give another folder as the output."
    raise DatasetError("this file is not ours", where=file, remedy=remedy)


def _claim(output: Path, jobs: list[ImageJob], made_with: dict[str, Any], overwrite: bool) -> None:
    """Write down how the masks of a folder are made, unless some there were made otherwise."""
    before, made_with = read_record(output), json.loads(json.dumps(made_with))
    ours = {job.masks for job in jobs}
    there = {file for file in ours if file.exists()}
    if before:
        places = {file.parent for file in ours}
        there |= {file for place in places for file in place.glob(f"[!.]*{layout.MASKS}.*")}
    pairs = {name: (before.get(name, "unknown"), now) for name, now in made_with.items()}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if there and differing:
        if not overwrite or there - ours:
            words = [f"{k} {was} there, {now} asked for" for k, (was, now) in differing.items()]
            may = ": there are masks of other images, too." if there - ours else ", or {overwrite}."
            raise MasksMadeOtherwise(
                f"the folder holds masks made otherwise: {'; '.join(words)}",
                where=output,
                remedy=f"Give another folder as the output{may}",
                options={"overwrite": True},
                differing=differing,
                replaceable=not there - ours,
            )
        for job in jobs:  # now: what is left when this run is stopped would pass for its own
            job.masks.unlink(missing_ok=True)
            job.overlay.unlink(missing_ok=True)
    with whole(output / layout.RECORD) as scratch:
        scratch.write_text(json.dumps(made_with, indent=1) + "\n")


def pair_labels(predicted: Path, true: Path | Sequence[Sample]) -> list[tuple[Path, Sample]]:
    """Predicted label files with the true masks of their name; two files are a pair of any name."""
    ours, files = layout.find_labels(predicted), {}
    if isinstance(true, Path):
        files = layout.find_labels(true)
        if predicted.is_file() and true.is_file():
            files = dict(zip(ours, files.values(), strict=True))
        true = [Sample(n, partial(read_image, f), partial(read_masks, f)) for n, f in files.items()]
    theirs = {sample.name: sample for sample in true}
    lost = [str((ours | files).get(name, name)) for name in sorted(ours.keys() ^ theirs.keys())]
    if lost or not ours:
        what = f"label files without a partner: {', '.join(lost)}" if lost else "no label files"
        remedy = "Each NAME_masks.* needs a NAME_masks.* or NAME.* on the other side."
        raise DatasetError(what, where=predicted, remedy=remedy)
    return [(file, theirs[name]) for name, file in ours.items()]


def score_files(pairs: list[tuple[Path, Sample]]) -> pd.DataFrame:
    """Score label files, one pair in memory at a time; the frame of `evaluate`."""
    each = progress_bar(pairs, len(pairs), "evaluate")
    # A sample keeps what it has read: the copy is forgotten with its masks.
    frames = [evaluate([read_masks(predicted)], [replace(truth)]) for predicted, truth in each]
    return pd.concat(frames, ignore_index=True)


def score_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each image, and their mean: AP@0.5, AP@0.75, mAP, mAJI and the standard AJI."""
    parts = frame.groupby("image", sort=False)
    rows = {name: [*summary(p).values(), p["aji_standard"].iloc[0]] for name, p in parts}
    table = pd.DataFrame(rows, index=["AP@0.5", "AP@0.75", "mAP", "mAJI", "AJI"]).T
    table.loc[f"mean (n = {len(rows)})"] = table.mean()
    return table

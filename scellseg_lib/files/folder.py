"""Runs over many images, and scores of many label files.

One bad file does not end a run, and a run that was stopped goes on: the masks are the state.
``segmented.json`` beside them says what they were made with, ``.hashes`` each of which image.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from scellseg_lib import segmentation
from scellseg_lib.atomic import whole
from scellseg_lib.device import choose_precision
from scellseg_lib.errors import DatasetError, ImageError, MasksMadeOtherwise, ScellsegError, telling
from scellseg_lib.files import images, layout
from scellseg_lib.files.images import pixel_hash, read_image, read_masks, read_pixels
from scellseg_lib.files.outlines import write_overlay
from scellseg_lib.metrics import MEASURED, evaluate, summary
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.progress import bar, progress_bar
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import FarFromModel, Prediction

GROUP = 4  # images segmented together: tiles are pooled, and no more is lost when a run is stopped


class InUse(DatasetError):
    """Another run or window is at work on the same files."""


@contextmanager
def alone(file: Path, seconds: float = 0) -> Iterator[Path]:
    """Keep others from what a file stands for by a hidden file beside it; `InUse` after seconds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f".{file.name[:60]}.lock")
    try:
        with FileLock(lock, seconds, mode=0o666):
            try:
                yield file
            finally:
                with suppress(OSError):  # Windows lets nobody delete a file in use
                    lock.unlink()  # who waits for it then takes a new one
    except Timeout:
        what = "another run or window is at work here"
        raise InUse(what, where=file, remedy="Wait for it, or stop it there.") from None


@contextmanager
def survive(failed: dict[str, ScellsegError], key: str, name: str) -> Iterator[None]:
    """Note an error as the failure of the image `name`: the others go on."""
    try:
        with telling("it failed", name, "The other images are not affected.", ScellsegError):
            yield
    except ScellsegError as error:
        failed[key] = error


class ImageJob(NamedTuple):
    """An image, where its masks go, and its own file if there is one."""

    sample: Sample
    masks: Path
    image: Path | None = None

    @property
    def overlay(self) -> Path:
        """Where its overlay goes."""
        return self.masks.with_name(layout.image_name(self.masks) + layout.OVERLAY)

    def hash(self) -> str:
        """Hash of its file; of its pixels, in capitals, if there is none."""
        of_file = self.image and pixel_hash(np.fromfile(self.image, "u1"))
        return of_file or pixel_hash(self.sample.image).upper()


@dataclass
class FolderOutcome:
    """What a run over many images, or an export, came to, or has come to so far."""

    written: int = 0
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
            median = round(np.median([one.diameter or 0 for one in sizes]))
            sizes = [FarFromModel(what, remedy=remedy, options={"diameter": median})]
        return list(dict.fromkeys(others + sizes))


def plan_jobs(
    source: Path, output: Path, suffix: str, **reading: Any
) -> tuple[list[ImageJob], FolderOutcome]:
    """Images of a file or folder, with their outputs; ``reading`` are arguments of `read_image`.

    Files that differ in their ending only have failed already; no masks may lie among images.
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
        for file in files:
            with survive(outcome.failed, str(file), str(file)):
                sample = Sample(file.name, partial(read_image, layout.only(files), **reading))
                jobs.append(ImageJob(sample, place / f"{name}{layout.MASKS}{suffix}", file))
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
    callback: Callable[[], None] = lambda: None,
    **chosen: Any,
) -> None:
    """Segment images and write their masks: those that are missing, or all with ``overwrite``.

    ``output`` is the folder of all masks, with ``segmented.json``, into which ``reading`` goes: how
    the images are read. ``outcome`` is completed on the way, its first doubt warned of at once.
    ``overlays`` are drawn of older masks, too. ``callback`` is called after each read and write.
    """
    asked = {name: chosen.pop(name, None) for name in ("diameter", "flips")}
    how = segmentation.resolve(model.card, **asked).model_dump(include={*asked})
    decoding = model.card.decoding.change(**chosen)
    made_with = how | {"weights": weights_hash(model.network), **decoding.model_dump(), **reading}
    how["precision"] = precision = choose_precision(model.device)
    made_with |= {"resample": resample, "robust": model.card.robust, "dtype": precision.dtype}
    hashes: dict[Path, str] = {}  # of the images, as they were read

    def read(some: list[ImageJob]) -> Iterator[ImageJob]:
        for job in (one._replace(sample=one.sample.without_masks()) for one in some):  # copies
            with survive(outcome.failed, str(job.masks), job.sample.name):
                hashes[job.masks] = job.hash()
                _ = job.sample.image
            callback()
            if str(job.masks) not in outcome.failed:
                yield job

    def write(job: ImageJob, prediction: Prediction) -> None:
        masks = segmentation.decode(prediction, model.representation, decoding, resample=resample)
        if doubt := segmentation.far_from_model(prediction, masks, model.card):
            if not outcome.doubts:
                warnings.warn(doubt, stacklevel=2)
            outcome.doubts.append(doubt)
        replaced = job.masks.exists()
        job.masks.unlink(missing_ok=True)  # until the record speaks of the new ones
        name = json.dumps(str(job.masks.relative_to(output)))
        with (output / layout.HASHES).open("a") as file:
            file.write(f"\n{hashes[job.masks]} {pixel_hash(masks.astype(np.int64))} {name}")
        images.write_labels(job.masks, masks)
        outcome.written += 1
        outcome.cells += int(masks.max())
        if replaced if job.overlay.exists() else overlays:
            write_overlay(job.overlay, job.sample.image, masks)

    def segment(group: list[ImageJob]) -> None:
        predictions = segmentation.predict(model, [job.sample for job in group], **how)
        for done, job in enumerate(group):
            prediction = None
            with survive(outcome.failed, str(job.masks), job.sample.name):
                prediction = next(predictions)
                write(job, prediction)
            if prediction is None and len(group) > 1:  # one of them is at fault
                del outcome.failed[str(job.masks)]
                for one in group[done:]:
                    segment([one])
                return
            callback()
            progress.update()

    with alone(output / layout.RECORD):
        known, done = _claim(output, jobs, made_with, overwrite), list[ImageJob]()
        for job in () if overwrite else jobs:
            with survive(outcome.failed, str(job.masks), job.sample.name):
                done += [job] if is_done(job, known.get(job.masks)) else []
        over = {*outcome.failed, *(str(job.masks) for job in done)}
        undone = [job for job in jobs if str(job.masks) not in over]
        drawn = [job for job in done if overlays and not job.overlay.exists()]
        outcome.already = len(done)
        with bar(len(undone) + len(drawn), "segment", "image") as progress:
            progress.refresh()  # shown at once: the first image may take long
            for start in range(0, len(undone), GROUP):
                segment(list(read(undone[start : start + GROUP])))
                progress.update(min(start + GROUP, len(undone)) - progress.n)  # those that failed
            for job in read(drawn):
                with survive(outcome.failed, str(job.masks), job.sample.name):
                    write_overlay(job.overlay, job.sample.image, read_masks(job.masks))
                progress.update()


def read_record(output: Path) -> dict[str, Any]:
    """What the masks of a folder were made with, and the hashes of image and ``masks`` by file."""
    if not (file := output / layout.RECORD).exists():
        return {}
    lines = output / layout.HASHES
    text = lines.read_text() if lines.exists() else ""
    found = re.findall(r'^(\w{64}) (\w{64}) (".*")$', text, re.MULTILINE)  # but what a kill cut off
    with suppress(ValueError, TypeError, RecursionError):  # ours are written whole
        if "weights" in (record := dict(json.loads(file.read_bytes()))):
            return record | {"masks": {output / json.loads(name): pair for *pair, name in found}}
    raise DatasetError("this file is not ours", where=file, remedy="Move it away, or go elsewhere.")


def _claim(output: Path, jobs: list[ImageJob], made_with: dict, overwrite: bool) -> dict:
    """Hashes of image and masks, by the file of masks, unless masks there were made otherwise."""
    before, made_with = read_record(output), json.loads(json.dumps(made_with))
    hashes = before.get("masks", {})
    ours = {job.masks for job in jobs}
    there = {file for file in ours | hashes.keys() if file.exists()}
    pairs = {name: (before.get(name, "unknown"), now) for name, now in made_with.items()}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not differing:
        return hashes
    if there and (not overwrite or there - ours):
        words = [f"{k} {was} there, {now} asked for" for k, (was, now) in differing.items()]
        may = ": there are masks of other images, too." if there - ours else ", or {overwrite}."
        how = "by an earlier version" if before and made_with.keys() - before else "otherwise"
        what = f"the folder holds masks made {how}: {'; '.join(words)}"
        remedy, options = f"Give another folder as the output{may}", {"overwrite": True}
        facts = {"differing": differing, "replaceable": not there - ours}
        raise MasksMadeOtherwise(what, where=output, remedy=remedy, options=options, **facts)
    own = [file for job in jobs for file in (job.masks, job.overlay)]
    for file in (*own, output / layout.HASHES):
        file.unlink(missing_ok=True)  # now: what a stopped run leaves would pass for its own
    with whole(output / layout.RECORD) as scratch:
        scratch.write_text(json.dumps(made_with, indent=1) + "\n")
    return {}


def is_done(job: ImageJob, known: list[str] | None) -> bool:
    """Whether whole masks of this very image are there; DatasetError if they are another's."""
    with suppress(ImageError):  # there are none, or they are damaged
        masks = pixel_hash(read_pixels(job.masks).astype(np.int64))
        if known and known[1] == masks:
            return known[0] == job._replace(sample=job.sample.without_masks()).hash()
        what = "these masks are not of a run into this folder, or were changed since"
        remedy = "Move them away, or {overwrite}."
        raise DatasetError(what, where=job.masks, remedy=remedy, options={"overwrite": True})
    return False


def score_files(pairs: list[tuple[Path, Sample]]) -> pd.DataFrame:
    """Score label files, one pair in memory at a time; the frame of `evaluate`."""
    each = progress_bar(pairs, len(pairs), "evaluate")
    frames = [evaluate([read_masks(file)], [replace(one)]) for file, one in each]  # copies: freed
    return pd.concat(frames, ignore_index=True)


def score_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each image, their mean and SD: scores, and errors of the measurements."""
    parts = frame.groupby("image", sort=False)
    means = pd.DataFrame({name: summary(part) for name, part in parts}).T
    columns = ["AP@0.5", "AP@0.75", "mAP", "mAJI", "AJI", *(f"{name} error" for name in MEASURED)]
    table = means.join(parts[["aji_standard", *MEASURED]].first()).set_axis(columns, axis=1)
    return pd.concat([table, table.agg(["mean", "std"]).set_axis([f"mean of {len(means)}", "SD"])])

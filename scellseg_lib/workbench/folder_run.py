"""What the inference panel does beside its display: a run over a folder.

A run is that of ``scellseg segment`` (see `files.folder`), with the same files as results: either
goes on
with what the other has begun.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock, get_ident
from typing import Any

from scellseg_lib.errors import DatasetError, MasksMadeOtherwise
from scellseg_lib.files.folder import FolderOutcome, ImageJob, plan_jobs, segment_jobs
from scellseg_lib.files.layout import RECORD
from scellseg_lib.model import Model
from scellseg_lib.segmentation import FarFromModel
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.session import SETTINGS, SegmentationSettings

SUFFIX = ".tif"
CHANNELS = "Choose under Channels what to segment."
PLAIN = (
    (r"Name the one to segment and that of.*", CHANNELS),
    (r"Name others, such as channels=.*", CHANNELS),
    (r"(Say axes=|Give page=|Give one letter).*", "Save the plane to segment as its own file."),
    (r"Give another folder as the output.*", "Choose another folder for the masks."),
    (r"Give diameter=(\d+).*", r"Set the diameter of the cells to \1 px and try again."),
    (r"the folder holds masks made otherwise", "there are masks of other settings"),
    (r"weights \S+ there, \S+ asked for", "another model was used"),
    (r"\bresample (?=\w+ there)", "full size "),
    (r"\bflips (?=\w+ there)", "four views "),
    *((rf"\b{name}\b", setting.label.lower()) for name, setting in SETTINGS.items()),
    (r" there, ([^;.]*(?:\.\d+)?) asked for", r" there, \1 now"),
)
"""What the library says to those who call it, and what this panel says instead."""


def reworded(message: object, folder: Path | None = None) -> str:
    """Words of the library in those of the panel; paths within `folder` are shortened."""
    text = str(message)
    for pattern, words in PLAIN:
        text = re.sub(pattern, words, text, flags=re.DOTALL)
    return text if folder is None else text.replace(f"{folder}{os.sep}", "")


@dataclass(frozen=True)
class Place:
    """Where images are and where their masks go."""

    source: Path
    """A file or a folder."""
    output: Path

    @property
    def root(self) -> Path:
        """Folder of the images."""
        return self.source if self.source.is_dir() else self.source.parent

    def plan(self, reading: dict[str, Any]) -> tuple[list[ImageJob], FolderOutcome]:
        """As `plan_jobs`; DatasetError also where there is no such file or folder."""
        if not self.source.exists():
            raise DatasetError(
                "there is no such file or folder",
                where=self.source,
                remedy="Check how it is written; on a server it is a path of the server.",
            )
        return plan_jobs(self.source, self.output, SUFFIX, **reading)

    def image_of(self, job: ImageJob) -> Path:
        """File of a job's image."""
        return self.root / job.masks.parent.relative_to(self.output) / job.sample.name

    def record(self) -> dict[str, Any]:
        """What the masks there were made with, by ``segmented.json``; empty where nobody says."""
        try:
            record = json.loads((self.output / RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) and "weights" in record else {}


@dataclass
class FolderRun:
    """Segments all images of a place that have no masks yet; the work of a `Job`.

    It can be paused and cancelled between two images; what is written stays, and another run goes
    on from there.

    Parameters
    ----------
    place : Place
    model : Model
    settings : SegmentationSettings
    anew : bool
        Replace what exists.

    Attributes
    ----------
    outcome : FolderOutcome
        So far.
    doubts : list of str
        What was warned of.
    """

    place: Place
    model: Model
    settings: SegmentationSettings
    anew: bool = False
    outcome: FolderOutcome = field(default_factory=FolderOutcome)
    doubts: list[str] = field(default_factory=list)

    def __call__(self, job: Job) -> FolderOutcome:
        """Run; raises what `segment_jobs` does, and Cancelled."""
        jobs, planned = self.place.plan(self.settings.reading)
        twins, there = len(planned.failed), sum(one.masks.exists() for one in jobs)
        self.outcome = watched = planned
        watched.already = 0 if self.anew else there

        def tell(waits: bool = False) -> None:
            done = watched.already + watched.segmented + len(watched.failed) - twins
            failed = len(watched.failed)
            job.report(done, len(jobs), cells=watched.cells, failed=failed, waits=waits)

        card = self.model.card.model_copy(update={"decoding": self.settings.decoding})
        tell()
        with _alone(partial(tell, waits=True)), self._doubts_kept():
            tell()
            segment_jobs(
                jobs,
                replace(self.model, card=card),
                self.place.output,
                watched,
                reading=self.settings.reading | {"format": "tiff"},
                overwrite=self.anew,
                diameter=self.settings.diameter,
                resample=self.settings.resample,
                flips=self.settings.flips,
                callback=tell,
            )
        tell()
        return watched

    @contextmanager
    def _doubts_kept(self) -> Iterator[None]:
        mine = get_ident()

        def keep(message: Any, *rest: Any, **options: Any) -> None:
            if get_ident() == mine:
                self.doubts.append(reworded(message, self.place.root))
            else:
                before(message, *rest, **options)

        with warnings.catch_warnings():
            before = warnings.showwarning
            warnings.simplefilter("always", FarFromModel)
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = keep
            yield


_RUNS = Lock()


@contextmanager
def _alone(waits: Callable[[], None]) -> Iterator[None]:
    """One run at a time, the others wait: warnings have one handler for all threads, and of two
    runs that overlap the last would leave that of the first behind.
    """
    while not _RUNS.acquire(timeout=0.2):
        waits()
    try:
        yield
    finally:
        _RUNS.release()


def made_otherwise(error: BaseException | None) -> bool:
    """Whether a run was refused since masks of other settings are there, which it may replace."""
    return isinstance(error, MasksMadeOtherwise) and error.replaceable

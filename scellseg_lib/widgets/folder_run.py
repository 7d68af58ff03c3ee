"""What the inference panel does beside its display: models to choose, and a run over a folder.

A run is that of ``scellseg segment`` (see `batch`), with the same files as results: either goes on
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
from pathlib import Path
from typing import Any

from scellseg_lib import batch, readers, released
from scellseg_lib.card import Card
from scellseg_lib.errors import DatasetError
from scellseg_lib.model import Model, load_model, packaged
from scellseg_lib.representation import Decoding
from scellseg_lib.segment import FarFromModel, Prediction, predict
from scellseg_lib.widgets.jobs import Cancelled, Job
from scellseg_lib.widgets.thresholds import SETTINGS

SUFFIX = ".tif"
TITLES = {
    "scellseg": "Scellseg",
    "cellpose": "Cellpose",
    "hover": "HoVer",
    "unet2": "U-Net with 2 classes",
    "unet3": "U-Net with 3 classes",
}
PLAIN = (
    (r"Name the one to segment and that of.*", "Choose under Channels what to segment."),
    (r"Name others, such as channels=.*", "Choose under Channels what to segment."),
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
class Choice:
    """A model that can be chosen."""

    title: str
    name: str | Path
    """As `load_model` takes it: a network or a file."""
    weights: str = "packaged"

    def load(self) -> Model:
        """Load it; ModelError where that cannot be."""
        return load_model(self.name, self.weights)

    @property
    def file(self) -> str:
        """Name for the table of rounds."""
        return self.name.name if isinstance(self.name, Path) else f"{self.name} ({self.weights})"


def choices(folder: Path | None) -> list[Choice]:
    """Models: those in the experiment's folder, the newest first; packaged; the authors' own.

    The last are listed where they were fetched before: 102 MB are not asked for in silence.
    """
    own = list(folder.glob("[!.]*.safetensors")) if folder and folder.is_dir() else []
    own.sort(key=lambda file: (-file.stat().st_mtime, file.name))
    found = [Choice(f"Yours: {file.stem}", file) for file in own]
    ours: dict[str, list[tuple[int, Path]]] = {name: [] for name in TITLES}
    for file in packaged():
        name, width = file.stem.rsplit("_", 1)
        ours[name].append((-int(width), file))
    for name, files in ours.items():
        for number, (_, file) in enumerate(sorted(files)):
            found.append(Choice(f"{TITLES[name]}{', smaller and quicker' * (number > 0)}", file))
    for name in released.WEIGHTS_SHA256:
        if released.weights_file(name).is_file():
            found.append(Choice(f"{TITLES[name]}, the authors' own", name, "released"))
    return found


def described(card: Card) -> str:
    """Where a model comes from, in a sentence or two."""
    learnt = ", ".join(f"{one.name} ({one.images})" for one in card.training_data)
    origin = card.origin.split("; started from")[0] or "of unknown origin"
    text = f"{TITLES.get(card.architecture, card.architecture)}, {origin}. "
    text += f"Made for cells {card.diameter:g} px wide. "
    text += f"Has learnt from these sets (images): {learnt}. " if learnt else ""
    return text + (f"Terms of use: {card.licence}." if card.licence else "")


@dataclass(frozen=True)
class Settings:
    """How images are segmented."""

    diameter: float
    decoding: Decoding = field(default_factory=Decoding)
    resample: bool = True
    flips: bool = False
    channels: tuple[str, str] | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `readers.read_image`."""
        return {"channels": self.channels, "axes": None, "page": None}

    @property
    def seen(self) -> tuple[Any, ...]:
        """What the network's answer depends on; the rest is decoded without it."""
        return self.diameter, self.flips, self.channels


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

    def plan(self, reading: dict[str, Any]) -> tuple[list[batch.Job], batch.Outcome]:
        """As `batch.plan`; DatasetError also where there is no such file or folder."""
        if not self.source.exists():
            raise DatasetError(
                "there is no such file or folder",
                where=self.source,
                remedy="Check how it is written; on a server it is a path of the server.",
            )
        return batch.plan(self.source, self.output, SUFFIX, **reading)

    def image_of(self, job: batch.Job) -> Path:
        """File of a job's image."""
        return self.root / job.masks.parent.relative_to(self.output) / job.sample.name

    def record(self) -> dict[str, Any]:
        """What the masks there were made with, by ``segmented.json``; empty where nobody says."""
        try:
            record = json.loads((self.output / batch.RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) and "weights" in record else {}


def predict_one(model: Model, image: Path, settings: Settings) -> Prediction:
    """What the network says of one file; ImageError where it cannot be read."""
    planes = readers.read_image(image, **settings.reading)
    options: dict[str, Any] = {"diameter": settings.diameter, "flips": settings.flips}
    return replace(next(predict(model, [planes], **options)), name=image.name)


class _Stopped(BaseException):
    """A cancelled run on its way through `batch`, which survives all Exceptions of one image."""


@dataclass
class _Watched(batch.Outcome):
    """An outcome that tells how far it is, after each image that is read, and written."""

    tell: Callable[[], None] = lambda: None

    @contextmanager
    def survives(self, job: batch.Job) -> Iterator[None]:
        with super().survives(job):
            yield
        self.tell()


@dataclass
class FolderRun:
    """Segments all images of a place that have no masks yet; the work of a `Job`.

    It can be paused and cancelled between two images; what is written stays, and another run goes
    on from there.

    Parameters
    ----------
    place : Place
    model : Model
    settings : Settings
    anew : bool
        Replace what exists.

    Attributes
    ----------
    outcome : batch.Outcome
        So far.
    doubts : list of str
        What was warned of.
    """

    place: Place
    model: Model
    settings: Settings
    anew: bool = False
    outcome: batch.Outcome = field(default_factory=batch.Outcome)
    doubts: list[str] = field(default_factory=list)

    def __call__(self, job: Job) -> batch.Outcome:
        """Run; raises what `batch.segment_jobs` does, and Cancelled."""
        jobs, planned = self.place.plan(self.settings.reading)
        twins, there = len(planned.failed), sum(one.masks.exists() for one in jobs)
        self.outcome = watched = _Watched(failed=planned.failed)
        watched.already = 0 if self.anew else there

        def tell() -> None:
            done = watched.already + watched.segmented + len(watched.failed) - twins
            try:
                job.report(done, len(jobs), cells=watched.cells, failed=len(watched.failed))
            except Cancelled:
                raise _Stopped from None

        watched.tell = tell
        card = self.model.card.model_copy(update={"decoding": self.settings.decoding})
        try:
            tell()
            with self._doubts_kept():
                batch.segment_jobs(
                    jobs,
                    replace(self.model, card=card),
                    self.place.output,
                    watched,
                    reading=self.settings.reading | {"format": "tiff"},
                    overwrite=self.anew,
                    diameter=self.settings.diameter,
                    resample=self.settings.resample,
                    flips=self.settings.flips,
                )
            tell()
        except _Stopped:
            raise Cancelled from None
        return watched

    @contextmanager
    def _doubts_kept(self) -> Iterator[None]:
        def keep(message: Any, *_: Any, **__: Any) -> None:
            self.doubts.append(reworded(message, self.place.root))

        with warnings.catch_warnings():
            warnings.simplefilter("always", FarFromModel)
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = keep
            yield


def made_otherwise(error: BaseException | None) -> bool:
    """Whether a run was refused since masks of other settings are there, which it may replace."""
    told = isinstance(error, DatasetError) and "masks made otherwise" in error.what
    return told and "other masks would stay" not in str(error)

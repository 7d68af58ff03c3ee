"""Images with the masks that were made of them, for the inspector and the mask editor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scellseg_lib.errors import ScellsegError
from scellseg_lib.files import folder as batch
from scellseg_lib.files import images as readers
from scellseg_lib.model import Model
from scellseg_lib.representation import Decoding
from scellseg_lib.segmentation import Prediction
from scellseg_lib.workbench.folder_run import SUFFIX, Place
from scellseg_lib.workbench.inspected import Inspected
from scellseg_lib.workbench.offered_models import Choice
from scellseg_lib.workbench.session import SegmentationSettings, predict_one

UNCOUNTED = -1


@dataclass(frozen=True, eq=False)
class Result:
    """An image with the masks that were made of it.

    Attributes
    ----------
    name : str
    image, masks : Path
        Their files.
    cells : int or None
        When it was listed: None where the masks cannot be read, `UNCOUNTED` where they had not
        been read yet, see `count_cells`.
    model : Model or None
        That made them; None where that is another one than chosen now.
    model_file, weights : str
        Its name, empty where that is not known, and the hash of its weights.
    settings : SegmentationSettings
        With which they were made.
    """

    name: str
    image: Path
    masks: Path
    cells: int | None
    model: Model | None
    model_file: str
    weights: str
    settings: SegmentationSettings

    def pixels(self) -> np.ndarray:
        """Read the image as it is stored: number[H, W] or [H, W, C]."""
        return readers.read_pixels(self.image)

    def labels(self) -> np.ndarray:
        """Read the masks: int32[H, W], cells 1 to n."""
        return readers.read_masks(self.masks)

    def inspected(self, true: np.ndarray | Callable[[], np.ndarray] | None = None) -> Inspected:
        """For the inspector, against true cells, int32[H, W], where they are known.

        Nothing is read before it is needed. With its model the network runs again (seconds) when
        the image is looked at, so that thresholds can be moved there.
        """
        known = None if self.model is None else self.model.representation
        return Inspected(
            self.name,
            self.pixels,
            true,
            self.labels,
            None if self.model is None else self.predict,
            known,
            self.settings.decoding,
            self.settings.resample,
        )

    def predict(self) -> Prediction | None:
        """Run the network again (seconds), for other thresholds; None without the model."""
        if self.model is None:
            return None
        return predict_one(self.model, self.image, self.settings)


def results(place: Place, jobs: list[batch.Job], chosen: tuple[Choice, Model, str]) -> list[Result]:
    """What is there of some jobs, in their order.

    Parameters
    ----------
    chosen : (Choice, Model, str)
        The model chosen now, loaded, and the hash of its weights.
    """
    record, (choice, model, weights) = place.record(), chosen
    ours = record.get("weights") == weights
    decoding = {name: record[name] for name in Decoding.model_fields if name in record}
    channels = record.get("channels")
    settings = SegmentationSettings(
        record.get("diameter", model.card.diameter),
        Decoding(**decoding),
        record.get("resample", True),
        record.get("flips", False),
        tuple(channels) if channels else None,
    )
    return [
        Result(
            job.masks.name.removesuffix(f"_masks{SUFFIX}"),
            place.image_of(job),
            job.masks,
            known_cells(job.masks),
            model if ours else None,
            choice.file if ours else "",
            record.get("weights", ""),
            settings,
        )
        for job in jobs
        if job.masks.exists()
    ]


def count_cells(masks: Path) -> int | None:
    """Cells in a file of masks; None where it is damaged or gone. It is read once."""
    known = known_cells(masks)
    if known != UNCOUNTED:
        return known
    try:
        version, labels = _version(masks), readers.read_pixels(masks)
    except (ScellsegError, OSError):
        return None
    _COUNTS[version] = int(np.count_nonzero(np.unique(labels)))
    return _COUNTS[version]


def known_cells(masks: Path) -> int | None:
    """As `count_cells`, but `UNCOUNTED` rather than reading a file."""
    try:
        return _COUNTS.get(_version(masks), UNCOUNTED)
    except OSError:
        return None


_COUNTS: dict[tuple[Path, int, int], int] = {}


def _version(file: Path) -> tuple[Path, int, int]:
    state = file.stat()
    return file, state.st_mtime_ns, state.st_size

"""Images with the masks that were made of them, for the inspector and the mask editor."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from scellseg_lib import batch, readers
from scellseg_lib.errors import ScellsegError
from scellseg_lib.model import Model
from scellseg_lib.representation import Decoding
from scellseg_lib.segment import Prediction
from scellseg_lib.widgets.folder_run import SUFFIX, Choice, Place, Settings, predict_one
from scellseg_lib.widgets.inspected import Inspected


@dataclass(frozen=True, eq=False)
class Result:
    """An image with the masks that were made of it.

    Attributes
    ----------
    name : str
    image, masks : Path
        Their files.
    cells : int or None
        None where the masks cannot be read.
    model : Model or None
        That made them; None where that is another one than chosen now.
    model_file, weights : str
        Its name, empty where that is not known, and the hash of its weights.
    settings : Settings
        With which they were made.
    """

    name: str
    image: Path
    masks: Path
    cells: int | None
    model: Model | None
    model_file: str
    weights: str
    settings: Settings

    def pixels(self) -> np.ndarray:
        """Read the image as it is stored: number[H, W] or [H, W, C]."""
        return readers.read_pixels(self.image)

    def labels(self) -> np.ndarray:
        """Read the masks: int32[H, W], cells 1 to n."""
        return readers.read_masks(self.masks)

    def inspected(self, true: np.ndarray | None = None) -> Inspected:
        """For the inspector, against true cells, int32[H, W], where they are known.

        With its model the network runs again (seconds), so that thresholds can be moved there.
        """
        known = None if self.model is None else self.model.representation
        return Inspected(
            self.name,
            self.pixels,
            true,
            self.labels(),
            self.predict(),
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
    decoding = {one.name: record[one.name] for one in fields(Decoding) if one.name in record}
    channels = record.get("channels")
    settings = Settings(
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
            count_cells(job.masks),
            model if ours else None,
            choice.file if ours else "",
            record.get("weights", ""),
            settings,
        )
        for job in jobs
        if job.masks.exists()
    ]


def count_cells(masks: Path) -> int | None:
    """Cells in a file of masks; None where it is damaged."""
    state = masks.stat()
    return _count_cells(masks, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=100_000)
def _count_cells(masks: Path, changed: int, size: int) -> int | None:
    try:
        labels = readers.read_pixels(masks)
    except ScellsegError:
        return None
    return int(np.count_nonzero(np.unique(labels)))

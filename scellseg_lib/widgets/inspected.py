"""What the inspector knows of one image: its cells at the thresholds chosen, and how they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from scellseg_lib.data import Sample, resize
from scellseg_lib.errors import ImageError, MetricError, ScellsegError
from scellseg_lib.model import Model
from scellseg_lib.panels.pipeline import flow_colours
from scellseg_lib.representation import Decoding, Representation
from scellseg_lib.representation.flow import FLOW_SCALE
from scellseg_lib.segment import Cells, Prediction, decode
from scellseg_lib.widgets import comparison
from scellseg_lib.widgets.comparison import Standing
from scellseg_lib.widgets.thresholds import Thresholds
from scellseg_lib.widgets.wording import plain


@dataclass(frozen=True, eq=False)
class Inspected:
    """One image with the cells found in it.

    Attributes
    ----------
    name : str
    image : number[H, W] or number[H, W, C], or a callable that gives one
        Read when it is looked at.
    true : int[H, W], a callable that gives one, or None
        True cells. None: not known.
    predicted : int[H, W]
        Found cells.
    prediction, representation, decoding : optional
        What the network said, how its model turns that into cells, and the thresholds of
        `predicted`. With all three the thresholds can be moved.
    resample : bool
        As in `segment.segment`, which made `predicted`.
    channels : tuple of str
        Names of the channels of the image.
    """

    name: str
    image: np.ndarray | Callable[[], np.ndarray]
    true: np.ndarray | Callable[[], np.ndarray] | None
    predicted: np.ndarray
    prediction: Prediction | None = None
    representation: Representation | None = None
    decoding: Decoding | None = None
    resample: bool = True
    channels: tuple[str, ...] = ()


def inspected(
    found: Cells, sample: Sample, model: Model, decoding: Decoding, resample: bool
) -> Inspected:
    """Entry of an image that was segmented; its pixels are read when they are looked at.

    Parameters
    ----------
    found : Cells
    sample : Sample
        Whose masks, if it has any, are the truth.
    model : Model
        That segmented it.
    decoding : Decoding
        Thresholds of the cells.
    resample : bool
        As given to `segment.segment`.
    """

    def image() -> np.ndarray:
        # The second plane is that of the nuclei, or nothing.
        return np.moveaxis(sample.image, 0, -1) if sample.image[1].any() else sample.image[0]

    return Inspected(
        found.name,
        image,
        None if sample.read_masks is None else lambda: sample.masks,
        found.masks,
        found.prediction,
        model.representation,
        decoding,
        resample,
    )


def network_pictures(prediction: Prediction, representation: Representation) -> dict[str, Any]:
    """What the network said, as pictures of the image's size.

    Returns
    -------
    dict
        "cell probability", float32[H, W] from 0 to 1, and of flows "flow", uint8[H, W, 3].
    """
    maps = resize(prediction.maps, prediction.shape)
    if not representation.vector:
        return {"cell probability": 1 - softmax(maps, axis=0)[0]}
    pictures = {"cell probability": expit(maps[2])}
    if representation.name == "flow":
        pictures["flow"] = np.round(flow_colours(maps[:2] / FLOW_SCALE) * 255).astype(np.uint8)
    return pictures


@dataclass(frozen=True, eq=False)
class Found:
    """Cells of an image at some thresholds, and how they stand against the true ones."""

    masks: np.ndarray
    decoding: Decoding | None
    standing: Standing


class Record:
    """An entry, its true cells read, with the cells at the thresholds chosen last."""

    def __init__(self, entry: Inspected) -> None:
        self.entry, self.true, self._problem = entry, None, ""
        try:
            self.true = entry.true() if callable(entry.true) else entry.true
        except (ScellsegError, OSError) as error:
            self._problem = plain(error)
        self.given = self.now = self._found(np.asarray(entry.predicted), entry.decoding)

    def decoding(self, thresholds: Thresholds) -> Decoding | None:
        """Thresholds that hold for this image; None where they cannot be moved."""
        entry = self.entry
        if entry.prediction is None or entry.representation is None or entry.decoding is None:
            return None
        return thresholds.of(entry.decoding, entry.representation)

    def stale(self, thresholds: Thresholds) -> bool:
        """Whether its cells are of other thresholds than these."""
        wanted = self.decoding(thresholds)
        return wanted is not None and wanted != self.now.decoding

    def apply(self, wanted: Decoding | None) -> Found:
        """Bring the cells to thresholds; None leaves them as they are."""
        entry, now = self.entry, self.now
        if wanted is None or wanted == now.decoding:
            return now
        if wanted == entry.decoding:
            now = self.given  # which may have been corrected by hand
        else:
            assert entry.prediction is not None
            assert entry.representation is not None
            masks = decode(entry.prediction, entry.representation, wanted, resample=entry.resample)
            now = self._found(masks, wanted)
        self.now = now
        return now

    def picture(self) -> np.ndarray:
        """Its image, of the size of its cells.

        Raises
        ------
        ImageError
            For another size.
        """
        image = self.entry.image
        pixels = np.asarray(image() if callable(image) else image)
        height, width = self.entry.predicted.shape
        if pixels.shape[:2] != (height, width):
            raise ImageError(
                f"the image is of {' x '.join(map(str, pixels.shape[:2]))} pixels, the cells found "
                f"in it of {height} x {width}",
                where=self.entry.name,
                remedy="Segment the image again.",
            )
        return pixels

    def _found(self, masks: np.ndarray, decoding: Decoding | None) -> Found:
        name, scores, problem = self.entry.name, None, self._problem
        if self.true is not None:
            try:
                scores = comparison.scores(self.true, masks)
            except MetricError as error:
                problem = f"{name}: {plain(error)}"
        return Found(masks, decoding, Standing(name, scores, problem))

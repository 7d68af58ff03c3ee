"""What the inspector knows of one image: its cells at the thresholds chosen, and how they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, RLock
from typing import Any

import numpy as np

from scellseg_lib.errors import ImageError, MetricError, ScellsegError
from scellseg_lib.metrics import Scores
from scellseg_lib.model import Model
from scellseg_lib.paper.figures.pipeline import flow_colours
from scellseg_lib.representation import Decoding, Representation
from scellseg_lib.representation.flow import FLOW_SCALE
from scellseg_lib.samples import Sample, resize
from scellseg_lib.segmentation import Cells, Prediction, decode
from scellseg_lib.workbench import comparison
from scellseg_lib.workbench.comparison import Standing
from scellseg_lib.workbench.forms import plain
from scellseg_lib.workbench.thresholds import Thresholds


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
    predicted : int[H, W], or a callable that gives one
        Found cells. A callable is called when they are looked at or compared, and their memory is
        then freed, so that many images can be inspected at once.
    prediction, representation, decoding : optional
        What the network said, how its model turns that into cells, and the thresholds of
        `predicted`. With all three the thresholds can be moved. A prediction may be a callable,
        which is called, in the background, when the image is looked at; where it gives None the
        thresholds cannot be moved.
    resample : bool
        As in `segment.segment`, which made `predicted`.
    channels : tuple of str
        Names of the channels of the image.
    """

    name: str
    image: np.ndarray | Callable[[], np.ndarray]
    true: np.ndarray | Callable[[], np.ndarray] | None
    predicted: np.ndarray | Callable[[], np.ndarray]
    prediction: Prediction | Callable[[], Prediction | None] | None = None
    representation: Representation | None = None
    decoding: Decoding | None = None
    resample: bool = True
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Looked(Inspected):
    """An image that is looked at: its cells are read, and what the network said is known."""

    predicted: np.ndarray
    prediction: Prediction | None = None


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
    pictures = {"cell probability": representation.probability(maps)}
    if representation.has_flows:
        pictures["flow"] = np.round(flow_colours(maps[:2] / FLOW_SCALE) * 255).astype(np.uint8)
    return pictures


@dataclass(frozen=True, eq=False)
class Found:
    """Cells of an image at some thresholds, the true ones, and how they stand against these."""

    masks: np.ndarray
    true: np.ndarray | None
    decoding: Decoding | None
    standing: Standing


class Record:
    """An entry with the cells at the thresholds chosen last.

    Attributes
    ----------
    standing : Standing
        How its cells stood when they were looked at last.
    prediction : Prediction or None
        What the network said, once it was asked.
    """

    def __init__(self, entry: Inspected) -> None:
        self.entry = entry
        self.standing = Standing(entry.name, pending=True)
        self.prediction = None if callable(entry.prediction) else entry.prediction
        self._decoding, self._refused = entry.decoding, False
        self._given: Found | None = None
        self._now: Found | None = None
        self._reading, self._asking = RLock(), Lock()
        if not self.is_lazy:
            self.load()

    @property
    def is_lazy(self) -> bool:
        """Whether its cells are read when they are needed."""
        return callable(self.entry.predicted)

    @property
    def unasked(self) -> bool:
        """Whether its thresholds can be moved once the network was asked."""
        return callable(self.entry.prediction) and self.prediction is None and self._movable

    @property
    def given_scores(self) -> Scores | None:
        """Of the cells as they were given, in memory; None without true cells."""
        given = self._given  # another thread may free it meanwhile
        return None if given is None else given.standing.scores

    @property
    def _movable(self) -> bool:
        entry = self.entry
        known = entry.prediction is not None and entry.representation is not None
        return known and entry.decoding is not None and not self._refused

    def layers(self) -> dict[str, Any]:
        """See `network_pictures`; none while the network was not asked."""
        prediction, known = self.prediction, self.entry.representation
        if prediction is None or known is None:
            return {}
        return network_pictures(prediction, known)

    def load(self) -> Found:
        """Cells as they are now, read if need be."""
        with self._reading:
            if self._now is None:
                self._given = self._now = self._read()
                self._seen(self._now)
            return self._now

    def ask(self) -> None:
        """Ask the network if that is needed, which takes seconds; raises what it does."""
        answer = self.entry.prediction
        with self._asking:
            if not self.unasked or not callable(answer):
                return
            given = None
            try:
                given = answer()
            finally:  # also after an error it is not asked again and again
                self.prediction, self._refused = given, given is None

    def rest(self) -> None:
        """Forget what can be had again, to free its memory; `standing` stays."""
        with self._reading:
            if callable(self.entry.prediction):
                self.prediction = None
            if self.is_lazy:
                self._given = self._now = None

    def decoding(self, thresholds: Thresholds) -> Decoding | None:
        """Thresholds that hold for this image; None where they cannot be moved."""
        entry = self.entry
        if not self._movable or entry.representation is None or entry.decoding is None:
            return None
        return thresholds.of(entry.decoding, entry.representation)

    def stale(self, thresholds: Thresholds) -> bool:
        """Whether its cells are of other thresholds than these."""
        wanted = self.decoding(thresholds)
        return wanted is not None and wanted != self._decoding

    def apply(self, wanted: Decoding | None) -> Found:
        """Bring the cells to thresholds; they stay for None, or until the network was asked."""
        with self._reading:
            entry, now = self.entry, self.load()
            if wanted is None or wanted == now.decoding:
                return now
            if wanted == entry.decoding:
                assert self._given is not None
                now = self._given  # which may have been corrected by hand
            elif self.prediction is None:
                return now
            else:
                assert entry.representation is not None
                maps, known = self.prediction, entry.representation
                masks = decode(maps, known, wanted, resample=entry.resample)
                now = self._found(masks, now.true, wanted)
            self._now = now
            self._seen(now)
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
        height, width = self.load().masks.shape
        if pixels.shape[:2] != (height, width):
            raise ImageError(
                f"the image is of {' x '.join(map(str, pixels.shape[:2]))} pixels, the cells found "
                f"in it of {height} x {width}",
                where=self.entry.name,
                remedy="Segment the image again.",
            )
        return pixels

    def _seen(self, found: Found) -> None:
        self.standing, self._decoding = found.standing, found.decoding

    def _read(self) -> Found:
        """Cells as they were given; what cannot be read is a problem of this image alone."""
        entry = self.entry
        try:
            masks = np.asarray(entry.predicted() if callable(entry.predicted) else entry.predicted)
        except (ScellsegError, OSError) as error:
            standing = Standing(entry.name, problem=plain(error))
            self._refused = True  # without cells no thresholds are moved
            return Found(np.zeros(self._size(), np.int32), None, None, standing)
        try:
            true = entry.true() if callable(entry.true) else entry.true
        except (ScellsegError, OSError) as error:
            return Found(masks, None, entry.decoding, Standing(entry.name, problem=plain(error)))
        return self._found(masks, true, entry.decoding)

    def _size(self) -> tuple[int, ...]:
        """Height and width of the image, px; 1 each where it cannot be read either."""
        try:
            image = self.entry.image
            return np.shape(image() if callable(image) else image)[:2]
        except (ScellsegError, OSError):
            return 1, 1

    def _found(
        self, masks: np.ndarray, true: np.ndarray | None, decoding: Decoding | None
    ) -> Found:
        name, scores, problem = self.entry.name, None, ""
        if true is not None:
            try:
                scores = comparison.scores(true, masks)
            except MetricError as error:
                problem = f"{name}: {plain(error)}"
        return Found(masks, true, decoding, Standing(name, scores, problem))

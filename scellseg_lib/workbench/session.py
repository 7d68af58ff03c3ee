"""Look at one image: ask the network, find its cells at thresholds that are moved, suggest them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from html import escape
from itertools import chain
from math import nan
from pathlib import Path
from threading import Lock, RLock
from typing import Any, NamedTuple

import ipywidgets
import numpy as np

from scellseg_lib import metrics
from scellseg_lib.errors import ImageError, ScellsegError
from scellseg_lib.files.images import read_image
from scellseg_lib.metrics import THRESHOLDS, Scores
from scellseg_lib.model import Model
from scellseg_lib.plots import colour_flows
from scellseg_lib.representation import Decoding, Representation
from scellseg_lib.representation.flow import FLOW_SCALE
from scellseg_lib.samples import resize
from scellseg_lib.segmentation import Prediction, decode, far_from_model, predict
from scellseg_lib.workbench.forms import button, plain, show, slider

IOUS = tuple(percent / 100 for percent in range(50, 96))  # IoU thresholds that can be chosen
NOT_READ = np.zeros((0, 0), np.int32)  # cells that are read when they are needed
UNLIKE = "It has not learnt from images like this one: draw or correct some, then Fine-tune it."
STEP, AGAIN = "in step 3, Segment", "then press Suggest cells again."
LOWER = (0, 1, 2, 4)  # by how much the threshold is lower where somebody points at a cell
BACKGROUND = 0.02  # chance of a cell below which there is none
HELP = '<div class="scellseg-help">{}</div>'


@dataclass(frozen=True)
class SegmentationSettings:
    """How images are segmented."""

    diameter: float
    decoding: Decoding = field(default_factory=Decoding)
    resample: bool = True
    flips: bool = False
    channels: tuple[str, str] | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `read_image`."""
        return {"axes": None, "page": None, "channels": self.channels}

    @property
    def seen(self) -> tuple[Any, ...]:
        """What the network's answer depends on; the rest is decoded without it."""
        return self.diameter, self.flips, self.channels


def predict_one(model: Model, image: Path, settings: SegmentationSettings) -> Prediction:
    """What the network says of one file; ImageError where it cannot be read."""
    planes = read_image(image, **settings.reading)
    options: dict[str, Any] = {"diameter": settings.diameter, "flips": settings.flips}
    return replace(next(predict(model, [planes], **options)), name=image.name)


def network_pictures(prediction: Prediction, representation: Representation) -> dict[str, Any]:
    """What the network said, as pictures of the image's size: probability, and perhaps flow."""
    maps = resize(prediction.maps, prediction.shape)
    pictures = {"cell probability": representation.probability(maps)}
    if representation.has_flows:
        pictures["flow"] = np.round(colour_flows(maps[:2] / FLOW_SCALE) * 255).astype(np.uint8)
    return pictures


class Newest:
    """Do work whenever it is asked for, but never twice at once.

    Who asks while it is at work returns at once; it is then done once more for all of them.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work, self._busy, self._is_asked = work, Lock(), False

    def __call__(self) -> None:
        """Ask for the work."""
        self._is_asked = True
        while self._is_asked and self._busy.acquire(blocking=False):
            try:
                self._is_asked = False
                self._work()
            finally:
                self._busy.release()


class Thresholds(ipywidgets.VBox):
    """A slider for each threshold that is read; `on_change` is called after one is moved."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.chosen: dict[str, float] = {}  # by the user; the names are of `Decoding`'s fields
        self._on_change = on_change
        self._shown: dict[str, float] = {}
        self._sliders = {name: self._make_slider(name) for name in Decoding.model_fields}
        self._rows = {
            name: ipywidgets.VBox([slider, ipywidgets.HTML(HELP.format(slider.tooltip))])
            for name, slider in self._sliders.items()
        }
        self._note = ipywidgets.HTML().add_class("scellseg-thresholds-note")
        self._reset = button("Back to the model's own", "thresholds-reset", self.reset)
        super().__init__([*self._rows.values(), self._note, self._reset])
        self.add_class("scellseg-thresholds")
        self.load(None, None)

    def load(
        self, decoding: Decoding | None, representation: Representation | None, note: str = ""
    ) -> None:
        """Show the thresholds that an image had before any was chosen; None: none can be moved."""
        self._loaded = decoding, representation, note
        used = representation.thresholds if decoding and representation else ()
        for name, moved in self._sliders.items():
            show(name in used, self._rows[name])
            if name in used:
                value = self.chosen.get(name, getattr(decoding, name))
                # A model may have been tuned to a value outside of the usual.
                moved.min, moved.max = min(moved.min, value), max(moved.max, value)
                self._shown[name] = moved.value = value
        self._note.value = escape(note)
        show(bool(used), self._reset)
        self._reset.disabled = not self.chosen

    def apply_to(self, decoding: Decoding, representation: Representation) -> Decoding:
        """Thresholds that hold for an image whose own are `decoding`."""
        used = representation.thresholds
        changes = {name: value for name, value in self.chosen.items() if name in used}
        return decoding.model_copy(update=changes)

    def reset(self) -> None:
        """Take all changes back."""
        self.chosen = {}
        self.load(*self._loaded)
        self._on_change()

    def _make_slider(self, name: str) -> ipywidgets.FloatSlider | ipywidgets.IntSlider:
        option = Decoding.model_fields[name]
        is_whole, has_bound = option.annotation is int, bool(option.metadata)
        low, high, step = (0, 500, 1) if is_whole else (0, 3, 0.05) if has_bound else (-6, 6, 0.1)
        words = name.replace("_", "-"), str(option.title), option.description
        made = slider(*words, (low, high, step))
        made.observe(lambda change: self._chose(name, change["new"]), "value")
        return made

    def _chose(self, name: str, value: float) -> None:
        if value == self._shown.get(name):
            return  # it was loaded, not moved
        # The browser adds steps up in binary: 0.30000000000000004 is 0.3.
        value = self._shown[name] = round(value, 6)
        self.chosen = {**self.chosen, name: value}
        self._reset.disabled = False
        self._on_change()


@dataclass(frozen=True, eq=False)
class FoundCells:
    """Cells of an image at some thresholds, and how they stand against the true ones."""

    name: str
    predicted: np.ndarray = field(default_factory=lambda: NOT_READ)
    true: np.ndarray | None = None
    decoding: Decoding | None = None
    scores: Scores | None = None  # at `IOUS`; None where no true cells are known
    problem: str = ""  # why the image cannot be compared, in words; empty where it can
    is_pending: bool = False  # whether nobody has looked at the cells yet
    prediction: Prediction | None = None  # what the network said, once it was asked
    errors: dict[str, float] = field(default_factory=dict)  # of `metrics.MEASURED`
    cells: int = 0  # number of predicted ones
    learnt: bool = False  # whether the model has learnt from this image, or may have

    def ap(self, iou: float) -> float:
        """Average precision at one of `IOUS`; nan without scores."""
        return float(self.scores.ap[IOUS.index(round(iou, 2))]) if self.scores else nan

    @property
    def mean_ap(self) -> float:
        """Mean of the average precision over 0.50, 0.55 .. 0.95; nan without scores."""
        return float(np.mean([self.ap(iou) for iou in THRESHOLDS]))

    def rank(self, iou: float) -> tuple[int, float, float]:
        """Key to sort images: the worst first, those without scores last."""
        if self.scores is None:
            return 2 if self.problem else 1, 0, 0
        return 0, self.ap(iou), self.mean_ap


@dataclass(eq=False)
class InspectedImage:
    """One image with its cells at the thresholds chosen last; callables give what is not kept."""

    name: str
    image: np.ndarray | Callable[[], np.ndarray]  # number[H, W] or number[H, W, C]
    true: np.ndarray | Callable[[], np.ndarray] | None  # true cells, int[H, W]. None: not known
    predicted: np.ndarray | Callable[[], np.ndarray]  # found cells, int[H, W]
    prediction: Prediction | Callable[[], Prediction | None] | None = None
    """What the network said. With it, `representation` and `decoding` the thresholds can be moved;
    where a callable gives None they cannot."""
    representation: Representation | None = None
    decoding: Decoding | None = None  # thresholds of `predicted`
    resample: bool = True
    learnt: bool = False  # whether the model has learnt from it, or may have: its scores flatter

    def __post_init__(self) -> None:
        self.found = FoundCells(self.name, decoding=self.decoding, is_pending=True)
        """As they were looked at last; their arrays may be freed meanwhile."""
        self.given_scores: Scores | None = None  # of the cells as they were given
        self.said = None if callable(self.prediction) else self.prediction  # once it was asked
        needed = (self.prediction, self.representation, self.decoding)
        self._is_movable = all(one is not None for one in needed)
        self._reading, self._asking = RLock(), Lock()

    @property
    def is_unasked(self) -> bool:
        """Whether its thresholds can be moved once the network was asked."""
        return self._is_movable and self.said is None and callable(self.prediction)

    def layers(self) -> dict[str, Any]:
        """See `network_pictures`; none while the network was not asked."""
        said, known = self.said, self.representation
        return {} if said is None or known is None else network_pictures(said, known)

    def load(self) -> FoundCells:
        """Cells as they are now, read if need be."""
        with self._reading:
            if self.found.predicted is NOT_READ:
                self.found = self._read()
            return self.found

    def ask(self) -> None:
        """Ask the network if that is needed, which takes seconds; raises what it does."""
        with self._asking:
            if not self.is_unasked or not callable(self.prediction):
                return
            said = None
            try:
                said = self.prediction()
            finally:  # also after an error it is not asked again and again
                self.said, self._is_movable = said, said is not None

    def rest(self) -> None:
        """Forget what can be had again, to free its memory; the scores stay."""
        with self._reading:
            if callable(self.prediction):
                self.said = None
            if callable(self.predicted):
                self.found = replace(self.found, predicted=NOT_READ, true=None)

    def choose_decoding(self, thresholds: Thresholds) -> Decoding | None:
        """Thresholds that hold for this image; None where they cannot be moved."""
        if not self._is_movable or self.representation is None or self.decoding is None:
            return None
        return thresholds.apply_to(self.decoding, self.representation)

    def is_stale(self, thresholds: Thresholds) -> bool:
        """Whether its cells are of other thresholds than these."""
        wanted = self.choose_decoding(thresholds)
        return wanted is not None and wanted != self.found.decoding

    def apply(self, wanted: Decoding | None) -> FoundCells:
        """Bring the cells to thresholds; they stay for None, or until the network was asked."""
        with self._reading:
            found, said = self.load(), self.said
            if wanted is None or wanted == found.decoding:
                return found
            if wanted == self.decoding:
                self.found = self._read()  # they may have been corrected by hand
            elif said is not None and self.representation is not None:
                masks = decode(said, self.representation, wanted, resample=self.resample)
                self.found = self._compare(masks, found.true, wanted)
            return self.found

    def read_picture(self) -> tuple[np.ndarray, str]:
        """Its image; or black, for the cells to be seen on, and why it cannot be had."""
        shape = self.load().predicted.shape
        try:
            pixels = _get(self.image)
            if pixels.shape[:2] == shape:
                return pixels, ""
            what = f"the image is of {pixels.shape[:2]} pixels, the cells found in it of {shape}"
            raise ImageError(what, where=self.name, remedy="Segment the image again.")
        except (ScellsegError, OSError) as error:
            return np.zeros(shape, np.uint8), plain(error)

    def _read(self) -> FoundCells:
        """Cells as they were given; what cannot be read is a problem of this image alone."""
        try:
            masks = _get(self.predicted)
        except (ScellsegError, OSError) as error:
            self._is_movable = False  # without cells no thresholds are moved
            blank = np.zeros((1, 1), np.int32)
            with suppress(ScellsegError, OSError):  # of the size of the image, if that can be read
                blank = np.zeros(_get(self.image).shape[:2], np.int32)
            return FoundCells(self.name, blank, problem=plain(error))
        found = self._compare(masks, self.true, self.decoding)
        self.given_scores = found.scores
        return found

    def _compare(self, masks: np.ndarray, true: Any, decoding: Decoding | None) -> FoundCells:
        known, scores, problem, errors = None, None, "", dict[str, float]()
        if true is not None:
            try:
                known = _get(true)
                scores = metrics.scores(known, masks, IOUS)
                errors = metrics.measurement_errors(known, masks)
            except (ScellsegError, OSError) as error:
                problem = plain(error)
        n, given = int(np.count_nonzero(np.bincount(masks.ravel())[1:])), (known, decoding, scores)
        said: dict[str, Any] = {"errors": errors, "cells": n, "learnt": self.learnt}
        return FoundCells(self.name, masks, *given, problem, **said)


def _get(given: Any) -> np.ndarray:
    return np.asarray(given() if callable(given) else given)


class Suggestion(NamedTuple):
    """What a model finds in an image, and why that may be wrong."""

    model: str
    masks: np.ndarray
    pictures: dict[str, np.ndarray]
    pick: Callable[[int, int], np.ndarray]  # the cell at a pixel (y, x), bool[H, W], perhaps empty
    doubt: str = ""


def find_cells(image: Path, name: str, model: Model, settings: SegmentationSettings) -> Suggestion:
    """Let a model look at an image, which takes seconds; raises what `predict_one` does."""
    prediction, known = predict_one(model, image, settings), model.representation
    masks = decode(prediction, known, settings.decoding, resample=settings.resample)
    pictures = network_pictures(prediction, known)

    @cache
    def lower_by(change: float) -> np.ndarray:
        first, own = known.thresholds[0], settings.decoding
        low = own.model_copy(update={first: getattr(own, first) - change, "flow_threshold": 0})
        return decode(prediction, known, low, resample=settings.resample)

    def pick(y: int, x: int) -> np.ndarray:
        """Find it at the highest threshold at which there is one, unless it is background."""
        is_cell = pictures["cell probability"][y, x] > BACKGROUND
        tried = chain([masks], map(lower_by, LOWER if is_cell else ()))
        found = next((one for one in tried if one[y, x]), np.zeros_like(masks))
        return (found == found[y, x]) & (found > 0)

    return Suggestion(name, masks, pictures, pick, _doubt(prediction, masks, model))


def _doubt(prediction: Prediction, masks: np.ndarray, model: Model) -> str:
    """Words for what `segment` warns of (`FarFromModel`), and for masks without cells."""
    wanted, far = prediction.diameter, far_from_model(prediction, masks, model.card)
    words = []
    if not masks.any():
        threshold = Decoding.model_fields[model.representation.thresholds[0]].title
        words.append(
            f"It looked for cells {wanted:g} px wide: set the diameter to that of yours {STEP}, "
            f"or lower the threshold {threshold}, {AGAIN}"
        )
    if far and far.diameter is not None:
        words.append(
            f"They are {far.diameter:.0f} px wide, and it looked for cells of {wanted:g} px: set "
            f"the diameter to {far.diameter:.0f} {STEP}, {AGAIN}"
        )
    if far and far.style_distance is not None:
        words.append(UNLIKE)
    return " ".join(words)

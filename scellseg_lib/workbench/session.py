"""Look at one image: ask the network, find its cells at thresholds that are moved, suggest them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
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
from scellseg_lib.plots import flow_colours
from scellseg_lib.representation import Decoding, Representation
from scellseg_lib.representation.flow import FLOW_SCALE
from scellseg_lib.samples import resize
from scellseg_lib.segmentation import Prediction, decode, far_from_model, predict
from scellseg_lib.workbench.editor import MaskEditor, operations
from scellseg_lib.workbench.editor.journal import Edit
from scellseg_lib.workbench.editor.patches import apply
from scellseg_lib.workbench.forms import Message, button, count, plain
from scellseg_lib.workbench.jobs import Job

IOUS = tuple(percent / 100 for percent in range(50, 96))
"""IoU thresholds that can be chosen: every hundredth from 0.50 to 0.95."""
STEP, AGAIN = "in step 3, Segment", "then press Suggest cells again."


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
        return {"channels": self.channels, "axes": None, "page": None}

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
    """What the network said, as pictures of the image's size.

    That is "cell probability", float32[H, W] from 0 to 1, and of flows "flow", uint8[H, W, 3].
    """
    maps = resize(prediction.maps, prediction.shape)
    pictures = {"cell probability": representation.probability(maps)}
    if representation.has_flows:
        pictures["flow"] = np.round(flow_colours(maps[:2] / FLOW_SCALE) * 255).astype(np.uint8)
    return pictures


# --- thresholds that are moved ------------------------------------------------------------------


class _Setting(NamedTuple):
    """Slider of one field of `Decoding`."""

    label: str
    meaning: str
    low: float
    high: float
    step: float


SETTINGS = {
    "cell_threshold": _Setting("Cell probability", "Higher: fewer, smaller cells.", -6, 6, 0.1),
    "flow_threshold": _Setting(
        "Flow error", "Lower: only cells of clear shape stay; but 0: all stay.", 0, 3, 0.05
    ),
    "interior_threshold": _Setting("Inside of cells", "Higher: fewer, smaller cells.", -6, 6, 0.1),
    "border_threshold": _Setting("Border of cells", "Higher: thinner borders.", -6, 6, 0.1),
    "min_size": _Setting(
        "Smallest cell", "Pixels, in an image whose cells are 30 pixels wide.", 0, 500, 1
    ),
}


class Newest:
    """Do work whenever it is asked for, but never twice at once.

    Who asks while it is at work returns at once; when that is done, it is done once more, for all
    who asked meanwhile. The work reads for itself what is wished.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work, self._lock = work, Lock()
        self._is_asked = self._is_busy = False

    def __call__(self) -> None:
        """Ask for the work."""
        with self._lock:
            self._is_asked = True
            if self._is_busy:
                return
            self._is_busy = True
        try:
            while self._take():
                self._work()
        except BaseException:
            with self._lock:
                self._is_busy = False
            raise

    def _take(self) -> bool:
        """Whether somebody has asked since the work began; if not, it is over."""
        with self._lock:
            self._is_busy, self._is_asked = self._is_asked, False
            return self._is_busy


class Thresholds(ipywidgets.VBox):
    """One slider for each threshold that a representation reads.

    `on_change` is called after the user has moved a slider or taken all back.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.chosen: dict[str, float] = {}
        """What the user has chosen, by the names of `Decoding`'s fields."""
        self._on_change = on_change
        self._shown: dict[str, float] = {}
        self._sliders = {name: self._make_slider(name) for name in SETTINGS}
        self._rows = {
            name: ipywidgets.VBox([slider, ipywidgets.HTML(MEANING.format(SETTINGS[name].meaning))])
            for name, slider in self._sliders.items()
        }
        self._note = ipywidgets.HTML().add_class("scellseg-thresholds-note")
        self._reset = button(
            "Back to the model's own",
            "thresholds-reset",
            self.reset,
            tip="Take all changes of the thresholds back",
        )
        super().__init__([*self._rows.values(), self._note, self._reset])
        self.add_class("scellseg-thresholds")
        self.load(None, None)

    def load(
        self, decoding: Decoding | None, representation: Representation | None, note: str = ""
    ) -> None:
        """Show the thresholds of an image, without a call of `on_change`.

        Parameters
        ----------
        decoding : Decoding or None
            Before anything was chosen. None: nothing can be moved.
        representation : Representation or None
            That reads it.
        note : str
            Said below the sliders, or in their place: why nothing can be moved.
        """
        self._loaded = decoding, representation, note
        used = representation.thresholds if decoding and representation else ()
        for name, slider in self._sliders.items():
            self._rows[name].layout.display = None if name in used else "none"
            if name in used:
                value = self.chosen.get(name, getattr(decoding, name))
                # A model may have been tuned to a value outside of the usual.
                slider.min, slider.max = min(slider.min, value), max(slider.max, value)
                self._shown[name] = value
                slider.value = value
        self._note.value = escape(note)
        self._reset.layout.display = None if used else "none"
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
        setting = SETTINGS[name]
        is_whole = isinstance(setting.step, int)
        slider = (ipywidgets.IntSlider if is_whole else ipywidgets.FloatSlider)(
            value=setting.low,
            min=setting.low,
            max=setting.high,
            step=setting.step,
            description=setting.label,
            readout_format="d" if is_whole else ".2f",
            tooltip=setting.meaning,
            style={"description_width": "110px"},
            layout={"width": "100%"},
        )
        slider.observe(lambda change: self._chose(name, change["new"]), "value")
        return slider.add_class(f"scellseg-{name.replace('_', '-')}")

    def _chose(self, name: str, value: float) -> None:
        if value == self._shown.get(name):
            return  # it was loaded, not moved
        # The browser adds steps up in binary: 0.30000000000000004 is 0.3.
        value = self._shown[name] = round(value, 6)
        self.chosen = {**self.chosen, name: value}
        self._reset.disabled = False
        self._on_change()


MEANING = '<div style="line-height:1.3;color:#595959;margin:0 0 4px 4px">{}</div>'


# --- one image, its cells, and how they stand -----------------------------------------------------


@dataclass(frozen=True, eq=False)
class InspectedImage:
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
        As in `segment`, which made `predicted`.
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
class Standing:
    """How well one image is segmented."""

    name: str
    scores: Scores | None = None
    """At `IOUS`; None where no true cells are known."""
    problem: str = ""
    """Why the image cannot be compared, in words; empty where it can."""
    is_pending: bool = False
    """Whether nobody has looked at its cells yet."""

    def ap(self, iou: float) -> float:
        """Average precision at one of `IOUS`; nan without scores."""
        return float(self.scores.ap[IOUS.index(round(iou, 2))]) if self.scores else nan

    @property
    def mean_ap(self) -> float:
        """Mean of the average precision over 0.50, 0.55 .. 0.95; nan without scores."""
        return float(np.mean([self.ap(iou) for iou in THRESHOLDS]))


@dataclass(frozen=True, eq=False)
class FoundCells:
    """Cells of an image at some thresholds, and how they stand against the true ones."""

    standing: Standing
    predicted: np.ndarray
    true: np.ndarray | None = None
    decoding: Decoding | None = None
    prediction: Prediction | None = None
    """What the network said, once it was asked."""

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.standing.name


class Inspection:
    """An image that is inspected, with its cells at the thresholds chosen last.

    Attributes
    ----------
    standing : Standing
        How its cells stood when they were looked at last.
    given_scores : Scores or None
        Of the cells as they were given.
    prediction : Prediction or None
        What the network said, once it was asked.
    """

    def __init__(self, entry: InspectedImage) -> None:
        self.entry = entry
        self.standing = Standing(entry.name, is_pending=True)
        self.given_scores: Scores | None = None
        self.prediction = None if callable(entry.prediction) else entry.prediction
        self._decoding, self._is_refused = entry.decoding, False
        self._found: FoundCells | None = None
        self._reading, self._asking = RLock(), Lock()
        if not callable(entry.predicted):
            self.load()

    @property
    def is_unasked(self) -> bool:
        """Whether its thresholds can be moved once the network was asked."""
        return callable(self.entry.prediction) and self.prediction is None and self._is_movable

    @property
    def _is_movable(self) -> bool:
        entry = self.entry
        known = entry.prediction is not None and entry.representation is not None
        return known and entry.decoding is not None and not self._is_refused

    def layers(self) -> dict[str, Any]:
        """See `network_pictures`; none while the network was not asked."""
        prediction, known = self.prediction, self.entry.representation
        return {} if prediction is None or known is None else network_pictures(prediction, known)

    def load(self) -> FoundCells:
        """Cells as they are now, read if need be."""
        with self._reading:
            return self._found or self._keep(self._read())

    def ask(self) -> None:
        """Ask the network if that is needed, which takes seconds; raises what it does."""
        answer = self.entry.prediction
        with self._asking:
            if not self.is_unasked or not callable(answer):
                return
            given = None
            try:
                given = answer()
            finally:  # also after an error it is not asked again and again
                # Who leaves the image at this moment frees the answer: that is no refusal.
                self.prediction, self._is_refused = given, given is None

    def rest(self) -> None:
        """Forget what can be had again, to free its memory; `standing` stays."""
        with self._reading:
            if callable(self.entry.prediction):
                self.prediction = None
            if callable(self.entry.predicted):
                self._found = None

    def choose_decoding(self, thresholds: Thresholds) -> Decoding | None:
        """Thresholds that hold for this image; None where they cannot be moved."""
        entry = self.entry
        if not self._is_movable or entry.representation is None or entry.decoding is None:
            return None
        return thresholds.apply_to(entry.decoding, entry.representation)

    def is_stale(self, thresholds: Thresholds) -> bool:
        """Whether its cells are of other thresholds than these."""
        wanted = self.choose_decoding(thresholds)
        return wanted is not None and wanted != self._decoding

    def apply(self, wanted: Decoding | None) -> FoundCells:
        """Bring the cells to thresholds; they stay for None, or until the network was asked."""
        with self._reading:
            entry, found, prediction = self.entry, self.load(), self.prediction
            if wanted is None or wanted == found.decoding:
                return found
            if wanted == entry.decoding:
                return self._keep(self._read())  # they may have been corrected by hand
            if prediction is None or entry.representation is None:
                return found
            masks = decode(prediction, entry.representation, wanted, resample=entry.resample)
            return self._keep(self._compare(masks, found.true, wanted))

    def read_picture(self) -> np.ndarray:
        """Its image; ImageError where that is not of the size of its cells."""
        pixels, shape = _get(self.entry.image), self.load().predicted.shape
        if pixels.shape[:2] != shape:
            raise ImageError(
                f"the image is of {' x '.join(map(str, pixels.shape[:2]))} pixels, the cells found "
                f"in it of {' x '.join(map(str, shape))}",
                where=self.entry.name,
                remedy="Segment the image again.",
            )
        return pixels

    def _keep(self, found: FoundCells) -> FoundCells:
        self._found, self.standing, self._decoding = found, found.standing, found.decoding
        return found

    def _read(self) -> FoundCells:
        """Cells as they were given; what cannot be read is a problem of this image alone."""
        entry = self.entry
        try:
            masks = _get(entry.predicted)
        except (ScellsegError, OSError) as error:
            self._is_refused = True  # without cells no thresholds are moved
            return FoundCells(Standing(entry.name, problem=plain(error)), self._blank())
        try:
            true = None if entry.true is None else _get(entry.true)
        except (ScellsegError, OSError) as error:
            standing = Standing(entry.name, problem=plain(error))
            return FoundCells(standing, masks, decoding=entry.decoding)
        found = self._compare(masks, true, entry.decoding)
        self.given_scores = found.standing.scores
        return found

    def _blank(self) -> np.ndarray:
        """No cells, of the size of the image; 1 x 1 where it cannot be read either."""
        try:
            return np.zeros(_get(self.entry.image).shape[:2], np.int32)
        except (ScellsegError, OSError):
            return np.zeros((1, 1), np.int32)

    def _compare(
        self, masks: np.ndarray, true: np.ndarray | None, decoding: Decoding | None
    ) -> FoundCells:
        name, scores, problem = self.entry.name, None, ""
        if true is not None:
            try:
                scores = metrics.scores(true, masks, IOUS)
            except ScellsegError as error:
                problem = f"{name}: {plain(error)}"
        return FoundCells(Standing(name, scores, problem), masks, true, decoding)


def _get(given: Any) -> np.ndarray:
    return np.asarray(given() if callable(given) else given)


# --- cells that a model suggests ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Suggestion:
    """What a model finds in an image."""

    model: str
    masks: np.ndarray
    pictures: Mapping[str, np.ndarray]
    """What the network said, see `network_pictures`."""
    doubt: str = ""
    """Why that may be wrong, and what to do; empty for no reason."""


def find_cells(image: Path, name: str, model: Model, settings: SegmentationSettings) -> Suggestion:
    """Let a model look at an image, which takes seconds; raises what `predict_one` does."""
    prediction, known = predict_one(model, image, settings), model.representation
    masks = decode(prediction, known, settings.decoding, resample=settings.resample)
    pictures = network_pictures(prediction, known)
    return Suggestion(name, masks, pictures, _doubt(prediction, masks, model))


def _doubt(prediction: Prediction, masks: np.ndarray, model: Model) -> str:
    """Words for what `segment` warns of (`FarFromModel`), and for masks without cells."""
    wanted, far = prediction.diameter, far_from_model(prediction, masks, model.card)
    words = []
    if not masks.any():
        threshold = SETTINGS[model.representation.thresholds[0]].label
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
        words.append(
            "It has not learnt from images like this one: draw or correct some, then Fine-tune it."
        )
    return " ".join(words)


class Suggestions:
    """Brings what a model finds to an editor, as one edit; the page stays alive meanwhile.

    What was drawn before, and while the model looked, is kept. What is found comes to the image it
    was found in, or nowhere. Suggestions that nobody has touched yet make room for new ones. The
    button cannot be pressed while a model looks.
    """

    def __init__(self, editor: MaskEditor, button: ipywidgets.Button, message: Message) -> None:
        self.job: Job | None = None
        """The latest."""
        self._editor, self._button, self._message = editor, button, message
        self._latest: Edit | None = None

    def ask(self, name: str, find: Callable[[], Suggestion]) -> Job:
        """Find cells of the image that is open, called `name`, in a thread.

        ImageError while edits that a crash has left are not decided on.
        """
        if self._editor.annotation.recoverable:
            raise ImageError(
                "there are edits that were not saved",
                remedy="Bring them back or forget them first, above the image.",
            )
        self._button.disabled = True
        self._message.tell(
            f"The model looks at {name}. A large image may take a minute: you can draw meanwhile."
        )
        followed = partial(self._follow, name, self._editor.path)
        self.job = Job(lambda _: find(), on_change=followed)
        return self.job.start()

    def _follow(self, name: str, file: Path | None, job: Job) -> None:
        if not job.ended:
            return
        try:
            if job.error is not None:
                raise job.error
            self._message.tell(self._bring(name, file, job.result))
        except Exception as error:
            self._message.fail(plain(error))
        finally:
            self._button.disabled = False

    def _bring(self, name: str, file: Path | None, found: Suggestion) -> str:
        """Add the cells and the pictures; return what is to be said of them."""
        with self._editor.lock:
            if self._editor.path != file:
                return (
                    f"The cells that the model found in {name} are not added: you have opened "
                    "another image. Go back to it and press Suggest cells again."
                )
            there, new = self._add(found.masks)
            self._editor.show_layers(found.pictures)
        if not new:
            beside = f" beside the {there} that are there" if there and found.masks.any() else ""
            text = f"The model {found.model} finds no cells in {name}{beside}."
        else:
            text = f"The model {found.model} suggests {count(new, 'cell')}"
            if there:
                text += f"; {count(there, 'that was there is', 'that were there are')} kept"
            back = "undo takes it back" if new == 1 else "undo takes them all back"
            text += f". Correct what is wrong; {back}."
        return f"{text} {found.doubt}".strip()

    def _add(self, masks: np.ndarray) -> tuple[int, int]:
        """Add found cells; return how many were there, and how many are new."""
        editor = self._editor
        undoable = editor.annotation.undoable
        if undoable and undoable[-1] is self._latest:
            editor.undo()
        labels = np.array(editor.labels)
        patch = operations.add_found(labels, masks)
        there = int(np.count_nonzero(np.unique(labels)))
        if patch.n_pixels:
            apply(labels, patch)
            editor.show_labels(labels)
            self._latest = editor.annotation.undoable[-1]
        return there, len(np.unique(patch.runs[:, 3]))

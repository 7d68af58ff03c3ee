"""Cells that a model suggests for the image that is open, found in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ipywidgets
import numpy as np

from scellseg_lib.errors import ImageError
from scellseg_lib.model import Model
from scellseg_lib.samples import diameter
from scellseg_lib.segmentation import Prediction, decode, style_distance
from scellseg_lib.workbench.editor import MaskEditor, operations
from scellseg_lib.workbench.editor.edits import Edit
from scellseg_lib.workbench.editor.patches import apply
from scellseg_lib.workbench.folder_run import reworded
from scellseg_lib.workbench.forms import Message, count, plain
from scellseg_lib.workbench.inspected import network_pictures
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.offered_models import Choice
from scellseg_lib.workbench.session import SegmentationSettings, predict_one
from scellseg_lib.workbench.thresholds import SETTINGS

STEP, AGAIN = "in step 3, Segment", "then press Suggest cells again."


@dataclass(frozen=True, eq=False)
class Suggestion:
    """What a model finds in an image.

    Attributes
    ----------
    model : str
        Its name.
    masks : int32[H, W]
    pictures : mapping of str to array
        What the network said, see `inspected.network_pictures`.
    doubt : str
        Why that may be wrong, and what to do; empty for no reason.
    """

    model: str
    masks: np.ndarray
    pictures: Mapping[str, np.ndarray]
    doubt: str = ""


def find_cells(
    image: Path, choice: Choice, model: Model, settings: SegmentationSettings
) -> Suggestion:
    """Let a model look at an image, which takes seconds; raises what `predict_one` does."""
    prediction, known = predict_one(model, image, settings), model.representation
    masks = decode(prediction, known, settings.decoding, resample=settings.resample)
    pictures = network_pictures(prediction, known)
    name = choice.file.removesuffix(".safetensors")
    return Suggestion(name, masks, pictures, _doubt(prediction, masks, model))


def _doubt(prediction: Prediction, masks: np.ndarray, model: Model) -> str:
    """Words for what `segment.segment` warns of (`FarFromModel`), and for masks without cells."""
    areas, wanted = np.bincount(masks.ravel())[1:], prediction.diameter
    found = diameter(areas)
    words = []
    if not areas.size:
        threshold = SETTINGS[model.representation.thresholds[0]].label
        words.append(
            f"It looked for cells {wanted:g} px wide: set the diameter to that of yours {STEP}, "
            f"or lower the threshold {threshold}, {AGAIN}"
        )
    elif areas.size >= 5 and not 0.5 <= found / wanted <= 2:
        words.append(
            f"They are {found:.0f} px wide, and it looked for cells of {wanted:g} px: set the "
            f"diameter to {found:.0f} {STEP}, {AGAIN}"
        )
    if style_distance(prediction.style, model.card) > 1:
        words.append(
            "It has not learnt from images like this one: draw or correct some, then Fine-tune it."
        )
    return " ".join(words)


class Suggestions:
    """Brings what a model finds to an editor, as one edit; the page stays alive meanwhile.

    What was drawn before, and while the model looked, is kept. What is found comes to the image it
    was found in, or nowhere. Suggestions that nobody has touched yet make room for new ones.

    Parameters
    ----------
    editor : MaskEditor
    button : Button
        Cannot be pressed while a model looks.
    message : Message

    Attributes
    ----------
    job : Job or None
        The latest.
    """

    def __init__(self, editor: MaskEditor, button: ipywidgets.Button, message: Message) -> None:
        self.job: Job | None = None
        self._editor, self._button, self._message = editor, button, message
        self._latest: Edit | None = None

    def ask(self, name: str, find: Callable[[], Suggestion]) -> Job:
        """Find cells of the image that is open, in a thread.

        Parameters
        ----------
        name : str
            Of the image.
        find : callable
            Gives what a model finds in it.

        Raises
        ------
        ImageError
            While edits that a crash has left are not decided on.
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
        followed = partial(self._followed, name, self._editor.path)
        self.job = Job(lambda _: find(), on_change=followed)
        return self.job.start()

    def _followed(self, name: str, file: Path | None, job: Job) -> None:
        if not job.ended:
            return
        try:
            if job.error is not None:
                raise job.error
            self._message.tell(self._bring(name, file, job.result))
        except Exception as error:
            self._message.fail(reworded(plain(error)))
        finally:
            self._button.disabled = False

    def _bring(self, name: str, file: Path | None, found: Suggestion) -> str:
        """Add the cells and the pictures; what is to be said of them."""
        with self._editor.lock:
            if self._editor.path != file:
                return (
                    f"The cells that the model found in {name} are not added: you have opened "
                    "another image. Go back to it and press Suggest cells again."
                )
            there, new = self._add(found.masks)
            self._editor.show_layers(found.pictures)
        model = f"The model {found.model}"
        if not new:
            beside = f" beside the {there} that are there" if there and found.masks.any() else ""
            text = f"{model} finds no cells in {name}{beside}."
        else:
            kept = "1 that was there is kept" if there == 1 else f"{there} that were there are kept"
            back = "undo takes it back" if new == 1 else "undo takes them all back"
            text = f"{model} suggests {count(new, 'cell')}{f'; {kept}' * bool(there)}. "
            text += f"Correct what is wrong; {back}."
        return f"{text} {found.doubt}".strip()

    def _add(self, masks: np.ndarray) -> tuple[int, int]:
        """Cells that were there, and that are new."""
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

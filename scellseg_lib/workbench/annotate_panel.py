"""The annotation panel: images of a folder, drawn and corrected one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from scellseg_lib.errors import ScellsegError
from scellseg_lib.segmentation import Prediction
from scellseg_lib.workbench.annotate_form import AnnotateForm
from scellseg_lib.workbench.annotated_folder import (
    CORRECTED,
    UNSAVED,
    Listed,
    adopt,
    experiment_of,
    hints,
    listed,
    take_in,
)
from scellseg_lib.workbench.class_file import ClassFile
from scellseg_lib.workbench.editor import MasksChanged
from scellseg_lib.workbench.forms import count, plain
from scellseg_lib.workbench.inspected import network_pictures
from scellseg_lib.workbench.rounds import Rounds, add_to_shots
from scellseg_lib.workbench.segmented import Result
from scellseg_lib.workbench.suggestions import Suggestion, Suggestions

EMPTY = (
    "Type the folder with your images and press Enter, or drop images onto the grey field below. "
    "Then draw the cells in one or two of them."
)
NEXT, ENOUGH = "Draw all cells of one or two images, then go on to Fine-tune.", 2
DROPPED = "scellseg-images"
"""Folder, in the user's own, that takes dropped images while none is open."""
DONE, OPEN = "\u25cf", "\u25cb"
"""Marks of images: annotated, and not yet."""
OTHERS = "other masks already"
"""An error that leaves a choice, by its words."""
NAMED = 5
"""Problems with files that are said one by one."""


class AnnotatePanel(AnnotateForm):
    """Draw and correct the cells of a folder's images.

    Going to another image saves the one before.

    Parameters
    ----------
    folder : Path, optional
    on_folder : callable, optional
        Called with the folder when another one is opened.
    on_learn : callable, optional
        Called with the folder when an image was put among the annotated ones.
    on_suggest : callable, optional
        Called with the image's file by "Suggest cells", which is there only with it; gives what
        finds the cells, to be called in the background.

    Attributes
    ----------
    images : list of Listed
    current : Listed or None
    correcting : Result or None
        The prediction that is being corrected.
    suggestions : Suggestions
    """

    def __init__(
        self,
        folder: Path | None = None,
        on_folder: Callable[[Path], None] | None = None,
        on_learn: Callable[[Path], None] | None = None,
        on_suggest: Callable[[Path], Callable[[], Suggestion]] | None = None,
    ) -> None:
        super().__init__()
        self.path: Path | None = None
        self.images: list[Listed] = []
        self.current: Listed | None = None
        self.correcting: Result | None = None
        self._before: Listed | None = None  # what was open before a correction
        self._predicted: np.ndarray | None = None
        self._anyway: Callable[[], None] = self._save_anyway
        self._on_folder, self._on_learn, self._filling = on_folder, on_learn, False
        self._on_suggest = on_suggest
        self.suggestions = Suggestions(self.editor, self.suggest, self.message)
        self.folder.observe(lambda change: self._typed(change["new"]), "value")
        self.list.observe(lambda change: self._chosen(change["new"]), "value")
        clicks = {
            self.suggest: self._suggest,
            self.learn: self.learn_from_it,
            self.replace: lambda: self._anyway(),
            self.again: self._open_again,
            self.back: self._leave,
        }
        for button, act in clicks.items():
            button.on_click(lambda _, act=act: self.in_words(act))
        self.editor.on_cycle(lambda by: self.in_words(lambda: self.step(by)))
        self.editor.on_drop(lambda name, content: self.in_words(lambda: self.take(name, content)))
        self.editor.on_save(lambda _: self._saved())
        self._show_state()
        if folder is None:
            self.message.tell(EMPTY)
        else:
            self.folder.value = str(folder)

    # --- images ---------------------------------------------------------------------------------

    def go_to(self, folder: Path) -> None:
        """Open a folder, and an image: with edits that were not saved, or not annotated yet.

        Raises
        ------
        ScellsegError
            If there are no images, or the one open cannot be saved.
        """
        self.keep()
        found = listed(folder)
        self.path, self.images, self.current, self.correcting = folder, found, None, None
        self._before = None
        self._fill()
        self._show_state()  # the list takes room from the picture, which then fits itself in
        if self._on_folder:
            self._on_folder(folder)
        self._open_first(sorted(found, key=lambda one: (not one.is_unsaved, bool(one.masks))))

    def show(self, image: Listed) -> None:
        """Open an image; the one before is saved.

        Raises
        ------
        ScellsegError
            If it cannot be read, or the one before not be saved; nothing is opened then.
        """
        self.keep()  # first: it may be this image whose masks are written
        self._show(image)

    def _show(self, image: Listed) -> None:
        image = next((one for one in self.images if one.image == image.image), image)
        pixels, labels, cells = image.pixels(), image.labels(), image.cells()
        self.editor.load(
            pixels,
            labels,
            cells=cells,
            title=image.name,
            path=image.target,
            classes=ClassFile(image.target),
        )
        self.current, self.correcting, self._predicted = image, None, None
        self._fill()
        self._show_state()
        self._say_where()

    def step(self, by: int) -> None:
        """Go to the image after (1) or before (-1), round and round; past those that are damaged.

        Raises
        ------
        ScellsegError
            If the one open cannot be saved.
        """
        self.keep()
        if self.images:
            known = self.current in self.images
            at = self.images.index(self.current) if known and self.current else -max(by, 0)
            n = len(self.images)
            self._open_first([self.images[(at + by * k) % n] for k in range(1, n + 1)])

    def keep(self) -> None:
        """Save what was edited since the last save."""
        if self.editor.is_changed:
            self.editor.save()

    def take(self, name: str, content: bytes) -> None:
        """Take a dropped file into the folder and open its image.

        Raises
        ------
        ScellsegError
            See `annotated_folder.take_in`.
        """
        self.keep()
        folder = self.path or Path.home() / DROPPED
        taken = take_in(folder, name, content)
        if self.path is None:
            self.folder.value = str(folder)
        self._refresh()
        for one in self.images:
            if one.image.resolve() == taken.resolve():
                self.show(one)
                if Path(name).suffix.lower() == ".csv":
                    self.editor.save()  # one row for each cell

    # --- predict, correct, learn ------------------------------------------------------------------

    def correct(
        self,
        result: Result,
        labels: np.ndarray | None = None,
        prediction: Prediction | None = None,
    ) -> None:
        """Open a prediction to be corrected.

        Corrected masks go to ``corrected/`` of the experiment; what the model gave stays. A
        correction that was begun before is gone on with.

        Parameters
        ----------
        result : Result
        labels : int32[H, W], optional
            At other thresholds than the result's file holds.
        prediction : Prediction, optional
            What the network said, to be looked at beside the image.

        Raises
        ------
        ScellsegError
            If the image or the masks cannot be read, or the one open not be saved.
        """
        predicted = result.labels() if labels is None else labels
        self.keep()
        self._correct(result, predicted, prediction)

    def _correct(
        self, result: Result, predicted: np.ndarray, prediction: Prediction | None
    ) -> None:
        target = experiment_of(result.image) / CORRECTED / result.masks.name
        file = Listed(result.name, result.image, target if target.exists() else None, target)
        begun, cells = file.labels(), file.cells()
        layers = {}
        if prediction is not None and result.model is not None:
            layers = network_pictures(prediction, result.model.representation)
        start = predicted if begun is None else begun
        self.editor.load(
            result.pixels(),
            start,
            cells=cells,
            layers=layers,
            title=result.name,
            path=target,
            classes=ClassFile(target),
        )
        self._before = self.current or self._before
        self.current, self.correcting, self._predicted = None, result, predicted
        self._fill()
        self._show_state()
        model = f"the model {result.model_file.removesuffix('.safetensors')}".strip()
        again = "" if begun is None else " You see your correction as you left it."
        self.message.tell(
            f"Correct the cells that {model} found in {result.name}, then let the next model "
            f"learn from them.{again}"
        )

    def _suggest(self) -> None:
        opened = self.correcting or self.current
        if self._on_suggest is not None and opened is not None:
            self.suggestions.ask(opened.name, self._on_suggest(opened.image))

    def learn_from_it(self, *, replace: bool = False) -> None:
        """Put the image that is open among the annotated ones; a correction is scored and kept.

        Parameters
        ----------
        replace : bool
            Take the place of other masks of this image there.

        Raises
        ------
        ScellsegError
            If it cannot be, see `rounds.add_to_shots`.
        """
        _, table, *_ = self.editor.save()
        labels = np.array(self.editor.labels)
        if self.correcting is not None and self._predicted is not None:
            result, folder = self.correcting, experiment_of(self.correcting.image)
            found = Rounds(folder).correct(
                result.image,
                self._predicted,
                labels,
                model=result.model_file,
                weights=result.weights,
                replace=replace,
                cells=table,
            )
            text = (
                f"{result.name} is annotated now: {count(found.added, 'cell')} added, "
                f"{found.removed} removed, {found.changed} changed. What the model had found "
                f"scores {found.map:.2f} of 1 (mean AP). Fine-tune again to learn from it."
            )
        elif self.current is not None and self.path is not None:
            folder = self.path
            add_to_shots(folder, self.current.image, labels, replace=replace, cells=table)
            text = f"{self.current.name} is among the annotated images now. Fine-tune next."
        else:
            return
        self._refresh()
        if self._on_learn:
            self._on_learn(folder)
        self.message.tell(text)

    def _leave(self) -> None:
        if self.images:
            self.show(self._before or self.images[0])

    # --- what is shown ----------------------------------------------------------------------------

    def _typed(self, text: str) -> None:
        if text.strip():
            path = Path(text.strip().strip("'\"")).expanduser().resolve()
            self.in_words(lambda: self.go_to(path))

    def _chosen(self, file: str | None) -> None:
        if self._filling or file is None:
            return
        self.in_words(lambda: self.show(next(one for one in self.images if str(one.image) == file)))
        self._fill()  # where it could not be opened, the list goes back

    def _open_first(self, images: Sequence[Listed]) -> None:
        """Open the first image that can be opened, and say what is wrong with those before it."""
        problems = []
        for image in images:
            try:
                self.show(image)
                break
            except (ScellsegError, OSError) as error:
                problems.append(plain(error))
        self._fill()
        self._show_state()
        if problems:
            more = len(problems) - NAMED
            others = f"\nAnd {count(more, 'other file')}." if more > 0 else ""
            self.message.fail("\n".join(problems[:NAMED]) + others)

    def _saved(self) -> None:
        if self.path is not None:
            adopt(self.path)
        self._refresh()
        self._say_where()

    def _refresh(self) -> None:
        if self.path is None:
            return
        self.images = listed(self.path)
        for image in self.images:
            if self.current is not None and image.image == self.current.image:
                self.current = image
        self._fill()

    def _fill(self) -> None:
        self._filling = True
        marks = [f"{self._mark(image)} {image.name}" for image in self.images]
        files = [str(image.image) for image in self.images]
        self.list.options = list(zip(marks, files, strict=True))
        current = str(self.current.image) if self.current else None
        self.list.value = current if current in files else None
        self._filling = False

    def _mark(self, image: Listed) -> str:
        if image.is_unsaved and (self.current is None or image.image != self.current.image):
            return UNSAVED
        return DONE if image.masks else OPEN

    def _show_state(self) -> None:
        query = self.current is not None and self.current.is_query
        shown = {
            self.suggest: bool(self._on_suggest and (self.correcting or self.current)),
            self.learn: bool(self.correcting) or query,
            self.replace: False,
            self.again: False,
            self.back: bool(self.correcting and self.images),
            self.list: bool(self.images),
        }
        for widget, visible in shown.items():
            widget.layout.display = None if visible else "none"

    def _say_where(self) -> None:
        if self.current is None or self.path is None:
            return
        done = sum(image.masks is not None for image in self.images)
        text = f"{done} of {count(len(self.images), 'image')} annotated ({DONE}). "
        text += NEXT if done < ENOUGH else ""
        others = [one.name for one in self.images if self._mark(one) == UNSAVED]
        self.message.tell((text + hints(self.path, self.current, others)).strip())

    def in_words(self, act: Callable[[], object]) -> None:
        """Do something; an error becomes a sentence in the panel and in the editor."""
        for button in (self.replace, self.again):
            button.layout.display = "none"
        try:
            act()
        except (ScellsegError, OSError) as error:
            self.message.fail(plain(error))
            self.editor.say(plain(error), error=True)
            what, changed = getattr(error, "what", ""), isinstance(error, MasksChanged)
            if changed or OTHERS in what:
                self._anyway = self._learn_anyway if OTHERS in what else self._save_anyway
                self.replace.layout.display = None
                self.again.layout.display = None if changed else "none"

    def _learn_anyway(self) -> None:
        self.learn_from_it(replace=True)

    def _save_anyway(self) -> None:
        self.editor.save(replace=True)

    def _open_again(self) -> None:
        """Open what is in the file; what was drawn meanwhile is put aside beside it."""
        if self.correcting is not None and self._predicted is not None:
            self._correct(self.correcting, self._predicted, None)
        elif self.current:
            self._show(self.current)

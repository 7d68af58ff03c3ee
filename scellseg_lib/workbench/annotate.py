"""The annotation panel: images of a folder, drawn and corrected one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ipywidgets
import numpy as np

from scellseg_lib.errors import ScellsegError
from scellseg_lib.files.images import read_masks, read_pixels
from scellseg_lib.files.layout import (
    ImageFiles,
    cells_path,
    experiment_of,
    find_unsaved_corrections,
)
from scellseg_lib.segmentation import Prediction
from scellseg_lib.workbench.editor import MaskEditor, MasksChanged
from scellseg_lib.workbench.experiment import (
    ClassFile,
    Experiment,
    OtherMasks,
    SegmentedImage,
    read_cells,
)
from scellseg_lib.workbench.forms import Message, button, count, plain, row, typed_path
from scellseg_lib.workbench.session import Suggestion, Suggestions, network_pictures

EMPTY = (
    "Type the folder with your images and press Enter, or drop images onto the grey field below. "
    "Then draw the cells in one or two of them."
)
NEXT, ENOUGH = "Draw all cells of one or two images, then go on to Fine-tune.", 2
DROPPED = "scellseg-images"
"""Folder, in the user's own, that takes dropped images while none is open."""
DONE, OPEN, UNSAVED = "\u25cf", "\u25cb", "\u25d0"
"""Marks of images: annotated, not yet, and with edits that a crash has left."""
NAMED = 5
"""Problems with files that are said one by one."""
HEIGHT, TOOLBARS, SPOKEN = 500, 95, 60
"""Of the image in the page, of what is above it, and of two lines of words, px: what a model says
must not move what is drawn on."""


class AnnotatePanel(ipywidgets.VBox):
    """Draw and correct the cells of a folder's images. Going to another image saves the one before.

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
    """

    def __init__(
        self,
        folder: Path | None = None,
        on_folder: Callable[[Path], None] | None = None,
        on_learn: Callable[[Path], None] | None = None,
        on_suggest: Callable[[Path], Callable[[], Suggestion]] | None = None,
    ) -> None:
        self.path: Path | None = None
        self.images: list[ImageFiles] = []
        self.current: ImageFiles | None = None
        self.correcting: SegmentedImage | None = None
        """The prediction that is being corrected."""
        self._before: ImageFiles | None = None  # what was open before a correction
        self._predicted: np.ndarray | None = None
        self._insist: Callable[[], object] = self.keep  # what "Replace them" does
        self._on_folder, self._on_learn, self._on_suggest = on_folder, on_learn, on_suggest
        self._filling = False
        self.message = Message()
        self.editor = MaskEditor(height=HEIGHT, layout={"flex": "1 1 0", "width": "auto"})
        super().__init__(self._make())
        self.add_class("scellseg-annotate-panel")
        self.suggestions = Suggestions(self.editor, self.suggest, self.message)
        self.folder.observe(lambda change: self._typed(change["new"]), "value")
        self.list.observe(lambda change: self._chosen(change["new"]), "value")
        self.editor.on_cycle(lambda by: self.in_words(partial(self.step, by)))
        self.editor.on_drop(lambda name, content: self.in_words(partial(self.take, name, content)))
        self.editor.on_save(lambda _: self._saved())
        self._show_state()
        if folder is None:
            self.message.tell(EMPTY)
        else:
            self.folder.value = str(folder)

    def _make(self) -> list[ipywidgets.Widget]:
        self.folder = ipywidgets.Text(
            continuous_update=False,
            placeholder="folder with your images",
            layout={"width": "520px"},
        ).add_class("scellseg-annotate-folder")
        self.list = ipywidgets.Select(
            layout={"flex": "0 0 190px", "height": f"{HEIGHT + TOOLBARS}px"}
        ).add_class("scellseg-annotate-images")
        self.message.layout.flex = "1 1 0"

        def press(
            words: str, name: str, act: Callable[[], object], **look: str
        ) -> ipywidgets.Button:
            return button(words, f"annotate-{name}", lambda: self.in_words(act), **look)

        tip = "The model chosen in step 3 finds cells; what you have drawn stays"
        self.suggest = press("Suggest cells", "suggest", self._suggest, tip=tip)
        self.learn = press("Learn from this image", "learn", self.learn_from_it, style="primary")
        self.replace = press("Replace them", "replace", lambda: self._insist(), style="danger")
        self.again = press("Open the image again", "again", self._open_again)
        self.back = press("Back to my images", "back", self._leave)
        return [
            row("Folder", self.folder),
            ipywidgets.HBox(
                [self.suggest, self.learn, self.replace, self.again, self.back, self.message],
                layout={"align_items": "center", "grid_gap": "4px", "min_height": f"{SPOKEN}px"},
            ),
            ipywidgets.HBox(
                [self.list, self.editor],
                layout={"align_items": "flex-start", "width": "100%", "grid_gap": "8px"},
            ),
        ]

    # --- images ---------------------------------------------------------------------------------

    def go_to(self, folder: Path) -> None:
        """Open a folder, and an image: with edits that were not saved, or not annotated yet."""
        self.keep()
        images = Experiment(folder).images()
        self.path, self.images, self.current, self.correcting = folder, images, None, None
        self._before = None
        self._fill()
        self._show_state()  # the list takes room from the picture, which then fits itself in
        if self._on_folder:
            self._on_folder(folder)
        self._open_first(sorted(images, key=lambda one: (not one.is_unsaved, bool(one.masks))))

    def show(self, image: ImageFiles) -> None:
        """Open an image, after the one before is saved; where one of both fails, that stays."""
        self.keep()  # first: it may be this image whose masks are written
        self._show(image)

    def _show(self, image: ImageFiles) -> None:
        image = next((one for one in self.images if one.image == image.image), image)
        self.editor.load(
            read_pixels(image.image),
            None if image.masks is None else read_masks(image.masks),
            cells=None if image.cells is None else read_cells(image.cells),
            title=image.name,
            path=image.own_masks,
            classes=ClassFile(image.own_masks),
        )
        self.current, self.correcting, self._predicted = image, None, None
        self._fill()
        self._show_state()
        self._say_where()

    def step(self, by: int) -> None:
        """Go to the image after (1) or before (-1), round and round, past damaged ones."""
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
        """Take a dropped file into the folder and open its image."""
        self.keep()
        folder = self.path or Path.home() / DROPPED
        taken = Experiment(folder).take(name, content)
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
        result: SegmentedImage,
        labels: np.ndarray | None = None,
        prediction: Prediction | None = None,
    ) -> None:
        """Open a prediction to be corrected; a correction that was begun before is gone on with.

        Parameters
        ----------
        result : SegmentedImage
        labels : int32[H, W], optional
            At other thresholds than the result's file holds.
        prediction : Prediction, optional
            What the network said, to be looked at beside the image.
        """
        predicted = read_masks(result.masks) if labels is None else labels
        self.keep()
        self._correct(result, predicted, prediction)

    def _correct(
        self, result: SegmentedImage, predicted: np.ndarray, prediction: Prediction | None = None
    ) -> None:
        target = Experiment(experiment_of(result.image)).correction_path(result)
        is_begun, layers = target.exists(), {}
        if prediction is not None and result.model is not None:
            layers = network_pictures(prediction, result.model.representation)
        self.editor.load(
            read_pixels(result.image),
            read_masks(target) if is_begun else predicted,
            cells=read_cells(cells_path(target)) if is_begun else None,
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
        self.message.tell(
            f"Correct the cells that {model} found in {result.name}, then let the next model "
            f"learn from them.{' You see your correction as you left it.' if is_begun else ''}"
        )

    def _suggest(self) -> None:
        opened = self.correcting or self.current
        if self._on_suggest is not None and opened is not None:
            self.suggestions.ask(opened.name, self._on_suggest(opened.image))

    def learn_from_it(self, *, replace: bool = False) -> None:
        """Put the image that is open among the annotated ones; a correction is scored and kept.

        With `replace` it takes the place of other masks of this image there.
        """
        _, table, *_ = self.editor.save()
        labels = np.array(self.editor.labels)
        if self.correcting is not None and self._predicted is not None:
            result, folder = self.correcting, experiment_of(self.correcting.image)
            found = Experiment(folder).keep_correction(
                result, self._predicted, labels, replace=replace, cells=table
            )
            text = (
                f"{result.name} is annotated now: {count(found.added, 'cell')} added, "
                f"{found.removed} removed, {found.changed} changed. What the model had found "
                f"scores {found.map:.2f} of 1 (mean AP). Fine-tune again to learn from it."
            )
        elif self.current is not None and self.path is not None:
            folder, image = self.path, self.current
            Experiment(folder).add_to_shots(image.image, labels, replace=replace, cells=table)
            text = f"{image.name} is among the annotated images now. Fine-tune next."
        else:
            return
        self._refresh()
        if self._on_learn:
            self._on_learn(folder)
        self.message.tell(text)

    def _leave(self) -> None:
        if self.images:
            self.show(self._before or self.images[0])

    def _open_again(self) -> None:
        """Open what is in the file; what was drawn meanwhile is put aside beside it."""
        if self.correcting is not None and self._predicted is not None:
            self._correct(self.correcting, self._predicted)
        elif self.current:
            self._show(self.current)

    # --- what is shown ----------------------------------------------------------------------------

    def _typed(self, text: str) -> None:
        if path := typed_path(text):
            self.in_words(lambda: self.go_to(path))

    def _chosen(self, file: str | None) -> None:
        if self._filling or file is None:
            return
        self.in_words(lambda: self.show(next(one for one in self.images if str(one.image) == file)))
        self._fill()  # where it could not be opened, the list goes back

    def _open_first(self, images: Sequence[ImageFiles]) -> None:
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
            Experiment(self.path).adopt_masks()
        self._refresh()
        self._say_where()

    def _refresh(self) -> None:
        if self.path is None:
            return
        self.images = Experiment(self.path).images()
        for image in self.images:
            if self.current is not None and image.image == self.current.image:
                self.current = image
        self._fill()

    def _fill(self) -> None:
        self._filling = True
        files = [str(image.image) for image in self.images]
        self.list.options = [
            (f"{self._mark(image)} {image.name}", str(image.image)) for image in self.images
        ]
        current = str(self.current.image) if self.current else None
        self.list.value = current if current in files else None
        self._filling = False

    def _mark(self, image: ImageFiles) -> str:
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
        """Say how far the folder is annotated, and what else there is to know of it."""
        if self.current is None or self.path is None:
            return
        done = sum(image.masks is not None for image in self.images)
        said = [f"{done} of {count(len(self.images), 'image')} annotated ({DONE})."]
        if done < ENOUGH:
            said.append(NEXT)
        if unsaved := [one.name for one in self.images if self._mark(one) == UNSAVED]:
            said.append(f"With edits that were not saved ({UNSAVED}): {', '.join(unsaved)}.")
        if corrections := ", ".join(find_unsaved_corrections(self.path)):
            said.append(f"Corrections that were not saved: {corrections}.")
            said.append("Go there by Segment, Correct it.")
        if self.current.is_query:
            said.append("This one is to be segmented: its cells serve to check what a model finds.")
        self.message.tell(" ".join(said))

    def in_words(self, act: Callable[[], object]) -> None:
        """Do something; an error becomes a sentence in the panel and in the editor."""
        for offer in (self.replace, self.again):
            offer.layout.display = "none"
        try:
            act()
        except (ScellsegError, OSError) as error:
            self.message.fail(plain(error))
            self.editor.say(plain(error), error=True)
            if isinstance(error, OtherMasks):
                self._insist = partial(self.learn_from_it, replace=True)
                self.replace.layout.display = None
            elif isinstance(error, MasksChanged):
                self._insist = partial(self.editor.save, replace=True)
                self.replace.layout.display = self.again.layout.display = None

"""The annotation panel: images of a folder, drawn and corrected one after the other."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
from natsort import natsorted
from scipy import ndimage

from scellseg_lib.errors import AxesNeeded, ImageError, ScellsegError
from scellseg_lib.files import layout
from scellseg_lib.files.export import read_pixel_size
from scellseg_lib.files.images import read_masks, read_pixels
from scellseg_lib.files.layout import ImageFiles
from scellseg_lib.segmentation import Prediction
from scellseg_lib.workbench import experiment, forms
from scellseg_lib.workbench.editor import MaskEditor, MasksChanged, operations
from scellseg_lib.workbench.editor.annotation import SUGGEST
from scellseg_lib.workbench.editor.journal import edits_path, read_kinds
from scellseg_lib.workbench.editor.patches import apply
from scellseg_lib.workbench.experiment import ClassFile, Experiment, SegmentedImage, experiment_of
from scellseg_lib.workbench.folder import FolderView, PlaneChoice, remember
from scellseg_lib.workbench.forms import count, plain
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.session import Suggestion, network_pictures

EMPTY = (
    "Type the folder with your images and press Enter, or drop images onto the grey field below. "
    "Then draw the cells in one or two of them."
)
NEXT, ENOUGH = "Draw all cells of an image and press Done; with one or two go on to Fine-tune.", 2
DROPPED = "scellseg-images"  # folder, in the user's own, for images dropped while none is open
DONE, OPEN, BEGUN, SUGGESTED = "\u25cf", "\u25cb", "\u25d0", "\u25cc"
"""Marks of images: all cells are drawn, none yet, some, only such as a model suggests."""
CHANGED = "Its masks have changed since. What you had drawn is kept in a hidden file, .other."
NAMED = 5  # problems with files that are said


class Unsure(ImageError):
    """All cells of an image are said to be drawn, which does not look so."""


class AnnotatePanel(ipywidgets.VBox):
    """Draw and correct the cells of a folder's images.

    Every stroke is on the disk at once, as an edit; the masks are written, and the image learnt
    from, once it is said that all of its cells are drawn. A correction is saved in going on.
    `on_folder` gets a folder that is opened, and `on_learn` that of an image that is annotated now.
    `on_suggest` gets an image's file; it gives what its answer depends on, and what finds the cells
    in the background.
    """

    def __init__(
        self,
        folder: Path | None = None,
        on_folder: Callable[[Path], object] = lambda folder: None,
        on_learn: Callable[[Path], object] = lambda folder: None,
        on_suggest: Callable[[Path], tuple[Any, Callable[[], Suggestion]]] | None = None,
        channels: ipywidgets.Widget | None = None,
    ) -> None:
        self.path: Path | None = None
        self.images: list[ImageFiles] = []
        self.current: ImageFiles | None = None
        self.correcting: SegmentedImage | None = None  # the prediction that is being corrected
        self._predicted: np.ndarray | None = None
        self._insist: Callable[[], object] = self.keep  # what the answer to a question does
        self._on_folder, self._on_learn, self._on_suggest = on_folder, on_learn, on_suggest
        self.on_return: Callable[[dict[str, Any]], object] = lambda place: None  # after a reload
        self.on_next: Callable[[], object] = lambda: None  # once there is something to learn from
        self._answer: tuple[Any, Suggestion] | None = None  # the model's last, and for what
        self._doubt = ""  # of files that are not read
        self.message = forms.Message()
        self.editor = MaskEditor()
        super().__init__(self._make(channels))
        self.add_class("scellseg-annotate-panel")
        self.folder.observe(lambda change: self._on_typed(change["new"]), "value")
        self.editor.on("cycle", lambda by: self.in_words(partial(self.step, by)))
        self.editor.on("drop", lambda *file: self.in_words(partial(self.take, *file)))
        self.editor.on("save", lambda _: self._refresh())
        self.editor.on("finish", lambda: self.in_words(self.finish))
        if on_suggest:
            self.editor.on("point", lambda y, x: self.in_words(partial(self._pick, y, x)))
        self._show_state()
        self.message.tell(EMPTY)
        self.folder.value = "" if folder is None else str(folder)

    def _make(self, channels: ipywidgets.Widget | None) -> list[ipywidgets.Widget]:
        def press(words: str, name: str, act: Callable[[], object], **look: str) -> Any:
            return forms.button(words, f"annotate-{name}", lambda: self.in_words(act), **look)

        self.folder = forms.text_field("annotate-folder", "folder with your images")
        type_folder = partial(setattr, self.folder, "value")
        self.list = FolderView(self._on_chosen, type_folder, self._return)
        self.list.add_class("scellseg-annotate-images")
        tip = "The model chosen in step 3 finds cells; what you have drawn stays"
        self.suggest = press("Suggest cells", "suggest", self._suggest, tip=tip)
        self.learn = press("Learn from this image", "learn", self.learn_from_it, style="primary")
        self.replace = press("", "replace", lambda: self._insist(), style="danger")
        self.again = press("Open the image again", "again", self._open_again)
        self.planes = PlaneChoice(lambda: self.in_words(self._take_plane))
        self.next = press("Go on to Fine-tune", "next", lambda: self.on_next(), style="primary")
        buttons = [self.suggest, self.learn, self.replace, self.again]
        return [
            forms.row("Folder", self.folder),
            *([channels] if channels else []),
            ipywidgets.HBox([*buttons, self.message, self.next]).add_class("scellseg-speaking"),
            self.planes,
            ipywidgets.HBox([self.list, self.editor]).add_class("scellseg-drawing"),
        ]

    def go_to(self, folder: Path) -> None:
        """Open a folder, and an image: with edits that were not saved, or not annotated yet."""
        self.keep()
        images, self._doubt = forms.hear(lambda: layout.list_images(folder))
        remember(folder)
        self.list.place = {"start": str(folder), "tab": 0} | self.list.place
        self.path, self.images, self.current, self.correcting = folder, images, None, None
        self._show_state()  # the list takes room from the picture, which then fits itself in
        self._on_folder(folder)
        begun = [one for one in images if self._mark(one) in (BEGUN, SUGGESTED)]
        self._open_first([*begun, *(one for one in images if not one.masks), *images])

    def show(self, image: ImageFiles, *, save: bool = True) -> None:
        """Open an image, after the one before is saved; where one of both fails, that stays."""
        if save:
            self.keep()  # first: it may be this image whose masks are written
        if self.path is not None:
            self.images = layout.list_images(self.path)  # others may have drawn meanwhile
        image = next((one for one in self.images if one.image == image.image), image)
        masks, doubt = forms.hear(lambda: image.masks and read_masks(image.masks))
        doubt += self._load(
            image.image,
            masks,
            cells=None if image.masks is None else experiment.read_cells(image.masks),
            title=image.name,
            path=image.own_masks,
            classes=ClassFile(image.own_masks),
        )
        self.current, self.correcting, self._predicted = image, None, None
        self._show_state()
        self._say_where(doubt)

    def step(self, by: int) -> None:
        """Go to the image after (1) or before (-1), round and round, past damaged ones."""
        self.keep()
        if n := len(self.images):
            here = [k for k, one in enumerate(self.images) if one == self.current]
            at = here[0] if here else -max(by, 0)
            self._open_first([self.images[(at + by * k) % n] for k in range(1, n + 1)])

    def _load(self, image: Path, labels: np.ndarray | None, **what: Any) -> str:
        """Open an image in the editor, with the edits of it that are not in its masks; a doubt."""
        self._answer = None
        size, _ = forms.hear(partial(read_pixel_size, image))
        self.editor.load(read_pixels(image), labels, pixel_size=size, **what)
        journal = self.editor.annotation.journal
        return CHANGED if journal and journal.is_aside else ""

    def keep(self) -> None:
        """See that what was drawn is on the disk; a correction is saved."""
        if self.editor.is_changed and self.correcting and not self.editor.annotation.unchecked:
            self.editor.save()
        elif self.editor.is_changed and self.editor.annotation.journal:
            self.editor.annotation.journal.flush()

    def finish(self, *, sure: bool = False) -> None:
        """Write the masks of the image that is open: all of its cells are drawn.

        It is asked whether that is so where there are none, or suggestions that nobody has checked.
        """
        if self.correcting:
            self.learn_from_it(sure=sure)
        else:
            self._ask_for_suggestions(sure)
            if not sure and not self.editor.labels.any():
                what = f"there are no cells in {self.editor.title}"
                raise Unsure(what, remedy="Draw them first.")
            self.editor.save()

    def _ask_for_suggestions(self, sure: bool) -> None:
        if (unchecked := len(self.editor.annotation.unchecked)) and not sure:
            what = f"nobody has checked {count(unchecked, 'suggested cell')} of {self.editor.title}"
            raise Unsure(what, remedy="Go through them by the key Y.")

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

    def _open_again(self) -> None:
        """Open what is in the file; what was drawn meanwhile is put aside beside it."""
        if self.correcting is not None and self._predicted is not None:
            self.correct(self.correcting, self._predicted, save=False)
        elif self.current:
            self.show(self.current, save=False)

    def correct(
        self,
        result: SegmentedImage,
        labels: np.ndarray | None = None,
        prediction: Prediction | None = None,
        *,
        save: bool = True,
    ) -> None:
        """Open a prediction to be corrected; a correction that was begun before is gone on with.

        `labels` are its cells at other thresholds than those of its file; `prediction` is what the
        network said, to be looked at beside the image.
        """
        predicted = read_masks(result.masks) if labels is None else labels
        if save:
            self.keep()
        target = experiment_of(result.image) / layout.CORRECTED / result.masks.name
        is_begun, layers = target.exists(), {}
        if prediction is not None and result.model is not None:
            layers = network_pictures(prediction, result.model.representation)
        doubt = self._load(
            result.image,
            read_masks(target) if is_begun else predicted,
            cells=experiment.read_cells(target) if is_begun else None,
            layers=layers,
            title=result.name,
            path=target,
            classes=ClassFile(target),
            region=layout.region_path(target if is_begun else result.image),
        )
        self.current, self.correcting, self._predicted = None, result, predicted
        self._show_state()
        model = f"the model {result.model_file.removesuffix(layout.MODEL)}".strip()
        self.message.tell(
            f"Correct the cells that {model} found in {result.name}, then let the next model "
            "learn from them."
            f"{' You see your correction as you left it.' if is_begun else ''} {doubt}".rstrip()
        )

    def learn_from_it(self, *, replace: bool = False, sure: bool = False) -> None:
        """Put the image that is open among the annotated ones; a correction is scored and kept."""
        self._ask_for_suggestions(sure or replace)
        _, table = self.editor.save()
        labels = np.array(self.editor.labels)
        if self.correcting is not None and self._predicted is not None:
            result, folder = self.correcting, experiment_of(self.correcting.image)
            found = Experiment(folder).keep_correction(
                result, self._predicted, labels, replace=replace, cells=table
            )
            text = (
                f"{result.name} is annotated now: {count(int(found['added']), 'cell')} added, "
                f"{found['removed']} removed, {found['changed']} changed. What the model had found "
                f"scores {found['map']:.2f} of 1 (mean AP). Fine-tune again to learn from it."
            )
        elif self.current is not None and self.path is not None:
            folder, image = self.path, self.current
            Experiment(folder).add_to_shots(image.image, labels, replace=replace, cells=table)
            text = f"{image.name} is among the annotated images now. Fine-tune next."
        else:
            return
        self._refresh()
        self._on_learn(folder)
        self.message.tell(text)

    def _suggest(self) -> None:
        """Let a model find cells of the image that is open; what is drawn meanwhile is kept."""
        self._answer = None
        self._ask(self._bring)

    def _ask(self, use: Callable[[Suggestion], str]) -> None:
        """Use what a model finds in the image that is open, and say what `use` returns.

        It looks in the background; what it finds comes to this image or nowhere.
        """
        opened = self.correcting or self.current
        if self._on_suggest is None or opened is None:
            return
        if self.suggest.disabled:
            self.message.tell("The model still looks at an image. Try again once it has answered.")
            return
        (key, find), file = self._on_suggest(opened.image), self.editor.path

        def bring(found: Suggestion) -> None:
            with self.editor.lock:
                if self.editor.path == file:
                    self._answer = key, found
                    self.message.tell(use(found))
                    return
            self.message.tell(
                f"The cells that the model found in {opened.name} are not added: you have opened "
                "another image. Go back to it and press Suggest cells again."
            )

        def end(job: Job) -> None:
            if job.error is not None:
                raise job.error
            bring(job.result)

        def follow(job: Job) -> None:
            if job.ended:
                self.in_words(partial(end, job))
                self.suggest.disabled = False

        if self._answer and self._answer[0] == key:
            bring(self._answer[1])
            return
        self.suggest.disabled = True
        self.message.tell(
            f"The model looks at {opened.name}. A large image may take a minute: you can draw "
            "meanwhile."
        )
        Job(lambda _: find(), on_change=follow).start()

    def _pick(self, y: int, x: int) -> None:
        """Draw the cell that a model sees at a pixel, where nothing is drawn yet."""

        def add(found: Suggestion) -> str:
            self.editor.show_layers(found.pictures)
            labels, cell = np.array(self.editor.labels), found.pick(y, x)
            pieces, _ = ndimage.label(cell & (labels == 0))
            if not pieces[y, x]:
                return f"The model {found.model} sees no cell there. Draw it, or point elsewhere."
            if np.count_nonzero(labels[cell]) > np.count_nonzero(cell) / 2:
                return "What the model sees there is drawn already, for the most part."
            labels[pieces == pieces[y, x]] = self.editor.annotation.free
            self.editor.show_labels(labels, "point")
            return f"The cell that the model {found.model} sees there is drawn. {NEXT}"

        self._ask(add)

    def _bring(self, found: Suggestion) -> str:
        """Add the cells and the pictures that a model has found; return what is to be said."""
        undoable = self.editor.annotation.undoable
        if undoable and undoable[-1].kind == SUGGEST:
            self.editor.undo()
        labels = np.array(self.editor.labels)
        patch = operations.add_found(labels, found.masks)
        there = int(np.count_nonzero(np.unique(labels)))
        new = len(np.unique(patch.runs[:, 3]))
        if new:
            apply(labels, patch)
            self.editor.show_labels(labels, SUGGEST)
        self.editor.show_layers(found.pictures)
        if new:
            text = f"The model {found.model} suggests {count(new, 'cell')}"
            if there:
                text += f"; {count(there, 'that was there is', 'that were there are')} kept"
            back = "undo takes it back" if new == 1 else "undo takes them all back"
            text += ". The key Y keeps the one that is chosen, Delete throws it away, and the next "
            return f"{text}comes; {back}. Draw what is missing. {found.doubt}".strip()
        where = f"{self.editor.title} beside the {there} that are there"
        where = where if there and found.masks.any() else self.editor.title
        return f"The model {found.model} finds no cells in {where}. {found.doubt}".strip()

    def _on_typed(self, text: str) -> None:
        if path := forms.read_path(text):
            self.in_words(partial(self.go_to, path))

    def _offer_planes(self, error: Exception) -> None:
        if isinstance(error, AxesNeeded) and error.where is not None:
            self.planes.offer(Path(error.where), vars(error)["pages"])

    def _take_plane(self) -> None:
        """Make the plane that is chosen an image of its own, and open it."""
        file = self.planes.write()
        self._refresh()
        self._on_chosen(str(file))

    def _on_chosen(self, file: str) -> None:
        if file == self.list.value:
            return  # a second click
        for one in [one for one in self.images if str(one.image) == file]:
            self.in_words(partial(self.show, one))

    def _return(self, place: dict[str, Any]) -> None:
        """Go to where the page was before it was loaded anew."""
        if Path(place["folder"]).is_dir():
            self.folder.value = place["folder"]
            self._on_chosen(place["image"])
            self.on_return(place)

    def _open_first(self, images: Sequence[ImageFiles]) -> None:
        """Open the first image that can be opened, and say what is wrong with those before it."""
        problems = []
        for image in images:
            try:
                self.show(image)
                break
            except (ScellsegError, OSError) as error:
                problems.append(plain(error))
                self._offer_planes(error)
        self._show_state()
        if problems:
            more = len(problems) - NAMED
            said = "\n".join(problems[:NAMED] + [f"And {count(more, 'other file')}."] * (more > 0))
            self._say_where(f"Passed over: {said}") if self.current else self.message.fail(said)

    def _refresh(self) -> None:
        if self.path is None:
            return
        self.images = layout.list_images(self.path)
        opened = [one for one in self.images if self.current and one.image == self.current.image]
        self.current = opened[0] if opened else self.current
        self._fill()
        self._say_where()

    def _fill(self) -> None:
        rows = [(self._mark(one), one.name, str(one.image)) for one in self.images]
        self.list.images = rows
        self.list.value = str(self.current.image) if self.current else None
        place = {"folder": str(self.path or ""), "image": self.list.value or ""}
        self.list.place = self.list.place | place

    def _mark(self, image: ImageFiles) -> str:
        if kinds := read_kinds(edits_path(image.own_masks)):
            return SUGGESTED if not image.masks and kinds <= {SUGGEST, "undo", "redo"} else BEGUN
        return DONE if image.masks else OPEN

    def _show_state(self) -> None:
        self._fill()
        is_open = bool(self.correcting or self.current)
        is_query = self.current is not None and self.current.image.parent.name == layout.QUERY
        forms.show(is_open and self._on_suggest is not None, self.suggest)
        forms.show(bool(self.correcting) or is_query, self.learn)
        forms.show(False, self.replace, self.again)
        forms.show(any(image.masks for image in self.images), self.next)

    def _say_where(self, doubt: str = "") -> None:
        """Say how far the folder is annotated, and what else there is to know of it."""
        if self.current is None or self.path is None:
            return
        marks = [self._mark(image) for image in self.images]
        done = marks.count(DONE)
        said = [f"{done} of {count(len(self.images), 'image')} done ({DONE})."]
        if done < ENOUGH:
            said.append(NEXT)
        for mark, words in ((BEGUN, "Begun or changed"), (SUGGESTED, "With suggestions alone")):
            if mark in marks:
                some = (self.images[k].name for k, own in enumerate(marks) if own == mark)
                said.append(f"{words} ({mark}): {', '.join(some)}.")
        ending = f"{layout.MASKS}.tif{layout.EDITS}"
        if left := natsorted((self.path / layout.CORRECTED).glob(f".*{ending}"), str):
            names = ", ".join(file.name[1:].removesuffix(ending) for file in left)
            said.append(f"Corrections that were not saved: {names}.")
            said.append("Go there by Inspect, Correct this image.")
        if self.current.image.parent.name == layout.QUERY:
            said.append("This one is to be segmented: its cells serve to check what a model finds,")
            said.append("unless you press Learn from this image.")
        said += [self._doubt, doubt]
        self.message.tell(" ".join(said).rstrip())

    def in_words(self, act: Callable[[], object]) -> None:
        """Do something; an error becomes a sentence in the panel and in the editor."""
        forms.show(False, self.replace, self.again, self.planes)
        try:
            act()
        except Exception as error:
            self._offer_planes(error)
            self.message.fail(plain(error))
            self.editor.say(plain(error), error=True)
            self.replace.description = "Replace them"
            if isinstance(error, experiment.OtherMasks):
                self._insist = partial(self.learn_from_it, replace=True)
            elif isinstance(error, MasksChanged):
                self._insist = partial(self.editor.save, replace=True)
            elif isinstance(error, Unsure):
                self.replace.description = "It is done as it is"
                self._insist = partial(act, sure=True)  # type: ignore[call-arg]
            asked = isinstance(error, experiment.OtherMasks | MasksChanged | Unsure)
            forms.show(asked, self.replace)
            forms.show(isinstance(error, MasksChanged), self.again)

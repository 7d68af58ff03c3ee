"""The mask editor: draw, correct and classify cells in the browser; Python holds the truth.

Strokes, undo, zoom and colours are done in the page at once. Each stroke comes back as one binary
patch with a number of its own; the page keeps it until Python has answered, and sends it again
after a lost connection or a reload; Python takes each once. What needs more thought (merge, split,
fill, outlines) is done in Python by `operations`, in order with the strokes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np
import pandas as pd
import traitlets

from scellseg_lib.datasets.load import read_region
from scellseg_lib.errors import ImageError
from scellseg_lib.files.layout import region_path
from scellseg_lib.samples import check_size
from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.classes import clean_name
from scellseg_lib.workbench.editor.journal import Edit, edits_path
from scellseg_lib.workbench.editor.patches import Patch, diff, set_pixels
from scellseg_lib.workbench.editor.view import ImageView, make_layers, with_lock
from scellseg_lib.workbench.forms import count, plain

if TYPE_CHECKING:  # which knows the editor
    from scellseg_lib.workbench.experiment import ClassFile

HISTORY = 300  # edits that a page which opens can undo without asking Python
COMMANDS = {"merge", "split", "delete", "fill_holes", "outline", "relabel", "undo", "redo", "save"}
COMMANDS |= {"set_class", "set_note", "add_class", "rename_class", "remove_class", "set_region"}
COMMANDS |= {"accept", "finish"}
"""What a page may ask for, by the names of the editor's methods."""


def as_editor_method(act: Callable[..., Any]) -> Callable[..., Any]:
    """Make an editor's method of one of its annotation: it tells the pages of the edit."""

    @wraps(act)
    @with_lock
    def edit(editor: MaskEditor, *args: Any, **options: Any) -> Any:
        done = act(editor.annotation, *args, **options)
        if done is not None:
            editor._tell_edit(done)
        return done

    return edit


class MasksChanged(ImageError):
    """Another window or program has changed masks since they were opened here."""


class MaskEditor(ImageView):
    """Edit the cells of an image, and what is said of them; without an image `load` it later.

    `annotation` is what is edited, and `path` the file of masks that `save` writes.
    """

    diameter = traitlets.Float(0.0).tag(sync=True)  # of the disk that shows the scale, px; 0: none

    def __init__(
        self, image: np.ndarray | None = None, labels: np.ndarray | None = None, **options: Any
    ) -> None:
        super().__init__(tools=True)
        self.path: Path | None = None
        self.annotation = Annotation(np.zeros((1, 1), np.int32))
        self._pages = PageEdits(self.annotation)
        self._shared: ClassFile | None = None
        self._trouble = ""  # why the shared classes could not be read or written
        self._n_saved = 0
        self._stamp: tuple[int, int] | None = None
        self._handlers |= dict.fromkeys(("stroke", "turn", "command"), self._take_edit)
        self._handlers["rename"] = self._answer_rename
        self._handlers["point"] = self._take_point
        self._handlers["diameter"] = lambda content, _: self.set_trait("diameter", content["value"])
        if image is not None:
            self.load(image, labels, **options)

    @property
    def cells(self) -> pd.DataFrame:
        """One row a cell: label, area (px), class, note."""
        return self.annotation.cells

    @property
    def classes(self) -> dict[str, str]:
        """Classes and their colours."""
        return dict(self.annotation.classes)

    @property
    def edits(self) -> list[Edit]:
        """Log of all edits; `Annotation.replay` performs it again."""
        return list(self.annotation.edits)

    @property
    def is_changed(self) -> bool:
        """Whether there are edits that `save` has not written to the image's own file."""
        since = self.annotation.edits[self._n_saved :]
        return self.path is not None and not all(edit.is_of_list for edit in since)

    @with_lock
    def load(
        self,
        image: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        cells: pd.DataFrame | None = None,
        channels: Sequence[str] = (),
        layers: Mapping[str, np.ndarray] | None = None,
        title: str = "",
        pixel_size: float | None = None,
        path: Path | None = None,
        classes: ClassFile | None = None,
        region: Path | None = None,
    ) -> None:
        """Open an image, see `ImageView.show`; ImageError if what there is of it does not fit.

        `labels` are cells that there are already, and `cells` what is said of them: ``label``,
        ``class``, ``note``. `path` is the file of masks (``NAME_masks.tif``) that `save` writes:
        every edit is kept beside it at once, and what was not saved is there when the image is
        opened again. `classes` is the list of classes that it shares with others, and `region` the
        file of the rectangle that is annotated, by default that beside `path`.
        """
        shown = make_layers(image, channels, layers or {})
        shape = shown[0].pixels.shape[:2]
        given = np.zeros(shape, np.int32) if labels is None else np.asarray(labels)
        check_size(shape, given.shape, "its masks", title or "image")
        known, trouble = self._start_classes(classes)
        file = region or (region_path(path) if path else None)
        part = read_region(file, shape) if file else None
        annotation = Annotation(given, cells, edits_path(path) if path else None, known, part)
        self.annotation, self._pages = annotation, PageEdits(annotation)
        self._shared, self._trouble = classes, trouble
        self.path, self._stamp, self._n_saved = path, _read_stamp(path), 0
        self._show(title, shown, annotation.labels, pixel_size)

    show = load  # type: ignore[assignment]

    merge = as_editor_method(Annotation.merge)
    split = as_editor_method(Annotation.split)
    delete = as_editor_method(Annotation.delete)
    fill_holes = as_editor_method(Annotation.fill_holes)
    outline = as_editor_method(Annotation.outline)
    relabel = as_editor_method(Annotation.relabel)
    undo = as_editor_method(Annotation.undo)
    redo = as_editor_method(Annotation.redo)
    accept = as_editor_method(Annotation.accept)
    set_region = as_editor_method(Annotation.set_region)
    set_class = as_editor_method(Annotation.set_class)
    set_note = as_editor_method(Annotation.set_note)
    add_class = as_editor_method(Annotation.add_class)
    rename_class = as_editor_method(Annotation.rename_class)
    remove_class = as_editor_method(Annotation.remove_class)

    @with_lock
    def show_labels(self, labels: np.ndarray, kind: str = "replace") -> None:
        """Put other cells in the place of all, as one edit that can be undone."""
        check_size(self.labels.shape, labels.shape, "its masks", self.title or "image")
        self._tell_edit(self.annotation.change(kind, diff(self.labels, labels)))

    @with_lock
    def save(self, path: Path | None = None, *, replace: bool = False) -> tuple[Path, Path]:
        """Save the masks and the list of cells, and give the classes to those who share them.

        The cells are numbered 1 to n, which is an edit as others. The file of masks is .tif or
        .png, by default that of `load`; beside it comes ``NAME_cells.csv``, and where a part alone
        is annotated ``NAME_region.json``. Returns the first two. `MasksChanged` if others have
        changed the masks since they were opened, and they are not to be replaced; ImageError if a
        file cannot be written. No edit is lost then.
        """
        path = path or self.path
        if path is None:
            raise ImageError("the masks have no file", remedy="Give save(path) a file's name.")
        if path == self.path and not replace and _read_stamp(path) not in (None, self._stamp):
            what = "these masks were changed in another window or program meanwhile"
            remedy = "Replace them by what you see, or open the image again."
            raise MasksChanged(what, where=path, remedy=remedy)
        annotation = self.annotation
        if annotation.unchecked:
            self.accept(sorted(annotation.unchecked))
        if annotation.free > len(annotation.cells) + 1:
            self.relabel()
        table = annotation.write(path)
        if path == self.path:
            self._n_saved, self._stamp = len(annotation.edits), _read_stamp(path)
            annotation.restart_journal()
            self._write_classes()
        self._call("save", path)
        return path, table

    def finish(self) -> None:
        """Say that all cells are drawn."""
        self._call("finish")

    def _start_classes(self, shared: ClassFile | None) -> tuple[dict[str, str], str]:
        """Classes that an image starts with, and why the shared ones cannot be read.

        Those that are in no list yet are taken along: made before there was one, or while it could
        not be read or written.
        """
        if shared is None:
            return self.classes, ""
        is_kept = self._shared is None or (self._shared == shared and bool(self._trouble))
        kept, found, trouble = self.classes if is_kept else {}, dict[str, str](), ""
        try:
            found = shared.read()
        except ImageError as error:
            trouble = plain(error)
        return {**found, **{name: kept[name] for name in kept if name not in found}}, trouble

    def _write_classes(self) -> None:
        if self._shared is None:
            return
        try:
            self._shared.write(self.classes)
            self._trouble = ""
        except ImageError as error:
            self._trouble = plain(error)
            self.say(self._trouble, error=True)

    def _take_edit(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        """Perform an edit of a page, and those that have waited for it."""
        number, client = int(content["seq"]), str(content["client"])
        edit = PageEdit(number, client, content, [bytes(buffer) for buffer in buffers])
        if content["session"] != self._pages.session:
            text = "An edit of the image before this one came too late. Go back and do it again."
            self._refuse(edit, text)
        elif edit.number <= self._pages.seen.get(edit.client, 0):
            self.send({"type": "known", "id": edit.id, "to": edit.client})
        else:
            for ready in self._pages.put_in_order(edit):
                self._perform(ready)

    def _perform(self, edit: PageEdit) -> None:
        content, annotation = edit.content, self.annotation
        try:
            if content["type"] == "stroke":
                patch = self._pages.find_patch(edit)
                self._tell_edit(annotation.change(content["kind"], patch, id=edit.id))
            elif content["type"] == "turn":
                back = content["kind"] == "undo"
                known = annotation.undoable if back else annotation.redoable
                if not known or known[-1].id != content["of"]:
                    what = "the masks have changed in between"
                    raise ImageError(what, remedy="Look, and undo again.")
                (self.undo if back else self.redo)(edit.id)
            else:
                self._command(edit)
        except Exception as error:  # whatever a page sends, the kernel goes on
            self._refuse(edit, plain(error))
            if content["type"] != "command":  # the page has shown it already
                self._send_picture(edit.client)

    def _command(self, edit: PageEdit) -> None:
        name, args = edit.content["name"], self._pages.find_arguments(edit)
        if name not in COMMANDS:
            raise KeyError(name)
        done = getattr(self, name)(**args)
        if name == "save":
            text = f"Saved {count(len(self.cells), 'cell')}: {done[0].name} and {done[1].name}."
            self.say(f"{text} {self._trouble}".strip(), error=bool(self._trouble))
        elif name == "rename_class" and done:
            self._tell_class_change(done, args["old"], clean_name(args["new"]))
        elif name == "remove_class":
            self._tell_class_change(done, args["name"])
        n_pixels = done.patch.n_pixels if isinstance(done, Edit) else None
        self.send({"type": "done", "id": edit.id, "name": name, "pixels": n_pixels})

    def _answer_rename(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        old, new, shared, path = content["old"], content["new"], self._shared, self.path
        renamed, left = shared.rename(old, new, path) if shared and path else ([], [])
        text = f'"{old}" is called "{new}" in {_shorten(renamed)} too.' if renamed else ""
        if left:
            text += f" Not in {_shorten(left)}, which cannot be changed or has edits that were not "
            text += "saved: open and save it first."
        self.say(text.strip(), error=bool(left))

    def _take_point(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        y, x = map(int, content["at"])
        if 0 <= y < self.labels.shape[0] and 0 <= x < self.labels.shape[1]:
            self._call("point", y, x)

    def _tell_edit(self, edit: Edit) -> None:
        annotation = self.annotation
        if edit.is_of_list:  # no masks would have to be saved first
            self._write_classes()
        content = {
            "type": "edit",
            "number": len(annotation.edits),
            "id": edit.id,
            "kind": edit.kind,
            "of": edit.of,
            "renumbers": self._pages.follow(edit),
            "facts": {cell: [*now] for cell, (_, now) in edit.facts.items()},
            "classes": self.classes,
            "region": annotation.region.model_dump(),
            "unchecked": sorted(annotation.unchecked),
        }
        self.send(content, [edit.patch.to_bytes()])
        if annotation.trouble:
            self.say(annotation.trouble, error=True)

    def _refuse(self, edit: PageEdit, text: str) -> None:
        session = edit.content["session"]
        self.send({"type": "refused", "id": edit.id, "session": session, "text": text})

    def _tell_class_change(self, edit: Edit, old: str, new: str = "") -> None:
        """Say what has become of a class, and which other images still have it."""
        others = self._shared.others(old, self.path) if self._shared and self.path else []
        cells = count(len(edit.facts), "cell")
        if edit.kind == "merge classes":
            text = f'"{old}" is part of "{new}" now, with {cells}. Undo parts them again.'
        elif edit.kind == "rename class":
            text = f'"{old}" is called "{new}" now, with {cells}.'
        else:
            text = f'The class "{old}" is removed; {cells} had it. Undo brings it back.'
            if others:
                text += f" Other images still have it ({_shorten(others)}): where one of them is "
                text += "opened, it is listed again."
        self.say(text)
        if others and new:
            self.send({"type": "others", "old": old, "new": new, "images": others})

    def _describe_editing(self) -> tuple[dict[str, Any], bytes]:
        annotation = self.annotation
        undo, redo = annotation.undoable[-HISTORY:], annotation.redoable[-HISTORY:]
        runs = {edit.id: edit.patch.to_bytes() for edit in (*undo, *redo)}
        return {
            "session": self._pages.session,
            "seen": self._pages.seen,
            "renamed": self._pages.renamed,
            "number": len(annotation.edits),
            "facts": {cell: [*facts] for cell, facts in annotation.facts.items()},
            "classes": self.classes,
            "region": annotation.region.model_dump(),
            "trouble": self._trouble,
            "undo": [(edit.id, len(runs[edit.id])) for edit in undo],
            "redo": [(edit.id, len(runs[edit.id])) for edit in redo],
            "savable": self.path is not None,
            "unchecked": sorted(annotation.unchecked),
        }, b"".join(runs.values())


class PageEdit(NamedTuple):
    """One edit of a page, as it was sent."""

    number: int
    client: str
    content: dict[str, Any]
    parts: list[bytes]

    @property
    def id(self) -> str:
        """Name of the edit in the annotation's log."""
        return f"{self.client}:{self.number}"


class PageEdits:
    """What pages send of one image that is open: each edit once, in order, in the labels of now."""

    def __init__(self, annotation: Annotation) -> None:
        self.session = uuid4().hex  # of this image: an edit of another one is not for these labels
        self.seen: dict[str, int] = {}  # number of the last edit that was taken of each page
        self.annotation = annotation
        self._early: dict[str, dict[int, PageEdit]] = {}
        # Number of an edit, page concerned ("": every one), and the new labels by the old ones:
        # edits of a page that did not know of it yet speak of the old labels.
        self.renamed: list[tuple[int, str, Mapping[int, int]]] = []

    def put_in_order(self, edit: PageEdit) -> Iterator[PageEdit]:
        """Edits that can be performed now; one that has overtaken another waits for it."""
        early = self._early.setdefault(edit.client, {})
        early[edit.number] = edit
        while (following := self.seen.get(edit.client, 0) + 1) in early:
            self.seen[edit.client] = following
            yield early.pop(following)

    def follow(self, edit: Edit) -> bool:
        """Remember the new labels where an edit has numbered the cells anew; whether it has."""
        if self.annotation.kind_of(edit) != "renumber":
            return False
        pairs = edit.patch.runs[:, 2:]
        names = {int(old): int(new) for old, new in pairs[(pairs > 0).all(axis=1)]}
        self.renamed.append((len(self.annotation.edits), "", names))
        return True

    def find_patch(self, edit: PageEdit) -> Patch:
        """Patch of a stroke, in the labels of now; protected neighbours stay as they are."""
        content, labels, areas = edit.content, self.annotation.labels, self.annotation.areas
        patch, label = Patch.from_bytes(edit.parts[0], labels.size), int(content["label"])
        now = self._find_label(label, edit)
        is_taken = content.get("fresh") and 0 < now < len(areas) and areas[now]
        if is_taken or (label and not now):
            # Another page or an outline has got the label of this page's cell, or that is gone.
            now = self.annotation.free
            self.renamed.append((len(self.annotation.edits) + 1, edit.client, {label: now}))
        runs = patch.runs.copy()
        runs[runs[:, 3] == label, 3] = now
        patch = Patch(runs)
        if content["kind"] == "paint" and content.get("protect"):
            pixels = patch.pixels
            free = np.isin(labels.ravel()[pixels], (0, now))
            patch = set_pixels(labels, pixels[free], now)
        return patch

    def find_arguments(self, edit: PageEdit) -> dict[str, Any]:
        """Arguments of a command, in the labels of now."""
        args = dict(edit.content["args"])
        if "cell" in args:
            args["cell"] = self._find_label(int(args["cell"]), edit)
        if "cells" in args:
            args["cells"] = [self._find_label(int(cell), edit) for cell in args["cells"]]
        return args

    def _find_label(self, label: int, edit: PageEdit) -> int:
        """Label that a cell has now, of which the page may not have known yet; 0 if it is gone."""
        known = int(edit.content.get("number", 0))
        later = [one for one in self.renamed if one[0] > known and one[1] in ("", edit.client)]
        own = [k for k, (_, client, names) in enumerate(later) if client and label in names]
        for _, _, names in later[max(own, default=0) :]:  # its own name for a cell is no other's
            label = names.get(label, 0 if label in names.values() else label)
        return label


def _read_stamp(path: Path | None) -> tuple[int, int] | None:
    """Time and size of a file, which tell whether others have written it; None where it is not."""
    state = path.stat() if path and path.is_file() else None
    return state and (state.st_mtime_ns, state.st_size)


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more

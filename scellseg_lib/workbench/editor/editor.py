"""The mask editor: draw, correct and classify cells in the browser; Python holds the truth.

Strokes, undo, zoom and colours are done in the page at once. Each stroke comes back as one binary
patch with a number of its own; the page keeps it until Python has answered, sends it again after a
lost connection or a reload, and Python takes each once. What needs more thought (merge, split,
fill, outlines) is done in Python by `operations`, in order with the strokes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets

from scellseg_lib.errors import ImageError, ScellsegError
from scellseg_lib.files import export
from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.classes import COLOURS, SharedClasses, class_name
from scellseg_lib.workbench.editor.edited_view import EditedView
from scellseg_lib.workbench.editor.edits import Edit
from scellseg_lib.workbench.editor.page_edits import PageEdits
from scellseg_lib.workbench.editor.patches import difference
from scellseg_lib.workbench.editor.view import locked

HISTORY = 300
"""Edits that a page which opens can undo without asking Python."""
OF_ONE_IMAGE = ("_annotation", "path", "_pages", "_n_saved", "_stamp", "_shared", "_trouble")
"""What another image replaces."""


class MasksChanged(ImageError):
    """Another window or program has changed masks since they were opened here."""


class MaskEditor(EditedView):
    """Edit the cells of an image, and what is said of them.

    Parameters
    ----------
    image : number[H, W] or number[H, W, C], optional
        None: to be given to `load`.
    labels, cells, channels, layers, title, path, classes
        See `load`.
    **traits
        Of the widget, such as ``height``.

    Attributes
    ----------
    diameter : float
        Of the disk that shows the scale, in pixels of the image; 0: none is shown.
    """

    diameter = traitlets.Float(0.0).tag(sync=True)

    def __init__(
        self,
        image: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        *,
        cells: pd.DataFrame | None = None,
        channels: Sequence[str] = (),
        layers: Mapping[str, np.ndarray] | None = None,
        title: str = "",
        path: Path | None = None,
        classes: SharedClasses | None = None,
        **traits: Any,
    ) -> None:
        super().__init__(**traits)
        self._n_saved = 0
        self._stamp: tuple[int, int] | None = None
        if image is not None:
            self.load(
                image,
                labels,
                cells=cells,
                channels=channels,
                layers=layers,
                title=title,
                path=path,
                classes=classes,
            )

    # --- in Python ----------------------------------------------------------------------------

    @property
    def cells(self) -> pd.DataFrame:
        """One row a cell: label, area (px), class, note."""
        return self._annotation.cells

    @property
    def edits(self) -> list[Edit]:
        """Log of all edits; `Annotation.replay` performs it again."""
        return list(self._annotation.edits)

    @property
    def is_changed(self) -> bool:
        """Whether there are edits that `save` has not written to the image's own file."""
        since = self._annotation.edits[self._n_saved :]
        return self.path is not None and not all(edit.is_of_list for edit in since)

    @property
    def annotation(self) -> Annotation:
        """What is edited."""
        return self._annotation

    @locked
    def load(
        self,
        image: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        cells: pd.DataFrame | None = None,
        channels: Sequence[str] = (),
        layers: Mapping[str, np.ndarray] | None = None,
        title: str = "",
        path: Path | None = None,
        classes: SharedClasses | None = None,
    ) -> None:
        """Open an image.

        Parameters
        ----------
        image : number[H, W] or number[H, W, C]
        labels : int[H, W], optional
            Cells that there are already. None: none.
        cells : DataFrame, optional
            What is said of them: ``label``, ``class``, ``note``.
        channels, layers, title
            See `ImageView.show`.
        path : path, optional
            File of masks (``NAME_masks.tif``) that `save` writes. Every edit is kept beside it at
            once; what a crash has left is offered when the image is opened again.
        classes : SharedClasses, optional
            The list of classes that this image shares with others.

        Raises
        ------
        ImageError
            For an image, masks or a list that are none, or do not fit.
        """
        given = np.zeros(np.shape(image)[:2], np.int32) if labels is None else labels
        journal = path.with_name(f".{path.name}.edits") if path else None
        known, trouble = self._classes_of(classes)
        annotation = Annotation(given, cells, journal, known)
        before = {name: getattr(self, name) for name in OF_ONE_IMAGE}
        self._annotation, self.path, self._pages, self._n_saved = annotation, path, PageEdits(), 0
        self._stamp, self._shared, self._trouble = _stamp(path), classes, trouble
        try:
            super().show(image, annotation.labels, channels=channels, layers=layers, title=title)
        except ScellsegError:  # what was open stays open
            for name, value in before.items():
                setattr(self, name, value)
            raise
        self._labels = annotation.labels  # the truth itself, and no copy

    def show(self, *args: Any, **options: Any) -> None:
        """As `load`."""
        self.load(*args, **options)

    @locked
    def show_labels(self, labels: np.ndarray, reference: np.ndarray | None = None) -> None:
        """Put other cells in the place of all, as one edit that can be undone."""
        if labels.shape != self._annotation.labels.shape:
            raise ImageError(
                f"the image is of {self._annotation.labels.shape} px, the masks of {labels.shape}",
                remedy="Take the masks of this image.",
            )
        patch = difference(self._annotation.labels, labels)
        self._did(self._annotation.change("replace", patch))

    @locked
    def merge(self, cells: Sequence[int]) -> Edit:
        """Make one cell of several, see `operations.merge`."""
        return self._did(self._annotation.merge(cells))

    @locked
    def split(self, line: np.ndarray, cells: Sequence[int] = ()) -> Edit:
        """Cut cells along a line, float[n, 2] of (y, x), see `operations.split`."""
        return self._did(self._annotation.split(np.asarray(line), cells))

    @locked
    def delete(self, cells: Sequence[int]) -> Edit:
        """Remove cells."""
        return self._did(self._annotation.delete(cells))

    @locked
    def fill_holes(self, cells: Sequence[int] = ()) -> Edit:
        """Fill holes of cells (none: of all), see `operations.fill_holes`."""
        return self._did(self._annotation.fill_holes(cells))

    @locked
    def outline(self, points: np.ndarray, cell: int = 0, *, protect: bool = True) -> Edit:
        """Fill an outline, float[n, 2] of (y, x); cell 0: with a new cell."""
        return self._did(self._annotation.outline(np.asarray(points), cell, protect=protect))

    @locked
    def relabel(self) -> Edit:
        """Number the cells 1 to n; what is said of them goes with them."""
        return self._did(self._annotation.relabel())

    @locked
    def undo(self) -> Edit | None:
        """Take the last edit back; None where there is none."""
        return self._tell_edit(self._annotation.undo())

    @locked
    def redo(self) -> Edit | None:
        """Do the last undone edit again; None where there is none."""
        return self._tell_edit(self._annotation.redo())

    @locked
    def set_class(self, cells: Sequence[int], name: str) -> Edit:
        """Put cells into a class, which is made if need be; an empty name: into none."""
        return self._did(self._annotation.say(cells, kind=name))

    @locked
    def set_note(self, cells: Sequence[int], text: str) -> Edit:
        """Note something of cells."""
        return self._did(self._annotation.say(cells, note=text))

    @locked
    def add_class(self, name: str, colour: str = "") -> None:
        """Make a class known before any cell has it, or give one another colour, ``#rrggbb``.

        It is given to the shared list at once, and is not undone by `undo`.
        """
        self._tell_edit(self._annotation.add_class(name, colour))
        self._tell_list()

    @locked
    def rename_class(self, old: str, new: str) -> Edit | None:
        """Call a class otherwise, and so its cells of this image, as one edit.

        Where there is a class `new` already, both become that one; None where the name is the same.
        Cells of other images keep the old name until `rename_elsewhere`.
        """
        return self._tell_edit(self._annotation.rename_class(old, new))

    @locked
    def remove_class(self, name: str) -> Edit:
        """Remove a class; its cells of this image have none then. Other images keep theirs."""
        return self._did(self._annotation.remove_class(name))

    @locked
    def rename_elsewhere(self, old: str, new: str) -> tuple[list[str], list[str]]:
        """Rename a class in the saved lists of cells of the folder's other images; no edit.

        Returns
        -------
        renamed, left : list of str
            Names of images. Those with edits that were not saved are left as they are.
        """
        if self._shared is None or self.path is None:
            return [], []
        return self._shared.rename(old, class_name(new), self.path)

    @locked
    def save(
        self, path: Path | None = None, formats: Sequence[str] = (), *, replace: bool = False
    ) -> list[Path]:
        """Save the masks and the list of cells.

        The cells are numbered 1 to n, which is an edit as others.

        Parameters
        ----------
        path : path, optional
            File of masks, .tif or .png, such as ``NAME_masks.tif``. None: that of `load`.
        formats : sequence of str
            Further ones, see `scellseg_lib.files.export.FORMATS`; they lie beside it.
        replace : bool
            Write over masks that another window or program has changed since they were opened.

        Returns
        -------
        list of Path
            The masks, ``NAME_cells.csv``, and the others.

        Raises
        ------
        ImageError
            Without a path, for a file that cannot be written, or one that was changed meanwhile.
            Nothing is written then, and no edit is lost.
        """
        path = path or self.path
        if path is None:
            raise ImageError("the masks have no file", remedy="Give save(path) a file's name.")
        if path == self.path and not replace and _stamp(path) not in (None, self._stamp):
            raise MasksChanged(
                "these masks were changed in another window or program meanwhile",
                where=path,
                remedy="Replace them by what you see, or open the image again.",
            )
        annotation = self._annotation
        if annotation.free > len(annotation.cells) + 1:
            self.relabel()
        table = annotation.write(path)
        if path == self.path:
            self._n_saved, self._stamp = len(annotation.edits), _stamp(path)
            annotation.saved()
            self._keep_classes()
        written = [path, table]
        if formats:
            done = export.export(path, path.parent, formats, overwrite=True)
            if done.failed:
                raise ImageError(done.failed[0], remedy="The masks themselves are saved.")
            name = path.stem.removesuffix("_masks")
            written += [path.with_name(name + export.FORMATS[kind]) for kind in formats]
        self._call("save", path)
        return written

    @locked
    def recover(self) -> int:
        """Do again what a crash has left; the number of edits."""
        n_edits = self._annotation.recover()
        self._send_picture()
        return n_edits

    @locked
    def discard_recovery(self) -> None:
        """Forget what a crash has left."""
        self._annotation.discard()

    def on_edit(self, callback: Callable[[Edit], None]) -> None:
        """Call a function after every edit."""
        self._callbacks.setdefault("edit", []).append(callback)

    def on_save(self, callback: Callable[[Path], None]) -> None:
        """Call a function after every save, with the file of masks."""
        self._callbacks.setdefault("save", []).append(callback)

    # --- what the browser asks for --------------------------------------------------------------

    def _handlers(self) -> dict[str, Callable[[dict[str, Any], Sequence[memoryview]], None]]:
        asked = {"recover": self._asked_to_recover, "rename_elsewhere": self._asked_to_rename}
        return super()._handlers() | asked

    def _asked_to_recover(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        if content["yes"]:
            self.say(f"{self.recover()} edits are back.")
        else:
            self.discard_recovery()

    def _asked_to_rename(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        renamed, left = self.rename_elsewhere(content["old"], content["new"])
        text = f'"{content["old"]}" is called "{content["new"]}" in {_listed(renamed)} too.'
        if left:
            text = f"{text if renamed else ''} Not in {_listed(left)}, which cannot be changed or "
            text += "has edits that were not saved: open and save it first."
        self.say(text.strip(), error=bool(left))

    def _more(self) -> tuple[dict[str, Any], bytes]:
        annotation, (more, _) = self._annotation, super()._more()
        known = annotation.undoable[-HISTORY:], annotation.redoable[-HISTORY:]
        runs = [[edit.patch.to_bytes() for edit in edits] for edits in known]
        ids = [
            [(edit.id, len(data)) for edit, data in zip(edits, patches, strict=True)]
            for edits, patches in zip(known, runs, strict=True)
        ]
        return more | {
            "session": self._pages.session,
            "seen": self._pages.seen,
            "number": len(annotation.edits),
            "facts": {cell: [*facts] for cell, facts in annotation.facts.items()},
            "classes": self.classes,
            "palette": COLOURS,
            "trouble": self._trouble,
            "undo": ids[0],
            "redo": ids[1],
            "savable": self.path is not None,
            "found": [len(annotation.recoverable), annotation.begun],
        }, b"".join(runs[0] + runs[1])


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Time and size of a file, which tell whether others have written it; None where it is not."""
    if path is None or not path.is_file():
        return None
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def _listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a row; of many the first ones."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

"""The masks of one image while they are edited: labels, classes and notes, and how they came about.

No browser is needed: the mask editor is a window on this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scellseg_lib.atomic import whole
from scellseg_lib.errors import ImageError
from scellseg_lib.files.images import write_labels
from scellseg_lib.samples import diameter
from scellseg_lib.workbench.editor import classes as class_list
from scellseg_lib.workbench.editor import operations
from scellseg_lib.workbench.editor.classes import Classes
from scellseg_lib.workbench.editor.edits import NOTHING, Edit, Facts
from scellseg_lib.workbench.editor.given_cells import (
    COLUMNS,
    LARGEST_LABEL,
    checked_facts,
    checked_labels,
)
from scellseg_lib.workbench.editor.journal import Journal
from scellseg_lib.workbench.editor.patches import EMPTY, Patch, apply, rebased

CELLS = "_cells.csv"
LISTED = "class list"
"""Kind of an edit that makes a class known, or gives it another colour."""
PUT_ASIDE = "What was not saved before is put aside, in a hidden file that ends in .other."


class Annotation:
    """Labels of an image, what is said of the cells, and a log of edits that can be replayed.

    Parameters
    ----------
    labels : int[H, W]
        0 is background. Copied.
    cells : DataFrame, optional
        ``label``, and ``class`` or ``note`` or both.
    journal : path, optional
        File to which every edit is appended at once, see `Journal`.
    classes : mapping of str to str, optional
        Classes that are known already, such as from the image before, and their colours.

    Raises
    ------
    ImageError
        For labels that are none, or a list that names a cell which there is not.
    """

    def __init__(
        self,
        labels: np.ndarray,
        cells: pd.DataFrame | None = None,
        journal: Path | None = None,
        classes: Mapping[str, str] | None = None,
    ) -> None:
        self.labels = checked_labels(np.asarray(labels))
        self.areas = np.bincount(self.labels.ravel(), minlength=1)
        self.facts = {} if cells is None else checked_facts(cells, self.areas)
        self.classes = dict(classes or {})
        self._know_all()
        self.edits: list[Edit] = []
        self._undoable: list[str] = []
        self._redoable: list[str] = []
        self._by_id: dict[str, Edit] = {}
        self.journal = Journal(journal, self.labels) if journal else None
        self.begun, self.recoverable = self.journal.found() if self.journal else ("", [])
        """When edits that a crash has left were begun, and they."""
        self.trouble = ""
        """Why the last edits are not in the journal yet; they go there with the next one."""

    @property
    def cells(self) -> pd.DataFrame:
        """One row a cell: `COLUMNS`."""
        there = np.flatnonzero(self.areas[1:]) + 1
        said = [self.facts.get(int(cell), NOTHING) for cell in there]
        kinds, notes = [one.kind for one in said], [one.note for one in said]
        columns = (there, self.areas[there], kinds, notes)
        return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))

    @property
    def free(self) -> int:
        """A label that no cell has: one more than the largest."""
        there = np.flatnonzero(self.areas[1:])
        return int(there[-1]) + 2 if len(there) else 1

    @property
    def diameter(self) -> float:
        """Median of ``2 sqrt(area / pi)`` over the cells, pixels; NaN without cells."""
        return diameter(self.areas[1:])

    @property
    def undoable(self) -> list[Edit]:
        """Edits that can be undone, the last one last."""
        return [self._by_id[one] for one in self._undoable]

    @property
    def redoable(self) -> list[Edit]:
        """Edits that have been undone, the next one last."""
        return [self._by_id[one] for one in self._redoable]

    def change(
        self,
        kind: str,
        patch: Patch = EMPTY,
        facts: Mapping[int, Facts] | None = None,
        id: str = "",
        classes: tuple[Classes, Classes] | None = None,
    ) -> Edit:
        """Apply a change and keep it.

        Parameters
        ----------
        kind : str
            What it is called in the log.
        patch : Patch
            Made from these labels or others: what counts is what it writes where.
        facts : mapping of int to Facts, optional
            What is now said of cells.
        id : str
            Empty: the next free number.
        classes : (dict of str to str, dict of str to str), optional
            The list of classes before and after.

        Returns
        -------
        Edit

        Raises
        ------
        ImageError
            For a number that is no label, or an `id` that is taken; nothing is changed then.
        """
        written = patch.runs[:, 3]
        if len(written) and not 0 <= written.min() <= written.max() <= LARGEST_LABEL:
            raise ImageError(
                f"a change would give cells the labels {written.min()} to {written.max()}",
                remedy=f"Labels are 1 to {LARGEST_LABEL}.",
            )
        patch = rebased(self.labels, patch)
        changed = {
            int(cell): (self.facts.get(int(cell), NOTHING), Facts(*new))
            for cell, new in (facts or {}).items()
        }
        after = self._areas_after(patch)
        for cell in patch.runs[:, 2].tolist():  # nothing is said of a cell that is gone
            if cell and not after[cell] and cell in self.facts:
                changed[cell] = (self.facts[cell], NOTHING)
        edit = Edit(id or self._free_id(), kind, patch, changed, classes=classes)
        self._perform(edit, patch, changed)
        if kind != LISTED:
            self._undoable.append(edit.id)
            self._redoable.clear()
        return edit

    def undo(self, id: str = "") -> Edit | None:
        """Take the last edit back; None where there is none. The new edit gets `id`."""
        return self._turn(self._undoable, self._redoable, "undo", id)

    def redo(self, id: str = "") -> Edit | None:
        """Do the last undone edit again; None where there is none."""
        return self._turn(self._redoable, self._undoable, "redo", id)

    def say(
        self, cells: Sequence[int], *, kind: str | None = None, note: str | None = None
    ) -> Edit:
        """Set the class or the note of cells; None leaves what was said.

        Raises
        ------
        ImageError
            For a cell that there is not.
        """
        for cell in cells:
            if not 0 < cell < len(self.areas) or not self.areas[cell]:
                raise ImageError(f"there is no cell {cell}", remedy="Choose one of the list.")
        facts = {}
        for cell in cells:
            was = self.facts.get(cell, NOTHING)
            named = was.kind if kind is None else " ".join(kind.split())
            facts[cell] = Facts(named, was.note if note is None else note.strip())
        return self.change("class" if kind is not None else "note", EMPTY, facts)

    def merge(self, cells: Sequence[int]) -> Edit:
        """See `operations.merge`; the cell has the first class of them, and all notes."""
        patch = operations.merge(self.labels, cells)
        said = [self.facts.get(cell, NOTHING) for cell in sorted({int(cell) for cell in cells})]
        kind = next((one.kind for one in said if one.kind), "")
        notes = dict.fromkeys(one.note for one in said if one.note)
        return self.change("merge", patch, {min(map(int, cells)): Facts(kind, "; ".join(notes))})

    def split(self, line: np.ndarray, cells: Sequence[int] = ()) -> Edit:
        """See `operations.split`; what is said of a cell is said of its parts."""
        patch = operations.split(self.labels, cells, line)
        pairs = {(int(old), int(new)) for old, new in patch.runs[:, 2:]}
        facts = {new: self.facts[old] for old, new in pairs if old in self.facts}
        return self.change("split", patch, facts)

    def delete(self, cells: Sequence[int]) -> Edit:
        """See `operations.delete`."""
        return self.change("delete", operations.delete(self.labels, cells))

    def fill_holes(self, cells: Sequence[int] = ()) -> Edit:
        """See `operations.fill_holes`."""
        return self.change("fill holes", operations.fill_holes(self.labels, cells))

    def outline(self, points: np.ndarray, cell: int = 0, *, protect: bool = True) -> Edit:
        """See `operations.outline`; cell 0: a new one."""
        patch = operations.outline(self.labels, points, cell or self.free, protect=protect)
        return self.change("outline", patch)

    def relabel(self) -> Edit:
        """Number the cells 1 to n; what is said of them goes with them."""
        there = enumerate(np.flatnonzero(self.areas[1:]) + 1, 1)
        facts = dict.fromkeys(self.facts, NOTHING)
        facts |= {new: self.facts[int(old)] for new, old in there if int(old) in self.facts}
        return self.change("renumber", operations.relabel(self.labels), facts)

    @property
    def used(self) -> set[str]:
        """Classes that cells of this image have."""
        return {facts.kind for facts in self.facts.values()} - {""}

    def add_class(self, name: str, colour: str = "") -> Edit | None:
        """Make a class known before any cell has it, or give one another colour.

        Without a colour a new one gets the next one, see `class_list.next_colour`. This is in the
        log, but no undo takes it back. None where nothing changes.

        Raises
        ------
        ImageError
            For no name, or what is no colour.
        """
        name = class_list.class_name(name)
        old = self.classes.get(name, "")
        new = class_list.class_colour(colour) if colour else old
        new = new or class_list.next_colour(self.classes)
        if new == old:
            return None
        return self._list(LISTED, self.classes | {name: new}, {})

    def rename_class(self, old: str, new: str) -> Edit | None:
        """Call a class otherwise, and so its cells; None where it is called so already.

        It keeps colour and place. Where another class is called `new`, both become that one.

        Raises
        ------
        ImageError
            If there is no class `old`, or `new` is no name.
        """
        old, new = class_list.known_class(self.classes, old), class_list.class_name(new)
        if old == new:
            return None
        kind = "merge classes" if new in self.classes else "rename class"
        return self._list(kind, class_list.renamed(self.classes, old, new), self._of(old, new))

    def remove_class(self, name: str) -> Edit:
        """Take a class from the list; its cells have none then.

        Raises
        ------
        ImageError
            If there is no such class.
        """
        name = class_list.known_class(self.classes, name)
        kept = {kind: colour for kind, colour in self.classes.items() if kind != name}
        return self._list("remove class", kept, self._of(name, ""))

    def recover(self) -> int:
        """Do again what a crash has left; the number of edits."""
        edits, self.recoverable = self.recoverable, []
        journal, self.journal = self.journal, None  # they are in the file already
        try:
            self.replay(edits)
        finally:
            self.journal = journal
        if journal:
            journal.take_up()
        return len(edits)

    def saved(self) -> None:
        """Go on from labels that are in a file now; what a crash has left and is not asked for
        stays."""
        if self.journal and not self.recoverable:
            self.journal.restart(self.labels)
            self.trouble = ""

    def write(self, path: Path) -> Path:
        """Write the masks, and beside them the list of cells, whose path is returned.

        Raises
        ------
        ImageError
            If a file cannot be written; neither is changed then.
        """
        table = path.with_name(path.stem.removesuffix("_masks") + CELLS)
        try:
            with whole(path) as masks, whole(table) as listed:
                write_labels(masks, self.labels)
                self.cells.to_csv(listed, index=False)
        except OSError as error:
            raise ImageError(
                f"the masks cannot be saved ({error.strerror})",
                where=path,
                remedy="Close other programs that have these files open, make room on the disk, "
                "or save elsewhere. Your edits are kept.",
            ) from error
        return table

    def discard(self) -> None:
        """Forget what a crash has left; edits since then are kept."""
        if self.journal and self.recoverable:
            self.journal.discard()
        self.recoverable = []

    def replay(self, edits: Sequence[Edit]) -> None:
        """Perform edits of a log in order, undone and redone ones too."""
        turns = {"undo": (self._undoable, self.undo), "redo": (self._redoable, self.redo)}
        for edit in edits:
            id = "" if edit.id in self._by_id else edit.id
            known, turn = turns.get(edit.kind, ([], self.undo))
            if known and known[-1] == edit.of:
                turn(id)
            else:
                facts = {cell: after for cell, (_, after) in edit.facts.items()}
                self.change(edit.kind, edit.patch, facts, id, edit.classes)

    def _list(self, kind: str, classes: Classes, facts: Mapping[int, Facts]) -> Edit:
        return self.change(kind, EMPTY, facts, classes=(dict(self.classes), classes))

    def _of(self, old: str, new: str) -> dict[int, Facts]:
        """What is said of the cells of a class once they are of another."""
        return {cell: Facts(new, one.note) for cell, one in self.facts.items() if one.kind == old}

    def _know(self, kind: str) -> None:
        if kind and kind not in self.classes:
            self.classes[kind] = class_list.next_colour(self.classes)

    def _know_all(self) -> None:
        for facts in self.facts.values():
            self._know(facts.kind)

    def _free_id(self) -> str:
        number = len(self.edits)
        while f"python:{number}" in self._by_id:  # of edits that were recovered
            number += 1
        return f"python:{number}"

    def _turn(self, source: list[str], target: list[str], kind: str, id: str) -> Edit | None:
        if not source:
            return None
        turned = self._by_id[source[-1]]
        back = kind == "undo"
        patch = turned.patch.inverse() if back else turned.patch
        facts = {cell: pair[::-1] if back else pair for cell, pair in turned.facts.items()}
        classes = turned.classes
        if back and classes:
            classes = classes[1], classes[0]
        edit = Edit(id or self._free_id(), kind, patch, facts, turned.id, classes)
        self._perform(edit, patch, facts)
        target.append(source.pop())
        return edit

    def _perform(self, edit: Edit, patch: Patch, facts: Mapping[int, tuple[Facts, Facts]]) -> None:
        if edit.id in self._by_id:
            raise ImageError(f"the edit {edit.id} was made before", remedy="Open the image again.")
        apply(self.labels, patch)
        self.areas = self._areas_after(patch)
        if edit.classes:
            self.classes = class_list.merged(*edit.classes, self.classes)
        for cell, (_, new) in facts.items():
            self._know(new.kind)
            if new == NOTHING:
                self.facts.pop(cell, None)
            else:
                self.facts[cell] = new
        if edit.classes:
            self._know_all()
        self.edits.append(edit)
        self._by_id[edit.id] = edit
        if self.journal and (self.journal.is_begun or not edit.is_of_list):
            aside, self.recoverable = len(self.recoverable), []
            try:
                self.journal.append(edit)
                self.trouble = PUT_ASIDE if aside else ""
            except ImageError as error:  # the edit itself is done
                self.trouble = str(error)

    def _areas_after(self, patch: Patch) -> np.ndarray:
        size = max(len(self.areas), int(patch.runs[:, 3].max(initial=0)) + 1)
        areas = np.zeros(size, np.int64)
        areas[: len(self.areas)] = self.areas
        np.subtract.at(areas, patch.runs[:, 2], patch.runs[:, 1])
        np.add.at(areas, patch.runs[:, 3], patch.runs[:, 1])
        return areas

"""The masks of one image while they are edited: labels, what is said of them, how it came about.

No browser is needed: the mask editor is a window on this. What cannot be done raises an ImageError
and changes nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from scellseg_lib.atomic import whole
from scellseg_lib.datasets.load import Region
from scellseg_lib.errors import ImageError, telling
from scellseg_lib.files.export import match_cells, waiting_list
from scellseg_lib.files.images import write_labels
from scellseg_lib.files.layout import cells_path, region_path
from scellseg_lib.samples import as_labels
from scellseg_lib.workbench.editor import operations
from scellseg_lib.workbench.editor.classes import (
    Classes,
    choose_colour,
    clean_name,
    find_class,
    parse_colour,
)
from scellseg_lib.workbench.editor.journal import NOTHING, Edit, Facts, Journal
from scellseg_lib.workbench.editor.patches import EMPTY, Patch, apply, rebase

COLUMNS = ("label", "area", "class", "note")  # of the list of cells; areas are in pixels
LARGEST_LABEL = 2_000_000  # larger ones would take too much memory in the page
SUGGEST = "suggest"  # kind of the edits that add what a model has found


class Annotation:
    """Labels of an image, what is said of the cells, and a log of edits that can be replayed.

    The labels, int[H, W], are copied. `cells` has a column ``label``, and ``class`` or ``note`` or
    both; `journal` is a file to which every edit is appended at once, and those that it has already
    are done again; `classes` are known already; `region` is the rectangle within which all cells
    are drawn, None the whole image.
    """

    def __init__(
        self,
        labels: np.ndarray,
        cells: pd.DataFrame | None = None,
        journal: Path | None = None,
        classes: Classes | None = None,
        region: Region | None = None,
    ) -> None:
        self.labels = as_labels(labels, largest=LARGEST_LABEL).copy()
        self.areas = np.bincount(self.labels.ravel(), minlength=1)  # pixels, by label
        height, width = self.labels.shape
        self.region = region or Region(top=0, left=0, height=height, width=width)
        said = None if cells is None else match_cells(cells, self.labels).itertuples(name=None)
        facts = {cell: Facts(" ".join(kind.split()), note) for cell, kind, note in said or ()}
        self.facts = {cell: one for cell, one in facts.items() if one != NOTHING}
        self.classes = _add_classes(classes or {}, self.facts.values())
        self.edits: list[Edit] = []
        self._by_id: dict[str, Edit] = {}
        self.undoable: list[Edit] = []  # the last edit is last
        self.redoable: list[Edit] = []  # the next edit is last
        self.unchecked = set[int]()  # cells that were suggested, and that nobody has touched since
        self._unchecked_before: dict[str, set[int]] = {}  # each edit
        self.trouble = ""  # why the last edits are not in the journal yet, but wait for the next
        self.journal: Journal | None = None
        if journal:
            kept = Journal(journal, self.labels)
            self._recover(kept.read())
            self.journal = kept  # which has these edits already

    @property
    def cells(self) -> pd.DataFrame:
        """One row a cell: `COLUMNS`."""
        there = np.flatnonzero(self.areas[1:]) + 1
        rows = [(cell, self.areas[cell], *self.facts.get(cell, NOTHING)) for cell in there.tolist()]
        return pd.DataFrame(rows, columns=COLUMNS)

    @property
    def free(self) -> int:
        """A label that no cell has: one more than the largest."""
        return int(np.flatnonzero(self.areas).max(initial=0)) + 1

    def change(
        self,
        kind: str,
        patch: Patch = EMPTY,
        facts: Mapping[int, Facts] | None = None,
        id: str = "",
        classes: Classes | None = None,
        region: Region | None = None,
    ) -> Edit:
        """Apply a change, and keep it as an edit that can be undone.

        The patch may be made from other labels: what counts is what it writes where. `facts` is
        what is now said of cells, and `classes` the list of classes afterwards; classes of cells
        that it lacks are added. Nothing is said any more of a cell that vanishes. `region` is the
        rectangle afterwards, if that changes.
        """
        written = patch.runs[:, 3]
        if len(written) and not 0 <= written.min() <= written.max() <= LARGEST_LABEL:
            what = f"a change would give cells the labels {written.min()} to {written.max()}"
            raise ImageError(what, remedy=f"Labels are 1 to {LARGEST_LABEL}.")
        patch = rebase(self.labels, patch)
        now = {int(cell): Facts(*said) for cell, said in (facts or {}).items()}
        areas = self._count_after(patch)
        there = set(np.flatnonzero(areas).tolist())
        now |= dict.fromkeys(self.facts.keys() - there, NOTHING)
        listed = _add_classes(self.classes if classes is None else classes, now.values())
        pairs = {cell: (self.facts.get(cell, NOTHING), said) for cell, said in now.items()}
        is_same = [*listed.items()] == [*self.classes.items()]
        lists = None if is_same else (self.classes, listed)
        regions = (self.region, region) if region else None
        edit = Edit(kind=kind, patch=patch, facts=pairs, classes=lists, region=regions)
        edit = self._perform(edit, id)
        self.undoable.append(edit)
        self.redoable.clear()
        return edit

    def undo(self, id: str = "") -> Edit | None:
        """Take the last edit back; None where there is none. The new edit gets `id`."""
        if not self.undoable:
            return None
        edit = self._perform(self.undoable[-1].invert(), id)
        self.redoable.append(self.undoable.pop())
        return edit

    def redo(self, id: str = "") -> Edit | None:
        """Do the last undone edit again; None where there is none. The new edit gets `id`."""
        if not self.redoable:
            return None
        last = self.redoable[-1]
        edit = self._perform(last.model_copy(update={"kind": "redo", "of": last.id}), id)
        self.undoable.append(self.redoable.pop())
        return edit

    def replay(self, edits: Sequence[Edit]) -> None:
        """Perform edits of a log in order, undone and redone ones too."""
        for edit in edits:
            id = "" if edit.id in self._by_id else edit.id
            if edit.kind == "undo" and self.undoable and self.undoable[-1].id == edit.of:
                self.undo(id)
            elif edit.kind == "redo" and self.redoable and self.redoable[-1].id == edit.of:
                self.redo(id)
            else:
                facts = {cell: after for cell, (_, after) in edit.facts.items()}
                classes, region = edit.classes and edit.classes[1], edit.region and edit.region[1]
                self.change(edit.kind, edit.patch, facts, id, classes, region)

    def kind_of(self, edit: Edit) -> str:
        """Kind of an edit, or of that which it undoes or redoes."""
        return self._by_id.get(edit.of, edit).kind

    def accept(self, cells: Sequence[int]) -> Edit:
        """Say that cells which were suggested are right."""
        return self.change("accept", facts={k: self._facts_of(k) for k in cells})

    def merge(self, cells: Sequence[int]) -> Edit:
        """Make one cell of several, with the smallest label, the first class, and all notes."""
        patch = operations.merge(self.labels, cells)
        said = [self.facts.get(cell, NOTHING) for cell in sorted({int(cell) for cell in cells})]
        kind = next((one.kind for one in said if one.kind), "")
        notes = dict.fromkeys(one.note for one in said if one.note)
        return self.change("merge", patch, {min(map(int, cells)): Facts(kind, "; ".join(notes))})

    def split(self, line: np.ndarray, cells: Sequence[int] = ()) -> Edit:
        """Cut cells (none: all it meets) along a line, float[n, 2]; parts keep class and note."""
        patch = operations.split(self.labels, cells, np.asarray(line))
        pairs = {(int(old), int(new)) for old, new in patch.runs[:, 2:]}
        facts = {new: self.facts[old] for old, new in pairs if old in self.facts}
        return self.change("split", patch, facts)

    def delete(self, cells: Sequence[int]) -> Edit:
        """Remove cells."""
        return self.change("delete", operations.delete(self.labels, cells))

    def fill_holes(self, cells: Sequence[int] = ()) -> Edit:
        """Fill holes of cells (none: of all); other cells in them stay."""
        return self.change("fill holes", operations.fill_holes(self.labels, cells))

    def outline(self, points: np.ndarray, cell: int = 0, *, protect: bool = True) -> Edit:
        """Fill an outline, float[n, 2] of (y, x), with a cell; 0: with a new one."""
        cell = cell or self.free
        patch = operations.outline(self.labels, np.asarray(points), cell, protect=protect)
        return self.change("outline", patch)

    def relabel(self) -> Edit:
        """Number the cells 1 to n; what is said of them goes with them."""
        there = enumerate(np.flatnonzero(self.areas[1:]) + 1, 1)
        facts = dict.fromkeys(self.facts, NOTHING)
        facts |= {new: self.facts[int(old)] for new, old in there if int(old) in self.facts}
        return self.change("renumber", operations.relabel(self.labels), facts)

    def set_class(self, cells: Sequence[int], name: str) -> Edit:
        """Put cells into a class, which is made if need be; an empty name: into none."""
        name = " ".join(name.split())
        return self.change("class", facts={k: self._facts_of(k)._replace(kind=name) for k in cells})

    def set_note(self, cells: Sequence[int], text: str) -> Edit:
        """Note something of cells."""
        text = text.strip()
        return self.change("note", facts={k: self._facts_of(k)._replace(note=text) for k in cells})

    def add_class(self, name: str, colour: str = "") -> Edit | None:
        """Make a class known, or give one another colour; None where nothing changes."""
        name = clean_name(name)
        known = self.classes.get(name)
        new = parse_colour(colour) if colour else known or choose_colour(self.classes)
        if new == known:
            return None
        return self.change("add class", classes={**self.classes, name: new})

    def rename_class(self, old: str, new: str) -> Edit | None:
        """Rename a class, or join it to one of that name; None where nothing changes."""
        old, new = find_class(self.classes, old), clean_name(new)
        if old == new:
            return None
        if new in self.classes:
            kind, listed = "merge classes", {k: v for k, v in self.classes.items() if k != old}
        else:
            kind = "rename class"
            listed = {new if k == old else k: v for k, v in self.classes.items()}
        return self.change(kind, facts=self._reclassify(old, new), classes=listed)

    def remove_class(self, name: str) -> Edit:
        """Take a class from the list; its cells have none then."""
        name = find_class(self.classes, name)
        listed = {k: v for k, v in self.classes.items() if k != name}
        return self.change("remove class", facts=self._reclassify(name, ""), classes=listed)

    def set_region(self, corners: Sequence[Sequence[float]]) -> Edit | None:
        """Say that all cells within a rectangle are drawn; None where that is said already.

        Its `corners` are two opposite ones, (y, x) in pixels; those of the image are all of it.
        """
        ends = np.sort(np.round(np.asarray(corners, np.float64)), axis=0)
        (top, left), (bottom, right) = np.clip(ends, 0, self.labels.shape).astype(int).tolist()
        if top == bottom or left == right:
            remedy = "Drag from one corner to the other, over the image."
            raise ImageError("the rectangle holds no pixel of the image", remedy=remedy)
        region = Region(top=top, left=left, height=bottom - top, width=right - left)
        return None if region == self.region else self.change("region", region=region)

    def _recover(self, edits: Sequence[Edit]) -> None:
        """Do edits of a journal again.

        Classes that these do not know have been added by other images since, and stay.
        """
        known = {name for edit in edits for one in edit.classes or () for name in one}
        added = {name: colour for name, colour in self.classes.items() if name not in known}
        for edit in edits:
            classes = edit.classes and tuple(one | added for one in edit.classes)
            with suppress(ImageError):  # a damaged line
                self.replay([edit.model_copy(update={"classes": classes})])

    def write(self, path: Path) -> Path:
        """Write the masks and the list of cells, whose path is returned; both, or neither.

        Beside them comes the rectangle, where not the whole image is annotated.
        """
        table, region = cells_path(path), region_path(path)
        waiting = waiting_list(table, self.labels)
        remedy = "Close other programs that have these files open, make room on the disk, or save "
        remedy += "elsewhere. Your edits are kept."
        with telling("the masks cannot be saved", path, remedy, ImageError):
            for file in (file for file in (table, region) if file.exists()):
                file.open("r+b").close()  # or another program has it open
            with whole(waiting) as listed:
                self.cells.to_csv(listed, index=False)
            try:
                with whole(region) as scratch:
                    scratch.write_text(self.region.model_dump_json())
                    write_labels(path, self.labels)
            except OSError:
                waiting.unlink(missing_ok=True)  # the masks that it speaks of are not there
                raise
            waiting.replace(table)
            if (self.region.height, self.region.width) == self.labels.shape:
                region.unlink(missing_ok=True)
        return table

    def restart_journal(self) -> None:
        """Go on from labels that are in a file now."""
        if self.journal:
            self.journal.discard()
            self.journal, self.trouble = Journal(self.journal.path, self.labels), ""

    def _facts_of(self, cell: int) -> Facts:
        """What is said of a cell that there is."""
        if not 0 < cell < len(self.areas) or not self.areas[cell]:
            raise ImageError(f"there is no cell {cell}", remedy="Choose one of the list.")
        return self.facts.get(cell, NOTHING)

    def _reclassify(self, old: str, new: str) -> dict[int, Facts]:
        """What is said of the cells of a class once they are of another."""
        cells = self.facts.items()
        return {cell: facts._replace(kind=new) for cell, facts in cells if facts.kind == old}

    def _perform(self, edit: Edit, id: str) -> Edit:
        """Perform an edit under a name; an empty one: under one that none has."""
        free = (f"python:{number}" for number in count(len(self.edits)))
        id = id or next(one for one in free if one not in self._by_id)
        if id in self._by_id:
            raise ImageError(f"the edit {id} was made before", remedy="Open the image again.")
        edit = edit.model_copy(update={"id": id})
        apply(self.labels, edit.patch)
        self.areas = self._count_after(edit.patch)
        if edit.classes:
            self.classes = edit.classes[1]
        if edit.region:
            self.region = edit.region[1]
        facts = self.facts | {cell: new for cell, (_, new) in edit.facts.items()}
        self.facts = {cell: said for cell, said in facts.items() if said != NOTHING}
        self.edits.append(edit)
        self._by_id[edit.id] = edit
        self._follow_suggestions(edit)
        if self.journal and (self.journal.lines or not edit.is_of_list):
            try:
                self.journal.append(edit)
                self.trouble = ""
            except ImageError as error:  # the edit itself is done
                self.trouble = str(error)
        return edit

    def _follow_suggestions(self, edit: Edit) -> None:
        """Bring `unchecked` to what it is after an edit."""
        if edit.kind == "undo" and edit.of:
            self.unchecked = self._unchecked_before[edit.of]
            return
        self._unchecked_before[edit.of or edit.id] = self.unchecked
        pairs, kind = edit.patch.runs[:, 2:], self.kind_of(edit)
        if kind == "renumber":
            names = dict(np.unique(pairs, axis=0).tolist())
            self.unchecked = {names.get(cell, cell) for cell in self.unchecked}
        elif kind == SUGGEST:
            self.unchecked = self.unchecked | {*pairs[:, 1].tolist()} - {0}
        else:
            self.unchecked = self.unchecked - {*pairs.ravel().tolist(), *edit.facts}

    def _count_after(self, patch: Patch) -> np.ndarray:
        """Areas by label once a patch is applied."""
        areas = np.zeros(max(len(self.areas), int(patch.runs[:, 3].max(initial=0)) + 1), np.int64)
        areas[: len(self.areas)] = self.areas
        np.subtract.at(areas, patch.runs[:, 2], patch.runs[:, 1])
        np.add.at(areas, patch.runs[:, 3], patch.runs[:, 1])
        return areas


def _add_classes(classes: Classes, facts: Collection[Facts]) -> dict[str, str]:
    """A list of classes with those that cells have, too."""
    found = dict(classes)
    for kind in (one.kind for one in facts):
        if kind and kind not in found:
            found[kind] = choose_colour(found)
    return found

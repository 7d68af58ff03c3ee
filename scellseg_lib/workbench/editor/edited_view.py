"""An image whose cells are edited by pages: takes their edits in order, and tells what was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.classes import SharedClasses
from scellseg_lib.workbench.editor.edits import Edit
from scellseg_lib.workbench.editor.page_edits import PageEdits, Waiting
from scellseg_lib.workbench.editor.view import ImageView, in_words

COMMANDS = {"merge", "split", "delete", "fill_holes", "outline", "relabel", "undo", "redo", "save"}
COMMANDS |= {"set_class", "set_note", "add_class", "rename_class", "remove_class"}
"""What a page may ask for, by the names of the editor's methods."""


class EditedView(ImageView):
    """The part of the mask editor that pages talk with; the other one is for Python."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(tools=True, **traits)
        self.path: Path | None = None
        self._annotation = Annotation(np.zeros((1, 1), np.int32))
        self._pages = PageEdits()
        self._shared: SharedClasses | None = None
        self._trouble = ""

    @property
    def classes(self) -> dict[str, str]:
        """Classes and their colours."""
        return dict(self._annotation.classes)

    # --- what pages ask for ----------------------------------------------------------------------

    def _handlers(self) -> dict[str, Callable[[dict[str, Any], Sequence[memoryview]], None]]:
        return super()._handlers() | dict.fromkeys(("stroke", "turn", "command"), self._take)

    def _take(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        """Take an edit of a page, see `PageEdits`."""
        id = f"{content['client']}:{int(content['seq'])}"
        if content["session"] != self._pages.session:
            text = "An edit of the image before this one came too late. Go back and do it again."
            self.send({"type": "refused", "id": id, "session": content["session"], "text": text})
        elif self._pages.taken(content):
            self.send({"type": "known", "id": id, "to": content["client"]})
        else:
            for edit in self._pages.in_order(content, buffers):
                self._perform(edit)

    def _perform(self, edit: Waiting) -> None:
        content, session = edit.content, self._pages.session
        try:
            if content["type"] == "stroke":
                patch = self._pages.stroke(self._annotation, edit)
                self._tell_edit(self._annotation.change(content["kind"], patch, id=edit.id))
            elif content["type"] == "turn":
                self._turn(edit.id, content)
            else:
                self._command(edit.id, content["name"], self._pages.arguments(edit))
        except Exception as error:  # whatever a page sends, the kernel goes on
            text = in_words(error)
            self.send({"type": "refused", "id": edit.id, "session": session, "text": text})
            if content["type"] != "command":  # the page has shown it already
                self._send_picture(edit.client)

    def _turn(self, id: str, content: dict[str, Any]) -> None:
        annotation, back = self._annotation, content["kind"] == "undo"
        known = annotation.undoable if back else annotation.redoable
        if not known or known[-1].id != content["of"]:
            raise ImageError("the masks have changed in between", remedy="Look, and undo again.")
        self._tell_edit(annotation.undo(id) if back else annotation.redo(id))

    def _command(self, id: str, name: str, args: dict[str, Any]) -> None:
        if name not in COMMANDS:
            raise KeyError(name)
        done = getattr(self, name)(**args)
        if name == "save":
            self._tell_saved(*done)
        elif name in ("rename_class", "remove_class") and done:
            self._tell_classes(done, " ".join(args.get("new", "").split()))
        n_pixels = done.patch.n_pixels if isinstance(done, Edit) else None
        self.send({"type": "done", "id": id, "name": name, "pixels": n_pixels})

    # --- what they are told ----------------------------------------------------------------------

    def _did(self, edit: Edit) -> Edit:
        self._tell_edit(edit)
        return edit

    def _tell_edit(self, edit: Edit | None) -> Edit | None:
        if edit is not None:
            if edit.is_of_list:  # it concerns no masks that would have to be saved first
                self._keep_classes()
            content: dict[str, Any] = {"type": "edit", "number": len(self._annotation.edits)}
            content |= {"id": edit.id, "kind": edit.kind, "of": edit.of}
            content["renumbers"] = self._pages.follow(self._annotation, edit)
            facts = {cell: [*after] for cell, (_, after) in edit.facts.items()}
            self.send(content | {"facts": facts, "classes": self.classes}, [edit.patch.to_bytes()])
            if self._annotation.trouble:
                self.say(self._annotation.trouble, error=True)
            self._call("edit", edit)
        return edit

    def _tell_saved(self, masks: Path, table: Path) -> None:
        count = len(self._annotation.cells)
        text = f"Saved {count} cells: {masks.name} and {table.name}."
        self.say(f"{text} {self._trouble}".strip(), error=bool(self._trouble))

    # --- classes, and their file -----------------------------------------------------------------

    def _classes_of(self, shared: SharedClasses | None) -> tuple[dict[str, str], str]:
        """Classes that an image starts with, and why the shared ones cannot be read."""
        if shared is None:
            return self.classes, ""
        alone = self._shared is None or (self._shared == shared and bool(self._trouble))
        carried = self.classes if alone else {}
        try:
            found, trouble = shared.read(), ""
        except ImageError as error:
            found, trouble = {}, str(error)
        return found | {name: carried[name] for name in carried if name not in found}, trouble

    def _keep_classes(self) -> None:
        """Give the classes to the list that they are shared by."""
        if self._shared is None:
            return
        try:
            self._shared.write(self.classes)
            self._trouble = ""
        except ImageError as error:
            self._trouble = str(error)
            self.say(self._trouble, error=True)

    def _tell_list(self) -> None:
        self.send({"type": "classes", "classes": self.classes})

    def _tell_classes(self, edit: Edit, new: str) -> None:
        """Say what has become of a class, and who else has it."""
        before, after = edit.classes or ({}, {})
        old = next(name for name in before if name not in after)
        text, others = _changed(edit, old, new), self._others(old)
        if others:
            many = len(others) > 1
            text += f" {len(others)} other image{'s' * many} of this folder still "
            text += f'{"have" if many else "has"} "{old}".'
            if new:
                self.send({"type": "others", "old": old, "new": new, "images": others})
            else:
                text += f" Open {'them' if many else 'it'}, and it is listed again."
        self.say(text)

    def _others(self, name: str) -> list[str]:
        """Other images of the folder whose saved cells have a class."""
        if self._shared is None or self.path is None:
            return []
        return self._shared.others(name, self.path)


def _changed(edit: Edit, old: str, new: str) -> str:
    count = len(edit.facts)
    cells = f"{count} cell{'s' * (count != 1)}"
    if edit.kind == "merge classes":
        return f'"{old}" is part of "{new}" now, with {cells}. Undo parts them again.'
    if new:
        return f'"{old}" is called "{new}" now{f", with {cells}" * bool(count)}.'
    left = f"; {cells} {'has' if count == 1 else 'have'} none now" * bool(count)
    return f'The class "{old}" is removed{left}. Undo brings it back.'

"""Edits, and the file to which each is appended at once, so that a crash loses none."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from glob import escape
from itertools import count
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import uuid4

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, InstanceOf

from scellseg_lib.atomic import whole
from scellseg_lib.datasets.load import Region
from scellseg_lib.errors import ImageError, telling
from scellseg_lib.files.layout import EDITS
from scellseg_lib.workbench.editor.classes import clean_name, parse_colour
from scellseg_lib.workbench.editor.patches import EMPTY, Patch

HEADER = "scellseg edits"
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, ImageError)


class Facts(NamedTuple):
    """What is said of a cell."""

    kind: str = ""  # its class
    note: str = ""


NOTHING = Facts()


Name = Annotated[str, AfterValidator(clean_name)]
Colour = Annotated[str, AfterValidator(parse_colour)]


class Edit(BaseModel, frozen=True):
    """One change of an annotation, as it is kept, undone and replayed."""

    id: str = ""
    kind: str  # "paint", "erase", "outline", "merge", .., "undo" or "redo"
    of: str = ""  # the edit that an undo or redo concerns
    facts: dict[int, tuple[Facts, Facts]] = {}  # before and after
    classes: tuple[dict[Name, Colour], dict[Name, Colour]] | None = None  # if the list has changed
    region: tuple[Region, Region] | None = None  # before and after, if it has changed
    patch: InstanceOf[Patch] = Field(EMPTY, exclude=True)

    @property
    def is_of_list(self) -> bool:
        """Whether it changes the list of classes alone, and no cell."""
        return self.classes is not None and not self.facts and not len(self.patch.runs)

    def invert(self) -> Edit:
        """Make the edit that takes this one back."""
        new: dict[str, Any] = {"kind": "undo", "of": self.id, "patch": self.patch.invert()}
        new["facts"] = {cell: pair[::-1] for cell, pair in self.facts.items()}
        new["classes"] = self.classes and self.classes[::-1]
        new["region"] = self.region and self.region[::-1]
        return self.model_copy(update=new)

    def to_json(self) -> str:
        """Write the edit in one line."""
        runs = base64.b64encode(self.patch.to_bytes()).decode()
        return json.dumps(self.model_dump(exclude_none=True) | {"runs": runs})

    @staticmethod
    def from_json(text: str, n_pixels: int) -> Edit:
        """Read what `to_json` wrote, for an image of `n_pixels`; any error if it is damaged."""
        line = json.loads(text)
        runs = base64.b64decode(line.pop("runs"), validate=True)
        return Edit(**line, patch=Patch.from_bytes(runs, n_pixels))


class Journal:
    """Edits of one image in a file of lines of JSON, from the labels that they start at.

    The file is made with the first edit. What is left in it is read, and gone on with from the next
    edit on. The file of another window is put aside then, if that has written meanwhile: each
    window has all of its own edits, and who draws last has the file.
    """

    def __init__(self, path: Path, labels: np.ndarray) -> None:
        self.path, self._size = path, labels.size
        start = hashlib.sha256(str(labels.shape).encode() + labels.astype("<i4").tobytes())
        time, self._mark = datetime.now(UTC).isoformat(timespec="seconds"), uuid4().hex
        self._header = {HEADER: 1, "start": start.hexdigest(), "time": time, "window": self._mark}
        self.lines: list[str] = []  # all since the start, of which the last may have to wait
        self._n_written, self._found = 0, b""  # in the file; what was read there, if it is whole
        self.is_aside = False  # whether what was there was of other labels

    def append(self, edit: Edit) -> None:
        """Append an edit at once; ImageError if it cannot be written, and waits for the next."""
        self.lines.append(edit.to_json())
        self.flush()

    def flush(self) -> None:
        """Write what waits; ImageError if it cannot be written."""
        with self._telling("your last edits cannot be written"):
            if self.path.exists() and not self._is_mine(self.path):
                self._take_over()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if not file.tell():
                    self._n_written = 0  # another window may have taken or removed the former
                    file.write(json.dumps(self._header).encode())
                for line in self.lines[self._n_written :]:
                    file.write(f"\n{line}".encode())  # a full disk may have cut off the one before
                    file.flush()
                    self._n_written += 1

    def read(self) -> list[Edit]:
        """Read the edits that a closed window or a crash has left, and go on with them.

        A line that is damaged is passed over: it was cut off, and its edit never answered. There
        are none where they start from other labels: the file is then put aside, not lost.
        """
        if not self.path.exists():
            return []
        with self._telling("edits that were not saved cannot be read"):
            found = self.path.read_bytes()
        lines = found.decode(errors="replace").splitlines()
        try:
            header = json.loads(lines[0])
            fits = all(header[name] == self._header[name] for name in (HEADER, "start"))
        except DAMAGED:
            fits = False
        if not fits:
            self.put_aside()
            self.is_aside = True
            return []
        edits, told = [], dict.fromkeys(filter(None, lines[1:]))  # after a full disk one is twice
        for line in told:
            with suppress(*DAMAGED):
                edits.append(Edit.from_json(line, self._size))
                self.lines.append(line)
        self._found = found if len(edits) == len(told) else b""
        return edits

    def _take_over(self) -> None:
        """Make the file that was read this window's; put it aside if it is another by now."""
        if self.path.read_bytes() != self._found:
            self.put_aside()
            return
        with whole(self.path) as scratch:
            scratch.write_text("\n".join([json.dumps(self._header), *self.lines]), "utf-8")
        self._n_written = len(self.lines)

    def discard(self) -> None:
        """Remove the file, and those that others have put aside: its edits are saved.

        The file of another window stays.
        """
        with self._telling("edits that are done with cannot be removed"):
            for file in self.path.parent.glob(f"{escape(self.path.name)}*"):
                if self._is_mine(file) or file.read_bytes() == self._found:
                    file.unlink()

    def put_aside(self) -> None:
        """Rename the file, to the first of ``NAME.other``, ``.other2``, .. that is free."""
        names = (f"{self.path.name}.other{k if k > 1 else ''}" for k in count(1))
        others = (self.path.with_name(name) for name in names)
        with self._telling("edits that were not saved cannot be put aside"):
            if self.path.exists():  # or another window has saved its edits meanwhile
                self.path.replace(next(other for other in others if not other.exists()))

    def _is_mine(self, file: Path) -> bool:
        """Whether a file is of this window, or empty."""
        with file.open("rb") as opened:
            first = opened.readline()
        return not first or self._mark.encode() in first

    def _telling(self, what: str) -> AbstractContextManager[None]:
        remedy = "Make room on the disk, check the folder's rights, or save elsewhere."
        return telling(what, self.path, remedy, ImageError)


def edits_path(masks: Path) -> Path:
    """File of the edits of a label file that were not saved."""
    return masks.with_name(f".{masks.name}{EDITS}")


def read_kinds(path: Path) -> set[str]:
    """Kinds of the edits in such a file, as far as they can be read; none where it is not."""
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    return {*re.findall(r'^{"id": "[^"]*", "kind": "(.*?)"', text, re.MULTILINE)}

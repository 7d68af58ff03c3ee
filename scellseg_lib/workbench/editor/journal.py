"""Edits, and the file to which each is appended at once, so that a crash loses none."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from scellseg_lib.atomic import whole
from scellseg_lib.datasets.load import Region
from scellseg_lib.errors import ImageError, telling
from scellseg_lib.files.layout import EDITS
from scellseg_lib.workbench.editor.classes import Classes, clean_name, parse_colour
from scellseg_lib.workbench.editor.patches import EMPTY, Patch

HEADER = "scellseg edits"
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, ImageError)


class Facts(NamedTuple):
    """What is said of a cell."""

    kind: str = ""  # its class
    note: str = ""


NOTHING = Facts()


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of an annotation, as it is kept, undone and replayed."""

    id: str
    kind: str  # "paint", "erase", "outline", "merge", .., "undo" or "redo"
    patch: Patch = EMPTY
    facts: Mapping[int, tuple[Facts, Facts]] = field(default_factory=dict)  # before and after
    of: str = ""  # the edit that an undo or redo concerns
    classes: tuple[Classes, Classes] | None = None  # before and after, if the list has changed
    region: tuple[Region, Region] | None = None  # before and after, if it has changed

    @property
    def is_of_list(self) -> bool:
        """Whether it changes the list of classes alone, and no cell."""
        return self.classes is not None and not self.facts and not len(self.patch.runs)

    def to_json(self) -> str:
        """Write the edit in one line."""
        line: dict[str, Any] = {"id": self.id, "kind": self.kind, "of": self.of}
        line["facts"] = {str(cell): [*pair] for cell, pair in self.facts.items()}
        if self.classes:
            line["classes"] = [dict(one) for one in self.classes]
        if self.region:
            line["region"] = [one.model_dump() for one in self.region]
        line["runs"] = base64.b64encode(self.patch.to_bytes()).decode()
        return json.dumps(line)

    @staticmethod
    def from_json(text: str, n_pixels: int) -> Edit:
        """Read what `to_json` wrote, for an image of `n_pixels`; any error if it is damaged."""
        line = json.loads(text)
        patch = Patch.from_bytes(base64.b64decode(line["runs"], validate=True), n_pixels)
        facts = {
            int(cell): (Facts(*map(str, before)), Facts(*map(str, after)))
            for cell, (before, after) in line["facts"].items()
        }
        classes = region = None
        if "region" in line:
            region = Region(**line["region"][0]), Region(**line["region"][1])
        if "classes" in line:
            before, after = (
                {clean_name(name): parse_colour(colour) for name, colour in one.items()}
                for one in line["classes"]
            )
            classes = before, after
        id, kind, of = (str(line[name]) for name in ("id", "kind", "of"))
        return Edit(id, kind, patch, facts, of, classes, region)


class Journal:
    """Edits of one image in a file of lines of JSON, from the labels that they start at.

    The file is made with the first edit. What is left in it is read and gone on with. The file of
    another window is put aside: each window has all of its own edits, and who draws last has the
    file.
    """

    def __init__(self, path: Path, labels: np.ndarray) -> None:
        self.path, self._start, self._size = path, hash_labels(labels), labels.size
        self._mark = uuid4().hex  # of this window, in the first line
        self.lines: list[str] = []  # all since the start, of which the last may have to wait
        self._n_written = 0

    def append(self, edit: Edit) -> None:
        """Append an edit at once; ImageError if it cannot be written, and waits for the next."""
        self.lines.append(edit.to_json())
        self.flush()

    def flush(self) -> None:
        """Write what waits; ImageError if it cannot be written."""
        with self._telling("your last edits cannot be written"):
            if self.path.exists() and not self._is_mine(self.path):
                self.put_aside()  # of another window: each has all of its own edits
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                if not file.seek(0, os.SEEK_END):
                    self._n_written = 0  # another window may have taken or removed the former
                    time = datetime.now(UTC).isoformat(timespec="seconds")
                    header = {HEADER: 1, "start": self._start, "time": time, "window": self._mark}
                    file.write(json.dumps(header).encode() + b"\n")
                else:
                    file.seek(-1, os.SEEK_END)
                    if file.read() != b"\n":  # a crash has cut the last line off
                        file.write(b"\n")
                for line in self.lines[self._n_written :]:
                    file.write(line.encode() + b"\n")
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
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        try:
            header = json.loads(lines[0])
            fits = header.get(HEADER) == 1 and header["start"] == self._start
        except DAMAGED:
            fits = False
        if not fits:
            self.put_aside()
            return []
        edits = []
        for line in dict.fromkeys(lines[1:]):  # one may stand there twice after a full disk
            with suppress(*DAMAGED):
                edits.append(Edit.from_json(line, self._size))
                self.lines.append(line)
        with suppress(OSError), whole(self.path) as scratch:  # else the first edit puts it aside
            first = json.dumps(header | {"window": self._mark})
            scratch.write_text("\n".join([first, *self.lines, ""]), encoding="utf-8")
            self._n_written = len(self.lines)
        return edits

    def discard(self) -> None:
        """Remove the file, and those that others have put aside: its edits are saved.

        The file of another window stays.
        """
        with self._telling("edits that are done with cannot be removed"):
            if self._is_mine(self.path):
                self.path.unlink(missing_ok=True)
            for aside in self.path.parent.glob(f"{escape(self.path.name)}.other*"):
                if self._is_mine(aside):
                    aside.unlink()

    def put_aside(self) -> None:
        """Rename the file: it is not of these labels, or not wanted."""
        with self._telling("edits that were not saved cannot be put aside"):
            if self.path.exists():  # or another window has saved its edits meanwhile
                self.path.replace(self._find_aside())

    def _find_aside(self) -> Path:
        """First of ``NAME.other``, ``.other2``, .. that is free."""
        names = (f"{self.path.name}.other{k if k > 1 else ''}" for k in count(1))
        others = (self.path.with_name(name) for name in names)
        return next(other for other in others if not other.exists())

    def _is_mine(self, path: Path) -> bool:
        """Whether it is of this window, or empty; so is what is no file, which is an error then."""
        if not path.is_file():
            return path.exists()
        with path.open("rb") as file:
            first = file.readline()
            return not first or self._mark.encode() in first

    def restart(self, labels: np.ndarray) -> None:
        """Go on from labels that have been saved."""
        self.discard()
        self.lines, self._n_written = [], 0
        self._start = hash_labels(labels)

    def _telling(self, what: str) -> AbstractContextManager[None]:
        remedy = "Make room on the disk, check the folder's rights, or save elsewhere."
        return telling(what, self.path, remedy, ImageError)


def hash_labels(labels: np.ndarray) -> str:
    """SHA-256 of a label image, int32[H, W], with its size."""
    digest = hashlib.sha256(str(labels.shape).encode())
    digest.update(np.ascontiguousarray(labels, "<i4").tobytes())
    return digest.hexdigest()


def edits_path(masks: Path) -> Path:
    """File of the edits of a label file that were not saved."""
    return masks.with_name(f".{masks.name}{EDITS}")


def read_kinds(path: Path) -> set[str]:
    """Kinds of the edits in such a file, as far as they can be read; none where it is not."""
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    return {*re.findall(r'^{"id": "[^"]*", "kind": "(.*?)"', text, re.MULTILINE)}

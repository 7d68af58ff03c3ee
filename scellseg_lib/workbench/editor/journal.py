"""A file to which every edit is appended at once, so that a crash loses none."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor.classes import Classes, class_colour, class_name
from scellseg_lib.workbench.editor.edits import Edit, Facts
from scellseg_lib.workbench.editor.patches import Patch

HEADER = "scellseg edits"


def labels_hash(labels: np.ndarray) -> str:
    """SHA-256 of a label image, int32[H, W], with its size."""
    digest = hashlib.sha256(str(labels.shape).encode())
    digest.update(np.ascontiguousarray(labels, "<i4").tobytes())
    return digest.hexdigest()


class Journal:
    """Edits of one image in a file of lines of JSON, from the labels that they start at.

    The file is made with the first edit. One that is there already, left by a crash, is for `found`
    to read, and then to be taken up or discarded; the first edit puts it aside otherwise.

    Parameters
    ----------
    path : path
    labels : int32[H, W]
        Before the first edit.
    """

    def __init__(self, path: Path, labels: np.ndarray) -> None:
        self.path, self._start, self._size = path, labels_hash(labels), labels.size
        self._waiting: list[str] = []  # lines that could not be written
        self._left = False  # whether the file is of a crash, and not taken up

    @property
    def is_begun(self) -> bool:
        """Whether it holds edits since the labels that it starts at."""
        return bool(self._waiting) or (self.path.exists() and not self._left)

    def append(self, edit: Edit) -> None:
        """Write an edit at the end; it is with the operating system when this returns.

        Raises
        ------
        ImageError
            If the file cannot be written. The edit then waits for the next one, and both are
            written in order.
        """
        line: dict[str, Any] = {"id": edit.id, "kind": edit.kind, "of": edit.of}
        line["facts"] = {str(cell): [*pair] for cell, pair in edit.facts.items()}
        if edit.classes:
            line["classes"] = [dict(one) for one in edit.classes]
        line["runs"] = base64.b64encode(edit.patch.to_bytes()).decode()
        self._waiting.append(json.dumps(line))
        with self._in_words("your last edits cannot be kept safe until you save"):
            if self._left:
                self.put_aside()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                if not file.seek(0, os.SEEK_END):
                    time = datetime.now(UTC).isoformat(timespec="seconds")
                    header = json.dumps({HEADER: 1, "start": self._start, "time": time})
                    file.write(header.encode() + b"\n")
                else:
                    file.seek(-1, os.SEEK_END)
                    if file.read() != b"\n":  # a crash has cut the last line off
                        file.write(b"\n")
                while self._waiting:
                    file.write(self._waiting[0].encode() + b"\n")
                    file.flush()
                    del self._waiting[0]

    def found(self) -> tuple[str, list[Edit]]:
        """Edits that a crash has left, and when they were begun (UTC, ISO 8601).

        A line that was cut off in the middle is passed over: its edit was never answered. None are
        given where they start from other labels than these: the file is then put aside as
        ``NAME.other``, not lost.

        Raises
        ------
        ImageError
            If the file cannot be read, or not be put aside.
        """
        if not self.path.exists():
            return "", []
        with self._in_words("edits that were not saved cannot be read"):
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        try:
            header = json.loads(lines[0])
            fits = header.get(HEADER) == 1 and header["start"] == self._start
        except (ValueError, LookupError, AttributeError):
            fits, header = False, {}
        if not fits:
            self.put_aside()
            return "", []
        edits = []
        for line in dict.fromkeys(lines[1:]):  # one may stand there twice after a full disk
            try:
                edits.append(self._read(json.loads(line)))
            except (ValueError, LookupError, TypeError, AttributeError, ImageError):
                continue
        self._left = bool(edits)
        return str(header.get("time", "")), edits

    def take_up(self) -> None:
        """Go on with the file that a crash has left: its edits have been done again."""
        self._left = False

    def discard(self) -> None:
        """Remove the file: its edits are saved, or not wanted."""
        with self._in_words("edits that are done with cannot be removed"):
            self.path.unlink(missing_ok=True)
        self._left = False

    def put_aside(self) -> None:
        """Keep the file as ``NAME.other`` (``.other2``, ..): it does not belong to these labels."""
        names = (f"{self.path.name}.other{k if k > 1 else ''}" for k in count(1))
        others = (self.path.with_name(name) for name in names)
        with self._in_words("edits that were not saved cannot be put aside"):
            self.path.replace(next(other for other in others if not other.exists()))
        self._left = False

    def restart(self, labels: np.ndarray) -> None:
        """Go on from labels that have been saved."""
        self.discard()
        self._waiting.clear()
        self._start = labels_hash(labels)

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ImageError(
                f"{what} ({error.strerror})",
                where=self.path,
                remedy="Make room on the disk, check the folder's rights, or save elsewhere.",
            ) from error

    def _read(self, line: dict[str, Any]) -> Edit:
        try:
            data = base64.b64decode(line["runs"], validate=True)
        except binascii.Error as error:
            raise ValueError(error) from error
        patch = Patch.from_bytes(data, self._size)
        facts = {
            int(cell): (Facts(*map(str, before)), Facts(*map(str, after)))
            for cell, (before, after) in line["facts"].items()
        }
        id, kind, of = str(line["id"]), str(line["kind"]), str(line["of"])
        return Edit(id, kind, patch, facts, of, _lists(line.get("classes")))


def _lists(found: Any) -> tuple[Classes, Classes] | None:
    """The lists of classes before and after that a line holds."""
    if found is None:
        return None
    before, after = (
        {class_name(name): class_colour(colour) for name, colour in one.items()} for one in found
    )
    return before, after

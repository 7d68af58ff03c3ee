"""``classes.csv``: the classes of an experiment and their colours, shared by all its images."""

from __future__ import annotations

import csv
import io
from glob import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from natsort import natsorted

from scellseg_lib.atomic import whole
from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.annotated_folder import CORRECTED, experiment_of
from scellseg_lib.workbench.editor.annotation import CELLS
from scellseg_lib.workbench.editor.classes import Classes, class_colour, next_colour

CLASSES = "classes.csv"
PARTS = ("", "shot", "query", CORRECTED)
"""Folders of an experiment with masks."""


class ClassesChanged(ImageError):
    """Another window has changed a list of classes since it was read."""


class Table(NamedTuple):
    """A list of classes as it stands in its file, further columns of others included."""

    separator: str
    columns: list[str]
    rows: list[dict[str, str]]

    @property
    def named(self) -> dict[str, dict[str, str]]:
        """Rows by the name of their class."""
        named: dict[str, dict[str, str]] = {}
        for row in self.rows:
            named.setdefault(" ".join(row.get("class", "").split()), row)
        return {name: row for name, row in named.items() if name}

    @property
    def classes(self) -> dict[str, str]:
        """Names and colours; what is no colour is one of ours."""
        found = {name: _colour(row.get("colour", "")) for name, row in self.named.items()}
        for name, colour in found.items():
            found[name] = colour or next_colour(found)
        return found


def read_table(file: Path) -> Table:
    """Read a list of classes, also one that a spreadsheet has saved.

    Raises
    ------
    ImageError
        If the file is no such list, or cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ImageError(
            f"the list of classes cannot be read ({error.strerror})",
            where=file,
            remedy="Check the rights of the file.",
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=separator) if any(line)]
    except csv.Error:
        lines = []
    columns = [name.strip().lower() for name in lines[0]] if lines else []
    columns = ["colour" if name == "color" else name for name in columns]
    if "class" not in columns:
        raise ImageError(
            "this is no list of classes: it has no column 'class'",
            where=file,
            remedy="Give it the columns class and colour, or move it away; it is not changed until "
            "then.",
        )
    rows = [dict(zip(columns, line, strict=False)) for line in lines[1:]]
    return Table(separator, columns, rows)


class ClassFile:
    """The list of classes of the experiment that masks belong to.

    It lies in the experiment's folder, beside the masks or above their ``shot/``, ``query/`` or
    ``corrected/``.

    Parameters
    ----------
    masks : Path
        A file of masks.

    Attributes
    ----------
    file : Path
    """

    def __init__(self, masks: Path) -> None:
        of_corrected = masks.parent.name == CORRECTED
        self.home = masks.parent.parent if of_corrected else experiment_of(masks)
        self.file = self.home / CLASSES
        self._seen = b""  # the file's content when it was last read or written here

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassFile) and self.file == other.file

    __hash__ = None  # type: ignore[assignment]

    def read(self) -> dict[str, str]:
        """Classes of the file; none without it.

        Raises
        ------
        ImageError
            If it is no list of classes, or cannot be read.
        """
        self._seen = b""
        if not self.file.exists():
            return {}
        found, self._seen = read_table(self.file).classes, self.file.read_bytes()
        return found

    def write(self, classes: Classes) -> None:
        """Write a list in the place of the one that was read.

        Raises
        ------
        ImageError
            If the file is no list of classes, or cannot be written.
        ClassesChanged
            If another window has changed it since `read`. Nothing is written then.
        """
        table = read_table(self.file) if self.file.exists() else None
        if table and classes == table.classes and list(classes) == list(table.classes):
            self._seen = self.file.read_bytes()
            return
        if table and self._seen != self.file.read_bytes():
            raise ClassesChanged(
                "another window has changed the classes of this folder meanwhile",
                where=self.file,
                remedy="Open the image again: it then has the classes of both.",
            )
        self._write(classes, table or Table(",", ["class", "colour"], []))
        self._seen = self.file.read_bytes()

    def others(self, name: str, masks: Path) -> list[str]:
        """Names of the other images of the experiment whose saved cells have a class."""
        return list(dict.fromkeys(image_of(table) for table in self._others(name, masks)))

    def _others(self, name: str, masks: Path) -> list[Path]:
        own, found = _cells_of(masks), []
        for part in PARTS:
            for table in natsorted((self.home / part).glob(f"[!.]*{CELLS}"), str):
                if table != own and _names(table, name):
                    found.append(table)
        return found

    def rename(self, old: str, new: str, masks: Path) -> tuple[list[str], list[str]]:
        """Rename a class in the lists of cells of the other images, each whole or not at all.

        Returns
        -------
        renamed, left : list of str
            Names of images. Left are those whose masks have edits that were not saved, or whose
            list cannot be written.
        """
        renamed, left = [], []
        for table in self._others(old, masks):
            image = image_of(table)
            if any(table.parent.glob(f".{escape(image)}_masks.*.edits")):
                left.append(image)
                continue
            try:
                with whole(table) as scratch:
                    frame = _read(table)
                    frame["class"] = frame["class"].where(frame["class"] != old, new)
                    frame.to_csv(scratch, index=False)
                renamed.append(image)
            except (OSError, ValueError, KeyError):
                left.append(image)
        return renamed, left

    def _write(self, classes: Classes, table: Table) -> None:
        named, columns = table.named, table.columns
        columns = columns if "colour" in columns else [*columns, "colour"]
        rows = [
            named.get(name, {}) | {"class": name, "colour": colour}
            for name, colour in classes.items()
        ]
        try:
            with whole(self.file) as scratch, scratch.open("w", encoding="utf-8", newline="") as to:
                writer = csv.DictWriter(to, columns, delimiter=table.separator, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        except OSError as error:
            raise ImageError(
                f"the list of classes cannot be written ({error.strerror})",
                where=self.file,
                remedy="Close other programs that have it open, and check the folder's rights and "
                "its disk. This window keeps the classes until then.",
            ) from error


def image_of(table: Path) -> str:
    """Name of the image that a list of cells belongs to."""
    return table.name.removesuffix(CELLS)


def _cells_of(masks: Path) -> Path:
    return masks.with_name(masks.stem.removesuffix("_masks") + CELLS)


def _colour(text: str) -> str:
    try:
        return class_colour(text)
    except ImageError:
        return ""


def _read(table: Path) -> pd.DataFrame:
    """A list of cells with all its columns, as text."""
    return pd.read_csv(table, dtype=str, keep_default_na=False)


def _names(table: Path, name: str) -> bool:
    """Whether a list of cells has a class; a damaged one has none."""
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            return any(row.get("class") == name for row in csv.DictReader(lines))
    except (OSError, ValueError, csv.Error):
        return False

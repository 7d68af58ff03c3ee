"""Images of a folder with what is known of their cells, whether they are annotated yet or not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from natsort import natsorted

from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ImageError, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.files import layout as folders
from scellseg_lib.workbench.editor.annotation import CELLS, Annotation

CORRECTED = "corrected"
"""Folder of an experiment with masks that were corrected, beside those that a model gave."""
UNSAVED = "\u25d0"
"""Mark of images with edits that a crash has left."""
_OF_AN_IMAGE = re.compile(r"(.*?)(?:_img)?_(cp_masks|masks|seg|cells)")
"""File names of what belongs to an image."""


@dataclass(frozen=True)
class Listed:
    """An image, and the file of its masks.

    Attributes
    ----------
    name : str
        Without ``_img``.
    image : Path
    masks : Path or None
        That are there: ours, Cellpose's ``NAME_cp_masks.*`` or ``NAME_seg.npy``.
    target : Path
        Where masks are saved: what is there if it is ours, else ``NAME_masks.tif``.
    """

    name: str
    image: Path
    masks: Path | None
    target: Path

    @property
    def is_query(self) -> bool:
        """Whether it is among the images to be segmented, from which nothing is learnt."""
        return self.image.parent.name == "query"

    @property
    def is_ours(self) -> bool:
        """Whether its masks are in a file of ours."""
        return self.masks is not None and self.masks == self.target

    @property
    def is_unsaved(self) -> bool:
        """Whether edits lie beside the masks that were never saved, see `journal`."""
        return self.target.with_name(f".{self.target.name}.edits").is_file()

    def pixels(self) -> np.ndarray:
        """Read the image as it is stored, number[H, W] or [H, W, C]."""
        return readers.read_pixels(self.image)

    def labels(self) -> np.ndarray | None:
        """Read the masks, int32[H, W]; None without any."""
        return None if self.masks is None else readers.read_masks(self.masks)

    def cells(self) -> pd.DataFrame | None:
        """Read the list of cells that was saved with the masks; None without one.

        Raises
        ------
        ImageError
            If the file is no such list.
        """
        return read_cells(self.table) if self.table and self.table.exists() else None

    @property
    def table(self) -> Path | None:
        """File of the list of cells, whether it is there or not; None without masks."""
        if self.masks is None:
            return None
        return self.masks.with_name(folders.label_name(self.masks) + CELLS)


def read_cells(table: Path) -> pd.DataFrame:
    """Read a list of cells: ``label``, and ``class`` and ``note`` where they are there."""
    try:
        cells = pd.read_csv(table, dtype={"class": str, "note": str}, keep_default_na=False)
        return cells.astype({"label": int})
    except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise ImageError(
            "this is no list of cells, or it is damaged",
            where=table,
            remedy="Move it away; the masks themselves are not concerned.",
        ) from error


def listed(folder: Path) -> list[Listed]:
    """Images of a folder, in the layouts of `folders.find_images`.

    Raises
    ------
    DatasetError
        If there is no such folder, or there are no images in it.
    """
    if not folder.is_dir():
        raise DatasetError(
            "there is no such folder",
            where=folder,
            remedy="Check how it is written; on a server it is a folder of the server.",
        )
    found = []
    for name, files in folders.find_images(folder):
        masks = _masks(files[0].parent, name)
        ours = masks is not None and masks.suffix != ".npy" and not masks.stem.endswith("_cp_masks")
        target = masks if ours and masks else files[0].with_name(f"{name}_masks.tif")
        found.append(Listed(name, files[0], masks, target))
    return found


def experiment_of(image: Path) -> Path:
    """Folder of the experiment that an image is in: above its ``query/`` or ``shot/``."""
    home = image.parent
    return home.parent if home.name in ("query", "shot") else home


def hints(folder: Path, current: Listed, unsaved: list[str]) -> str:
    """Say what else there is to know of a folder, beside the image that is open.

    Parameters
    ----------
    folder : Path
    current : Listed
    unsaved : list of str
        Names of images with edits that were never saved.
    """
    text = ""
    if unsaved:
        text += f" With edits that were not saved ({UNSAVED}): {', '.join(unsaved)}."
    ending = "_masks.tif.edits"
    files = natsorted((folder / CORRECTED).glob(f".*{ending}"), str)
    if corrections := ", ".join(file.name[1 : -len(ending)] for file in files):
        text += f" Corrections that were not saved: {corrections}. Go there by Segment, Correct it."
    if current.is_query:
        text += " This one is to be segmented: its cells serve to check what a model finds."
    return text


def adopt(folder: Path) -> None:
    """Write masks of other programs as ours too, in each folder that has some of ours.

    One file of ours would hide all of theirs from `folders.find_samples`. Theirs stay as they are,
    and a damaged one is left alone.
    """
    images = listed(folder)
    homes = {one.image.parent for one in images if one.is_ours}
    for one in images:
        if one.masks is not None and not one.is_ours and one.image.parent in homes:
            try:
                readers.write_labels(one.target, readers.read_masks(one.masks))
            except (ScellsegError, OSError):
                continue


def take_in(folder: Path, name: str, content: bytes) -> Path:
    """Write a file that was dropped on the page into a folder, if it can be read.

    Parameters
    ----------
    folder : Path
        Made if need be.
    name : str
        An image, or of one that is there the masks (``NAME_masks.*``, ``NAME_cp_masks.*``,
        ``NAME_seg.npy``) or the list of cells (``NAME_cells.csv``).
    content : bytes

    Returns
    -------
    Path
        The image that it is, or belongs to.

    Raises
    ------
    ScellsegError
        For another kind of file, a damaged one, one whose image is not here, or one in whose place
        there is another. Nothing is written then.
    """
    suffix, belongs = Path(name).suffix.lower(), _OF_AN_IMAGE.fullmatch(Path(name).stem)
    kinds = {".npy": ("seg",), ".csv": ("cells",)} | dict.fromkeys(
        folders.SUFFIXES, ("masks", "cp_masks")
    )
    if suffix not in kinds or (suffix in (".npy", ".csv") and belongs is None):
        raise ImageError(
            f"a file of the kind {suffix or 'without ending'} is no image, and no masks",
            where=name,
            remedy=f"Images end in {', '.join(folders.SUFFIXES)}, masks in _masks before that, "
            "lists of cells in _cells.csv.",
        )
    images = {one.name: one for one in _images(folder)}
    if belongs is None or belongs[2] not in kinds[suffix]:
        return _take_image(folder, name, content, images)
    if belongs[1] not in images:
        raise DatasetError(
            f"there is no image {belongs[1]} here that it could belong to",
            where=name,
            remedy="Drop the image first.",
        )
    owner = images[belongs[1]]
    if belongs[2] == "cells":
        _take_list(owner, name, content)
    else:
        file = owner.image.with_name(name)
        if owner.masks not in (None, file):
            raise DatasetError(
                "the image has masks already",
                where=owner.masks,
                remedy="Move them away if others are to take their place.",
            )
        _write(file, content, readers.read_masks)
    return owner.image


def _take_image(folder: Path, name: str, content: bytes, images: dict[str, Listed]) -> Path:
    divided = any((folder / part).is_dir() for part in ("shot", "query"))
    home, file = (folder / "query" if divided else folder), Path(name)
    beside = [one.image for one in images.values() if one.image.parent == home]
    stem = file.stem.removesuffix("_img")
    # One file called _img would hide all that are not, and the other way round.
    marked = all(image.stem.endswith("_img") for image in beside) if beside else stem != file.stem
    target = home / f"{stem}{'_img' * marked}{file.suffix}"
    if stem in images and images[stem].image != target:
        raise DatasetError(
            "another image of this name is here", where=images[stem].image, remedy="Rename yours."
        )
    _write(target, content, readers.read_pixels)
    return target


def _take_list(owner: Listed, name: str, content: bytes) -> None:
    labels, table = owner.labels(), owner.table
    if labels is None or table is None:
        raise DatasetError(
            f"{owner.name} has no masks yet that the list could belong to",
            where=name,
            remedy="Drop the masks first, or draw the cells.",
        )
    before = owner.cells()
    said = before is not None and before.reindex(columns=["class", "note"]).fillna("").any(
        axis=None
    )
    _write(table, content, lambda file: Annotation(labels, read_cells(file)), replace=not said)


def _images(folder: Path) -> list[Listed]:
    try:
        return listed(folder)
    except DatasetError:  # the first image is on its way
        return []


def _write(
    file: Path, content: bytes, read: Callable[[Path], Any], *, replace: bool = False
) -> None:
    """Write a file that can be read, where no other is."""
    if not replace and file.exists() and file.read_bytes() != content:
        raise DatasetError(
            "another file of this name is there",
            where=file,
            remedy="Rename yours, or move that one away.",
        )
    with whole(file) as scratch:
        scratch.write_bytes(content)
        try:
            read(scratch)
        except ScellsegError as error:
            raise ImageError(error.what, where=file.name, remedy=error.remedy) from error


def _masks(folder: Path, name: str) -> Path | None:
    """File of an image's masks: ours before Cellpose's."""
    endings = (".tif", ".tiff", ".png")
    names = [f"{name}{kind}{ending}" for kind in ("_masks", "_cp_masks") for ending in endings]
    names += [f"{name}_seg.npy", f"{name}_img_seg.npy"]
    return next((folder / one for one in names if (folder / one).is_file()), None)

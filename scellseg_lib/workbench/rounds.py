"""Rounds of predict, correct, add to the shots, fine-tune again, with their scores.

A corrected image stays where it was, in ``query/`` too, and its copy becomes a shot. What is scored
is therefore always the prediction that was there *before* the correction, against the correction:
the model that made it had not seen these masks. A later model has learnt them; its score on the
same image is kept, marked as ``seen``, and left out of the means.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ImageError, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.files import layout as folders
from scellseg_lib.samples import check_size
from scellseg_lib.workbench.correction import Comparison, compare
from scellseg_lib.workbench.editor.annotation import CELLS

FILE = "rounds.csv"
COLUMNS = {
    "round": "int64",
    "time": "str",
    "model": "str",
    "weights": "str",
    "shots": "int64",
    "shot_cells": "int64",
    "image": "str",
    "seen": "bool",
    "ap50": "float64",
    "map": "float64",
    "predicted": "int64",
    "corrected": "int64",
    "added": "int64",
    "removed": "int64",
    "changed": "int64",
    "masks": "str",
}
"""Of ``rounds.csv``, one row for each image corrected in a round.

``round`` from 1; ``time`` of the correction, UTC; ``model`` the file, and ``weights`` the hash of
its weights; ``shots`` and ``shot_cells`` the annotated images and their cells when the round began;
``seen`` whether the image was among them; ``ap50`` and ``map`` the prediction's score; cells
``predicted`` and ``corrected``, and of these ``added``, ``removed`` and ``changed`` (see
`compare`); ``masks`` the hash of the corrected masks."""
_MASKS = "(.*)(?<!_cp)_masks"


class Shot(NamedTuple):
    """Files of an annotated image."""

    image: Path
    masks: Path


def add_to_shots(
    folder: Path,
    image: Path,
    masks: np.ndarray,
    *,
    replace: bool = False,
    cells: Path | None = None,
) -> Shot:
    """Put an image and its masks among the annotated images.

    That is in ``shot/``, or, where all lies in one folder, in that.

    The image is copied byte for byte, and stays where it is. Both files are written before either
    gets its name.

    Parameters
    ----------
    folder : Path
        Of the experiment.
    image : Path
        Its file, ``NAME_img.*`` or ``NAME.*``.
    masks : int[H, W]
        Labels, 0 is background.
    replace : bool
        Take the place of other masks of this image. Another image of the same name is never
        replaced.
    cells : Path, optional
        Table of the cells' classes and notes, ``NAME_cells.csv`` beside the corrected masks: it is
        copied too. Where it does not exist there are none, and a table of other masks that are
        replaced is removed. None: such a table stays as it is.

    Returns
    -------
    Shot
        Image and masks there: ``NAME_img.*`` and ``NAME_masks.tif``; without ``_img`` where
        the images there are called so, and into the file of masks that is there.

    Raises
    ------
    DatasetError
        If another image has this name there, other masks are there and are not to be replaced, or
        there are no cells.
    ImageError
        If the image cannot be read, or is not of the masks' size, or the files not written.
    """
    there = _place(folder, image, masks, replace)
    noted = cells if cells and cells.is_file() else None
    try:
        with ExitStack() as together:
            copy, labels = (together.enter_context(whole(file)) for file in there)
            if noted:
                shutil.copyfile(noted, together.enter_context(whole(_table(there.masks))))
            readers.write_labels(labels, masks)
            shutil.copyfile(image, copy)
        if cells and not noted:
            _table(there.masks).unlink(missing_ok=True)
    except OSError as error:
        raise ImageError(
            f"the image cannot be copied ({error.strerror})",
            where=there.image,
            remedy="Check the folder and the space on its disk.",
        ) from error
    return there


def _place(folder: Path, image: Path, masks: np.ndarray, replace: bool) -> Shot:
    """Where `add_to_shots` puts them, or why it cannot."""
    pixels = readers.read_pixels(image)
    check_size(np.moveaxis(np.atleast_3d(pixels), 2, 0), masks.shape, "its masks", image)
    if not np.any(masks):
        raise DatasetError(
            "there are no cells to learn from",
            where=image,
            remedy="Draw at least one cell, or choose another image.",
        )
    there = _shot(folder, image)
    if there.image.exists() and there.image.read_bytes() != image.read_bytes():
        raise DatasetError(
            "another image of this name is among the annotated ones",
            where=there.image,
            remedy=f"Rename {image.name}, segment it again and correct it under its new name.",
        )
    if there.masks.exists() and not replace and _hash_of(there.masks) != _hash(masks):
        raise DatasetError(
            "this image has other masks already",
            where=there.masks,
            remedy="Replace them, or leave them as they are.",
        )
    return there


def _home(folder: Path) -> Path:
    """Folder of the annotated images: ``shot/``, or that of all in Cellpose's layout.

    A new ``shot/`` would hide images that lie beside it, see `folders.find_samples`.
    """
    divided = any((folder / part).is_dir() for part in ("shot", "query"))
    if divided or not folder.is_dir() or not folders.files_by_name(folder, "(.*)"):
        return folder / "shot"
    return folder


def _masks(home: Path) -> tuple[dict[str, Path], str]:
    """Files of masks by name, and how they end: ours, or those that Cellpose has saved."""
    if not home.is_dir():
        return {}, "_masks"
    ours, saved = (folders.files_by_name(home, pattern) for pattern in (_MASKS, "(.*)_cp_masks"))
    return (saved, "_cp_masks") if saved and not ours else (ours, "_masks")


def _shot(folder: Path, image: Path) -> Shot:
    """Files that an image and its masks are, or would be, among the annotated ones.

    One file called ``*_img``, or masks of one kind, hide all of other kinds: the way of the folder
    is kept, or DatasetError raised where its masks are Cellpose's ``_seg.npy``.
    """
    home = _home(folder)
    name = folders.plain_name(image).removesuffix("_img")
    ending = image.name.removeprefix(folders.plain_name(image))
    there, kind = _masks(home)
    own = (f"{name}_seg.npy", f"{name}_img_seg.npy")
    if not there and any(file.name not in own for file in home.glob("[!.]*_seg.npy")):
        raise DatasetError(
            "the cells are annotated in _seg.npy files, which masks of ours would hide",
            where=home,
            remedy="Export them as label images (TIFF) into this folder first, then try again.",
        )
    images = folders.files_by_name(home, "(.*)_img") if home.is_dir() else {}
    plain = folders.files_by_name(home, "(.*)(?<!_masks|_flows)") if home.is_dir() else {}
    usual = home / f"{name}{'' if plain and not images else '_img'}{ending}"
    file = (images or plain).get(name, usual)
    return Shot(file, there.get(name, home / f"{name}{kind}.tif"))


def _table(masks: Path) -> Path:
    """Where the classes and notes of the cells of a file of masks are."""
    return masks.with_name(folders.label_name(masks) + CELLS)


def _hash(masks: np.ndarray) -> str:
    return readers.pixel_hash(np.asarray(masks, np.int64))


def _hash_of(file: Path) -> str | None:
    """Hash of the masks in a file; None where it is damaged, and so nobody's."""
    try:
        return _hash(readers.read_pixels(file))
    except ScellsegError:
        return None


@dataclass(frozen=True)
class Rounds:
    """The rounds of an experiment, kept in its folder as ``rounds.csv``.

    A round is what is corrected of one model's predictions: other weights begin the next.
    """

    folder: Path

    @property
    def file(self) -> Path:
        """Where they are kept."""
        return self.folder / FILE

    @property
    def table(self) -> pd.DataFrame:
        """All corrections, in the order of the rounds; see `COLUMNS`.

        Raises
        ------
        DatasetError
            If the file is damaged, or of others.
        """
        try:
            table = pd.read_csv(self.file, keep_default_na=False, dtype=COLUMNS)
            return table[list(COLUMNS)]
        except FileNotFoundError:
            return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
        except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
            raise DatasetError(
                "this is not a table of rounds, or it is damaged",
                where=self.file,
                remedy="Move it away; a new one begins with the next correction.",
            ) from error

    def correct(
        self,
        image: Path,
        predicted: np.ndarray,
        corrected: np.ndarray,
        *,
        model: str,
        weights: str,
        replace: bool = False,
        cells: Path | None = None,
    ) -> Comparison:
        """Keep a correction: its score in ``rounds.csv``, then image and masks in ``shot/``.

        Correcting an image again in the same round replaces the row, and the masks in ``shot/`` if
        they are those of the former correction. Nothing is written where these cannot be.

        Parameters
        ----------
        image : Path
            Its file.
        predicted, corrected : int[H, W]
            The labels as the model gave them, and as they are to be.
        model : str
            Name of the model's file.
        weights : str
            `checkpoint.weights_hash` of the model that made the prediction.
        replace, cells
            See `add_to_shots`.

        Returns
        -------
        Comparison

        Raises
        ------
        MetricError
            As `compare`.
        ScellsegError
            As `add_to_shots` and `table`.
        """
        found, table = compare(predicted, corrected), self.table
        name = folders.plain_name(image).removesuffix("_img")
        former = set(table.loc[table["image"] == name, "masks"])
        there = _shot(self.folder, image)
        annotated = there.image.exists() and there.masks.exists()
        replace = replace or (there.masks.exists() and _hash_of(there.masks) in former)
        _place(self.folder, image, corrected, replace)
        begun = self._begun(table, weights)
        same = (table["round"] == begun["round"]) & (table["image"] == name)
        seen = bool(table.loc[same, "seen"].iloc[0]) if same.any() else annotated
        row = begun | {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": model,
            "weights": weights,
            "image": name,
            "seen": seen,
            "masks": _hash(corrected),
        }
        rows = pd.DataFrame([row | found._asdict()])[list(COLUMNS)].astype(COLUMNS)
        # The score first: the shot alone would make the image pass for one that was learnt from.
        self._write(pd.concat([table[~same], rows], ignore_index=True))
        add_to_shots(self.folder, image, corrected, replace=replace, cells=cells)
        return found

    def summary(self) -> pd.DataFrame:
        """One row a round, with means over its corrected images that no shot was.

        Returns
        -------
        DataFrame
            ``round``, ``model``, ``shots``, ``shot_cells``, ``images`` (corrected), ``scored``
            (those of them that were not among the shots), ``ap50``, ``map`` (their means, nan
            without any), ``added``, ``removed`` and ``changed`` (cells of all corrected images).
        """
        rows = []
        for number, part in self.table.groupby("round", sort=True):
            fresh, first = part[~part["seen"]], part.iloc[0]
            rows.append(
                {
                    "round": number,
                    **first[["model", "shots", "shot_cells"]].to_dict(),
                    "images": len(part),
                    "scored": len(fresh),
                    **fresh[["ap50", "map"]].mean().to_dict(),
                    **part[["added", "removed", "changed"]].sum().to_dict(),
                }
            )
        columns = ["round", "model", "shots", "shot_cells", "images", "scored", "ap50", "map"]
        return pd.DataFrame(rows, columns=[*columns, "added", "removed", "changed"])

    def _begun(self, table: pd.DataFrame, weights: str) -> dict[str, Any]:
        """Number of the round that a prediction of these weights belongs to, and its shots."""
        columns = ["round", "shots", "shot_cells"]
        of_these = table[table["weights"] == weights]
        if len(of_these):
            return dict(zip(columns, of_these.iloc[-1][columns].tolist(), strict=True))
        counts = self._count_shots()
        last = int(table["round"].max()) if len(table) else 0
        return dict(zip(columns, (last + 1, *counts), strict=True))

    def _count_shots(self) -> tuple[int, int]:
        """Annotated images and their cells; a damaged one does not cost the correction."""
        counts = []
        for file in _masks(_home(self.folder))[0].values():
            try:
                counts.append(int(np.count_nonzero(np.unique(readers.read_pixels(file)))))
            except ScellsegError:
                continue
        return len(counts), sum(counts)

    def _write(self, table: pd.DataFrame) -> None:
        with whole(self.file) as scratch:
            table.sort_values("round", kind="stable").to_csv(
                scratch, index=False, float_format="%.6f"
            )

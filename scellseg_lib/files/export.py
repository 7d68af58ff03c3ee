"""Cells for other programs: outlines, measurements in pixels, images of cells; lists of classes."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from skimage.measure import regionprops, regionprops_table

from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ImageError, SideTooSmall, telling
from scellseg_lib.files import layout
from scellseg_lib.files.folder import FolderOutcome, read_record, survive
from scellseg_lib.files.images import pixel_hash, read_labels, read_pixels, relabel, write_labels
from scellseg_lib.files.outlines import write_geojson, write_imagej, write_outlines
from scellseg_lib.files.seg_npy import write_seg
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import check_size

SHAPE: tuple[str, ...] = ("label", "area", "centroid", "bbox", "equivalent_diameter_area")
SHAPE += ("axis_major_length", "axis_minor_length", "orientation", "eccentricity", "solidity")
SHAPE += ("perimeter",)
"""Measured of every cell, px and radians; see `skimage.measure.regionprops`."""
INTENSITY = ("intensity_mean", "intensity_min", "intensity_max", "intensity_std")
"""Measured of every cell in every channel."""
FORMATS = {"tiff": f"{layout.MASKS}.tif", "png": f"{layout.MASKS}.png", "imagej": "_rois.zip"}
FORMATS |= {"geojson": ".geojson", "outlines": "_outlines.txt", "cellpose": "_seg.npy"}
FORMATS |= {"table": "_measurements.csv", "cells": "_cells"}
"""What there is, with the ending of its files; that of "cells" is a folder of images."""
REMEDY = "Move it away, or put there that which was saved with these masks."


def export(
    masks: Path,
    output: Path,
    formats: Sequence[str],
    *,
    images: Path | None = None,
    channels: Sequence[str] = (),
    side: int | None = None,
    keep_background: bool = True,
    overwrite: bool = False,
) -> FolderOutcome:
    """Export a label file, or all of a folder, in some of `FORMATS`; a damaged one stops no other.

    Masks are ``NAME_masks.*`` or Cellpose's ``NAME_seg.npy``; the classes and notes of their lists
    ``NAME_cells.csv`` go into "table" and "geojson". Images, ``NAME.*`` or ``NAME_img.*``, are for
    "cells", "table" and "cellpose". What is in the output folder stays unless ``overwrite``.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        remedy = f"There are: {', '.join(FORMATS)}."
        raise ImageError(f"there is no format {unknown[0]!r}", remedy=remedy)
    if "cells" in formats and images is None:
        what, remedy = "cells are cut out of images", "Say where they are: {images}."
        raise ImageError(what, remedy=remedy, options={"images": None})
    files = layout.find_labels(masks)
    pictures = _find_pictures(images, masks, files) if images else {}
    home = next((at for at in (masks, *masks.parents) if (at / layout.RECORD).is_file()), masks)
    made, done = read_record(home).get("masks", {}), FolderOutcome()
    for name in progress_bar(files, len(files), "export"):
        wanted = {kind: output / f"{name}{FORMATS[kind]}" for kind in formats}
        missing = {kind: file for kind, file in wanted.items() if overwrite or not file.exists()}
        done.already += len(wanted) - len(missing)
        if not missing:
            continue
        with survive(done.failed, name, name):
            stored = read_labels(files[name])
            labels, there = relabel(stored, where=files[name]), np.unique(stored[stored > 0])
            facts = pd.DataFrame({"label_in_file": there}, range(1, len(there) + 1))
            said = read_list(layout.cells_path(files[name]), stored)
            facts = facts.join(said, on="label_in_file").fillna("")
            picture = layout.only(pictures[name], pictures[name][0]) if images else None
            was = made.get(files[name], ("",))[0]  # in capitals it is not that of a file
            if picture and was.islower() and was != pixel_hash(np.fromfile(picture, "u1")):
                raise DatasetError("it was replaced", where=picture, remedy="Segment it again.")
            image = read_pixels(picture) if picture else None
            for kind, file in missing.items():
                if kind == "table":
                    with whole(file) as scratch:
                        frame = measurements(labels, image, channels).join(facts, on="label")
                        frame.to_csv(scratch, index=False)
                elif kind == "cells" and image is not None:
                    _write_cells(file, single_cells(labels, image, side, keep_background))
                elif kind == "cellpose":
                    found = {"img": image, "filename": picture.name} if picture else {}
                    write_seg(file, labels, **found)
                elif kind == "geojson":
                    write_geojson(file, labels, dict(facts.get("class", {})))
                else:
                    outlined = {"imagej": write_imagej, "outlines": write_outlines}
                    outlined.get(kind, write_labels)(file, labels)
                done.written += 1
    return done


def measurements(
    masks: np.ndarray, image: np.ndarray | None = None, channels: Sequence[str] = ()
) -> pd.DataFrame:
    """Measure every cell, a row each: `SHAPE`, and `INTENSITY` with the channel's name at its end.

    The image is number[H, W] or [H, W, C]; its channels are called 0, 1, .. if they have no names.
    """
    masks = masks.astype(np.int32)
    if image is None:
        return pd.DataFrame(regionprops_table(masks, properties=SHAPE))
    check_size(image.shape[:2], masks.shape, "its masks", "masks")
    planes = np.atleast_3d(image)
    names = [str(name) for name in channels or range(planes.shape[2])]
    if len(names) != planes.shape[2]:
        what = f"the image has {planes.shape[2]} channels, {len(names)} are named"
        raise ImageError(what, remedy="Name each channel once.")
    frame = pd.DataFrame(regionprops_table(masks, planes, SHAPE + INTENSITY))
    called = {f"{one}-{k}": f"{one}_{n}" for one in INTENSITY for k, n in enumerate(names)}
    return frame.rename(columns=called)


def single_cells(
    masks: np.ndarray, image: np.ndarray, side: int | None = None, keep_background: bool = True
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut every cell out of its image: yields labels and crops, as the image in dtype and channels.

    A crop is the box of the cell, or a square of `side` px around its middle, with 0 beyond the
    image; SideTooSmall if a cell is larger. Without `keep_background` all but the cell is 0.
    """
    check_size(image.shape[:2], masks.shape, "its masks", "masks")
    boxes = {cell.label: cell.slice for cell in regionprops(masks.astype(np.int32))}
    extents = {k: max(part.stop - part.start for part in box) for k, box in boxes.items()}
    if larger := [k for k, extent in extents.items() if side and extent > side]:
        what = f"{len(larger)} of {len(boxes)} cells do not fit into {side} x {side} px"
        remedy = "Give {side} or more, or no side: each image is as large as its cell then."
        options = {"side": max(extents.values())}
        raise SideTooSmall(f"{what}, the first: {larger[0]}", remedy=remedy, options=options)
    margin = side or 0  # so that no square ends at the edge of the image
    labels = np.pad(masks, margin)
    pixels = np.pad(image, [(margin, margin)] * 2 + [(0, 0)] * (image.ndim - 2))
    for label, box in boxes.items():
        if side:
            starts = [(part.start + part.stop + side) // 2 for part in box]  # within the margin
            box = tuple(slice(start, start + side) for start in starts)
        crop = pixels[box].copy()
        if not keep_background:
            crop[labels[box] != label] = 0
        yield label, crop


def _write_cells(folder: Path, crops: Iterable[tuple[int, np.ndarray]]) -> None:
    """Write ``FOLDER/FOLDER_00001.tif``, ..: all cells, or no folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=folder.parent) as scratch:
        made = Path(scratch, folder.name)
        made.mkdir()
        for label, crop in crops:
            colours = "rgb" if crop.ndim == 3 and crop.shape[2] == 3 else "minisblack"
            planes: Any = {"planarconfig": "contig"} if crop.shape[2:] > (1,) else {}  # no pages
            file = made / f"{folder.name}_{label:05d}.tif"
            tifffile.imwrite(file, crop, compression="zlib", photometric=colours, **planes)
        if folder.exists():
            folder.rename(Path(scratch, "before"))  # in one step, and then removed
        made.rename(folder)


def _find_pictures(images: Path, masks: Path, names: Iterable[str]) -> dict[str, list[Path]]:
    """Images of label files, by name; one image and one label file may be of any names."""
    found = {layout.image_name(images) if masks.is_dir() else name: [images] for name in names}
    found = dict(layout.find_images(images)) if images.is_dir() else found
    if missing := [name for name in names if name not in found]:
        what = f"masks without an image: {', '.join(missing)}"
        remedy = "The image of NAME_masks.* or NAME_seg.npy is NAME.* or NAME_img.*."
        raise DatasetError(what, where=images, remedy=remedy)
    return found


def read_list(table: Path, labels: np.ndarray) -> pd.DataFrame:
    """List of the cells of labels, int[H, W], see `match_cells`; no columns without one."""
    waiting = waiting_list(table, labels)  # a save was stopped after that of the masks
    if not (file := waiting if waiting.is_file() else table).is_file():
        return pd.DataFrame()
    with telling("this is no list of cells", file, REMEDY, ImageError):
        return match_cells(read_table(file.read_bytes())[0], labels)


def waiting_list(table: Path, labels: np.ndarray) -> Path:
    """Where a list of cells waits until its masks are written, which makes it theirs."""
    return table.with_name(f".{pixel_hash(labels.astype(np.int64))[:24]}.csv")


def match_cells(cells: pd.DataFrame, labels: np.ndarray) -> pd.DataFrame:
    """``class`` and ``note`` of a list by its ``label``; ImageError unless it is of these labels.

    It names each once; its ``area``, if there is one, is that of each cell in pixels.
    """
    there, areas = np.unique(labels[labels > 0], return_counts=True)
    with telling("this is no list of cells of these masks", None, REMEDY, ImageError):
        cells = cells.set_axis(pd.Index(pd.to_numeric(cells["label"])))
        if not cells.index.is_unique or not cells.index.isin(there).all():
            raise ValueError("it names cells which the masks have not, or twice")
        if "area" in cells and (pd.to_numeric(cells["area"]).reindex(there) != areas).any():
            raise ValueError("its areas are not those of these cells")
    texts = cells.reindex(columns=["class", "note"]).astype(object).fillna("").astype(str)
    return texts.rename(index=int)


def read_table(data: bytes) -> tuple[pd.DataFrame, str]:
    """Read a table of words, also one that a spreadsheet has saved; and its separator."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    separator = max(",;\t", key=text.partition("\n")[0].count)
    rows = [row for row in csv.reader(io.StringIO(text, None), delimiter=separator) if any(row)]
    names = [name.strip().lower().replace("color", "colour") for name in (rows or [[]])[0]]
    if any(any(row[len(names) :]) for row in rows) or any(names.count(n) > 1 for n in names if n):
        raise ValueError("a row has more values than there are names, or two have one name")
    padded = [(row + [""] * len(names))[: len(names)] for row in rows[1:]]
    return pd.DataFrame(padded, columns=names, dtype=str), separator

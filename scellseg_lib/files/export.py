"""Cells for other programs: outlines, measurements, images of cells; lists of classes."""

import csv
import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from PIL import ImageColor
from skimage.measure import regionprops, regionprops_table

from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ImageError, ScellsegWarning, SideTooSmall, telling
from scellseg_lib.files import layout
from scellseg_lib.files.folder import FolderOutcome, read_record, survive
from scellseg_lib.files.images import pixel_hash, read_labels, read_pixels, relabel, write_labels
from scellseg_lib.files.outlines import write_geojson, write_imagej
from scellseg_lib.files.seg_npy import write_seg
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import check_size

NAMES = {"num_pixels": "area_px", "axis_major_length": "length_px", "axis_minor_length": "width_px"}
NAMES |= {"equivalent_diameter_area": "diameter_px", "perimeter": "perimeter_px"}
"""What `skimage.measure.regionprops` measures, in other words, with the unit at their end."""
UNITS = {"nm": 1e-3, "mm": 1e3} | dict.fromkeys(("µm", "μm", r"\u00B5m", "um", "micron"), 1.0)
INTENSITY = ("intensity_mean", "intensity_min", "intensity_max", "intensity_std")
FORMATS = {"tiff": f"{layout.MASKS}.tif", "png": f"{layout.MASKS}.png", "imagej": "_rois.zip"}
FORMATS |= {"geojson": ".geojson", "cellpose": "_seg.npy", "table": "_measurements.csv"}
FORMATS |= {"cells": "_cells"}
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
    pixel_size: float | None = None,
    overwrite: bool = False,
) -> FolderOutcome:
    """Export a label file, or all of a folder, in some of `FORMATS`; a damaged one stops no other.

    Masks are ``NAME_masks.*`` or Cellpose's ``NAME_seg.npy``; the classes and notes of their lists
    ``NAME_cells.csv`` go into "table" and "geojson". Images, ``NAME.*`` or ``NAME_img.*``, are for
    "cells", "table" and "cellpose". ``pixel_size`` is in µm, and by default what an image's file
    says. What is in the output folder stays unless ``overwrite``.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        remedy = f"There are: {', '.join(FORMATS)}."
        raise ImageError(f"there is no format {unknown[0]!r}", remedy=remedy)
    if "cells" in formats and images is None:
        what, remedy = "cells are cut out of images", "Say where they are: {images}."
        raise ImageError(what, remedy=remedy, options={"images": None})
    files = layout.find_labels(masks)
    pictures = dict(layout.find_images(images)) if images and images.is_dir() else {}
    if images and not images.is_dir():  # one image and one label file may be of any names
        pictures = {layout.image_name(images if masks.is_dir() else masks): [images]}
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
            if images and name not in pictures:
                remedy = "The image of NAME_masks.* or NAME_seg.npy is NAME.* or NAME_img.*."
                raise DatasetError("there is no image of these masks", where=images, remedy=remedy)
            picture = layout.only(pictures[name], pictures[name][0]) if images else None
            was = made.get(files[name], ("",))[0]  # in capitals it is not that of a file
            if picture and was.islower() and was != pixel_hash(np.fromfile(picture, "u1")):
                raise DatasetError("it was replaced", where=picture, remedy="Segment it again.")
            image = read_pixels(picture) if picture else None
            for kind, file in missing.items():
                if kind == "table":
                    with whole(file) as scratch:
                        size = pixel_size or (read_pixel_size(picture) if picture else None)
                        frame = measurements(labels, image, channels, size)
                        frame.join(facts, on="label").to_csv(scratch, index=False)
                elif kind == "cells" and image is not None:
                    _write_cells(file, single_cells(labels, image, side, keep_background))
                elif kind == "cellpose":
                    found = {"img": image, "filename": picture.name} if picture else {}
                    write_seg(file, labels, **found)
                elif kind == "geojson":
                    colours = read_colours(files[name])
                    write_geojson(file, labels, dict(facts.get("class", {})), colours)
                else:
                    (write_imagej if kind == "imagej" else write_labels)(file, labels)
                done.written += 1
    return done


def measurements(
    masks: np.ndarray,
    image: np.ndarray | None = None,
    channels: Sequence[str] = (),
    pixel_size: float | None = None,
) -> pd.DataFrame:
    """Measure every cell of int[H, W], a row each; names end with units, `INTENSITY` with channels.

    ``length_px`` and width are of the ellipse with its second moments, the diameter is of a circle
    as large, ``angle_deg`` is the length's, counterclockwise from the right, and ``x_px`` and y are
    of its middle, from the image's corner, as in Fiji and QuPath. With the side of a pixel in µm
    there are also ``area_um2``, ``length_um`` ... The image is number[H, W] or [H, W, C].
    """
    planes = np.empty((*masks.shape, 0)) if image is None else np.atleast_3d(image)
    check_size(planes.shape[:2], masks.shape, "its masks", "masks")
    names = [] if image is None else [*channels] or [*range(planes.shape[2])]
    if len(names) != planes.shape[2]:
        what = f"the image has {planes.shape[2]} channels, {len(names)} are named"
        raise ImageError(what, remedy="Name each channel once.")
    called = {f"{one}-{k}": f"{one}_{name}" for one in INTENSITY for k, name in enumerate(names)}
    wanted = ("label", *NAMES, "eccentricity", "solidity", *INTENSITY, "orientation", "centroid")
    found = regionprops_table(masks.astype(np.int32), planes, wanted)
    frame = pd.DataFrame(found).rename(columns=NAMES | called)
    frame["angle_deg"] = (np.degrees(frame.pop("orientation")) + 90) % 180
    frame["x_px"], frame["y_px"] = frame.pop("centroid-1") + 0.5, frame.pop("centroid-0") + 0.5
    if pixel_size:
        frame["pixel_size_um"], frame["area_um2"] = pixel_size, frame["area_px"] * pixel_size**2
        for name in ("length", "width", "diameter", "perimeter", "x", "y"):
            frame[f"{name}_um"] = frame[f"{name}_px"] * pixel_size
    return frame


def read_pixel_size(image: Path) -> float | None:
    """Side of a pixel, µm, if OME-XML, ImageJ or a TIFF's tags tell it; warns if not square."""
    with suppress(Exception), tifffile.TiffFile(image) as tiff:  # what is not read tells nothing
        page, unit = tiff.pages.first, UNITS.get((tiff.imagej_metadata or {}).get("unit", ""))
        if tiff.ome_metadata:
            told = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
            sides = "PhysicalSizeX", "PhysicalSizeY"
            x, y = (told[side] * UNITS[told.get(f"{side}Unit", "µm")] for side in sides)
        else:
            x, y = ((unit or 1e4) / number for number in page.resolution)  # 1e4 µm: a centimetre
            # Tags alone may be a screen's or printer's: 72 dpi are 353 µm a pixel, 1200 dpi 21 µm.
            if not unit and (page.resolutionunit != tifffile.RESUNIT.CENTIMETER or max(x, y) >= 20):
                return None
        if 0 < max(x, y) <= 1.01 * min(x, y) < np.inf:
            return (x + y) / 2
        what = f"its pixels, {x:g} x {y:g} µm, are no squares: cells are measured in pixels alone"
        remedy = "Say the size of a pixel yourself, or save the image with square ones."
        warnings.warn(ScellsegWarning(what, where=image, remedy=remedy), stacklevel=2)
    return None


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
        (made := Path(scratch, folder.name)).mkdir()
        for label, crop in crops:
            how: Any = {"planarconfig": "contig"} if crop.shape[2:] > (1,) else {}  # no pages
            how |= {"photometric": "rgb" if crop.shape[2:] == (3,) else "minisblack"}
            how |= {"compression": "zlib"}
            tifffile.imwrite(made / f"{folder.name}_{label:05d}.tif", crop, **how)
        if folder.exists():
            folder.rename(Path(scratch, "before"))  # in one step, and then removed
        made.rename(folder)


def read_list(table: Path, labels: np.ndarray) -> pd.DataFrame:
    """List of the cells of labels, int[H, W], see `match_cells`; no columns without one."""
    for file in (waiting_list(table, labels), table):  # a save stopped after that of the masks
        if file.is_file():
            with telling("this is no list of cells", file, REMEDY, ImageError):
                return match_cells(read_table(file.read_bytes())[0], labels)
    return pd.DataFrame()


def read_colours(masks: Path) -> dict[str, tuple[int, ...]]:
    """RGB colours, 0 to 255, by class, in the list of an experiment; a damaged one has none."""
    colours = dict[str, tuple[int, ...]]()
    for home in masks.absolute().parents[1::-1]:  # shot/, query/ and corrected/ are in its folder
        with suppress(OSError, ValueError, KeyError, csv.Error):
            table = read_table((home / layout.CLASSES).read_bytes())[0]
            for name, text in zip(table["class"], table["colour"], strict=True):
                with suppress(ValueError):
                    colours[name.strip()] = ImageColor.getrgb(text.strip())[:3]
    return colours


def waiting_list(table: Path, labels: np.ndarray) -> Path:
    """Where a list of cells waits until its masks are written, which makes it theirs."""
    return table.with_name(f".{pixel_hash(labels.astype(np.int64))[:24]}.csv")


def match_cells(cells: pd.DataFrame, labels: np.ndarray) -> pd.DataFrame:
    """``class`` and ``note`` by the ``label``; ImageError if labels, or areas in px, are others."""
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

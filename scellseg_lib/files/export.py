"""Cells for other programs: outlines (see `rois`), a table of measurements, images of single cells.

Files are written whole or not at all. Coordinates and areas are in pixels.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from scipy.ndimage import find_objects
from skimage.measure import regionprops_table

from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, ImageError, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.files import layout as folders
from scellseg_lib.files.rois import write_geojson, write_imagej, write_outlines
from scellseg_lib.files.seg_npy import write_seg
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import check_size

SHAPE: tuple[str, ...] = ("label", "area", "centroid", "bbox", "equivalent_diameter_area")
SHAPE += ("axis_major_length", "axis_minor_length", "orientation", "eccentricity", "solidity")
SHAPE += ("perimeter",)
"""Measured of every cell, px and radians; see `skimage.measure.regionprops`."""
INTENSITY = ("intensity_mean", "intensity_min", "intensity_max", "intensity_std")
"""Measured of every cell in every channel."""
FORMATS = {"tiff": "_masks.tif", "png": "_masks.png", "imagej": "_rois.zip", "geojson": ".geojson"}
FORMATS |= {"outlines": "_outlines.txt", "cellpose": "_seg.npy"}
FORMATS |= {"table": "_measurements.csv", "cells": "_cells"}
"""What there is, with the ending of its files: label images, ROIs of ImageJ, outlines for QuPath
and as text, what Cellpose's interface opens, measurements, and a folder of an image for each
cell."""
_LABELS = {"imagej": write_imagej, "outlines": write_outlines}


@dataclass
class Exported:
    """What an export of many label files came to."""

    written: int = 0
    already: int = 0
    failed: list[str] = field(default_factory=list)
    """Why others could not be read or written."""


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
) -> Exported:
    """Export a label file, or all of a folder; one that is damaged does not stop the others.

    Parameters
    ----------
    masks : path
        ``NAME_masks.*`` or Cellpose's ``NAME_seg.npy``, or a folder of such files. A cell list
        ``NAME_cells.csv`` beside it, with the columns label, class and note, goes into "geojson"
        (its classes) and "table".
    output : path
        Folder, made if need be. What exists there is left alone unless ``overwrite``.
    formats : sequence of str
        Of `FORMATS`.
    images : path, optional
        Their images, ``NAME.*`` or ``NAME_img.*``: for "cells", the intensities of
        "table", and to lie within "cellpose".
    channels, side, keep_background
        See `measurements` and `single_cells`.
    overwrite : bool

    Raises
    ------
    ImageError
        For a format that there is not, or "cells" without images.
    DatasetError
        Where there are no label files, or one lacks its image.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats or ("cells" in formats and images is None):
        raise ImageError(
            f"there is no format {unknown[0]!r}" if unknown else "cells are cut out of images",
            remedy=f"There are: {', '.join(FORMATS)}." if unknown else "Say where: images=...",
        )
    files = folders.find_labels(masks)
    pictures = _pictures(images, files) if images else {}
    done = Exported()
    for name in progress_bar(files, len(files), "export"):
        wanted = {kind: output / f"{name}{FORMATS[kind]}" for kind in formats}
        missing = {kind: file for kind, file in wanted.items() if overwrite or not file.exists()}
        done.already += len(wanted) - len(missing)
        if not missing:
            continue
        try:
            labels = readers.read_masks(files[name])
            listed = _cell_list(files[name], labels.max())
            image = readers.read_pixels(pictures[name]) if pictures else None
            for kind, file in missing.items():
                if kind == "table":
                    with whole(file) as scratch:
                        frame = measurements(labels, image, channels).join(listed, on="label")
                        frame.to_csv(scratch, index=False)
                elif kind == "geojson":
                    write_geojson(file, labels, dict(listed.get("class", {})))
                elif kind == "cellpose":
                    found = {"img": image, "filename": pictures[name].name} if pictures else {}
                    write_seg(file, labels, **found)
                elif kind == "cells" and image is not None:
                    _write_cells(file, single_cells(labels, image, side, keep_background))
                else:
                    _LABELS.get(kind, readers.write_labels)(file, labels)
                done.written += 1
        except (ScellsegError, OSError, ValueError) as error:
            done.failed.append(f"{name}: {error}")
    return done


def measurements(
    masks: np.ndarray, image: np.ndarray | None = None, channels: Sequence[str] = ()
) -> pd.DataFrame:
    """Measure every cell.

    Parameters
    ----------
    masks : int[H, W]
        Labels, 0 is background.
    image : number[H, W] or number[H, W, C], optional
        For the intensities.
    channels : sequence of str
        Their names; default: 0, 1, ..

    Returns
    -------
    DataFrame
        One row a cell: `SHAPE`, and `INTENSITY` of each channel with its name as an ending.

    Raises
    ------
    ImageError
        If image and masks, or names and channels, do not fit.
    """
    properties = SHAPE if image is None else SHAPE + INTENSITY
    planes = None if image is None else np.atleast_3d(image)
    names = list(map(str, channels or range(0 if planes is None else planes.shape[2])))
    if planes is not None:
        _check_size(masks, planes)
        if len(names) != planes.shape[2]:
            raise ImageError(
                f"the image has {planes.shape[2]} channels, {len(names)} are named",
                remedy="Name each channel once.",
            )
    frame = pd.DataFrame(regionprops_table(masks.astype(np.int32), planes, properties))
    return frame.rename(
        columns={f"{m}-{k}": f"{m}_{n}" for m in INTENSITY for k, n in enumerate(names)}
    )


def single_cells(
    masks: np.ndarray, image: np.ndarray, side: int | None = None, keep_background: bool = True
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut every cell out of its image.

    Parameters
    ----------
    masks : int[H, W]
    image : number[H, W] or number[H, W, C]
        As it was read: dtype and order of the channels stay.
    side : int, optional
        Side of the square around the middle of the cell's box, px; what lies beyond the image is 0.
        None: the box itself.
    keep_background : bool
        False: all that is not the cell is 0.

    Yields
    ------
    label : int
    crop : of the image's dtype, [h, w] or [h, w, C]

    Raises
    ------
    ImageError
        If image and masks differ in size, or a cell is larger than the square: none is cut off.
    """
    _check_size(masks, image)
    boxes = {k: box for k, box in enumerate(find_objects(masks.astype(np.int32)), 1) if box}
    extents = {k: max(part.stop - part.start for part in box) for k, box in boxes.items()}
    larger = [label for label, extent in extents.items() if side is not None and extent > side]
    if larger:
        raise ImageError(
            f"{len(larger)} of {len(boxes)} cells do not fit into {side} x {side} px: "
            f"{', '.join(map(str, larger[:5]))}{', ..' * (len(larger) > 5)}",
            remedy=f"Ask for side={max(extents.values())} or more, or for no side: their boxes.",
        )
    margins = [(side or 0, side or 0)] * 2
    labels = np.pad(masks, margins)
    pixels = np.pad(image, margins + [(0, 0)] * (image.ndim - 2))
    for label, box in boxes.items():
        spans = []
        for part in box:
            length = side or part.stop - part.start
            start = (part.start + part.stop - length) // 2 + (side or 0)
            spans.append(slice(start, start + length))
        crop = pixels[tuple(spans)].copy()
        if not keep_background:
            crop[labels[tuple(spans)] != label] = 0
        yield label, crop


def _write_cells(folder: Path, crops: Iterable[tuple[int, np.ndarray]]) -> None:
    """Write ``FOLDER/FOLDER_00001.tif``, ..: all cells, or no folder."""
    scratch = folder.with_name(f".{os.getpid()}.{folder.name}")
    scratch.mkdir(parents=True)
    try:
        for label, crop in crops:
            colours = "rgb" if crop.ndim == 3 and crop.shape[2] == 3 else "minisblack"
            file = scratch / f"{folder.name}_{label:05d}.tif"
            layout: Any = {"planarconfig": "contig"} if crop.shape[2:] > (1,) else {}  # no pages
            tifffile.imwrite(file, crop, compression="zlib", photometric=colours, **layout)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _cell_list(masks: Path, count: int) -> pd.DataFrame:
    """Class and note of the cells 1 to `count`, if there is a list of them beside their masks."""
    path = masks.with_name(f"{folders.label_name(masks)}_cells.csv")
    if not path.exists():
        return pd.DataFrame(index=range(1, count + 1))
    kinds = {"label": int, "class": str, "note": str}
    cells = pd.read_csv(path, usecols=list(kinds), dtype=kinds, keep_default_na=False)
    if len(cells) != count:
        what = f"the list has {len(cells)} cells, their masks {count}"
        raise ImageError(what, where=path, remedy="Save the masks and their list anew.")
    return cells.sort_values("label").set_axis(range(1, count + 1)).drop(columns="label")


def _pictures(images: Path, files: Iterable[str]) -> dict[str, Path]:
    """Images of label files, by name."""
    if images.is_file():
        found = dict.fromkeys(files, images)
    else:
        found = {name: first for name, (first, *_) in folders.find_images(images)}
    if missing := [name for name in files if name not in found]:
        what = f"masks without an image: {', '.join(missing)}"
        remedy = "The image of NAME_masks.* or NAME_seg.npy is NAME.* or NAME_img.*."
        raise DatasetError(what, where=images, remedy=remedy)
    return found


def _check_size(masks: np.ndarray, image: np.ndarray) -> None:
    check_size(image.shape[:2], masks.shape, "its masks", "masks")

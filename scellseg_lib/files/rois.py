"""Outlines of cells as other programs take them: ImageJ, QuPath, and Cellpose's text.

They run along the edges of the pixels, see `outlines`, so that other programs have the same cells.
"""

from __future__ import annotations

import colorsys
import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import roifile

from scellseg_lib.atomic import whole
from scellseg_lib.files.outlines import outlines

_DATE = (1980, 1, 1, 0, 0, 0)  # the same cells give the same bytes


def write_imagej(path: Path, masks: np.ndarray) -> None:
    """Write a zip of ImageJ ROIs for its ROI Manager, one a cell, named by the cell's label.

    A cell in one piece without holes is a polygon, any other a composite; filling either in ImageJ
    gives back the cell's pixels.
    """
    with whole(path) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        for label, pieces in outlines(masks):
            plain = len(pieces) == len(pieces[0]) == 1
            roi = _polygon(pieces[0][0]) if plain else _composite(pieces)
            roi.name = f"{label:05d}"
            archive.writestr(zipfile.ZipInfo(f"{roi.name}.roi", _DATE), roi.tobytes())


def write_geojson(path: Path, masks: np.ndarray, classes: Mapping[int, str] | None = None) -> None:
    """Write outlines as GeoJSON, which QuPath imports as detections.

    Parameters
    ----------
    path : path
    masks : int[H, W]
    classes : mapping of int to str, optional
        Class of a label; those without are unclassified.
    """
    classes = classes or {}
    names = {name: k for k, name in enumerate(dict.fromkeys(classes.values()))}
    features = []
    for label, pieces in outlines(masks):
        polygons = [[_closed(ring) for ring in rings] for rings in pieces]
        properties: dict[str, object] = {"objectType": "detection", "name": str(label)}
        if name := classes.get(label):
            properties["classification"] = {"name": name, "color": _colour(names[name])}
        kind, rings = ("MultiPolygon", polygons) if polygons[1:] else ("Polygon", polygons[0])
        geometry = {"type": kind, "coordinates": rings}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    with whole(path) as scratch:
        scratch.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_outlines(path: Path, masks: np.ndarray) -> None:
    """Write outlines as text, as Cellpose does: a line of x,y,x,y,.. for each piece of a cell.

    Holes are left out, with a warning: the format has none.
    """
    lines, holes = [], []
    for label, pieces in outlines(masks):
        for outer, *inner in pieces:
            lines.append(",".join(map(str, outer.ravel().tolist())))
            holes += [label] * bool(inner)
    if holes:
        lost = f"those of cells {', '.join(map(str, holes))} are lost"
        warnings.warn(f"outlines as text have no holes: {lost}", stacklevel=2)
    with whole(path) as scratch:
        scratch.write_text("".join(f"{line}\n" for line in lines))


def _polygon(ring: np.ndarray) -> roifile.ImagejRoi:
    roi = roifile.ImagejRoi.frompoints(ring)
    roi.roitype = roifile.ROI_TYPE.TRACED
    roi.right, roi.bottom = map(int, ring.max(axis=0))  # as ImageJ has them, one less than roifile
    return roi


def _composite(pieces: list[list[np.ndarray]]) -> roifile.ImagejRoi:
    """Return a shape of several rings, as segments (0 move, 1 line, 4 close)."""
    every = [ring for rings in pieces for ring in rings]
    segments: list[float] = []
    for ring in every:
        kinds = np.column_stack([np.ones(len(ring)), ring])
        kinds[0, 0] = 0
        segments += [*kinds.ravel(), 4]
    corners = np.concatenate(every)
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, shape_roi_size=len(segments))
    ends = map(int, [*corners.min(axis=0), *corners.max(axis=0)])
    roi.left, roi.top, roi.right, roi.bottom = ends
    roi.multi_coordinates = np.array(segments, np.float32)
    return roi


def _closed(ring: np.ndarray) -> list[list[int]]:
    """Vertices with the first once more at the end, as GeoJSON has them."""
    return [*ring.tolist(), ring[0].tolist()]


def _colour(number: int) -> list[int]:
    """Red, green, blue of a class, 0 to 255: far from those of its neighbours."""
    return [round(255 * part) for part in colorsys.hsv_to_rgb(number * 0.381966 % 1, 0.7, 0.9)]

"""Outlines of cells along the edges of their pixels, for ImageJ and QuPath; pictures of them.

A vertex (x, y) is a corner between pixels: pixel (row 0, column 0) is the square from (0, 0) to
(1, 1), as in ImageJ and QuPath. Filling an outline gives back the very pixels that it came from.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import roifile
from scipy.ndimage import label
from skimage.measure import find_contours, regionprops
from skimage.segmentation import mark_boundaries

from scellseg_lib.atomic import whole
from scellseg_lib.samples import normalise


def outlines(masks: np.ndarray) -> Iterator[tuple[int, list[list[np.ndarray]]]]:
    """Outlines of all cells, int[H, W] with 0 for background: yields labels, and lists of rings.

    There is a list for each 4-connected piece: its outer ring, clockwise as one sees it, then those
    of its holes, the other way round; int64[n, 2] (x, y), the first not repeated at the end.
    """
    for cell in regionprops(masks.astype(np.int32)):
        pieces, n_pieces = label(cell.image)
        found = [rings(pieces == k) for k in range(1, n_pieces + 1)]
        yield cell.label, [[ring + cell.bbox[1::-1] for ring in piece] for piece in found]


def rings(piece: np.ndarray) -> list[np.ndarray]:
    """Simple rings of one 4-connected piece, the outer first; bool[H, W] -> int64[n, 2] each."""
    found = []
    for contour in find_contours(np.pad(piece, 1), 0.5, fully_connected="high"):
        # They go through the middles of edges; between two of these lies a corner of pixels.
        ring = ((contour[:-1] + contour[1:]) // 2).astype(np.int64)[:, ::-1]
        steps = np.roll(ring, -1, axis=0) - ring
        found.append(ring[(steps != np.roll(steps, 1, axis=0)).any(axis=1)])
    return found


def write_imagej(path: Path, masks: np.ndarray) -> None:
    """Write a zip of ROIs for ImageJ's ROI Manager, named by their labels; some are composites."""
    with whole(path) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, pieces in outlines(masks):
            roi = _roi([ring for piece in pieces for ring in piece])
            roi.name = f"{number:05d}"
            archive.writestr(zipfile.ZipInfo(f"{roi.name}.roi"), roi.tobytes())  # of one date


def write_geojson(
    path: Path, masks: np.ndarray, classes: Mapping[int, str] = {}, colours: Mapping[str, Any] = {}
) -> None:
    """Write outlines as QuPath's detections: ``classes`` by label, ``colours`` (RGB) by class."""
    features = []
    for number, pieces in outlines(masks):
        polygons = [[[*r.tolist(), r[0].tolist()] for r in piece] for piece in pieces]  # closed
        properties: dict[str, object] = {"objectType": "detection", "name": str(number)}
        if name := classes.get(number):
            colour = {"color": colours[name]} if name in colours else {}  # else QuPath has one
            properties["classification"] = {"name": name, **colour}
        kind, shape = ("MultiPolygon", polygons) if polygons[1:] else ("Polygon", polygons[0])
        geometry = {"type": kind, "coordinates": shape}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    with whole(path) as scratch:
        scratch.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_overlay(path: Path, image: np.ndarray, masks: np.ndarray) -> None:
    """Write a PNG of an image, float32[2, H, W]: its first plane in grey, edges of cells in red."""
    grey = np.clip(normalise(image[:1])[0], 0, 1)
    picture = 255 * mark_boundaries(grey, masks, color=(1, 0, 0), mode="inner")
    with whole(path) as scratch:
        scratch.write_bytes(imagecodecs.png_encode(picture.astype(np.uint8)))


def _roi(rings: list[np.ndarray]) -> roifile.ImagejRoi:
    """One ring as a polygon, several as a shape of segments (0 move, 1 line, 4 close)."""
    corners = np.concatenate(rings)
    if len(rings) == 1:
        roi = roifile.ImagejRoi.frompoints(corners)
        roi.roitype = roifile.ROI_TYPE.TRACED
    else:
        moves = (np.column_stack([np.arange(len(ring)) > 0, ring]).ravel() for ring in rings)
        segments = np.concatenate([np.append(move, 4) for move in moves])
        roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, shape_roi_size=len(segments))
        roi.multi_coordinates = segments.astype(np.float32)
    # As ImageJ has them: the right and lower ends are one less than roifile's own.
    roi.left, roi.top, roi.right, roi.bottom = map(int, [*corners.min(0), *corners.max(0)])
    return roi

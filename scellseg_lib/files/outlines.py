"""Outlines of cells along the edges of their pixels, exact for every program that fills polygons.

A vertex (x, y) is a corner between pixels: pixel (row 0, column 0) is the square from (0, 0) to
(1, 1), as in ImageJ and QuPath. Filling an outline gives back the very pixels that it came from,
and its area is their number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import find_objects, label

_TURNS = {(1, 0): (0, 1), (0, 1): (-1, 0), (-1, 0): (0, -1), (0, -1): (1, 0)}
"""Where (dx, dy) leads after a turn towards the inside, which lies on its right (y points down)."""


def outlines(masks: np.ndarray) -> Iterator[tuple[int, list[list[np.ndarray]]]]:
    """Outlines of all cells, in the order of their labels.

    Parameters
    ----------
    masks : int[H, W]
        Labels, 0 is background.

    Yields
    ------
    label : int
    pieces : list of list of int64[n, 2]
        For each 4-connected piece of the cell its outer ring, clockwise as one sees it, then those
        of its holes, the other way round; vertices (x, y), the first not repeated at the end.
    """
    for number, box in enumerate(find_objects(masks.astype(np.int32)), start=1):
        if box is None:
            continue
        pieces, n_pieces = label(masks[box] == number)
        corner = np.array([box[1].start, box[0].start])
        yield (
            number,
            [[ring + corner for ring in rings(pieces == k)] for k in range(1, n_pieces + 1)],
        )


def rings(piece: np.ndarray) -> list[np.ndarray]:
    """Rings of one 4-connected piece, the outer one first; bool[H, W] -> int64[n, 2] each."""
    inside = np.pad(piece, 1).astype(np.int8)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for axis in (0, 1):  # between rows, between columns
        between = np.diff(inside[1:-1] if axis else inside[:, 1:-1], axis=axis)
        for y, x in np.argwhere(between).tolist():
            ends = [(x, y), (x + 1 - axis, y + axis)]  # the inside lies on the right of an edge
            start, end = ends if (between[y, x] > 0) == (axis == 0) else reversed(ends)
            edges.setdefault(start, []).append(end)
    found = []
    while edges:
        found.append(_follow(edges))
    return sorted(found, key=area, reverse=True)


def area(ring: np.ndarray) -> float:
    """Area within a ring, px^2; negative for that of a hole."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _follow(edges: dict[tuple[int, int], list[tuple[int, int]]]) -> np.ndarray:
    """Take one closed ring out of the edges; vertices within a straight line are left out."""
    start = next(vertex for vertex, ways in edges.items() if len(ways) == 1)  # it is passed once
    vertices: list[tuple[int, int]] = []
    here, direction = start, (0, 0)
    while here != start or not vertices:
        ways = edges[here]
        turn = _TURNS.get(direction, (0, 0))
        inwards = (here[0] + turn[0], here[1] + turn[1])
        # Where two pixels of the piece touch at a corner, the ring stays at the one it runs along.
        there = ways.pop(ways.index(inwards) if inwards in ways else 0)
        if not ways:
            del edges[here]
        step = (there[0] - here[0], there[1] - here[1])
        if step != direction:
            vertices.append(here)
        here, direction = there, step
    first, second = vertices[:2]
    if (second[0] - first[0]) * direction[1] == (second[1] - first[1]) * direction[0]:
        del vertices[0]  # it began within a straight line
    return np.array(vertices, np.int64)

"""Changes of a label image as runs of pixels: applied, undone, sent and kept, all in one form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scellseg_lib.errors import ImageError

LARGEST = np.iinfo(np.int32).max  # largest label that the labels' type can hold


@dataclass(frozen=True, eq=False)
class Patch:
    """What a change does to the pixels of a label image."""

    runs: np.ndarray
    """int64[n, 4], a run of neighbouring pixels a row: index of the first pixel (row by row),
    length, label before and label after. They are in order, and none overlaps another."""

    @property
    def n_pixels(self) -> int:
        """Number of pixels that change."""
        return int(self.runs[:, 1].sum())

    @property
    def pixels(self) -> np.ndarray:
        """Indices of the pixels that change, int64[n_pixels]."""
        starts, lengths = self.runs[:, 0], self.runs[:, 1]
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return np.repeat(starts, lengths) + within

    def invert(self) -> Patch:
        """Make the patch that takes this one back."""
        return Patch(self.runs[:, [0, 1, 3, 2]])

    def to_bytes(self) -> bytes:
        """Write the runs as little-endian uint32, as the page has them."""
        return self.runs.astype("<u4").tobytes()

    @staticmethod
    def from_bytes(data: bytes | memoryview, n_pixels: int) -> Patch:
        """Read what `to_bytes` wrote, for an image of `n_pixels`; ImageError if it does not fit."""
        if memoryview(data).nbytes % 16:
            raise _misfit("it is cut off")
        runs = np.frombuffer(data, "<u4").reshape(-1, 4).astype(np.int64)
        starts, ends = runs[:, 0], runs[:, 0] + runs[:, 1]
        if (runs[:, 1] < 1).any() or (ends > n_pixels).any() or (starts[1:] < ends[:-1]).any():
            raise _misfit("its runs overlap, or leave the image")
        if (runs[:, 2:] > LARGEST).any():
            raise _misfit("it holds a number that is no label")
        return Patch(runs)


EMPTY = Patch(np.empty((0, 4), np.int64))  # changes no pixel


def set_pixels(labels: np.ndarray, pixels: np.ndarray, new: np.ndarray | int) -> Patch:
    """Make the patch that gives pixels of int32[H, W] new labels; the labels stay as they are.

    The pixels are indices, row by row and in order; `new` is one label for all, or one for each.
    """
    before, after = labels.ravel()[pixels], np.broadcast_to(new, len(pixels))
    changed = np.stack((pixels, before, after)).astype(np.int64)[:, before != after]
    begins = np.flatnonzero((np.diff(changed, prepend=-2) != [[1], [0], [0]]).any(axis=0))
    lengths = np.diff(begins, append=changed.shape[1])
    return Patch(np.insert(changed[:, begins], 1, lengths, axis=0).T)


def diff(before: np.ndarray, after: np.ndarray) -> Patch:
    """Make the patch from one label image, int32[H, W], to another of its size."""
    pixels = np.flatnonzero(before.ravel() != after.ravel())
    return set_pixels(before, pixels, after.ravel()[pixels])


def rebase(labels: np.ndarray, patch: Patch) -> Patch:
    """Make the patch that writes the same labels at the same pixels of other labels."""
    return set_pixels(labels, patch.pixels, np.repeat(patch.runs[:, 3], patch.runs[:, 1]))


def apply(labels: np.ndarray, patch: Patch) -> None:
    """Write a patch into labels, int32[H, W], in place; ImageError if it is of others."""
    pixels, flat, lengths = patch.pixels, labels.reshape(-1), patch.runs[:, 1]
    if (pixels >= flat.size).any() or (flat[pixels] != np.repeat(patch.runs[:, 2], lengths)).any():
        raise _misfit("the masks have changed in between")
    flat[pixels] = np.repeat(patch.runs[:, 3], lengths)


def encode_labels(labels: np.ndarray) -> bytes:
    """Write labels as runs over all pixels: pairs of label and length, little-endian uint32."""
    flat = labels.ravel()
    begins = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
    lengths = np.diff(begins, append=flat.size)
    return np.column_stack((flat[begins], lengths)).astype("<u4").tobytes()


def _misfit(why: str) -> ImageError:
    remedy = "Open the image once more; all changes before this one are kept."
    return ImageError(f"a change does not fit the masks: {why}", remedy=remedy)

"""Changes of a label image as runs of pixels: applied, undone, sent and kept, all in one form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scellseg_lib.errors import ImageError

LARGEST = np.iinfo(np.int32).max
"""Largest label."""


@dataclass(frozen=True, eq=False)
class Patch:
    """What a change does to the pixels of a label image.

    Attributes
    ----------
    runs : int64[n, 4]
        Start (index of a pixel, row by row), length, label before and label after, one run a row:
        in order, and none over another.
    """

    runs: np.ndarray

    @property
    def n_pixels(self) -> int:
        """Pixels that change."""
        return int(self.runs[:, 1].sum())

    def inverse(self) -> Patch:
        """Patch that takes this one back."""
        return Patch(self.runs[:, [0, 1, 3, 2]])

    def pixels(self) -> np.ndarray:
        """Indices of the pixels that change, int64[n_pixels]."""
        starts, lengths = self.runs[:, 0], self.runs[:, 1]
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return np.repeat(starts, lengths) + within

    def to_bytes(self) -> bytes:
        """Runs as little-endian uint32, as the browser has them."""
        return self.runs.astype("<u4").tobytes()

    @staticmethod
    def from_bytes(data: bytes | memoryview, n_pixels: int) -> Patch:
        """Patch of an image of `n_pixels`, from what `to_bytes` gives.

        Raises
        ------
        ImageError
            For runs that leave the image, overlap, or hold no label.
        """
        if memoryview(data).nbytes % 16:
            raise _unfit("it is cut off")
        runs = np.frombuffer(data, "<u4").reshape(-1, 4).astype(np.int64)
        starts, ends = runs[:, 0], runs[:, 0] + runs[:, 1]
        if (runs[:, 1] < 1).any() or (ends > n_pixels).any() or (starts[1:] < ends[:-1]).any():
            raise _unfit("its runs overlap, or leave the image")
        if (runs[:, 2:] > LARGEST).any():
            raise _unfit("it holds a number that is no label")
        return Patch(runs)


def _unfit(why: str) -> ImageError:
    return ImageError(
        f"a change does not fit the masks: {why}",
        remedy="Open the image once more; all changes before this one are kept.",
    )


EMPTY = Patch(np.empty((0, 4), np.int64))
"""No change of any pixel."""


def set_pixels(labels: np.ndarray, pixels: np.ndarray, new: np.ndarray | int) -> Patch:
    """Patch that gives pixels new labels; it changes nothing itself.

    Parameters
    ----------
    labels : int32[H, W]
    pixels : int[n]
        Their indices, row by row, each once.
    new : int or int[n]
    """
    pixels = np.asarray(pixels, np.int64)
    order = np.argsort(pixels, kind="stable")
    written = np.broadcast_to(np.asarray(new, np.int64), pixels.shape)[order]
    pixels = pixels[order]
    old = labels.ravel()[pixels].astype(np.int64)
    differs = old != written
    pixels, old, written = pixels[differs], old[differs], written[differs]
    if not len(pixels):
        return EMPTY
    same = (np.diff(pixels) == 1) & (np.diff(old) == 0) & (np.diff(written) == 0)
    begins = np.concatenate(([0], np.flatnonzero(~same) + 1))
    lengths = np.diff(np.append(begins, len(pixels)))
    return Patch(np.column_stack((pixels[begins], lengths, old[begins], written[begins])))


def difference(before: np.ndarray, after: np.ndarray) -> Patch:
    """Patch from one label image, int32[H, W], to another of its size."""
    pixels = np.flatnonzero(before.ravel() != after.ravel())
    return set_pixels(before, pixels, after.ravel()[pixels])


def rebased(labels: np.ndarray, patch: Patch) -> Patch:
    """Same new labels at the same pixels, from what `labels` holds there now."""
    return set_pixels(labels, patch.pixels(), np.repeat(patch.runs[:, 3], patch.runs[:, 1]))


def apply(labels: np.ndarray, patch: Patch) -> None:
    """Write a patch into labels, int32[H, W] and contiguous, in place.

    Raises
    ------
    ImageError
        Where the labels are not those that the patch was made from; nothing is changed then.
    """
    pixels, flat = patch.pixels(), labels.reshape(-1)
    lengths = patch.runs[:, 1]
    if (pixels >= flat.size).any() or (flat[pixels] != np.repeat(patch.runs[:, 2], lengths)).any():
        raise _unfit("the masks have changed in between")
    flat[pixels] = np.repeat(patch.runs[:, 3], lengths)


def encode_labels(labels: np.ndarray) -> bytes:
    """Labels as runs over all pixels, (label, length) pairs of little-endian uint32."""
    flat = labels.ravel()
    if not flat.size:
        return b""
    begins = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(np.append(begins, flat.size))
    return np.column_stack((flat[begins], lengths)).astype("<u4").tobytes()

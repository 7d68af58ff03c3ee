"""A sample is an image with its masks, a data set a sequence of samples; pixels made comparable."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any, Self

import cv2
import numpy as np
from natsort import natsorted
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label

from scellseg_lib.errors import DatasetError, ImageError, telling

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
MINIMAL_RANGE = 1e-3  # from the 1st to the 99th percentile of a plane that is no empty one


@dataclass(frozen=True, eq=False)
class Sample:
    """One image, read when first needed and kept, and its instance masks where they are known."""

    name: str
    read_image: Callable[[], np.ndarray]  # float32[2, H, W], raw: plane to segment, nuclei or 0
    read_masks: Callable[[], np.ndarray] | None = None  # int32[H, W]; None: unlabelled
    split: str = ""  # "shot", "query", "pretrain", "general_test", "contrast:STYLE", joined by "+"
    style: str | None = None  # contrast style

    @cached_property
    def image(self) -> np.ndarray:
        """The two planes, float32[2, H, W], raw intensities."""
        where, remedy = f"image {self.name}", "Give planes of numbers: to segment, and of nuclei."
        with telling("the image cannot be read", where, remedy, ImageError):
            image = np.ascontiguousarray(self.read_image(), np.float32)
        if image.ndim != 3 or len(image) != 2 or not image.size:
            what = f"an image has the shape (2, H, W), this one {image.shape}"
            raise ImageError(what, where=where, remedy=remedy)
        if not np.isfinite(image).all():
            remedy = "Replace them, for example by the background's value."
            raise ImageError("it holds NaN or infinity", where=where, remedy=remedy)
        if "masks" in self.__dict__:
            check_size(image.shape[1:], self.masks.shape, "its masks", self.name)
        return image

    @cached_property
    def masks(self) -> np.ndarray:
        """Instance masks, int32[H, W]; DatasetError if the sample is unlabelled."""
        if self.read_masks is None:
            remedy = "Annotate it, or leave it out."
            raise DatasetError("the image has no masks", where=self.name, remedy=remedy)
        masks = as_labels(self.read_masks(), self.name)
        if "image" in self.__dict__:
            check_size(self.image.shape[1:], masks.shape, "its masks", self.name)
        return masks

    @cached_property
    def diameter(self) -> float:
        """Of its cells, see `diameter`."""
        return diameter(self.masks)

    def without_masks(self) -> Self:
        """Same image, as an unlabelled sample."""
        return replace(self, read_masks=None)


@dataclass(frozen=True, eq=False)
class Dataset(Sequence[Sample]):
    """Immutable sequence of samples; a slice is a Dataset too."""

    name: str
    title: str
    licence: str
    samples: tuple[Sample, ...]
    channels: tuple[str, str] = ("gray", "none")  # planes of the files that an image's two are

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return replace(self, samples=self.samples[index])
        return self.samples[index]

    def split(self, name: str) -> Self:
        """Samples that serve for `name`; DatasetError if there are none."""
        chosen = tuple(sample for sample in self.samples if name in sample.split.split("+"))
        if name == "shot" and not any(sample.read_masks for sample in self.samples):
            what = f"none of the {len(self)} images of {self.name!r} is annotated"
            remedy = "Annotate a few: NAME_masks.png goes with NAME_img.png (or NAME.png) and "
            remedy += "holds each cell's pixels as its number, 1, 2, .., on 0."
            raise DatasetError(what, remedy=remedy)
        if not chosen:
            there = natsorted({part for s in self.samples for part in s.split.split("+")} - {""})
            remedy = f"It has: {', '.join(there)}." if there else "Its images have no splits."
            raise DatasetError(f"data set {self.name!r} has no images for {name!r}", remedy=remedy)
        return replace(self, samples=chosen)

    @property
    def shot(self) -> Self:
        """Pool from which the labelled shots are drawn."""
        return self.split("shot")

    @property
    def query(self) -> Self:
        """Images to be segmented; their masks are for scoring only."""
        return self.split("query")

    def styles(self) -> dict[str, Self]:
        """Samples of each contrast style, in order of appearance; DatasetError without styles."""
        names = dict.fromkeys(sample.style for sample in self.samples if sample.style)
        if not names:
            remedy = "Give samples a style each, or leave the contrast images to their default."
            raise DatasetError(f"the images {self.name!r} have no styles", remedy=remedy)
        return {n: replace(self, samples=tuple(s for s in self if s.style == n)) for n in names}

    def shots(self, n: int, seed: int = 0) -> Self:
        """Draw `n` shots, the first of a permutation of the pool; DatasetError if it is smaller."""
        pool = self.shot
        if not 1 <= n <= len(pool):
            what = f"{n} shots were asked for, the pool of {self.name!r} holds {len(pool)}"
            raise DatasetError(what, remedy=f"Ask for 1 to {len(pool)}.")
        order = np.random.default_rng(seed).permutation(len(pool))[:n]
        return replace(self, samples=tuple(pool[int(i)] for i in order))

    def without_masks(self) -> Self:
        """Same images, all unlabelled."""
        return replace(self, samples=tuple(sample.without_masks() for sample in self.samples))

    @property
    def diameter(self) -> float:
        """Mean of the samples' diameters, in pixels, images without cells left out; else nan."""
        diameters = [d for d in (sample.diameter for sample in self.samples) if not np.isnan(d)]
        return float(np.mean(diameters)) if diameters else float("nan")


def diameters(areas: np.ndarray) -> np.ndarray:
    """Diameters of discs of these areas."""
    return 2 * np.sqrt(areas / np.pi)


def diameter(masks: np.ndarray) -> float:
    """Median of the diameters, px, of the cells of labels int[H, W] or areas int[n]; else nan."""
    areas = masks if masks.ndim == 1 else np.bincount(masks.ravel())[1:]
    areas = areas[areas > 0]
    return float(np.median(diameters(areas))) if areas.size else float("nan")


def as_labels(
    masks: np.ndarray, where: str | PathLike[str] | None = None, *, largest: int = INT32_MAX
) -> np.ndarray:
    """Whole numbers from 0 to `largest` as int32[H, W], or int64 if need be; else ImageError."""
    masks = np.asarray(masks)
    is_number = masks.dtype.kind in "buif"
    low, high = (f(masks, initial=0).item() if is_number else 0 for f in (np.min, np.max))
    is_whole = is_number and bool((masks == np.round(masks)).all())
    if masks.ndim != 2 or not masks.size or not is_whole or low < 0 or high > largest:
        limit = f" to {largest}" if largest < INT64_MAX else ""
        what = f"masks are whole numbers from 0{limit} of the shape (H, W), these are {masks.dtype}"
        what += f" from {low} to {high} of the shape {masks.shape}"
        remedy = "Label the cells 1, 2, .. on background 0: one plane, not colours or a stack."
        raise ImageError(what, where=where, remedy=remedy)
    return np.ascontiguousarray(masks, np.int32 if high <= INT32_MAX else np.int64)


def check_size(
    size: tuple[int, ...], wanted: tuple[int, ...], whose: str, where: str | PathLike[str]
) -> None:
    """Raise ImageError unless the height and width of an image are those wanted."""
    if size != wanted:
        what = f"the image is of {size[0]} x {size[1]} px, {whose} of {wanted[0]} x {wanted[1]} px"
        remedy = "Get or export the files again: the sizes must agree."
        raise ImageError(what, where=where, remedy=remedy)


def normalise(
    image: np.ndarray, where: str | None = None, *, cells: float | None = None
) -> np.ndarray:
    """Map the 1st to 99th percentile of each plane of float32[2, H, W] to 0..1, without clipping.

    So the paper. With the diameter of the ``cells``, px, the range is up to three times as wide
    where they are few, so that they become 1, as beside larger things that are five times as
    bright. Values are then clipped to -1..3, as hot pixels confuse a network; any unit will do.

    A plane without a range becomes zeros (the released code divides by it). If it is the plane to
    segment, both do, with a warning if the image is named (`where`).
    """
    normalised = np.zeros(image.shape, np.float32)
    for plane, out in zip(image, normalised, strict=True):
        low, high = np.percentile(plane, (1, 99))
        least, limits = MINIMAL_RANGE, (-np.inf, np.inf)
        if cells is not None:
            high = _find_white(plane, cells, low, high)
            least, limits = 1e-6 * max(high, -low), (-1, 3)  # of what float32 can tell apart
        if high - low > least:
            out[:] = np.clip((plane - low) / (high - low), *limits)
    if normalised[0].any():
        return normalised
    if where is not None:
        text = f"{where}: next to no contrast, treated as empty. If it has cells, save it brighter."
        warnings.warn(text, stacklevel=2)
    return np.zeros_like(normalised)  # nuclei alone are not to be segmented


def _find_white(plane: np.ndarray, diameter: float, low: float, high: float) -> float:
    """Brightness that becomes 1. Cells are the spots of their size that stand out most."""
    side = min(8.0, diameter)
    small = resize(cv2.medianBlur(plane, 3)[None], side / diameter)[0]
    small, wide = (cv2.GaussianBlur(small, (0, 0), share * side) for share in (1 / 6, 3 / 4))
    raised = small - wide
    noise = 1.4826 * np.median(np.abs(raised - np.median(raised)))
    tops = peak_local_max(raised, max(int(side / 2), 1), 5 * noise, exclude_border=False)
    limit = -np.inf
    while len(tops):
        at = tuple(tops.T)
        chosen = raised[at] >= threshold_otsu(raised[at])
        shapes = label(raised > np.median(raised[at][chosen]) / 2)
        large = chosen & (np.bincount(shapes[shapes > 0])[shapes[at]] > 2 * side**2)
        if not large.any():
            white = float(np.median(small[at][chosen]))
            widest = low + 3 * (high - low) if high > low else white
            return white if white < limit else max(high, min(white, widest))
        tops, limit = tops[~large], low + (high - low) / 5
    return high


def resize(image: np.ndarray, scale: float | tuple[int, int]) -> np.ndarray:
    """Resize float32[C, H, W] by a factor or to a (height, width); to under half by averages."""
    shape = image.shape[1:]
    wanted = scale if isinstance(scale, tuple) else tuple(max(1, round(n * scale)) for n in shape)
    if wanted == shape:
        return image
    method = cv2.INTER_AREA if wanted[0] < 0.5 * shape[0] else cv2.INTER_LINEAR
    planes = [cv2.resize(plane, wanted[::-1], interpolation=method) for plane in image]
    return np.stack(planes).astype(np.float32, copy=False)


def resize_masks(masks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize labels int32[H, W] to the nearest pixel's; a cell may vanish when shrunk."""
    # OpenCV's plain nearest neighbour shifts by up to half a pixel against `resize`.
    return cv2.resize(masks, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

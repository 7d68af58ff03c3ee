"""Raw archives, as their publishers lay them out, to images and instance masks.

A converter takes the unpacked files and a ``source``, which is where in them to look, and gives
one `Picture` for each image that it finds there, in natural order of their names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from natsort import natsorted
from skimage.draw import polygon

from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.files import images as readers
from scellseg_lib.files.layout import SUFFIXES
from scellseg_lib.samples import as_labels

_AGAIN = "Get the raw files from their publisher again; these are damaged or of another version."


class Picture(NamedTuple):
    """An image as stored, uint8 or uint16 [H, W] or [H, W, 3], and its masks, uint16[H, W]."""

    name: str
    image: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class RawFiles:
    """The files under a folder, listed once."""

    folder: Path
    names: tuple[str, ...]

    @classmethod
    def under(cls, folder: Path) -> RawFiles:
        """List `folder` and all below it, without what macOS adds to archives."""
        found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        kept = (n for n in found if "__MACOSX/" not in n and not Path(n).name.startswith("._"))
        return cls(folder, tuple(natsorted(kept)))

    def find(self, pattern: str) -> list[Path]:
        """Files whose path ends in a shell pattern (``*`` crosses folders), in natural order.

        Raises
        ------
        DatasetError
            If there is none: the archive is not what the converter expects.
        """
        found = [self.folder / n for n in self.names if fnmatchcase("/" + n, f"*/{pattern}")]
        if not found:
            raise DatasetError(
                f"there is no file {pattern!r} among the {len(self.names)} raw files",
                where=self.folder,
                remedy="Check that these are the archives that the manifest names.",
            )
        return found


def bbbc010(raw: RawFiles, source: str) -> Iterator[Picture]:
    """BBBC010: the bright-field TIFF of a well, one mask file per worm.

    Labels run by decreasing area. Where worms cross, the pixels go to the smaller one.

    Parameters
    ----------
    raw : RawFiles
        Of ``BBBC010_v2_images.zip`` and ``BBBC010_v1_foreground_eachworm.zip``.
    source : str
        A well such as ``"B05"``, or a pattern of wells.
    """
    for path in raw.find(f"*_{source}_w2_*.tif"):
        # The well stands before w2, which is the bright field; w1 is the fluorescence.
        well = path.name.partition("_w2_")[0].rpartition("_")[2]
        image = readers.read_pixels(path)
        worms = [_layer(p, image) for p in raw.find(f"{well}_*_ground_truth.png")]
        worms.sort(key=np.count_nonzero, reverse=True)
        yield Picture(well, image, paint(worms, image.shape[:2]))


def dsb2018(raw: RawFiles, source: str) -> Iterator[Picture]:
    """2018 Data Science Bowl: ``ID/images/ID.png`` and one mask file per nucleus beside it.

    Labels follow the mask files' names. Images whose three planes are equal are kept as one.

    Parameters
    ----------
    raw : RawFiles
        Of a repository or archive that holds ``stage1_train``.
    source : str
        An image's identifier, or a pattern of them.
    """
    for path in raw.find(f"stage1_train/{source}/images/*.png"):
        image = readers.read_pixels(path)
        if image.ndim == 3 and (image == image[..., :1]).all():
            image = np.ascontiguousarray(image[..., 0])
        # Plain order, not natural: the names are hexadecimal.
        files = sorted(raw.find(f"stage1_train/{path.stem}/masks/*.png"))
        nuclei = [_layer(file, image) for file in files]
        yield Picture(path.stem, image, paint(nuclei, image.shape[:2]))


def livecell(raw: RawFiles, source: str) -> Iterator[Picture]:
    """LIVECell: COCO JSON with polygons or run lengths, images by their file names.

    Labels follow the annotations. Where cells overlap, the pixels go to the smaller one.

    Parameters
    ----------
    raw : RawFiles
        Of the image archive and the JSON files.
    source : str
        The JSON file. Its images that are listed but absent are an error.
    """
    (path,) = raw.find(source)[:1]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # A list in COCO, keyed by id in LIVECell's single-cell files.
        notes = content["annotations"]
        segments: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
        for note in notes.values() if isinstance(notes, dict) else notes:
            if not note.get("iscrowd"):
                segments[note["image_id"]].append(note["segmentation"])
        names = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"this is not COCO JSON ({error!r})", where=path, remedy=_AGAIN
        ) from error
    for number in natsorted(names, key=names.__getitem__):
        image = readers.read_pixels(raw.find(names[number])[0])
        shape = image.shape[:2]
        cells = [rasterise(segment, shape) for segment in segments[number]]
        yield Picture(Path(names[number]).stem, image, paint(cells, shape))


def cellpose(raw: RawFiles, source: str) -> Iterator[Picture]:
    """Cellpose layout: ``NAME_img.png`` and ``NAME_masks.png`` (or TIFF).

    Parameters
    ----------
    raw : RawFiles
        Of an archive in this layout.
    source : str
        Folder and name or pattern of names, such as ``"train/*"`` or ``"neurocyte/010"``.
    """
    for path in raw.find(f"{source}_img.*"):
        name = path.stem.removesuffix("_img")
        masks = [path.with_name(f"{name}_masks{suffix}") for suffix in SUFFIXES]
        labels = readers.read_masks(next((m for m in masks if m.is_file()), masks[0]))
        yield Picture(name, readers.read_pixels(path), _as_uint16(labels, path))


Converter = Callable[[RawFiles, str], Iterator[Picture]]
CONVERTERS = {"bbbc010": bbbc010, "dsb2018": dsb2018, "livecell": livecell, "cellpose": cellpose}
"""By the names that manifests use."""


def paint(cells: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """One label image of cells that may overlap: overlaps go to the smaller cell.

    Parameters
    ----------
    cells : sequence of bool[H, W]
        Cell k gets the label k + 1.
    shape : (int, int)
        Height and width.

    Returns
    -------
    uint16[H, W]
    """
    labels = np.zeros(shape, np.int64)
    for k in sorted(range(len(cells)), key=lambda k: -np.count_nonzero(cells[k])):
        labels[cells[k]] = k + 1
    return _as_uint16(labels)


def rasterise(segment: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels of a COCO segmentation.

    Parameters
    ----------
    segment : list or dict
        Polygons (x, y, x, y, ... with pixel (0, 0) spanning 0 to 1; the pixels whose centre is
        inside are taken), or run lengths: ``{"size": [H, W], "counts": list or str}``.
    shape : (int, int)
        Height and width.

    Returns
    -------
    bool[H, W]

    Raises
    ------
    DatasetError
        If run lengths do not fill the image.
    """
    mask = np.zeros(shape, bool)
    if isinstance(segment, list):
        for points in segment:
            x, y = np.asarray(points, float).reshape(-1, 2).T - 0.5
            mask[polygon(y, x, shape)] = True
        return mask
    counts = segment["counts"]
    runs = counts if isinstance(counts, list) else _decode_counts(counts)
    if tuple(segment["size"]) != tuple(shape) or sum(runs) != mask.size or min(runs) < 0:
        what = f"run lengths for {segment['size']} do not fill an image of {shape}"
        raise DatasetError(what, remedy=_AGAIN)
    # The first run is outside the cell; COCO runs down the columns.
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape[::-1]).T


def _decode_counts(text: str) -> list[int]:
    """Run lengths of a compressed COCO string.

    Each number takes five bits a character from the lowest, bit 5 says that more follow, and the
    last bit is the sign; from the fourth on, it is the difference to the number two before.
    """
    runs: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in text):
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def write_picture(picture: Picture, image_path: Path, masks_path: Path) -> None:
    """Store image and masks as PNG.

    Raises
    ------
    ImageError
        If the image is not one that a PNG holds whole (uint8 or uint16, one plane or three), or
        not of the size of its masks.
    """
    image, size = picture.image, picture.masks.shape
    if image.dtype not in (np.uint8, np.uint16) or image.shape not in (size, (*size, 3)):
        raise ImageError(
            f"the image is {image.dtype}{list(image.shape)}, its masks are {list(size)}; a PNG "
            "holds uint8 or uint16 with one plane or three, of the size of the masks",
            where=picture.name,
            remedy="Convert the image first.",
        )
    image_path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image)))
    masks_path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(picture.masks)))


def _layer(path: Path, image: np.ndarray) -> np.ndarray:
    """The pixels of one cell's mask file, bool[H, W]."""
    pixels = readers.read_pixels(path)
    layer: np.ndarray = pixels.reshape(*pixels.shape[:2], -1).max(axis=2) > 0
    if layer.shape != image.shape[:2]:
        what = f"the mask is {layer.shape}, its image {image.shape[:2]}"
        raise ImageError(what, where=path, remedy=_AGAIN)
    return layer


def _as_uint16(labels: np.ndarray, where: Path | None = None) -> np.ndarray:
    """The same labels as a 16-bit PNG holds them, if they fit."""
    return as_labels(labels, where, largest=2**16 - 1).astype(np.uint16)

"""Where the files of an experiment are: the one module that knows their names.

An experiment is a folder of images, in ``shot/`` (annotated) and ``query/`` (to be segmented) as
Scellseg has them, or all in one folder as Cellpose has them::

    NAME_img.tif or NAME.tif      an image (.png and .jpg too)
    NAME_masks.tif                its masks; Cellpose's are NAME_cp_masks.* or NAME_seg.npy
    NAME_cells.csv, classes.csv   the list of its cells with their classes and notes; all classes
    NAME_region.json              the rectangle of it that is annotated, where that is not all
    .NAME_masks.tif.edits         edits of the masks that were never saved
    MODEL.safetensors             a tuned model; MODEL.checkpoint and MODEL.checkpoint.json while it
                                  is being learnt
    rounds.csv, learning_curve.csv, channels.json   scores, and the channels that models see
    segmented/                    masks that a model gave, and segmented.json, which says how
    corrected/, exported/         the same masks corrected by hand, and files for other programs
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from natsort import natsorted

from scellseg_lib.errors import DatasetError, ScellsegWarning

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")  # of what is taken for an image
UNREAD = "czi zvi nd2 lif lof lsm oib oif oir vsi ims svs ndpi scn mrxs dv r3d stk zarr n5 h5 hdf5 "
UNREAD += "ilp mrc ics nrrd dcm jp2 bmp gif webp heic"  # in what other programs save images
CONVERT = "Save it as OME-TIFF, for example by Fiji, whose Bio-Formats reads most formats."
PICTURES = "cp_output|cp_outlines|outlines|cp_flows|flows|dP|cp_cellprob|overlay"  # of an image
SHOT, QUERY, SEGMENTED, CORRECTED, EXPORTED = "shot", "query", "segmented", "corrected", "exported"
CLASSES, ROUNDS, CURVE = "classes.csv", "rounds.csv", "learning_curve.csv"
RECORD, HASHES, CHANNELS = "segmented.json", ".hashes", "channels.json"
MASKS, CELLS, REGION, OVERLAY = "_masks", "_cells.csv", "_region.json", "_overlay.png"
MODEL, CHECKPOINT, RUN, EDITS = ".safetensors", ".checkpoint", ".checkpoint.json", ".edits"


@dataclass(frozen=True)
class ImageFiles:
    """An image with the files that belong to it."""

    name: str  # without ``_img`` and ending
    image: Path
    masks: Path | None  # those that are there: ours, or those that Cellpose has saved
    split: str  # "shot" with masks to learn from, "query" to be segmented

    @property
    def own_masks(self) -> Path:
        """Where masks are saved: what is there if it is ours, else ``NAME_masks.tif``."""
        if self.masks and parse_name(self.masks.name)[0] == "masks":
            return self.masks
        return self.image.with_name(f"{self.name}{MASKS}.tif")


def find_samples(folder: Path) -> list[ImageFiles]:
    """Images and masks to learn from and to segment, as of `list_images`, with nothing left open.

    DatasetError without images, or where an image in ``shot/`` or masks lack their partner, or two
    files of one kind have the same name.
    """
    for place in (folder / part for part in _parts(folder)):
        images, masks = _single(_Files(place).images), _single(_Files(place).masks)
        wrong, remedy = "masks without an image", "The masks of NAME_img.png are NAME_masks.png."
        lost = [path.name for name, path in masks.items() if name not in images]
        if not lost and place == folder / SHOT:
            wrong, remedy = "images without masks", "Annotate them, or move them to query/."
            lost = [path.name for name, path in images.items() if name not in masks]
        if lost:
            raise DatasetError(f"{wrong}: {', '.join(lost)}", where=place, remedy=remedy)
    return list_images(folder)


def list_images(folder: Path) -> list[ImageFiles]:
    """Every image with the best masks it has; nothing need be complete, but for some images.

    Best are ``NAME_masks.*``, then ``NAME_cp_masks.*``, then ``NAME_seg.npy``. Without ``shot/``
    and ``query/``, images with masks are the split "shot", the others "query".
    """
    return [
        ImageFiles(name, image, masks, part or (SHOT if masks else QUERY))
        for part, files in _read_parts(folder)
        for name, (image, *_) in files.images.items()
        for masks in files.masks.get(name, [None])[:1]
    ]


def find_images(folder: Path) -> list[tuple[str, list[Path]]]:
    """Images by name, as of `list_images`; several files where their names say the same."""
    return [item for _, files in _read_parts(folder) for item in files.images.items()]


def place_shot(folder: Path, image: Path) -> tuple[Path, Path]:
    """Where an image and its masks are, or would be, among the annotated ones of an experiment."""
    # A new shot/ would hide images that lie beside it.
    home = folder if _parts(folder) == [""] and _Files(folder).images else folder / SHOT
    files, name = _Files(home), image_name(image)
    copy = _single(files.images).get(name, home / image.name)
    return copy, ImageFiles(name, copy, _single(files.masks).get(name), SHOT).own_masks


def find_labels(place: Path) -> dict[str, Path]:
    """Best label file of each name, or the one that `place` is; images if none is called masks."""
    if not place.is_dir():
        return {image_name(place): place}
    files = _Files(place)
    return _single(files.masks or files.images)


def results_path(source: Path) -> Path:
    """Where masks of a file or folder usually go."""
    return (source if source.is_dir() else source.parent) / SEGMENTED


def cells_path(masks: Path) -> Path:
    """List of the cells of a label file, whether it is there or not."""
    return masks.with_name(image_name(masks) + CELLS)


def region_path(file: Path) -> Path:
    """Rectangle that is annotated of an image, by its own file or one beside it; there or not."""
    return file.with_name(image_name(file) + REGION)


def parse_name(file_name: str) -> tuple[str, str]:
    """Kind (image, img, masks, cp_masks, seg, cells or "") and image of a file by its name."""
    stem, ending = Path(file_name).stem.removesuffix(".ome"), Path(file_name).suffix.lower()
    kinds = {".npy": "seg", ".csv": "cells"}
    kinds |= dict.fromkeys(SUFFIXES, f"img|cp_masks|masks|{PICTURES}")
    pattern = f"(.+?)(?:_img|[.]ome)*_({kinds.get(ending)})"
    if ending in kinds and (match := re.fullmatch(pattern, stem, re.DOTALL)):
        return "" if match[2] in PICTURES.split("|") else match[2], match[1]
    return ("image" if ending in SUFFIXES else "", stem)


def image_name(file: Path) -> str:
    """Name of the image that a file is or belongs to."""
    return parse_name(file.name)[1]


class _Files:
    """Images and masks of one folder by the names of their images, in natural order."""

    def __init__(self, folder: Path) -> None:
        found: dict[str, dict[str, list[Path]]] = {}
        for path in natsorted(folder.iterdir() if folder.is_dir() else (), key=lambda p: p.name):
            kind, name = parse_name(path.name)
            if not path.name.startswith("."):
                found.setdefault(kind, {}).setdefault(name, []).append(path)
        img, image = found.get("img", {}), found.get("image", {})
        names = natsorted(img.keys() | image.keys())
        self.images = {name: img.get(name, []) + image.get(name, []) for name in names}
        self.masks = found.get("seg", {}) | found.get("cp_masks", {}) | found.get("masks", {})
        rest = [(name, path) for name, files in found.get("", {}).items() for path in files]
        self.unread = [path.name for _, path in rest if path.suffix.lower()[1:] in UNREAD.split()]
        self.unread += [p.name for k, p in rest if k not in names and p.suffix.lower() in SUFFIXES]


def _parts(folder: Path) -> list[str]:
    return [part for part in (SHOT, QUERY) if (folder / part).is_dir()] or [""]


def _read_parts(folder: Path) -> list[tuple[str, _Files]]:
    """Files of ``shot/`` and ``query/``, or of the folder itself as the part ""; some images."""
    if not folder.is_dir():
        remedy = "Check how it is written; on a server it is a folder of the server."
        raise DatasetError("there is no such folder", where=folder, remedy=remedy)
    parts = [(part, _Files(folder / part)) for part in _parts(folder)]
    unread = ", ".join(name for _, files in parts for name in files.unread)
    what = f"files that are not read, by their format or name: {unread}"
    if not any(files.images for _, files in parts):
        usual = "Name them NAME_img.png (or .tif, .jpg), in it or in its shot/ and query/."
        what = f"there are no images{f', but {what}' if unread else ''}"
        raise DatasetError(what, where=folder, remedy=CONVERT if unread else usual)
    if unread:
        warnings.warn(ScellsegWarning(what, where=folder, remedy=CONVERT), stacklevel=3)
    return parts


def only(files: list[Path], where: Path | None = None) -> Path:
    """File of a name; DatasetError where there are several."""
    if len(files) > 1:
        what = f"files of the same name: {', '.join(file.name for file in files)}"
        raise DatasetError(what, where=where, remedy="Keep one of them.")
    return files[0]


def _single(found: dict[str, list[Path]]) -> dict[str, Path]:
    return {name: only(files, files[0].parent) for name, files in found.items()}

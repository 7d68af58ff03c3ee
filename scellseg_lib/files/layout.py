"""Which files of a folder are images, which their masks, and what they serve for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from natsort import natsorted

from scellseg_lib.errors import DatasetError
from scellseg_lib.files.images import SUFFIXES


class FoundSample(NamedTuple):
    """An image file, its masks where there are any, and its split."""

    name: str
    image: Path
    masks: Path | None
    split: str


def find_samples(folder: Path) -> list[FoundSample]:
    """Images and masks in the Scellseg or the Cellpose layout, in natural order of their names.

    *Scellseg*: ``shot/`` with ``NAME_img.*`` and ``NAME_masks.*``, and ``query/`` with
    ``NAME_img.*``, and masks where there are any. *Cellpose*: all in one folder; images with masks
    become the split ``shot``, the others ``query``; where there are no other masks, Cellpose's
    ``NAME_cp_masks.*`` count, or else its ``NAME_seg.npy`` (``NAME_img_seg.npy`` of
    ``NAME_img.*``). Where no file is called ``*_img.*``, every image in the folder counts, its
    masks being ``NAME_masks.*``. Other files are left alone.

    Raises
    ------
    DatasetError
        If there are no images, images in ``shot/`` lack masks, masks lack their image, or two
        files have the same name but for their ending.
    """
    if not folder.is_dir():
        raise DatasetError("there is no such folder", where=folder, remedy="Check the path.")
    found = [sample for part in _parts(folder) for sample in _pair(folder / part, part)]
    bare = [sample.image.name for sample in found if sample.split == "shot" and not sample.masks]
    if bare:
        raise DatasetError(
            f"images without masks: {', '.join(bare)}",
            where=folder / "shot",
            remedy="Annotate them (NAME_masks.png), or move them to query/.",
        )
    if not found:
        raise _no_images(folder)
    return found


def find_images(folder: Path) -> list[tuple[str, list[Path]]]:
    """Images alone, whatever masks there are, in the layouts and the order of `find_samples`.

    Returns
    -------
    list of (name, files)
        Several files where they have the same name but for their ending.

    Raises
    ------
    DatasetError
        If there are no images.
    """
    found = [item for part in _parts(folder) for item in _images(folder / part).items()]
    if not found:
        raise _no_images(folder)
    return found


def _no_images(folder: Path) -> DatasetError:
    return DatasetError(
        "there are no images",
        where=folder,
        remedy="Name them NAME_img.png (or .tif, .jpg), in it or in its shot/ and query/.",
    )


def _parts(folder: Path) -> list[str]:
    return [part for part in ("shot", "query") if (folder / part).is_dir()] or [""]


def _images(folder: Path) -> dict[str, list[Path]]:
    return _grouped(folder, "(.*)_img") or _grouped(folder, "(.*)(?<!_masks|_flows)")


def _pair(folder: Path, split: str) -> list[FoundSample]:
    """Images of one folder with their masks; without a `split`, the masks decide on it."""
    masks = next((found for found in _masks(folder) if found), {})
    images = _single(_images(folder))
    orphans = [path.name for name, path in masks.items() if name not in images]
    if orphans:
        raise DatasetError(
            f"masks without an image: {', '.join(orphans)}",
            where=folder,
            remedy="The masks of NAME_img.png are NAME_masks.png.",
        )
    return [
        FoundSample(name, path, masks.get(name), split or ("shot" if name in masks else "query"))
        for name, path in images.items()
    ]


def _masks(folder: Path) -> Iterator[dict[str, Path]]:
    """Mask files by the names of their images: ours, those of Cellpose, and its ``_seg.npy``."""
    yield files_by_name(folder, "(.*)(?<!_cp)_masks")
    yield files_by_name(folder, "(.*)_cp_masks")
    yield _single(_grouped(folder, r"(.*?)(?:_img|\.ome)?_seg", (".npy",)))


def label_files(place: Path) -> dict[str, Path]:
    """Label files by name, or the one that `place` is.

    Where some are called ``*_masks`` or ``*_seg.npy``, the others are images. Of one name,
    ``NAME_masks.*`` comes before ``NAME_cp_masks.*``, and this before ``NAME_seg.npy``.
    """
    if not place.is_dir():
        return {label_name(place): place}
    ours, saved, seg = _masks(place)
    return seg | saved | ours or files_by_name(place, "(.*)")


def label_name(file: Path) -> str:
    """Name of the image that a label file belongs to."""
    kind = r"(_img|\.ome)?_seg" if file.suffix == ".npy" else "(_cp)?_masks"
    return re.sub(f"{kind}$", "", plain_name(file))


def files_by_name(folder: Path, pattern: str) -> dict[str, Path]:
    """Image files of a folder by the names of their samples, in natural order of the files.

    Parameters
    ----------
    folder : Path
        Hidden files in it are left alone.
    pattern : str
        Regular expression for the whole `plain_name` of the files that count; its group is the
        name of the sample.

    Raises
    ------
    DatasetError
        If two files have the same name.
    """
    return _single(_grouped(folder, pattern))


def _grouped(folder: Path, pattern: str, ends: tuple[str, ...] = SUFFIXES) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in natsorted(folder.iterdir(), key=lambda path: path.name):
        match = re.fullmatch(pattern, plain_name(path), re.DOTALL)
        if match and path.suffix.lower() in ends and not path.name.startswith("."):
            found.setdefault(match[1], []).append(path)
    return found


def _single(found: dict[str, list[Path]]) -> dict[str, Path]:
    twice = [path for files in found.values() for path in files if len(files) > 1]
    if twice:
        raise DatasetError(
            f"files of the same name: {', '.join(path.name for path in twice)}",
            where=twice[0].parent,
            remedy="Keep one of each.",
        )
    return {name: path for name, (path,) in found.items()}


def plain_name(path: Path) -> str:
    """File name without its ending, of which .ome.tif is one."""
    return path.stem.removesuffix(".ome")

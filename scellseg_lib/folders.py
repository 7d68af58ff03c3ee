"""Which files of a folder are images, which their masks, and what they serve for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from natsort import natsorted

from scellseg_lib.errors import DatasetError
from scellseg_lib.readers import SUFFIXES


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
    become the split ``shot``, the others ``query``. Where no file is called ``*_img.*``, every
    image in the folder counts, its masks being ``NAME_masks.*``. Other files are left alone.

    Raises
    ------
    DatasetError
        If there are no images, images in ``shot/`` lack masks, masks lack their image, or two
        files have the same name but for their ending.
    """
    if not folder.is_dir():
        raise DatasetError("there is no such folder", where=folder)
    parts = [name for name in ("shot", "query") if (folder / name).is_dir()]
    found = [sample for name in parts for sample in _pair(folder / name, name)]
    if not parts:
        found = _pair(folder, None)
    bare = [sample.image.name for sample in found if sample.split == "shot" and not sample.masks]
    if bare:
        raise DatasetError(
            f"images without masks: {', '.join(bare)}",
            where=folder / "shot",
            remedy="Annotate them (NAME_masks.png), or move them to query/.",
        )
    if not found:
        raise DatasetError(
            "there are no images",
            where=folder,
            remedy="Name them NAME_img.png (or .tif, .jpg), in it or in its shot/ and query/.",
        )
    return found


def _pair(folder: Path, split: str | None) -> list[FoundSample]:
    """Images of one folder with their masks; without a `split`, the masks decide on it."""
    files = [
        path
        for path in natsorted(folder.iterdir(), key=lambda path: path.name)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    images = [path for path in files if _plain(path).endswith("_img")]
    images = images or [path for path in files if not _plain(path).endswith(("_masks", "_flows"))]
    by_name = _by_name(images, folder)
    masks = _by_name([path for path in files if _plain(path).endswith("_masks")], folder)
    orphans = [path.name for name, path in masks.items() if name not in by_name]
    if orphans:
        raise DatasetError(
            f"masks without an image: {', '.join(orphans)}",
            where=folder,
            remedy="The masks of NAME_img.png are NAME_masks.png.",
        )
    return [
        FoundSample(name, path, masks.get(name), split or ("shot" if name in masks else "query"))
        for name, path in by_name.items()
    ]


def _by_name(files: list[Path], folder: Path) -> dict[str, Path]:
    """Files by the name of their sample, each of which may occur once."""
    names = [_plain(path).removesuffix("_img").removesuffix("_masks") for path in files]
    twice = [path.name for path, name in zip(files, names, strict=True) if names.count(name) > 1]
    if twice:
        raise DatasetError(
            f"files of the same name: {', '.join(twice)}", where=folder, remedy="Keep one of each."
        )
    return dict(zip(names, files, strict=True))


def _plain(path: Path) -> str:
    """File name without its ending, of which .ome.tif is one."""
    return path.stem.removesuffix(".ome")

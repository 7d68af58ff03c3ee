"""Data sets from a manifest, a folder or the embedded images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from scellseg_lib.datasets import manifest, synthetic
from scellseg_lib.errors import DatasetError, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.files import layout as folders
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset, Sample, check_size, normalise, resize, resize_masks

__all__ = [
    "Dataset",
    "Sample",
    "load_dataset",
    "load_folder",
    "load_pretraining_subset",
    "names",
    "normalise",
    "readable",
    "resize",
    "resize_masks",
]

SUBSET = 80
"""Synthetic images that subsets are taken from, eight of each kind: no fewer can pre-train."""


def names() -> list[str]:
    """Names of all data sets: those with a manifest, and the synthetic ones."""
    return [*manifest.names(), *synthetic.NAMES]


def load_dataset(
    name_or_folder: str | Path,
    *,
    channels: tuple[str, str] | None = None,
    axes: str | None = None,
    page: int | None = None,
) -> Dataset:
    """Load a data set by name, or from a folder.

    Only the list of files is read here; images are read when they are used.

    Parameters
    ----------
    name_or_folder : str or Path
        Name of a manifest, ``"synthetic"`` or another name of `synthetic.dataset`, or a folder
        (see `load_folder`); a folder of such a name is meant by ``"./NAME"`` or a Path.
    channels, axes, page : optional
        See `load_folder`; for folders only.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        If there is neither such a name nor such a folder, files of the data set are absent, or
        channels, axes or a page are given for a named one.
    """
    if Path(name_or_folder).is_dir() and name_or_folder not in names():
        return load_folder(name_or_folder, channels, axes=axes, page=page)
    if name_or_folder not in names():
        raise DatasetError(
            f"{str(name_or_folder)!r} is neither a data set nor a folder",
            remedy=f"Check the path. Data sets: {', '.join(names())}.",
        )
    if (channels, axes, page) != (None, None, None):
        raise DatasetError(
            f"the data set {name_or_folder!r} says itself which planes to read",
            remedy="Leave channels, axes and page out, or give the folder of its files.",
        )
    if name_or_folder in synthetic.NAMES:
        return synthetic.dataset(str(name_or_folder))
    return _load_manifest_set(str(name_or_folder))


def load_pretraining_subset(name: str) -> list[Dataset]:
    """Images of one of the nested pre-training subsets, as one Dataset for each source.

    `name` is a key of `manifest.pretraining_subsets`, such as ``"general"``; DatasetError if there
    is no such subset, or files are absent.
    """
    subsets = manifest.pretraining_subsets()
    if name not in subsets:
        raise DatasetError(
            f"no pre-training subset is called {name!r}", remedy=f"There are: {', '.join(subsets)}."
        )
    sources: dict[str, list[manifest.SubsetPart]] = {}
    for part in subsets[name]:
        sources.setdefault(part.dataset, []).append(part)
    return [
        synthetic.dataset(source, n_pretrain=SUBSET, kinds=[p.kind for p in parts if p.kind])
        if source in synthetic.NAMES
        else _load_manifest_set(source, tuple(parts))
        for source, parts in sources.items()
    ]


def readable(data: Dataset, *, masks: bool = False) -> tuple[Dataset, list[str]]:
    """Images of a set that can be read, with their masks where asked for, and what is wrong with
    each of the others.
    """
    kept, wrong = [], []
    for sample in progress_bar(data, len(data), "check"):
        copy = replace(sample)  # its pixels go with it
        try:
            _ = (copy.image, copy.masks) if masks else copy.image
        except (ScellsegError, OSError) as error:
            wrong.append(str(error))
        else:
            kept.append(sample)
    return replace(data, samples=tuple(kept)), wrong


def _load_manifest_set(name: str, parts: tuple[manifest.SubsetPart, ...] = ()) -> Dataset:
    """Samples of a manifest in its order; only those that one of `parts` includes, if given."""
    card = manifest.load_manifest(name)
    folder = card.folder
    entries = [e for e in card.entries() if not parts or any(p.includes(e) for p in parts)]
    absent = [f for e in entries for f in (e.image, e.masks) if not (folder / f).is_file()]
    if absent or not entries:
        count = f"{len(absent)} of its files ({absent[0]}, ...)" if entries else "all its files"
        raise DatasetError(
            f"data set {name!r} lacks {count}",
            where=folder,
            remedy=f"Get it with `scellseg data fetch {name}`, or set SCELLSEG_DATA to the folder "
            f"that holds {name}/.",
        )
    samples = tuple(
        Sample(
            entry.name,
            partial(_read_listed, folder / entry.image, card.channels, entry.shape),
            partial(readers.read_masks, folder / entry.masks),
            "+".join(entry.splits),
            entry.style,
        )
        for entry in entries
    )
    return Dataset(name, card.title, card.licence, samples, card.channels)


def _read_listed(
    path: Path, channels: tuple[str, str], shape: tuple[int, ...] | None
) -> np.ndarray:
    """Read an image that a manifest lists, which must be of the size that it says."""
    image = readers.read_image(path, channels=channels)
    if shape is not None:
        check_size(image, shape[:2], "the manifest", path)
    return image


def load_folder(
    folder: str | Path,
    channels: tuple[str, str] | None = None,
    *,
    axes: str | None = None,
    page: int | None = None,
) -> Dataset:
    """Load a folder of images and masks, in natural order of their names.

    The layouts and which files count are described in `folders.find_samples`.

    Parameters
    ----------
    folder : str or Path
    channels : (str, str), optional
        The plane to segment and the nucleus plane, see `readers.select_planes`, which refuses
        images of several channels when none is named.
    axes : str, optional
        Meaning of the axes of the TIFF images where they do not say so, see `readers.read_pixels`.
    page : int, optional
        The one page of each TIFF to read, from 0.

    Returns
    -------
    Dataset
        Its images are read, and refused, when they are used.

    Raises
    ------
    DatasetError
        As `folders.find_samples`.
    """
    folder = Path(folder).resolve()
    read = partial(readers.read_image, channels=channels, axes=axes, page=page)
    samples = tuple(
        Sample(
            found.name,
            partial(read, found.image),
            None if found.masks is None else partial(readers.read_masks, found.masks),
            found.split,
        )
        for found in folders.find_samples(folder)
    )
    return Dataset(folder.name, folder.name, "", samples, channels or ("gray", "none"))

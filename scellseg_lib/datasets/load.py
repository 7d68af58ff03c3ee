"""Data sets from a manifest, a folder, or made in memory."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, NonNegativeInt, PositiveInt
from skimage.segmentation import relabel_sequential

from scellseg_lib.datasets import manifest, synthetic
from scellseg_lib.datasets.manifest import SubsetPart, list_manifests, load_manifest, load_subsets
from scellseg_lib.errors import DatasetError, ImageError, ScellsegError, telling
from scellseg_lib.files.images import read_image, read_labels, read_masks
from scellseg_lib.files.layout import SHOT, ImageFiles, find_labels, find_samples, region_path
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset, Sample, check_size

SUBSET = 80  # synthetic images that subsets are taken from: with fewer one cannot pre-train
Reader = Callable[[], np.ndarray]


class DatasetNotHere(DatasetError):
    """Files of a ``dataset`` that has a manifest are not on this machine."""

    dataset: str


def list_datasets() -> list[str]:
    """List the names of all data sets: those with a manifest, and the synthetic ones."""
    return [*list_manifests(), *synthetic.NAMES]


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
        One of `list_datasets`, or a folder (see `load_folder`). A folder that has the name of a
        data set is meant by ``"./NAME"`` or a Path.
    channels, axes, page : optional
        See `load_folder`; for folders only.

    Raises
    ------
    DatasetError
        If there is neither such a name nor such a folder, or channels, axes or a page are given
        for a name; DatasetNotHere if files of a named one are absent.
    """
    named = name_or_folder in list_datasets()
    if not named and Path(name_or_folder).is_dir():
        return load_folder(name_or_folder, channels, axes=axes, page=page)
    if not named:
        remedy = f"Check the path. Data sets: {', '.join(list_datasets())}."
        what = f"{str(name_or_folder)!r} is neither a data set nor a folder"
        raise DatasetError(what, remedy=remedy)
    if (channels, axes, page) != (None, None, None):
        remedy = "Leave channels, axes and page out, or give the folder of its files."
        what = f"the data set {name_or_folder!r} says itself which planes to read"
        raise DatasetError(what, remedy=remedy)
    if name_or_folder in synthetic.NAMES:
        return synthetic.make_dataset(str(name_or_folder))
    return _load_named(str(name_or_folder))


def load_pretraining_subset(name: str) -> list[Dataset]:
    """Load one of `load_subsets`, such as ``"general"``: a Dataset for each source."""
    subsets = load_subsets()
    if name not in subsets:
        remedy = f"There are: {', '.join(subsets)}."
        raise DatasetError(f"no pre-training subset is called {name!r}", remedy=remedy)
    sources: dict[str, list[SubsetPart]] = {}
    for part in subsets[name]:
        sources.setdefault(part.dataset, []).append(part)
    return [
        synthetic.make_dataset(source, n_pretrain=SUBSET, kinds=[p.kind for p in parts if p.kind])
        if source in synthetic.NAMES
        else _load_named(source, parts)
        for source, parts in sources.items()
    ]


def load_folder(
    folder: str | Path, channels: tuple[str, str] | None = None, **reading: Any
) -> Dataset:
    """Load images and masks in natural order, see `layout.find_samples`, `images.read_image`.

    Of a shot that is annotated in part, see `read_region`, that part is the image.
    """
    folder = Path(folder).resolve()

    def make(found: ImageFiles) -> Sample:
        image: Reader = partial(read_image, found.image, channels=channels, **reading)
        drawn = partial(read_masks, page=reading.get("page"))
        masks: Reader | None = partial(drawn, found.masks) if found.masks else None
        if masks and found.split == SHOT and (region := region_path(found.image)).exists():
            both = partial(_read_part, region, image, masks)
            image, masks = (lambda: both()[0]), (lambda: both()[1])
        return Sample(found.name, image, masks, found.split)

    samples = tuple(map(make, find_samples(folder)))
    return Dataset(folder.name, folder.name, "", samples, channels or ("gray", "none"))


class Region(BaseModel, extra="forbid", frozen=True, strict=True):
    """The rectangle of an image within which all cells are drawn, in pixels."""

    top: NonNegativeInt
    left: NonNegativeInt
    height: PositiveInt
    width: PositiveInt

    @property
    def box(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return np.s_[self.top : self.top + self.height, self.left : self.left + self.width]


def read_region(file: Path, shape: tuple[int, ...]) -> Region:
    """Read a rectangle in an image of that height and width; all of it where there is no file."""
    if not file.exists():
        return Region(top=0, left=0, height=shape[0], width=shape[1])
    remedy = "Remove the file, and draw the rectangle again in the mask editor."
    with telling("this is no rectangle in pixels", file, remedy, ImageError):
        region = Region.model_validate_json(file.read_bytes())
        if region.top + region.height > shape[0] or region.left + region.width > shape[1]:
            what = f"the rectangle reaches beyond the image of {shape[0]} x {shape[1]} px"
            raise ImageError(what, remedy=remedy)
        return region


def _read_part(file: Path, *readers: Reader) -> list[np.ndarray]:
    """Image and masks within a rectangle. Both are read, for their whole sizes must agree."""
    image, masks = (read() for read in readers)
    check_size(image.shape[1:], masks.shape, "its masks", file)
    box = read_region(file, masks.shape).box
    return [image[:, *box], relabel_sequential(masks[box])[0]]


def find_readable(data: Dataset, *, masks: bool = False) -> tuple[Dataset, list[Exception]]:
    """Images that can be read, with their masks where asked for, and what is wrong with others."""
    good: list[Sample] = []
    wrong: list[Exception] = []
    for sample in progress_bar(data, len(data), "check"):
        copy = replace(sample)  # its pixels go with it
        try:
            _ = (copy.image, copy.masks) if masks else copy.image
        except (ScellsegError, OSError) as error:
            wrong.append(error)
        else:
            good.append(sample)
    return replace(data, samples=tuple(good)), wrong


def pair_labels(predicted: Path, true: Path | Sequence[Sample]) -> list[tuple[Path, Sample]]:
    """Predicted label files with the true masks of their name; two files are a pair of any name."""
    ours, files = find_labels(predicted), {}
    if isinstance(true, Path):
        files = find_labels(true)
        if predicted.is_file() and true.is_file():
            files = dict(zip(ours, files.values(), strict=True))
        true = [Sample(n, partial(read_image, f), partial(read_masks, f)) for n, f in files.items()]
    theirs = {sample.name: sample for sample in true}
    lost = [str((ours | files).get(name, name)) for name in sorted(ours.keys() ^ theirs.keys())]
    if lost or not ours:
        what = f"label files without a partner: {', '.join(lost)}" if lost else "no label files"
        remedy = "Each NAME_masks.* needs a NAME_masks.* or NAME.* on the other side."
        raise DatasetError(what, where=predicted, remedy=remedy)
    return [(file, theirs[name]) for name, file in ours.items()]


def _load_named(name: str, parts: Sequence[SubsetPart] = ()) -> Dataset:
    """Samples of a manifest in its order; only those that one of `parts` includes, if given."""
    card = load_manifest(name)
    entries = [e for e in card.entries() if not parts or any(p.includes(e) for p in parts)]
    files = (file for entry in entries for file in (entry.image, entry.masks))
    missing = [file for file in files if not (card.folder / file).is_file()]
    if missing or not entries:
        some = f"{len(missing)} of its files ({missing[0]}, ...)" if missing else "all its files"
        remedy = f"Get it: `scellseg data fetch {name}`, or set SCELLSEG_DATA to where {name}/ is."
        what = f"data set {name!r} lacks {some}"
        raise DatasetNotHere(what, where=card.folder, remedy=remedy, dataset=name)

    def read(one: manifest.Entry) -> np.ndarray:
        image = read_image(card.folder / one.image, channels=card.channels)
        if one.shape is not None:
            check_size(image.shape[1:], one.shape[:2], "the manifest", card.folder / one.image)
        return image

    def read_published(one: manifest.Entry) -> np.ndarray:  # nobody changes it: no doubt is told
        return relabel_sequential(read_labels(card.folder / one.masks))[0].astype(np.int32)

    samples = [
        Sample(e.name, partial(read, e), partial(read_published, e), "+".join(e.splits), e.style)
        for e in entries
    ]
    return Dataset(name, card.title, card.licence, tuple(samples), card.channels)

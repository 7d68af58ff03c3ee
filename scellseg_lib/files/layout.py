"""Where the files of an experiment are: the one module that knows their names.

An experiment is a folder of images, in ``shot/`` (annotated) and ``query/`` (to be segmented) as
Scellseg has them, or all in one folder as Cellpose has them::

    NAME_img.tif or NAME.tif      an image (.png and .jpg too)
    NAME_masks.tif                its masks; Cellpose's are NAME_cp_masks.* or NAME_seg.npy
    NAME_cells.csv                the list of its cells, with their classes and notes
    .NAME_masks.tif.edits         edits of the masks that were never saved
    MODEL.safetensors             a tuned model; MODEL.checkpoint and MODEL.checkpoint.json while it
                                  is being learnt
    classes.csv, rounds.csv       the classes of cells, and the rounds of correction
    segmented/                    masks that a model gave, and segmented.json, which says how
    corrected/, exported/         the same masks corrected by hand, and files for other programs
"""

import re
from dataclasses import dataclass
from pathlib import Path

from natsort import natsorted

from scellseg_lib.errors import DatasetError

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")  # of what is taken for an image
SHOT, QUERY, SEGMENTED, CORRECTED, EXPORTED = "shot", "query", "segmented", "corrected", "exported"
CLASSES, ROUNDS, RECORD = "classes.csv", "rounds.csv", "segmented.json"
MASKS, CELLS, OVERLAY, EDITS = "_masks", "_cells.csv", "_overlay.png", ".edits"
MODEL, CHECKPOINT, RUN = ".safetensors", ".checkpoint", ".checkpoint.json"


@dataclass(frozen=True)
class ImageFiles:
    """An image with the files that belong to it."""

    name: str  # without ``_img`` and ending
    image: Path
    masks: Path | None  # those that are there: ours, or those that Cellpose has saved
    split: str  # "shot" with masks to learn from, "query" to be segmented

    @property
    def is_query(self) -> bool:
        """Whether it lies among the images to be segmented, from which nothing is learnt."""
        return self.image.parent.name == QUERY

    @property
    def is_ours(self) -> bool:
        """Whether its masks are in a file of ours."""
        return self.masks is not None and parse_name(self.masks.name)[0] == "masks"

    @property
    def own_masks(self) -> Path:
        """Where masks are saved: what is there if it is ours, else ``NAME_masks.tif``."""
        usual = self.image.with_name(f"{self.name}{MASKS}.tif")
        return self.masks if self.masks and self.is_ours else usual

    @property
    def cells(self) -> Path | None:
        """Its list of cells, whether it is there or not; None without masks."""
        return cells_path(self.masks) if self.masks else None

    @property
    def is_unsaved(self) -> bool:
        """Whether edits lie beside the masks that were never saved."""
        return edits_path(self.own_masks).is_file()


def find_samples(folder: Path) -> list[ImageFiles]:
    """Images and masks to learn from and to segment, in natural order of their names.

    Of a folder without ``shot/`` and ``query/``, images with masks are the split "shot", the others
    "query". Masks are ``NAME_masks.*``; where there are none, ``NAME_cp_masks.*``; where there are
    none either, ``NAME_seg.npy``. Where no file is called ``*_img.*``, every image counts.
    DatasetError without images, or where an image in ``shot/`` or masks lack their partner, or two
    files differ in their ending alone.
    """
    found = []
    for part, files in _read_parts(folder):
        images, masks = _single(files.images), _single(files.ours or files.saved or files.seg)
        if orphans := [path.name for name, path in masks.items() if name not in images]:
            what = f"masks without an image: {', '.join(orphans)}"
            remedy = "The masks of NAME_img.png are NAME_masks.png."
            raise DatasetError(what, where=folder / part, remedy=remedy)
        found += _pair(part, images, masks)
    if bare := [one.image.name for one in found if one.split == SHOT and not one.masks]:
        remedy = "Annotate them (NAME_masks.png), or move them to query/."
        what = f"images without masks: {', '.join(bare)}"
        raise DatasetError(what, where=folder / SHOT, remedy=remedy)
    return found


def find_images(folder: Path) -> list[tuple[str, list[Path]]]:
    """Images by name, as of `find_samples`; several files if only their endings differ."""
    return [item for _, files in _read_parts(folder) for item in files.images.items()]


def list_images(folder: Path) -> list[ImageFiles]:
    """Images with whatever masks each has, ours before Cellpose's; nothing need be complete."""
    found = []
    for part, files in _read_parts(folder):
        kinds = files.images, files.seg | files.saved | files.ours
        images, masks = ({name: some[0] for name, some in kind.items()} for kind in kinds)
        found += _pair(part, images, masks)
    return found


def place_shot(folder: Path, image: Path) -> tuple[Path, Path]:
    """Where an image and its masks are, or would be, among the annotated ones of an experiment.

    One file called ``*_img``, or masks of one kind, hide all of other kinds: the way of the folder
    is kept. DatasetError where its masks are Cellpose's ``_seg.npy``.
    """
    home, name = _shots(folder), image_name(image)
    files = _Files(home)
    if not files.ours and not files.saved and files.seg.keys() - {name}:
        what = "the cells are annotated in _seg.npy files, which masks of ours would hide"
        remedy = "Export them as label images (TIFF) into this folder first, then try again."
        raise DatasetError(what, where=home, remedy=remedy)
    kind = "_cp_masks" if files.saved and not files.ours else MASKS
    there, masks = _single(files.images), _single(files.ours or files.saved)
    copy = there.get(name) or _name_as_beside(home, image, "_img")
    return copy, masks.get(name, home / f"{name}{kind}.tif")


def place_image(folder: Path, file_name: str) -> Path:
    """Where a new image is put: among those to be segmented, called as those beside it are."""
    own = "_img" if parse_name(file_name)[0] == "img" else ""
    home = folder if _parts(folder) == [""] else folder / QUERY
    return _name_as_beside(home, Path(file_name), own)


def experiment_of(file: Path) -> Path:
    """Experiment of an image or of masks: above ``shot/`` or ``query/``, or corrected masks."""
    is_image = parse_name(file.name)[0] in ("img", "image")
    parts = (SHOT, QUERY) if is_image else (SHOT, QUERY, CORRECTED)
    return file.parent.parent if file.parent.name in parts else file.parent


def find_labels(place: Path) -> dict[str, Path]:
    """Label files by name, or the one that `place` is; any images where none is called masks.

    Of one name, ``NAME_masks.*`` comes before ``NAME_cp_masks.*``, and this before ``_seg.npy``.
    """
    if not place.is_dir():
        return {label_name(place): place}
    files = _Files(place)
    masks = _single(files.seg) | _single(files.saved) | _single(files.ours)
    return masks or _single(files.images)


def find_annotated_masks(folder: Path) -> dict[str, Path]:
    """Masks of an experiment's annotated images, by name: ours, or those of Cellpose."""
    files = _Files(_shots(folder))
    return _single(files.ours or files.saved)


def find_results(folder: Path) -> dict[str, Path]:
    """Masks of an experiment's results, by name: a correction comes before what a model gave."""
    places = [folder / SEGMENTED, folder / CORRECTED]
    files = [file for place in places for file in natsorted(place.rglob(f"*{MASKS}.tif"), str)]
    return {label_name(file): file for file in files}


def find_cell_lists(folder: Path) -> list[Path]:
    """All lists of cells of an experiment but those of its results."""
    places = [folder, folder / SHOT, folder / QUERY, folder / CORRECTED]
    return [file for place in places for file in natsorted(place.glob(f"[!.]*{CELLS}"), str)]


def find_unsaved_corrections(folder: Path) -> list[str]:
    """Names of images with edits of their corrections that were never saved."""
    files = natsorted((folder / CORRECTED).glob(f".*{MASKS}.tif{EDITS}"), str)
    return [label_name(Path(file.name[1:].removesuffix(EDITS))) for file in files]


def find_models(folder: Path, ending: str = MODEL) -> list[Path]:
    """Models of an experiment, the newest first; with the ending `RUN` records of their runs."""
    files = folder.glob(f"[!.]*{ending}")
    return sorted(files, key=lambda file: (-file.stat().st_mtime, file.name))


def find_free_name(folder: Path, wanted: str) -> str:
    """Name for a model that no model, card or unfinished run of the folder has."""
    name, number, endings = wanted, 2, (MODEL, ".json", CHECKPOINT, RUN)
    while any((folder / f"{name}{ending}").exists() for ending in endings):
        name, number = f"{wanted}-{number}", number + 1
    return name


def results_path(source: Path, experiment: Path | None = None) -> Path:
    """Where masks of a file or folder usually go; of ``query/``, into the experiment if given."""
    root = source if source.is_dir() else source.parent
    within = experiment is not None and root == (experiment / QUERY).resolve()
    return (root.parent if within else root) / SEGMENTED


def cells_path(masks: Path) -> Path:
    """List of the cells of a label file, whether it is there or not."""
    return masks.with_name(label_name(masks) + CELLS)


def edits_path(masks: Path) -> Path:
    """File of the edits of a label file that were not saved."""
    return masks.with_name(f".{masks.name}{EDITS}")


def parse_name(file_name: str) -> tuple[str, str]:
    """What a file is by its name, and the name of the image that it is or belongs to.

    It is an "image", or "img" where it is called so; "masks", "cp_masks", "seg"; "cells"; or "".
    """
    stem, ending = _plain(file_name), Path(file_name).suffix.lower()
    kinds = {".npy": r"(?:_img|\.ome)?_(seg)", ".csv": "(?:_img)?_(cells)"}
    kinds |= dict.fromkeys(SUFFIXES, "_(img|cp_masks|masks)")
    if ending in kinds and (match := re.fullmatch(f"(.*?){kinds[ending]}", stem, re.DOTALL)):
        return match[2], match[1]
    return ("image" if ending in SUFFIXES else "", stem)


def label_name(file: Path) -> str:
    """Name of the image that a label file belongs to."""
    kind, name = parse_name(file.name)
    return _plain(file.name) if kind == "img" else name


def image_name(file: Path) -> str:
    """Name of an image: that of its file without ``_img`` and ending."""
    return _plain(file.name).removesuffix("_img")


def _plain(file_name: str) -> str:
    """File name without its ending, of which .ome.tif is one."""
    return Path(file_name).stem.removesuffix(".ome")


class _Files:
    """Images and masks of one folder by the names of their images, in natural order."""

    def __init__(self, folder: Path) -> None:
        found: dict[str, dict[str, list[Path]]] = {}
        there = folder.iterdir() if folder.is_dir() else ()
        for path in natsorted(there, key=lambda path: path.name):
            kind, name = parse_name(path.name)
            if not path.name.startswith(".") and not _plain(path.name).endswith("_flows"):
                found.setdefault(kind, {}).setdefault(name, []).append(path)
        self.images = found.get("img") or found.get("image", {})
        self.ours, self.saved, self.seg = (found.get(k, {}) for k in ("masks", "cp_masks", "seg"))


def _parts(folder: Path) -> list[str]:
    return [part for part in (SHOT, QUERY) if (folder / part).is_dir()] or [""]


def _read_parts(folder: Path) -> list[tuple[str, _Files]]:
    """Files of ``shot/`` and ``query/``, or of the folder itself as the part ""; some images."""
    if not folder.is_dir():
        remedy = "Check how it is written; on a server it is a folder of the server."
        raise DatasetError("there is no such folder", where=folder, remedy=remedy)
    parts = [(part, _Files(folder / part)) for part in _parts(folder)]
    if not any(files.images for _, files in parts):
        remedy = "Name them NAME_img.png (or .tif, .jpg), in it or in its shot/ and query/."
        raise DatasetError("there are no images", where=folder, remedy=remedy)
    return parts


def _pair(part: str, images: dict[str, Path], masks: dict[str, Path]) -> list[ImageFiles]:
    """Images of one part with their masks."""
    return [
        ImageFiles(name, image, masks.get(name), part or (SHOT if name in masks else QUERY))
        for name, image in images.items()
    ]


def _shots(folder: Path) -> Path:
    """Folder of the annotated images: a new ``shot/`` would hide images that lie beside it."""
    return folder if _parts(folder) == [""] and _Files(folder).images else folder / SHOT


def _single(found: dict[str, list[Path]]) -> dict[str, Path]:
    """One file of each name; DatasetError where there are two."""
    if twice := [path for files in found.values() for path in files if len(files) > 1]:
        what = f"files of the same name: {', '.join(path.name for path in twice)}"
        raise DatasetError(what, where=twice[0].parent, remedy="Keep one of each.")
    return {name: path for name, (path,) in found.items()}


def _name_as_beside(folder: Path, file: Path, usual: str) -> Path:
    """File for an image in a folder: ``*_img`` as those beside it, or not; `usual` without any."""
    beside = [image for files in _Files(folder).images.values() for image in files]
    mark = usual if not beside else "_img" if _plain(beside[0].name).endswith("_img") else ""
    return folder / f"{image_name(file)}{mark}{file.name.removeprefix(_plain(file.name))}"

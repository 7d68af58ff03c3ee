"""The folder of a biologist: images, masks, lists of cells, classes, models, results and rounds.

A copy of a corrected image becomes a shot. What is scored in a round is the prediction that was
there before: its model had not seen the masks. The score of a later model, which has learnt them,
is kept too, marked as ``seen``, and left out of the means.
"""

import csv
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from natsort import natsorted
from skimage.segmentation import relabel_sequential

from scellseg_lib import errors
from scellseg_lib.atomic import whole
from scellseg_lib.datasets.load import Region, read_region
from scellseg_lib.datasets.weights import RELEASED, load_model, packaged_files, released_file
from scellseg_lib.errors import DatasetError, ImageError, ModelError, ScellsegError, telling
from scellseg_lib.files import images, layout
from scellseg_lib.files.export import read_list, read_table, waiting_list
from scellseg_lib.files.folder import ImageJob, alone, is_done
from scellseg_lib.files.images import read_labels, read_masks, read_pixels
from scellseg_lib.files.layout import ImageFiles
from scellseg_lib.metrics import match, scores
from scellseg_lib.model import Card, Model, read_card
from scellseg_lib.network import ARCHITECTURES
from scellseg_lib.representation import Decoding
from scellseg_lib.samples import Sample, check_size, diameters
from scellseg_lib.segmentation import Prediction
from scellseg_lib.workbench.editor.classes import Classes, choose_colour, parse_colour
from scellseg_lib.workbench.editor.journal import edits_path
from scellseg_lib.workbench.forms import hear, plain
from scellseg_lib.workbench.session import InspectedImage, SegmentationSettings, predict_one

RESULTS = f"[!.]*{layout.MASKS}.tif"
SHARED = (
    "Close other programs that have it open, and check that the folder can be written to and has "
    "room. This window keeps the classes until then."
)
COLUMNS = {
    **{"round": "int64", "time": "str", "model": "str", "weights": "str"},
    **{"shots": "int64", "shot_cells": "int64", "image": "str", "seen": "bool"},
    **dict.fromkeys(("ap50", "map"), "float64"),
    **dict.fromkeys(("predicted", "corrected", "added", "removed", "changed"), "int64"),
    "masks": "str",
}
"""Of ``rounds.csv``, one row for each image corrected in a round (from 1) of a ``model``, with the
hash of its ``weights``: the ``time`` of the correction, UTC; the annotated images (``shots``) and
their cells when the round began, and whether the image was among them (``seen``); AP at an IoU of
0.5 and mean AP of the prediction; the number of cells ``predicted`` and ``corrected``, and of these
``added`` (no predicted cell has an IoU of 0.5 with it), ``removed`` (the other way round) and
``changed`` (any pixel); the hash of the corrected ``masks``."""


class OtherMasks(DatasetError):
    """An annotated image has other masks already, which are replaced if that is asked for."""


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """An image with the masks that a model made of it."""

    name: str
    image: Path
    masks: Path
    model: Model | None  # that made the masks; None where that is another one than chosen now
    model_file: str  # its `OfferedModel.key`, empty where that is not known
    weights: str  # hash of its weights
    settings: SegmentationSettings
    hashes: tuple[str, ...] = ()  # of image and masks when these were made, where that was noted

    def read(self) -> np.ndarray:
        """Cells that were found, int32[H, W]; an error where they are not of this very image."""
        sample = Sample(self.name, partial(read_pixels, self.image))
        if not is_done(ImageJob(sample, self.masks, self.image), list(self.hashes)):
            what = "these masks are damaged, or not of the image as it is now"
            raise ImageError(what, where=self.masks, remedy="Delete them and segment it again.")
        return read_masks(self.masks)

    def predict(self) -> Prediction | None:
        """Run the network again (seconds), for other thresholds; None without the model."""
        if self.model is None:
            return None
        return predict_one(self.model, self.image, self.settings)

    def to_inspect(self, true: Callable[[], np.ndarray] | None = None) -> InspectedImage:
        """For the inspector, against true cells where they are known; read when it is needed."""
        model, pixels = self.model, partial(read_pixels, self.image)
        ask, known = (self.predict, model.representation) if model else (None, None)
        how = self.settings.decoding, self.settings.resample
        learnt = model is None or self.name in learnt_from(model.card)
        return InspectedImage(self.name, pixels, true, self.read, ask, known, *how, learnt)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image to learn from, or why it is left out."""

    name: str
    image: Path
    problem: str = ""
    doubt: str = ""  # what the user should know of its masks
    region: Region | None = None  # the rectangle that is annotated: what follows is said of it
    cells: int = 0
    diameter: float = float("nan")  # median of the cells', px


@dataclass(frozen=True)
class Survey:
    """What an experiment holds to learn from."""

    folder: Path
    shots: tuple[AnnotatedImage, ...]  # all annotated images, those that are left out among them
    queries: tuple[str, ...]  # names of the images to be segmented

    @property
    def usable(self) -> tuple[AnnotatedImage, ...]:
        """Annotated images to learn from."""
        return tuple(shot for shot in self.shots if not shot.problem)

    @property
    def diameter(self) -> float:
        """Mean of the usable shots' diameters, px, which the tuned model gets."""
        return float(np.mean([shot.diameter for shot in self.usable]))


def compare(predicted: np.ndarray, corrected: np.ndarray) -> dict[str, float]:
    """Score predicted labels, int[H, W], against their correction: "ap50" .. of `COLUMNS`."""
    ap, objects = scores(corrected, predicted).ap, match(corrected, predicted, 0.5)
    mine = objects[objects["side"] == "true"]
    return {
        "ap50": float(ap[0]),
        "map": float(ap.mean()),
        "predicted": len(objects) - len(mine),
        "corrected": len(mine),
        "added": int((objects["outcome"] == "FN").sum()),
        "removed": int((objects["outcome"] == "FP").sum()),
        "changed": int(((mine["outcome"] == "TP") & (mine["iou"] < 1)).sum()),
    }


@dataclass(frozen=True)
class Experiment:
    """The folder of an experiment, in a layout of `files.layout`."""

    folder: Path

    def find_models(self, ending: str = layout.MODEL) -> list[Path]:
        """Models, the newest first; with the ending `layout.RUN` records of their runs."""
        files = self.folder.glob(f"[!.]*{ending}")
        return sorted(files, key=lambda file: (-file.stat().st_mtime, file.name))

    def take(self, name: str, content: bytes) -> Path:
        """Write an image that was dropped on the page, or masks of one by its name; its image."""
        is_name = name.isprintable() and Path(name).name == name and not name.startswith(".")
        if not is_name or len(name.encode()) > 200:  # files beside it have longer names
            remedy = "Rename it: up to 200 letters, digits, spaces, - and _ will do."
            raise ImageError("no file can be called so here", where=repr(name)[:80], remedy=remedy)
        role, owner_name = layout.parse_name(name)
        owner = None
        with suppress(DatasetError):  # the first image is on its way
            owner = {one.name: one for one in layout.list_images(self.folder)}.get(owner_name)
        if role in ("", "cells"):
            kind = Path(name).suffix or "without ending"
            what = f"a file of the kind {kind} is no image or masks"
            remedy = f"Images end in {', '.join(layout.SUFFIXES)}, masks in _masks before that. "
            remedy += f"Another format: {layout.CONVERT}"
            raise ImageError(what, where=name, remedy=remedy)
        if role in ("img", "image"):
            parts = [self.folder / part for part in (layout.SHOT, layout.QUERY)]
            file = (parts[1] if any(part.is_dir() for part in parts) else self.folder) / name
            if owner is not None and owner.image != file:
                what = "another image of this name is here"
                raise DatasetError(what, where=owner.image, remedy="Rename yours.")
            _write_new(file, content, read_pixels)
            return file
        if owner is None:
            what = f"there is no image {owner_name} here that it could belong to"
            remedy = "Drop the image first."
            raise DatasetError(what, where=name, remedy=remedy)
        is_begun = edits_path(owner.own_masks).is_file()
        if is_begun or owner.masks not in (None, owner.image.with_name(name)):
            what = "the image has masks already, or some that are begun"
            remedy = "Move them away if others are to take their place."
            raise DatasetError(what, where=owner.masks, remedy=remedy)
        _write_new(owner.image.with_name(name), content, read_masks)
        return owner.image

    def survey(self, report: Callable[[int, int], None] = lambda done, total: None) -> Survey:
        """Read all annotated images, and report how many of how many; unusable ones are named."""
        samples, shots = layout.find_samples(self.folder), []
        annotated = [sample for sample in samples if sample.split == "shot"]
        for done, sample in enumerate(annotated):
            report(done, len(annotated))
            shots.append(_look_at(sample))
        queries = tuple(sample.name for sample in samples if sample.split == "query")
        return Survey(self.folder, tuple(shots), queries)

    def best_cells(self) -> tuple[dict[str, tuple[Path, Path, str]], list[str]]:
        """Image, masks and their origin by name, and names of masks whose image is gone.

        They are those that were drawn, else corrected, else found by a model; where a part of the
        image alone is drawn, that comes last.
        """
        every, best = layout.list_images(self.folder), dict[str, tuple[Path, str]]()
        for place, origin in ((layout.SEGMENTED, "found"), (layout.CORRECTED, "corrected")):
            for file in natsorted((self.folder / place).rglob(RESULTS), str):
                best[layout.image_name(file)] = file, origin
        for one in sorted(every, key=lambda one: one.masks.stat().st_mtime if one.masks else 0):
            if one.masks and not (one.name in best and layout.region_path(one.image).exists()):
                best[one.name] = one.masks, "drawn"
        images = {one.name: one.image for one in every}  # a copy in shot/ serves to learn
        lost = [name for name in best if name not in images]
        return {name: (images[name], *best[name]) for name in best if name in images}, lost

    def add_to_shots(
        self, image: Path, masks: np.ndarray, *, replace: bool = False, cells: Path | None = None
    ) -> tuple[Path, Path]:
        """Put a copy of an image and its masks among the annotated ones; both files.

        All are written before one of them gets its name. Other masks of the image are replaced if
        that is asked for, and are `OtherMasks` else; another image of its name never is. Its list
        of `cells` and the rectangle that is annotated, which is beside that list or else beside the
        image, are copied too; those of former masks are removed where there are none.
        """
        copy, labels = self._check_shot(image, masks, replace, cells)
        table, bounds = layout.cells_path(labels), layout.region_path(copy)
        region = _read_rectangle(cells or image, masks)
        is_part = (region.height, region.width) != masks.shape
        remedy = "Check that the folder can be written to and has room."
        with telling("the image cannot be copied", copy, remedy, ImageError):
            with ExitStack() as files:
                if not copy.exists():  # it may be the image itself
                    shutil.copyfile(image, files.enter_context(whole(copy)))
                images.write_labels(files.enter_context(whole(labels)), masks)
                if cells and cells.is_file():
                    shutil.copyfile(cells, files.enter_context(whole(table)))
                if is_part:
                    files.enter_context(whole(bounds)).write_text(region.model_dump_json())
            if cells and not cells.is_file():
                table.unlink(missing_ok=True)
            if not is_part:
                bounds.unlink(missing_ok=True)
        return copy, labels

    def _check_shot(
        self, image: Path, masks: np.ndarray, replace: bool, cells: Path | None
    ) -> tuple[Path, Path]:
        """Where `add_to_shots` puts them, or why it cannot."""
        check_size(read_pixels(image).shape[:2], masks.shape, "its masks", image)
        if not np.any(masks[_read_rectangle(cells or image, masks).box]):
            remedy = "Draw at least one cell, or choose another image."
            raise DatasetError("there are no cells to learn from", where=image, remedy=remedy)
        copy, labels = layout.place_shot(self.folder, image)
        if copy.exists() and copy.read_bytes() != image.read_bytes():
            what = "another image of this name is among the annotated ones"
            remedy = f"Rename {image.name}, segment it again and correct it under its new name."
            raise DatasetError(what, where=copy, remedy=remedy)
        is_there = labels.exists() or edits_path(labels).is_file()
        if is_there and not replace and _hash(labels) != _hash(masks):
            remedy = "Replace them, or leave them as they are."
            raise OtherMasks("this image has other masks already", where=labels, remedy=remedy)
        return copy, labels

    def rounds(self) -> pd.DataFrame:
        """All corrections, in the order of the rounds, see `COLUMNS`; DatasetError if damaged."""
        file = self.folder / layout.ROUNDS
        if not file.exists():
            return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
        remedy = "Move it away; a new one begins with the next correction."
        with telling("the table of rounds cannot be read", file, remedy):
            return pd.read_csv(file, keep_default_na=False, dtype=COLUMNS)[list(COLUMNS)]

    def sum_up_rounds(self) -> pd.DataFrame:
        """One row a round: sums over its images, and means of the scores of those not ``seen``."""
        table = self.rounds()
        table.loc[table["seen"], ["ap50", "map"]] = np.nan
        how: dict[str, Any] = dict.fromkeys(("model", "shots", "shot_cells"), "first")
        how |= {"image": "size", "ap50": "mean", "map": "mean"}
        how |= dict.fromkeys(("added", "removed", "changed"), "sum")
        return table.groupby("round", as_index=False).agg(how).rename(columns={"image": "images"})

    def keep_correction(
        self,
        result: SegmentedImage,
        predicted: np.ndarray,
        corrected: np.ndarray,
        *,
        replace: bool = False,
        cells: Path | None = None,
    ) -> dict[str, float]:
        """Keep a correction: its score in ``rounds.csv``, then image and masks among the shots.

        Where a part alone is annotated, it is scored. Other weights begin the next round; an image
        that is corrected again in a round has its row replaced, and its masks if they are those of
        the former correction. Nothing is written where `add_to_shots` refuses them.
        """
        box = _read_rectangle(cells or result.image, corrected).box
        found, table = compare(predicted[box], corrected[box]), self.rounds()
        name = layout.image_name(result.image)
        copy, masks = layout.place_shot(self.folder, result.image)
        former = set(table.loc[table["image"] == name, "masks"])
        replace = replace or (masks.exists() and _hash(masks) in former)
        annotated = copy.exists() and masks.exists()
        self._check_shot(result.image, corrected, replace, cells)
        row = self._round_of(table, result.weights)
        same = (table["round"] == row["round"]) & (table["image"] == name)
        seen = bool(table.loc[same, "seen"].iloc[0]) if same.any() else annotated
        row |= found | {"image": name, "seen": seen, "masks": _hash(corrected)}
        row |= {"model": result.model_file, "weights": result.weights}
        row["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        rows = pd.DataFrame([row])[list(COLUMNS)].astype(COLUMNS)
        table = pd.concat([table[~same], rows], ignore_index=True)
        # The score first: the shot alone would make the image pass for one that was learnt from.
        with whole(self.folder / layout.ROUNDS) as scratch:
            ordered = table.sort_values("round", kind="stable")
            ordered.to_csv(scratch, index=False, float_format="%.6f")
        self.add_to_shots(result.image, corrected, replace=replace, cells=cells)
        return found

    def _round_of(self, table: pd.DataFrame, weights: str) -> dict[str, Any]:
        """Number of the round that a prediction of these weights belongs to, and its shots."""
        of_these = table[table["weights"] == weights]
        if len(of_these):
            return {name: int(of_these[name].iloc[-1]) for name in ("round", "shots", "shot_cells")}
        shots = [one for one in layout.list_images(self.folder) if one.split == layout.SHOT]
        cells = [one.cells for one in map(_look_at, shots) if not one.problem]
        last = int(max(table["round"], default=0))
        return {"round": last + 1, "shots": len(cells), "shot_cells": sum(cells)}


def experiment_of(file: Path) -> Path:
    """Experiment of an image or of masks: above ``shot/`` or ``query/``, or corrected masks."""
    is_image = layout.parse_name(file.name)[0] in ("img", "image")
    parts = {layout.SHOT, layout.QUERY} | (set() if is_image else {layout.CORRECTED})
    return file.parent.parent if file.parent.name in parts else file.parent


def read_cells(masks: Path, table: Path | None = None) -> pd.DataFrame | None:
    """List of the cells of a file of masks, by the numbers of `read_masks`; None without one."""
    table, labels = table or layout.cells_path(masks), read_labels(masks)
    if (waiting := waiting_list(table, labels)).is_file():
        waiting.replace(table)  # the save was stopped after that of the masks
    if "class" not in (cells := read_list(table, labels)):
        return None
    return cells.assign(label=np.searchsorted(np.unique(labels[labels > 0]), cells.index) + 1)


def _write_new(file: Path, content: bytes, read: Callable[[Path], Any]) -> None:
    """Write a file that can be read, where no other is."""
    if file.exists():
        if file.read_bytes() == content:
            return
        what = "another file of this name is there"
        raise DatasetError(what, where=file, remedy="Rename yours, or move that one away.")
    with whole(file) as scratch:
        scratch.write_bytes(content)
        try:
            read(scratch)
        except ScellsegError as error:
            error.where = file.name
            raise


def _look_at(shot: ImageFiles) -> AnnotatedImage:
    name, image, file = shot.name, shot.image, shot.masks or shot.own_masks
    try:
        pixels, (masks, doubt) = read_pixels(image), hear(lambda: read_masks(file))
        check_size(pixels.shape[:2], masks.shape, "its masks", image)
        region = _read_rectangle(image, masks)
    except (ScellsegError, OSError) as error:
        return AnnotatedImage(name, image, plain(error))
    if (region.height, region.width) != masks.shape:
        height, width = masks.shape
        part = f"{region.height} x {region.width} of {height} x {width} px"
        doubt = f"Only a part of the image is annotated: {part}. {doubt}".strip()
    pixels, masks = pixels[region.box], relabel_sequential(masks[region.box])[0]
    if not masks.any():
        return AnnotatedImage(name, image, f"No cell is drawn in it yet. {doubt}".strip())
    sizes = diameters(np.bincount(masks.ravel())[1:])
    return AnnotatedImage(name, image, "", doubt, region, sizes.size, float(np.median(sizes)))


def _read_rectangle(file: Path, masks: np.ndarray) -> Region:
    """Rectangle that is annotated of an image, by its file or one beside it, and its masks."""
    return read_region(layout.region_path(file), masks.shape)


def _hash(masks: np.ndarray | Path) -> str | None:
    """Hash of masks, or of those in a file; None where that is damaged, and so nobody's."""
    with suppress(ScellsegError):
        labels = read_labels(masks) if isinstance(masks, Path) else masks
        return images.pixel_hash(np.asarray(labels, np.int64))
    return None


def find_channels(files: Iterable[Path]) -> tuple[list[str], Path]:
    """Channels to choose from, and whose they are, by the first files; none if none differ."""
    for file in islice(files, 5):
        try:
            images.read_image(file)
        except errors.ChannelsNeeded as error:
            return error.channels, file
        except (ScellsegError, OSError):
            continue
    return [], Path()


def learnt_from(card: Card) -> set[str]:
    """Names of the annotated images that a model was tuned on, and the one that it began from."""
    recipe, names = card.recipe, set[str]()
    while isinstance(recipe, dict):  # of a pre-training that went on it is in words
        names |= {*recipe.get("shots", ())}
        recipe = recipe.get("initial", "")
    return names


@dataclass(frozen=True)
class OfferedModel:
    """A model that can be chosen."""

    title: str
    name: str | Path  # the file, or the network of the authors' own weights
    card: Card | None = None  # None: not known before it is loaded, or the file is damaged
    is_own: bool = False  # whether it lies in the experiment's folder

    def load(self) -> Model:
        """Load it; ModelError where that cannot be."""
        return load_model(self.name, "packaged" if isinstance(self.name, Path) else "released")

    @property
    def key(self) -> str:
        """What a record knows it by, such as "worms.safetensors" or "released scellseg"."""
        if isinstance(self.name, Path):
            return self.name.name if self.is_own else self.name.stem
        return f"released {self.name}"


def offer_models(folder: Path | None = None, *, to_start: bool = False) -> list[OfferedModel]:
    """Models: those in the experiment's folder, the newest first; packaged; the authors' own.

    The last are listed where they were fetched before: 102 MB are not asked for in silence. To
    start a fine-tuning from, the user's own come last, and without damaged ones.
    """
    files = Experiment(folder).find_models() if folder else []
    own = [OfferedModel(f"Yours: {one.stem}", one, _card_of(one), is_own=True) for one in files]
    found = []
    for name, architecture in ARCHITECTURES.items():
        files = [file for file in packaged_files() if file.stem.rsplit("_", 1)[0] == name]
        for number, file in enumerate(natsorted(files, reverse=True)):  # the widest first
            title = f"{architecture.title}{', smaller and quicker' if number else ''}"
            found.append(OfferedModel(title, file, _card_of(file)))
    fetched = [name for name in RELEASED if released_file(name).is_file()]
    found += [OfferedModel(f"{ARCHITECTURES[one].title}, the authors' own", one) for one in fetched]
    return [*found, *(one for one in own if one.card)] if to_start else [*own, *found]


def load_start(key: str, folder: Path) -> Model:
    """Load a model by its `OfferedModel.key`; ModelError where it cannot be had."""
    for model in offer_models(folder):
        if model.key == key:
            return model.load()
    what = "the model to start from is there no more"
    raise ModelError(what, where=key, remedy="Choose another one.")


def describe_model(card: Card) -> str:
    """Where a model comes from, in a sentence or two."""
    learnt = ", ".join(f"{one.name} ({one.images})" for one in card.training_data)
    title = ARCHITECTURES[card.architecture].title
    origin = card.origin or "of unknown origin"
    text = f"{title}, {origin}. Made for cells {card.diameter:g} px wide. "
    text += f"Has learnt from these sets (images): {learnt}. " if learnt else ""
    return text + (f"Terms of use: {card.licence}." if card.licence else "")


def _card_of(file: Path) -> Card | None:
    """Card within a model's file; None where it is no model of ours."""
    with suppress(ModelError):
        return read_card(file)
    return None


def list_results(
    files: Iterable[tuple[Path, Path]],
    record: dict[str, Any],
    chosen: tuple[OfferedModel, Model, str],
) -> list[SegmentedImage]:
    """Images that are segmented, of `files`: images, and where their masks are once they are made.

    `record` says what the masks there were made with, see `read_record`; `chosen` is the model
    chosen now, loaded, with the hash of its weights.
    """
    offered, model, weights = chosen
    is_ours = record.get("weights") == weights
    decoding = Decoding(**{name: record[name] for name in Decoding.model_fields if name in record})
    diameter, channels = record.get("diameter", model.card.diameter), record.get("channels")
    looks = record.get("resample", True), record.get("flips", False), channels and tuple(channels)
    settings = SegmentationSettings(diameter, decoding, *looks)
    used, key = (model, offered.key) if is_ours else (None, "")
    made, hashes = (used, key, record.get("weights", ""), settings), record.get("masks", {})
    return [
        SegmentedImage(layout.image_name(masks), image, masks, *made, tuple(hashes.get(masks, ())))
        for image, masks in files
        if masks.exists()
    ]


class ClassesChanged(ImageError):
    """Another window or program has changed a list of classes since it was read."""


class ClassFile:
    """``classes.csv``: the classes of an experiment and their colours, shared by all its images.

    Two windows do not merge their lists: the later one writes nothing.
    """

    def __init__(self, masks: Path) -> None:
        self.folder = experiment_of(masks)
        self.file = self.folder / layout.CLASSES
        self._seen: bytes | None = None  # as it was when it was last read or written here

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassFile) and self.file == other.file

    def read(self) -> dict[str, str]:
        """Names and colours of the classes; ImageError where the file is no such list."""
        self._seen = None
        with telling("the list of classes cannot be read", self.file, SHARED, ImageError):
            content = self._content()
            table, _ = self._parse(content)
        self._seen = content
        return dict(table["colour"])

    def write(self, classes: Classes) -> None:
        """Write the classes; `ClassesChanged` if somebody else has, since they were read."""
        what = "the list of classes cannot be written"
        with telling(what, self.file, SHARED, ImageError), alone(self.file, -1):
            content = self._content()
            table, separator = self._parse(content)
            if [*table["colour"].items()] != [*classes.items()]:
                if content is not None and content != self._seen:
                    what = "another window has changed the classes of this folder meanwhile"
                    remedy = "Open the image again: it then has the classes of both."
                    raise ClassesChanged(what, where=self.file, remedy=remedy)
                table = table.reindex([*classes]).fillna("")
                table["class"], table["colour"] = [*classes], [*classes.values()]
                with whole(self.file) as scratch:
                    table.to_csv(scratch, sep=separator, index=False)
            self._seen = self._content()

    def others(self, name: str, masks: Path) -> list[str]:
        """Names of the other images of the experiment whose saved cells have a class."""
        found = (table.name.removesuffix(layout.CELLS) for table in self._find(name, masks))
        return list(dict.fromkeys(found))

    def rename(self, old: str, new: str, masks: Path) -> tuple[list[str], list[str]]:
        """Rename a class in other images; those concerned, and those that have unsaved edits."""
        renamed, left = [], []
        for table in self._find(old, masks):
            image = table.name.removesuffix(layout.CELLS)
            if any(table.parent.glob(f".{escape(image)}{layout.MASKS}.*{layout.EDITS}")):
                left.append(image)
                continue
            try:
                with whole(table) as scratch:
                    frame, separator = read_table(table.read_bytes())
                    frame["class"] = frame["class"].where(frame["class"] != old, new)
                    frame.to_csv(scratch, sep=separator, index=False)
                renamed.append(image)
            except (OSError, ValueError, KeyError, csv.Error):
                left.append(image)
        return renamed, left

    def _find(self, name: str, masks: Path) -> list[Path]:
        """Lists of cells of other images that name a class; a damaged one names none."""
        found = []
        places = [self.folder / part for part in ("", layout.SHOT, layout.QUERY, layout.CORRECTED)]
        ending = f"[!.]*{layout.CELLS}"
        for table in (file for place in places for file in natsorted(place.glob(ending), str)):
            with suppress(OSError, ValueError, KeyError, csv.Error):
                kinds = read_table(table.read_bytes())[0]["class"]
                if table != layout.cells_path(masks) and (kinds == name).any():
                    found.append(table)
        return found

    def _content(self) -> bytes | None:
        return self.file.read_bytes() if self.file.exists() else None

    def _parse(self, content: bytes | None) -> tuple[pd.DataFrame, str]:
        """Rows of the list by class, and its separator; what is no colour becomes one of ours."""
        try:
            table, separator = read_table(b"class,colour" if content is None else content)
        except (ValueError, csv.Error):
            table, separator = pd.DataFrame(), ","
        if "class" not in table:
            what = "this is no list of classes: it has no column 'class'"
            remedy = "Give it one, or move it away; it is not changed until then."
            raise ImageError(what, where=self.file, remedy=remedy)
        table["class"] = table["class"].str.split().str.join(" ")
        table = table[table["class"] != ""].drop_duplicates("class").set_index("class", drop=False)
        found = dict.fromkeys(table.index, "")
        for name, text in table.get("colour", {}).items():
            with suppress(ImageError):
                found[name] = parse_colour(text)
        for name, colour in found.items():
            found[name] = colour or choose_colour(found)
        return table.assign(colour=pd.Series(found, dtype=str)), separator

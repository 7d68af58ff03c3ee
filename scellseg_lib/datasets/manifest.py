"""What a data set is: one validated YAML each in ``data_manifests/``.

A manifest says where a data set comes from and on what terms, how its raw archives become
images and instance masks, which files result (``NAME_img.png`` and ``NAME_masks.png``, the
Cellpose layout), and which of them serve for what.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import yaml
from natsort import natsorted
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scellseg_lib import paths
from scellseg_lib.datasets.convert import CONVERTERS
from scellseg_lib.errors import DatasetError, ManifestError

_Schema = TypeVar("_Schema", bound=BaseModel)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Split = Annotated[
    str,
    Field(pattern=r"^(shot|query|pretrain|validation|general_test|contrast:\w+|subset:\w+)$"),
]
Plane = Annotated[str, Field(pattern=r"^(red|green|blue|gray|none|\d+)$")]


class _Strict(BaseModel):
    """Unknown fields are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Strict):
    """One file to download, or for the user to put in place where access is manual."""

    url: str = Field(pattern=r"^(https?://|pip:)\S+$")
    file: FileName
    sha256: Sha256 | None = Field(description="Of the file; null where it is not known to us.")
    members: str = Field("*", description="Which members are unpacked (shell wildcards).")


class Entry(_Strict):
    """One image and its instance masks.

    The hashes are of the decoded pixels, see `images.pixel_hash`; null where they are not known to
    us. ``shape`` and ``dtype`` are the image's; masks are uint16[H, W], 0 background, and hold
    ``cells`` cells of the median ``diameter`` in pixels. ``source`` is what the converter finds
    the raw files by, or, where access is manual, the place in the source.
    """

    image: FileName
    masks: FileName
    splits: tuple[Split, ...] = ()
    shape: tuple[int, int] | tuple[int, int, int] | None = None
    dtype: Literal["uint8", "uint16", "float32"] | None = None
    image_sha256: Sha256 | None = None
    masks_sha256: Sha256 | None = None
    diameter: float | None = None
    cells: Annotated[int, Field(ge=0)] | None = None
    kind: str | None = None
    source: str | None = None

    @property
    def name(self) -> str:
        """Name of the sample: the image's file name without ``_img.png``."""
        return self.image.removesuffix("_img.png")

    @property
    def style(self) -> str | None:
        """Contrast style, where the entry is of one."""
        styles = [s.partition(":")[2] for s in self.splits if s.startswith("contrast:")]
        return styles[0] if styles else None


class Group(_Strict):
    """Files whose names and hashes we do not know one by one, only where they come from.

    ``source`` tells the converter where in the raw archives they lie; they are stored as
    ``PREFIX`` + their own name. ``count`` is how many the publisher or the paper names.
    ``ranges`` (first and last, both included) and ``picks`` give further splits to files whose
    own name is such a number.
    """

    source: str
    prefix: FileName
    splits: tuple[Split, ...]
    count: int | None = Field(gt=0)
    ranges: dict[Split, tuple[int, int]] = {}
    picks: dict[Split, tuple[int, ...]] = {}

    def entries(self, folder: Path) -> Iterator[Entry]:
        """Entries for the files of this group that lie in `folder`, in natural order."""
        for path in natsorted(folder.glob(f"{self.prefix}*_img.png")):
            name = path.name.removesuffix("_img.png")
            number = name.removeprefix(self.prefix)
            splits = self.splits_of(int(number) if number.isdigit() else -1)
            yield Entry(image=path.name, masks=f"{name}_masks.png", splits=splits)

    def splits_of(self, number: int) -> tuple[Split, ...]:
        """Splits of the file of that number; -1 for one whose name is no number."""
        ranged = (s for s, (first, last) in self.ranges.items() if first <= number <= last)
        picked = (s for s, numbers in self.picks.items() if number in numbers)
        return (*self.splits, *ranged, *picked)


class Manifest(_Strict):
    """A data set: origin, licence, archives, converter, files and splits."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    citation: str
    licence: str
    licence_url: str | None
    access: Literal["open", "manual"]
    instructions: str | None = Field(None, description="What the user does where access is manual.")
    note: str | None = None
    source: dict[Literal["repository", "commit", "folder"], str] | None = None
    archives: tuple[Archive, ...] = ()
    converter: str | None = None
    channels: tuple[Plane, Plane] = Field(description="The plane to segment, the nucleus plane.")
    files: tuple[Entry, ...] = ()
    groups: tuple[Group, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.files) == bool(self.groups):
            raise ValueError("a data set has either files or groups")
        if self.access == "manual" and not self.instructions:
            raise ValueError("manual access needs instructions")
        if self.access == "open" and not (self.archives and self.converter):
            raise ValueError("open access needs archives and a converter")
        if self.converter not in (None, *CONVERTERS) or (self.converter and not self.archives):
            raise ValueError(f"a converter ({', '.join(CONVERTERS)}) needs archives")
        names = [name for entry in self.files for name in (entry.image, entry.masks)]
        if len(set(names)) != len(names):
            raise ValueError("a file is named twice")
        for entry in self.files:
            _keep_apart(entry.image, entry.splits)
        for group in self.groups:
            ends = [number for pair in group.ranges.values() for number in pair]
            picked = [number for numbers in group.picks.values() for number in numbers]
            for number in sorted({-1, *ends, *picked}):
                _keep_apart(f"image {number} of {group.prefix}*", group.splits_of(number))
        return self

    @property
    def folder(self) -> Path:
        """Where the images and masks of this data set lie at rest."""
        return paths.data() / self.name

    def entries(self, folder: Path | None = None) -> tuple[Entry, ...]:
        """All images: those listed, or, for groups, those found in `folder` (the data folder)."""
        found = (e for group in self.groups for e in group.entries(folder or self.folder))
        return self.files or tuple(found)


def _keep_apart(image: str, splits: Collection[str]) -> None:
    """Refuse an image that serves for two of training, validation and test."""
    trains = not {"shot", "pretrain"}.isdisjoint(splits)
    validates, tests = "validation" in splits, not {"query", "general_test"}.isdisjoint(splits)
    if trains + validates + tests > 1:
        raise ValueError(f"{image} both trains and tests, or validates: {', '.join(splits)}")


class SubsetPart(_Strict):
    """A data set, or those of its images that are of one kind, contrast style or further split."""

    dataset: str
    kind: str | None = None
    style: str | None = None
    split: Split = "pretrain"

    def includes(self, entry: Entry) -> bool:
        """Whether an entry of the data set belongs to this part."""
        return (
            {"pretrain", self.split} <= {*entry.splits}
            and self.kind in (None, entry.kind)
            and self.style in (None, entry.style)
        )


class _Subsets(_Strict):
    """Series of nested pre-training subsets, each as what it adds to the one before."""

    series: dict[str, dict[str, tuple[SubsetPart, ...]]]


def list_manifests() -> list[str]:
    """List the data sets with a manifest (files of another kind have no ``name:`` on top)."""
    files = sorted(paths.manifests().glob("*.yaml"))
    return [f.stem for f in files if f.read_text(encoding="utf-8").startswith("name:")]


def load_manifest(name: str) -> Manifest:
    """Read and check the manifest of a data set.

    DatasetError if there is none of that name, ManifestError, which names each wrong field, if it
    does not follow the schema.
    """
    if name not in list_manifests():
        raise DatasetError(
            f"no data set is called {name!r}", remedy=f"There are: {', '.join(list_manifests())}."
        )
    path = paths.manifests() / f"{name}.yaml"
    manifest = _parse(path, Manifest)
    if manifest.name != name:
        raise ManifestError(
            f"the manifest is named {manifest.name!r}",
            where=path,
            remedy="Give the file and its field `name` the same name.",
        )
    return manifest


def load_subsets() -> dict[str, tuple[SubsetPart, ...]]:
    """Read the nested pre-training subsets, each with all its parts.

    There are three series, each from the poorest on: the paper's Sneuro to Sgeneral, those by the
    same principle of the data at hand ("one" to "general"), and synthetic ones.
    """
    nested: dict[str, tuple[SubsetPart, ...]] = {}
    for added in _parse(paths.manifests() / "pretraining_subsets.yaml", _Subsets).series.values():
        so_far: tuple[SubsetPart, ...] = ()
        for subset, parts in added.items():
            so_far = nested[subset] = so_far + parts
    return nested


@cache
def _parse(path: Path, schema: type[_Schema]) -> _Schema:
    # The C loader reads the large manifests ten times faster; it is not in every build.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return schema.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=loader))
    except (OSError, yaml.YAMLError) as error:
        raise ManifestError(
            f"the manifest cannot be read ({error})",
            where=path,
            remedy="Check that you may read the file, and mend the line if one is named.",
        ) from error
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise ManifestError(
            f"the manifest does not follow the schema ({'; '.join(faults)})",
            where=path,
            remedy="Mend the fields named; scellseg_lib/datasets/manifest.py says what each holds.",
        ) from error

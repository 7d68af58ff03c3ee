"""What a data set is, whence, on what terms: one validated YAML each in ``data_manifests/``."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from natsort import natsorted
from pydantic import BaseModel, Field, TypeAdapter

from scellseg_lib import paths
from scellseg_lib.errors import DatasetError, ManifestError, telling

_Schema = TypeVar("_Schema")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
DEEPEST = 100  # nested brackets of a file
SPLITS = r"^(shot|query|pretrain|validation|general_test|contrast:\w+|subset:\w+)$"
Split = Annotated[str, Field(pattern=SPLITS)]
Plane = Annotated[str, Field(pattern=r"^(red|green|blue|gray|none|\d+)$")]


class Archive(BaseModel, extra="forbid", frozen=True):
    """One file to download, or for the user to put in place where access is manual."""

    url: str = Field(pattern=r"^(https?://|pip:)\S+$")
    file: FileName
    sha256: Sha256 | None  # null where it is not known to us
    members: str = "*"  # which are unpacked (shell pattern)


class Entry(BaseModel, extra="forbid", frozen=True):
    """One image, and its instance masks as uint16[H, W]; null is what is not known to us."""

    image: FileName
    masks: FileName
    splits: tuple[Split, ...] = ()
    shape: tuple[int, int] | tuple[int, int, int] | None = None  # of the image
    dtype: Literal["uint8", "uint16", "float32"] | None = None
    image_sha256: Sha256 | None = None  # of the decoded pixels, see `images.pixel_hash`
    masks_sha256: Sha256 | None = None
    diameter: float | None = None  # median of the cells, in pixels
    cells: Annotated[int, Field(ge=0)] | None = None
    kind: str | None = None
    source: str | None = None  # what the converter finds the raw files by

    @property
    def name(self) -> str:
        """Name of the sample: the image's file name without ``_img.png``."""
        return self.image.removesuffix("_img.png")

    @property
    def style(self) -> str | None:
        """Contrast style, where the entry is of one."""
        return next((s.partition(":")[2] for s in self.splits if s.startswith("contrast:")), None)


class Group(BaseModel, extra="forbid", frozen=True):
    """Files of which it is known where they come from, stored as ``prefix`` + their name."""

    source: str  # what the converter finds the raw files by
    prefix: FileName
    splits: tuple[Split, ...]
    count: int | None = Field(gt=0)  # that the publisher or the paper names
    ranges: dict[Split, tuple[int, int]] = {}  # of numbers that are names, first to last
    picks: dict[Split, tuple[int, ...]] = {}

    def entries(self, folder: Path) -> Iterator[Entry]:
        """Entries for the files of this group that lie in `folder`, in natural order."""
        for path in natsorted(folder.glob(f"{self.prefix}*_img.png")):
            name = path.name.removesuffix("_img.png")
            number = name.removeprefix(self.prefix)
            splits = self.splits_of(int(number)) if number.isdigit() else self.splits
            yield Entry(image=path.name, masks=f"{name}_masks.png", splits=splits)

    def splits_of(self, number: int) -> tuple[Split, ...]:
        """Splits of the file of that number."""
        ranged = (s for s, (first, last) in self.ranges.items() if first <= number <= last)
        picked = (s for s, numbers in self.picks.items() if number in numbers)
        return (*self.splits, *ranged, *picked)


class Manifest(BaseModel, extra="forbid", frozen=True):
    """A data set: origin, licence, archives, converter, and either files or groups of them."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    citation: str
    licence: str
    licence_url: str | None
    access: Literal["open", "manual"]
    instructions: str | None = None  # what the user does where access is manual
    note: str | None = None
    modality: str | None = None  # of the microscopy, for Extended Data Table 1
    source: dict[Literal["repository", "commit", "folder"], str] | None = None
    archives: tuple[Archive, ...] = ()
    converter: Literal["bbbc010", "dsb2018", "livecell", "cellpose"] | None = None
    channels: tuple[Plane, Plane]  # to segment, nucleus
    files: tuple[Entry, ...] = ()
    groups: tuple[Group, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the images and masks of this data set lie at rest."""
        return paths.data() / self.name

    def entries(self, folder: Path | None = None) -> tuple[Entry, ...]:
        """All images: those listed, or, for groups, those found in `folder` (the data folder)."""
        found = (e for group in self.groups for e in group.entries(folder or self.folder))
        return self.files or tuple(found)


class SubsetPart(BaseModel, extra="forbid", frozen=True):
    """A data set, or those of its images that are of one kind, contrast style or further split."""

    dataset: str
    kind: str | None = None
    style: str | None = None
    split: Split = "pretrain"

    def includes(self, entry: Entry) -> bool:
        """Whether an entry of the data set belongs to this part."""
        is_alike = self.kind in (None, entry.kind) and self.style in (None, entry.style)
        return is_alike and {"pretrain", self.split} <= {*entry.splits}


# Nested pre-training subsets of each series, each as what it adds to the one before.
_Series = dict[Literal["series"], dict[str, dict[str, tuple[SubsetPart, ...]]]]


def list_manifests() -> list[str]:
    """List the data sets with a manifest (files of another kind have no ``name:`` on top)."""
    files = sorted(paths.MANIFESTS.glob("*.yaml"))
    return [f.stem for f in files if f.is_file() and f.read_bytes().startswith(b"name:")]


def load_manifest(name: str) -> Manifest:
    """Read the manifest of a data set; ManifestError names each field that is wrong."""
    if name not in list_manifests():
        remedy = f"There are: {', '.join(list_manifests())}."
        raise DatasetError(f"no data set is called {name!r}", remedy=remedy)
    return _parse(paths.MANIFESTS / f"{name}.yaml", Manifest)


def load_subsets() -> dict[str, tuple[SubsetPart, ...]]:
    """Read the nested pre-training subsets: the paper's, of the data at hand, synthetic ones."""
    nested: dict[str, tuple[SubsetPart, ...]] = {}
    series = _parse(paths.MANIFESTS / "pretraining_subsets.yaml", _Series)["series"]
    for added in series.values():
        nested |= zip(added, accumulate(added.values()), strict=True)
    return nested


@cache
def _parse(path: Path, schema: type[_Schema]) -> _Schema:
    remedy = "Mend what is named; scellseg_lib/datasets/manifest.py says what fields hold."
    with telling("the manifest cannot be read", path, remedy, ManifestError):
        return TypeAdapter(schema).validate_python(read_yaml(path))


def read_yaml(path: Path) -> Any:
    """Content of a YAML file; RecursionError before the C loader dies of its nesting."""
    text = path.read_text(encoding="utf-8")
    depths = accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", text))
    if max(depths, default=0) > DEEPEST or re.search(rf"(\?|-)(\s+(\?|-)){{{DEEPEST}}}", text):
        raise RecursionError
    # The C loader reads the large manifests ten times faster; it is not in every build.
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

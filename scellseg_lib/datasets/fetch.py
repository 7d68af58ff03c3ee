"""Data sets from their publishers: downloaded, verified, unpacked and converted.

Archives stay in ``CACHE/downloads/NAME``; images and masks go to ``DATA/NAME``, whole or not at
all. ``SCELLSEG_DATA`` says where DATA is, ``SCELLSEG_OFFLINE=1`` forbids any use of the network.
"""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from scellseg_lib import paths
from scellseg_lib.datasets import convert, weights
from scellseg_lib.datasets.download import download, is_whole
from scellseg_lib.datasets.manifest import Archive, Entry, Manifest, load_manifest
from scellseg_lib.datasets.unpack import DAMAGED, unpack
from scellseg_lib.errors import DatasetError, FetchError, ImageError, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.progress import progress_bar

_CHANGED = "The publisher may have changed the files; please report it."

State = Literal["ok", "missing", "different", "present, no hash published here"]


class Finding(NamedTuple):
    """What is known of one file; ``detail`` says why it is different or missing."""

    file: str
    state: State
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What `verify` found of a data set's files."""

    name: str
    folder: Path
    findings: tuple[Finding, ...]

    def of(self, state: State) -> list[Finding]:
        """The findings of one state."""
        return [finding for finding in self.findings if finding.state == state]

    @property
    def complete(self) -> bool:
        """Whether no file is missing or different (those without a hash are taken as they are)."""
        return not (self.of("missing") or self.of("different"))

    def __str__(self) -> str:
        counts = Counter(finding.state for finding in self.findings)
        lines = [f"{self.name} ({self.folder})", *(f"  {n} {state}" for state, n in counts.items())]
        wrong = self.of("missing") + self.of("different")
        lines += [f"  {f.state}: {f.file}{f' ({f.detail})' if f.detail else ''}" for f in wrong]
        return "\n".join(lines)


def path(name: str) -> Path:
    """Folder of a data set's images and masks, whether it is there yet or not."""
    return load_manifest(name).folder


def verify(name: str) -> Report:
    """Compare the files of a data set with its manifest: pixels, sizes and types.

    Parameters
    ----------
    name : str
        Of a manifest.

    Returns
    -------
    Report
        ``str(report)`` is what a user should see.
    """
    card = load_manifest(name)
    return _report(card, card.folder)


def fetch(name: str) -> Path:
    """Get a data set, unless it is there already.

    Parameters
    ----------
    name : str
        Of a manifest.

    Returns
    -------
    Path
        Folder with ``NAME_img.png`` and ``NAME_masks.png``, verified.

    Raises
    ------
    FetchError
        If the data set cannot be had: access is manual, the network is forbidden or fails, the
        disk is full, an archive is unsafe, or what came is not what the manifest promises.
        Nothing half-written is left.
    """
    card = load_manifest(name)
    if _report(card, card.folder).complete:
        return card.folder
    if card.converter is None:
        raise _by_hand(card)
    converter, total = convert.CONVERTERS[card.converter], len(card.files) or None
    with _storing(card.folder):
        archives = [_obtain(card, archive) for archive in card.archives]
        card.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=card.folder.parent) as work:
            raw, made = Path(work, "raw"), Path(work, "made")
            for archive, file in zip(card.archives, archives, strict=True):
                # Apart, for archives may hold the same names, with or without a top folder.
                _unpack_or_drop(card, archive, file, raw / Path(archive.file).stem)
            made.mkdir()
            try:
                pictures = _pictures(card, converter, convert.RawFiles.under(raw))
                for picture, *files in progress_bar(pictures, total, f"Converting {name}"):
                    convert.write_picture(picture, *(made / file for file in files))
                report = _report(card, made)
                if not report.complete:
                    what = f"not what the manifest promises:\n{report}\nNone is kept"
                    raise DatasetError(what, remedy=_CHANGED)
            except (DatasetError, ImageError) as error:
                raise FetchError(
                    f"the archives of {name} do not hold what they should: {error.what}",
                    where=_downloads(card),
                    remedy=_CHANGED,
                ) from error
            card.folder.mkdir(exist_ok=True)
            for file in made.iterdir():
                file.replace(card.folder / file.name)
    return card.folder


def _by_hand(card: Manifest) -> FetchError:
    """The error of a data set that cannot be fetched without the user's help."""
    into = f" Put the archives into {_downloads(card)}." if card.archives else ""
    return FetchError(
        f"the data set {card.name} cannot be downloaded automatically",
        where=card.folder,
        remedy=f"{card.instructions}{into}",
    )


def _downloads(card: Manifest) -> Path:
    return paths.cache() / "downloads" / card.name


def _report(card: Manifest, folder: Path) -> Report:
    """Compare the files in `folder` with a manifest."""
    entries = card.entries(folder)
    shown = progress_bar(entries, len(entries), f"Checking {card.name}")
    findings = [finding for entry in shown for finding in _check(entry, folder)]
    for group in card.groups:
        found = sum(1 for _ in group.entries(folder))
        if found < (group.count or 1):
            detail = f"{found} of {group.count or 'an unknown number of'} images"
            findings.append(Finding(f"{group.prefix}*_img.png", "missing", detail))
    return Report(card.name, folder, tuple(findings))


def _check(entry: Entry, folder: Path) -> Iterator[Finding]:
    """Findings on the image and the masks of one entry."""
    size = entry.shape and entry.shape[:2]
    yield _compare(folder / entry.image, entry.image_sha256, entry.shape, entry.dtype)
    yield _compare(folder / entry.masks, entry.masks_sha256, size, "uint16")


def _compare(
    file: Path, sha256: str | None, shape: tuple[int, ...] | None, dtype: str | None
) -> Finding:
    """What is known of one file, against what its manifest promises."""
    if not file.is_file():
        return Finding(file.name, "missing")
    try:
        pixels = readers.read_pixels(file)
    except ImageError as error:
        return Finding(file.name, "different", error.what)
    if shape is not None and (pixels.shape != shape or pixels.dtype != dtype):
        detail = f"{pixels.dtype} {pixels.shape} instead of {dtype} {shape}"
        return Finding(file.name, "different", detail)
    if sha256 is None:
        return Finding(file.name, "present, no hash published here")
    same = readers.pixel_hash(pixels) == sha256
    return Finding(file.name, "ok") if same else Finding(file.name, "different", "its pixels")


def _pictures(
    card: Manifest, converter: convert.Converter, raw: convert.RawFiles
) -> Iterator[tuple[convert.Picture, str, str]]:
    """All pictures of a data set, each with the names of its image file and its masks file."""
    for entry in card.files:
        found = list(converter(raw, entry.source or entry.name))
        if len(found) != 1:
            raise DatasetError(f"{len(found)} raw images match {entry.name}", remedy=_CHANGED)
        yield found[0], entry.image, entry.masks
    for group in card.groups:
        for picture in converter(raw, group.source):
            name = f"{group.prefix}{picture.name}"
            yield picture, f"{name}_img.png", f"{name}_masks.png"


def _obtain(card: Manifest, archive: Archive) -> Path:
    """Path of a downloaded archive, which has the promised hash where one is known."""
    if archive.url.startswith("pip:"):
        return _from_package(archive)
    file = _downloads(card) / archive.file
    if card.access == "manual" and not is_whole(file, archive.sha256):
        raise _by_hand(card)
    return download(archive.url, file, archive.sha256)


def _from_package(archive: Archive) -> Path:
    """The authors' source archive, which the module of their weights finds and checks."""
    try:
        file = weights.fetch_archive()
    except ScellsegError as error:
        raise FetchError(error.what, where=error.where, remedy=error.remedy) from error
    if not is_whole(file, archive.sha256):
        raise FetchError(
            f"this is not the archive with SHA-256 {archive.sha256}",
            where=file,
            remedy="Delete it and try again; if it comes again, the manifest is wrong.",
        )
    return file


def _unpack_or_drop(card: Manifest, archive: Archive, file: Path, folder: Path) -> None:
    """Unpack a file; a damaged one that was downloaded is deleted, so that a second try helps."""
    try:
        unpack(file, folder, archive.members)
    except DAMAGED as error:
        if card.access == "open":
            file.unlink(missing_ok=True)
        raise FetchError(
            f"the archive is damaged ({error})", where=file, remedy="Download it again."
        ) from error


@contextmanager
def _storing(where: Path) -> Iterator[None]:
    """Turn what the file system refuses into a FetchError."""
    try:
        yield
    except OSError as error:
        what = f"the files cannot be stored ({error.strerror or error})"
        remedy = "Set SCELLSEG_DATA and SCELLSEG_CACHE to folders that you may write to."
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = "the disk is full"
            remedy = (
                "Free some space, or set SCELLSEG_DATA and SCELLSEG_CACHE to folders on another "
                "disk. Nothing half-written was kept."
            )
        raise FetchError(what, where=error.filename or where, remedy=remedy) from error

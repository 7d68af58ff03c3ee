"""Data sets from their publishers: downloaded, unpacked, converted and verified.

Archives stay in ``CACHE/downloads/NAME``; images and masks go to ``DATA/NAME``, or not at all.
"""

import errno
import hashlib
import shutil
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PureWindowsPath
from typing import Literal, NamedTuple

from scellseg_lib import paths
from scellseg_lib.datasets import convert, weights
from scellseg_lib.datasets.convert import Picture, write_picture
from scellseg_lib.datasets.download import download, is_whole
from scellseg_lib.datasets.manifest import Archive, Manifest, load_manifest
from scellseg_lib.errors import DatasetError, FetchError, ImageError, explain
from scellseg_lib.files.images import pixel_hash, read_pixels
from scellseg_lib.progress import progress_bar

_OF_NAMES = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ, None)
_CHANGED = "The publisher may have changed the files; please report it."


class ArchiveDamaged(FetchError):
    """The ``archive`` cannot be read to its end."""

    archive: Path


class CheckedFile(NamedTuple):
    """What is known of one file, and why it is different or missing."""

    file: str
    state: Literal["ok", "missing", "different", "present, no hash published here"]
    detail: str = ""


class Report(NamedTuple):
    """What `verify` found of a data set's files; ``str`` is what a user should see."""

    title: str
    files: tuple[CheckedFile, ...]

    @property
    def wrong(self) -> list[CheckedFile]:
        """Files that are missing or different; those without a hash are taken as they are."""
        return [file for file in self.files if file.state in ("missing", "different")]

    def __str__(self) -> str:
        lines = [f"{n} {state}" for state, n in Counter(f.state for f in self.files).items()]
        lines += [f"{f.state}: {f.file} ({f.detail})".removesuffix(" ()") for f in self.wrong]
        return "\n  ".join([self.title, *lines])


def verify(name: str) -> Report:
    """Compare the files of a data set with its manifest: pixels, sizes and types."""
    card = load_manifest(name)
    return _compare(card, card.folder)


def fetch(name: str) -> Path:
    """Get a data set, unless it is there already; returns the folder of its verified files.

    FetchError, and nothing half-written, if it cannot be had or is not what the manifest promises.
    """
    card = load_manifest(name)
    if not _compare(card, card.folder).wrong:
        return card.folder
    if card.converter is None:
        raise _ask_user(card)
    try:
        archives = [_obtain(card, archive) for archive in card.archives]
        card.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=card.folder.parent) as work:
            raw, made = Path(work, "raw"), Path(work, "made")
            for archive, file in zip(card.archives, archives, strict=True):
                # Apart, for archives may hold the same names, with or without a top folder.
                unpack(file, raw / Path(archive.file).stem, archive.members)
            made.mkdir()
            _convert(card, raw, made)
            card.folder.mkdir(exist_ok=True)
            for file in made.iterdir():
                file.replace(card.folder / file.name)
    except ArchiveDamaged as damaged:
        if card.access == "open":  # so that a second try helps
            damaged.archive.unlink(missing_ok=True)
        raise
    except OSError as error:
        what = f"the files cannot be stored ({explain(error)})"
        remedy = "Free some space, or set SCELLSEG_DATA and SCELLSEG_CACHE to other folders."
        raise FetchError(what, where=error.filename or card.folder, remedy=remedy) from error
    return card.folder


def _ask_user(card: Manifest) -> FetchError:
    """The error of a data set that cannot be fetched without the user's help."""
    what = f"the data set {card.name} cannot be downloaded automatically"
    into = f" Put the archives into {_downloads(card)}." if card.archives else ""
    return FetchError(what, where=card.folder, remedy=f"{card.instructions}{into}")


def _downloads(card: Manifest) -> Path:
    return paths.cache() / "downloads" / card.name


def _obtain(card: Manifest, archive: Archive) -> Path:
    """Path of a downloaded archive, which has the promised hash where one is known."""
    if archive.url.startswith("pip:"):
        return weights.fetch_archive()
    file = _downloads(card) / archive.file
    if card.access == "manual" and not is_whole(file, archive.sha256):
        raise _ask_user(card)
    return download(archive.url, file, archive.sha256)


def _convert(card: Manifest, raw: Path, folder: Path) -> None:
    """Write the images and masks of a data set, which must be those of its manifest."""
    pictures, total = _pictures(card, raw), len(card.files) or None
    try:
        for picture, *files in progress_bar(pictures, total, f"Converting {card.name}"):
            write_picture(picture, *(folder / file for file in files))
        report = _compare(card, folder)
        if report.wrong:
            what = f"not what the manifest promises:\n{report}\nNone is kept"
            raise DatasetError(what, remedy=_CHANGED)
    except (DatasetError, ImageError) as error:
        what = f"the archives of {card.name} do not hold what they should: {error.what}"
        raise FetchError(what, where=_downloads(card), remedy=_CHANGED) from error


def _pictures(card: Manifest, raw: Path) -> Iterator[tuple[Picture, str, str]]:
    """All pictures of a data set, each with the names of its image file and its masks file."""
    converter = getattr(convert, f"convert_{card.converter}")
    for entry in card.files:
        found = list(converter(raw, entry.source or entry.name))
        if len(found) != 1:
            raise DatasetError(f"{len(found)} raw images match {entry.name}", remedy=_CHANGED)
        yield found[0], entry.image, entry.masks
    for group in card.groups:
        for picture in converter(raw, group.source):
            name = f"{group.prefix}{picture.name}"
            yield picture, f"{name}_img.png", f"{name}_masks.png"


def unpack(archive: Path, folder: Path, members: str = "*") -> None:
    """Unpack what matches a shell pattern, if all of it is safe; copy what is no ZIP or TAR."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                files = [i for i in zipped.infolist() if fnmatchcase(i.filename, members)]
                _check_members(archive, [(i.filename, i.file_size) for i in files])
                zipped.extractall(folder, files)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tarred:
                found = [info for info in tarred if fnmatchcase(info.name, members)]
                hashlib.file_digest(tarred.fileobj, "md5")  # type: ignore[arg-type]  # to gzip's sum
                _check_members(archive, [(i.name + "/" * i.isdir(), i.size) for i in found])
                safe = [tarfile.data_filter(info, str(folder)) for info in found]
                tarred.extractall(folder, safe, filter="data")
        elif archive.suffix in (".zip", ".gz", ".tar", ".tgz"):
            raise zipfile.BadZipFile("it is not an archive at all")
        else:
            shutil.copyfile(archive, folder / archive.name)
    except tarfile.FilterError as error:
        what = f"the archive is refused: {error}"
        remedy = "It is not safe to unpack; nothing was. Get it from its publisher."
        raise FetchError(what, where=archive, remedy=remedy) from error
    except Exception as error:  # which a damaged archive may raise, of any kind
        if isinstance(error, OSError) and error.errno not in _OF_NAMES:  # a full disk
            raise
        what, remedy = f"the archive is damaged ({explain(error)})", "Download it again."
        raise ArchiveDamaged(what, where=archive, remedy=remedy, archive=archive) from error


def _check_members(archive: Path, members: list[tuple[str, int]]) -> None:
    """Refuse names that lead elsewhere on any system, or name a file twice, and too many bytes."""
    for name, path in ((name, PureWindowsPath(name)) for name, _ in members):
        if path.anchor or ".." in path.parts or not path.parts or "\0" in name:
            raise tarfile.FilterError(f"{name!r} leads elsewhere")
    files = Counter(name for name, _ in members if not name.endswith("/")).most_common(1)
    if files and files[0][1] > 1:
        raise tarfile.FilterError(f"{files[0][0]!r} is in it {files[0][1]} times")
    size, most = sum(size for _, size in members), 10**9 + 100 * archive.stat().st_size
    if size > most:
        raise tarfile.FilterError(f"it unpacks to {size / 1e9:.1f} GB, over {most / 1e9:.1f} GB")


def _compare(card: Manifest, folder: Path) -> Report:
    """Compare the files in `folder` with a manifest."""
    entries, files = card.entries(folder), []
    for entry in progress_bar(entries, len(entries), f"Checking {card.name}"):
        size = entry.shape and entry.shape[:2]
        files.append(_check(folder / entry.image, entry.image_sha256, entry.shape, entry.dtype))
        files.append(_check(folder / entry.masks, entry.masks_sha256, size, "uint16"))
    for group in card.groups:
        found = sum(1 for _ in group.entries(folder))
        if found < (group.count or 1):
            detail = f"{found} of {group.count or 'an unknown number of'} images"
            files.append(CheckedFile(f"{group.prefix}*_img.png", "missing", detail))
    return Report(f"{card.name} ({folder})", tuple(files))


def _check(file: Path, sha256: str | None, shape: object, dtype: str | None) -> CheckedFile:
    """What is known of one file, against what its manifest promises."""
    if not file.is_file():
        return CheckedFile(file.name, "missing")
    try:
        pixels = read_pixels(file)
    except ImageError as error:
        return CheckedFile(file.name, "different", error.what)
    if shape is not None and (pixels.shape != shape or pixels.dtype != dtype):
        detail = f"{pixels.dtype} {pixels.shape} instead of {dtype} {shape}"
        return CheckedFile(file.name, "different", detail)
    if sha256 is None:
        return CheckedFile(file.name, "present, no hash published here")
    if pixel_hash(pixels) != sha256:
        return CheckedFile(file.name, "different", "its pixels")
    return CheckedFile(file.name, "ok")

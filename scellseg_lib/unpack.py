"""Archives from elsewhere, unpacked within one folder or refused."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm.auto import tqdm

from scellseg_lib.errors import FetchError

DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # zipfile's for a password or an unknown compression
)
"""What reading a damaged archive raises."""


class _Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    plain: bool  # neither link nor device
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, members: str = "*") -> None:
    """Unpack a ZIP or TAR within a folder; any other file is copied there.

    Parameters
    ----------
    archive : Path
        Nothing is unpacked of one that holds a link, a device, or a name that leads elsewhere.
    folder : Path
        Made if need be.
    members : str
        Shell pattern of the members to unpack (``*`` crosses folders).

    Raises
    ------
    FetchError
        If the archive is unsafe, or larger than the free disk space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive)):
        if archive.suffix in (".zip", ".gz", ".tar", ".tgz"):
            raise zipfile.BadZipFile("it is not an archive at all")
        shutil.copyfile(archive, folder / archive.name)
        return
    with _listed(archive) as listed:
        for member in listed:
            if not member.plain or not _stays_inside(member.name):
                raise FetchError(
                    f"the archive holds {member.name!r}, a link or a name that leads elsewhere",
                    where=archive,
                    remedy="It is not safe to unpack; nothing was. Get it from its publisher.",
                )
        wanted = [m for m in listed if fnmatchcase(m.name, members)]
        needed, free = sum(m.size for m in wanted), shutil.disk_usage(folder).free
        if needed > free:
            raise FetchError(
                f"unpacking needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left",
                where=folder,
                remedy="Free some space, or set SCELLSEG_DATA to a folder on another disk.",
            )
        for member in tqdm(wanted, desc=f"Unpacking {archive.name}", disable=None, leave=False):
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = member.open()
            if source is not None:
                with source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)


@contextmanager
def _listed(archive: Path) -> Iterator[list[_Member]]:
    """The files of an open archive; folders are left out."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
            yield [
                _Member(
                    i.filename,
                    i.file_size,
                    stat.S_IFMT(i.external_attr >> 16) in (0, stat.S_IFREG),
                    partial(opened.open, i),
                )
                for i in infos
            ]
    else:
        with tarfile.open(archive) as tar:
            yield [
                _Member(i.name, i.size, i.isfile(), partial(tar.extractfile, i))
                for i in tar.getmembers()
                if not i.isdir()
            ]


def _stays_inside(name: str) -> bool:
    """Whether a member's name is relative and never climbs, on Windows too."""
    parts = PurePosixPath(name).parts
    return not (name.startswith("/") or "\\" in name or ".." in parts or ":" in name)

"""Archives from elsewhere, unpacked within one folder or refused."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from scellseg_lib.errors import FetchError
from scellseg_lib.progress import progress_bar

DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # zipfile's for a password or an unknown compression
)
"""What reading a damaged archive raises."""


class _Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    plain: bool  # neither link nor device
    open: Callable[[], Any]


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
    zipped = zipfile.is_zipfile(archive)
    if not zipped and not tarfile.is_tarfile(archive):
        if archive.suffix in (".zip", ".gz", ".tar", ".tgz"):
            raise zipfile.BadZipFile("it is not an archive at all")
        shutil.copyfile(archive, folder / archive.name)
        return
    with zipfile.ZipFile(archive) if zipped else tarfile.open(archive) as opened:
        listed = _files(opened)
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
        label = f"Unpacking {archive.name}"
        for member in progress_bar(wanted, len(wanted), label, unit="file"):
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)


def _files(opened: zipfile.ZipFile | tarfile.TarFile) -> list[_Member]:
    """All that an archive holds but folders."""
    if isinstance(opened, tarfile.TarFile):
        tarred = [i for i in opened if not i.isdir()]
        return [_Member(i.name, i.size, i.isfile(), partial(opened.extractfile, i)) for i in tarred]
    zipped = [i for i in opened.infolist() if not i.is_dir()]
    kinds = [stat.S_IFMT(i.external_attr >> 16) for i in zipped]  # 0 if it was not made on Unix
    return [
        _Member(i.filename, i.file_size, kind in (0, stat.S_IFREG), partial(opened.open, i))
        for i, kind in zip(zipped, kinds, strict=True)
    ]


def _stays_inside(name: str) -> bool:
    """Whether a member's name is relative and never climbs, on Windows too."""
    return not (name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"))

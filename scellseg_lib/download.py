"""One file from the network, whole or not at all; nothing else in the library downloads."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pooch
import requests
from tqdm.auto import tqdm

from scellseg_lib import paths
from scellseg_lib.errors import FetchError

ATTEMPTS = 5
PATIENCE = 1.0  # seconds before the second attempt; doubled for each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16  # bytes; what a cut connection can lose


def download(url: str, file: Path, sha256: str | None = None, session: Any = requests) -> Path:
    """Get one file, whole or not at all, unless it is there already.

    A cut connection is taken up where it broke, and a busy server asked again, a few times.

    Parameters
    ----------
    url : str
        ``http:`` or ``https:``; what ``file:`` names is copied.
    file : Path
        Where it goes; folders are made.
    sha256 : str, optional
        What the file must have; without it, any file of that name counts.
    session : requests.Session, optional
        For settings of the connection, such as which certificates to trust.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FetchError
        If the network is forbidden, the server refuses (404 and its like, at once) or cannot be
        reached, or what came is another file.
    """
    if paths.offline() and not is_whole(file, sha256):
        raise FetchError(
            f"there is no whole {file.name} here, and SCELLSEG_OFFLINE forbids the network",
            where=url,
            remedy=f"Unset SCELLSEG_OFFLINE, or put the file into {file.parent}.",
        )
    pooch.get_logger().setLevel("WARNING")
    known = f"sha256:{sha256}" if sha256 else None
    try:
        pooch.retrieve(url, known, file.name, file.parent, downloader=partial(_receive, session))
    except ValueError as error:  # how pooch says that the hash is wrong
        raise FetchError(
            f"what came does not have the SHA-256 {sha256}",
            where=url,
            remedy="Try again later; the publisher may have replaced the file.",
        ) from error
    return file


def is_whole(file: Path, sha256: str | None) -> bool:
    """Whether a file is there, with the hash that it must have where one is known."""
    return file.is_file() and (sha256 is None or pooch.file_hash(str(file)) == sha256)


def _receive(session: Any, url: str, output: str, _: Any) -> None:
    """Pooch's downloader: fill `output`, going on where it ends after each failure."""
    if url.startswith("file:"):
        shutil.copyfile(url2pathname(urlsplit(url).path), output)
        return
    file = Path(output)
    for attempt in range(ATTEMPTS):
        time.sleep(PATIENCE * (2**attempt // 2))  # none before the first
        try:
            _append(session, url, file)
            return
        except requests.RequestException as error:
            # No answer at all is like that of a server which is down.
            status = getattr(error.response, "status_code", 503)
            if status == 416:  # what we hold is not the beginning of what is there now
                file.write_bytes(b"")
            refused = status < 500 and status not in (408, 416, 429)
            if refused or attempt == ATTEMPTS - 1:
                raise FetchError(
                    f"the download failed ({error})",
                    where=url,
                    remedy="Check the connection and try again; the file may have moved.",
                ) from error


def _append(session: Any, url: str, file: Path) -> None:
    """Append to `file` what is missing of it; start anew where the server cannot resume."""
    have = file.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            have = 0
        length, name = answer.headers.get("Content-Length"), url.rpartition("/")[2]
        total = have + int(length) if length else None
        bar = tqdm(desc=name, total=total, initial=have, unit="B", unit_scale=True, disable=None)
        with bar, file.open("ab" if have else "wb") as out:
            for chunk in answer.iter_content(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and file.stat().st_size != total:
        raise requests.ConnectionError(f"{file.stat().st_size} of {total} bytes came")

"""One file from the network, whole or not at all; what has come so far lies in ``NAME.part``."""

import hashlib
import re
import shutil
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests

from scellseg_lib import paths
from scellseg_lib.errors import FetchError
from scellseg_lib.files.folder import alone
from scellseg_lib.progress import bar

ATTEMPTS = 5
PATIENCE = 1.0  # seconds before the second attempt; doubled for each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16  # bytes; what a cut connection can lose


def download(url: str, file: Path, sha256: str | None = None, session: Any = requests) -> Path:
    """Get one file, unless it is there with the hash that it must have; FetchError if it cannot be.

    What broke is taken up by this run or the next (pooch starts anew); a second process waits.
    """
    if is_whole(file, sha256):
        return file
    if paths.offline():
        remedy = f"Unset SCELLSEG_OFFLINE, or put {file.name} into {file.parent}."
        raise FetchError("SCELLSEG_OFFLINE forbids the network", where=url, remedy=remedy)
    with alone(file.with_name(f"{file.name}.part"), -1) as part:
        try:
            if not is_whole(file, sha256):  # now that nobody else is at it
                _receive(session, url, part, sha256)
                part.replace(file)
        except OSError as error:  # such as a full disk
            part.unlink(missing_ok=True)
            error.filename = str(file)
            raise
    return file


def is_whole(file: Path, sha256: str | None) -> bool:
    """Whether a file is there, with the hash that it must have where one is known."""
    if sha256 is None or not file.is_file():
        return file.is_file()
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == sha256


def _receive(session: Any, url: str, part: Path, sha256: str | None) -> None:
    """Fill `part` and check it; what an earlier run began wrongly is fetched anew, once."""
    resumed = part.is_file()
    if url.startswith("file:"):
        shutil.copyfile(url2pathname(urlsplit(url).path), part)
    else:
        _persist(session, url, part)
    if is_whole(part, sha256):
        return
    part.unlink()
    if not resumed:
        remedy = "Try again later; the publisher may have replaced the file."
        raise FetchError(f"what came does not have the SHA-256 {sha256}", where=url, remedy=remedy)
    _receive(session, url, part, sha256)


def _persist(session: Any, url: str, part: Path) -> None:
    """Fill `part`, going on where it ends, now and after each failure."""
    for attempt in range(ATTEMPTS):
        time.sleep(PATIENCE * (2**attempt // 2))  # none before the first
        try:
            _append(session, url, part)
            return
        except requests.RequestException as error:
            # No answer at all is like that of a server which is down.
            status = getattr(error.response, "status_code", 503)
            if status in (412, 416):  # what we hold is not the beginning of what is there now
                part.unlink(missing_ok=True)
            refused = status < 500 and status not in (408, 412, 416, 429)
            if refused or attempt == ATTEMPTS - 1:
                what = f"the download failed ({error})"
                remedy = "Check the connection, and try again: it goes on where it broke."
                raise FetchError(what, where=url, remedy=remedy) from error


def _append(session: Any, url: str, part: Path) -> None:
    """Append to `part` what is missing of it; start anew where the server cannot resume."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        # No hash may be known that would tell the beginning of one version from the end of another.
        unchanged = formatdate(part.stat().st_mtime, usegmt=True)
        headers |= {"Range": f"bytes={have}-", "If-Unmodified-Since": unchanged}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if have and answer.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing is missing
        answer.raise_for_status()
        hops = [hop.url for hop in (*answer.history, answer)]
        if url.startswith("https:") and not all(hop.startswith("https:") for hop in hops):
            what, remedy = "the server leads to an address without TLS", "Report it, please."
            raise FetchError(what, where=url, remedy=remedy)
        if answer.status_code != requests.codes.partial_content:
            have = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise requests.ConnectionError("another part came than was asked for")
        length, name = answer.headers.get("Content-Length", ""), url.rpartition("/")[2]
        total = have + int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
        shown = bar(total, name, "byte", initial=have, unit_scale=True)
        with shown, part.open("ab" if have else "wb") as out:
            for chunk in answer.iter_content(CHUNK):
                out.write(chunk)
                shown.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise requests.ConnectionError(f"{part.stat().st_size} of {total} bytes came")

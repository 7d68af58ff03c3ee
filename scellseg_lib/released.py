"""The authors' own weights, from the source archive of their package ``scellseg`` 0.1.8.

The archive is asked of the package index that pip is configured for, and opened only after its
pinned hash is found right. Nothing in it is run: the state dicts are read by torch's safe loader,
their keys renamed to ours, and kept as safetensors in the user's cache. The archive's code is BSD;
the weights were trained on the Cellpose data, whose terms are non-commercial.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname
from uuid import uuid4

import pooch
import requests
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from scellseg_lib import paths
from scellseg_lib.errors import ModelError

ARCHIVE = "scellseg-0.1.8.tar.gz"
ARCHIVE_SHA256 = "084c5f1b12d0d97f0c3d0880ae579c1b7c4f7dea2203486bd11ba4c640a92d3c"
WEIGHTS_FOLDER = "scellseg-0.1.8/scellseg/assets/pretrained_models"
WEIGHTS_SHA256 = {
    "scellseg": "37bd9eb7805ea4389dd0eb9e3f5afca8889b42e22daaf8cc0478bd14d5bb24db",
    "cellpose": "70885242cf9720cabd973fca8b014010e69609924b5f9fe007ae37198220b4e9",
}
"""The released state dicts that our networks can hold."""

_UP = r"upsample\.up\.res_up_(\d)\."
KEYS = (
    (r"downsample\.down\.res_down_(\d)\.proj\.", "extractor.down.units.{0}.projection."),
    (
        r"downsample\.down\.res_down_(\d)\.conv\.conv_(\d)\.",
        "extractor.down.units.{0}.convolutions.{1}.",
    ),
    (_UP + r"proj\.", "extractor.up.units.{deep}.projection."),
    (_UP + r"conv\.conv_0\.", "extractor.up.units.{deep}.entry."),
    (_UP + r"conv\.conv_(\d)\.conv\.", "extractor.up.units.{deep}.styled.{styled}.convolution."),
    (_UP + r"conv\.conv_(\d)\.full\.", "extractor.up.units.{deep}.styled.{styled}.shift."),
    (_UP + r"up_conv\.", "extractor.up.dense.{deep}."),
    (r"upsample\.up_conv\.up_conv_(\d)\.", "extractor.up.gates.{gate}.reduce."),
    (r"upsample\.attn\.attn_(\d)\.W_g\.", "extractor.up.gates.{gate}.from_decoder."),
    (r"upsample\.attn\.attn_(\d)\.W_x\.", "extractor.up.gates.{gate}.from_skip."),
    (r"upsample\.attn\.attn_(\d)\.psi\.", "extractor.up.gates.{gate}.psi."),
    (r"(?:tasker\.base_bn|output\.0)\.", "tasker.0."),
    (r"(?:tasker\.base_conv|output\.2)\.", "tasker.2."),
)
"""Beginnings of their keys and of ours; our upsampling pass counts levels from the deepest."""

_ATTEMPTS = 5
_TIMEOUT = (15, 60)  # seconds to connect, and between two pieces
_PATIENCE = 1.0  # seconds before the second attempt; doubled for each further one
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


def rename(key: str) -> str:
    """Give our name of a tensor in a released state dict (or in one of Cellpose 1 to 3).

    Raises
    ------
    ModelError
        When the key belongs to none of the paper's networks.
    """
    bare = key.removeprefix("extractor.")
    for pattern, ours in KEYS:
        if found := re.match(pattern, bare):
            numbers = [int(group) for group in found.groups()] or [0]
            level, last = numbers[0], numbers[-1]
            return (
                ours.format(*numbers, deep=3 - level, gate=2 - level, styled=last - 1)
                + bare[found.end() :]
            )
    raise ModelError(
        f"the tensor {key!r} belongs to none of the paper's networks",
        remedy="Give the state dict of a Scellseg or Cellpose network.",
    )


def state_dict(name: str) -> dict[str, Tensor]:
    """Get a released state dict in our key names, from the cache or through pip's index.

    Parameters
    ----------
    name : {"scellseg", "cellpose"}
        Full width (32, 64, 128, 256); float32, and int64 for the batch counters.

    Raises
    ------
    ModelError
        For another name (``hover`` is released, but as another network), and when the archive
        cannot be had: nothing else is ever given in its place.
    """
    expected = _expected_hash(name)
    cached = weights_file(name)
    origin = {"sha256": expected, "archive": ARCHIVE, "keys": _sha256(repr(KEYS).encode())}
    if (state := _read_cached(cached, origin)) is not None:
        return state
    theirs = torch.load(
        io.BytesIO(_member(source_archive(), name, expected)), weights_only=True, map_location="cpu"
    )
    state = {rename(key): tensor.clone() for key, tensor in theirs.items()}
    with _replacing(cached) as temporary:
        save_file(state, temporary, metadata=origin)
    return state


def weights_file(name: str) -> Path:
    """Where the cache holds a released state dict once it was fetched."""
    return paths.cache() / "released" / f"{name}.safetensors"


def source_archive() -> Path:
    """Get the authors' source archive (102 MB), from the cache or through pip's index.

    Returns
    -------
    Path
        A file whose SHA-256 is ``ARCHIVE_SHA256``.

    Raises
    ------
    ModelError
        When it cannot be had, with what each place answered.
    """
    archive = paths.cache() / "released" / ARCHIVE
    if archive.is_file() and pooch.file_hash(str(archive)) == ARCHIVE_SHA256:
        return archive
    by_hand = f"or put {ARCHIVE} (SHA-256 {ARCHIVE_SHA256}) there yourself."
    if paths.offline():
        raise ModelError(
            "no whole copy of the authors' archive is here, and SCELLSEG_OFFLINE is set",
            where=archive,
            remedy=f"Unset SCELLSEG_OFFLINE and run `scellseg models fetch`, {by_hand}",
        )
    failures: list[str] = []
    settings = _pip_settings()
    with requests.Session() as session, _replacing(archive) as part:
        session.verify = settings.get("cert") or True
        for page in _pages(settings, failures):
            try:
                url = _find(page, session)
                _fetch(url, part, session)
            except (OSError, ValueError, KeyError, ModelError) as error:
                failures.append(f"{_public(page)}: {_public(str(error))}")
                continue
            break
        else:
            raise ModelError(
                "the authors' archive cannot be had: " + "; ".join(failures),
                where=archive,
                remedy=f"Check the connection and `pip config list`, {by_hand}",
            )
    return archive


def _expected_hash(name: str) -> str:
    """SHA-256 of the released file, or the reason why there is none for us."""
    if name == "hover":
        raise ModelError(
            "the released `hover` weights are of another network: channel and spatial attention "
            "inside each style block, which the released code itself cannot build",
            remedy='Use load_model("hover", weights="packaged"), or pre-train it.',
        )
    if name not in WEIGHTS_SHA256:
        raise ModelError(
            f"the authors released no weights named {name!r}",
            remedy=f"Choose one of {list(WEIGHTS_SHA256)}, or other weights.",
        )
    return WEIGHTS_SHA256[name]


def _read_cached(cached: Path, origin: dict[str, str]) -> dict[str, Tensor] | None:
    """State dict converted earlier from the same source with the same names, if whole."""
    try:
        with safe_open(cached, "pt") as file:
            if file.metadata() != origin:
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return None


def _member(archive: Path, name: str, expected: str) -> bytes:
    """Bytes of one released file, read without unpacking the archive."""
    member = f"{WEIGHTS_FOLDER}/{name}"
    try:
        with tarfile.open(archive, "r:gz") as tar:
            file = tar.extractfile(member)
            content = file.read() if file else b""
    except (KeyError, tarfile.TarError) as error:
        raise ModelError(f"holds no {member} ({error})", where=archive) from error
    if _sha256(content) != expected:
        raise ModelError(
            f"{member} has SHA-256 {_sha256(content)} instead of {expected}",
            where=archive,
            remedy="Delete the archive and fetch it again.",
        )
    return content


def _pip_settings() -> dict[str, str]:
    """What pip's files say, and over them the environment; empty values count as unset."""
    listing = subprocess.run(
        [sys.executable, "-P", "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    entries = re.findall(r"^(global|install|download)\.([\w-]+)=(.*)$", listing, re.MULTILINE)
    entries.sort(key=lambda entry: ("global", "install", "download").index(entry[0]))
    settings = {option: str(ast.literal_eval(value)) for _, option, value in entries}
    for variable, value in os.environ.items():
        if variable.startswith("PIP_") and value:
            settings[variable.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def _pages(settings: dict[str, str], failures: list[str]) -> Iterator[str]:
    """Folders and pages that may list the archive."""
    yield from settings.get("find-links", "").split()
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        failures.append("pip is configured with no-index")
        return
    indexes = settings.get("extra-index-url", "").split()
    try:
        indexes.insert(0, settings.get("index-url") or _public_index())
    except (ImportError, AttributeError):
        failures.append(
            "pip, which knows the package index, is not installed here "
            "(run `python -m ensurepip`, or set PIP_INDEX_URL)"
        )
    for index in indexes:
        yield index.rstrip("/") + "/scellseg/"


def _public_index() -> str:
    """Address that pip falls back on; only pip knows it, and no public interface of it tells."""
    return str(import_module("pip._internal.models.index").PyPI.simple_url)


class _Links(HTMLParser):
    """The links of a page of the simple index."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href and tag == "base":
            self.base = urljoin(self.base, href)
        elif href and tag == "a":
            self.urls.append(urljoin(self.base, href))


def _local(place: str) -> Path | None:
    """Path of a place that is not on the web."""
    scheme = urlsplit(place).scheme
    if scheme in ("http", "https"):
        return None
    return Path(url2pathname(urlsplit(place).path) if scheme == "file" else place).expanduser()


def _find(page: str, session: requests.Session) -> str:
    """Address of the archive on a page of links or in a folder."""
    folder = _local(page)
    if folder is None:
        answer = session.get(page, headers={"Accept": _ACCEPT}, timeout=_TIMEOUT)
        answer.raise_for_status()
        if "json" in answer.headers.get("Content-Type", ""):
            urls = [urljoin(answer.url, file["url"]) for file in answer.json()["files"]]
        else:
            urls = _hrefs(answer.text, answer.url)
    elif (listing := folder / "index.html" if folder.is_dir() else folder).is_file():
        urls = _hrefs(listing.read_text("utf-8"), listing.resolve().as_uri())
    else:
        urls = [file.resolve().as_uri() for file in folder.iterdir()]
    for url in urls:
        if unquote(urlsplit(url).path).rpartition("/")[2] == ARCHIVE:
            return url.partition("#")[0]
    raise ModelError(f"lists no {ARCHIVE}")


def _hrefs(html: str, base: str) -> list[str]:
    links = _Links(base)
    links.feed(html)
    return links.urls


def _fetch(url: str, part: Path, session: requests.Session) -> None:
    """Bring the archive to ``part``, going on where the connection was cut, and check it."""
    part.write_bytes(b"")
    for attempt in range(_ATTEMPTS):
        try:
            if (local := _local(url)) is not None:
                shutil.copyfile(local, part)
            else:
                _receive(url, part, session)
            break
        except requests.RequestException as error:
            refused = error.response is not None and error.response.status_code < 500
            if refused or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PATIENCE * 2**attempt)
    if (found := pooch.file_hash(str(part))) != ARCHIVE_SHA256:
        raise ModelError(f"sent an archive with SHA-256 {found} instead of {ARCHIVE_SHA256}")


def _receive(url: str, part: Path, session: requests.Session) -> None:
    """One request for what ``part`` still lacks; a server that cannot resume starts again."""
    have = part.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        total = int(answer.headers.get("Content-Length", 0)) + have * resumed
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(
                total=total or None, initial=have * resumed, unit="B", unit_scale=True, desc=ARCHIVE
            ) as bar,
        ):
            for chunk in answer.iter_content(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Temporary file beside ``target`` that takes its place when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _public(text: str) -> str:
    """Take user names and passwords out of addresses."""
    return re.sub(r"(?<=//)[^/@\s]*@", "", text)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

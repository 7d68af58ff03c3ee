"""Trained models: packaged with the library, the authors' own, official Cellpose ones, or a file's.

The authors' weights are in the source archive of their package ``scellseg`` 0.1.8. It is asked of
the package index that pip is configured for, and opened only after its pinned hash is found right.
Nothing in it is run: the state dicts are read by torch's safe loader, their keys renamed to ours,
and kept as safetensors in the user's cache. The archive's code is BSD; the weights were trained on
the Cellpose data, whose terms are non-commercial.
"""

from __future__ import annotations

import ast
import hashlib
import io
import math
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

import requests
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.datasets.download import TIMEOUT, download, is_whole
from scellseg_lib.device import default_device
from scellseg_lib.errors import ModelError, ScellsegError
from scellseg_lib.model import Card, Model, TrainingData, fill_model, library_versions, read_model
from scellseg_lib.network import find_architecture
from scellseg_lib.representation import Decoding

ARCHIVE = "scellseg-0.1.8.tar.gz"
ARCHIVE_SHA256 = "084c5f1b12d0d97f0c3d0880ae579c1b7c4f7dea2203486bd11ba4c640a92d3c"
WEIGHTS_FOLDER = "scellseg-0.1.8/scellseg/assets/pretrained_models"
RELEASED = {
    "scellseg": "37bd9eb7805ea4389dd0eb9e3f5afca8889b42e22daaf8cc0478bd14d5bb24db",
    "cellpose": "70885242cf9720cabd973fca8b014010e69609924b5f9fe007ae37198220b4e9",
}
"""The released state dicts that our networks can hold."""

_DOWN = r"downsample\.down\.res_down_(\d)\."
_UP = r"upsample\.up\.res_up_(\d)\."
KEYS = (
    (_DOWN + r"proj\.", "extractor.down.units.{0}.projection."),
    (_DOWN + r"conv\.conv_(\d)\.", "extractor.down.units.{0}.convolutions.{1}."),
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

_CELLPOSE = "Give the state dict of a Cellpose 1 to 3 network."
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


def load_model(
    name: str | Path = "scellseg",
    weights: Literal["packaged", "released"] | str | Path = "packaged",
    *,
    levels: tuple[int, ...] | None = None,
    device: torch.device | None = None,
) -> Model:
    """Load a trained model.

    Parameters
    ----------
    name : str or path
        One of the five models, or the path of a file that `Model.save` wrote.
    weights : {"packaged", "released"} or path
        "packaged": ours, in this package. "released": the authors' own of Scellseg or Cellpose,
        full width, fetched through pip's index at first use. A path: a file of ours, or official
        Cellpose v1-v3 weights of the ``cyto`` type (for ``name="cellpose"``).
    levels : tuple of int, optional
        Which width of the packaged weights; None: full where there is one, else half.
    device : torch.device, optional
        None: the GPU where there is one, else the CPU.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        When there are no such weights, or they do not fit; nothing is put in their place.
    """
    model = _find_model(name, weights, levels)
    if levels is not None and tuple(levels) != model.card.levels:
        raise ModelError(
            f"the model has the levels {model.card.levels}, {tuple(levels)} were asked for",
            where=name if weights == "packaged" else weights,
            remedy="Leave levels out, or name other weights.",
        )
    model.network.to(device or default_device())
    return model


def _find_model(name: str | Path, weights: str | Path, levels: tuple[int, ...] | None) -> Model:
    if Path(name).suffix == ".safetensors":
        if weights != "packaged":
            raise ModelError(
                f"two models are named: {name} and weights={str(weights)!r}",
                remedy="Give the file alone, or the name of its network before it.",
            )
        return read_model(_existing(Path(name)))
    name = str(name)
    find_architecture(name)
    if weights == "released":
        return _read_released(name)
    if weights == "packaged":
        return read_model(_find_packaged(name, levels))
    path = _existing(Path(weights))
    if path.suffix != ".safetensors":
        return _read_cellpose(name, path)
    model = read_model(path)
    if model.card.architecture != name:
        raise ModelError(
            f"the file holds a {model.card.architecture}, not a {name}",
            where=path,
            remedy=f"Load it as load_model({model.card.architecture!r}, weights=...).",
        )
    return model


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(
            "this is a folder" if path.is_dir() else "no such file",
            where=path,
            remedy='Check the path: weights are "packaged", "released" or a file.',
        )
    return path


# --- in the package --------------------------------------------------------------------------


def packaged_files() -> list[Path]:
    """Files of the packaged weights."""
    return sorted(paths.PACKAGED_WEIGHTS.glob("[!.]*.safetensors"))


def packaged_file(name: str, levels: tuple[int, ...]) -> Path:
    """Where packaged weights of a model and width are, if there are any."""
    return paths.PACKAGED_WEIGHTS / f"{name}_{levels[0]}.safetensors"


def _find_packaged(name: str, levels: tuple[int, ...] | None) -> Path:
    for width in [levels] if levels else [(32, 64, 128, 256), (16, 32, 64, 128)]:
        if (file := packaged_file(name, width)).is_file():
            return file
    there = ", ".join(file.stem for file in packaged_files()) or "none"
    raise ModelError(
        f"no packaged weights of {name!r} with levels {levels or 'any'}",
        remedy=f"Packaged are: {there}. Use one of these, weights='released', or pretrain.",
    )


# --- of Cellpose -----------------------------------------------------------------------------


def _read_cellpose(name: str, path: Path) -> Model:
    """Official weights of Cellpose 1 to 3: other key names, else the same network."""
    if name != "cellpose":
        raise ModelError(
            f"{path.suffix or 'a file without suffix'} is no file of ours",
            where=path,
            remedy="Official Cellpose weights load with load_model('cellpose', weights=PATH).",
        )
    try:
        stored = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ModelError(
            "torch's safe loader refuses the file",  # and its own advice is to load it unsafely
            where=path,
            remedy="Only plain state dicts are loaded; nothing else is unpickled.",
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ModelError(
            "the file holds something else than named tensors", where=path, remedy=_CELLPOSE
        )
    scale, diameter = (_diameter(stored, key, path) for key in ("diam_mean", "diam_labels"))
    if scale != 30:
        raise ModelError(
            f"the network is made for cells of {scale:g} px, ours for 30 px",
            where=path,
            remedy="Use weights of the `cyto` type; those of `nuclei` have another scale.",
        )
    weights = {rename(key): value for key, value in stored.items() if not key.startswith("diam_")}
    card = Card(
        architecture="cellpose",
        representation="flow",
        diameter=diameter,
        channels=("green", "red"),
        decoding=Decoding(cell_threshold=0.0),
        origin=f"official Cellpose weights, {path.name}",
        licence="see the Cellpose release",
        versions=library_versions(),
    )
    return fill_model(card, weights, where=path)


def _diameter(stored: dict[str, Tensor], key: str, path: Path) -> float:
    """One number of the file, 30 where it says none."""
    values = stored.get(key, torch.tensor(30.0)).flatten().tolist()
    if len(values) != 1 or not 0 < values[0] < math.inf:
        raise ModelError(f"{key} is {values}, which is no diameter", where=path, remedy=_CELLPOSE)
    return float(values[0])


# --- of the authors --------------------------------------------------------------------------


def _read_released(name: str) -> Model:
    card = Card(
        architecture=name,
        representation=find_architecture(name).representation,
        channels=("green", "red"),
        origin="the authors' release, scellseg 0.1.8",
        licence="trained on the Cellpose data: non-commercial research",
        training_data=[TrainingData(name="cellpose", images=540, licence="non-commercial")],
        versions=library_versions(),
    )
    return fill_model(card, released_weights(name), where="scellseg 0.1.8")


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
            start = ours.format(*numbers, deep=3 - level, gate=2 - level, styled=last - 1)
            return start + bare[found.end() :]
    raise ModelError(
        f"the tensor {key!r} belongs to none of the paper's networks",
        remedy="Give the state dict of a Scellseg or Cellpose network.",
    )


def released_weights(name: str) -> dict[str, Tensor]:
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
    cached = released_file(name)
    origin = {"sha256": expected, "archive": ARCHIVE, "keys": _sha256(repr(KEYS).encode())}
    if (state := _read_cached(cached, origin)) is not None:
        return state
    content = _member(fetch_archive(), name, expected)
    theirs = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    state = {rename(key): tensor.clone() for key, tensor in theirs.items()}
    with whole(cached) as scratch:
        save_file(state, scratch, metadata=origin)
    return state


def released_file(name: str) -> Path:
    """Where the cache holds a released state dict once it was fetched."""
    return paths.cache() / "released" / f"{name}.safetensors"


def fetch_archive() -> Path:
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
    if is_whole(archive, ARCHIVE_SHA256):
        return archive
    failures: list[str] = []
    settings = _pip_settings()
    with requests.Session() as session:
        session.verify = settings.get("cert") or True
        for page in _pages(settings, failures):
            try:
                return download(_find(page, session), archive, ARCHIVE_SHA256, session)
            except (OSError, ValueError, KeyError, ScellsegError) as error:
                failures.append(_public(f"{page}: {getattr(error, 'what', error)}"))
    raise ModelError(
        "the authors' archive cannot be had: " + "; ".join(failures),
        where=archive,
        remedy=f"Check the connection and `pip config list`, or put {ARCHIVE} "
        f"(SHA-256 {ARCHIVE_SHA256}) there yourself.",
    )


def _expected_hash(name: str) -> str:
    """SHA-256 of the released file, or the reason why there is none for us."""
    if name == "hover":
        raise ModelError(
            "the released `hover` weights are of another network: channel and spatial attention "
            "inside each style block, which the released code itself cannot build",
            remedy='Use load_model("hover", weights="packaged"), or pre-train it.',
        )
    if name not in RELEASED:
        raise ModelError(
            f"the authors released no weights named {name!r}",
            remedy=f"Choose one of {list(RELEASED)}, or other weights.",
        )
    return RELEASED[name]


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
        raise ModelError(
            f"holds no {member} ({error})", where=archive, remedy="Delete it and fetch it again."
        ) from error
    if _sha256(content) != expected:
        raise ModelError(
            f"{member} has SHA-256 {_sha256(content)} instead of {expected}",
            where=archive,
            remedy="Delete the archive and fetch it again.",
        )
    return content


def _pip_settings() -> dict[str, str]:
    """What pip's files say, and over them the environment; empty values count as unset."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True).stdout
    settings = {}
    for section in ("global", "install", "download"):
        for option, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listing, re.MULTILINE):
            settings[option] = str(ast.literal_eval(value))
    for variable, value in os.environ.items():
        if variable.startswith("PIP_") and value:
            settings[variable.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def _pages(settings: dict[str, str], failures: list[str]) -> Iterator[str]:
    """Folders and pages that may list the archive; why there are none goes to `failures`."""
    if paths.offline():
        failures.append(
            "SCELLSEG_OFFLINE forbids the network (unset it and run `scellseg models fetch`)"
        )
        return
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
    """The links of a page of the simple index, as full addresses in ``urls``."""

    def __init__(self, html: str, base: str) -> None:
        super().__init__()
        self.base = base
        self.urls: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href and tag == "base":
            self.base = urljoin(self.base, href)
        elif href and tag == "a":
            self.urls.append(urljoin(self.base, href))


def _find(page: str, session: requests.Session) -> str:
    """Address of the archive on a page of links or in a folder."""
    parts = urlsplit(page)
    if parts.scheme in ("http", "https"):
        answer = session.get(page, headers={"Accept": _ACCEPT}, timeout=TIMEOUT)
        answer.raise_for_status()
        if "json" in answer.headers.get("Content-Type", ""):
            urls = [urljoin(answer.url, file["url"]) for file in answer.json()["files"]]
        else:
            urls = _Links(answer.text, answer.url).urls
    else:
        folder = Path(url2pathname(parts.path) if parts.scheme == "file" else page).expanduser()
        listing = folder / "index.html" if folder.is_dir() else folder
        if listing.is_file():
            urls = _Links(listing.read_text("utf-8"), listing.resolve().as_uri()).urls
        else:
            urls = [file.resolve().as_uri() for file in folder.iterdir()]
    for url in urls:
        if unquote(urlsplit(url).path).rpartition("/")[2] == ARCHIVE:
            return url.partition("#")[0]
    raise ModelError(f"lists no {ARCHIVE}", remedy="Ask another index.")


def _public(text: str) -> str:
    """Take user names and passwords out of addresses."""
    return re.sub(r"(?<=//)[^/@\s]*@", "", text)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

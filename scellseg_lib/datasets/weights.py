"""Trained models: packaged with the library, the authors' own, official Cellpose ones, or a file's.

The authors' are in the source archive of ``scellseg`` 0.1.8, asked of pip's index, with a pinned
hash. Nothing in it is run: torch's safe loader reads the state dicts, which the cache keeps.
"""

import ast
import hashlib
import io
import math
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import requests
import torch
from pypi_simple import ACCEPT_ANY, PYPI_SIMPLE_ENDPOINT, ProjectPage
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.datasets.download import TIMEOUT, download, is_whole
from scellseg_lib.device import default_device
from scellseg_lib.errors import ModelError, ScellsegError, telling
from scellseg_lib.model import Card, Model, TrainingData, fill_model, library_versions, read_model
from scellseg_lib.network import find_architecture
from scellseg_lib.representation import Decoding

ARCHIVE = "scellseg-0.1.8.tar.gz"
ARCHIVE_SHA256 = "084c5f1b12d0d97f0c3d0880ae579c1b7c4f7dea2203486bd11ba4c640a92d3c"
WEIGHTS_FOLDER = "scellseg-0.1.8/scellseg/assets/pretrained_models"
RELEASED = ("scellseg", "cellpose")  # state dicts that our networks can hold

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

    Raises
    ------
    ModelError
        When there are no such weights, or they do not fit; nothing is put in their place.
    """
    model = _find_model(name, weights, levels)
    if levels is not None and tuple(levels) != model.card.levels:
        what = f"the model has the levels {model.card.levels}, {tuple(levels)} were asked for"
        where = name if weights == "packaged" else weights
        raise ModelError(what, where=where, remedy="Leave levels out, or name other weights.")
    model.network.to(device or default_device())
    return model


def _find_model(name: str | Path, weights: str | Path, levels: tuple[int, ...] | None) -> Model:
    is_file = Path(name).suffix == ".safetensors"
    if is_file and weights != "packaged":
        what, options = f"two models are named: {name} and {{weights}}", {"weights": str(weights)}
        remedy = "Give the file alone, or the name of its network before it."
        raise ModelError(what, remedy=remedy, options=options)
    if not is_file:
        find_architecture(str(name))
        if weights == "released":
            return _read_released(str(name))
        if weights == "packaged":
            return read_model(_find_packaged(str(name), levels))
    path = Path(name if is_file else weights)
    remedy = 'Check the path: weights are "packaged", "released" or a file.'
    with telling("the file cannot be read", path, remedy, ModelError):
        if not path.is_file():
            what = "this is a folder" if path.is_dir() else "no such file"
            raise ModelError(what, where=path, remedy=remedy)
        model = read_model(path) if path.suffix == ".safetensors" else _read_cellpose(path)
    if not is_file and model.card.architecture != name:
        what = f"the file holds a {model.card.architecture}, not a {name}"
        options = {"model": model.card.architecture, "weights": path.name}
        raise ModelError(what, where=path, remedy="Give {model} with {weights}.", options=options)
    return model


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
    what = f"no packaged weights of {name!r} with levels {levels or 'any'}"
    remedy = f"Packaged are: {there}. Use one of these, {{weights}}, or pretrain."
    raise ModelError(what, remedy=remedy, options={"weights": "released"})


def _read_cellpose(path: Path) -> Model:
    """Official weights of Cellpose 1 to 3: other key names, else the same network."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:  # as torch writes it: nothing is compressed
                if sum(i.file_size for i in zipped.infolist()) > path.stat().st_size:
                    raise zipfile.BadZipFile("it unpacks to more than it is")
        stored = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:
        what = "torch's safe loader refuses the file"  # and its own advice is to load it unsafely
        remedy = "Only plain state dicts are loaded; nothing else is unpickled."
        raise ModelError(what, where=path, remedy=remedy) from error
    pairs = stored.items() if isinstance(stored, dict) else [(0, 0)]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in pairs):
        what, remedy = "the file holds something else than named tensors", "Give a state dict."
        raise ModelError(what, where=path, remedy=remedy)
    scale, diameter = (
        stored.pop(key, torch.tensor(30.0)).flatten()[:2].tolist()
        for key in ("diam_mean", "diam_labels")
    )
    if scale != [30] or len(diameter) != 1 or not 0 < diameter[0] < math.inf:
        what = f"the network scales cells from {diameter} px to {scale} px, ours to 30 px"
        remedy = "Use weights of the `cyto` type; those of `nuclei` have another scale."
        raise ModelError(what, where=path, remedy=remedy)
    origin, licence = f"official Cellpose weights, {path.name}", "see the Cellpose release"
    decoding = Decoding(cell_threshold=0.0)
    card = _describe("cellpose", origin, licence, diameter=diameter[0], decoding=decoding)
    return fill_model(card, {rename(k): value for k, value in stored.items()}, where=path)


def _read_released(name: str) -> Model:
    licence = "trained on the Cellpose data: non-commercial research"
    learnt = [TrainingData(name="cellpose", images=540, licence="non-commercial")]
    origin = "the authors' release, scellseg 0.1.8"
    card = _describe(name, origin, licence, training_data=learnt)
    return fill_model(card, released_weights(name), where="scellseg 0.1.8")


def _describe(name: str, origin: str, licence: str, **more: Any) -> Card:
    """Card of weights that others have made: green is segmented, red are the nuclei."""
    more |= {"architecture": name, "representation": find_architecture(name).representation}
    more |= {"channels": ("green", "red"), "versions": library_versions()}
    return Card(origin=origin, licence=licence, **more)


def released_weights(name: str) -> dict[str, Tensor]:
    """Get a released state dict in our key names, from the cache or through pip's index."""
    cached = released_file(name)
    try:
        return load_file(cached)
    except (OSError, SafetensorError):
        state = {rename(key): tensor.clone() for key, tensor in original_weights(name).items()}
        with whole(cached) as scratch:
            save_file(state, scratch)
        return state


def released_file(name: str) -> Path:
    """Where the cache holds a released state dict, in the names of this version, once fetched."""
    names = hashlib.sha256(repr(KEYS).encode()).hexdigest()[:8]
    return paths.cache() / "released" / f"{name}-{names}.safetensors"


def original_weights(name: str) -> dict[str, Tensor]:
    """Read a state dict as the authors released it, without unpacking the archive."""
    if name not in RELEASED:  # `hover` is, but as a network that the released code cannot build
        remedy = f"Released are {', '.join(RELEASED)}; use packaged weights, or pre-train it."
        raise ModelError(f"the authors released no {name} weights that fit", remedy=remedy)
    with tarfile.open(fetch_archive(), "r:gz") as archive:
        file = archive.extractfile(f"{WEIGHTS_FOLDER}/{name}")
        assert file is not None
        content = io.BytesIO(file.read())
    return torch.load(content, weights_only=True, map_location="cpu")


def rename(key: str) -> str:
    """Give our name of a tensor in a released state dict, or in one of Cellpose 1 to 3."""
    bare = key.removeprefix("extractor.")
    for pattern, ours in KEYS:
        if found := re.match(pattern, bare):
            numbers = [int(group) for group in found.groups()] or [0]
            level, last = numbers[0], numbers[-1]
            start = ours.format(*numbers, deep=3 - level, gate=2 - level, styled=last - 1)
            return start + bare[found.end() :]
    remedy = "Give the state dict of a Scellseg or Cellpose network."
    raise ModelError(f"the tensor {key!r} belongs to none of the paper's networks", remedy=remedy)


def fetch_archive() -> Path:
    """Get the authors' source archive (102 MB), from the cache or through pip's index."""
    archive = paths.cache() / "released" / ARCHIVE
    if is_whole(archive, ARCHIVE_SHA256):
        return archive
    failures = ["SCELLSEG_OFFLINE forbids the network"] if paths.offline() else []
    settings = _pip_settings()
    with requests.Session() as session:
        session.verify = settings.get("cert", True)
        for place in [] if paths.offline() else _places(settings):
            try:
                return download(_find(place, session), archive, ARCHIVE_SHA256, session)
            except (OSError, ValueError, KeyError, ScellsegError) as error:
                reason = f"{place}: {getattr(error, 'what', error)}"
                failures.append(re.sub(r"(?<=//)[^/@\s]*@", "", reason))  # names and passwords
    what = f"the authors' archive cannot be had: {'; '.join(failures) or 'pip may ask no index'}"
    remedy = "Check the connection and `pip config list`, or put the file there yourself, with the "
    raise ModelError(what, where=archive, remedy=f"{remedy}SHA-256 {ARCHIVE_SHA256}.")


def _pip_settings() -> dict[str, str]:
    """What pip's files say, and over them the environment; empty values count as unset."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True).stdout
    settings = {}
    for section in ("global", "install", "download", ":env:"):
        for option, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listing, re.MULTILINE):
            if said := ast.literal_eval(value):
                settings[option] = str(said)
    return settings


def _places(settings: dict[str, str]) -> list[str]:
    """Folders and pages that may list the archive, in the order in which pip names them."""
    places = settings.get("find-links", "").split()
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return places
    indexes = [settings.get("index-url", PYPI_SIMPLE_ENDPOINT)]
    indexes += settings.get("extra-index-url", "").split()
    return places + [index.rstrip("/") + "/scellseg/" for index in indexes]


def _find(place: str, session: requests.Session) -> str:
    """Address of the archive on a page of an index, on a page of links or in a local folder."""
    parts = urlsplit(place)
    if parts.scheme in ("http", "https"):
        answer = session.get(place, headers={"Accept": ACCEPT_ANY}, timeout=TIMEOUT)
        answer.raise_for_status()
        urls = [one.url for one in ProjectPage.from_response(answer, "scellseg").packages]
    else:
        folder = Path(url2pathname(parts.path) if parts.scheme == "file" else place).expanduser()
        urls = [file.resolve().as_uri() for file in folder.iterdir()]
    for url in urls:
        if unquote(urlsplit(url).path).rpartition("/")[2] == ARCHIVE:
            return url
    raise ModelError(f"lists no {ARCHIVE}", remedy="Ask another index.")

"""A model is a network, a representation and a card; on disk, safetensors with the card as JSON."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scellseg_lib import paths, released, representation
from scellseg_lib.errors import ModelError
from scellseg_lib.network import N_OUTPUTS, Network, build_network
from scellseg_lib.precision import default_device
from scellseg_lib.representation import Decoding, Representation

REPRESENTATIONS = dict.fromkeys(("cellpose", "scellseg"), "flow") | {
    name: name for name in ("unet2", "unet3", "hover")
}
"""The representation of each of the paper's five models."""


class TrainingData(BaseModel):
    """What a model has learnt from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    images: int
    licence: str


class Card(BaseModel):
    """Where a model comes from and how it is used."""

    model_config = ConfigDict(extra="forbid")

    architecture: str
    levels: tuple[int, ...] = (32, 64, 128, 256)
    attention: bool | None = None
    dense: bool | None = None
    hierarchical_style: bool | None = None
    representation: str
    diameter: float = 30.0
    """Default diameter of the cells in an image, pixels."""
    channels: tuple[str, str] = ("gray", "none")
    """Planes that training images had (to segment, nucleus); not binding."""
    origin: str = ""
    licence: str = ""
    training_data: list[TrainingData] = []
    recipe: dict[str, Any] = {}
    decoding: Decoding = Decoding()
    styles: list[list[float]] = []
    """Centres of the style embeddings of the training images."""
    style_radius: float = 0.0
    """Largest distance of a training image's style to the nearest centre."""
    scores: dict[str, float] = {}
    versions: dict[str, str] = {}


def library_versions() -> dict[str, str]:
    """Versions of what determines a model's numbers."""
    return {name: version(name) for name in ("scellseg-notebooks", "torch", "numpy")}


@dataclass(eq=False)
class Model:
    """A network that knows its representation and its origin.

    Attributes
    ----------
    network : Network
        In float32, on any device.
    representation : Representation
    card : Card
    """

    network: Network
    representation: Representation
    card: Card
    log: list[dict[str, float]] = field(default_factory=list)
    """Losses of the run that made it, where that was just now: step, loss, validation_loss."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def copy(self) -> Model:
        """Return an independent copy."""
        return Model(deepcopy(self.network), self.representation, self.card.model_copy(deep=True))

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Write ``NAME.safetensors``, whole or not at all, and its card beside as ``NAME.json``.

        Parameters
        ----------
        path : path
            With the suffix ``.safetensors``.
        half : bool
            Store weights as float16 (half the size; running statistics stay float32).

        Raises
        ------
        ModelError
            For another suffix.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ModelError(
                "a model is saved as .safetensors", where=path, remedy="Change the suffix."
            )
        tensors = {}
        for name, value in self.network.state_dict().items():
            shrinks = half and value.is_floating_point() and "running" not in name
            tensors[name] = value.detach().cpu().to(torch.float16 if shrinks else value.dtype)
            tensors[name] = tensors[name].contiguous()
        card = self.card.model_dump_json(indent=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(tensors, scratch, metadata={"card": card})
        scratch.replace(path)
        path.with_suffix(".json").write_text(card + "\n")
        return path


def new_model(
    name: str,
    levels: tuple[int, ...] = (32, 64, 128, 256),
    *,
    representation_name: str | None = None,
    seed: int = 0,
) -> Model:
    """Return an untrained model; its weights depend on the seed alone."""
    card = Card(
        architecture=name,
        levels=levels,
        representation=representation_name or REPRESENTATIONS.get(name, ""),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _assemble(card)


def _assemble(card: Card) -> Model:
    network = build_network(
        card.architecture,  # type: ignore[arg-type]
        card.levels,
        attention=card.attention,
        dense=card.dense,
        hierarchical_style=card.hierarchical_style,
    )
    chosen = representation.get(card.representation)
    n_outputs = N_OUTPUTS[card.architecture]
    if chosen.n_outputs != n_outputs:
        raise ModelError(
            f"network {card.architecture!r} gives {n_outputs} maps, representation "
            f"{chosen.name!r} needs {chosen.n_outputs}",
            remedy="Choose a network and a representation that fit.",
        )
    return Model(network, chosen, card)


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
    model = _find(name, weights, levels)
    model.network.to(device or default_device())
    return model


def _find(name: str | Path, weights: str | Path, levels: tuple[int, ...] | None) -> Model:
    if Path(name).suffix == ".safetensors":
        return _load_file(Path(name))
    name = str(name)
    if name not in N_OUTPUTS:
        raise ModelError(
            f"there is no model {name!r}",
            remedy=f"Choose one of {', '.join(N_OUTPUTS)}, or give a .safetensors file.",
        )
    if weights == "released":
        return _load_released(name)
    if weights == "packaged":
        return _load_packaged(name, levels)
    path = Path(weights)
    if path.suffix == ".safetensors":
        model = _load_file(path)
        if model.card.architecture != name:
            raise ModelError(
                f"the file holds a {model.card.architecture}, not a {name}",
                where=path,
                remedy=f"Load it as load_model({model.card.architecture!r}, weights=...).",
            )
        return model
    return _load_cellpose(name, path)


def packaged() -> list[Path]:
    """Files of the packaged weights."""
    return sorted(paths.PACKAGED_WEIGHTS.glob("*.safetensors"))


def packaged_name(name: str, levels: tuple[int, ...]) -> str:
    """File name of packaged weights: model and first width."""
    return f"{name}_{levels[0]}.safetensors"


def _load_packaged(name: str, levels: tuple[int, ...] | None) -> Model:
    widths = [levels] if levels else [(32, 64, 128, 256), (16, 32, 64, 128)]
    for width in widths:
        file = paths.PACKAGED_WEIGHTS / packaged_name(name, width)
        if file.is_file():
            return _load_file(file)
    there = ", ".join(file.stem for file in packaged()) or "none"
    raise ModelError(
        f"no packaged weights of {name!r} with levels {levels or 'any'}",
        remedy=f"Packaged are: {there}. Use one of these, weights='released', or pretrain.",
    )


def _load_file(path: Path) -> Model:
    if not path.is_file():
        raise ModelError("no such file", where=path, remedy="Check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            card_text = (file.metadata() or {}).get("card")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"the file is damaged or not safetensors ({error})", where=path, remedy="Get it again."
        ) from error
    if card_text is None:
        raise ModelError(
            "the file has no model card",
            where=path,
            remedy="Load files that Model.save has written.",
        )
    try:
        card = Card.model_validate(json.loads(card_text))
    except (ValidationError, json.JSONDecodeError) as error:
        raise ModelError(f"the model card is not valid: {error}", where=path) from error
    model = _assemble(card)
    fill(model.network, tensors, where=path)
    return model


def fill(network: Network, tensors: Mapping[str, Tensor], *, where: Path | str) -> None:
    """Copy weights into a network, or say in words what does not fit.

    Raises
    ------
    ModelError
        For missing, unknown or differently shaped tensors.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in tensors]
    unknown = [key for key in tensors if key not in own]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)}, the network has {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    problems = [
        f"{len(found)} {what}, the first: {found[0]}"
        for what, found in (
            ("tensors are missing", missing),
            ("are unknown", unknown),
            ("have another shape", shapes),
        )
        if found
    ]
    if problems:
        raise ModelError(
            "the weights do not fit the network: " + "; ".join(problems),
            where=where,
            remedy="Check the model's name, its levels and its additions.",
        )
    network.load_state_dict({key: value.to(own[key].dtype) for key, value in tensors.items()})


def _load_released(name: str) -> Model:
    tensors = released.state_dict(name)
    card = Card(
        architecture=name,
        representation=REPRESENTATIONS[name],
        channels=("green", "red"),
        origin="the authors' release, scellseg 0.1.8",
        licence="trained on the Cellpose data: non-commercial research",
        training_data=[TrainingData(name="cellpose", images=540, licence="non-commercial")],
        versions=library_versions(),
    )
    model = _assemble(card)
    fill(model.network, tensors, where="scellseg 0.1.8")
    return model


def _load_cellpose(name: str, path: Path) -> Model:
    """Official Cellpose v1-v3 weights: torch's safe loader, other key names, else the same net."""
    if name != "cellpose":
        raise ModelError(
            f"{path.suffix or 'a file without suffix'} is no file of ours",
            where=path,
            remedy="Official Cellpose weights load with load_model('cellpose', weights=PATH).",
        )
    try:
        stored = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError("no such file", where=path, remedy="Check the path.") from error
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(
            f"torch's safe loader refuses the file ({error})",
            where=path,
            remedy="Only plain state dicts are loaded; nothing else is unpickled.",
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ModelError(
            "the file holds something else than named tensors",
            where=path,
            remedy="Give the state dict of a Cellpose 1 to 3 network.",
        )
    scale, stated = stored.get("diam_mean"), stored.get("diam_labels")
    if scale is not None and float(scale) != 30:
        raise ModelError(
            f"the network is made for cells of {float(scale):g} px, ours for 30 px",
            where=path,
            remedy="Use weights of the `cyto` type; those of `nuclei` have another scale.",
        )
    diameter = 30.0 if stated is None else float(stated)
    tensors = {
        released.rename(key): value for key, value in stored.items() if not key.startswith("diam_")
    }
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
    model = _assemble(card)
    fill(model.network, tensors, where=path)
    return model

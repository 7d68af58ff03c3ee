"""A model is a network, a representation and a card; on disk, safetensors with the card as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scellseg_lib import paths, representation
from scellseg_lib.atomic import whole
from scellseg_lib.card import Card, TrainingData, is_card, library_versions
from scellseg_lib.datasets import official, released
from scellseg_lib.device import default_device
from scellseg_lib.errors import ModelError
from scellseg_lib.network import N_OUTPUTS, Network, build_network
from scellseg_lib.representation import Decoding, Representation

REPRESENTATIONS = dict.fromkeys(("cellpose", "scellseg"), "flow") | {
    name: name for name in ("unet2", "unet3", "hover")
}
"""The representation of each of the paper's five models."""


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

        Returns
        -------
        Path
            The ``.safetensors``.

        Raises
        ------
        ModelError
            For another suffix, where a ``NAME.json`` lies that is no card of a model, and where the
            files cannot be written.
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
        card, beside = self.card.model_dump_json(indent=2), path.with_suffix(".json")
        if beside.exists() and not path.exists() and not is_card(beside):
            raise ModelError(
                "this file is no model's card, and would be replaced by one",
                where=beside,
                remedy="Give the model another name, or move the file.",
            )
        try:
            with whole(path) as scratch:
                save_file(tensors, scratch, metadata={"card": card})
            with whole(beside) as scratch:
                scratch.write_text(card + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"the model cannot be written ({error})",
                where=path,
                remedy="Give a folder that can be written to and has room.",
            ) from error
        return path


def new_model(
    name: str,
    levels: tuple[int, ...] = (32, 64, 128, 256),
    *,
    representation_name: str | None = None,
    seed: int = 0,
) -> Model:
    """Return an untrained model.

    Parameters
    ----------
    name : str
        One of the five models.
    levels : tuple of int
        Widths.
    representation_name : str, optional
        None: the model's own.
    seed : int
        On which alone the weights depend.

    Returns
    -------
    Model
        On the CPU.

    Raises
    ------
    ModelError
        For an unknown name, levels that make no network, or a representation that does not fit.
    """
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

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        When there are no such weights, or they do not fit; nothing is put in their place.
    """
    model = _find(name, weights, levels)
    if levels is not None and tuple(levels) != model.card.levels:
        raise ModelError(
            f"the model has the levels {model.card.levels}, {tuple(levels)} were asked for",
            where=name if weights == "packaged" else weights,
            remedy="Leave levels out, or name other weights.",
        )
    model.network.to(device or default_device())
    return model


def _find(name: str | Path, weights: str | Path, levels: tuple[int, ...] | None) -> Model:
    if Path(name).suffix == ".safetensors":
        if weights != "packaged":
            raise ModelError(
                f"two models are named: {name} and weights={str(weights)!r}",
                remedy="Give the file alone, or the name of its network before it.",
            )
        return _load_file(_existing(Path(name)))
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
    path = _existing(Path(weights))
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


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(
            "this is a folder" if path.is_dir() else "no such file",
            where=path,
            remedy='Check the path: weights are "packaged", "released" or a file.',
        )
    return path


def packaged() -> list[Path]:
    """Files of the packaged weights."""
    return sorted(paths.PACKAGED_WEIGHTS.glob("[!.]*.safetensors"))


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
        card = Card.model_validate_json(card_text)
    except ValidationError as error:
        raise ModelError(
            f"the model card is not valid: {error}", where=path, remedy="Get the file again."
        ) from error
    model = _assemble(card)
    fill(model.network, tensors, where=path)
    return model


def fill(network: Network, tensors: Mapping[str, Tensor], *, where: Path | str) -> None:
    """Copy weights into a network, or say in words what does not fit.

    Raises
    ------
    ModelError
        For missing, unknown or differently shaped tensors, and values that are no numbers.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in tensors]
    unknown = [key for key in tensors if key not in own]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)}, the network has {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    spoilt = [key for key in own if key in tensors and not tensors[key].isfinite().all()]
    problems = [
        f"{len(found)} {what}, the first: {found[0]}"
        for what, found in (
            ("tensors are missing", missing),
            ("are unknown", unknown),
            ("have another shape", shapes),
            ("hold NaN or infinity", spoilt),
        )
        if found
    ]
    if problems:
        raise ModelError(
            "the weights do not fit the network: " + "; ".join(problems),
            where=where,
            remedy="Check the model's name, its levels and its additions, or get the file again.",
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
    if name != "cellpose":
        raise ModelError(
            f"{path.suffix or 'a file without suffix'} is no file of ours",
            where=path,
            remedy="Official Cellpose weights load with load_model('cellpose', weights=PATH).",
        )
    tensors, diameter = official.read(path)
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

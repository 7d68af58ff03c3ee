"""A model is a network, a representation and a card; on disk, safetensors with the card as JSON."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, FiniteFloat
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scellseg_lib import representation
from scellseg_lib.atomic import whole
from scellseg_lib.errors import ModelError, telling
from scellseg_lib.network import Network, build_network, find_architecture
from scellseg_lib.representation import Decoding, Representation

OURS = "Load a file that Model.save has written whole."


class TrainingData(BaseModel, extra="forbid", frozen=True):
    """What a model has learnt from."""

    name: str
    images: int
    licence: str


class Card(BaseModel, extra="forbid"):
    """Where a model comes from and how it is used: JSON inside its file and beside it."""

    architecture: str
    levels: tuple[int, ...] = Field(default=(32, 64, 128, 256), max_length=9)
    attention: bool | None = None
    dense: bool | None = None
    hierarchical_style: bool | None = None
    representation: str
    diameter: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)] = 30.0  # of cells, pixels
    channels: tuple[str, str] = ("gray", "none")  # of the training images; not binding
    flips: bool = False  # whether it looks at images in all four flips, unless it is told otherwise
    robust: bool = True  # how images are normalised, see `samples.normalise`; False: as the paper
    origin: str = ""
    licence: str = ""
    training_data: list[TrainingData] = []
    recipe: dict[str, Any] = {}
    decoding: Decoding = Decoding()
    styles: list[list[FiniteFloat]] = []  # centres of the style embeddings of the training images
    style_radius: FiniteFloat = 0.0  # largest distance of a training image's style to its centre
    scores: dict[str, float] = {}
    versions: dict[str, str] = {}


def library_versions() -> dict[str, str]:
    """What determines a model's numbers beside its recipe: versions, and the number of threads."""
    versions = {name: version(name) for name in ("scellseg-notebooks", "torch", "numpy")}
    return versions | {"threads": str(torch.get_num_threads())}


@dataclass(eq=False)
class Model:
    """A network that knows its representation and its origin."""

    network: Network  # in float32, on any device
    representation: Representation
    card: Card
    log: list[dict[str, float]] = field(default_factory=list)  # of the run that has just made it

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def copy(self) -> "Model":
        """Return an independent copy."""
        return Model(deepcopy(self.network), self.representation, self.card.model_copy(deep=True))

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Write ``NAME.safetensors``, whole or not at all, and its card beside as ``NAME.json``.

        ``half`` stores weights, but not running statistics, as float16. ModelError where it cannot.
        """
        path, card = Path(path), self.card.model_dump_json(indent=2)
        beside = path.with_suffix(".json")
        if path.suffix != ".safetensors":
            what = "a model is saved as .safetensors"
            raise ModelError(what, where=path, remedy="Change the suffix.")
        if beside.exists() and not path.exists():
            what = "this file is not the card of a model, which would overwrite it"
            remedy = "Give the model another name, or move the file."
            raise ModelError(what, where=beside, remedy=remedy)
        tensors = {name: v.cpu().contiguous() for name, v in self.network.state_dict().items()}
        for name, value in tensors.items():
            if half and value.is_floating_point() and "running" not in name:
                tensors[name] = value.half()
        with telling("the model cannot be written", path, "Give a folder with room.", ModelError):
            with whole(path) as scratch:
                save_file(tensors, scratch, metadata={"card": card})
            with whole(beside) as scratch:
                scratch.write_text(card + "\n", encoding="utf-8")
        return path


def new_model(name: str, levels: tuple[int, ...] = (32, 64, 128, 256), *, seed: int = 0) -> Model:
    """Return one of the five models untrained, on the CPU; its weights depend on the seed alone."""
    learnt = find_architecture(name).representation
    card = Card(architecture=name, levels=levels, representation=learnt)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build_model(card)


def fill_model(card: Card, tensors: Mapping[str, Tensor], *, where: Path | str) -> Model:
    """Build the model of a card and copy weights into it; ModelError for what does not fit."""
    with torch.device("meta"):  # which takes no memory, however large the card says that it is
        model = _build_model(card)
    own = {key: tuple(value.shape) for key, value in model.network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = [key for key in own | given if own.get(key) != given.get(key)]
    if wrong := wrong or [key for key in own if not tensors[key].isfinite().all()]:
        there, here = given.get(wrong[0], "missing"), own.get(wrong[0], "unknown")
        what = f"{len(wrong)} of the tensors do not fit the network or are not finite, the first: "
        what += f"{wrong[0]} is {there} in the file, {here} in the network"
        remedy = "Check the model's name, its levels and its additions, or get the file again."
        raise ModelError(what, where=where, remedy=remedy)
    weights = {key: value.clone() for key, value in tensors.items()}  # no longer in the file
    model.network.load_state_dict(weights, assign=True)
    model.network.float()
    return model


@contextmanager
def open_tensors(path: Path, remedy: str = OURS, kind: Any = ModelError) -> Iterator[Any]:
    """Open a file of safetensors, and tell what is wrong with it and with what is read of it."""
    with telling("the file cannot be read", path, remedy, kind):
        path.open("rb").close()  # safetensors calls what may not be read missing
        with safe_open(path, framework="pt") as file:
            yield file


def read_card(path: Path) -> Card:
    """Read the card within a model's file; ModelError if `Model.save` has not written it."""
    with open_tensors(path) as file:
        return Card.model_validate_json((file.metadata() or {})["card"])


def read_model(path: Path) -> Model:
    """Read a model that `Model.save` wrote, on the CPU; errors as those of `read_card`."""
    card = read_card(path)
    with open_tensors(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return fill_model(card, tensors, where=path)


def _build_model(card: Card) -> Model:
    chosen = representation.get(card.representation)
    additions = card.model_dump(include={"attention", "dense", "hierarchical_style"})
    network = build_network(card.architecture, card.levels, outputs=chosen.n_outputs, **additions)
    return Model(network, chosen, card)

"""The card of a model: JSON inside its file and beside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scellseg_lib.representation import Decoding


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
    diameter: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
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


def is_card(file: Path) -> bool:
    """Whether a file is a card."""
    try:
        Card.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return False
    return True

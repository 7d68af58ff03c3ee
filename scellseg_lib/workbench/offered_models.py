"""Models that the panels offer: the user's own, the packaged, and the authors' own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scellseg_lib.datasets.weights import RELEASED, load_model, packaged_files, released_file
from scellseg_lib.errors import ModelError
from scellseg_lib.model import Card, Model, read_card
from scellseg_lib.network import ARCHITECTURES


@dataclass(frozen=True)
class Choice:
    """A model that can be chosen."""

    title: str
    name: str | Path
    """As `load_model` takes it: a network or a file."""
    weights: str = "packaged"
    card: Card | None = None
    """None: not known before it is loaded, or the file is damaged."""
    is_own: bool = False
    """Whether it lies in the experiment's folder."""

    def load(self) -> Model:
        """Load it; ModelError where that cannot be."""
        return load_model(self.name, self.weights)

    @property
    def file(self) -> str:
        """Name for the table of rounds."""
        return self.name.name if isinstance(self.name, Path) else f"{self.name} ({self.weights})"

    @property
    def key(self) -> str:
        """What a record knows it by: "scellseg_32" of this package, "released scellseg",
        "worms.safetensors" of the experiment's folder.
        """
        if isinstance(self.name, Path):
            return self.name.name if self.is_own else self.name.stem
        return f"{self.weights} {self.name}"


def choices(folder: Path | None = None) -> list[Choice]:
    """Models: those in the experiment's folder, the newest first; packaged; the authors' own.

    The last are listed where they were fetched before: 102 MB are not asked for in silence.
    """
    own = list(folder.glob("[!.]*.safetensors")) if folder and folder.is_dir() else []
    own.sort(key=lambda file: (-file.stat().st_mtime, file.name))
    found = [Choice(f"Yours: {one.stem}", one, card=_card_of(one), is_own=True) for one in own]
    ours: dict[str, list[tuple[int, Path]]] = {name: [] for name in ARCHITECTURES}
    for file in packaged_files():
        name, width = file.stem.rsplit("_", 1)
        ours[name].append((-int(width), file))
    for name, files in ours.items():
        for number, (_, file) in enumerate(sorted(files)):
            title = f"{ARCHITECTURES[name].title}{', smaller and quicker' * (number > 0)}"
            found.append(Choice(title, file, card=_card_of(file)))
    for name in RELEASED:
        if released_file(name).is_file():
            found.append(Choice(f"{ARCHITECTURES[name].title}, the authors' own", name, "released"))
    return found


def starts(folder: Path | None = None) -> list[Choice]:
    """Models to start a fine-tuning from: as `choices`, the user's own last, without damaged ones.

    A model that has learnt from other images is the usual start.
    """
    found = choices(folder)
    own = [choice for choice in found if choice.is_own and choice.card is not None]
    return [*(choice for choice in found if not choice.is_own), *own]


def load_start(key: str, folder: Path) -> Model:
    """Load a model by its `Choice.key`; ModelError where it cannot be had."""
    for choice in choices(folder):
        if choice.key == key:
            return choice.load()
    if key.startswith("released "):
        return load_model(key.removeprefix("released "), "released")
    raise ModelError(
        "the model to start from is there no more", where=key, remedy="Choose another one."
    )


def described(card: Card) -> str:
    """Where a model comes from, in a sentence or two."""
    learnt = ", ".join(f"{one.name} ({one.images})" for one in card.training_data)
    origin = card.origin.split("; started from")[0] or "of unknown origin"
    text = f"{ARCHITECTURES[card.architecture].title}, {origin}. "
    text += f"Made for cells {card.diameter:g} px wide. "
    text += f"Has learnt from these sets (images): {learnt}. " if learnt else ""
    return text + (f"Terms of use: {card.licence}." if card.licence else "")


def _card_of(file: Path) -> Card | None:
    """Card within a model's file; None where it is no model of ours."""
    try:
        return read_card(file)
    except ModelError:
        return None

"""Classes of cells and their colours, in the order of their keys: 1, 2, 3, .."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from matplotlib.colors import is_color_like, to_hex

from scellseg_lib.errors import ImageError

Classes = Mapping[str, str]
"""Names and colours, as ``#RRGGBB``."""
COLOURS = {
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "pink": "#CC79A7",
    "vermilion": "#D55E00",
    "blue": "#4C9BE8",
    "grey": "#B8B8B8",
}
"""Of classes, one after the other: told apart by colour-blind people, and seen on black."""


class SharedClasses(Protocol):
    """A list of classes that the images of a folder share, such as `class_file.ClassFile`.

    Every method raises an ImageError if it cannot do what it is asked for.
    """

    def read(self) -> dict[str, str]:
        """Names and colours."""

    def write(self, classes: Classes) -> None:
        """Replace the list; an error if somebody else has changed it since `read`."""

    def others(self, name: str, masks: Path) -> list[str]:
        """Names of the images whose saved cells have a class, but for the image of these masks."""

    def rename(self, old: str, new: str, masks: Path) -> tuple[list[str], list[str]]:
        """Rename a class in the lists of those images; names of the renamed and the others."""


def class_name(text: str) -> str:
    """Name of a class as it is kept: in one line, without blanks around it.

    Raises
    ------
    ImageError
        If nothing is left.
    """
    name = " ".join(text.split())
    if not name:
        raise ImageError("a class needs a name", remedy='Type one, such as "dead".')
    return name


def known_class(classes: Classes, text: str) -> str:
    """Name of a class of the list.

    Raises
    ------
    ImageError
        If there is none of this name.
    """
    name = text if text in classes else class_name(text)
    if name not in classes:
        there = f"Choose among {', '.join(classes)}." if classes else "There are none yet: add one."
        raise ImageError(f'there is no class "{name}"', remedy=there)
    return name


def class_colour(text: str) -> str:
    """Colour as ``#RRGGBB``, of that, of ``#RGB`` or of an English name.

    Raises
    ------
    ImageError
        If it is none.
    """
    if not is_color_like(text.strip()) or text.strip() == "none":
        raise ImageError(
            f'"{text}" is no colour', remedy='Write it as #E69F00, or by its name, such as "red".'
        )
    return to_hex(text.strip()).upper()


def next_colour(classes: Classes) -> str:
    """First of `COLOURS` that no class has; all over again where they have all."""
    colours = list(COLOURS.values())
    free = [colour for colour in colours if colour not in classes.values()]
    return free[0] if free else colours[len(classes) % len(colours)]


def renamed(classes: Classes, old: str, new: str) -> dict[str, str]:
    """The list with another name in the place of one; a name that is there already has both."""
    if new in classes:
        return {name: colour for name, colour in classes.items() if name != old}
    return {new if name == old else name: colour for name, colour in classes.items()}


def merged(before: Classes, after: Classes, current: Classes) -> dict[str, str]:
    """Change a list as another was changed, and keep what else has become of it meanwhile.

    A class in the place and the colour of one that went is that one, renamed.

    Parameters
    ----------
    before, after : mapping of str to str
        The change: classes that came, went, or got another colour.
    current : mapping of str to str
        Changed by others perhaps: what they added stays, what they removed stays away.

    Returns
    -------
    dict of str to str
        In the order of `after`; the additions of others come last.
    """
    found, origins = {}, _origins(before, after)
    for name, colour in after.items():
        if name in before and before[name] != colour:
            found[name] = colour
        elif name in current:
            found[name] = current[name]
        elif name not in before:
            found[name] = current.get(origins.get(name, name), colour)
    others = {name: colour for name, colour in current.items() if name not in before}
    return found | {name: colour for name, colour in others.items() if name not in after}


def _origins(before: Classes, after: Classes) -> dict[str, str]:
    """Old names of the classes that were renamed."""
    pairs = zip(before.items(), after.items(), strict=False) if len(before) == len(after) else ()
    return {
        new: old
        for (old, colour), (new, given) in pairs
        if colour == given and new not in before and old not in after
    }

"""Classes of cells and their colours, in the order of their keys: 1, 2, 3, .."""

from collections.abc import Mapping

from matplotlib.colors import is_color_like, to_hex

from scellseg_lib.errors import ImageError

Classes = Mapping[str, str]  # names and colours, as ``#RRGGBB``
COLOURS = {  # of cells and classes in turn: Okabe and Ito's, which colour-blind people tell apart
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "pink": "#CC79A7",
    "vermilion": "#D55E00",
    "blue": "#0072B2",
}


def clean_name(text: str) -> str:
    """Write the name of a class in one line, without blanks around it; ImageError if it is none."""
    name = " ".join(text.split())
    if not name:
        raise ImageError("a class needs a name", remedy='Type one, such as "dead".')
    return name


def find_class(classes: Classes, text: str) -> str:
    """Find a class of the list by its name; ImageError if there is none."""
    name = text if text in classes else clean_name(text)
    if name not in classes:
        there = f"Choose among {', '.join(classes)}." if classes else "There are none yet: add one."
        raise ImageError(f'there is no class "{name}"', remedy=there)
    return name


def parse_colour(text: str) -> str:
    """Read ``#RRGGBB``, ``#RGB`` or an English name, as ``#RRGGBB``; ImageError for others."""
    if not is_color_like(text.strip()) or text.strip() == "none":
        remedy = 'Write it as #E69F00, or by its name, such as "red".'
        raise ImageError(f'"{text}" is no colour', remedy=remedy)
    return to_hex(text.strip()).upper()


def choose_colour(classes: Classes) -> str:
    """First of `COLOURS` that no class has; where every one is taken, the one of fewest."""
    return min(COLOURS.values(), key=[*classes.values()].count)

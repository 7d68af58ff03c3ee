"""Instance representations: how masks become what a network learns, and come back.

Each has the same verbs, ``targets(masks)``, ``loss(output, targets)`` and
``masks(output, decoding)``; a new one is made known with `register`, and no other file changes.
"""

from scellseg_lib.errors import ModelError
from scellseg_lib.representation.base import Decoding, Representation
from scellseg_lib.representation.flow import Flow
from scellseg_lib.representation.hover import HoVer
from scellseg_lib.representation.semantic import UNet2, UNet3

__all__ = ["Decoding", "Representation", "get", "register"]

_REGISTERED: dict[str, Representation] = {}


def register(representation: Representation) -> None:
    """Make a representation known by its name; a name in use is replaced."""
    _REGISTERED[representation.name] = representation


def get(name: str) -> Representation:
    """Return the representation of that name; ModelError if none is registered under it."""
    if name not in _REGISTERED:
        remedy = f"Choose one of {', '.join(sorted(_REGISTERED))}, or register it."
        raise ModelError(f"there is no representation {name!r}", remedy=remedy)
    return _REGISTERED[name]


for _representation in (Flow(), HoVer(), UNet2(), UNet3()):
    register(_representation)

"""Instance representations: how masks become what a network learns, and come back."""

from scellseg_lib.errors import ModelError
from scellseg_lib.representation.base import Decoding, Representation
from scellseg_lib.representation.flow import Flow
from scellseg_lib.representation.hover import HoVer
from scellseg_lib.representation.semantic import UNet2, UNet3

__all__ = ["REPRESENTATIONS", "Decoding", "Representation", "get"]

# Who adds one puts it here; no other file changes.
REPRESENTATIONS: dict[str, Representation] = {
    one.name: one for one in (Flow(), HoVer(), UNet2(), UNet3())
}


def get(name: str) -> Representation:
    """Return the representation of that name, or raise ModelError."""
    if name not in REPRESENTATIONS:
        remedy = f"Choose one of {', '.join(REPRESENTATIONS)}, or add it to REPRESENTATIONS."
        raise ModelError(f"there is no representation {name!r}", remedy=remedy)
    return REPRESENTATIONS[name]

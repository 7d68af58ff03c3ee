"""Official Cellpose 1 to 3 weights of the ``cyto`` type: other key names, else the same network."""

from __future__ import annotations

import io
import math
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from scellseg_lib.datasets.released import rename
from scellseg_lib.errors import ModelError

_REMEDY = "Give the state dict of a Cellpose 1 to 3 network."


def read(path: Path) -> tuple[dict[str, Tensor], float]:
    """Read the weights, in our key names, and the diameter of the cells in pixels.

    Raises
    ------
    ModelError
        For what torch's safe loader refuses, and what is no such network.
    """
    try:
        stored = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ModelError(
            "torch's safe loader refuses the file",  # and its own advice is to load it unsafely
            where=path,
            remedy="Only plain state dicts are loaded; nothing else is unpickled.",
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ModelError(
            "the file holds something else than named tensors", where=path, remedy=_REMEDY
        )
    scale, diameter = (_diameter(stored, key, path) for key in ("diam_mean", "diam_labels"))
    if scale != 30:
        raise ModelError(
            f"the network is made for cells of {scale:g} px, ours for 30 px",
            where=path,
            remedy="Use weights of the `cyto` type; those of `nuclei` have another scale.",
        )
    weights = {rename(key): value for key, value in stored.items() if not key.startswith("diam_")}
    return weights, diameter


def _diameter(stored: dict[str, Tensor], key: str, path: Path) -> float:
    """One number of the file, 30 where it says none."""
    values = stored.get(key, torch.tensor(30.0)).flatten().tolist()
    if len(values) != 1 or not 0 < values[0] < math.inf:
        raise ModelError(f"{key} is {values}, which is no diameter", where=path, remedy=_REMEDY)
    return float(values[0])

"""Cellpose's ``_seg.npy``: written as its interface saves it, read without running what is in it.

Such a file is a pickled dictionary, and unpickling may run anything. Here only what arrays, numbers
and text are made of is let through.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from skimage.segmentation import find_boundaries

from scellseg_lib.atomic import whole
from scellseg_lib.errors import ImageError

SUFFIX = "_seg.npy"
_CORE = ("numpy.core", "numpy._core")  # of NumPy 1 and 2
_PLAIN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"{core}.multiarray", name) for core in _CORE for name in ("_reconstruct", "scalar")),
    *((f"{core}.numeric", "_frombuffer") for core in _CORE),
}


class _Plain(pickle.Unpickler):
    """Lets arrays and scalars of NumPy through, beside the numbers, text and lists of Python."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which could run a program")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_seg(path: Path) -> dict[str, Any]:
    """Content of a ``_seg.npy``.

    Returns
    -------
    dict
        With ``masks``, integers of the shape (H, W), and what else is there: ``outlines``,
        ``filename``, ``est_diam``, ``ismanual``, ``flows``, ..

    Raises
    ------
    ImageError
        If it cannot be read, holds anything but numbers and text, or no masks of one 2D image.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            known = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = known[version](file)
            if shape != () or not dtype.hasobject:
                _refuse(path, "it holds a plain array")
            content = _Plain(file).load().item()
    except OSError as error:
        raise ImageError(
            f"the file cannot be read ({error.strerror})", where=path, remedy="Check the path."
        ) from error
    except ImageError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes say
        _refuse(path, str(error) or type(error).__name__)
    masks = content.get("masks") if isinstance(content, dict) else None
    if not isinstance(masks, np.ndarray) or masks.ndim != 2 or masks.dtype.kind not in "ui":
        _refuse(path, "it holds no masks of one 2D image")
    return content


def write_seg(path: Path, masks: np.ndarray, image: str | Path = "") -> None:
    """Write a ``_seg.npy`` in the layout of those that Cellpose's interface saves.

    Parameters
    ----------
    path : path
        ``NAME_seg.npy``, beside the image ``NAME.png`` or ``NAME.tif``.
    masks : int[H, W]
    image : path
        The image's file.
    """
    areas = np.bincount(masks.ravel())[1:]
    areas = areas[areas > 0]
    n_cells = int(masks.max(initial=0))
    depth = np.uint16 if n_cells < 2**16 else np.uint32
    inner = find_boundaries(masks, mode="inner")
    content = {
        "masks": masks.astype(depth),
        "outlines": (masks * inner).astype(depth),
        "colors": np.random.default_rng(0).integers(0, 256, (n_cells, 3), dtype=np.uint8),
        "chan_choose": [0, 0],
        "ismanual": np.zeros(n_cells, bool),
        "filename": str(image),
        "flows": [],
        # Its interface needs a number: the median over cells of the circle of equal area.
        "est_diam": float(np.median(2 * np.sqrt(areas / np.pi))) if len(areas) else 30.0,
    }
    with whole(path) as scratch, scratch.open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def _refuse(path: Path, why: str) -> NoReturn:
    raise ImageError(
        f"this is not a segmentation that Cellpose has saved ({why})",
        where=path,
        remedy="Open it in Cellpose, where you trust it, and save the masks as PNG or TIFF.",
    )

"""Cellpose's ``NAME_seg.npy``: written for its interface, and read without unpickling.

The format is a pickled dictionary in a NumPy file, and a pickle is a programme that may call
anything. Here its steps are only parsed; of all that a step may name, only what NumPy's own arrays
and numbers need is known, and made by functions of this module from bytes that lie in the file.
"""

from __future__ import annotations

import io
from pathlib import Path
from pickle import dumps  # to write alone
from pickletools import anyobject, genops
from types import SimpleNamespace as Later
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from scellseg_lib.atomic import whole
from scellseg_lib.errors import ImageError
from scellseg_lib.samples import diameter

STEPS = 2_000_000
"""Steps of a file, at most: some hundred times what Cellpose takes for thousands of cells."""


def read_seg(path: Path) -> dict[str, Any]:
    """Contents of a file by Cellpose's names, such as ``masks``, ``filename`` and ``ismanual``.

    Parameters
    ----------
    path : path
        Written by any version of Cellpose, or by `write_seg`.

    Returns
    -------
    dict
        Numbers, text, lists, tuples, dictionaries and arrays (read-only; NumPy's numbers are arrays
        without axes, its arrays of objects lists, paths tuples of their parts). ``masks`` is
        int64[H, W], 0 for background, or int64[Z, H, W] of a stack.

    Raises
    ------
    ImageError
        If the file is missing or damaged, or holds anything else, which is not made.
    """
    try:
        file = io.BytesIO(path.read_bytes())
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        (seg,) = _contents(file)
        masks = seg["masks"].astype(np.int64, casting="same_kind")
        masks = masks[0] if masks.ndim == 3 and len(masks) == 1 else masks
        return {**seg, "masks": masks + (masks.min() == -1)}  # the background, long ago
    except Exception as error:  # whatever a damaged file leads to
        what = f"the file is damaged, or not as Cellpose saves it ({error})"
        remedy = "If you trust its origin, open it in Cellpose and save the masks as PNG."
        raise ImageError(what, where=path, remedy=remedy) from error


def write_seg(path: Path, masks: np.ndarray, **more: object) -> None:
    """Write masks such that Cellpose's interface opens them.

    Parameters
    ----------
    path : path
        ``NAME_seg.npy``: Cellpose loads it with ``NAME.*`` of the same folder.
    masks : int[H, W]
        Labels, 0 is background.
    more
        By Cellpose's names: ``filename`` of the image, which is looked for in the folder; ``img``,
        its pixels, shown where that file is not; and others.
    """
    areas = np.unique(masks[masks > 0], return_counts=True)[1]
    typical = diameter(areas) if areas.size else 30.0
    labels = masks.astype(np.promote_types("u2", np.min_scalar_type(masks.max())))
    edges = maximum_filter(labels, 3) != minimum_filter(labels, 3)
    seg: dict[str, object] = {"masks": labels, "outlines": labels * edges, "flows": []}
    seg |= {"chan_choose": [0, 0], "ismanual": np.zeros(labels.max(), bool)}
    seg |= {"est_diam": typical, "diameter": typical}
    # What makes an array is named once, at the start; NumPy 1 knows it by its old name only.
    steps = dumps(np.array(seg | more, object), 3).replace(b"numpy._core", b"numpy.core", 1)
    with whole(path) as scratch, scratch.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(steps)


def _contents(file: io.BytesIO) -> Any:
    """Follow the steps of a pickle, as far as plain values and arrays need them."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for step, (opcode, argument, _) in enumerate(genops(file)):
        name, do = opcode.name, _DO.get(opcode.name.rstrip("S123"))  # as APPENDS, TUPLE2
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(getattr(memo[argument], "built", memo[argument]))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            wanted = argument or stack.pop(-2) + " " + stack.pop()
            if wanted not in _KNOWN:
                raise ValueError(f"it asks for {wanted[:80]!r}")
            stack.append(_KNOWN[wanted])
        elif do:
            start = len(stack) - _TAKES[name] if name in _TAKES else marks.pop()
            taken, stack[start:] = stack[start:], []
            do(stack, taken)
        elif name in _NEW or (argument is not None and opcode.stack_after not in ([], [anyobject])):
            stack.append(_NEW[name]() if name in _NEW else argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"it takes a step {name}")
        if step > STEPS:
            raise ValueError("it takes too many steps")
    return stack.pop()


def _build(stack: list[Any], taken: list[Any]) -> None:
    """Complete an array or its type; the memo has what waited for that."""
    stack[-1].built = stack[-1].build(*taken[0])
    stack[-1] = stack[-1].built


def _array(_: int, shape: tuple[int, ...], kind: np.dtype, fortran: bool, raw: Any) -> Any:
    """View bytes as an array, for which they must suffice; objects stay a list."""
    # A slice, since None in the place of bytes would be new memory of any size.
    return raw if kind.hasobject else np.ndarray(shape, kind, raw[:], order="F" if fortran else "C")


_NEW: dict[str, Any] = {"NONE": type(None), "NEWTRUE": lambda: True, "NEWFALSE": bool}
_NEW |= {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "REDUCE": 2, "BUILD": 1}
# What a step does to the stack with what it took off it; functions are those of `_KNOWN` alone.
_DO: dict[str, Any] = {"BUILD": _build}
_DO["TUPLE"] = lambda stack, taken: stack.append(tuple(taken))
_DO["APPEND"] = lambda stack, taken: stack[-1].extend(taken)
_DO["REDUCE"] = lambda stack, taken: stack.append(taken[0](*taken[1]))
# Names are text: to look up others can take for ever, or more stack than there is.
_DO["SETITEM"] = lambda s, t: s[-1].update(zip(map(str.__str__, t[::2]), t[1::2], strict=True))
_KNOWN: dict[str, Any] = {"numpy ndarray": None}
_KNOWN["numpy dtype"] = lambda code, *_: Later(build=lambda *s: np.dtype(code).newbyteorder(s[1]))
_KNOWN |= dict.fromkeys(["pathlib PosixPath", "pathlib WindowsPath"], lambda *parts: parts)
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN[f"{_core} _reconstruct"] = lambda *_: Later(build=_array)
    _KNOWN[f"{_core} scalar"] = lambda kind, raw: _array(1, (), kind, False, raw)

"""Cellpose's ``NAME_seg.npy``: written for its interface, and read without calling what it names.

The format is a pickled dictionary, and a pickle is a programme that may call anything. Here, where
alone the library unpickles, only the steps of plain values and arrays are allowed, and only names
that NumPy's arrays need; this module makes these from the file's bytes.
"""

import io
import math
import operator
import re
from pathlib import Path
from pickle import BUILD, SETITEM, SETITEMS, _Unpickler, dumps  # in Python: memory is bounded
from pickletools import genops
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from skimage.segmentation import find_boundaries

from scellseg_lib.atomic import whole
from scellseg_lib.errors import ImageError, telling
from scellseg_lib.samples import diameter

STEPS = 2_000_000  # of a file, at most: some hundred times those of thousands of cells
ALLOWED = re.compile(
    "PROTO|FRAME|MARK|STOP|MEMOIZE|(LONG_)?BIN(PUT|GET)|(STACK_)?GLOBAL|REDUCE|BUILD|NONE|NEWTRUE|"
    "NEWFALSE|BININT[12]?|LONG[14]|BINFLOAT|(SHORT_)?BIN(UNICODE|BYTES)8?|EMPTY_(TUPLE|LIST|DICT)|"
    "TUPLE[123]?|APPENDS?|SETITEMS?"
)


def read_seg(path: Path) -> dict[str, Any]:
    """Contents of a file of any version of Cellpose, such as ``masks`` and ``filename``.

    They are plain values and arrays (NumPy's numbers without axes, paths tuples of their parts);
    ``masks`` is int64[H, W] or [Z, H, W]. ImageError if the file is damaged or holds other things.
    """
    remedy = "If you trust its origin, open it in Cellpose and save the masks as PNG."
    with telling("the file is damaged, or not as Cellpose saves it", path, remedy, ImageError):
        file = io.BytesIO(path.read_bytes())
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        for number, (step, _, _) in enumerate(genops(file)):
            if not ALLOWED.fullmatch(step.name) or number > STEPS:
                raise ValueError(f"it takes a step {step.name}, or too many")
        file.seek(start)
        seg = _Reader(file).load()[()]
        masks = seg["masks"].astype(np.int64, casting="safe")
        masks = masks[0] if masks.ndim == 3 and len(masks) == 1 else masks
        return {**seg, "masks": masks + (masks.min() == -1)}  # the background, long ago


def write_seg(path: Path, masks: np.ndarray, **more: object) -> None:
    """Write masks, int[H, W], for Cellpose; ``more`` by its names: ``filename``, ``img``, ..."""
    labels = masks.astype(np.promote_types("u2", np.min_scalar_type(masks.max())))
    edges = find_boundaries(labels, connectivity=2, mode="inner")
    width = diameter(labels) if labels.any() else 30.0
    seg: dict[str, object] = {"masks": labels, "outlines": labels * edges, "flows": []}
    seg |= {"chan_choose": [0, 0], "ismanual": np.zeros(labels.max(), bool)}
    seg |= {"est_diam": width, "diameter": width}
    # What makes an array is named once, at the start; NumPy 1 knows it by its old name only.
    steps = dumps(np.array(seg | more, object), 3).replace(b"numpy._core", b"numpy.core", 1)
    with whole(path) as scratch, scratch.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(steps)


class _Reader(_Unpickler):
    """Makes NumPy's arrays and numbers, and of paths their parts; asks for nothing else."""

    stack: list[Any]
    known: ClassVar[dict[str, Any]] = {
        "numpy ndarray": None,  # what `_reconstruct` is told to make, and always makes
        "numpy dtype": lambda code, *_: SimpleNamespace(dtype=np.dtype(str.__str__(code))),
        "multiarray _reconstruct": lambda *_: np.empty(0),
        "multiarray scalar": lambda kind, raw: _fill(np.empty(0), (), kind, False, raw),
        "path": lambda *parts: parts,
    }

    def find_class(self, module: str, name: str) -> Any:
        wanted = re.sub("^numpy[.]_?core[.]", "", f"{module} {name}")
        wanted = re.sub("^pathlib([.]_local)? (Pure)?(Posix|Windows)Path$", "path", wanted)
        if wanted not in self.known:
            raise ValueError(f"it asks for {f'{module} {name}'[:80]!r}")
        return self.known[wanted]

    def load_build(self) -> None:
        """Complete an array or its type, whose byte order is said here; nothing else is changed."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, SimpleNamespace):
            made.dtype = made.dtype.newbyteorder(state[1])
        else:
            _fill(made, *state[1:])

    def load_setitems(self) -> None:
        """Names are text: to look up others can take for ever, or more stack than there is."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.stack[-1].update(zip(map(str.__str__, items[::2]), items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self.stack[-1].update({str.__str__(name): value})

    dispatch: ClassVar[dict[int, Any]] = {**_Unpickler.dispatch, BUILD[0]: load_build}
    dispatch |= {SETITEM[0]: load_setitem, SETITEMS[0]: load_setitems}


def _fill(array: np.ndarray, shape: Any, kind: Any, fortran: Any, raw: Any) -> np.ndarray:
    """Give an array its values: bytes of the file, or a list of objects, as many as it needs."""
    dtype, objects = kind.dtype, kind.dtype == np.dtype(object)
    count = math.prod(map(operator.index, shape)) * (1 if objects else dtype.itemsize)
    enough = type(raw) is (list if objects else bytes) and len(raw) == count
    if min(shape, default=0) < 0 or not enough or dtype.hasobject is not objects:
        raise ValueError("an array is not of the values that are there")
    np.ndarray.__setstate__(array, (1, shape, dtype, fortran, raw))
    return array

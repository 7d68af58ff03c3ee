"""Progress bars: in a terminal and in a notebook, silent where nobody looks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def watched() -> bool:
    """Whether a bar would be seen: not under papermill, nbval or with the output in a file.

    ``SCELLSEG_PROGRESS`` set to 0 or 1 decides instead.
    """
    wish = os.environ.get("SCELLSEG_PROGRESS")
    if wish is not None:
        return wish != "0"
    if "PAPERMILL_INPUT_PATH" in os.environ:
        return False
    return "ipykernel" in sys.modules or sys.stderr.isatty()


def progress_bar(
    items: Iterable[T], total: int, label: str, *, shown: bool = True, unit: str = "image"
) -> Iterator[T]:
    """Iterate with a bar that shows the time left; it appears after a second."""
    bar = tqdm(
        items, total=total, desc=label, unit=unit, delay=1.0, disable=not (shown and watched())
    )
    yield from bar


def bar(total: int, label: str, unit: str = "step") -> tqdm:
    """Return a bar to be updated by hand."""
    return tqdm(total=total, desc=label, unit=unit, delay=1.0, disable=not watched())

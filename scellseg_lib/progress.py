"""Progress: bars in a terminal and a notebook, silence where a machine looks."""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
LOG_EVERY = 60.0  # seconds between the states of a bar where the output goes to a file


def silent() -> bool:
    """Whether nothing is to be said: ``TQDM_DISABLE``, under pytest, papermill and nbval."""
    disabled = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    # Nor from a thread: in a notebook its bars would be drawn below whatever cell is run.
    if disabled or "PYTEST_CURRENT_TEST" in os.environ or current_thread() is not main_thread():
        return True
    return "ipykernel" in sys.modules and run_by_machine()


@cache
def run_by_machine() -> bool:
    """Whether this kernel was started by a program that executes notebooks unseen."""
    import psutil  # comes with ipykernel

    runner = psutil.Process(os.getppid())
    words = {Path(word).name for word in runner.cmdline()} | {runner.name()}
    # The last is a worker of pytest-xdist, which does not say so.
    return any(n in w for w in words for n in ("papermill", "pytest", "nbconvert", "sys.stdin"))


def bar(total: int | None, label: str, unit: str = "step", **options: Any) -> tqdm:
    """Return a bar to be updated by hand; ``options`` are tqdm's."""
    options = {"total": total, "desc": label, "unit": unit, "delay": 1.0, **options}
    if "ipykernel" not in sys.modules and not sys.stderr.isatty():  # a log: nohup, a cluster
        options |= {"mininterval": LOG_EVERY, "delay": LOG_EVERY, "miniters": 1, "leave": False}
    return tqdm(**options, disable=silent())


def progress_bar(
    items: Iterable[T], total: int | None, label: str, *, shown: bool = True, unit: str = "image"
) -> Iterator[T]:
    """Iterate with a `bar`."""
    yield from bar(total, label, unit, iterable=items) if shown else items

"""Progress: bars in a terminal and a notebook, lines in a log, silence where a machine looks."""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, TypeVar

from tqdm import tqdm as plain_tqdm
from tqdm.auto import tqdm

T = TypeVar("T")
LOG_EVERY = 60.0
"""Seconds between lines where the output goes to a file."""


def _silent() -> bool:
    """Whether nothing is to be said: ``TQDM_DISABLE``, under pytest, papermill and nbval.

    Nor from a thread: in a notebook its bars would be drawn below whatever cell is run.
    """
    disabled = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    if disabled or "PYTEST_CURRENT_TEST" in os.environ or current_thread() is not main_thread():
        return True
    return "ipykernel" in sys.modules and run_by_machine()


def watched() -> bool:
    """Whether somebody sees a bar: in a terminal, or in a notebook that no machine executes."""
    return not _silent() and ("ipykernel" in sys.modules or sys.stderr.isatty())


@cache
def run_by_machine() -> bool:
    """Whether this kernel was started by a program that executes notebooks unseen."""
    import psutil  # comes with ipykernel

    runner = psutil.Process(os.getppid())
    words = {Path(word).name for word in runner.cmdline()} | {runner.name()}
    # The last is a worker of pytest-xdist, which does not say so.
    return any(n in w for w in words for n in ("papermill", "pytest", "nbconvert", "sys.stdin"))


class _Lines(plain_tqdm):
    """What a bar would say as plain lines, for a log file."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write a line; tqdm's wish to clear the bar at its end (``msg=""``) is passed over."""
        if msg is None:
            print(self, file=self.fp, flush=True)
        return False


def bar(total: int | None, label: str, unit: str = "step", **options: Any) -> plain_tqdm:
    """Return a bar to be updated by hand; ``options`` are tqdm's.

    Where nobody looks but the output is kept (nohup, a cluster), it is a line a minute.
    """
    options = {"total": total, "desc": label, "unit": unit, "delay": 1.0, **options}
    if watched():
        return tqdm(**options, disable=False)
    words = "{desc}: {n_fmt} of {total_fmt} {unit}s after {elapsed}, {remaining} left"
    rhythm = {"mininterval": LOG_EVERY, "delay": LOG_EVERY, "miniters": 1, "leave": False}
    return _Lines(**options | rhythm, bar_format=words, disable=_silent())


def progress_bar(
    items: Iterable[T], total: int | None, label: str, *, shown: bool = True, unit: str = "image"
) -> Iterator[T]:
    """Iterate with a `bar`."""
    yield from bar(total, label, unit, iterable=items) if shown else items

"""What the tests of the panels share: waiting for other threads, what is seen, square cells."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import tifffile

from scellseg_lib.workbench.jobs import Job

LONG = 180
"""Seconds after which a test gives up: many times what the slowest takes on a busy machine."""


def until(condition: Callable[[], Any], seconds: float = LONG) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "it did not come about"
        sleep(0.002)


def rests(job: Job) -> bool:
    """Whether the work of a paused job waits in its report, where it was asked to."""
    return job.state == "paused" and bool(job._changed._waiters)  # type: ignore[attr-defined]


def is_shown(widget: Any) -> bool:
    """Whether a widget is seen in its panel."""
    return widget.layout.display != "none"


def problem(panel: Any) -> str:
    """What a panel says that is wrong; empty where it says no such thing."""
    return panel.message.text if panel.message.is_error else ""


def squares(*cells: tuple[int, ...], side: int = 8, shape: tuple[int, int] = (40, 50)) -> Any:
    """Square cells with these upper left corners, and sides of their own, int32[H, W]."""
    labels = np.zeros(shape, np.int32)
    for label, (y, x, *own) in enumerate(cells, 1):
        length = own[0] if own else side
        labels[y : y + length, x : x + length] = label
    return labels


def draw(folder: Path, *names: str, shape: tuple[int, ...] = (40, 50)) -> None:
    """Write images of noise, each of its own, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.random.default_rng([*name.encode()]).integers(1, 200, shape).astype(np.uint8)
        how = {"planarconfig": "contig"} if len(shape) > 2 else {}
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack", **how)


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files of a folder that are not hidden, by their paths in it."""
    found = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

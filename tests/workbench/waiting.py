"""Waiting for what comes about in another thread, and what is seen of a widget."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from scellseg_lib.workbench.jobs import Job

LONG = 180
"""Seconds after which a test gives up on what does not come about. Many times what the slowest
takes beside three other busy workers on two cores: only what hangs waits that long."""


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

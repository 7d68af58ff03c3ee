"""Waiting for what comes about in another thread."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "it did not come about"
        sleep(0.002)

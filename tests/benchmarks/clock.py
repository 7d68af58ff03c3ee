"""The clock of both sides; imports neither this library nor the peer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

THREADS = 2


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall-clock seconds of a call, after one that is not counted (it compiles)."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def report(what: str, ours: float, peer: float) -> None:
    """Print the seconds of both sides and how many times faster this library is."""
    print(f"{what:<44} ours {ours:9.4f} s   peer {peer:9.4f} s   ratio {peer / ours:7.1f}")

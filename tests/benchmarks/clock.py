"""The clock of both sides; imports neither this library nor the peer."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

THREADS = 2
Result = TypeVar("Result")


def timed(work: Callable[[], Result], repeats: int = 3) -> tuple[Result, np.ndarray]:
    """Call once uncounted (it compiles), then some times more.

    Returns the first call's result and the least wall-clock and processor seconds, float64[2].
    Processor seconds, of all threads together, hardly depend on what else the machine does.
    """
    result = work()
    taken = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - wall, time.process_time() - processor))
    return result, np.min(taken, axis=0)


def report(what: str, ours: np.ndarray, peer: np.ndarray) -> None:
    print(what)
    for name, mine, theirs in zip(("wall clock", "processor"), ours, peer, strict=True):
        print(f"  {name}: ours {mine:.4f} s, peer {theirs:.4f} s, ratio {theirs / mine:.1f}")

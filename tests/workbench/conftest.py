"""What all tests of the widgets share: no thread of one is there in the next."""

from __future__ import annotations

from collections.abc import Iterator
from threading import enumerate as threads

import pytest

from tests.workbench.waiting import until


@pytest.fixture(autouse=True)
def jobs_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for the jobs that a test has left, while all is as the test has made it.

    A job that goes on would find the real models and folders again, or those of the next test, in
    place of what its own has put there. One job may begin another.
    """
    yield
    until(lambda: not any(thread.name == "scellseg-job" for thread in threads()))

"""For nbval: one kernel takes a worker's notebooks in turn, as starting one takes longer than most.

It forgets before each notebook what the last one has named and set. What committed figures are
made from is compared; the pictures themselves go into a temporary folder.
"""

from tempfile import TemporaryDirectory
from typing import Any

import nbval.plugin
from nbval.kernel import RunningKernel

START = """
from pathlib import Path
from scellseg_lib import plots
def save(figure, path, origin, save=plots.save, folder=Path({folder!r})):
    return save(figure, folder / path.name, origin)
plots.save = save
"""
FORGET = """
import matplotlib, pandas
matplotlib.rcdefaults()
pandas.reset_option("^display")
get_ipython().run_line_magic("reset", "-f")
"""


class OneForAll(RunningKernel):
    """A kernel that stays when a notebook has ended; a dead one is replaced by the next."""

    _last: RunningKernel | None = None
    _pictures = TemporaryDirectory()

    @classmethod
    def take(cls, *args: Any, **options: Any) -> RunningKernel:
        """Called by nbval for each notebook, as if it were the class."""
        if cls._last is None or not cls._last.is_alive():
            cls._last = cls(*args, **options)
            cls._last.run(START.format(folder=cls._pictures.name))
        cls._last.run(FORGET)
        return cls._last

    @classmethod
    def end(cls) -> None:
        if cls._last is not None and cls._last.is_alive():
            RunningKernel.stop(cls._last)

    def run(self, code: str) -> None:
        """Run this before the next cell; what fails here would let notebooks pass unseen."""
        request, reply = self.execute_cell_input(code, allow_stdin=False), None
        while reply is None or reply["parent_header"].get("msg_id") != request:
            reply = self.get_message("shell", timeout=300)
        assert reply["content"]["status"] == "ok", reply["content"]
        self.await_idle(request, timeout=300)

    def stop(self) -> None:
        """Called by nbval when a notebook has ended."""


def pytest_configure() -> None:
    nbval.plugin.RunningKernel = OneForAll.take


def pytest_unconfigure() -> None:
    OneForAll.end()

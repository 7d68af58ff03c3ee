"""Serve the workbench by Voila, on loopback, by a token: ``python -m scellseg_lib.workbench``."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path

from voila.app import Voila

from scellseg_lib import paths
from scellseg_lib.workbench.example import FOLDER

NOTEBOOK = paths.REPOSITORY / "notebooks" / "fig6_workbench.ipynb"
PORTS = range(8866, 8886)
IDLE_HOURS = 12
"""After which the kernel of a page that was closed is ended: a reload begins a new one."""


def main(arguments: list[str]) -> None:
    """Serve until it is stopped.

    Parameters
    ----------
    arguments : list of str
        A folder with images, if one is to be opened, then any options of Voila, such as
        ``--no-browser``.
    """
    if arguments and not arguments[0].startswith("-"):
        os.environ[FOLDER] = str(Path(arguments.pop(0)).expanduser().resolve())
    token, port = secrets.token_urlsafe(24), next(filter(_is_free, PORTS), None)
    if port is None:
        raise SystemExit(f"The ports {PORTS[0]} to {PORTS[-1]} are taken: close other workbenches.")
    print(f"The workbench: http://127.0.0.1:{port}/?token={token}", flush=True)
    cull = f"--MappingKernelManager.cull_idle_timeout={IDLE_HOURS * 3600}"
    own = [f"--port={port}", "--Voila.ip=127.0.0.1", f"--Voila.token={token}", cull]
    Voila.launch_instance([str(NOTEBOOK), *own, *arguments])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


if __name__ == "__main__":
    main(sys.argv[1:])

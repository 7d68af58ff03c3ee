"""Files are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a scratch file that takes the place of `path` when the block ends well.

    Its name is hidden, and ends as that of `path` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{os.getpid()}-{get_ident()}.{path.name}")
    scratch.touch()
    mode = scratch.stat().st_mode  # what the umask allows; safetensors lets nobody else read
    try:
        yield scratch
        scratch.chmod(mode)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)

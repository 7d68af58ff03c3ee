"""Files are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a hidden scratch file of that ending that takes the place of `path` if all goes well."""
    scratch = path.with_name(f".{uuid4().hex[:12]}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch.touch(exist_ok=False)  # never what somebody has put there, such as a link
        mode = scratch.stat().st_mode  # what the umask allows; safetensors lets nobody else read
        yield scratch
        scratch.chmod(mode)
        scratch.replace(path)
    except OSError as error:
        if error.errno and error.filename in (None, str(scratch)):  # such as a full disk
            error.filename = str(path)
        raise
    finally:
        scratch.unlink(missing_ok=True)

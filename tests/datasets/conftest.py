"""A server on this machine that misbehaves on demand."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest


@dataclass
class Server:
    """What the server holds and how it fails."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)  # by their paths
    kind: str = "text/html"
    ranges: bool = True
    cut_after: int | None = None  # bytes of the first answer, before the connection is cut
    pause: float = 0.0  # seconds before each 4,000 bytes
    modified: float = 0.0  # when its files were, in seconds since 1970
    busy: int = 0  # answers of 503 before it serves
    length: str | None = None  # what it says instead
    elsewhere: bool = False  # whether it says that another part comes than is asked for
    asked: dict[str, list] = field(default_factory=lambda: defaultdict(list))  # Range headers

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted, since = (handler.headers.get(name) for name in ("Range", "If-Unmodified-Since"))
        self.asked[handler.path].append(wanted)
        content = self.files.get(handler.path, b"")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        status, said = 206 if start else 200, content[start:]
        if handler.path not in self.files:
            status = 404
        elif self.busy:
            status, self.busy = 503, self.busy - 1
        elif since and parsedate_to_datetime(since).timestamp() < self.modified:
            status = 412
        elif start >= len(content) > 0:
            status = 416
        said = b"" if status > 206 else said
        handler.send_response(status)
        handler.send_header("Content-Type", self.kind)
        handler.send_header("Content-Length", self.length or str(len(said)))
        where = f"{start + self.elsewhere}-" if status == 206 else "*"
        handler.send_header("Content-Range", f"bytes {where}/{len(content)}")
        handler.end_headers()
        said, self.cut_after = said[: self.cut_after], None
        for at in range(0, len(said), 4000):
            time.sleep(self.pause)
            handler.wfile.write(said[at : at + 4000])


@contextmanager
def serving(**how) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http.server_port}", **how)
    Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def server(monkeypatch):
    """An empty server, which is asked without a proxy and without patience."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SCELLSEG_OFFLINE", raising=False)
    monkeypatch.setattr("scellseg_lib.datasets.download.PATIENCE", 0.0)
    with serving() as state:
        yield state

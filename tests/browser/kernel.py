"""A second way into the kernel behind a page: the tests look at the arrays where they live."""

import ast
import base64
import io
import json
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

import numpy as np
from jupyter_client.blocking.client import BlockingKernelClient

T = TypeVar("T")

# Sent to the kernel once. A value comes back as text: an array as compressed npy, all else as JSON.
ENCODE = """
def _as_text(value):
    import base64, io, json, zlib
    import numpy as np
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return "npy:" + base64.b64encode(zlib.compress(file.getvalue(), 1)).decode()
    plain = lambda other: other.tolist() if isinstance(other, np.generic) else str(other)
    return "json:" + json.dumps(value, default=plain)
"""


class Kernel:
    """A client of a kernel, beside the page; what is run here waits until a running cell has ended.

    It works in a thread of its own: Playwright keeps an event loop running in the tests' thread.
    """

    def __init__(self, connection_file: Path) -> None:
        self.key = connection_file.stem.removeprefix("kernel-")
        self._thread = ThreadPoolExecutor(1)
        self._client = self._call(lambda: _connect(connection_file))
        self.run(ENCODE)

    def run(self, code: str) -> str:
        """Run code and give what it printed."""
        return self._call(lambda: _run(self._client, code)[0])

    def value(self, expression: str) -> Any:
        """Value of an expression: an array as it is, anything else as JSON would hold it."""
        return self._call(lambda: _run(self._client, "", f"_as_text(({expression}))")[1])

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the kernel in a cell that runs until the end of the block."""
        with NamedTemporaryFile() as file:
            code = f"import os, time\nwhile os.path.exists({file.name!r}): time.sleep(0.01)"
            self._call(lambda: _start(self._client, code))
            yield

    def wait_for(self, expression: str, timeout: float = 300) -> Any:
        """Ask until the expression is true, and give its value; `timeout` in seconds."""
        end = time.monotonic() + timeout
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"after {timeout} s still {value!r}: {expression}"
            time.sleep(0.05)
        return value

    def close(self) -> None:
        """Leave the kernel to itself."""
        self._call(self._client.stop_channels)
        self._thread.shutdown()

    def _call(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result()


def _connect(connection_file: Path) -> BlockingKernelClient:
    client = BlockingKernelClient(connection_file=str(connection_file))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=180)
    return client


def _run(client: BlockingKernelClient, code: str, expression: str = "None") -> tuple[str, Any]:
    """What the code printed, and the decoded value of the expression."""
    printed: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(
        code,
        store_history=False,
        user_expressions={"value": expression},
        allow_stdin=False,
        timeout=300,
        output_hook=hear,
    )["content"]
    value = reply.get("user_expressions", {}).get("value", reply)
    if value["status"] != "ok":
        raise AssertionError("\n".join([*printed, *value.get("traceback", [str(value)])]))
    return "".join(printed), _decode(ast.literal_eval(value["data"]["text/plain"]))


def _start(client: BlockingKernelClient, code: str) -> None:
    """Run code without waiting for its end; the kernel repeats the code when it begins with it."""
    request, begun = client.execute(code, store_history=False, allow_stdin=False), None
    while begun != (request, "execute_input"):
        message = client.get_iopub_msg(timeout=180)
        begun = message["parent_header"].get("msg_id"), message["msg_type"]


def _decode(text: str | None) -> Any:
    if text is None:
        return None
    kind, _, body = text.partition(":")
    if kind == "json":
        return json.loads(body)
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(body))), allow_pickle=False)

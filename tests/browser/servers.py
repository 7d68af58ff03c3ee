"""A real JupyterLab on loopback, which serves notebooks as Voila too; its line, pages, kernels."""

from __future__ import annotations

import ast
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Thread
from typing import Any

import nbformat
import numpy as np
import psutil
import requests
from jupyter_client.blocking.client import BlockingKernelClient
from playwright.sync_api import BrowserContext, Error, Page

SCREENSHOTS = Path(__file__).resolve().parents[2] / "runs" / "browser"
# Until a test gives up: several times what a server or a page takes on a slow, busy machine.
START_SECONDS, PAGE_MILLISECONDS = 300, 180_000
LAB_KERNEL = "jupyterapp.shell.currentWidget.sessionContext.session.kernel.id"
VOILA_KERNEL = "JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId"
LAB_IS_OPEN = """() => window.jupyterapp?.shell.currentWidget?.sessionContext
  ?.session?.kernel?.status === 'idle'"""
# The server says that a line is open before it hears the kernel: what is said between is lost.
RECONNECT = LAB_KERNEL.replace(
    ".id",
    """.reconnect().then(async () => {
  const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
  const wait = () => new Promise((resolve) => setTimeout(resolve, 1000, true));
  const ask = () => kernel.requestExecute({ code: "", silent: true, store_history: false }).done;
  while (await Promise.race([ask().then(() => false), wait()]));
})""",
)
VOILA_IS_OPEN = "() => document.querySelector('#rendered_cells')"
# Closes what JupyterLab says of a lost line as it opens. A test cuts off all pages at once, and a
# page that waits for the next notebook behind this dialog would not show it.
CLOSE_CONNECTION_ERRORS = """new MutationObserver(() => {
  for (const dialog of document.querySelectorAll(".jp-Dialog")) {
    if (dialog.textContent.includes("Server Connection Error"))
      dialog.querySelector(".jp-Dialog-button").click();
  }
}).observe(document.body, { childList: true, subtree: true })"""

# Sent to the kernel once. A value comes back as JSON, an array as lists.
ENCODE = """
def _as_text(value):
    import json
    return json.dumps(value, default=lambda one: getattr(one, "tolist", lambda: str(one))())
"""


def chromium() -> str | None:
    """Path of a Chromium: the one that SCELLSEG_CHROMIUM names, or an installed one."""
    named = os.environ.get("SCELLSEG_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if (path := shutil.which(name))), None)


class Kernel:
    """A client of a kernel, beside the page; what is run here waits until a running cell has ended.

    It works in a thread of its own: Playwright keeps an event loop running in the tests' thread.
    """

    def __init__(self, connection_file: Path) -> None:
        self.key = connection_file.stem.removeprefix("kernel-")
        self._thread = ThreadPoolExecutor(1)
        self._client = BlockingKernelClient(connection_file=str(connection_file))
        self._call(self._client.load_connection_file)
        self._call(self._client.start_channels)
        self._call(self._client.wait_for_ready, timeout=180)
        self.run(ENCODE)

    def run(self, code: str) -> str:
        return self._call(_run, self._client, code)[0]

    def value(self, expression: str) -> Any:
        """Value of an expression as JSON holds it; a list of lists is an array."""
        _, found = self._call(_run, self._client, "", f"_as_text(({expression}))")
        is_array = isinstance(found, list) and found and isinstance(found[0], list)
        return np.array(found) if is_array else found

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the kernel in a cell that runs until the end of the block."""
        with NamedTemporaryFile() as file:
            code = f"import os, time\nwhile os.path.exists({file.name!r}): time.sleep(0.01)"
            self._call(_start, self._client, code)
            yield

    def wait_for(self, expression: str, timeout: float = 300) -> Any:
        """Ask until the expression is true, and give its value; `timeout` in seconds."""
        end = time.monotonic() + timeout
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"after {timeout} s still {value!r}: {expression}"
            time.sleep(0.05)
        return value

    def close(self) -> None:
        self._call(self._client.stop_channels)
        self._thread.shutdown()

    def _call(self, work: Callable[..., Any], *given: Any, **options: Any) -> Any:
        return self._thread.submit(work, *given, **options).result()


def _run(client: BlockingKernelClient, code: str, expression: str = "'0'") -> tuple[str, Any]:
    """What the code printed, and the decoded value of the expression."""
    printed: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    how = {"store_history": False, "allow_stdin": False, "timeout": 300, "output_hook": hear}
    answer = client.execute_interactive(code, user_expressions={"value": expression}, **how)
    reply = answer["content"]
    value = reply.get("user_expressions", {}).get("value", reply)
    if value["status"] != "ok":
        raise AssertionError("\n".join([*printed, *value.get("traceback", [str(value)])]))
    return "".join(printed), json.loads(ast.literal_eval(value["data"]["text/plain"]))


def _start(client: BlockingKernelClient, code: str) -> None:
    """Run code without waiting for its end; the kernel repeats the code when it begins with it."""
    request, begun = client.execute(code, store_history=False, allow_stdin=False), None
    while begun != (request, "execute_input"):
        message = client.get_iopub_msg(timeout=180)
        begun = message["parent_header"].get("msg_id"), message["msg_type"]


class Line:
    """A TCP relay on loopback to a port, in threads of its own; `port` is for the browser."""

    def __init__(self, target: int) -> None:
        self._target, self._is_cut, self._is_dead = target, False, False
        self._ends: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._server.getsockname()[1]
        Thread(target=self._relay, daemon=True).start()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """End every connection and refuse new ones, as where a server's network has gone."""
        self._is_cut = True
        self._end(*self._ends)
        try:
            yield
        finally:
            self._is_cut = False

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Lose what is sent, then end the connections, as where a computer sleeps."""
        self._is_dead = True
        try:
            yield
        finally:
            self._end(*self._ends)
            self._is_dead = False

    def _relay(self) -> None:
        while True:
            here = self._server.accept()[0]
            with here, suppress(OSError):  # the server has gone
                if not self._is_cut and not self._is_dead:
                    there = socket.create_connection(("127.0.0.1", self._target))
                    ends = here.dup(), there
                    self._ends |= {*ends}
                    for way in (ends, ends[::-1]):
                        Thread(target=self._copy, args=way, daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if not self._is_dead:
                    other.sendall(data)
        self._end(one, other)

    def _end(self, *ends: socket.socket) -> None:
        self._ends -= {*ends}
        for end in ends:
            with suppress(OSError):  # the other side has ended it
                end.shutdown(socket.SHUT_RDWR)


class NotebookPage:
    """A notebook in the browser, its kernel, and the errors in the JavaScript of its widgets."""

    def __init__(self, server: Server, page: Page, path: Path, is_lab: bool) -> None:
        self.server, self.page, self.path, self.is_lab = server, page, path, is_lab
        self.errors: list[str] = []
        page.on("pageerror", self._note_error)
        self.connect()

    def connect(self) -> None:
        """Wait until the page is open, and connect to the kernel that it has now."""
        is_open = LAB_IS_OPEN if self.is_lab else VOILA_IS_OPEN
        self.page.wait_for_function(is_open, polling=50)  # ms; also in the background
        self.page.evaluate(CLOSE_CONNECTION_ERRORS)
        key = self.page.evaluate(LAB_KERNEL if self.is_lab else VOILA_KERNEL)
        (file,) = self.server.runtime.rglob(f"kernel-{key}.json")
        self.kernel = Kernel(file)

    def execute(self, command: str) -> None:
        self.page.evaluate("command => jupyterapp.commands.execute(command)", command)

    def reconnect(self) -> None:
        """Let JupyterLab connect anew at once; by itself it waits longer after each failure."""
        self.page.evaluate(RECONNECT)

    def reload(self) -> None:
        """Load the page anew and wait: JupyterLab's kernel goes on, Voila starts another."""
        self.page.reload()
        self.kernel.close()
        self.connect()

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page in runs/browser/NAME.png, for a human look."""
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def _note_error(self, error: Error) -> None:
        # anywidget loads a widget's code from a blob; the rest is JupyterLab's own.
        if "blob:" in str(error.stack):
            self.errors.append(f"{error.message}\n{error.stack}")


class Server:
    """JupyterLab with Voila, a process in an empty folder; `jupyterapp` in the page is its own."""

    def __init__(self, folder: Path) -> None:
        home, self.notebooks, self.runtime = (folder / n for n in ("home", "notebooks", "runtime"))
        config = home / ".jupyter" / "labconfig" / "page_config.json"
        for made in (config.parent, self.notebooks, self.runtime):
            made.mkdir(parents=True)
        disabled = {"@jupyterlab/apputils-extension:announcements": True}  # no look for updates
        config.write_text(json.dumps({"disabledExtensions": disabled}))
        self.token, self.port = secrets.token_hex(16), _find_port()
        self.line = Line(self.port)
        self.url = f"http://127.0.0.1:{self.line.port}"
        others = ("JUPYTER", "JPY", "IPYTHON", "XDG")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        environment |= {"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(self.runtime)}
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *("--expose-app-in-browser", "--ServerApp.port_retries=0"),
            f"--ServerApp.port={self.port}",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.notebooks}",
        ]
        log = folder / "server.log"
        with log.open("wb") as output:
            how = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            self.process = psutil.Popen(command, cwd=self.notebooks, env=environment, **how)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(requests.ConnectionError):
                self.ask("GET", "api")
                return
            time.sleep(0.1)
        self.stop()
        raise AssertionError(f"no server:\n{log.read_text(errors='replace')[-3000:]}")

    def open(
        self, notebook: Path | Sequence[str], context: BrowserContext, *, is_lab: bool = True
    ) -> NotebookPage:
        """Open a notebook, or one made of these cells, in JupyterLab or Voila, and run it."""
        path = self.notebooks / f"{secrets.token_hex(4)}.ipynb"
        if isinstance(notebook, Path):
            shutil.copy(notebook, path)
        else:
            cells = [nbformat.v4.new_code_cell(source) for source in notebook]
            kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
            made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
            nbformat.write(made, path)
        opened = self.open_again(path, context, is_lab=is_lab)
        if is_lab:  # Voila has run all before it shows the page
            opened.execute("notebook:run-all-cells")
        return opened

    def open_again(
        self, path: Path, context: BrowserContext, *, is_lab: bool = True
    ) -> NotebookPage:
        """A notebook that is served in a new tab; in JupyterLab it is not run."""
        page = context.new_page()
        page.set_default_timeout(PAGE_MILLISECONDS)
        place = f"doc/tree/{path.name}?reset&" if is_lab else f"voila/render/{path.name}?"
        page.goto(f"{self.url}/{place}token={self.token}")
        return NotebookPage(self, page, path, is_lab)

    def close(self, notebook: NotebookPage) -> None:
        """Close a notebook, and end its kernel."""
        notebook.page.close()
        self.ask("DELETE", f"api/kernels/{notebook.kernel.key}")
        notebook.kernel.close()

    def ask(self, method: str, address: str, content: Any = None) -> requests.Response:
        """Ask the server itself, past the browser and the line."""
        address = f"http://127.0.0.1:{self.port}/{address}"
        headers = {"Authorization": f"token {self.token}"}
        return requests.request(method, address, headers=headers, json=content, timeout=120)

    def stop(self) -> None:
        """End the server and its kernels; nothing of theirs is kept."""
        with suppress(psutil.NoSuchProcess):
            family = [self.process, *self.process.children(recursive=True)]
            for each in family:
                each.kill()
            psutil.wait_procs(family)


def _find_port() -> int:
    """A free port, of those that the system does not give to kernels while the server starts."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port

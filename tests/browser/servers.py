"""A real JupyterLab on loopback, which serves notebooks as Voila too, and their pages."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import psutil
import requests
from playwright.sync_api import BrowserContext, Error, Page

from tests.browser.kernel import Kernel
from tests.browser.line import Line

SCREENSHOTS = Path(__file__).resolve().parents[2] / "runs" / "browser"
# Until a test gives up: several times what a server or a page takes on a slow, busy machine.
START_SECONDS, PAGE_MILLISECONDS = 300, 180_000
LAB_KERNEL = "jupyterapp.shell.currentWidget.sessionContext.session.kernel.id"
VOILA_KERNEL = "JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId"
LAB_IS_OPEN = """() => window.jupyterapp?.shell.currentWidget?.sessionContext
  ?.session?.kernel?.status === 'idle'"""
VOILA_IS_OPEN = "() => document.querySelector('#rendered_cells')"
# Closes what JupyterLab says of a lost line as it opens. A test cuts off all pages at once, and a
# page that waits for the next notebook behind this dialog would not show it.
CLOSE_CONNECTION_ERRORS = """new MutationObserver(() => {
  for (const dialog of document.querySelectorAll(".jp-Dialog")) {
    if (dialog.textContent.includes("Server Connection Error"))
      dialog.querySelector(".jp-Dialog-button").click();
  }
}).observe(document.body, { childList: true, subtree: true })"""


def chromium() -> str | None:
    """Path of a Chromium: the one that SCELLSEG_CHROMIUM names, or an installed one."""
    named = os.environ.get("SCELLSEG_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if (path := shutil.which(name))), None)


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
        """Let JupyterLab execute a command, and wait for its end."""
        self.page.evaluate("command => jupyterapp.commands.execute(command)", command)

    def reconnect(self) -> None:
        """Let JupyterLab connect anew at once; by itself it waits longer after each failure."""
        self.page.evaluate(LAB_KERNEL.replace(".id", ".reconnect()"))

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
    """JupyterLab with Voila, as a process in an empty folder; `jupyterapp` in the page is its own.

    To load it, and to start a kernel, takes most of a test's time: a page and a kernel that are
    done with wait for the next notebook.
    """

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
        self._idle: tuple[Page, str] | None = None  # of JupyterLab, with the kernel's session
        others = ("JUPYTER", "JPY", "IPYTHON", "XDG")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *("--expose-app-in-browser", "--ServerApp.port_retries=0"),
            f"--ServerApp.port={self.port}",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.notebooks}",
        ]
        log = folder / "server.log"
        with log.open("wb") as output:
            self.process = psutil.Popen(
                command,
                cwd=self.notebooks,
                env=environment | {"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(self.runtime)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
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
        if is_lab and self._idle is not None and self._idle[0].context == context:
            (page, session), self._idle = self._idle, None
            page.bring_to_front()  # a tab in the background draws nothing
            self.ask("PATCH", f"api/sessions/{session}", {"path": path.name, "name": path.name})
            opening = "path => jupyterapp.commands.execute('docmanager:open', {path})"
            page.evaluate(opening, path.name)
            opened = NotebookPage(self, page, path, is_lab)
        else:
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

    def close(self, notebook: NotebookPage, *, reuse: bool) -> None:
        """Close a notebook; JupyterLab's page and its kernel may serve another one if `reuse`."""
        page, kernel = notebook.page, notebook.kernel
        if reuse and notebook.is_lab and self._idle is None:
            kernel.run("import ipywidgets; ipywidgets.Widget.close_all()")
            kernel.run("get_ipython().run_line_magic('reset', '-f')")
            page.evaluate("[...jupyterapp.shell.widgets('main')].forEach(one => one.dispose())")
            sessions = self.ask("GET", "api/sessions").json()
            ours = next(one["id"] for one in sessions if one["kernel"]["id"] == kernel.key)
            self._idle = page, ours
        else:
            page.close()
            self.ask("DELETE", f"api/kernels/{kernel.key}")
        kernel.close()

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

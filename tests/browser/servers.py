"""A real JupyterLab and a real Voila on loopback, each with a home of its own, and their pages."""

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
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import psutil
import requests
from playwright.sync_api import BrowserContext, Error, Page

from tests.browser.kernel import Kernel
from tests.browser.line import Line

SCREENSHOTS = Path(__file__).resolve().parents[2] / "runs" / "browser"
# Until a test gives up: several times what a server or a page takes on a slow, busy machine.
START_SECONDS, PAGE_MILLISECONDS = 300, 180_000


def chromium() -> str | None:
    """Path of a Chromium: the one that SCELLSEG_CHROMIUM names, or an installed one."""
    named = os.environ.get("SCELLSEG_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if (path := shutil.which(name))), None)


def screenshot(page: Page, name: str) -> Path:
    """Keep a picture of the page in runs/browser/NAME.png, for a human look."""
    path = SCREENSHOTS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    return path


class NotebookPage:
    """A notebook that is open in the browser, with its kernel.

    Attributes
    ----------
    page : playwright.sync_api.Page
    kernel : Kernel
        The kernel that the page talks to, reached on a way of its own.
    path : pathlib.Path
        The notebook's file.
    errors : list of str
        What has failed in the JavaScript of widgets, which a user would not see.
    """

    def __init__(self, server: Server, page: Page, path: Path) -> None:
        self.server, self.page, self.path = server, page, path
        self.errors: list[str] = []
        page.on("pageerror", self._failed)
        server.wait_until_open(page)
        self.kernel = server.kernel_of(page)

    def run_cell(self, index: int) -> None:
        """Run one cell, by its place from 0, and wait for its end (JupyterLab)."""
        self.page.evaluate(
            """async index => {
                 jupyterapp.shell.currentWidget.content.activeCellIndex = index;
                 await jupyterapp.commands.execute('notebook:run-cell');
               }""",
            index,
        )

    def save(self) -> None:
        """Save the notebook, and wait until it is saved (JupyterLab)."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")

    def reload(self) -> None:
        """Load the page anew and wait until it is ready.

        In JupyterLab the kernel goes on and no cell runs again; Voila starts a new kernel, in
        which the notebook runs anew.
        """
        self.page.reload()
        self.server.wait_until_open(self.page)
        if self.server.new_kernel_on_reload:
            self.kernel.close()
            self.kernel = self.server.kernel_of(self.page)

    @contextmanager
    def offline(self) -> Iterator[None]:
        """Cut this page, and all that share its context, off from the server."""
        self.page.context.set_offline(True)
        try:
            yield
        finally:
            self.page.context.set_offline(False)

    def screenshot(self, name: str) -> Path:
        """Keep a picture in runs/browser/NAME.png."""
        return screenshot(self.page, name)

    def _failed(self, error: Error) -> None:
        # anywidget loads a widget's code from a blob; the rest is JupyterLab's own.
        if "blob:" in str(error.stack):
            self.errors.append(f"{error.message}\n{error.stack}")


class Server(ABC):
    """A Jupyter server in a process of its own.

    Parameters
    ----------
    folder
        Empty folder: gets a home, all of Jupyter's folders, and `notebooks/`, which is served.
    """

    new_kernel_on_reload: bool

    def __init__(self, folder: Path) -> None:
        self.folder, self.notebooks, self.runtime = folder, folder / "notebooks", folder / "runtime"
        for name in ("home", "config", "data", "settings", "workspaces", "runtime", "notebooks"):
            (folder / name).mkdir(parents=True)
        self.token, self.port = secrets.token_hex(16), _free_port()
        self.line = Line(self.port)
        self.url = f"http://127.0.0.1:{self.line.port}"
        self.configure()
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, *self.command()],
                cwd=self.notebooks,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_started()
        except BaseException:
            self.stop()
            raise

    @abstractmethod
    def configure(self) -> None:
        """Write what the server reads at its start."""

    @abstractmethod
    def command(self) -> list[str]:
        """Arguments for Python that start the server."""

    @abstractmethod
    def address(self, path: Path) -> str:
        """Where the browser finds a notebook, token included."""

    @abstractmethod
    def wait_until_open(self, page: Page) -> None:
        """Wait until the page is connected to its kernel."""

    @abstractmethod
    def kernel_of(self, page: Page) -> Kernel:
        """The kernel behind a page that is open."""

    @abstractmethod
    def run_all(self, page: Page) -> None:
        """Run all cells and wait for the end of the last."""

    @abstractmethod
    def end_kernel(self, kernel: Kernel) -> None:
        """End a kernel, busy or not."""

    def open(self, notebook: Path | Sequence[str], context: BrowserContext) -> NotebookPage:
        """Open a notebook, or one made of these cells, in a new tab of the context."""
        path = self._served(notebook)
        page = context.new_page()
        page.set_default_timeout(PAGE_MILLISECONDS)
        page.goto(self.address(path))
        return NotebookPage(self, page, path)

    def ask(self, method: str, address: str) -> requests.Response:
        """Ask the server itself, past the browser and the line."""
        return requests.request(
            method,
            f"http://127.0.0.1:{self.port}/{address}",
            headers={"Authorization": f"token {self.token}"},
            timeout=120,
        )

    def log(self) -> str:
        """What the server has said until now."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the server and its kernels."""
        self.line.close()
        try:
            family = [self.process, *self.process.children(recursive=True)]
            self.process.terminate()  # it then ends its kernels itself
        except psutil.NoSuchProcess:
            return
        _, alive = psutil.wait_procs(family, timeout=10)
        for each in alive:
            each.kill()
        psutil.wait_procs(alive, timeout=10)

    def _served(self, notebook: Path | Sequence[str]) -> Path:
        """Copy of a notebook, or a new one, in the folder that is served."""
        if isinstance(notebook, Path):
            if notebook.parent == self.notebooks:
                return notebook
            return Path(shutil.copy(notebook, self.notebooks))
        cells = [nbformat.v4.new_code_cell(source) for source in notebook]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        path = self.notebooks / f"{secrets.token_hex(4)}.ipynb"
        nbformat.write(made, path)
        return path

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _environment(self) -> dict[str, str]:
        """Ours, with every folder that Jupyter or IPython writes to in this server's folder."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY"))}
        return inherited | {
            "HOME": str(self.folder / "home"),
            "IPYTHONDIR": str(self.folder / "home" / "ipython"),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTERLAB_SETTINGS_DIR": str(self.folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.folder / "workspaces"),
        }

    def _wait_until_started(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("GET", "")
                return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise AssertionError(f"the server did not start:\n{self.log()[-3000:]}")


class JupyterLab(Server):
    """JupyterLab, whose application is in reach of the page's JavaScript as `jupyterapp`."""

    new_kernel_on_reload = False

    def configure(self) -> None:
        """No question about news, no look for updates."""
        folder = self.folder / "config" / "labconfig"
        folder.mkdir()
        disabled = {"@jupyterlab/apputils-extension:announcements": True}
        (folder / "page_config.json").write_text(json.dumps({"disabledExtensions": disabled}))

    def command(self) -> list[str]:
        return [
            *("-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.notebooks}",
        ]

    def address(self, path: Path) -> str:
        return f"{self.url}/doc/tree/{path.name}?reset&token={self.token}"

    def wait_until_open(self, page: Page) -> None:
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext"
            "?.session?.kernel?.status === 'idle'"
        )

    def run_all(self, page: Page) -> None:
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")

    def kernel_of(self, page: Page) -> Kernel:
        key = page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.id")
        return Kernel(self.runtime / f"kernel-{key}.json")

    def end_kernel(self, kernel: Kernel) -> None:
        self.ask("DELETE", f"api/kernels/{kernel.key}")


class Voila(Server):
    """Voila, serving a folder."""

    new_kernel_on_reload = True

    def configure(self) -> None:
        """Nothing: its command says all."""

    def command(self) -> list[str]:
        return [
            *("-m", "voila", "--no-browser"),
            f"--port={self.port}",
            "--Voila.port_retries=0",
            f"--Voila.token={self.token}",
            f"--Voila.connection_dir_root={self.runtime}",
            str(self.notebooks),
        ]

    def address(self, path: Path) -> str:
        return f"{self.url}/voila/render/{path.name}?token={self.token}"

    def wait_until_open(self, page: Page) -> None:
        page.wait_for_function("() => document.querySelector('#rendered_cells')")

    def run_all(self, page: Page) -> None:
        """Nothing: Voila has run them before it shows the page."""

    def kernel_of(self, page: Page) -> Kernel:
        key = page.evaluate(
            "JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId"
        )
        (file,) = self.runtime.glob(f"voila_*/kernel-{key}.json")
        return Kernel(file)

    def end_kernel(self, kernel: Kernel) -> None:
        self.ask("POST", f"voila/api/shutdown/{kernel.key}")


def _free_port() -> int:
    """A port that nobody has, and that the system gives to nobody who asks for any.

    Until the server takes it there are seconds, in which kernels and connections of other tests get
    ports of the system, from 32768 (Linux) or 49152.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port

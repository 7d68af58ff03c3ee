"""A browser, JupyterLab and Voila for the tests that need them: one of each for a whole run.

A test asks for `lab` or `voila` and opens notebooks::

    def test_it(lab):
        notebook = lab.open(["from ... import MaskEditor", "editor = ...", "editor"])
        notebook.page.get_by_role("button", name="Undo").click()
        assert notebook.kernel.value("editor.labels").max() == 3

`notebook.page` is Playwright's page, `notebook.kernel` a client of the same kernel (`run`, `value`,
`wait_for`, and `start` to make it busy), `notebook.reload()`, `notebook.offline()` and
`server.line.cut()` disturb it, `notebook.screenshot(name)` keeps a picture in runs/browser/.
Servers and kernels end with the run, pages and their kernels with the test, failed or not.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ViewportSize, sync_playwright

from tests.browser.servers import JupyterLab, NotebookPage, Server, Voila, chromium, screenshot

WINDOW: ViewportSize = {"width": 1440, "height": 1000}  # in pixels, as on a small laptop


class Opener:
    """Opens notebooks of one server, for one test.

    Attributes
    ----------
    server : Server
    context : playwright.sync_api.BrowserContext
        The window; its tabs share cookies, as a user's do.
    """

    def __init__(self, server: Server, context: BrowserContext) -> None:
        self.server, self.context = server, context
        self._opened: list[NotebookPage] = []

    def open(self, notebook: Path | Sequence[str]) -> NotebookPage:
        """Open a notebook, or one of these cells, in a new tab; run it and wait for its end."""
        opened = self.server.open(notebook, self.context)
        self._opened.append(opened)
        self.server.run_all(opened.page)
        return opened

    def open_again(self, opened: NotebookPage) -> NotebookPage:
        """The same notebook in a further tab, run anew only where its server does so (Voila)."""
        again = self.server.open(opened.path, self.context)
        self._opened.append(again)
        return again

    def close(self, failed: bool, name: str) -> None:
        """Close all tabs and end their kernels; keep pictures of what a failed test has seen."""
        for index, opened in enumerate(self._opened):
            if failed and not opened.page.is_closed():
                screenshot(opened.page, f"failed_{name}_{index}")
            opened.kernel.close()
            self.server.end_kernel(opened.kernel)
        self.context.close()
        errors = [error for opened in self._opened for error in opened.errors]
        assert errors == [], "\n\n".join(errors)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where none is installed."""
    path = chromium()
    if path is None:
        pytest.skip(
            "no Chromium here: install one (Debian: chromium) or name it: SCELLSEG_CHROMIUM"
        )
    with sync_playwright() as playwright:
        # In a container Chromium cannot make its sandbox; all that it opens here is our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab_server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = JupyterLab(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def voila_server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Voila(tmp_path_factory.mktemp("voila"))
    yield server
    server.stop()


@pytest.fixture
def lab(lab_server: Server, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Opener]:
    """JupyterLab, with a window of its own for the test."""
    yield from _opener(lab_server, browser, request)


@pytest.fixture(scope="module")
def lab_of_module(
    lab_server: Server, browser: Browser, request: pytest.FixtureRequest
) -> Iterator[Opener]:
    """JupyterLab, with one window for all tests of a file: opening a notebook takes seconds."""
    yield from _opener(lab_server, browser, request)


@pytest.fixture
def voila(
    voila_server: Server, browser: Browser, request: pytest.FixtureRequest
) -> Iterator[Opener]:
    """Voila, with a window of its own for the test."""
    yield from _opener(voila_server, browser, request)


@pytest.fixture(params=["lab", "voila"])
def either(request: pytest.FixtureRequest) -> Opener:
    """JupyterLab, then Voila."""
    return request.getfixturevalue(request.param)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember for the fixtures' end whether the test has failed."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


def _opener(server: Server, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Opener]:
    opener = Opener(server, browser.new_context(viewport=WINDOW, accept_downloads=True))
    yield opener
    opener.close(request.node.stash.get(FAILED, False), request.node.name)

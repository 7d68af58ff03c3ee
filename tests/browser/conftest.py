"""A browser and JupyterLab, with Voila, for the tests that need them: one of each for a whole run.

A test asks for `lab` or `voila` and opens notebooks, which are closed with it, failed or not; of
JupyterLab, the page and the kernel then serve the next one.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.browser.editing import SETUP, EditorInPage
from tests.browser.servers import NotebookPage, Server, chromium


@dataclass
class Opener:
    """Opens notebooks, in JupyterLab or Voila, for one test or file."""

    server: Server
    context: BrowserContext
    is_lab: bool = True
    opened: list[NotebookPage] = field(default_factory=list)
    copies: list[NotebookPage] = field(default_factory=list)

    def open(self, notebook: Path | Sequence[str]) -> NotebookPage:
        """Open a notebook, or one of these cells; run it and wait for its end."""
        self.opened.append(self.server.open(notebook, self.context, is_lab=self.is_lab))
        return self.opened[-1]

    def open_again(self, notebook: NotebookPage) -> NotebookPage:
        """The same notebook of JupyterLab in a further tab; it does not run anew."""
        self.copies.append(self.server.open_again(notebook.path, self.context))
        return self.copies[-1]

    def close(self, failed: bool = False, name: str = "") -> None:
        """Close all notebooks; keep pictures of what a failed test has seen."""
        pages = [*self.opened, *self.copies]
        errors = [error for notebook in pages for error in notebook.errors]
        for index, notebook in enumerate(pages):
            if failed and not notebook.page.is_closed():
                notebook.screenshot(f"failed_{name}_{index}")
        reuse = not failed and not errors
        while self.copies:  # the kernel is that of the notebook itself
            copy = self.copies.pop()
            copy.page.close()
            copy.kernel.close()
        while self.opened:
            self.server.close(self.opened.pop(), reuse=reuse)
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
def window(browser: Browser) -> BrowserContext:
    """The browser's window, as large as on a small laptop; its tabs share cookies, as a user's."""
    return browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)


@pytest.fixture(scope="session")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def lab(server: Server, window: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Opener]:
    """JupyterLab."""
    yield from _close_after(Opener(server, window), request)


@pytest.fixture
def voila(server, window: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Opener]:
    """Voila."""
    yield from _close_after(Opener(server, window, is_lab=False), request)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember for the fixtures' end whether the test has failed."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


def _close_after(opener: Opener, request: pytest.FixtureRequest) -> Iterator[Opener]:
    yield opener
    opener.close(request.node.stash.get(FAILED, False), request.node.name)


@pytest.fixture(scope="session")
def editor_of_all(server: Server, window: BrowserContext) -> Iterator[EditorInPage]:
    """A mask editor in JupyterLab that is loaded once for all tests."""
    opener = Opener(server, window)
    yield EditorInPage(opener.open([f"{SETUP}\neditor = MaskEditor(np.zeros((8, 8)))", "editor"]))
    opener.close()


@pytest.fixture
def editor(editor_of_all: EditorInPage) -> Iterator[EditorInPage]:
    """The mask editor, with its tools as they are at first; the test loads an image."""
    editor_of_all.page.bring_to_front()  # a tab in the background draws nothing
    editor_of_all.kernel.run("editor._callbacks.clear()")
    editor_of_all.kernel.run("for name in editor.classes: editor.remove_class(name)")
    editor_of_all.load("np.zeros((8, 8), np.uint8)")
    editor_of_all.root.locator(".se-protect").check()
    editor_of_all.tool("select", 9)
    yield editor_of_all
    errors, editor_of_all.notebook.errors = editor_of_all.notebook.errors, []
    assert errors == []

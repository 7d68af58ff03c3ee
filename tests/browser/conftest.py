"""A browser and JupyterLab, with Voila, for tests that need them: one of each for a whole run."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, sync_playwright

from tests.browser.servers import NotebookPage, Server, chromium

Point = tuple[float, float]
"""(y, x) in pixels of the image; the middle of the first pixel is (0.5, 0.5)."""

SETUP = """
import numpy as np
import pandas as pd
from pathlib import Path
from scellseg_lib.files.images import read_masks
from scellseg_lib.workbench.editor import ImageView, MaskEditor
"""
# Where a point of the image is in the window. Nothing else is asked of the page's own code.
PLACE = """(root, points) => {
  const { left, top, zoom, ratio } = root.scellseg.painter;
  const box = root.querySelector(".se-canvas").getBoundingClientRect();
  return points.map(([y, x]) => [
    box.left + (x - left) * zoom / ratio, box.top + (y - top) * zoom / ratio]);
}"""
GREY = """(root, points) => {
  const canvas = root.querySelector(".se-canvas");
  const { left, top, zoom } = root.scellseg.painter;
  return points.map(([y, x]) => {
    const at = [(x - left) * zoom, (y - top) * zoom].map(Math.floor);
    const [red, green, blue] = canvas.getContext("2d").getImageData(...at, 1, 1).data;
    return (red + green + blue) / 3;
  });
}"""


class EditorInPage:
    """One mask editor in a page: of this name in the kernel, the one of this index in the page."""

    def __init__(self, notebook: NotebookPage, name: str = "editor", index: int = 0) -> None:
        self.notebook, self.name, self.index = notebook, name, index
        self.page = notebook.page
        self.opened()

    @property
    def kernel(self):
        return self.notebook.kernel

    @property
    def root(self) -> Locator:
        return self.page.locator(".se-root").nth(self.index)

    @property
    def labels(self) -> np.ndarray:
        """Python's labels, int32[H, W], when all edits of the page have arrived."""
        self.arrived()
        return self.kernel.value(f"np.array({self.name}.labels)")

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Python's list of cells, when all edits of the page have arrived."""
        self.arrived()
        return self.kernel.value(f"{self.name}.cells.to_dict('records')")

    def load(self, arguments: str) -> None:
        """Open another image, ``load(arguments)`` in the kernel, and wait for it in the page."""
        self.kernel.run(f"{self.name}.load({arguments})")
        self.opened()

    def wait(self, condition: str, *given: Any) -> None:
        """Wait until a condition holds in the page, ``(root, given) => ...``."""
        function = f"([root, given]) => ({condition})(root, given)"
        args = [self.root.element_handle(), list(given)]
        self.page.wait_for_function(function, arg=args, polling=20)  # ms; also in the background

    def opened(self) -> None:
        """Wait until the page has what Python has."""
        pages = f"getattr({self.name}, '_pages', None)"  # a view has none
        session = self.kernel.value(f"getattr({pages}, 'session', None)")
        self.root.wait_for()
        is_open = "session ? scellseg.session === session : scellseg.ready"
        self.wait(f"({{ scellseg }}, [session]) => {is_open}", session)
        self.root.locator(".se-canvas").scroll_into_view_if_needed()

    def drawn(self) -> None:
        """Wait until the page has drawn what has changed."""
        self.wait("root => !root.scellseg.scheduled")

    def arrived(self) -> None:
        """Wait until Python has answered every edit."""
        self.wait("root => Number(root.dataset.waiting ?? 0) === 0")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the kernel in a cell, behind which the page's messages have to wait.

        ipykernel takes them in the thread from which the widget has spoken last.
        """
        self.kernel.run(f"{self.name}.say('')")
        with self.kernel.busy():
            yield

    def tool(self, name: str, size: int | None = None) -> None:
        self.press(f"tool-{name}")
        if size is not None:
            self.fill("size", str(size))

    def press(self, button: str) -> None:
        self.root.locator(f".se-{button}").click()

    def fill(self, field: str, text: str, key: str = "Tab") -> None:
        """Write into a field, by the end of its DOM class, and leave it by a key."""
        self.root.locator(f".se-{field}").fill(text)
        self.root.locator(f".se-{field}").press(key)

    def key(self, *keys: str) -> None:
        """Press keys while the image has the focus."""
        self.root.locator(".se-canvas").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, *points: Point) -> None:
        """Click on a point; on further ones with Shift held."""
        for x, y in self.places(points):
            self.page.mouse.click(x, y)
            self.page.keyboard.down("Shift")
        self.page.keyboard.up("Shift")

    def drag(self, points: Sequence[Point], release: bool = True, steps: int = 1) -> None:
        """Draw from point to point with the button held, each way in some steps."""
        (x, y), *further = self.places(points)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for x, y in further:
            self.page.mouse.move(x, y, steps=steps)
        if release:
            self.page.mouse.up()

    def grey(self, *points: Point) -> list[float]:
        """Mean of red, green and blue where these points of the image are drawn, 0 to 255."""
        self.drawn()
        return self.root.evaluate(GREY, [list(point) for point in points])

    def row(self, label: int) -> Locator:
        return self.root.locator(f".se-cell[data-label='{label}']")

    def lists(self, labels: Sequence[int]) -> None:
        """Wait until the list shows these cells, in this order."""
        shown = "[...root.querySelectorAll('.se-number-cell')].map(node => node.textContent)"
        self.wait(f"(root, labels) => labels.join() === {shown}.join()", *labels)

    def selects(self, *labels: int) -> None:
        """Wait until these cells alone are selected in the list."""
        shown = "[...root.querySelectorAll('[aria-selected=true]')].map(row => row.dataset.label)"
        self.wait(f"(root, labels) => labels.join() === {shown}.join()", *labels)

    def message(self, words: str) -> None:
        """Wait for a sentence in the line under the image."""
        self.root.locator(".se-message", has_text=words).wait_for()

    def places(self, points: Sequence[Point]) -> list[list[float]]:
        """Where points of the image are in the window: (x, y) each."""
        return self.root.evaluate(PLACE, [list(point) for point in points])


def sweep(shape: tuple[int, int], points: Sequence[Point], size: int) -> np.ndarray:
    """Pixels whose middle lies within half a brush of a way from point to point, bool[H, W]."""
    middles = np.moveaxis(np.indices(shape), 0, -1) + 0.5
    found = np.zeros(shape, bool)
    for one, other in list(pairwise(points)) or [(points[0], points[0])]:
        start, way = np.array(one), np.array(other) - one
        squared = float(way @ way) or 1.0
        along = np.clip((middles - start) @ way / squared, 0, 1)
        distance = np.linalg.norm(middles - start - along[..., None] * way, axis=-1)
        found |= distance <= size / 2 + 1e-6
    return found


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
        for copy in self.copies:  # the kernel is that of the notebook itself
            copy.page.close()
            copy.kernel.close()
        for notebook in self.opened:
            self.server.close(notebook)
        assert errors == [], "\n\n".join(errors)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where none is installed."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here: install one (Debian: chromium), or set SCELLSEG_CHROMIUM")
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
    opener = Opener(server, window)
    yield opener
    opener.close(request.node.stash.get(FAILED, False), request.node.name)


@pytest.fixture
def voila(lab: Opener) -> Opener:
    lab.is_lab = False
    return lab


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember for the fixtures' end whether the test has failed."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


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

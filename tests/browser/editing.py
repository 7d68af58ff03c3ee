"""The mask editor as its user has it: a mouse at pixels of the image, keys, and the list."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from playwright.sync_api import Locator

from tests.browser.servers import NotebookPage

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
        self.wait(
            "({ scellseg }, [session]) => session ? scellseg.session === session : scellseg.ready",
            session,
        )
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
        """Choose a tool, and the brush's diameter in pixels."""
        self.press(f"tool-{name}")
        if size is not None:
            self.fill("size", str(size))

    def press(self, button: str) -> None:
        """Press one of its buttons, by the end of its DOM class."""
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
        """Row of a cell in the list."""
        return self.root.locator(f".se-cell[data-label='{label}']")

    def lists(self, labels: Sequence[int]) -> None:
        """Wait until the list shows these cells, in this order."""
        self.wait(
            "(root, labels) => labels.join() === [...root.querySelectorAll('.se-number-cell')]"
            ".map(node => node.textContent).join()",
            *labels,
        )

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

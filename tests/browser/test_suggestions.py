"""Suggested cells in a real browser: run the model, then correct; what was drawn is kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from scellseg_lib.files import images as readers
from tests.browser.conftest import Opener
from tests.browser.editing import EditorInPage, Point, sweep
from tests.browser.test_workbench import Truth

OPEN = """
import numpy as np, threading
from pathlib import Path
from scellseg_lib import precision
from scellseg_lib.workbench import suggestions
from scellseg_lib.workbench.app import Workbench
precision.recall_precision = lambda key: precision.Precision()
# The network waits at the gate, so that the page can do something meanwhile.
gate, asked, see = threading.Event(), threading.Semaphore(0), suggestions.predict_one
def held(*args):
    asked.release()
    assert gate.wait(120)
    return see(*args)
suggestions.predict_one = held
# What step 3 would find, straight from the network.
def found(image):
    _, model, settings = workbench.segment.form.chosen
    return suggestions.decode(see(model, image, settings), model.representation, settings.decoding)
"""
EDITOR = "workbench.annotate.editor"
TABS = ".scellseg-tabs .lm-TabBar-tab"
SIZE = 9


class Suggesting(EditorInPage):
    """The annotation panel of a workbench."""

    @property
    def image(self) -> str:
        return self.kernel.value("workbench.annotate.current.image")

    @property
    def found(self) -> np.ndarray:
        """What the model finds in the image that is open."""
        return self.kernel.value("found(workbench.annotate.current.image)")

    def ask(self) -> None:
        """Press the button, and wait until the network is asked, which does not answer yet."""
        self.kernel.run("gate.clear()")
        self.page.locator(".scellseg-annotate-suggest").click()
        self.kernel.wait_for("asked.acquire(blocking=False)", 60)

    def answer(self) -> None:
        self.kernel.run("gate.set()")
        self.kernel.wait_for("not workbench.annotate.suggest.disabled", 120)

    def go_to(self, name: str) -> None:
        """Open an image from the list."""
        images = self.page.locator(".scellseg-annotate-images select")
        images.select_option(
            label=next(one for one in images.inner_text().split("\n") if name in one)
        )
        self.page.wait_for_function(
            "([root, title]) => root.scellseg.title === title",
            arg=[self.root.element_handle(), name],
        )
        self.opened()

    def says(self, words: str) -> None:
        """Wait for a sentence in the panel's line."""
        panel = self.page.locator(".scellseg-annotate-panel > * > .scellseg-message")
        panel.filter(has_text=words).wait_for()

    def shows(self, n_cells: int) -> None:
        """Wait until so many cells are in the page."""
        self.page.wait_for_function(
            "([root, n]) => root.scellseg.labels.list().length === n",
            arg=[self.root.element_handle(), n_cells],
        )


@pytest.fixture(scope="module")
def panel(lab_of_module: Opener, tmp_path_factory: pytest.TempPathFactory) -> Suggesting:
    """A workbench with five images of worms, and the quickest model."""
    folder = Truth.synthetic(tmp_path_factory.mktemp("suggestions") / "worms").folder
    made = f"workbench = Workbench(Path({str(folder)!r}))"
    panel = Suggesting(lab_of_module.open([OPEN + made, "workbench"]), EDITOR)
    panel.page.locator(TABS, has_text="Segment").click()
    models = panel.page.locator(".scellseg-segment-model select")
    models.select_option(label="Scellseg, smaller and quicker")
    panel.kernel.wait_for("workbench.segment.form.chosen[0].title.endswith('quicker')")
    panel.page.locator(TABS, has_text="Annotate").click()
    return panel


@pytest.fixture(autouse=True)
def no_errors(panel: Suggesting) -> Iterator[None]:
    yield
    assert panel.notebook.errors == []


def ways(masks: np.ndarray, n: int) -> list[list[Point]]:
    """Ways, 20 px long, that a brush can draw clear of all cells, far from each other."""
    found: list[list[Point]] = []
    for y in range(20, masks.shape[0] - 20, 30):
        for x in range(20, masks.shape[1] - 40, 40):
            if len(found) < n and not masks[y - 8 : y + 9, x - 8 : x + 29].any():
                found.append([(y + 0.5, x + 0.5), (y + 0.5, x + 20.5)])
    assert len(found) == n
    return found


def test_suggestions_are_one_edit_and_their_pictures_are_looked_at(panel: Suggesting) -> None:
    panel.go_to("worms_0")
    masks = panel.found
    assert masks.max() > 10
    panel.ask()
    panel.screenshot("suggestions_1_asked")
    panel.answer()
    panel.says(f"suggests {masks.max()} cells. Correct what is wrong; undo takes them all back.")
    panel.shows(int(masks.max()))
    np.testing.assert_array_equal(panel.labels, masks)
    panel.screenshot("suggestions_2_landed")
    pictures = panel.root.locator(".se-layer")
    assert pictures.locator("option").all_inner_texts() == ["image", "cell probability", "flow"]
    (y, x), *_ = np.argwhere(masks)
    panel.key("h", "l")
    grey = panel.grey((y + 0.5, x + 0.5))
    pictures.select_option(label="flow")
    panel.drawn()
    assert panel.grey((y + 0.5, x + 0.5)) != grey
    panel.screenshot("suggestions_3_flow")
    pictures.select_option(label="image")
    panel.drawn()
    assert panel.grey((y + 0.5, x + 0.5)) == grey
    panel.key("h", "l")
    panel.press("undo")
    assert not panel.labels.any()
    panel.press("redo")
    np.testing.assert_array_equal(panel.labels, masks)
    panel.press("undo")


def test_what_is_drawn_while_the_network_runs_is_kept(panel: Suggesting) -> None:
    """One stroke is done before the answer comes, another is under way; both stay whole."""
    panel.go_to("worms_1")
    masks = panel.found
    drawn = ways(masks, 2)
    bars = [sweep(masks.shape, way, SIZE) for way in drawn]
    panel.tool("brush", SIZE)
    panel.ask()
    panel.drag(drawn[0])
    panel.key("n")
    start, end = drawn[1]
    half = (start[0], start[1] + 8)
    panel.drag([start, half], release=False, steps=4)
    box = panel.root.locator(".se-canvas").bounding_box()
    panel.answer()
    panel.shows(int(masks.max()) + 2)
    assert panel.root.locator(".se-canvas").bounding_box() == box  # all stays under the pointer
    (x, y), (far, _) = panel.places([half, end])
    for step in range(1, 6):
        panel.page.mouse.move(x + (far - x) * step / 5, y)
    panel.page.mouse.up()
    panel.says(f"suggests {masks.max()} cells; 1 that was there is kept.")
    labels = panel.labels
    panel.screenshot("suggestions_4_drawn_meanwhile")
    cells = [np.unique(labels[bar]) for bar in bars]
    assert [len(one) for one in cells] == [1, 1]
    for cell, bar in zip(cells, bars, strict=True):
        np.testing.assert_array_equal(labels == cell[0], bar)
    np.testing.assert_array_equal((labels > 0) & ~bars[0] & ~bars[1], masks > 0)
    kinds = panel.kernel.value(f"[edit.kind for edit in {EDITOR}.edits]")
    assert kinds[:2] == ["paint", "replace"]
    for _ in kinds[1:]:
        panel.press("undo")
        panel.arrived()
    np.testing.assert_array_equal(panel.labels, bars[0])


def test_another_image_that_is_opened_meanwhile_gets_none_of_it(panel: Suggesting) -> None:
    panel.go_to("worms_2")
    before = panel.image
    panel.ask()
    panel.go_to("worms_3")
    panel.tool("brush", SIZE)
    (way,) = ways(panel.found, 1)
    panel.drag(way)
    panel.answer()
    panel.says("The cells that the model found in worms_2 are not added")
    panel.screenshot("suggestions_5_elsewhere")
    labels = panel.labels
    np.testing.assert_array_equal(labels, sweep(labels.shape, way, SIZE))
    panel.go_to("worms_2")
    assert panel.image == before
    assert not panel.labels.any()
    assert readers.read_masks(before.replace("worms_2_img", "worms_3_masks")).max() == 1


def test_a_stroke_under_way_keeps_its_cell_when_the_cells_are_numbered_anew(
    panel: Suggesting,
) -> None:
    """As where Python saves meanwhile: the part that is drawn already goes to the same cell."""
    panel.go_to("worms_4")
    shape = panel.labels.shape
    first, second = ways(np.zeros(shape), 2)
    panel.tool("brush", SIZE)
    for way in (first, second):
        panel.key("n")
        panel.drag(way)
    panel.arrived()
    panel.kernel.run(f"{EDITOR}.delete([1])")
    panel.lists([2])
    longer = [second[0], (second[0][0] + 20, second[0][1]), (second[0][0] + 40, second[0][1])]
    panel.drag(longer[:2], release=False, steps=4)
    panel.kernel.run(f"{EDITOR}.relabel()")
    panel.lists([1])
    ((x, y),) = panel.places(longer[2:])
    panel.page.mouse.move(x, y, steps=4)
    panel.page.mouse.up()
    expected = sweep(shape, second, SIZE) | sweep(shape, longer, SIZE)
    np.testing.assert_array_equal(panel.labels, expected)

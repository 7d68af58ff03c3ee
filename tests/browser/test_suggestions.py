"""Suggested cells in a real browser: run the model, then correct; what was drawn is kept."""

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import BrowserContext
from scipy.ndimage import distance_transform_edt

from tests.browser.conftest import EditorInPage, Opener, Point, sweep
from tests.browser.servers import Server
from tests.browser.test_workbench import Truth

OPEN = """
import numpy as np, threading
from pathlib import Path
import torch
from scellseg_lib import segmentation
from scellseg_lib.workbench import session
from scellseg_lib.workbench.app import Workbench
torch.cpu.get_capabilities = dict  # float32 on every machine
# The network waits at the gate, so that the page can do something meanwhile.
gate, asked, see = threading.Event(), threading.Semaphore(0), session.predict_one
def held(*args):
    asked.release()
    assert gate.wait(120)
    return see(*args)
session.predict_one = held
# What step 3 would find, straight from the network.
def find(image):
    _, model, settings = workbench.segment.form.chosen
    seen = see(model, image, settings)
    return segmentation.decode(seen, model.representation, settings.decoding)
"""
EDITOR = "workbench.annotate.editor"
TABS = ".scellseg-tabs .lm-TabBar-tab"
SIZE = 9


class Suggesting(EditorInPage):
    def find(self) -> np.ndarray:
        """What the model finds in the image that is open."""
        return self.kernel.value("find(workbench.annotate.current.image)")

    def ask(self) -> None:
        """Press the button, and wait until the network is asked, which does not answer yet."""
        self.kernel.run("gate.clear()")
        self.page.locator(".scellseg-annotate-suggest").click()
        self.kernel.wait_for("asked.acquire(blocking=False)", 60)

    def point(self, cell: np.ndarray) -> None:
        """Click on the innermost pixel of a cell, bool[H, W], with the tool that asks for it."""
        inside = distance_transform_edt(cell)
        y, x = np.unravel_index(inside.argmax(), cell.shape)
        self.click((y + 0.5, x + 0.5))

    def answer(self) -> None:
        self.kernel.run("gate.set()")
        self.kernel.wait_for("not workbench.annotate.suggest.disabled", 120)

    def go_to(self, name: str) -> None:
        self.page.locator(".scellseg-annotate-images .se-image", has_text=name).click()
        self.wait("(root, [title]) => root.scellseg.title === title", name)
        self.opened()

    def says(self, words: str) -> None:
        """Wait for a sentence in the panel's line."""
        panel = self.page.locator(".scellseg-annotate-panel > * > .scellseg-message")
        panel.filter(has_text=words).wait_for()


@pytest.fixture(scope="module")
def panel(server: Server, window: BrowserContext, tmp_path_factory) -> Iterator[Suggesting]:
    """A workbench with three images of worms, and the quickest model."""
    folder = Truth(tmp_path_factory.mktemp("suggestions") / "worms").folder
    made = f"workbench = Workbench(Path({str(folder)!r}))"
    opener = Opener(server, window)
    panel = Suggesting(opener.open([OPEN + made, "workbench"]), EDITOR)
    panel.page.locator(TABS, has_text="Segment").click()
    models = panel.page.locator(".scellseg-segment-model select")
    models.select_option(label="Scellseg, smaller and quicker")
    panel.kernel.wait_for("workbench.segment.form.chosen[0].title.endswith('quicker')")
    panel.page.locator(TABS, has_text="Annotate").click()
    yield panel
    panel.kernel.run("session.predict_one = see")
    opener.close()


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
    masks = panel.find()
    assert masks.max() > 10
    panel.ask()
    panel.answer()
    panel.says(f"suggests {masks.max()} cells. The key Y keeps the one that is chosen")
    panel.wait("(root, [n]) => root.scellseg.labels.list().length === n", int(masks.max()))
    np.testing.assert_array_equal(panel.labels, masks)
    pictures = panel.root.locator(".se-layer")
    assert pictures.locator("option").all_inner_texts() == ["image", "cell probability", "flow"]
    (y, x), *_ = np.argwhere(masks)
    panel.key("h", "l")
    seen = []
    for name in ("image", "flow", "image"):
        pictures.select_option(label=name)
        panel.drawn()
        seen.append(panel.grey((y + 0.5, x + 0.5)))
    assert seen[0] == seen[2] != seen[1]
    panel.key("h", "l")
    for button, labels in (("undo", masks * 0), ("redo", masks), ("undo", masks * 0)):
        panel.press(button)
        np.testing.assert_array_equal(panel.labels, labels)


def test_suggested_cells_are_kept_or_thrown_away_by_a_key(panel: Suggesting) -> None:
    panel.go_to("worms_2")
    masks = panel.find()
    n = int(masks.max())
    panel.ask()
    panel.answer()
    panel.wait("(root, [n]) => root.scellseg.labels.list().length === n", n)
    checking = panel.root.locator(".se-checking")
    checking.filter(has_text=f"{n} suggested cells to check").wait_for()
    panel.key("y")  # goes to the first
    panel.key("y")  # keeps it
    panel.key("Delete")  # throws the second away
    panel.arrived()
    checking.filter(has_text=f"{n - 2} suggested cells to check").wait_for()
    assert panel.kernel.value(f"sorted({EDITOR}.annotation.unchecked)") == [*range(3, n + 1)]
    np.testing.assert_array_equal(panel.labels, np.where(masks == 2, 0, masks))
    panel.press("save")
    panel.says(f"nobody has checked {n - 2} suggested cells of worms_2")
    panel.key(*["y"] * (n - 2))
    panel.arrived()
    assert checking.is_hidden()
    assert panel.kernel.value(f"sorted({EDITOR}.annotation.unchecked)") == []
    said = panel.root.locator(".se-message")
    said.filter(has_text="No suggested cell is left to be checked").wait_for()
    panel.go_to("worms_0")
    said.filter(has_text="Click on a cell").wait_for()  # of this image nothing was said yet


def test_what_is_drawn_while_the_network_runs_is_kept(panel: Suggesting) -> None:
    """One stroke is done before the answer comes, another is under way; both stay whole."""
    panel.go_to("worms_1")
    masks = panel.find()
    first, (start, end) = ways(masks, 2)
    bars = [sweep(masks.shape, way, SIZE) for way in (first, [start, end])]
    panel.tool("brush", SIZE)
    panel.ask()
    panel.drag(first)
    panel.key("n")
    half = (start[0], start[1] + 8)
    panel.drag([start, half], release=False, steps=4)
    box = panel.root.locator(".se-canvas").bounding_box()
    panel.answer()
    panel.wait("(root, [n]) => root.scellseg.labels.list().length === n", int(masks.max()) + 2)
    assert panel.root.locator(".se-canvas").bounding_box() == box  # all stays under the pointer
    ((far, y),) = panel.places([end])
    panel.page.mouse.move(far, y, steps=5)
    panel.page.mouse.up()
    panel.says(f"suggests {masks.max()} cells; 1 that was there is kept.")
    labels = panel.labels
    for bar in bars:
        (cell,) = np.unique(labels[bar])
        np.testing.assert_array_equal(labels == cell, bar)
    np.testing.assert_array_equal((labels > 0) & ~bars[0] & ~bars[1], masks > 0)
    kinds = panel.kernel.value(f"[edit.kind for edit in {EDITOR}.edits]")
    assert kinds[:2] == ["paint", "suggest"]
    for _ in kinds[1:]:
        panel.press("undo")
        panel.arrived()
    np.testing.assert_array_equal(panel.labels, bars[0])


def test_the_cells_that_are_pointed_at_are_drawn(panel: Suggesting) -> None:
    """The network is asked once for an image; the second cell is there without it."""
    panel.go_to("worms_2")
    panel.kernel.run(f"{EDITOR}.show_labels(0 * {EDITOR}.labels)")  # of another test
    masks = panel.find()
    one, other = (masks == label for label in np.argsort(np.bincount(masks.ravel())[1:])[-2:] + 1)
    panel.kernel.run("gate.clear()")
    panel.key("j")
    panel.point(one)
    panel.kernel.wait_for("asked.acquire(blocking=False)", 60)
    panel.answer()
    panel.says("sees there is drawn")
    np.testing.assert_array_equal(panel.labels, one)
    panel.kernel.run("gate.clear()")
    panel.point(other)
    panel.kernel.wait_for(f"len({EDITOR}.cells) == 2")
    np.testing.assert_array_equal(panel.labels, 1 * one + 2 * other)
    panel.point(one)
    panel.message("A cell is drawn here already")
    assert panel.kernel.value(f"len({EDITOR}.annotation.unchecked)") == 0
    panel.kernel.run("gate.set()")

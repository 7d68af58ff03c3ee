"""No stroke is lost: busy or dead kernels, lost lines, pages loaded anew, two pages, big images."""

import os
import signal
from contextlib import nullcontext

import numpy as np
import pytest

from tests.browser.conftest import SETUP, EditorInPage, Opener, Point, sweep

SHAPE = (100, 150)
IMAGE = "np.random.default_rng(0).integers(0, 200, (100, 150)).astype(np.uint8)"
WAYS: list[list[Point]] = [[(y + 0.5, 20.5), (y + 0.5, 120.5)] for y in (15, 35, 55, 75)]


def stroke(editor: EditorInPage, *which: int) -> None:
    """Draw bars, each a new cell."""
    for index in which:
        editor.key("n")
        editor.drag(WAYS[index])


def bars(*which: int) -> np.ndarray:
    """Labels that those strokes leave on an empty image, in that order."""
    labels = np.zeros(SHAPE, np.int32)
    for label, index in enumerate(which, 1):
        labels[sweep(SHAPE, WAYS[index], 7)] = label
    return labels


@pytest.fixture
def editor(editor: EditorInPage) -> EditorInPage:
    editor.load(f"{IMAGE}, title='empty'")
    editor.tool("brush", 7)
    return editor


def test_busy_kernel(editor: EditorInPage) -> None:
    with editor.busy():
        stroke(editor, 0, 1, 2)
        editor.press("undo")
        editor.message("is busy: 4 edits wait")
    np.testing.assert_array_equal(editor.labels, bars(0, 1))
    kinds = editor.kernel.value("[edit.kind for edit in editor.edits]")
    assert kinds == ["paint", "paint", "paint", "undo"]
    # Once the editor has answered, ipykernel takes its messages in a thread beside the cells.
    with editor.kernel.busy():
        stroke(editor, 2)
        editor.arrived()
    np.testing.assert_array_equal(editor.labels, bars(0, 1, 2))


def test_lines_that_are_dead_or_cut(editor: EditorInPage) -> None:
    """What goes into a dead connection is lost; the editor sends it again, in order."""
    stroke(editor, 0)
    editor.arrived()
    line = editor.notebook.server.line
    with line.dead():
        stroke(editor, 1)
    with line.cut():
        stroke(editor, 2)
    editor.notebook.reconnect()
    stroke(editor, 3)
    np.testing.assert_array_equal(editor.labels, bars(0, 1, 2, 3))
    editor.page.context.set_offline(True)  # all pages of the window
    editor.press("undo")
    editor.page.context.set_offline(False)
    editor.notebook.reconnect()
    np.testing.assert_array_equal(editor.labels, bars(0, 1, 2))


KEEP = """root => root.scellseg.model.on("msg:custom", (...one) => (root.kept ??= []).push(one))"""
REPEAT = "root => root.kept.forEach(one => root.scellseg.onMessage(...one))"


@pytest.mark.parametrize("what", ["page-hears-of-it", "answer-is-lost", "server-repeats-all"])
def test_a_stroke_goes_on_where_the_cells_are_numbered_anew(editor, what) -> None:
    """As where Python saves meanwhile; or an answer is lost, so that the page asks for all anew."""
    editor.root.evaluate(KEEP)
    for title in "ab":
        editor.load(f"{IMAGE}, title='{title}'")
    stroke(editor, 0, 1)
    editor.arrived()
    editor.kernel.run("edit = editor.delete([1])")
    editor.lists([2])
    editor.kernel.run("editor.selected = 2")
    editor.selects(2)
    y, x = WAYS[1][0]
    longer = [(y, x), (y + 20, x), (y + 40, x)]
    editor.drag(longer[:2], release=False, steps=4)
    line = editor.notebook.server.line
    with line.dead() if what == "answer-is-lost" else nullcontext():
        editor.kernel.run("edit = editor.relabel()")
    editor.notebook.reconnect()
    if what == "server-repeats-all":  # as Jupyter's may where a line has been cut
        editor.root.evaluate(REPEAT)
    editor.kernel.run("editor.say('anything at all')")  # the page hears that it has lost something
    editor.lists([1])
    ((right, down),) = editor.places(longer[2:])
    editor.page.mouse.move(right, down, steps=4)
    editor.page.mouse.up()
    expected = sweep(SHAPE, WAYS[1], 7) | sweep(SHAPE, longer, 7)
    np.testing.assert_array_equal(editor.labels, expected)
    editor.selects(1)
    editor.kernel.wait_for("editor.selected == 1")


def test_a_selected_cell_that_is_gone_when_the_page_asks_anew_is_no_other(editor) -> None:
    stroke(editor, 0, 1, 2)
    editor.arrived()
    editor.kernel.run("editor.selected = 2")
    editor.selects(2)
    with editor.notebook.server.line.dead():
        editor.kernel.run("edits = editor.delete([2]), editor.relabel()")  # 3 is 2 now
    editor.notebook.reconnect()
    editor.kernel.run("editor.say('anything at all')")  # the page hears that it has lost something
    editor.lists([1, 2])
    editor.selects()
    editor.kernel.wait_for("editor.selected == 0")


def test_page_is_loaded_anew_in_the_middle_and_opened_in_two_tabs(editor, lab: Opener) -> None:
    stroke(editor, 0)
    editor.arrived()
    editor.notebook.execute("docmanager:save")
    with editor.busy():
        stroke(editor, 1, 2)  # Python does not hear of these before the page has gone
        editor.page.reload()
    editor.notebook.connect()
    editor.opened()
    np.testing.assert_array_equal(editor.labels, bars(0, 1, 2))
    editor.tool("brush", 7)
    stroke(editor, 3)
    np.testing.assert_array_equal(editor.labels, bars(0, 1, 2, 3))
    for expected in (bars(0, 1, 2), bars(0, 1), bars(0), bars()):
        editor.press("undo")
        np.testing.assert_array_equal(editor.labels, expected)
    second = EditorInPage(lab.open_again(editor.notebook))
    second.tool("brush", 7)
    stroke(second, 1)
    second.arrived()
    editor.page.bring_to_front()
    stroke(editor, 2)
    np.testing.assert_array_equal(editor.labels, bars(1, 2))
    # Both draw while Python is busy: each takes the same free number, and both cells stay two.
    with editor.busy():
        stroke(editor, 3)
        second.page.bring_to_front()
        second.drag([(95.5, 20.5), (95.5, 30.5)])
    for page in (editor, second):
        page.arrived()
    labels = editor.labels
    new = np.unique(labels[sweep(SHAPE, WAYS[3], 7)])
    also_new = np.unique(labels[sweep(SHAPE, [(95.5, 20.5), (95.5, 30.5)], 7)])
    assert sorted([*new, *also_new]) == [3, 4]


def test_two_editors_two_views_of_one_and_a_kernel_that_dies(lab: Opener, tmp_path) -> None:
    """What was drawn and not saved is there when the notebook has run again."""
    path = f"Path({str(tmp_path / 'image_masks.tif')!r})"
    made = f"first, second = (MaskEditor({IMAGE}, path=p) for p in ({path}, None))"
    made += "\nfirst.height = second.height = 300"
    notebook = lab.open([f"{SETUP}{made}", "first", "second", "first"])
    names = ("first", "second", "first")
    one, other, again = (EditorInPage(notebook, name, k) for k, name in enumerate(names))
    for editor, index in ((one, 0), (other, 1), (again, 2), (one, 3)):
        editor.root.locator(".se-canvas").scroll_into_view_if_needed()
        editor.tool("brush", 7)
        stroke(editor, index)
        editor.arrived()
    np.testing.assert_array_equal(one.labels, bars(0, 2, 3))
    np.testing.assert_array_equal(other.labels, bars(1))
    again.press("undo")  # of what the other view has drawn
    np.testing.assert_array_equal(again.labels, bars(0, 2))
    np.testing.assert_array_equal(other.labels, bars(1))

    os.kill(notebook.kernel.value("__import__('os').getpid()"), signal.SIGKILL)
    notebook.page.locator(".jp-Dialog .jp-mod-accept").click()  # JupyterLab: it was restarted
    notebook.kernel.close()
    notebook.connect()
    notebook.execute("notebook:run-all-cells")
    editor = EditorInPage(notebook, "first")
    np.testing.assert_array_equal(editor.labels, bars(0, 2))


# Many cells, as disks on a grid.
GRID = """
disk = ((np.indices((74, 74)) - 37) ** 2).sum(0) <= 24**2
labels = np.pad(np.kron(np.arange(1, 730).reshape(27, 27), disk), (0, 50)).astype(np.int32)
image = np.random.default_rng(0).integers(0, 4000, labels.shape).astype(np.uint16)
"""


def test_a_big_image(editor: EditorInPage) -> None:
    """How fast it is, the benchmark of the workbench measures."""
    editor.kernel.run(GRID)
    editor.load("image, labels, title='big'")
    before = editor.labels
    assert before.max() == 729
    editor.tool("brush", 9)
    for y in (6 * 74, 20 * 74):  # from between the cells across some of them
        editor.key("n")
        editor.drag([(y, 7 * 74), (y + 250, 1000)], steps=20)
    after = editor.labels
    assert np.unique(after[after != before]).tolist() == [730, 731]
    np.testing.assert_array_equal(after[before > 0], before[before > 0])
    for _ in range(2):
        editor.press("undo")
    np.testing.assert_array_equal(editor.labels, before)

"""No stroke is lost: a busy or dead kernel, a lost line, a page loaded anew, two pages, big images.

The latencies that are measured here are printed and kept in runs/browser/latency.json; nothing is
asserted of them, as they are those of the machine.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np

from tests.browser.conftest import Opener
from tests.browser.editing import SETUP, EditorInPage, Point, swept
from tests.browser.servers import SCREENSHOTS

SHAPE = (100, 150)
EMPTY = SETUP + "image = np.random.default_rng(0).integers(0, 200, (100, 150)).astype(np.uint8)\n"
CELLS = [EMPTY + "editor = MaskEditor(image, title='empty')", "editor"]
WAYS: list[list[Point]] = [[(y + 0.5, 20.5), (y + 0.5, 120.5)] for y in (15, 35, 55, 75)]


# Closes what JupyterLab says of a lost line as it opens: it may come at any moment, over the image.
UNTOLD = """new MutationObserver(
  () => document.querySelectorAll(".jp-Dialog-button").forEach((button) => button.click())
).observe(document.body, { childList: true })"""


def strokes(editor: EditorInPage, *which: int) -> None:
    """Draw bars, each a new cell."""
    for index in which:
        editor.key("n")
        editor.drag(WAYS[index])


def bars(*which: int) -> np.ndarray:
    """Labels that those strokes leave on an empty image, in that order."""
    labels = np.zeros(SHAPE, np.int32)
    for label, index in enumerate(which, 1):
        labels[swept(SHAPE, WAYS[index], 7)] = label
    return labels


def opened(opener: Opener, cells: list[str] | None = None) -> EditorInPage:
    editor = EditorInPage(opener.open(cells or CELLS))
    editor.tool("brush", 7)
    return editor


def test_busy_kernel(lab: Opener) -> None:
    editor = opened(lab)
    with editor.busy():
        strokes(editor, 0, 1, 2)
        editor.press("undo")
        editor.message("is busy: 4 edits wait")
        editor.screenshot("busy")
    np.testing.assert_array_equal(editor.labels, bars(0, 1))
    kinds = editor.kernel.value("[edit.kind for edit in editor.edits]")
    assert kinds == ["paint", "paint", "paint", "undo"]


def test_strokes_beside_a_cell_that_runs(lab: Opener) -> None:
    """Once the editor has answered, ipykernel takes its messages in a thread beside the cells."""
    editor = opened(lab)
    strokes(editor, 0)
    editor.arrived()
    with editor.kernel.busy():
        strokes(editor, 1, 2)
        editor.press("undo")
    np.testing.assert_array_equal(editor.labels, bars(0, 1))


def test_an_outline_is_answered_in_the_middle_of_a_stroke(lab: Opener) -> None:
    """The page takes the same number for the new cell that Python gives to the outlined one."""
    editor = opened(lab)
    way = [(75.5, 20.5), (75.5, 70.5), (75.5, 120.5)]
    with editor.busy():
        editor.tool("outline")
        editor.drag([(10.5, 20.5), (10.5, 60.5), (40.5, 60.5), (40.5, 20.5)], steps=8)
        editor.tool("brush", 7)
        editor.key("n")
        editor.drag(way[:2], release=False)
    editor.arrived()
    ((x, y),) = editor._places(way[2:])
    editor.page.mouse.move(x, y)
    editor.page.mouse.up()
    labels = editor.labels
    np.testing.assert_array_equal(labels == 2, swept(SHAPE, way, 7))
    assert np.unique(labels).tolist() == [0, 1, 2]


def test_page_is_loaded_anew_in_the_middle(lab: Opener) -> None:
    editor = opened(lab)
    strokes(editor, 0)
    editor.arrived()
    editor.notebook.save()
    with editor.busy():
        strokes(editor, 1, 2)  # Python does not hear of these before the page has gone
        editor.page.reload()
    lab.server.wait_until_open(editor.page)
    editor.opened()
    np.testing.assert_array_equal(editor.labels, bars(0, 1, 2))
    editor.tool("brush", 7)
    strokes(editor, 3)
    np.testing.assert_array_equal(editor.labels, bars(0, 1, 2, 3))
    for expected in (bars(0, 1, 2), bars(0, 1), bars(0), bars()):
        editor.press("undo")
        np.testing.assert_array_equal(editor.labels, expected)


def test_offline(lab: Opener) -> None:
    editor = opened(lab)
    editor.page.evaluate(UNTOLD)
    with editor.notebook.offline():
        strokes(editor, 0, 1)
    np.testing.assert_array_equal(editor.labels, bars(0, 1))


def test_lines_that_are_dead_or_cut(lab: Opener) -> None:
    """What goes into a dead connection is lost; the editor sends it again, in order."""
    editor = opened(lab)
    editor.page.evaluate(UNTOLD)
    strokes(editor, 0)
    editor.arrived()
    with lab.server.line.dead():
        strokes(editor, 1)
    with lab.server.line.cut():
        strokes(editor, 2)
    strokes(editor, 3)
    np.testing.assert_array_equal(editor.labels, bars(0, 1, 2, 3))


def test_two_editors_and_two_views_of_one(lab: Opener) -> None:
    cells = [
        EMPTY + "first, second = (MaskEditor(image, title=name, height=300) for name in 'ab')",
        "first",
        "second",
        "first",
    ]
    notebook = lab.open(cells)
    one = EditorInPage(notebook, "first", 0)
    other = EditorInPage(notebook, "second", 1)
    again = EditorInPage(notebook, "first", 2)
    for editor, index in ((one, 0), (other, 1), (again, 2), (one, 3)):
        editor.opened()
        editor.tool("brush", 7)
        strokes(editor, index)
        editor.arrived()
    np.testing.assert_array_equal(one.labels, bars(0, 2, 3))
    np.testing.assert_array_equal(other.labels, bars(1))
    again.screenshot("two_views")
    again.press("undo")  # of what the other view has drawn
    np.testing.assert_array_equal(again.labels, bars(0, 2))
    np.testing.assert_array_equal(other.labels, bars(1))


def test_two_tabs(lab: Opener) -> None:
    first = opened(lab)
    strokes(first, 0)
    first.arrived()
    first.notebook.save()
    second = EditorInPage(lab.open_again(first.notebook))
    second.tool("brush", 7)
    strokes(second, 1)
    second.arrived()
    first.page.bring_to_front()
    first.tool("brush", 7)
    strokes(first, 2)
    np.testing.assert_array_equal(first.labels, bars(0, 1, 2))
    # Both draw while Python is busy: each takes the same free number, and both cells stay two.
    with first.busy():
        strokes(first, 3)
        second.page.bring_to_front()
        second.drag([(95.5, 20.5), (95.5, 30.5)])
    for page in (first, second):
        page.arrived()
    labels = first.labels
    new = np.unique(labels[swept(SHAPE, WAYS[3], 7)])
    also_new = np.unique(labels[swept(SHAPE, [(95.5, 20.5), (95.5, 30.5)], 7)])
    assert sorted([*new, *also_new]) == [4, 5]


def test_kernel_that_dies(lab: Opener, tmp_path: Path) -> None:
    """What was drawn and not saved is offered when the notebook has run again."""
    path = str(tmp_path / "image_masks.tif")
    cells = [EMPTY + f"editor = MaskEditor(image, title='image', path=Path({path!r}))", "editor"]
    editor = opened(lab, cells)
    strokes(editor, 0, 1)
    editor.arrived()
    os.kill(editor.kernel.value("__import__('os').getpid()"), signal.SIGKILL)
    editor.page.locator(".jp-Dialog .jp-mod-accept").click()  # JupyterLab: it has been restarted
    lab.server.wait_until_open(editor.page)
    editor.notebook.kernel.close()
    editor.notebook.kernel = lab.server.kernel_of(editor.page)
    lab.server.run_all(editor.page)
    editor = EditorInPage(editor.notebook)
    assert not editor.labels.any()
    editor.root.locator(".se-recovery", has_text="2 edits").wait_for()
    editor.press("recover")
    editor.kernel.wait_for("editor.labels.max() == 2")
    np.testing.assert_array_equal(editor.labels, bars(0, 1))


def test_voila_starts_anew_and_offers_what_was_not_saved(voila: Opener, tmp_path: Path) -> None:
    path = f"path = Path({str(tmp_path / 'image_masks.tif')!r})\n"
    saved = "saved = read_masks(path) if path.exists() else None\n"
    made = "editor = MaskEditor(image, saved, title='image', path=path)"
    editor = opened(voila, [EMPTY + path + saved + made, "editor"])
    strokes(editor, 0)
    np.testing.assert_array_equal(editor.labels, bars(0))
    editor.press("save")
    editor.message("Saved 1 cell")
    strokes(editor, 1)
    editor.arrived()
    editor.notebook.reload()
    editor = EditorInPage(editor.notebook)
    editor.root.locator(".se-recovery", has_text="was not saved").wait_for()
    np.testing.assert_array_equal(editor.labels, bars(0))
    editor.screenshot("voila_recovery")
    editor.press("recover")
    editor.kernel.wait_for("editor.labels.max() == 2")
    np.testing.assert_array_equal(editor.labels, bars(0, 1))


# Many cells, as disks on a grid of `step` pixels.
GRID = """
import time
def grid(size, step):
    rows, columns = np.indices((size, size))
    inside = (rows % step - step // 2) ** 2 + (columns % step - step // 2) ** 2 <= (step // 3) ** 2
    number = rows // step * (size // step) + columns // step + 1
    whole = (rows // step < size // step) & (columns // step < size // step)
    return np.where(inside & whole, number, 0).astype(np.int32)
def noise(size):
    return np.random.default_rng(0).integers(0, 4000, (size, size)).astype(np.uint16)
taken = []
"""
TIMED = "editor.on_edit(lambda edit: taken.append((edit.kind, 1000 * time.time())))"


def test_big_images_and_how_fast_they_are(lab: Opener) -> None:
    figures: dict[str, float] = {}
    editor = EditorInPage(lab.open([*CELLS, GRID + TIMED]))
    editor.page.evaluate(
        "window.ups = []; addEventListener('pointerup', () => ups.push(Date.now()), true)"
    )
    for size, step in ((2048, 64), (4096, 74)):
        editor.kernel.run(f"image, labels = noise({size}), grid({size}, {step})")
        n_cells = int(editor.kernel.value("labels.max()"))
        name = f"{size} x {size}, {n_cells} cells"
        times = [open_time(editor) for _ in range(10 if size == 2048 else 1)]
        figures[f"{name}: opening, s"] = round(float(np.median(times)), 2)
        editor.screenshot(f"{size}")
        editor.tool("brush", 9)
        editor.kernel.run("taken.clear()")
        editor.page.evaluate("ups.length = 0")
        before = editor.labels
        for index in range(10):
            y = size * (index + 1) / 12
            editor.drag([(y, size / 8), (y, size / 2)], steps=20)
            editor.key("n")
        after = editor.labels
        new = after != before
        assert after.max() > n_cells
        assert not before[new].any()  # drawn on the background alone
        np.testing.assert_array_equal(after[before > 0], before[before > 0])
        kinds, times_taken = zip(*editor.kernel.value("taken"), strict=True)
        assert kinds == ("paint",) * 10
        delays = np.array(times_taken) - editor.page.evaluate("ups")[:10]
        figures[f"{name}: end of a stroke to Python's array, ms"] = round(float(np.median(delays)))
        handler = editor.root.evaluate("root => root.scellseg.paintTimes.splice(0)")
        figures[f"{name}: a movement of the brush, ms"] = round(float(np.median(handler)), 2)
        for _ in range(10):
            editor.press("undo")
        np.testing.assert_array_equal(editor.labels, before)
    print(json.dumps(figures, indent=1))
    (SCREENSHOTS / "latency.json").write_text(json.dumps(figures, indent=1))


def open_time(editor: EditorInPage) -> float:
    """Seconds from `load` in Python until the page has drawn the image."""
    editor.kernel.run("began = time.time(); editor.load(image, labels, title='big')")
    session = editor.kernel.value("editor._pages.session")
    shown = editor.page.wait_for_function(
        "([root, session]) => root.scellseg.session === session && !root.scellseg.scheduled"
        " && Date.now()",
        arg=[editor.root.element_handle(), session],
    )
    editor.opened()
    return float(shown.json_value()) / 1000 - editor.kernel.value("began")

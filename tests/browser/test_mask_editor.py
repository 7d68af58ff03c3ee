"""The mask editor in JupyterLab, used as its user does; what counts is Python's arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage.draw import polygon2mask

from scellseg_lib.files import images as readers
from tests.browser.conftest import Opener
from tests.browser.editing import SETUP, EditorInPage, swept

SHAPE = (120, 180)


def scene() -> np.ndarray:
    """Two neighbours (1, 2), a ring (3), a disk (4) and a bar (5), int32[120, 180]."""
    labels = np.zeros(SHAPE, np.int32)
    labels[20:40, 20:40], labels[20:40, 40:60] = 1, 2
    labels[70:100, 30:60] = 3
    labels[80:90, 40:50] = 0
    rows, columns = np.indices(SHAPE)
    labels[(rows - 80) ** 2 + (columns - 110) ** 2 <= 15**2] = 4
    labels[20:30, 90:150] = 5
    return labels


# The same in the kernel, under an image in which the cells are bright.
SCENE = """
labels = np.zeros((120, 180), np.int32)
labels[20:40, 20:40], labels[20:40, 40:60] = 1, 2
labels[70:100, 30:60] = 3
labels[80:90, 40:50] = 0
rows, columns = np.indices(labels.shape)
labels[(rows - 80) ** 2 + (columns - 110) ** 2 <= 15**2] = 4
labels[20:30, 90:150] = 5
image = np.random.default_rng(0).integers(0, 60, labels.shape) + 120 * (labels > 0)
image = image.astype(np.uint8)
"""
CELLS = [SETUP + SCENE + "editor = MaskEditor(image, labels, title='scene')", "editor"]
BAR = np.s_[20:30, 90:150]


@pytest.fixture(scope="module")
def shared(lab_of_module: Opener) -> EditorInPage:
    return EditorInPage(lab_of_module.open(CELLS))


@pytest.fixture
def editor(shared: EditorInPage) -> Iterator[EditorInPage]:
    """An editor with the scene as it was; its notebook serves the whole file."""
    shared.load("image, labels, title='scene'")
    if not shared.root.locator(".se-protect").is_checked():
        shared.root.locator(".se-protect").check()
    shared.tool("select", 9)
    shared.key("Escape")
    yield shared
    errors, shared.notebook.errors = shared.notebook.errors, []
    assert errors == []


def test_scene_is_the_same_here_and_there(editor: EditorInPage) -> None:
    np.testing.assert_array_equal(editor.labels, scene())
    editor.screenshot("opened")


def test_brush_draws_a_new_cell_and_enlarges_one(editor: EditorInPage) -> None:
    expected = scene()
    editor.tool("brush", 7)
    way = [(108.5, 10.5), (108.5, 50.5)]
    editor.drag(way)
    expected[swept(SHAPE, way, 7)] = 6
    np.testing.assert_array_equal(editor.labels, expected)
    from_disk = [(80.5, 120.5), (80.5, 140.5)]
    editor.drag(from_disk)
    expected[swept(SHAPE, from_disk, 7) & (expected == 0)] = 4
    np.testing.assert_array_equal(editor.labels, expected)
    editor.screenshot("painted")


def test_brush_of_one_pixel_and_of_two(editor: EditorInPage) -> None:
    expected = scene()
    editor.tool("brush", 1)
    editor.drag([(5.5, 5.5)])
    expected[5, 5] = 6
    editor.tool("brush", 2)
    editor.drag([(10.0, 170.0)])
    expected[9:11, 169:171] = 7
    np.testing.assert_array_equal(editor.labels, expected)


def test_eraser_takes_single_pixels_of_one_cell_alone(editor: EditorInPage) -> None:
    expected = scene()
    editor.tool("eraser", 1)
    editor.drag([(25.5, 100.5)])
    expected[25, 100] = 0
    np.testing.assert_array_equal(editor.labels, expected)
    editor.tool("eraser", 5)
    editor.drag([(30.5, 35.5), (30.5, 50.5)])  # from cell 1 into its neighbour
    expected[swept(SHAPE, [(30.5, 35.5), (30.5, 50.5)], 5) & (expected == 1)] = 0
    np.testing.assert_array_equal(editor.labels, expected)
    editor.screenshot("erased")


def test_neighbours_are_protected_unless_asked(editor: EditorInPage) -> None:
    expected = scene()
    editor.tool("brush", 5)
    way = [(30.5, 30.5), (30.5, 50.5)]
    editor.drag(way)  # from cell 1 over cell 2
    editor.message("protected")
    np.testing.assert_array_equal(editor.labels, expected)
    editor.key("p")
    editor.drag(way)
    expected[swept(SHAPE, way, 5)] = 1
    np.testing.assert_array_equal(editor.labels, expected)
    editor.key("Control+z")
    np.testing.assert_array_equal(editor.labels, scene())


def test_outline_closes_itself(editor: EditorInPage) -> None:
    angles = np.linspace(0.2, 2 * np.pi, 40)
    corners = [(60 + 12 * np.sin(angle), 150 + 20 * np.cos(angle)) for angle in angles]
    editor.tool("outline")
    editor.drag(corners)  # not quite round: the end is joined to the beginning
    expected = scene()
    inside = polygon2mask(SHAPE, np.array(corners) - 0.5)
    found = editor.labels == 6
    assert not found[scene() > 0].any()
    np.testing.assert_array_equal(editor.labels[~found], expected[~found])
    assert (found & inside).sum() > 0.97 * inside.sum()
    assert not (found & ~ndimage.binary_dilation(inside, iterations=2)).any()


def test_outline_ends_where_it_comes_back_to(editor: EditorInPage) -> None:
    angles = np.linspace(0, 2 * np.pi, 40)
    corners = [(60 + 12 * np.sin(angle), 150 + 20 * np.cos(angle)) for angle in angles]
    editor.tool("outline")
    editor.drag(corners, release=False)
    assert (editor.labels == 6).sum() > 600  # pixels, of 754 within the ellipse
    editor.page.mouse.up()


def test_cut_makes_two_of_one(editor: EditorInPage) -> None:
    editor.tool("cut")
    editor.drag([(15.5, 110.5), (35.5, 110.5)], steps=5)
    labels = editor.labels
    np.testing.assert_array_equal(labels > 0, scene() > 0)
    assert sorted(np.unique(labels[BAR])) == [5, 6]
    assert np.isin(labels[BAR][:, :19], 6).all()  # the smaller part gets the new number
    assert np.isin(labels[BAR][:, 22:], 5).all()
    editor.screenshot("cut")


def test_a_line_that_cuts_nothing_says_so(editor: EditorInPage) -> None:
    editor.tool("cut")
    editor.drag([(115.5, 110.5), (115.5, 130.5)], steps=5)
    editor.message("cuts no cell")
    np.testing.assert_array_equal(editor.labels, scene())


def test_merge_fill_delete(editor: EditorInPage) -> None:
    expected = scene()
    editor.click((30.5, 30.5), (30.5, 50.5))
    editor.press("merge")
    expected[expected == 2] = 1
    np.testing.assert_array_equal(editor.labels, expected)
    editor.click((75.5, 35.5))
    editor.press("fill")
    expected[80:90, 40:50] = 3
    np.testing.assert_array_equal(editor.labels, expected)
    editor.click((80.5, 110.5))
    editor.key("Delete")
    expected[expected == 4] = 0
    np.testing.assert_array_equal(editor.labels, expected)
    assert [cell["label"] for cell in editor.cells] == [1, 3, 5]
    editor.screenshot("merged_filled_deleted")


def test_undo_and_redo_of_everything(editor: EditorInPage) -> None:
    states = [scene()]

    def done() -> None:
        states.append(editor.labels)
        assert (states[-1] != states[-2]).any()

    editor.tool("brush", 7)
    editor.drag([(108.5, 10.5), (108.5, 50.5)])
    done()
    editor.tool("eraser", 5)
    editor.drag([(25.5, 100.5), (25.5, 140.5)])
    done()
    editor.tool("select")
    editor.click((30.5, 30.5), (30.5, 50.5))
    editor.key("m")
    done()
    editor.click((80.5, 110.5))
    editor.key("Delete")
    done()
    editor.tool("cut")
    editor.drag([(65.5, 35.5), (105.5, 35.5)], steps=5)
    done()
    for state in states[-2::-1]:
        editor.press("undo")
        np.testing.assert_array_equal(editor.labels, state)
    assert editor.root.locator(".se-undo").is_disabled()
    for state in states[1:]:
        editor.key("Control+y")
        np.testing.assert_array_equal(editor.labels, state)
    assert editor.root.locator(".se-redo").is_disabled()


def test_escape_breaks_a_stroke_off(editor: EditorInPage) -> None:
    editor.tool("brush", 9)
    editor.drag([(108.5, 10.5), (108.5, 50.5)], release=False)
    editor.page.keyboard.press("Escape")
    editor.page.mouse.up()
    np.testing.assert_array_equal(editor.labels, scene())
    assert editor.kernel.value("len(editor.edits)") == 0
    assert editor.root.locator(".se-undo").is_disabled()


def test_python_edits_are_seen_and_can_be_undone_in_the_page(editor: EditorInPage) -> None:
    editor.kernel.run("edit = editor.merge([1, 2])")
    editor.row(2).wait_for(state="detached")
    editor.kernel.run("editor.go_to(4)")
    editor.page.wait_for_function(
        "root => root.querySelector('.se-cell[data-label=\"4\"]')?.ariaSelected === 'true'",
        arg=editor.root.element_handle(),
    )
    editor.screenshot("zoomed")
    editor.press("undo")
    np.testing.assert_array_equal(editor.labels, scene())
    editor.press("fit")


def test_diameter_from_the_cells(editor: EditorInPage) -> None:
    editor.press("from-cells")
    areas = np.bincount(scene().ravel())[1:]
    expected = round(float(np.median(2 * np.sqrt(areas / np.pi))), 1)
    editor.kernel.wait_for(f"editor.diameter == {expected}")
    editor.screenshot("disk")
    editor.root.locator(".se-diameter").fill("0")
    editor.root.locator(".se-diameter").press("Tab")
    editor.kernel.wait_for("editor.diameter == 0")


def test_next_image_has_its_own_contrast(editor: EditorInPage) -> None:
    """Black is the darkest and white the brightest percentile of each image, of any depth."""
    ends = [(60.5, 3.5), (60.5, 176.5)]
    for brightest, kind in ((255, "uint8"), (65535, "uint16"), (9, "uint16"), (0.01, "float32")):
        ramp = f"np.linspace(0, {brightest}, 180).astype(np.{kind})"
        editor.load(f"np.tile({ramp}, (120, 1)), title='ramp'")
        editor.drawn()
        dark, bright = editor.grey(*ends)
        assert dark < 20, kind
        assert bright > 235, kind


def test_masks_outlines_and_inverse_are_switched_by_keys(editor: EditorInPage) -> None:
    """The image's own grey is seen without masks, and its inverse; cells are coloured on it."""
    zoom = editor.root.evaluate("root => root.scellseg.painter.zoom")
    within, outside = (80.5, 110.5), (10.5, 100.5)
    edge = (20 + 0.5 / zoom, 30.5)  # an outline is one pixel of the screen wide

    def seen(*keys: str) -> list[float]:
        editor.key(*keys)
        editor.drawn()
        return editor.grey(within, edge, outside)

    covered, plain = seen(), seen("h")
    assert covered[0] != plain[0]  # the mask is gone, the outline is not
    assert covered[1:] == plain[1:]
    bare = seen("l")
    assert bare[1] != plain[1]
    inverse = seen("i")
    np.testing.assert_allclose(inverse, 255 - np.array(bare), atol=1)
    assert seen("i", "l", "h") == covered


def test_channels_and_further_pictures_are_cycled(editor: EditorInPage) -> None:
    pictures = "channels=['nuclei', 'actin'], layers={'flow': np.full((120, 180, 3), 77, np.uint8)}"
    editor.load(f"np.stack([image, image.T.reshape(120, 180)], axis=-1), {pictures}")
    names = editor.root.locator(".se-layer option").all_inner_texts()
    assert names == ["all channels", "nuclei", "actin", "flow"]
    editor.root.locator(".se-layer").select_option(label="flow")
    editor.drawn()
    assert editor.grey((10.5, 100.5)) == [77]
    editor.key("c")
    assert editor.root.locator(".se-layer").evaluate("choice => choice.value") == "0"


def test_keys_do_not_reach_the_notebook(lab: Opener) -> None:
    """JupyterLab would delete its cell for d d, and make a raw one of it for r."""
    editor = EditorInPage(lab.open(CELLS))
    editor.click((80.5, 110.5))
    editor.key("d", "d", "a", "b", "x", "m", "y", "r", "j", "v", "Control+s")
    editor.message("These masks have no file")
    editor.row(4).locator(".se-note").press_sequentially("dd m 1")
    editor.row(4).locator(".se-note").press("Enter")
    assert [cell["note"] for cell in editor.cells] == ["", "", "", "dd m 1", ""]
    kinds = "jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.type)"
    assert editor.page.evaluate(kinds) == ["code", "code"]
    np.testing.assert_array_equal(editor.labels, scene())
    # Notebook 7 takes keys first, but for what says itself that it wants them.
    focusable = editor.root.locator("button, canvas, input, select, [tabindex]")
    assert focusable.count() > 30
    silent = "nodes => nodes.filter(node => !node.dataset.lmSuppressShortcuts).length"
    assert focusable.evaluate_all(silent) == 0


def test_help_lists_the_keys(editor: EditorInPage) -> None:
    editor.key("?")
    editor.root.locator(".se-keys", has_text="merge the selected cells").wait_for()
    editor.screenshot("help")
    editor.key("Escape")
    editor.root.locator(".se-keys").wait_for(state="hidden")


def test_view_without_tools(lab_of_module: Opener) -> None:
    shown = "view.show(image, labels); view.tell(['', *(f'cell no. {n}' for n in range(1, 6))])"
    imported = "from scellseg_lib.workbench.editor.view import ImageView\nview = ImageView()\n"
    notebook = lab_of_module.open([SETUP + SCENE + imported + shown, "view"])
    view = EditorInPage(notebook, "view")
    assert view.root.locator(".se-editing, .se-list").count() == 0
    view.click((80.5, 110.5))
    assert notebook.kernel.wait_for("view.selected") == 4
    view.root.locator(".se-tip", has_text="cell no. 4").wait_for()
    view.screenshot("view")
    view.drag([(60.5, 70.5), (70.5, 90.5)])  # moves the image, and changes nothing
    np.testing.assert_array_equal(notebook.kernel.value("np.array(view.labels)"), scene())


DROP = """canvas => {
  const content = new Uint8Array(3 * 1048576 + 5).map((_, i) => i % 251);
  const data = new DataTransfer();
  data.items.add(new File([content], "dropped.tif"));
  canvas.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


def test_files_are_dropped_and_images_cycled(editor: EditorInPage) -> None:
    editor.kernel.run("dropped, cycled = [], []")
    editor.kernel.run("editor.on_drop(lambda name, content: dropped.append((name, content)))")
    editor.kernel.run("editor.on_cycle(cycled.append)")
    editor.load("image, labels, title='scene'")  # the page learns who listens
    editor.root.locator(".se-canvas").evaluate(DROP)
    editor.kernel.wait_for("len(dropped)")
    expected = "('dropped.tif', (np.arange(3 * 2**20 + 5) % 251).astype(np.uint8).tobytes())"
    assert editor.kernel.value(f"dropped == [{expected}]")
    editor.key("d", "d", "a")
    assert editor.kernel.wait_for("len(cycled) == 3 and cycled") == [1, 1, -1]


def test_list_of_cells(editor: EditorInPage) -> None:
    editor.root.locator(".se-new-class").fill("round")
    editor.press("add-class")
    editor.root.locator(".se-chip", has_text="round").wait_for()
    editor.row(4).locator(".se-class").select_option("round")
    editor.row(5).locator(".se-note").fill("a bar")
    editor.row(5).locator(".se-note").press("Enter")
    cells = {cell["label"]: cell for cell in editor.cells}
    assert (cells[4]["class"], cells[5]["note"]) == ("round", "a bar")
    assert {label: cell["area"] for label, cell in cells.items()} == dict(
        enumerate(np.bincount(scene().ravel())[1:].tolist(), 1)
    )
    editor.root.locator(".se-chip", has_text="round 1").wait_for()

    editor.press("sort-area")
    editor.lists(sorted(cells, key=lambda label: (cells[label]["area"], label)))
    editor.press("sort-area")
    editor.lists([3, 4, 5, 2, 1])  # of 800, 709, 600, 400 and 400 px
    editor.root.locator(".se-filter").fill("bar")
    editor.lists([5])
    editor.screenshot("list")
    editor.row(5).locator(".se-number-cell").click()
    assert editor.kernel.wait_for("editor.selected") == 5
    editor.root.locator(".se-filter").fill("")
    editor.lists([3, 4, 5, 2, 1])
    editor.key("1")  # the first class, for the cell that is selected
    assert {cell["label"] for cell in editor.cells if cell["class"] == "round"} == {4, 5}
    editor.key("Control+z", "Control+z")
    assert [cell["note"] for cell in editor.cells if cell["note"]] == []
    editor.press("sort-label")
    editor.press("fit")


def test_save_and_open_again(editor: EditorInPage, tmp_path: Path) -> None:
    path = tmp_path / "scene_masks.tif"
    editor.load(f"image, labels, title='scene', path=Path({str(path)!r})")
    editor.click((80.5, 110.5))
    editor.key("Delete")
    editor.row(5).locator(".se-note").fill("kept")
    editor.row(5).locator(".se-note").press("Enter")
    editor.press("save")
    editor.message("Saved 4 cells")
    saved = readers.read_masks(path)
    expected = scene()
    expected[expected == 4] = 0
    expected[expected == 5] = 4  # numbered 1 to n
    np.testing.assert_array_equal(saved, expected)
    np.testing.assert_array_equal(editor.labels, expected)
    table = pd.read_csv(tmp_path / "scene_cells.csv", keep_default_na=False)
    assert table["note"].tolist() == ["", "", "", "kept"]

    editor.tool("brush", 7)
    editor.drag([(108.5, 10.5), (108.5, 50.5)])
    unsaved = editor.labels
    assert unsaved.max() == 5
    np.testing.assert_array_equal(readers.read_masks(path), saved)
    # Opened again as after a crash, from what is on the disk.
    editor.kernel.run(f"path = Path({str(path)!r}); saved = read_masks(path)")
    editor.load("image, saved, title='scene', path=path")
    editor.root.locator(".se-recovery").wait_for()
    editor.screenshot("recovery")
    np.testing.assert_array_equal(editor.labels, saved)
    editor.press("recover")
    editor.kernel.wait_for("editor.labels.max() == 5")
    np.testing.assert_array_equal(editor.labels, unsaved)

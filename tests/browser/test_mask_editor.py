"""The mask editor in JupyterLab, used as its user does; what counts is Python's arrays."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage.draw import polygon2mask

from scellseg_lib.files import images as readers
from tests.browser.conftest import SETUP, EditorInPage, Opener, sweep

SHAPE = (120, 180)
# Two neighbours (1, 2), a ring (3), a disk (4) and a bar (5), under an image in which they are
# bright: made here and in the kernel alike.
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
BAR = np.s_[20:30, 90:150]


def scene() -> np.ndarray:
    made = {"np": np}
    exec(SCENE, made)
    return made["labels"]


@pytest.fixture
def editor(editor: EditorInPage) -> EditorInPage:
    editor.kernel.run(SCENE)
    editor.load("image, labels, title='scene'")
    editor.key("Escape")
    return editor


def test_brush_draws_a_new_cell_and_enlarges_one(editor: EditorInPage) -> None:
    expected = scene()
    np.testing.assert_array_equal(editor.labels, expected)
    for size, way, label in (
        (7, [(108.5, 10.5), (108.5, 50.5)], 6),
        (7, [(80.5, 120.5), (80.5, 140.5)], 4),  # from the disk
        (1, [(5.5, 5.5)], 7),
        (2, [(10.0, 170.0)], 8),
    ):
        editor.tool("brush", size)
        editor.drag(way)
        expected[sweep(SHAPE, way, size) & (expected == 0)] = label
        np.testing.assert_array_equal(editor.labels, expected)
    assert ((expected == 7).sum(), (expected == 8).sum()) == (1, 4)


def test_eraser_takes_single_pixels_of_one_cell_alone(editor: EditorInPage) -> None:
    expected = scene()
    editor.tool("eraser", 1)
    editor.drag([(25.5, 100.5)])
    expected[25, 100] = 0
    np.testing.assert_array_equal(editor.labels, expected)
    editor.tool("eraser", 5)
    editor.drag([(30.5, 35.5), (30.5, 50.5)])  # from cell 1 into its neighbour
    expected[sweep(SHAPE, [(30.5, 35.5), (30.5, 50.5)], 5) & (expected == 1)] = 0
    np.testing.assert_array_equal(editor.labels, expected)


def test_neighbours_are_protected_unless_asked(editor: EditorInPage) -> None:
    expected = scene()
    editor.tool("brush", 5)
    way = [(30.5, 30.5), (30.5, 50.5)]
    editor.drag(way)  # from cell 1 over cell 2
    editor.message("protected")
    np.testing.assert_array_equal(editor.labels, expected)
    editor.key("p")
    editor.drag(way)
    expected[sweep(SHAPE, way, 5)] = 1
    np.testing.assert_array_equal(editor.labels, expected)
    editor.key("Control+z")
    np.testing.assert_array_equal(editor.labels, scene())


def test_outline_closes_itself(editor: EditorInPage) -> None:
    """Where the button is released, or as soon as it comes back to where it began."""
    inside = None
    for last, release in ((0.2, True), (0, False)):
        angles = np.linspace(last, 2 * np.pi, 40)
        corners = [(60 + 12 * np.sin(angle), 150 + 20 * np.cos(angle)) for angle in angles]
        editor.tool("outline")
        editor.drag(corners, release=release)
        labels, inside = editor.labels, polygon2mask(SHAPE, np.array(corners) - 0.5)
        found = labels == 6
        np.testing.assert_array_equal(labels[~found], scene()[~found])
        assert not found[scene() > 0].any()
        assert (found & inside).sum() > 0.97 * inside.sum()
        assert not (found & ~ndimage.binary_dilation(inside, iterations=2)).any()
        editor.page.mouse.up()
        editor.key("Control+z")


def test_cut_makes_two_of_one(editor: EditorInPage) -> None:
    editor.tool("cut")
    editor.drag([(115.5, 110.5), (115.5, 130.5)], steps=5)
    editor.message("cuts no cell")
    np.testing.assert_array_equal(editor.labels, scene())
    editor.drag([(15.5, 110.5), (35.5, 110.5)], steps=5)
    labels = editor.labels
    np.testing.assert_array_equal(labels > 0, scene() > 0)
    assert sorted(np.unique(labels[BAR])) == [5, 6]
    assert np.isin(labels[BAR][:, :19], 6).all()  # the smaller part gets the new number
    assert np.isin(labels[BAR][:, 22:], 5).all()


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


def test_undo_and_redo_of_everything(editor: EditorInPage) -> None:
    def draw(tool: str, size: int | None, *way) -> None:
        editor.tool(tool, size)
        editor.drag(way, steps=5)

    def press(key: str, *cells) -> None:
        editor.tool("select")
        editor.click(*cells)
        editor.key(key)

    def state() -> tuple:
        labels = editor.labels.tolist()
        kinds = "".join(cell["class"] for cell in editor.cells)
        return labels, kinds, editor.kernel.value("editor.classes")

    editor.tool("brush", 9)
    editor.drag([(108.5, 10.5), (108.5, 50.5)], release=False)
    editor.page.keyboard.press("Escape")  # breaks the stroke off: there is nothing to be undone
    editor.page.mouse.up()
    states = [state()]
    assert states == [(scene().tolist(), "", {})]
    assert editor.root.locator(".se-undo").is_disabled()
    for act in (
        lambda: draw("brush", 7, (108.5, 10.5), (108.5, 50.5)),
        lambda: draw("eraser", 5, (25.5, 100.5), (25.5, 140.5)),
        lambda: press("m", (30.5, 30.5), (30.5, 50.5)),
        lambda: editor.fill("new-class", "odd", "Enter"),
        lambda: press("1", (25.5, 95.5)),
        lambda: press("Delete", (80.5, 110.5)),
        lambda: draw("cut", None, (65.5, 35.5), (105.5, 35.5)),
        lambda: editor.kernel.run("edit = editor.delete([1])"),  # Python's edits, too
    ):
        act()
        states.append(state())
        assert states[-1] != states[-2]
    editor.row(1).wait_for(state="detached")
    for before in states[-2::-1]:
        editor.press("undo")
        assert state() == before
    assert editor.root.locator(".se-undo").is_disabled()
    for after in states[1:]:
        editor.key("Control+y")
        assert state() == after
    assert editor.root.locator(".se-redo").is_disabled()


def test_diameter_from_the_cells(editor: EditorInPage) -> None:
    editor.press("from-cells")
    areas = np.bincount(scene().ravel())[1:]
    expected = round(float(np.median(2 * np.sqrt(areas / np.pi))), 1)
    editor.kernel.wait_for(f"editor.diameter == {expected}")
    editor.fill("diameter", "0")
    editor.kernel.wait_for("editor.diameter == 0")


def test_masks_outlines_inverse_and_help_by_keys(editor: EditorInPage) -> None:
    """The image's own grey is seen without masks, and its inverse; cells are coloured on it."""
    zoom = editor.root.evaluate("root => root.scellseg.painter.zoom")
    edge = (20 + 0.5 / zoom, 30.5)  # an outline is one pixel of the screen wide

    def see(*keys: str) -> list[float]:
        editor.key(*keys)
        return editor.grey((80.5, 110.5), edge, (10.5, 100.5))

    covered, plain = see(), see("h")
    assert covered[0] != plain[0]  # the mask is gone, the outline is not
    assert covered[1:] == plain[1:]
    bare = see("l")
    assert bare[1] != plain[1]
    np.testing.assert_allclose(see("i"), 255 - np.array(bare), atol=1)
    assert see("i", "l", "h") == covered
    editor.key("?")
    editor.root.locator(".se-keys", has_text="merge the selected cells").wait_for()
    editor.key("Escape")
    editor.root.locator(".se-keys").wait_for(state="hidden")


def test_each_image_has_its_own_contrast_and_channels_are_cycled(editor: EditorInPage) -> None:
    """Black is the darkest and white the brightest percentile of each image, of any depth."""
    for brightest, kind in ((255, "uint8"), (65535, "uint16"), (9, "uint16"), (0.01, "float32")):
        ramp = f"np.linspace(0, {brightest}, 180).astype(np.{kind})"
        editor.load(f"np.tile({ramp}, (120, 1)), title='ramp'")
        dark, bright = editor.grey((60.5, 3.5), (60.5, 176.5))
        assert dark < 20, kind
        assert bright > 235, kind
    pictures = "channels=['nuclei', 'actin'], layers={'flow': np.full((120, 180, 3), 77, np.uint8)}"
    editor.load(f"np.stack([image, image.T.reshape(120, 180)], axis=-1), {pictures}")
    layers = editor.root.locator(".se-layer")
    names = layers.locator("option").all_inner_texts()
    assert names == ["all channels", "nuclei", "actin", "flow"]
    layers.select_option(label="flow")
    assert editor.grey((10.5, 100.5)) == [77]
    editor.key("c")
    assert layers.evaluate("choice => choice.value") == "0"


def test_view_without_tools(lab: Opener) -> None:
    shown = "view.show(image, labels); view.tell(['', *(f'cell no. {n}' for n in range(1, 6))])"
    notebook = lab.open([f"{SETUP}{SCENE}view = ImageView()\n{shown}", "view"])
    view = EditorInPage(notebook, "view")
    assert view.root.locator(".se-editing, .se-list").count() == 0
    view.click((80.5, 110.5))
    assert notebook.kernel.wait_for("view.selected") == 4
    view.root.locator(".se-tip", has_text="cell no. 4").wait_for()
    view.drag([(60.5, 70.5), (70.5, 90.5)])  # moves the image, and changes nothing
    np.testing.assert_array_equal(notebook.kernel.value("np.array(view.labels)"), scene())


def test_keys_do_not_reach_the_notebook(editor: EditorInPage) -> None:
    """JupyterLab would delete its cell for d d, and make a raw one of it for r."""
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


DROP = """canvas => {
  const content = new Uint8Array(3 * 1048576 + 5).map((_, i) => i % 251);
  const data = new DataTransfer();
  data.items.add(new File([content], "dropped.tif"));
  canvas.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


def test_files_are_dropped_and_images_cycled(editor: EditorInPage) -> None:
    editor.kernel.run("dropped, cycled = [], []")
    editor.kernel.run("editor.on('drop', lambda name, content: dropped.append((name, content)))")
    editor.kernel.run("editor.on('cycle', cycled.append)")
    editor.load("image, labels, title='scene'")  # the page learns who listens
    editor.root.locator(".se-canvas").evaluate(DROP)
    editor.kernel.wait_for("len(dropped)")
    expected = "('dropped.tif', (np.arange(3 * 2**20 + 5) % 251).astype(np.uint8).tobytes())"
    assert editor.kernel.value(f"dropped == [{expected}]")
    editor.key("d", "d", "a")
    assert editor.kernel.wait_for("len(cycled) == 3 and cycled") == [1, 1, -1]


def test_list_of_cells(editor: EditorInPage) -> None:
    editor.fill("new-class", "round")
    editor.press("add-class")
    editor.root.locator(".se-chip", has_text="round").wait_for()
    editor.row(4).locator(".se-class").select_option("round")
    editor.row(5).locator(".se-note").fill("a bar")
    editor.row(5).locator(".se-note").press("Enter")
    cells = {cell["label"]: cell for cell in editor.cells}
    assert (cells[4]["class"], cells[5]["note"]) == ("round", "a bar")
    areas = np.bincount(scene().ravel())[1:].tolist()
    assert [cell["area"] for cell in cells.values()] == areas
    editor.root.locator(".se-chip", has_text="round 1").wait_for()
    editor.press("sort-area")
    editor.lists([1, 2, 5, 4, 3])  # of 400, 400, 600, 709 and 800 px
    editor.press("sort-area")
    editor.lists([3, 4, 5, 2, 1])
    editor.fill("filter", "bar")
    editor.lists([5])
    editor.row(5).locator(".se-number-cell").click()
    assert editor.kernel.wait_for("editor.selected") == 5
    editor.fill("filter", "")
    editor.key("1")  # the first class, for the cell that is selected
    assert {cell["label"] for cell in editor.cells if cell["class"] == "round"} == {4, 5}
    editor.press("sort-label")
    editor.press("fit")


def test_save_and_open_again(editor: EditorInPage, tmp_path) -> None:
    path = tmp_path / "scene_masks.tif"
    editor.load(f"image, labels, title='scene', path=Path({str(path)!r})")
    editor.click((80.5, 110.5))
    editor.key("Delete")
    editor.row(5).locator(".se-note").fill("kept")
    editor.row(5).locator(".se-note").press("Enter")
    editor.tool("region")
    editor.drag([(10.2, 20.1), (110.4, 159.8)], steps=5)
    editor.message("Draw all cells within the frame")
    editor.press("save")
    editor.message("Saved 4 cells")
    part = '{"top":10,"left":20,"height":100,"width":140}'
    assert (tmp_path / "scene_region.json").read_text() == part
    expected = scene()
    expected[expected == 4] = 0
    expected[expected == 5] = 4  # numbered 1 to n
    np.testing.assert_array_equal(readers.read_masks(path), expected)
    np.testing.assert_array_equal(editor.labels, expected)
    table = pd.read_csv(tmp_path / "scene_cells.csv", keep_default_na=False)
    assert table["note"].tolist() == ["", "", "", "kept"]
    cells = "cells=pd.read_csv(editor.path.with_name('scene_cells.csv'))"
    editor.load(f"image, read_masks(editor.path), {cells}, title='scene', path=editor.path")
    np.testing.assert_array_equal(editor.labels, expected)
    assert editor.row(4).locator(".se-note").input_value() == "kept"
    editor.key("u")
    editor.message("The whole image is annotated")


def test_the_wheel_zooms_without_a_click_and_leaves_the_page_where_it_is(editor: EditorInPage):
    editor.load("image, labels")
    editor.page.evaluate("document.activeElement.blur()")
    ((x, y),) = editor.places([(60.5, 60.5)])
    editor.page.mouse.move(x, y)
    zoom = editor.root.evaluate("root => root.scellseg.painter.zoom")
    place = editor.root.bounding_box()
    editor.page.mouse.wheel(0, -300)
    editor.wait("(root, [zoom]) => root.scellseg.painter.zoom > 1.2 * zoom", zoom)
    assert editor.root.bounding_box() == place
    editor.press("fit")

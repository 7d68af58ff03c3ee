"""By hand alone: another folder, its images, its channels, its scale, and a cell to point at."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from playwright.sync_api import expect

from tests.browser.conftest import EditorInPage, Opener
from tests.browser.test_workbench import AXE, DRAW, FINDINGS, OPEN_FOLDER, Truth, ready

LIST = ".scellseg-annotate-images"
MICROMETRES = 0.5  # a pixel


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder beside that of the worms: two images of two channels, a ramp and its mirror."""
    folder = tmp_path / "two channels"
    folder.mkdir()
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint16), (160, 200))
    how = {"resolution": (1 / MICROMETRES, 1 / MICROMETRES)}
    how |= {"metadata": {"axes": "CYX", "unit": "um"}, "imagej": True}
    for name in "ab":
        tifffile.imwrite(folder / f"{name}.tif", np.stack([ramp, ramp[:, ::-1]]), **how)
    return folder


def test_another_folder_its_channels_and_its_scale(voila: Opener, tmp_path: Path, other) -> None:
    folder = Truth(tmp_path / "worms").folder
    opened = voila.open([OPEN_FOLDER.format(str(folder)), "workbench"])
    page, images = opened.page, opened.page.locator(f"{LIST} .se-image")
    ready(page, DRAW)
    expect(images).to_have_count(3)
    expect(page.locator(f"{LIST} .se-small:visible")).to_have_count(3)
    page.get_by_role("button", name="Open a folder …").click()
    dialog = page.get_by_role("dialog", name="Open a folder")
    expect(dialog.locator(".se-where")).to_have_text(str(folder))
    page.evaluate(AXE)
    assert page.evaluate(FINDINGS) == []
    dialog.get_by_role("button", name="Up").click()
    dialog.get_by_role("button", name=other.name).click()
    expect(dialog).to_contain_text("2 images here")
    dialog.get_by_role("button", name="Open this folder").click()
    expect(dialog).to_be_hidden()
    expect(images).to_have_count(2)
    opened.kernel.wait_for("workbench.annotate.current.name == 'a'")
    editor = EditorInPage(opened, "workbench.annotate.editor")
    editor.opened()
    page.locator(f"{LIST} .se-images").focus()
    page.keyboard.press("ArrowDown")
    opened.kernel.wait_for("workbench.annotate.current.name == 'b'")
    expect(images.nth(1)).to_have_attribute("aria-selected", "true")
    editor.opened()

    rows = editor.root.locator(".se-light-row")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("checkbox").uncheck()
    rows.nth(0).locator("[type=color]").evaluate("""(field) => {
      field.value = "#ffffff"; field.dispatchEvent(new Event("change")); }""")
    for field, value in (("Black", "50"), ("White", "150")):
        rows.nth(0).get_by_label(field).fill(value)
        page.keyboard.press("Tab")
    middle = [(80.5, x + 0.5) for x in (10, 75, 100, 190)]
    np.testing.assert_allclose(editor.grey(*middle), (0, 63.75, 127.5, 255), atol=2)
    rows.nth(0).get_by_role("button", name="Auto").click()
    np.testing.assert_allclose(editor.grey(middle[2]), 128, atol=4)  # from the 1st percentile
    rows.nth(1).get_by_role("checkbox").check()  # green, beside what is white
    assert editor.grey(middle[0])[0] > 70
    scale, zoom = editor.root.evaluate("({ scellseg }) => [scellseg.scale, scellseg.painter.zoom]")
    width = editor.root.locator(".se-canvas").evaluate("(canvas) => canvas.width")
    assert width / 15 < scale / MICROMETRES * zoom < width / 5
    assert scale in (1, 2, 5, 10, 20, 50, 100)

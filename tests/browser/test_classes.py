"""Classes in JupyterLab: made, renamed, coloured and removed with mouse and keys, and kept."""

from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Locator

from scellseg_lib.files import images as readers
from tests.browser.conftest import EditorInPage
from tests.browser.test_mask_editor import SCENE, scene

ORANGE, SKY_BLUE, GREEN, PINK = "#E69F00", "#56B4E9", "#009E73", "#CC79A7"
DISK, BAR, SQUARE, RING = (80.5, 110.5), (25.5, 120.5), (30.5, 30.5), (75.5, 45.5)
"""Places in the cells 4, 5, 1 and 3."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which two other images have cells of a class "dead"."""
    for name in "bc":
        readers.write_labels(tmp_path / f"{name}_masks.tif", scene())
        (tmp_path / f"{name}_cells.csv").write_text("label,class,note\n1,dead,\n")
    return tmp_path


@pytest.fixture
def editor(editor: EditorInPage, folder: Path) -> EditorInPage:
    path = str(folder / "a_masks.tif")
    editor.kernel.run("from scellseg_lib.workbench.experiment import ClassFile")
    editor.kernel.run(f"{SCENE}path = Path({path!r})")
    editor.load("image, labels, path=path, classes=ClassFile(path)")
    return editor


def chip(editor: EditorInPage, words: str) -> Locator:
    return editor.root.locator(".se-chip", has_text=words)


def add(editor: EditorInPage, *names: str) -> None:
    for name in names:
        editor.fill("new-class", name, "Enter")
        chip(editor, f"{name} 0").wait_for()


def change(editor: EditorInPage, name: str) -> None:
    editor.root.get_by_label(f"Change the class {name}").click()
    editor.root.get_by_label(f"Name of the class {name}").wait_for()


def kinds(editor: EditorInPage) -> list[str]:
    return [cell["class"] for cell in editor.cells]


def classes(editor: EditorInPage) -> dict[str, str]:
    editor.arrived()
    return editor.kernel.value("editor.classes")


def kept(folder: Path) -> dict[str, str]:
    table = pd.read_csv(folder / "classes.csv")
    return dict(zip(table["class"], table["colour"], strict=True))


def test_classes_from_the_first_to_the_next_start(editor: EditorInPage, folder: Path) -> None:
    editor.root.locator(".se-hint", has_text="No classes yet").wait_for()
    add(editor, "dead", "dividing", "out of focus")
    editor.click(DISK, BAR)
    chip(editor, "dead").click()
    editor.click(SQUARE)
    editor.key("2", "k")
    assert kinds(editor) == ["dividing", "", "", "dead", "dead"]
    chip(editor, "dead 2").wait_for()
    editor.key("k")

    change(editor, "dead")
    editor.fill("class-name", "apoptotic", "Enter")
    chip(editor, "apoptotic 2").wait_for()
    editor.message('"dead" is called "apoptotic" now, with 2 cells.')
    assert kinds(editor) == ["dividing", "", "", "apoptotic", "apoptotic"]
    assert list(classes(editor)) == ["apoptotic", "dividing", "out of focus"]
    editor.press("rename-elsewhere")
    editor.message('"dead" is called "apoptotic" in b, c too.')
    editor.root.locator(".se-others").wait_for(state="hidden")

    change(editor, "apoptotic")
    editor.root.get_by_role("button", name="pink").click()
    editor.root.locator(f".se-colour[data-colour='{PINK}'][aria-pressed=true]").wait_for()
    change(editor, "dividing")
    editor.root.get_by_label("Another colour").fill("#12ab34")
    editor.kernel.wait_for("editor.classes['dividing'] == '#12AB34'")
    editor.press("remove-class")
    editor.message('The class "dividing" is removed; 1 cell had it.')
    assert kinds(editor) == ["", "", "", "apoptotic", "apoptotic"]
    assert classes(editor) == {"apoptotic": PINK, "out of focus": GREEN}
    editor.key("Control+z")
    assert kinds(editor) == ["dividing", "", "", "apoptotic", "apoptotic"]
    expected = {"apoptotic": PINK, "dividing": "#12AB34", "out of focus": GREEN}
    assert classes(editor) == expected

    editor.press("save")
    editor.message("Saved 5 cells")
    assert kept(folder) == expected
    table = pd.read_csv(folder / "a_cells.csv", keep_default_na=False)
    assert table["class"].tolist() == ["dividing", "", "", "apoptotic", "apoptotic"]
    assert pd.read_csv(folder / "b_cells.csv")["class"].tolist() == ["apoptotic"]
    editor.load("image")  # shares no classes: what is removed here stays in the folder's list
    editor.kernel.run("for name in editor.classes: editor.remove_class(name)")
    chip(editor, "apoptotic").wait_for(state="detached")
    cells = "cells=pd.read_csv(path.with_name('a_cells.csv'))"
    editor.load(f"image, read_masks(path), {cells}, path=path, classes=ClassFile(path)")
    chip(editor, "dividing 1").wait_for()
    assert classes(editor) == expected
    assert kinds(editor) == ["dividing", "", "", "apoptotic", "apoptotic"]


def test_a_class_is_merged_with_keys_alone_which_are_for_the_form(editor: EditorInPage) -> None:
    add(editor, "dead", "dividing")
    editor.click(DISK)
    editor.key("1")
    editor.click(RING)
    editor.key("2", "Escape")
    chip(editor, "dividing 1").wait_for()
    page = editor.page.keyboard
    chip(editor, "dead 1").focus()
    page.press("Tab")
    page.press("Enter")
    editor.root.get_by_label("Name of the class dead").wait_for()
    page.type("divid")
    page.press("Escape")  # nothing is done, and one is where one was
    editor.root.locator(".se-class-form").wait_for(state="hidden")
    focused = "() => document.activeElement.getAttribute('aria-label')"
    assert editor.page.evaluate(focused) == "Change the class dead"
    page.press("Space")
    page.type("dividing")
    editor.root.locator(".se-hint", has_text='There is a class "dividing" already').wait_for()
    page.press("Tab")
    page.press("Enter")
    editor.message('"dead" is part of "dividing" now, with 1 cell.')
    assert kinds(editor) == ["", "", "dividing", "dividing", ""]
    assert classes(editor) == {"dividing": SKY_BLUE}
    page.press("Control+z")
    assert kinds(editor) == ["", "", "dividing", "dead", ""]
    assert classes(editor) == {"dead": ORANGE, "dividing": SKY_BLUE}
    editor.click(DISK)  # Delete would delete this cell, and letters choose tools
    change(editor, "dead")
    editor.root.get_by_role("button", name="orange").focus()
    for key in ("Delete", "2", "b", "Backspace"):
        page.press(key)
    editor.root.locator(".se-class-name").press_sequentially("2 b")
    assert kinds(editor) == ["", "", "dividing", "dead", ""]
    assert editor.root.locator(".se-tool-select").get_attribute("aria-pressed") == "true"
    editor.kernel.run("edit = editor.remove_class('dead')")
    editor.root.locator(".se-class-form").wait_for(state="hidden")
    chip(editor, "dead 0").wait_for(state="detached")
    change(editor, "dividing")
    editor.kernel.run("edit = editor.add_class('dividing', '#112233')")
    editor.wait("root => root.querySelector('.se-other-colour').value === '#112233'")

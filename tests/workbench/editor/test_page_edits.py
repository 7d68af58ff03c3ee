"""Edits of pages that did not know yet what had happened to the labels in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor import MaskEditor
from scellseg_lib.workbench.editor.patches import set_pixels


class Page:
    """What a page sends; it has seen no edit since it was made."""

    def __init__(self, editor: MaskEditor, client: str = "page") -> None:
        self.editor, self.client, self.seq = editor, client, 0
        self.labels, self.number = np.array(editor.labels), len(editor.edits)

    def send(self, content: dict, runs: bytes | None = None) -> None:
        self.seq += 1
        own = {"client": self.client, "session": self.editor._pages.session, "seq": self.seq}
        parts = [] if runs is None else [memoryview(runs)]
        self.editor._receive(None, own | {"number": self.number} | content, parts)

    def paint(self, box: tuple[slice, slice], label: int, **more: object) -> None:
        inside = np.zeros(self.labels.shape, bool)
        inside[box] = True
        runs = set_pixels(self.labels, np.flatnonzero(inside), label).to_bytes()
        content = {"type": "stroke", "kind": "paint", "label": label, "fresh": False}
        self.send(content | {"protect": False} | more, runs)
        self.labels[box] = label

    def command(self, name: str, /, **args: object) -> None:
        self.send({"type": "command", "name": name, "args": args})


@pytest.fixture
def labels() -> np.ndarray:
    """Cells 1, 2, 3 of 4 x 4 pixels in a row."""
    labels = np.zeros((8, 24), np.int32)
    for cell in (1, 2, 3):
        labels[2:6, 8 * cell - 6 : 8 * cell - 2] = cell
    return labels


def editor_of(labels: np.ndarray, path: Path | None = None) -> MaskEditor:
    return MaskEditor(np.zeros(labels.shape), labels, path=path)


def test_a_stroke_that_was_under_way_while_cells_were_numbered_anew_finds_its_cell(labels):
    editor = editor_of(labels)
    page = Page(editor)
    page.command("delete", cells=[1])
    editor.relabel()  # 2 and 3 are 1 and 2 now, which the page does not know yet
    page.paint((slice(6, 8), slice(18, 22)), 3)
    assert np.array_equal(np.unique(editor.labels), [0, 1, 2])
    assert (editor.labels[2:8, 18:22] == 2).all()
    page.command("set_class", cells=[2], name="dead")
    assert editor.cells.set_index("label")["class"].to_dict() == {1: "dead", 2: ""}


def test_undoing_the_new_numbers_is_followed_too(labels):
    editor = editor_of(labels)
    page = Page(editor)
    editor.delete([1])
    editor.relabel()
    editor.undo()
    page.command("delete", cells=[3])
    assert np.array_equal(np.unique(editor.labels), [0, 2])


def test_a_second_stroke_on_a_cell_whose_label_was_taken_stays_with_the_first(labels):
    editor = editor_of(labels)
    page = Page(editor)
    page.command("outline", points=[[0, 0], [0, 2], [2, 2], [2, 0]])  # gets the label 4
    page.paint((slice(6, 8), slice(0, 2)), 4, fresh=True)
    page.paint((slice(6, 8), slice(2, 4)), 4)
    assert (editor.labels[0, 0], *np.unique(editor.labels[6:8, 0:4])) == (4, 5)


def test_protected_neighbours_that_the_page_has_not_seen_yet_stay(labels):
    editor = editor_of(labels)
    page = Page(editor)
    editor.outline(np.array([[6, 0], [6, 4], [8, 4], [8, 0]], float))
    drawn = int((editor.labels == 4).sum())
    page.paint((slice(5, 8), slice(0, 8)), 1, protect=True)
    assert int((editor.labels == 4).sum()) == drawn
    page.paint((slice(5, 8), slice(0, 8)), 1, protect=False)
    assert int((editor.labels == 4).sum()) <= drawn


def test_masks_that_another_window_has_saved_are_not_overwritten_in_silence(labels, tmp_path):
    path = tmp_path / "a_masks.tif"
    first, second = editor_of(labels, path), editor_of(labels, path)
    first.delete([1])
    first.save()
    second.delete([3])
    with pytest.raises(ImageError, match="changed in another window"):
        second.save()
    assert second.is_changed
    assert np.array_equal(np.unique(second.labels), [0, 1, 2])
    second.save(replace=True)
    assert not second.is_changed
    second.delete([2])
    second.save()  # its own file is no other's


def test_a_list_that_cannot_be_written_leaves_the_masks_too(labels, tmp_path):
    path = tmp_path / "a_masks.tif"
    editor = editor_of(labels, path)
    editor.save()
    before = path.read_bytes()
    (tmp_path / "a_cells.csv").unlink()
    (tmp_path / "a_cells.csv" / "in the way").mkdir(parents=True)
    editor.delete([1])
    with pytest.raises(ImageError, match="cannot be saved"):
        editor.save()
    assert path.read_bytes() == before
    assert editor.is_changed


def test_classes_keep_their_order_and_colours_from_image_to_image(labels):
    editor = editor_of(labels)
    editor.set_class([1], "alive")
    editor.set_class([2], "dead")
    known = editor.classes
    editor.load(np.zeros(labels.shape), labels)
    editor.set_class([1], "dead")
    assert editor.classes == known

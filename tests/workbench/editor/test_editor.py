"""The mask editor as the page talks with it: messages, answers, and pictures of an image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import find_boundaries

from scellseg_lib.errors import ImageError
from scellseg_lib.files import images as readers
from scellseg_lib.workbench.editor import ImageView, MaskEditor, view
from scellseg_lib.workbench.editor.annotation import LARGEST_LABEL
from scellseg_lib.workbench.editor.classes import COLOURS
from scellseg_lib.workbench.editor.editor import HISTORY
from scellseg_lib.workbench.editor.patches import Patch, apply, set_pixels
from scellseg_lib.workbench.editor.view import MAPS, draw_still, make_layers
from scellseg_lib.workbench.forms import compose

ORANGE, *_ = COLOURS.values()
IMAGE = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16)
UNFORESEEN = "Something unforeseen"


def cells() -> np.ndarray:
    """Cells 1, 2 and 5: 16 px, 24 px, and a ring of 12 px around a hole of 4."""
    labels = np.zeros((12, 16), np.int32)
    labels[1:5, 1:5], labels[1:5, 5:11] = 1, 2
    labels[7:11, 2:6] = 5
    labels[8:10, 3:5] = 0
    return labels


def areas(editor: MaskEditor) -> dict[int, int]:
    return dict(editor.cells[["label", "area"]].to_numpy().tolist())


def decode_labels(data: bytes, shape: Sequence[int]) -> np.ndarray:
    pairs = np.frombuffer(data, "<u4").reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.int32).reshape(shape)


class Page:
    """A page that draws what Python answers, in that order: it must have the same at any time."""

    def __init__(self, view: ImageView, client: str) -> None:
        self.view, self.client, self.seq = view, client, 0
        self.heard: list[dict[str, Any]] = []
        self.buffers: list[list[bytes]] = []
        self.labels, self.session, self.number = np.zeros((0, 0), np.int32), "", 0
        self.facts: dict[str, list[str]] = {}
        self.is_deaf = False
        self.last: tuple[dict[str, Any], list[bytes]] = ({}, [])

    def hear(self, content: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
        content, parts = json.loads(json.dumps(content)), [bytes(part) for part in buffers or ()]
        if content.get("to") not in (None, self.client) or self.is_deaf:
            return
        self.heard.append(content)
        self.buffers.append(parts)
        if content["type"] == "open":
            self.labels = decode_labels(parts[0], content["shape"])
            self.session, self.facts = content.get("session", ""), content.get("facts", {})
        elif content["type"] == "edit":
            apply(self.labels, Patch.from_bytes(parts[0], self.labels.size))
            self.facts |= content["facts"]
        self.number = content.get("number", self.number)

    def types(self) -> list[str]:
        return [content["type"] for content in self.heard]

    def told(self, type: str) -> dict[str, Any]:
        return next(content for content in reversed(self.heard) if content["type"] == type)

    def parts(self, type: str) -> list[bytes]:
        return self.buffers[len(self.heard) - 1 - self.types()[::-1].index(type)]

    def post(self, buffers: Sequence[bytes] = (), **content: Any) -> list[dict[str, Any]]:
        """Send a message; all that is heard upon it."""
        before = len(self.heard)
        self.view._receive(self.view, content, [memoryview(part) for part in buffers])
        return self.heard[before:]

    def edit(self, buffers: Sequence[bytes] = (), **content: Any) -> list[dict[str, Any]]:
        self.seq += 1
        own = {"client": self.client, "session": self.session, "seq": self.seq}
        self.last = own | {"number": self.number} | content, list(buffers)
        return self.again()

    def again(self) -> list[dict[str, Any]]:
        return self.post(self.last[1], **self.last[0])

    def stroke(self, pixels: Sequence[int], label: int, **more: Any) -> list[dict[str, Any]]:
        """Draw on the labels as this page knows them."""
        patch = set_pixels(self.labels, np.sort(pixels), label)
        content = {"kind": "paint" if label else "erase", "label": label, "fresh": False} | more
        return self.edit([patch.to_bytes()], type="stroke", **content)

    def paint(self, box: tuple[slice, slice], label: int, **more: Any) -> list[dict[str, Any]]:
        pixels = np.arange(self.labels.size).reshape(self.labels.shape)[box].ravel()
        return self.stroke(pixels, label, **more)

    def turn(self, kind: str, of: str) -> list[dict[str, Any]]:
        return self.edit(type="turn", kind=kind, of=of)

    def command(self, name: str, /, **args: Any) -> list[dict[str, Any]]:
        return self.edit(type="command", name=name, args=args)


def connect(view: ImageView, *clients: str) -> list[Page]:
    pages = [Page(view, client) for client in clients or ("page",)]

    def send(content: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
        for page in pages:
            page.hear(content, buffers)

    view.send = send  # type: ignore[method-assign]
    for page in pages:
        page.post(type="hello", client=page.client)
    return pages


@pytest.fixture
def editor() -> MaskEditor:
    return MaskEditor(IMAGE, cells())


@pytest.fixture
def page(editor: MaskEditor) -> Page:
    return connect(editor)[0]


def with_file(tmp_path: Path, client: str = "page") -> tuple[MaskEditor, Page]:
    editor = MaskEditor(IMAGE, cells(), path=tmp_path / "a_masks.tif")
    return editor, connect(editor, client)[0]


def test_hello_is_answered_with_all_that_is_shown():
    image, flow = np.dstack([IMAGE, IMAGE[::-1]]), np.full((12, 16, 3), 9, np.uint8)
    editor = MaskEditor(image, cells(), channels=("DAPI", "GFP"), layers={"flow": flow}, title="a")
    editor.set_class([2], "dead")
    editor.delete([1])
    editor.delete([5])
    editor.undo()
    page, other = connect(editor, "page", "other")
    assert page.types().count("open") == other.types().count("open") == 1
    content, buffers = page.told("open"), page.parts("open")
    expected = {"shape": [12, 16], "title": "a", "maps": list(MAPS), "reference": False}
    expected |= {"facts": {"2": ["dead", ""]}, "classes": {"dead": ORANGE}, "savable": False}
    expected |= {"seen": {}, "number": 4}
    assert content | expected == content
    assert [layer["name"] for layer in content["layers"]] == ["DAPI", "GFP", "flow"]
    np.testing.assert_array_equal(page.labels, np.where(cells() == 1, 0, cells()))
    assert buffers[3:6] == [layer.pixels.tobytes() for layer in editor._layers]
    history = [*content["undo"], *content["redo"]]
    assert [id for id, _ in history] == ["python:0", "python:1", "python:2"]
    assert sum(length for _, length in history) == len(buffers[6])
    at = history[0][1]
    assert Patch.from_bytes(buffers[6][at : at + history[1][1]], 192).n_pixels == 16
    for _ in range(HISTORY + 5):
        editor.set_note([2], "x")
    (page,) = connect(editor)
    assert len(page.told("open")["undo"]) == HISTORY


def test_an_editor_without_an_image_says_so_and_each_image_is_a_session():
    editor = MaskEditor()
    (page,) = connect(editor)
    assert page.types() == ["empty"]
    editor.load(IMAGE)
    assert editor.cells.empty
    page.stroke([0], 9)
    first = page.session
    editor.load(IMAGE[:6], cells()[:6], title="b")
    assert page.labels.shape == (6, 16)
    assert (editor.edits, editor.undo()) == ([], None)
    (answer,) = page.stroke([0], 9, session=first)
    assert (answer["type"], answer["session"]) == ("refused", first)
    assert "too late" in answer["text"]
    np.testing.assert_array_equal(editor.labels, cells()[:6])


def test_what_cannot_be_opened_leaves_open_what_was(tmp_path):
    editor, page = with_file(tmp_path)
    too_large = np.full((12, 16), LARGEST_LABEL + 1)
    wrong = [cells()[:5], cells() / 2, too_large, cells()[None], -cells()]
    for image, labels in [(np.zeros(4), None), *((IMAGE, labels) for labels in wrong)]:
        with pytest.raises(ImageError):
            editor.load(image, labels, path=tmp_path / "b_masks.tif")
        page.stroke([0], editor.annotation.free)
        assert editor.labels[0, 0] == editor.annotation.free - 1
        assert editor.save()[0] == tmp_path / "a_masks.tif"


def test_a_stroke_is_in_the_labels_and_answered(editor, page):
    (answer,) = page.stroke([0, 1, 2], 6, fresh=True)
    # By its number a page can tell that it has missed one.
    expected = {"type": "edit", "id": "page:1", "kind": "paint", "number": 1}
    assert (answer | expected, editor.labels[0, :4].tolist()) == (answer, [6, 6, 6, 0])
    page.stroke([0, 1], 0)
    np.testing.assert_array_equal(page.labels, editor.labels)
    for _ in range(2):  # sent again, it is taken once and answered
        (answer,) = page.again()
        assert (answer["type"], answer["id"]) == ("known", "page:2")
    assert [(edit.id, edit.kind) for edit in editor.edits][1:] == [("page:2", "erase")]
    with pytest.raises(ValueError, match="read-only"):
        editor.labels[0, 0] = 3
    # Strokes that overtake each other are taken in the order of the page.
    runs = [set_pixels(page.labels, at, label).to_bytes() for at, label in (([0], 9), ([1], 9))]
    runs.append(set_pixels(page.labels, [0, 1], 8).to_bytes())
    own = {"client": "page", "session": page.session, "type": "stroke", "kind": "paint", "label": 9}
    for late in (5, 4):
        assert page.post([runs[late - 3]], **own, seq=late) == []
    answers = page.post([runs[0]], **own, seq=3)
    assert [answer["id"] for answer in answers] == ["page:3", "page:4", "page:5"]
    assert editor.labels[0, :2].tolist() == [8, 8]
    np.testing.assert_array_equal(page.labels, editor.labels)


def test_pages_that_did_not_know_of_each_others_strokes_keep_both(editor):
    one, two = connect(editor, "one", "two")
    two.is_deaf = True
    one.stroke([0, 1], 6, fresh=True)
    two.stroke([15], 6, fresh=True)  # another cell, though it took the same number
    two.stroke([1, 2], 2)
    one.stroke([3], 6)  # its own cell grows
    assert editor.labels[0, [0, 1, 2, 3, 15]].tolist() == [6, 2, 2, 6, 7]
    np.testing.assert_array_equal(one.labels, editor.labels)
    editor.undo()
    editor.undo()
    assert editor.labels[0, :4].tolist() == [6, 6, 0, 0]
    two.is_deaf = False
    two.post(type="hello", client="two")
    assert (two.number, two.told("open")["seen"]) == (6, {"one": 2, "two": 2})
    np.testing.assert_array_equal(two.labels, editor.labels)


def test_strokes_heed_an_outline_that_their_page_has_not_seen_yet(editor, page):
    page.is_deaf = True
    page.command("outline", points=[[8, 9], [8, 12], [11, 12]])  # gets the label 6
    page.paint(np.s_[0:1, 0:2], 6, fresh=True)  # a cell of its own
    page.paint(np.s_[0:1, 2:4], 6)
    assert np.unique(editor.labels[0, 0:4]).tolist() == [7]
    drawn = (editor.labels == 6).sum()
    page.paint(np.s_[8:12, 8:14], 1, protect=True)
    assert (editor.labels == 6).sum() == drawn
    page.paint(np.s_[8:12, 8:14], 1, protect=False)
    assert (editor.labels == 6).sum() < drawn


def test_strokes_and_commands_find_cells_that_were_numbered_anew_meanwhile(editor, page):
    page.is_deaf = True
    page.command("delete", cells=[1])
    editor.relabel()  # 2 and 5 are 1 and 2 now, which the page does not know yet
    page.paint(np.s_[11:12, 2:6], 5)
    assert np.unique(editor.labels).tolist() == [0, 1, 2]
    assert (editor.labels[11, 2:6] == 2).all()
    page.command("set_class", cells=[2], name="dead")
    assert editor.cells["class"].tolist() == ["dead", ""]
    for _ in range(3):
        editor.undo()  # the last of the old numbers too
    page.command("delete", cells=[5])
    assert np.unique(editor.labels).tolist() == [0, 2]


def test_edits_of_a_cell_that_is_gone_touch_no_other(editor, page):
    page.is_deaf = True
    page.command("delete", cells=[2])
    editor.relabel()  # 5 is 2 now
    page.command("delete", cells=[2])
    assert areas(editor) == {1: 16, 2: 12}
    page.paint(np.s_[0:1, 0:2], 2)
    page.paint(np.s_[0:1, 2:4], 2)
    assert areas(editor) == {1: 16, 2: 12, 3: 4}


def test_a_new_cell_is_one_where_another_of_its_number_was_numbered_anew(editor):
    one, two = connect(editor, "one", "two")
    one.is_deaf = True
    two.stroke([15], 6, fresh=True)
    editor.delete([1])
    editor.relabel()  # that 6 is 3 now
    one.stroke([0, 1], 6, fresh=True)
    one.stroke([2], 6)
    assert editor.labels[0, [0, 1, 2, 15]].tolist() == [4, 4, 4, 3]


BAD_RUNS = [b"123", *(np.array([0, n, 0, to], "<u4").tobytes() for n, to in ((999, 1), (1, 2**31)))]


@pytest.mark.parametrize(
    ("content", "parts", "text"),
    [
        *(({}, [runs], "does not fit") for runs in BAD_RUNS),
        ({}, [], UNFORESEEN),
        ({"type": "turn", "kind": "undo", "of": "one:9"}, [], "have changed in between"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(editor, content, parts, text):
    """Its page, and no other, sees the truth again."""
    one, two = connect(editor, "one", "two")
    stroke = {"type": "stroke", "kind": "paint", "label": 1}
    refused, *answers = one.edit(parts, **stroke | content)
    assert (refused["type"], refused["id"]) == ("refused", "one:1")
    assert text in refused["text"]
    assert [answer["type"] for answer in answers] == ["open", "colours"]
    assert two.types().count("open") == 1
    np.testing.assert_array_equal(editor.labels, cells())
    assert len(editor.annotation.areas) < 10  # nothing has taken memory


SQUARE = [[0.5, 3.5], [0.5, 6.5], [2.5, 6.5], [2.5, 3.5]]
# Commands, their arguments, and the areas of the cells after them.
COMMANDS: list[tuple[str, dict[str, Any], dict[int, int]]] = [
    ("merge", {"cells": [2, 1]}, {1: 40, 5: 12}),
    ("delete", {"cells": [1, 5]}, {2: 24}),
    ("fill_holes", {"cells": []}, {1: 16, 2: 24, 5: 16}),
    ("relabel", {}, {1: 16, 2: 24, 3: 12}),
    ("outline", {"points": SQUARE, "cell": 0}, {1: 16, 2: 24, 5: 12, 6: 4}),
    ("outline", {"points": SQUARE, "protect": False}, {1: 12, 2: 20, 5: 12, 6: 12}),
    ("split", {"line": [[-1, 8], [7, 8]], "cells": []}, {1: 16, 2: 16, 5: 12, 6: 8}),
]


@pytest.mark.parametrize("kind", ["undo", "redo"])
def test_a_turn_is_done_once_and_refused_after_an_edit_of_another_page(editor, kind):
    one, two = connect(editor, "one", "two")
    one.stroke([0], 6)
    (answer,) = one.turn("undo", "one:1")
    assert (answer["id"], answer["kind"], answer["of"]) == ("one:2", "undo", "one:1")
    one.again()
    assert editor.labels[0, 0] == 0
    if kind == "undo":
        one.turn("redo", "one:1")
        assert editor.labels[0, 0] == 6
    two.stroke([15], 7)
    before = editor.labels.copy()
    answers = one.turn(kind, "one:1")
    assert [answer["type"] for answer in answers] == ["refused", "open", "colours"]
    assert answers[1]["undo"][-1][0] == "two:1"
    np.testing.assert_array_equal(editor.labels, before)
    one.turn("undo", "two:1")  # as it knows now
    assert editor.labels[0, 15] == 0
    np.testing.assert_array_equal(two.labels, editor.labels)


@pytest.mark.parametrize(("name", "args", "expected"), COMMANDS)
def test_commands_by_arithmetic(editor, page, name, args, expected):
    *edits, done = page.command(name, **args)
    assert [answer["type"] for answer in edits] == ["edit"]
    assert (done["type"], done["id"], done["name"]) == ("done", "page:1", name)
    assert (done["pixels"], areas(editor)) == ((editor.labels != cells()).sum(), expected)
    np.testing.assert_array_equal(page.labels, editor.labels)
    editor.undo()
    np.testing.assert_array_equal(editor.labels, cells())


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("merge", {"cells": [1]}, "Select two or more"),
        ("split", {"line": [[0, 0], [0, 15]]}, "cuts no cell in two"),
        ("split", {"line": "x"}, UNFORESEEN),
        ("outline", {"points": [[0, 0]]}, "Draw around the cell"),
        ("set_class", {"cells": [1], "name": 5}, UNFORESEEN),
        ("delete", {"calls": [1]}, UNFORESEEN),
        ("explode", {}, UNFORESEEN),
        ("save", {}, "the masks have no file"),
    ],
)
def test_a_command_that_cannot_be_done_is_refused_in_words(editor, page, name, args, text):
    (answer,) = page.command(name, **args)
    assert (answer["type"], answer["id"]) == ("refused", "page:1")
    assert text in answer["text"]
    np.testing.assert_array_equal(editor.labels, cells())
    assert editor.edits == []
    page.command("delete", cells=[1])  # and the next one is taken
    assert areas(editor) == {2: 24, 5: 12}


def test_a_message_that_is_not_understood_is_answered_in_words(editor, page):
    for content in (
        *({}, "text", None, 7, {"type": "explode"}, {"type": None}, {"type": ["stroke"]}),
        *({"type": "hello"}, {"type": "cycle", "by": "x"}, {"type": "stroke"}),
        {"type": "stroke", "client": "page", "session": "", "seq": None},
        {"type": "drop", "client": "page", "part": 0, "parts": 1},
    ):
        before = len(page.heard)
        editor._receive(editor, content, [])
        (answer,) = page.heard[before:]
        assert (answer["type"], answer["error"]) == ("say", True)
        assert UNFORESEEN in answer["text"]


def test_what_is_saved_opens_as_an_equal_editor(tmp_path):
    editor, page = with_file(tmp_path)
    heard: list[Path] = []
    editor.on("save", heard.append)
    assert page.told("open")["savable"]
    page.command("delete", cells=[1])
    page.command("set_class", cells=[2], name="NA")  # no missing value
    page.command("set_note", cells=[5], text='a "ring", 1/2; \u00b5')
    assert editor.is_changed
    page.command("save")
    assert page.told("say")["text"] == "Saved 2 cells: a_masks.tif and a_cells.csv."
    assert not editor.is_changed
    text = (tmp_path / "a_cells.csv").read_text(encoding="utf-8")
    assert text == 'label,area,class,note\n1,24,NA,\n2,12,,"a ""ring"", 1/2; \u00b5"\n'
    path = tmp_path / "a_masks.tif"
    frame = pd.read_csv(tmp_path / "a_cells.csv", keep_default_na=False)
    again = MaskEditor(IMAGE, readers.read_masks(path), cells=frame, path=path)
    np.testing.assert_array_equal(again.labels, editor.labels)
    pd.testing.assert_frame_equal(again.cells, editor.cells)
    assert again.classes == editor.classes
    assert sorted(file.name for file in tmp_path.glob("*a_*")) == ["a_cells.csv", "a_masks.tif"]
    np.testing.assert_array_equal(page.labels, editor.labels)  # it has heard of the numbering
    page.command("undo")
    editor.save(tmp_path / "b_masks.png")
    assert editor.is_changed  # its own file does not know of the undo yet
    assert heard == [path, tmp_path / "b_masks.png"]


def test_the_part_that_is_annotated_is_drawn_undone_saved_and_taken_away(tmp_path):
    (_, page), file = with_file(tmp_path), tmp_path / "a_region.json"
    whole, part = [0, 0, 12, 16], [2, 0, 8, 14]
    done, _ = page.command("set_region", corners=[[9.6, 14.2], [2.4, -7]])  # up, out of the image
    (no,) = page.command("set_region", corners=[[3, 3], [3.4, 9]])
    assert "the rectangle holds no pixel of the image" in no["text"]
    turns = page.turn("undo", done["id"]) + page.turn("redo", done["id"])
    assert [[*told["region"].values()] for told in (done, *turns)] == [part, whole, part]
    (editor, page) = with_file(tmp_path)  # after a crash
    assert editor.is_changed
    page.command("save")
    for corners, expected in (([[0, 0], [12, 16]], part), ([[1, 1], [2, 2]], whole)):
        assert (file.exists(), not editor.is_changed) == (expected == part, True)
        editor, page = with_file(tmp_path)
        assert [*page.told("open")["region"].values()] == expected
        page.command("set_region", corners=corners)
        page.command("save")


def test_what_was_not_saved_is_there_again(tmp_path):
    crashed, page = with_file(tmp_path, client="page before")
    page.stroke([0, 1], 6, fresh=True)
    page.command("set_class", cells=[6], name="dead")
    editor, page = with_file(tmp_path)
    for labels in (editor.labels, page.labels):
        np.testing.assert_array_equal(labels, crashed.labels)
    assert editor.cells["class"].tolist() == ["", "", "", "dead"]
    page.turn("undo", page.told("open")["undo"][-1][0])
    assert editor.annotation.facts == {}
    assert with_file(tmp_path)[0].annotation.facts == {}
    assert [file.suffix for file in tmp_path.glob("*a_*")] == [".edits"]


KINDS = ["stroke", "stroke", "fresh", "undo", "redo", "command", "again", "hello"]
some_pixels = st.lists(st.integers(0, 191), min_size=1, max_size=6, unique=True)
message = st.tuples(st.integers(0, 1), st.sampled_from(KINDS), some_pixels, st.integers(0, 7))


@settings(max_examples=25)
@given(st.lists(message, min_size=4, max_size=30))
def test_two_pages_and_python_always_see_the_same(script):
    editor = MaskEditor(IMAGE, cells())
    pages = connect(editor, "one", "two")
    commands = [*COMMANDS, ("set_class", {"cells": [1], "name": "dead"}, {})]
    for who, what, pixels, number in script:
        page, annotation = pages[who], editor.annotation
        if what in ("stroke", "fresh"):
            page.stroke(pixels, number or 3 * (what == "fresh"), fresh=what == "fresh")
        elif what in ("undo", "redo"):
            edits = annotation.undoable if what == "undo" else annotation.redoable
            page.turn(what, edits[-1].id if edits and number else "one:1")
        elif what == "command":
            name, args, _ = commands[number]
            page.command(name, **args)
        elif what == "again" and page.seq:
            n_edits = len(editor.edits)
            page.again()
            assert len(editor.edits) == n_edits
        elif what == "hello":
            page.post(type="hello", client=page.client)
        known = {str(cell): [*facts] for cell, facts in annotation.facts.items()}
        for one in pages:
            np.testing.assert_array_equal(one.labels, editor.labels)
            assert {cell: facts for cell, facts in one.facts.items() if any(facts)} == known


PLANE = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100 + 7


def decode_png(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_intensities_come_back_from_the_numbers_within_a_step():
    """But eight bits go as they are, and what is no number is black."""
    for dtype in (bool, np.int8, np.uint16, np.int32, np.float32, np.float64):
        plane = (PLANE / 100 - 3).astype(dtype)
        (layer,) = make_layers(plane, (), {})
        expected = {"name": "image", "kind": "uint16", "channel": True}
        assert layer.describe() == expected | {"low": layer.low, "high": layer.high}
        step = (layer.high - layer.low) / 65535
        back = layer.low + layer.pixels * step
        np.testing.assert_allclose(back, plane.astype(float), atol=step)
    plane = np.arange(6, dtype=np.uint8).reshape(2, 3)
    (layer,) = make_layers(plane, (), {})
    assert (layer.low, layer.high, layer.describe()["kind"]) == (0, 255, "uint8")
    np.testing.assert_array_equal(layer.pixels, plane)
    (layer,) = make_layers(np.array([[0.5, np.nan], [np.inf, -np.inf]]), (), {})
    assert layer.pixels.tolist() == [[65535, 0], [0, 0]]
    (flat,) = make_layers(np.full((3, 3), 7.0), (), {})
    assert flat.low == flat.high == 7
    assert not flat.pixels.any()


def test_channels_have_names_and_further_pictures_follow_them():
    several = ["image"], ["channel 1", "channel 2"], ["red", "green", "blue"]
    for n_channels, names in enumerate(several, 1):
        image = np.dstack([PLANE + k for k in range(n_channels)])
        colours = np.zeros((3, 4, 3), np.uint8)
        colours[1, 2] = 10, 20, 30
        found = make_layers(image, (), {"flow": colours, "cell probability": PLANE / 1e4})
        assert [layer.name for layer in found] == [*names, "flow", "cell probability"]
        assert [layer.channel for layer in found] == [True] * n_channels + [False] * 2
        assert [layer.low for layer in found[:n_channels]] == [7 + k for k in range(n_channels)]
        assert found[-2].describe()["kind"] == "rgb"
        np.testing.assert_array_equal(found[-2].pixels, colours)
        given = [f"stain {k}" for k in range(n_channels)]
        assert [layer.name for layer in make_layers(image, given, {})] == given
        with pytest.raises(ImageError, match=f"{n_channels} channels, 4 are named"):
            make_layers(image, list("abcd"), {})


def test_what_is_no_image_and_no_picture_of_it_is_refused():
    for image, others, text in (
        *((np.zeros(shape), {}, "cannot be shown") for shape in (5, (2, 3, 4, 1), (0, 4))),
        (np.array([["a"]]), {}, "cannot be shown"),
        (np.zeros((2, 2)) * 1j, {}, "cannot be shown"),
        (PLANE, {"flow": np.zeros((4, 3))}, "'flow' of"),
        (PLANE, {"flow": np.zeros((3, 4, 3), np.float32)}, "float32"),
        (PLANE, {"flow": np.zeros((3, 4, 4), np.uint8)}, "shape"),
        (PLANE, {"flow": np.zeros((3, 4, 3, 1), np.uint8)}, "shape"),
    ):
        with pytest.raises(ImageError, match=text):
            make_layers(image, (), others)


def test_the_picture_is_stretched_from_the_first_to_the_last_percentile():
    plane = np.tile(np.arange(101, dtype=np.uint16), (101, 1))  # percentiles are the values
    picture = compose([plane])
    assert picture.shape == (101, 101, 3)
    assert (picture == picture[..., :1]).all()
    row = picture[0, :, 0].astype(int)
    assert row[[0, 1, 99, 100]].tolist() == [0, 0, 255, 255]
    np.testing.assert_allclose(row[1:100], (np.arange(1, 100) - 1) / 98 * 255, atol=1.01)
    two = np.zeros((8, 8, 2), np.uint16)
    two[:4, :, 0], two[:, :4, 1] = 9, 9
    picture = compose([*two.transpose(2, 0, 1)])
    assert picture[0, [0, 7]].tolist() == [[255, 255, 0], [255, 0, 0]]
    assert picture[7, 7].tolist() == [0, 0, 0]


def test_the_still_picture_has_outlines_of_the_cells_and_of_the_reference():
    labels, reference = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    labels[0:8, 2:5], labels[0:8, 5:8], reference[12:18, 12:18] = 1, 2, 5
    edge = np.zeros((20, 20), bool)  # beside another label, but not at the border of the image
    edge[7, 2:8] = edge[0:8, 2] = edge[0:8, 4:6] = edge[0:8, 7] = True
    picture = np.full((20, 20, 3), 40, np.uint8)
    expected = picture.copy()
    expected[edge] = view.OUTLINE
    expected[find_boundaries(reference, mode="inner")] = view.REFERENCE
    np.testing.assert_array_equal(draw_still(picture, labels, reference), expected)
    assert (picture == 40).all()
    table = np.array([[0, 0, 0, 0], [1, 2, 3, 255], [9, 9, 9, 0]], np.uint8)  # hides the second
    seen = draw_still(picture, labels, None, (table, None))
    assert seen[7, [3, 6]].tolist() == [[1, 2, 3], [40, 40, 40]]
    large = np.zeros((600, 3 * view.STILL_SIDE), np.int32)
    large[300:500, 900:1200] = 70_000
    seen = draw_still(np.zeros((*large.shape, 3), np.uint8), large, None)
    assert seen.shape == (200, view.STILL_SIDE, 3)
    rows, columns = np.nonzero((seen == view.OUTLINE).all(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 166, 300, 399)


def test_a_view_shows_a_reference_colours_and_tips():
    labels, shown = cells(), ImageView()
    (page,) = connect(shown)
    assert page.types() == ["empty"]
    shown.show(IMAGE, labels, reference=labels[::-1], title="a")
    shown.colour(np.full((6, 4), 7, np.uint8))
    shown.tell(["", "IoU 0.9"], ["", "missed"])
    heard = page.post(type="select", client="page", label=3)
    assert (heard, shown.selected) == ([{"type": "select", "label": 3, "by": "page"}], 3)
    shown.selected = 2
    assert page.told("select") == {"type": "select", "label": 2, "by": ""}
    (later,) = connect(shown)  # a page that comes later is told all the same
    np.testing.assert_array_equal(decode_labels(later.parts("open")[1], (12, 16)), labels[::-1])
    assert later.told("colours")["given"] == [True, False]
    assert later.parts("colours")[0] == bytes([7] * 24)
    assert later.told("tips")["cells"] == ["", "IoU 0.9"]
    shown.show_labels(labels[::-1])
    np.testing.assert_array_equal(decode_labels(later.parts("labels")[0], (12, 16)), labels[::-1])
    for wrong in ({"labels": labels[1:]}, {"reference": labels[1:]}):
        with pytest.raises(ImageError, match="the sizes must agree"):
            shown.show(IMAGE, **wrong)
    with pytest.raises(ImageError, match="the sizes must agree"):
        shown.show_labels(labels[1:])
    shown.show(IMAGE)
    assert (later.told("colours")["given"], shown.selected) == ([False, False], 0)

"""The mask editor as the page talks with it: every message in, every answer out, without a browser.

The real page is tested in tests/browser. The one here keeps its labels by the answers alone, and
must have the same as Python at any time.
"""

from __future__ import annotations

import base64
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

from scellseg_lib import progress
from scellseg_lib.errors import ImageError
from scellseg_lib.files import images as readers
from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.editor import HISTORY, MaskEditor
from scellseg_lib.workbench.editor.patches import Patch, apply, set_pixels
from scellseg_lib.workbench.editor.view import MAPS, ImageView

IMAGE = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16)


def cells() -> np.ndarray:
    """Cells 1, 2 and 5: 16 px, 24 px, and a ring of 12 px around a hole of 4."""
    labels = np.zeros((12, 16), np.int32)
    labels[1:5, 1:5], labels[1:5, 5:11] = 1, 2
    labels[7:11, 2:6] = 5
    labels[8:10, 3:5] = 0
    return labels


def decoded(data: bytes, shape: Sequence[int]) -> np.ndarray:
    pairs = np.frombuffer(data, "<u4").reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.int32).reshape(shape)


class Page:
    """What a page hears and says; it draws what Python answers, in that order."""

    def __init__(self, view: ImageView, client: str) -> None:
        self.view, self.client, self.seq = view, client, 0
        self.heard: list[dict[str, Any]] = []
        self.buffers: list[list[bytes]] = []
        self.labels, self.session = np.zeros((0, 0), np.int32), ""
        self.last: tuple[dict[str, Any], list[bytes]] = ({}, [])

    def hear(self, content: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
        content, parts = json.loads(json.dumps(content)), [bytes(part) for part in buffers or ()]
        if content.get("to") not in (None, self.client):
            return
        self.heard.append(content)
        self.buffers.append(parts)
        if content["type"] == "open":
            self.labels = decoded(parts[0], content["shape"])
            self.session = content.get("session", "")
        elif content["type"] == "edit":
            apply(self.labels, Patch.from_bytes(parts[0], self.labels.size))

    def types(self) -> list[str]:
        return [content["type"] for content in self.heard]

    def told(self, type: str) -> dict[str, Any]:
        """The last message of a type."""
        return next(content for content in reversed(self.heard) if content["type"] == type)

    def post(self, buffers: Sequence[bytes] = (), **content: Any) -> list[dict[str, Any]]:
        """Send a message; all that is heard upon it."""
        before = len(self.heard)
        self.view._receive(self.view, content, [memoryview(part) for part in buffers])
        return self.heard[before:]

    def edit(self, buffers: Sequence[bytes] = (), **content: Any) -> list[dict[str, Any]]:
        self.seq += 1
        numbered = {"client": self.client, "session": self.session, "seq": self.seq} | content
        self.last = numbered, list(buffers)
        return self.post(buffers, **numbered)

    def again(self) -> list[dict[str, Any]]:
        """Send the last edit once more."""
        return self.post(self.last[1], **self.last[0])

    def stroke(
        self, pixels: Sequence[int], label: int, fresh: bool = False, on: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        patch = set_pixels(self.labels if on is None else on, np.asarray(pixels), label)
        kind = "paint" if label else "erase"
        runs = [patch.to_bytes()]
        return self.edit(runs, type="stroke", kind=kind, label=label, fresh=fresh)

    def turn(self, kind: str, of: str) -> list[dict[str, Any]]:
        return self.edit(type="turn", kind=kind, of=of)

    def command(self, name: str, /, **args: Any) -> list[dict[str, Any]]:
        return self.edit(type="command", name=name, args=args)


def connected(view: ImageView, *clients: str) -> list[Page]:
    """Pages that have opened a view."""
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
    (one,) = connected(editor)
    return one


def saved(
    tmp_path: Path, labels: np.ndarray | None = None, client: str = "page"
) -> tuple[MaskEditor, Page]:
    editor = MaskEditor(IMAGE, cells() if labels is None else labels, path=tmp_path / "a_masks.tif")
    return editor, connected(editor, client)[0]


# --- opening -----------------------------------------------------------------------------------


def test_hello_is_answered_with_all_that_is_shown():
    image = np.dstack([IMAGE, IMAGE[::-1]])
    flow = np.full((12, 16, 3), 9, np.uint8)
    editor = MaskEditor(image, cells(), channels=("DAPI", "GFP"), layers={"flow": flow}, title="a")
    editor.set_class([2], "dead")
    editor.delete([1])
    editor.delete([5])
    editor.undo()
    (page,) = connected(editor)
    content, buffers = page.told("open"), page.buffers[page.types().index("open")]
    assert content["shape"] == [12, 16]
    assert content["title"] == "a"
    assert [layer["name"] for layer in content["layers"]] == ["DAPI", "GFP", "flow"]
    assert content["maps"] == list(MAPS)
    assert not content["reference"]
    assert content["facts"] == {"2": ["dead", ""]}
    assert list(content["classes"]) == ["dead"]
    assert not content["savable"]
    assert content["found"] == [0, ""]
    np.testing.assert_array_equal(decoded(buffers[0], (12, 16)), np.where(cells() == 1, 0, cells()))
    assert buffers[1] == b""
    assert len(buffers[2]) == len(MAPS) * 256 * 3
    for channel, sent in zip((IMAGE, IMAGE[::-1]), buffers[3:5], strict=True):
        numbers = np.frombuffer(sent, "<u2").reshape(12, 16) / 65535
        np.testing.assert_allclose(numbers * 191, channel, atol=0.01)
    assert buffers[5] == flow.tobytes()
    history = [*content["undo"], *content["redo"]]
    assert [id for id, _ in history] == ["python:0", "python:1", "python:2"]
    assert sum(length for _, length in history) == len(buffers[6])
    at = history[0][1]
    assert Patch.from_bytes(buffers[6][at : at + history[1][1]], 192).n_pixels == 16


def test_hello_is_answered_to_the_page_that_said_it(editor):
    one, two = connected(editor, "one", "two")
    assert one.types().count("open") == two.types().count("open") == 1


def test_a_page_gets_no_more_history_than_it_needs(editor):
    for _ in range(HISTORY + 5):
        editor.set_note([1], "x")
    (page,) = connected(editor)
    assert len(page.told("open")["undo"]) == HISTORY


def test_an_editor_without_an_image_says_so():
    editor = MaskEditor()
    (page,) = connected(editor)
    assert page.types() == ["empty"]
    editor.load(IMAGE)
    assert page.told("open")["shape"] == [12, 16]
    assert editor.cells.empty


def test_another_image_begins_another_session(editor, page):
    page.stroke([0], 9)
    first = page.session
    editor.load(IMAGE[:6], cells()[:6], title="b")
    assert page.session != first
    assert page.labels.shape == (6, 16)
    assert editor.edits == []
    assert editor.undo() is None


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (IMAGE, cells()[:5]),
        (np.zeros(4), None),
        (IMAGE, np.full((12, 16), 0.5)),
        (np.dstack([IMAGE, IMAGE]), -cells()),
    ],
    ids=["other size", "no image", "floats", "negative"],
)
def test_what_cannot_be_opened_leaves_open_what_was(tmp_path, image, labels):
    editor, page = saved(tmp_path)
    with pytest.raises(ImageError):
        editor.load(image, labels, path=tmp_path / "b_masks.tif")
    page.stroke([0], 9)
    assert editor.labels[0, 0] == 9
    assert editor.path == tmp_path / "a_masks.tif"
    assert editor.save()[0].name == "a_masks.tif"


# --- strokes -----------------------------------------------------------------------------------


def test_a_stroke_is_in_the_labels_and_answered(editor, page):
    heard = []
    editor.on_edit(heard.append)
    (answer,) = page.stroke([0, 1, 2], 6, fresh=True)
    assert (answer["type"], answer["id"], answer["kind"]) == ("edit", "page:1", "paint")
    assert editor.labels[0, :4].tolist() == [6, 6, 6, 0]
    assert editor.cells.set_index("label").loc[6, "area"] == 3
    assert [edit.id for edit in heard] == ["page:1"]
    assert editor.edits == heard
    page.stroke([0, 1], 0)
    assert editor.edits[-1].kind == "erase"
    np.testing.assert_array_equal(page.labels, editor.labels)


def test_labels_cannot_be_written_to_from_outside(editor):
    with pytest.raises(ValueError, match="read-only"):
        editor.labels[0, 0] = 3


def test_a_stroke_that_is_sent_again_is_taken_once_and_answered(editor, page):
    page.stroke([0], 6)
    page.stroke([0], 0)
    for _ in range(2):
        (answer,) = page.again()
        assert (answer["type"], answer["id"]) == ("known", "page:2")
    assert len(editor.edits) == 2
    assert editor.labels[0, 0] == 0


def test_strokes_that_overtake_each_other_are_taken_in_the_order_of_the_page(editor, page):
    one, two = (set_pixels(page.labels, [at], 9).to_bytes() for at in (0, 1))
    both = set_pixels(page.labels, [0, 1], 8).to_bytes()
    sent = [
        ([runs], {"type": "stroke", "kind": "paint", "label": 9, "client": "page", "seq": seq})
        for seq, runs in enumerate((one, two, both), 1)
    ]
    for late in (2, 1):
        assert page.post(sent[late][0], **sent[late][1], session=page.session) == []
    assert editor.edits == []
    answers = page.post(sent[0][0], **sent[0][1], session=page.session)
    assert [answer["id"] for answer in answers] == ["page:1", "page:2", "page:3"]
    assert editor.labels[0, :2].tolist() == [8, 8]
    np.testing.assert_array_equal(page.labels, editor.labels)


def test_a_page_can_tell_that_it_has_missed_an_edit(editor):
    one, two = connected(editor, "one", "two")
    assert one.told("open")["number"] == 0
    two.stroke([0], 6)
    one.stroke([1], 6)
    editor.undo()
    assert [content["number"] for content in one.heard if content["type"] == "edit"] == [1, 2, 3]
    one.post(type="hello", client="one")
    assert one.told("open")["number"] == 3
    assert one.told("open")["seen"] == {"one": 1, "two": 1}


def test_a_stroke_of_the_image_before_is_refused_and_let_go_of(editor, page):
    editor.load(IMAGE, cells())
    (answer,) = page.edit(
        [set_pixels(page.labels, [0], 9).to_bytes()],
        type="stroke",
        kind="paint",
        label=9,
        session="one that was",
    )
    assert (answer["type"], answer["id"]) == ("refused", "page:1")
    assert "too late" in answer["text"]
    np.testing.assert_array_equal(editor.labels, cells())
    assert editor.edits == []


def test_a_new_cell_whose_number_another_page_has_taken_gets_another(editor):
    one, two = connected(editor, "one", "two")
    as_it_was = two.labels.copy()
    one.stroke([0], 6, fresh=True)
    two.stroke([15], 6, fresh=True, on=as_it_was)
    assert (editor.labels[0, 0], editor.labels[0, 15]) == (6, 7)
    one.stroke([1], 6)  # its own cell grows
    assert editor.labels[0, 1] == 6
    for page in (one, two):
        np.testing.assert_array_equal(page.labels, editor.labels)


def test_a_stroke_made_on_older_labels_writes_what_was_drawn(editor):
    one, two = connected(editor, "one", "two")
    as_it_was = two.labels.copy()
    one.stroke([0, 1], 6, fresh=True)
    two.stroke([1, 2], 2, on=as_it_was)
    assert editor.labels[0, :4].tolist() == [6, 2, 2, 0]
    np.testing.assert_array_equal(one.labels, editor.labels)
    editor.undo()
    assert editor.labels[0, :4].tolist() == [6, 6, 0, 0]


@pytest.mark.parametrize(
    "runs",
    [
        b"123",
        np.array([0, 1000, 0, 1], "<u4").tobytes(),
        np.array([0, 1, 0, 2**31], "<u4").tobytes(),
    ],
    ids=["cut off", "beyond the image", "no label"],
)
def test_a_stroke_that_does_not_fit_is_refused_and_the_page_sees_the_truth(editor, runs):
    one, two = connected(editor, "one", "two")
    answers = one.edit([runs], type="stroke", kind="paint", label=1)
    assert [answer["type"] for answer in answers] == ["refused", "open", "colours"]
    assert answers[0]["id"] == "one:1"
    assert "does not fit" in answers[0]["text"]
    assert two.types().count("open") == 1
    np.testing.assert_array_equal(editor.labels, cells())


def test_a_label_beyond_all_bounds_is_refused_before_it_takes_the_memory(editor, page):
    answers = page.stroke([0], 2_000_000_000)
    assert answers[0]["type"] == "refused"
    assert (
        page.command("outline", points=[[8, 8], [8, 14], [11, 14]], cell=10**12)[0]["type"]
        == "refused"
    )
    assert len(editor.annotation.areas) < 10


# --- undo and redo -----------------------------------------------------------------------------


def test_undo_and_redo_of_the_page(editor, page):
    page.stroke([0], 6)
    (answer,) = page.turn("undo", "page:1")
    assert (answer["id"], answer["kind"], answer["of"]) == ("page:2", "undo", "page:1")
    assert editor.labels[0, 0] == 0
    page.turn("redo", "page:1")
    assert editor.labels[0, 0] == 6
    page.turn("undo", "page:1")
    page.again()
    assert editor.labels[0, 0] == 0
    np.testing.assert_array_equal(page.labels, editor.labels)


@pytest.mark.parametrize("kind", ["undo", "redo"])
def test_a_turn_after_an_edit_of_another_page_is_refused_and_shown_the_truth(editor, kind):
    one, two = connected(editor, "one", "two")
    one.stroke([0], 6)
    if kind == "redo":
        one.turn("undo", "one:1")
    two.stroke([15], 7)
    before = editor.labels.copy()
    answers = one.turn(kind, "one:1")
    assert [answer["type"] for answer in answers] == ["refused", "open", "colours"]
    assert "the masks have changed in between" in answers[0]["text"]
    assert [id for id, _ in answers[1]["undo"]][-1] == "two:1"
    np.testing.assert_array_equal(editor.labels, before)
    one.turn("undo", "two:1")  # as it knows now
    assert editor.labels[0, 15] == 0


# --- commands ----------------------------------------------------------------------------------


def areas(editor: MaskEditor) -> dict[int, int]:
    frame = editor.cells
    return dict(zip(frame["label"].tolist(), frame["area"].tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("merge", {"cells": [2, 1]}, {1: 40, 5: 12}),
        ("delete", {"cells": [1, 5]}, {2: 24}),
        ("fill_holes", {"cells": []}, {1: 16, 2: 24, 5: 16}),
        ("fill_holes", {"cells": [1]}, {1: 16, 2: 24, 5: 12}),
        ("relabel", {}, {1: 16, 2: 24, 3: 12}),
        (
            "outline",
            {"points": [[8.5, 9.5], [8.5, 12.5], [10.5, 12.5], [10.5, 9.5]], "cell": 0},
            {1: 16, 2: 24, 5: 12, 6: 12},
        ),
        (
            "outline",
            {"points": [[0.5, 3.5], [0.5, 6.5], [2.5, 6.5], [2.5, 3.5]], "protect": False},
            {1: 12, 2: 20, 5: 12, 6: 12},
        ),
    ],
)
def test_commands_by_arithmetic(editor, page, name, args, expected):
    *edits, done = page.command(name, **args)
    assert [answer["type"] for answer in edits] == ["edit"]
    assert (done["type"], done["id"], done["name"]) == ("done", "page:1", name)
    assert done["pixels"] == (editor.labels != cells()).sum()
    assert areas(editor) == expected
    np.testing.assert_array_equal(page.labels, editor.labels)
    editor.undo()
    np.testing.assert_array_equal(editor.labels, cells())


def test_split_by_a_drawn_line(editor, page):
    page.command("split", line=[[-1, 8.5], [7, 8.5]], cells=[])
    assert set(areas(editor)) == {1, 2, 5, 6}
    assert areas(editor)[2] + areas(editor)[6] == 24
    np.testing.assert_array_equal(page.labels, editor.labels)


def test_classes_and_notes(editor, page):
    answer, _ = page.command("set_class", cells=[1, 5], name="dead")
    assert answer["facts"] == {"1": ["dead", ""], "5": ["dead", ""]}
    assert list(answer["classes"]) == ["dead"]
    answer, _ = page.command("set_note", cells=[5], text="ring")
    assert answer["facts"] == {"5": ["dead", "ring"]}
    page.command("add_class", name=" alive ")
    assert list(page.told("classes")["classes"]) == ["dead", "alive"]
    assert editor.cells["class"].tolist() == ["dead", "", "dead"]
    assert editor.cells["note"].tolist() == ["", "", "ring"]
    page.command("set_class", cells=[1], name="")
    page.command("undo")
    assert editor.cells["class"].tolist() == ["dead", "", "dead"]
    page.command("undo")
    assert editor.cells["note"].tolist() == ["", "", ""]
    page.command("redo")
    assert editor.cells["note"].tolist() == ["", "", "ring"]


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("merge", {"cells": [1]}, "Select two or more"),
        ("merge", {"cells": [1, 3]}, "there is no cell 3"),
        ("split", {"line": [[0, 0], [0, 15]]}, "cuts no cell in two"),
        ("split", {"line": "x"}, "Something went wrong"),
        ("outline", {"points": [[0, 0]]}, "Draw around the cell"),
        ("delete", {"cells": [77]}, "there is no cell 77"),
        ("set_class", {"cells": [77], "name": "dead"}, "there is no cell 77"),
        ("set_class", {"cells": [1], "name": 5}, "Something went wrong"),
        ("set_note", {"cells": "x", "text": "x"}, "Something went wrong"),
        ("delete", {"calls": [1]}, "Something went wrong"),
        ("explode", {}, "Something went wrong"),
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


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"type": "explode"},
        {"type": None},
        {"type": ["stroke"]},
        {"type": "hello"},
        {"type": "cycle", "by": "x"},
        {"type": "stroke"},
        {"type": "stroke", "client": "page", "session": "", "seq": None},
        {"type": "drop", "client": "page", "part": 0, "parts": 1},
        {"type": "recover"},
        "text",
        None,
        7,
    ],
)
def test_a_message_that_is_not_understood_is_answered_in_words(editor, page, content):
    before = len(page.heard)
    editor._receive(editor, content, [])
    (answer,) = page.heard[before:]
    assert answer["type"] == "say"
    assert answer["error"]
    assert "Something went wrong" in answer["text"]


@pytest.mark.parametrize(
    "content", [{"type": "stroke", "kind": "paint", "label": 1}, {"type": "turn"}]
)
def test_an_edit_with_a_part_missing_is_refused_in_words(editor, page, content):
    answers = page.edit(**content)
    assert [answer["type"] for answer in answers] == ["refused", "open", "colours"]
    assert "Something went wrong" in answers[0]["text"]


def test_next_and_previous_are_passed_on_where_somebody_listens(editor):
    asked: list[int] = []
    editor.on_cycle(asked.append)
    (page,) = connected(editor)
    assert page.told("open")["listens"] == ["cycle"]
    page.post(type="cycle", by=1)
    page.post(type="cycle", by=-1)
    assert asked == [1, -1]


# --- files dropped -----------------------------------------------------------------------------


def test_a_dropped_file_comes_in_parts_from_each_page(editor):
    dropped: list[tuple[str, bytes]] = []
    editor.on_drop(lambda name, data: dropped.append((name, data)))
    one, two = connected(editor, "one", "two")

    def drop(page: Page, name: str, part: int, parts: int, data: bytes) -> None:
        content = {"client": page.client, "name": name, "part": part, "parts": parts}
        page.post([data], type="drop", **content)

    drop(one, "a.tif", 0, 3, b"aa")
    drop(two, "../../b.tif", 0, 1, b"b")
    drop(one, "a.tif", 1, 3, b"bb")
    assert dropped == [("b.tif", b"b")]
    drop(one, "a.tif", 2, 3, b"c")
    assert dropped[1:] == [("a.tif", b"aabbc")]
    drop(one, "c.tif", 0, 2, b"left unfinished")
    drop(one, "d.tif", 0, 1, b"d")
    assert dropped[2:] == [("d.tif", b"d")]


# --- saving ------------------------------------------------------------------------------------


def reopened(path: Path) -> MaskEditor:
    table = path.with_name(path.stem.removesuffix("_masks") + "_cells.csv")
    frame = pd.read_csv(table, keep_default_na=False)
    return MaskEditor(IMAGE, readers.read_masks(path), cells=frame, path=path)


def test_what_is_saved_opens_as_an_equal_editor(tmp_path):
    editor, page = saved(tmp_path)
    assert page.told("open")["savable"]
    page.command("delete", cells=[1])
    page.command("set_class", cells=[2], name="NA")  # no missing value
    page.command("set_note", cells=[5], text='a "ring", 1/2; \u00b5')
    assert editor.is_changed
    page.command("save")
    assert page.told("say")["text"] == "Saved 2 cells: a_masks.tif and a_cells.csv."
    assert not page.told("say")["error"]
    assert not editor.is_changed
    text = (tmp_path / "a_cells.csv").read_text(encoding="utf-8")
    assert text.splitlines() == [
        "label,area,class,note",
        "1,24,NA,",
        '2,12,,"a ""ring"", 1/2; \u00b5"',
    ]
    again = reopened(tmp_path / "a_masks.tif")
    np.testing.assert_array_equal(again.labels, editor.labels)
    pd.testing.assert_frame_equal(again.cells, editor.cells)
    assert again.classes == editor.classes
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["a_cells.csv", "a_masks.tif"]
    np.testing.assert_array_equal(page.labels, editor.labels)  # it has heard of the numbering
    page.command("undo")
    assert set(areas(editor)) == {2, 5}


def test_masks_without_cells_are_saved_and_open_again(tmp_path):
    _, page = saved(tmp_path, np.zeros((12, 16), np.int32))
    page.command("save")
    again = reopened(tmp_path / "a_masks.tif")
    assert again.cells.empty
    assert not again.labels.any()


def test_further_formats_lie_beside_the_masks(tmp_path):
    editor, _ = saved(tmp_path)
    heard: list[Path] = []
    editor.on_save(heard.append)
    editor.set_class([1], "dead")
    written = editor.save(tmp_path / "b_masks.png", ("imagej", "geojson"))
    assert [file.name for file in written] == [
        "b_masks.png",
        "b_cells.csv",
        "b_rois.zip",
        "b.geojson",
    ]
    assert all(file.stat().st_size for file in written)
    assert "dead" in written[3].read_text()
    assert heard == [tmp_path / "b_masks.png"]
    assert editor.is_changed  # its own file does not have the class yet


def test_a_save_that_fails_keeps_every_edit(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    editor, page = saved(folder)
    page.command("delete", cells=[2])
    (folder / "a_masks.tif").mkdir()  # a folder of that name is in the way
    answers = page.command("save")
    assert answers[-1]["type"] == "refused"
    assert "cannot be saved" in answers[-1]["text"]
    assert editor.is_changed
    (folder / "a_masks.tif").rmdir()
    again = MaskEditor(IMAGE, cells(), path=folder / "a_masks.tif")
    again.recover()
    np.testing.assert_array_equal(again.labels, editor.labels)
    page.command("save")
    assert page.heard[-1]["type"] == "done"
    np.testing.assert_array_equal(reopened(folder / "a_masks.tif").labels, editor.labels)


def test_a_list_that_cannot_be_written_is_an_error_too(tmp_path):
    editor, page = saved(tmp_path)
    (tmp_path / "a_cells.csv").mkdir()
    answers = page.command("save")
    assert answers[-1]["type"] == "refused"
    assert "cannot be saved" in answers[-1]["text"]
    assert "Your edits are kept" in answers[-1]["text"]
    assert len(editor.cells) == 3


def test_edits_that_cannot_be_kept_safe_are_done_and_it_is_said(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    editor = MaskEditor(IMAGE, cells(), path=tmp_path / "folder" / "a_masks.tif")
    (page,) = connected(editor)
    answers = page.stroke([0], 6)
    assert [answer["type"] for answer in answers] == ["edit", "say"]
    assert "cannot be kept safe" in answers[1]["text"]
    assert editor.labels[0, 0] == 6
    editor.save(tmp_path / "elsewhere_masks.tif")
    assert readers.read_masks(tmp_path / "elsewhere_masks.tif")[0, 0] == 4


# --- what a crash has left ---------------------------------------------------------------------


def crashed(tmp_path: Path) -> np.ndarray:
    """Labels of an editor that went away without a save."""
    editor, page = saved(tmp_path, client="page before")
    page.stroke([0, 1], 6, fresh=True)
    page.command("set_class", cells=[6], name="dead")
    return editor.labels.copy()


def test_what_a_crash_has_left_is_offered_and_brought_back(tmp_path):
    wanted = crashed(tmp_path)
    editor, page = saved(tmp_path)
    n_edits, begun = page.told("open")["found"]
    assert n_edits == 2
    assert begun.startswith("20")
    np.testing.assert_array_equal(editor.labels, cells())
    page.post(type="recover", yes=True)
    assert page.told("say")["text"] == "2 edits are back."
    for labels in (editor.labels, page.labels):
        np.testing.assert_array_equal(labels, wanted)
    assert editor.cells["class"].tolist() == ["", "", "", "dead"]
    assert page.told("open")["found"][0] == 0
    page.turn("undo", page.told("open")["undo"][-1][0])
    assert editor.cells["class"].tolist() == ["", "", "", ""]


def test_what_a_crash_has_left_is_forgotten_if_so_wished(tmp_path):
    crashed(tmp_path)
    editor, page = saved(tmp_path)
    page.post(type="recover", yes=False)
    np.testing.assert_array_equal(editor.labels, cells())
    assert list(tmp_path.iterdir()) == []


def test_a_save_before_the_answer_leaves_it_to_be_asked_for(tmp_path):
    wanted = crashed(tmp_path)
    labels = readers.relabel(cells())
    assert (labels != cells()).any()  # so that saving numbers them, which is an edit
    _, page = saved(tmp_path)
    page.command("save")
    left = tmp_path / ".a_masks.tif.edits.other"
    assert left.exists()
    left.replace(tmp_path / ".a_masks.tif.edits")
    annotation = Annotation(cells(), journal=tmp_path / ".a_masks.tif.edits")
    annotation.recover()
    np.testing.assert_array_equal(annotation.labels, wanted)


# --- in Python, and where no browser is --------------------------------------------------------


def test_other_cells_in_the_place_of_all_can_be_undone(editor, page):
    editor.show_labels(np.where(cells() == 2, 8, cells()).astype(np.uint16))
    assert set(areas(editor)) == {1, 5, 8}
    np.testing.assert_array_equal(page.labels, editor.labels)
    editor.undo()
    np.testing.assert_array_equal(editor.labels, cells())
    with pytest.raises(ImageError, match="Take the masks of this image"):
        editor.show_labels(cells()[:5])


def test_the_log_performs_all_again(editor):
    editor.split([[-1, 8.5], [7, 8.5]])
    editor.set_class([2], "dead")
    editor.merge([1, 2])
    editor.undo()
    editor.outline([[8, 9], [8, 12], [11, 12]])
    editor.fill_holes()
    editor.relabel()
    replayed = Annotation(cells())
    replayed.replay(editor.edits)
    np.testing.assert_array_equal(replayed.labels, editor.labels)
    pd.testing.assert_frame_equal(replayed.cells, editor.cells)


@pytest.mark.parametrize("by_machine", [False, True])
def test_where_a_machine_executes_the_notebook_it_is_a_picture(editor, monkeypatch, by_machine):
    monkeypatch.setattr(progress, "run_by_machine", lambda: by_machine)
    bundle = editor._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    if not by_machine:
        assert "application/vnd.jupyter.widget-view+json" in data
        return
    assert set(data) == {"image/png", "text/plain"}
    assert data["text/plain"] == "image: 16 x 12 px, 3 cells"
    png = base64.b64decode(data["image/png"])
    assert png == editor.picture()
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape == (12, 16, 3)
    assert set(MaskEditor()._repr_mimebundle_()[0]) == {"text/plain"}


def test_the_picture_follows_the_edits(editor):
    before = editor.picture()
    editor.delete([1])
    assert editor.picture() != before
    editor.undo()
    assert editor.picture() == before


def test_a_view_shows_a_reference_colours_and_tips():
    view = ImageView()
    (page,) = connected(view)
    assert page.types() == ["empty"]
    view.show(IMAGE, cells(), reference=cells()[::-1], title="a")
    view.colour(np.full((6, 4), 7, np.uint8))
    view.tell(["", "IoU 0.9"], ["", "missed"])
    view.go_to(2)
    assert view.selected == 2
    (later,) = connected(view)  # a page that comes later is told all the same
    buffers = later.buffers[later.types().index("open")]
    np.testing.assert_array_equal(decoded(buffers[1], (12, 16)), cells()[::-1])
    assert later.told("colours")["given"] == [True, False]
    assert later.buffers[later.types().index("colours")][0] == bytes([7] * 24)
    assert later.told("tips")["cells"] == ["", "IoU 0.9"]
    view.show_labels(cells()[:, ::-1])
    sent = later.buffers[later.types().index("labels")]
    np.testing.assert_array_equal(decoded(sent[0], (12, 16)), cells()[:, ::-1])
    view.show(IMAGE)
    assert later.told("colours")["given"] == [False, False]
    assert view.selected == 0
    for wrong in ({"labels": cells()[1:]}, {"reference": cells()[1:]}):
        with pytest.raises(ImageError, match="Take the masks of this image"):
            view.show(IMAGE, **wrong)
    with pytest.raises(ImageError, match="Take the masks of this image"):
        view.show_labels(cells()[1:])


# --- any messages in any order -----------------------------------------------------------------

messages = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["stroke", "stroke", "fresh", "undo", "redo", "command", "again", "hello"]),
        st.lists(st.integers(0, 191), min_size=1, max_size=6, unique=True),
        st.integers(0, 7),
    ),
    min_size=4,
    max_size=30,
)
COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("fill_holes", {}),
    ("relabel", {}),
    ("merge", {"cells": [1, 2]}),
    ("delete", {"cells": [5]}),
    ("split", {"line": [[-1, 8.5], [13, 8.5]]}),
    ("outline", {"points": [[6, 9], [6, 14], [10, 14]]}),
    ("set_class", {"cells": [1], "name": "dead"}),
    ("merge", {"cells": [98, 99]}),
]


@settings(max_examples=40, deadline=None)
@given(messages)
def test_two_pages_and_python_always_see_the_same(script):
    editor = MaskEditor(IMAGE, cells())
    pages = connected(editor, "one", "two")
    for who, what, pixels, number in script:
        page, annotation = pages[who], editor.annotation
        if what in ("stroke", "fresh"):
            page.stroke(pixels, number or 3 * (what == "fresh"), fresh=what == "fresh")
        elif what in ("undo", "redo"):
            known = annotation.undoable if what == "undo" else annotation.redoable
            page.turn(what, known[-1].id if known and number else "one:1")
        elif what == "command":
            name, args = COMMANDS[number]
            page.command(name, **args)
        elif what == "again" and page.seq:
            n_edits = len(editor.edits)
            page.again()
            assert len(editor.edits) == n_edits
        elif what == "hello":
            page.post(type="hello", client=page.client)
        for one in pages:
            np.testing.assert_array_equal(one.labels, editor.labels)
    replayed = Annotation(cells())
    replayed.replay(editor.edits)
    np.testing.assert_array_equal(replayed.labels, editor.labels)
    pd.testing.assert_frame_equal(replayed.cells, editor.cells)

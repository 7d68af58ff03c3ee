"""The file of edits: written at once, cut off anywhere, of other labels, across saves and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.classes import COLOURS
from scellseg_lib.workbench.editor.journal import Edit, Journal, hash_labels
from scellseg_lib.workbench.editor.patches import set_pixels

ORANGE, BLUE, *_ = COLOURS.values()
FIRST = np.zeros((6, 12), np.int32)
FIRST[1:5, 1:11] = 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / ".a_masks.tif.edits"


def edited(path: Path, labels: np.ndarray = FIRST) -> Annotation:
    """An annotation after eight edits of each kind, an undo and a redo among them."""
    annotation = Annotation(labels, journal=path)
    annotation.change("erase", set_pixels(annotation.labels, [13, 14], 0), id="page:1")
    annotation.split(np.array([[-1, 5.5], [7, 5.5]]))
    annotation.set_class([5], "dead")
    annotation.set_note([5], "ß\n\u2028 \N{MICROSCOPE}")  # no sign ends the line
    annotation.delete([4])
    annotation.undo("page:2")
    annotation.undo()
    annotation.redo()
    return annotation


def opened(path: Path, labels: np.ndarray = FIRST) -> Annotation:
    """The image opened again, and what was left brought back."""
    annotation = Annotation(labels, journal=path)
    annotation.recover()
    return annotation


def assert_same(one: Annotation, other: Annotation) -> None:
    np.testing.assert_array_equal(one.labels, other.labels)
    assert (one.facts, one.classes) == (other.facts, other.classes)
    for name in ("edits", "undoable", "redoable"):
        ids = [[edit.id for edit in getattr(each, name)] for each in (one, other)]
        assert ids[0] == ids[1], name


def others(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if file != path)


def rewrite(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n")


def test_every_edit_is_in_the_file_at_once_and_there_is_none_before_the_first(path):
    annotation = Annotation(FIRST, journal=path)
    assert not path.parent.exists()
    for n_edits in range(1, 4):
        annotation.change("erase", set_pixels(annotation.labels, [12 + n_edits], 0))
        header, *lines = path.read_text().splitlines()
        assert json.loads(header)["start"] == hash_labels(FIRST)
        assert [json.loads(line)["id"] for line in lines] == [f"python:{k}" for k in range(n_edits)]


def test_all_comes_back_with_what_can_be_undone_and_redone_and_goes_on(path):
    annotation = edited(path)
    again = Annotation(FIRST, journal=path)
    assert len(again.recoverable) == 8
    assert again.begun.endswith("+00:00")
    np.testing.assert_array_equal(again.labels, FIRST)  # not before it is asked for
    assert (again.recover(), again.recover()) == (8, 0)
    assert_same(again, annotation)
    for one in (again, annotation):
        one.redo()
    assert_same(again, annotation)
    again.change("paint", set_pixels(again.labels, [0], 9))
    assert_same(opened(path), again)
    assert others(path) == []


def test_a_file_cut_off_at_any_byte_gives_the_edits_before_and_goes_on(path):
    annotation = edited(path)
    data, ids = path.read_bytes(), [edit.id for edit in annotation.edits]
    ends = [place for place, sign in enumerate(data) if sign == ord("\n")]
    states, replayed = [FIRST], Annotation(FIRST)
    for edit in annotation.edits:
        replayed.replay([edit])
        states.append(replayed.labels.copy())
    for size in {*range(0, len(data) + 1, 7), *(end + k for end in ends for k in (-1, 0, 1))}:
        path.write_bytes(data[:size])
        again = Annotation(FIRST, journal=path)
        whole = max(sum(end <= size for end in ends) - 1, 0)  # but for the header
        assert again.recover() == whole, size
        assert [edit.id for edit in again.edits] == ids[:whole]
        np.testing.assert_array_equal(again.labels, states[whole])
        if size % 5 == 0:
            again.change("paint", set_pixels(again.labels, [0, 1], 9))
            again.set_note([9], "new")
            assert_same(opened(path), again)
        for file in path.parent.iterdir():
            file.unlink()


DAMAGES = [b"", b"\n", b"null\n", b"\xff\xfe\x00\n", b'{"id": "a"}\n']


@pytest.mark.parametrize("damage", [*DAMAGES, b'{"scellseg edits": 2, "start": ""}\n'])
def test_a_file_without_a_header_is_put_aside(path, damage):
    path.parent.mkdir()
    path.write_bytes(damage)
    assert Annotation(FIRST, journal=path).recoverable == []
    assert not path.exists()
    assert path.with_name(path.name + ".other").read_bytes() == damage


@pytest.mark.parametrize(
    "change",
    [
        *({"runs": data} for data in ("AAAA", "!", None)),
        *(
            {"facts": facts}
            for facts in ([], {"x": [["", ""]] * 2}, {"1": [["", "", ""], ["", ""]]})
        ),
        *({"classes": lists} for lists in (7, [{"dead": "reddish"}, {}], [{"": ORANGE}, {}], [{}])),
    ],
)
def test_a_damaged_line_costs_that_edit_alone(path, change):
    edited(path)
    header, first, *lines = path.read_text().splitlines()
    rewrite(path, header, json.dumps(json.loads(first) | change), *lines)
    again = opened(path)
    assert [edit.id for edit in again.edits][:2] == ["python:1", "python:2"]
    assert len(again.edits) == 7
    rewrite(path, header, first, first, *lines)  # as after a full disk: done once
    assert len(opened(path).edits) == 8


def test_edits_of_other_labels_are_put_aside_and_never_overwritten(path):
    edited(path)
    first = path.read_bytes()
    for labels in (FIRST + 1, FIRST.reshape(12, 6)):  # the same pixels in another shape
        annotation = Annotation(labels, journal=path)
        assert annotation.recoverable == []
        assert not path.exists()
        annotation.change("paint", set_pixels(annotation.labels, [0], 9))
    assert others(path) == [path.name + ".other", path.name + ".other2"]
    assert path.with_name(path.name + ".other").read_bytes() == first
    path.with_name(path.name + ".other").replace(path)
    assert len(Annotation(FIRST, journal=path).recoverable) == 8


def test_what_was_not_asked_for_is_put_aside_and_not_mixed_with_new_edits(path):
    annotation = edited(path)
    Annotation(FIRST, journal=path).restart_journal()  # a save before the answer leaves it
    assert_same(opened(path), annotation)
    left = path.read_bytes()
    again = Annotation(FIRST, journal=path)
    again.delete([4])
    assert (again.recoverable, again.recover()) == ([], 0)
    assert path.with_name(path.name + ".other").read_bytes() == left
    assert_same(opened(path), again)


def test_what_is_not_wanted_is_forgotten_but_never_an_edit_made_since(path):
    edited(path)
    again = Annotation(FIRST, journal=path)
    again.discard()
    assert not path.exists()
    assert again.recover() == 0
    again.delete([4])
    again.discard()  # asked for too late
    assert_same(opened(path), again)


def test_undo_and_redo_across_a_save_come_back_and_numbers_go_on(path):
    annotation = edited(path)
    annotation.restart_journal()
    saved, cells, classes = annotation.labels.copy(), annotation.cells, dict(annotation.classes)
    for turn in ["undo", "undo", "redo", "undo", "undo", "redo", "undo"]:
        getattr(annotation, turn)()
        again = Annotation(saved, cells, path, classes)
        again.recover()
        np.testing.assert_array_equal(again.labels, annotation.labels)
        assert (again.facts, again.classes) == (annotation.facts, annotation.classes)
    assert (annotation.labels != saved).any()
    n_edits = len(again.edits)
    for _ in range(9):  # no number is that of an edit that was brought back
        again.fill_holes()
    assert len({edit.id for edit in again.edits}) == n_edits + 9


def test_classes_come_back_beside_those_that_other_images_have_added_since(path):
    annotation = Annotation(FIRST, journal=path, classes={"dead": ORANGE})
    annotation.set_class([4], "dead")
    annotation.rename_class("dead", "gone")
    annotation.add_class("odd", "#123456")
    annotation.remove_class("odd")
    again = Annotation(FIRST, journal=path, classes={"dead": ORANGE, "new": BLUE})
    assert again.recover() == 4
    assert again.classes == {"gone": ORANGE, "new": BLUE}
    again.undo()
    assert again.classes == {"gone": ORANGE, "odd": "#123456", "new": BLUE}


def test_a_change_of_the_list_alone_begins_no_file_and_puts_none_aside(path):
    annotation = Annotation(FIRST, journal=path)
    annotation.add_class("dead")
    annotation.rename_class("dead", "gone")
    assert not path.exists()
    annotation.delete([4])
    annotation.undo()
    annotation.remove_class("gone")  # the file is begun, and takes it
    assert len(opened(path).edits) == 3
    again = Annotation(FIRST, journal=path)
    again.add_class("dead")
    assert (len(again.recoverable), others(path)) == (3, [])


def test_edits_that_could_not_be_written_are_done_and_written_with_the_next_one(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    path = tmp_path / "folder" / "edits"
    annotation = Annotation(FIRST, journal=path)
    annotation.split(np.array([[-1, 5.5], [7, 5.5]]))
    annotation.delete([5])
    assert "cannot be kept safe" in annotation.trouble
    assert "Make room" in annotation.trouble
    assert annotation.cells["label"].tolist() == [4]
    assert len(annotation.undoable) == 2
    (tmp_path / "folder").unlink()
    annotation.undo()
    assert annotation.trouble == ""
    assert_same(opened(path), annotation)


def test_a_file_that_cannot_be_read_or_removed_is_an_error_in_words(path):
    path.mkdir(parents=True)
    journal = Journal(path, FIRST)
    for act, text in (
        (journal.read, "cannot be read"),
        (journal.discard, "cannot be removed"),
        (lambda: journal.append(Edit("a", "paint")), "cannot be kept safe"),
    ):
        with pytest.raises(ImageError, match=text):
            act()


STROKES = """
import sys
from pathlib import Path
import numpy as np
from scellseg_lib.workbench.editor import MaskEditor

editor = MaskEditor(np.zeros((256, 256)), path=Path(sys.argv[1]))

def answer(content, buffers=()):
    if content["type"] == "edit":
        print(content["id"], flush=True)

editor.send = answer
session = editor._pages.session
for number in range(1, 256 * 256):
    content = {"type": "stroke", "client": "page", "session": session, "seq": number}
    content |= {"kind": "paint", "label": number, "fresh": True}
    editor._receive(editor, content, [np.array([number - 1, 1, 0, number], "<u4").tobytes()])
"""
"""A page that draws a cell of one pixel after the other; the full pipe stops it at the latest."""


def test_a_kill_in_the_middle_of_editing_loses_nothing_that_was_answered(tmp_path):
    masks = tmp_path / "a_masks.tif"
    with subprocess.Popen(
        [sys.executable, "-c", STROKES, str(masks)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(40)]
        os.kill(process.pid, signal.SIGKILL)
        answered += process.stdout.read().split()
    assert process.returncode == -signal.SIGKILL
    annotation = Annotation(np.zeros((256, 256), np.int32), journal=tmp_path / ".a_masks.tif.edits")
    n_edits = annotation.recover()
    assert answered == [f"page:{number}" for number in range(1, len(answered) + 1)]
    assert n_edits in (len(answered), len(answered) + 1)  # one may be kept and not answered yet
    wanted = np.zeros(256 * 256, np.int32)
    wanted[:n_edits] = np.arange(1, n_edits + 1)
    np.testing.assert_array_equal(annotation.labels.ravel(), wanted)

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
from scellseg_lib.workbench.editor.edits import Edit
from scellseg_lib.workbench.editor.journal import Journal, labels_hash
from scellseg_lib.workbench.editor.patches import set_pixels

FIRST = np.zeros((6, 12), np.int32)
FIRST[1:5, 1:11] = 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / ".a_masks.tif.edits"


def edited(path: Path, labels: np.ndarray = FIRST) -> Annotation:
    """An annotation after some edits of each kind, an undo and a redo."""
    annotation = Annotation(labels, journal=path)
    annotation.change("erase", set_pixels(annotation.labels, [13, 14], 0), id="page:1")
    annotation.split(np.array([[-1, 5.5], [7, 5.5]]))
    annotation.say([5], kind="dead", note="ß\n\u2028 \N{MICROSCOPE}")  # no sign ends the line
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
    assert one.facts == other.facts
    assert [edit.id for edit in one.edits] == [edit.id for edit in other.edits]
    assert [edit.id for edit in one.undoable] == [edit.id for edit in other.undoable]
    assert [edit.id for edit in one.redoable] == [edit.id for edit in other.redoable]


def others(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if file != path)


def test_every_edit_is_in_the_file_at_once_and_there_is_none_before_the_first(path):
    annotation = Annotation(FIRST, journal=path)
    assert not path.parent.exists()
    for n_edits in range(1, 4):
        annotation.change("erase", set_pixels(annotation.labels, [12 + n_edits], 0))
        header, *lines = path.read_text().splitlines()
        assert json.loads(header)["start"] == labels_hash(FIRST)
        assert [json.loads(line)["id"] for line in lines] == [f"python:{k}" for k in range(n_edits)]


def test_all_comes_back_with_what_can_be_undone_and_redone(path):
    annotation = edited(path)
    again = Annotation(FIRST, journal=path)
    assert len(again.recoverable) == 7
    assert again.begun.endswith("+00:00")
    np.testing.assert_array_equal(again.labels, FIRST)  # not before it is asked for
    assert again.recover() == 7
    assert_same(again, annotation)
    assert again.recover() == 0
    again.redo()
    annotation.redo()
    assert_same(again, annotation)


def test_edits_after_a_recovery_are_kept_with_those_before(path):
    edited(path)
    again = opened(path)
    again.change("paint", set_pixels(again.labels, [0], 9))
    assert_same(opened(path), again)
    assert others(path) == []


def test_a_file_cut_off_at_any_byte_gives_the_edits_before(path, tmp_path):
    annotation = edited(path)
    data, ids = path.read_bytes(), [edit.id for edit in annotation.edits]
    ends = [place for place, sign in enumerate(data) if sign == ord("\n")]
    states = [FIRST]
    replayed = Annotation(FIRST)
    for edit in annotation.edits:
        replayed.replay([edit])
        states.append(replayed.labels.copy())
    cut = tmp_path / "cut"
    for size in range(len(data) + 1):
        cut.write_bytes(data[:size])
        again = Annotation(FIRST, journal=cut)
        whole = max(sum(end <= size for end in ends) - 1, 0)  # but for the header
        assert again.recover() == whole, size
        assert [edit.id for edit in again.edits] == ids[:whole]
        np.testing.assert_array_equal(again.labels, states[whole])


@pytest.mark.parametrize("missing", [1, 5, 60])
def test_edits_after_a_line_that_was_cut_off_are_not_lost(path, missing):
    edited(path)
    path.write_bytes(path.read_bytes()[:-missing])
    again = opened(path)
    again.change("paint", set_pixels(again.labels, [0, 1], 9))
    again.say([9], note="new")
    assert_same(opened(path), again)


def test_a_file_whose_first_edit_was_cut_off_goes_on(path):
    annotation = Annotation(FIRST, journal=path)
    annotation.delete([4])
    path.write_bytes(path.read_bytes()[:-9])
    again = Annotation(FIRST, journal=path)
    assert again.recoverable == []
    again.change("paint", set_pixels(again.labels, [0], 9))
    assert_same(opened(path), again)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\n",
        b"null\n",
        b'{"scellseg edits": 2, "start": ""}\n',
        b"\xff\xfe\x00\n",
        b'{"id": "a"}\n',
    ],
)
def test_a_file_without_a_header_is_put_aside(path, damage):
    path.parent.mkdir()
    path.write_bytes(damage)
    assert Annotation(FIRST, journal=path).recoverable == []
    assert not path.exists()
    assert path.with_name(path.name + ".other").read_bytes() == damage


@pytest.mark.parametrize(
    "change",
    [
        {"runs": "AAAA"},
        {"runs": "!"},
        {"runs": None},
        {"facts": {"x": [["", ""], ["", ""]]}},
        {"facts": {"1": [["", "", ""], ["", ""]]}},
        {"facts": []},
    ],
)
def test_a_line_that_is_no_edit_is_passed_over(path, change):
    edited(path)
    header, first, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, json.dumps(json.loads(first) | change), *lines]) + "\n")
    again = opened(path)
    assert [edit.id for edit in again.edits][:2] == ["python:1", "python:2"]
    assert len(again.edits) == 6


def test_edits_of_other_labels_are_put_aside_and_never_overwritten(path):
    edited(path)
    first = path.read_bytes()
    for labels in (FIRST + 1, FIRST[:, :-1]):
        annotation = Annotation(labels, journal=path)
        assert annotation.recoverable == []
        assert not path.exists()
        annotation.change("paint", set_pixels(annotation.labels, [0], 9))
    assert others(path) == [path.name + ".other", path.name + ".other2"]
    assert path.with_name(path.name + ".other").read_bytes() == first
    path.with_name(path.name + ".other").replace(path)
    assert len(Annotation(FIRST, journal=path).recoverable) == 7


def test_labels_of_another_shape_with_the_same_pixels_are_others():
    assert labels_hash(np.zeros((2, 6), np.int32)) != labels_hash(np.zeros((3, 4), np.int32))


def test_what_was_not_asked_for_is_put_aside_and_not_mixed_with_new_edits(path):
    edited(path)
    left = path.read_bytes()
    again = Annotation(FIRST, journal=path)
    again.delete([4])
    assert again.recoverable == []
    assert again.recover() == 0
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


def test_a_save_without_an_answer_leaves_what_a_crash_has_left(path):
    annotation = edited(path)
    again = Annotation(FIRST, journal=path)
    again.saved()
    assert_same(opened(path), annotation)


def test_a_save_restarts_the_file_and_later_edits_come_back_on_the_saved_labels(path):
    annotation = edited(path)
    annotation.saved()
    assert not path.exists()
    saved, cells = annotation.labels.copy(), annotation.cells
    annotation.merge([4, 5])
    annotation.say([4], note="one after all")
    again = Annotation(saved, cells, path)
    assert again.recover() == 2
    np.testing.assert_array_equal(again.labels, annotation.labels)
    assert again.facts == annotation.facts
    for _ in range(9):  # the numbers of the edits go on, and meet none that was brought back
        again.fill_holes()
    assert len({edit.id for edit in again.edits}) == 11


def test_undo_and_redo_across_a_save_come_back(path):
    annotation = edited(path)
    annotation.saved()
    saved, cells = annotation.labels.copy(), annotation.cells
    for turns in ("undo", "undo undo", "undo redo", "undo undo undo redo redo undo"):
        for turn in turns.split():
            getattr(annotation, turn)()
        again = Annotation(saved, cells, path)
        again.recover()
        np.testing.assert_array_equal(again.labels, annotation.labels)
        assert again.facts == annotation.facts
    assert (annotation.labels != saved).any()


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


def test_an_edit_that_stands_twice_after_a_full_disk_is_done_once(path):
    annotation = edited(path)
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, lines[0], *lines]) + "\n")
    assert_same(opened(path), annotation)


def test_two_annotations_of_one_file_lose_no_edit(path):
    one, two = Annotation(FIRST, journal=path), Annotation(FIRST, journal=path)
    one.change("paint", set_pixels(one.labels, [0], 8))
    two.change("paint", set_pixels(two.labels, [71], 9))
    again = opened(path)
    assert again.labels.flat[0] == 8
    assert again.labels.flat[71] == 9


def test_a_file_that_cannot_be_read_or_removed_is_an_error_in_words(path):
    path.mkdir(parents=True)
    with pytest.raises(ImageError, match="cannot be read"):
        Annotation(FIRST, journal=path)
    journal = Journal(path, FIRST)
    with pytest.raises(ImageError, match="cannot be removed"):
        journal.discard()
    with pytest.raises(ImageError, match="cannot be kept safe"):
        journal.append(Edit("a", "paint"))


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
session = editor._more()[0]["session"]
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

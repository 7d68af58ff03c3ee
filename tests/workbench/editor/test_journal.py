"""The file of edits: written at once, cut off anywhere, of other labels, across saves and kills."""

import json
from pathlib import Path

import numpy as np
import pytest

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor.annotation import PUT_ASIDE, Annotation
from scellseg_lib.workbench.editor.classes import COLOURS
from scellseg_lib.workbench.editor.journal import Journal
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


def state(one: Annotation) -> tuple:
    """All that a page shows, and the edits by their names."""
    ids = [[edit.id for edit in edits] for edits in (one.edits, one.undoable, one.redoable)]
    return one.labels.tolist(), one.facts, one.classes, ids


def others(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if file != path)


def rewrite(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n")


def test_a_file_cut_off_at_any_byte_gives_the_edits_before_and_goes_on(path):
    """As a kill leaves it, in the middle of a line or between two."""
    annotation = edited(path)
    data, ids = path.read_bytes(), [edit.id for edit in annotation.edits]
    ends = [place for place, sign in enumerate(data) if sign == ord("\n")]
    states, replayed = [FIRST], Annotation(FIRST)
    for edit in annotation.edits:
        replayed.replay([edit])
        states.append(replayed.labels.copy())
    for size in {*range(0, len(data) + 1, 50), *(end + k for end in ends for k in (-1, 0, 1))}:
        path.write_bytes(data[:size])
        again = opened(path)
        whole = max(sum(end <= size for end in ends) - 1, 0)  # but for the header
        assert [edit.id for edit in again.edits] == ids[:whole]
        np.testing.assert_array_equal(again.labels, states[whole])
        if size % 5 == 0:
            again.change("paint", set_pixels(again.labels, [0, 1], 9))
            again.set_note([9], "new")
            assert state(opened(path)) == state(again)
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


@pytest.mark.parametrize("act", [Annotation.discard, Annotation.recover, None])
def test_what_another_window_does_with_the_file_costs_no_edit(path, act):
    """It forgets the edits, takes them up, or edits at once; or the file is deleted by hand."""
    mine, other = edited(path), Annotation(FIRST, journal=path)
    if act is not None:
        act(other)
    other.set_note([4], "of the other")
    other.discard()  # asked for too late
    mine.set_note([4], "mine")
    left = [opened(file) for file in path.parent.iterdir()]
    assert state(mine) in map(state, left)
    assert state(other) in map(state, left)
    mine.journal.path.unlink()
    mine.undo()
    assert state(opened(mine.journal.path)) == state(mine)
    assert (mine.trouble, other.trouble) == ("", "" if act else PUT_ASIDE)


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


def test_a_file_that_cannot_be_read_written_or_removed_is_an_error_in_words(path):
    annotation = Annotation(FIRST, journal=path)
    path.mkdir(parents=True)
    for act, text in ((Journal(path, FIRST).read, "read"), (annotation.journal.discard, "removed")):
        with pytest.raises(ImageError, match=f"cannot be {text}"):
            act()
    annotation.split(np.array([[-1, 5.5], [7, 5.5]]))
    annotation.delete([5])
    assert "cannot be kept safe" in annotation.trouble
    assert annotation.cells["label"].tolist() == [4]
    path.rmdir()
    path.touch()  # as on a full disk
    annotation.undo()  # the edits before are written with it
    assert (annotation.trouble, others(path)) == ("", [])
    assert state(opened(path)) == state(annotation)

"""Classes of cells: renamed, merged, removed and coloured; kept in a list that a folder shares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from scellseg_lib.errors import ImageError
from scellseg_lib.files import export
from scellseg_lib.files import images as readers
from scellseg_lib.files import layout as folders
from scellseg_lib.workbench.annotate import AnnotatePanel
from scellseg_lib.workbench.editor import MaskEditor
from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.classes import COLOURS, class_colour, merged, next_colour
from scellseg_lib.workbench.experiment import ClassFile, read_cells
from tests.workbench.editor.test_annotation import AnyEdits, said, three
from tests.workbench.editor.test_mask_editor import connected

ORANGE, BLUE, GREEN = list(COLOURS.values())[:3]
IMAGE = np.arange(6 * 12, dtype=np.uint8).reshape(6, 12)
LABELS = np.zeros((6, 12), np.int32)
LABELS[0, :4], LABELS[2, :6], LABELS[4, :8] = 1, 2, 3

names = st.sampled_from(["dead", "mitotic", "odd shape", "alive"])
colours = st.sampled_from(["", "#123456", ORANGE])


# --- any edits in any order -----------------------------------------------------------------------


class AnyEditsOfClasses(AnyEdits):
    """All edits, those of classes too, with the list that a file keeps beside the journal."""

    def open(self, labels: np.ndarray, cells: pd.DataFrame | None) -> None:
        self.kept = dict(getattr(self, "kept", {}))
        self.saved = labels.copy(), cells
        self.annotation = Annotation(labels, cells, self.journal, self.kept)
        self.first = self.annotation.labels.copy(), self.annotation.cells
        self.at_first = dict(self.annotation.classes)

    def listed(self, name: str) -> str | None:
        """A class that there is; None without any."""
        known = list(self.annotation.classes)
        return name if name in known else known[len(name) % len(known)] if known else None

    def done(self) -> None:
        """Keep the list as an editor does after an edit."""
        if self.annotation.edits and self.annotation.edits[-1].is_of_list:
            self.kept = dict(self.annotation.classes)

    @rule(name=names, colour=colours)
    def add_class(self, name: str, colour: str) -> None:
        annotation = self.annotation
        turns = len(annotation.undoable), len(annotation.redoable)
        before = annotation.classes.get(name)
        edit = annotation.add_class(name, colour)
        assert (len(annotation.undoable), len(annotation.redoable)) == turns
        assert annotation.classes[name] == (colour or before or annotation.classes[name])
        assert (edit is None) == (annotation.classes[name] == before)
        self.done()

    @precondition(lambda self: self.annotation.classes)
    @rule(old=names, new=names)
    def rename_class(self, old: str, new: str) -> None:
        old = self.listed(old) or ""
        before, everything = self.annotation.cells, snapshot(self.annotation)
        if self.annotation.rename_class(old, new) is None:
            assert old == new
            return
        expected = before.assign(**{"class": before["class"].replace({old: new})})
        pd.testing.assert_frame_equal(self.annotation.cells, expected)
        assert old not in self.annotation.classes
        assert new in self.annotation.classes
        self.there_and_back(everything)

    @precondition(lambda self: self.annotation.classes)
    @rule(name=names)
    def remove_class(self, name: str) -> None:
        name = self.listed(name) or ""
        before, everything = self.annotation.cells, snapshot(self.annotation)
        self.annotation.remove_class(name)
        expected = before.assign(**{"class": before["class"].replace({name: ""})})
        pd.testing.assert_frame_equal(self.annotation.cells, expected)
        assert name not in self.annotation.classes
        self.there_and_back(everything)

    def there_and_back(self, before: tuple) -> None:
        """The last edit undone is as if it had not been, and redone is as it was."""
        self.done()
        after = snapshot(self.annotation)
        self.annotation.undo()
        self.done()
        assert snapshot(self.annotation) == before
        self.annotation.redo()
        self.done()
        assert snapshot(self.annotation) == after

    @rule(times=st.integers(1, 3))
    def undo(self, times: int) -> None:
        for _ in range(times):
            self.annotation.undo()
            self.done()

    @rule()
    def redo(self) -> None:
        self.annotation.redo()
        self.done()

    @rule(times=st.integers(1, 4))
    def undo_and_redo(self, times: int) -> None:
        super().undo_and_redo(times)
        self.done()

    @rule()
    def save(self) -> None:
        super().save()
        self.kept = dict(self.annotation.classes)

    @rule()
    def crash(self) -> None:
        was = set(self.annotation.classes)
        super().crash()
        # Replayed on the list as it was last: a colour may be that of a later class of this name.
        assert set(self.annotation.classes) == was

    def teardown(self) -> None:
        if not hasattr(self, "annotation"):
            return
        labels, cells = self.first
        replayed = Annotation(labels, cells, classes=self.at_first)
        replayed.replay(self.annotation.edits)
        assert snapshot(replayed) == snapshot(self.annotation)
        super().teardown()

    @invariant()
    def every_class_of_a_cell_is_listed_with_a_colour(self) -> None:
        if hasattr(self, "annotation"):
            assert self.annotation.used <= set(self.annotation.classes)
            assert all(class_colour(one) == one for one in self.annotation.classes.values())


def snapshot(annotation: Annotation) -> tuple:
    """Labels, what is said of them, and the list of classes in its order."""
    return annotation.labels.tolist(), dict(annotation.facts), list(annotation.classes.items())


TestAnyEditsOfClasses = AnyEditsOfClasses.TestCase
TestAnyEditsOfClasses.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


# --- the list itself ------------------------------------------------------------------------------

lists = st.dictionaries(st.sampled_from("abcde"), st.sampled_from("123"), max_size=4)


@given(lists, lists, lists)
def test_a_change_is_made_to_a_list_that_others_have_changed(before, after, current):
    found = merged(before, after, current)
    assert list(merged(before, after, before).items()) == list(after.items())
    assert merged(before, before, current) == current
    for name in "abcde":
        came, went = name in after and name not in before, name in before and name not in after
        if came:
            assert name in found
        elif went:
            assert name not in found
        elif name in before and after[name] != before[name]:
            assert found[name] == after[name]
        else:
            assert found.get(name) == current.get(name)


def test_a_rename_keeps_the_colour_that_the_class_has_got_meanwhile():
    before, after = {"a": "1", "b": "2"}, {"x": "1", "b": "2"}
    assert list(merged(before, after, {"a": "9", "b": "2"}).items()) == [("x", "9"), ("b", "2")]
    assert merged(after, before, {"x": "8", "b": "2"})["a"] == "8"


def test_colours_are_those_of_the_palette_as_long_as_one_is_free():
    classes: dict[str, str] = {}
    for number in range(len(COLOURS)):
        classes[str(number)] = next_colour(classes)
    assert list(classes.values()) == list(COLOURS.values())
    del classes["3"]
    assert next_colour(classes) == list(COLOURS.values())[3]
    assert next_colour(classes | {"3": COLOURS["yellow"]}) in COLOURS.values()


@pytest.mark.parametrize(
    ("text", "colour"),
    [("#e69f00", ORANGE), (" #ABC ", "#AABBCC"), ("red", "#FF0000"), ("sky", None), ("none", None)],
)
def test_what_is_a_colour(text, colour):
    if colour:
        assert class_colour(text) == colour
    else:
        with pytest.raises(ImageError, match="is no colour"):
            class_colour(text)


# --- in an annotation -----------------------------------------------------------------------------


def classed() -> Annotation:
    """Cells 2 and 7 are dead, 3 is alive, and 7 has a note; a class "odd" has no cell."""
    annotation = three()
    annotation.say([2, 7], kind="dead")
    annotation.say([3], kind="alive")
    annotation.say([7], note="at the border")
    annotation.add_class("odd", "#123456")
    return annotation


def test_a_class_is_renamed_with_its_cells_in_its_place_and_colour():
    annotation = classed()
    n_edits = len(annotation.edits)
    edit = annotation.rename_class("dead", "  very   dead ")
    assert edit is not None
    assert (edit.kind, len(annotation.edits)) == ("rename class", n_edits + 1)
    assert said(annotation)[7] == ("very dead", "at the border")
    assert list(annotation.classes.items()) == [
        ("very dead", ORANGE),
        ("alive", BLUE),
        ("odd", "#123456"),
    ]
    annotation.undo()
    assert list(annotation.classes) == ["dead", "alive", "odd"]
    assert said(annotation)[2] == ("dead", "")
    assert annotation.rename_class("dead", " dead ") is None


def test_renaming_to_another_class_merges_both_and_undo_parts_them():
    annotation = classed()
    edit = annotation.rename_class("dead", "alive")
    assert edit is not None
    assert edit.kind == "merge classes"
    assert annotation.cells["class"].tolist() == ["alive"] * 3
    assert annotation.classes == {"alive": BLUE, "odd": "#123456"}
    annotation.undo()
    assert annotation.cells["class"].tolist() == ["dead", "alive", "dead"]
    assert annotation.classes == {"dead": ORANGE, "alive": BLUE, "odd": "#123456"}


def test_cells_of_a_removed_class_have_none_and_keep_their_notes():
    annotation = classed()
    annotation.remove_class("dead")
    assert said(annotation) == {2: ("", ""), 3: ("alive", ""), 7: ("", "at the border")}
    assert list(annotation.classes) == ["alive", "odd"]
    annotation.undo()
    assert said(annotation)[2] == ("dead", "")
    assert list(annotation.classes) == ["dead", "alive", "odd"]


def test_another_colour_is_given_and_no_undo_takes_it_back():
    annotation = classed()
    annotation.add_class("dead", "red")
    annotation.undo()  # the note
    assert annotation.classes["dead"] == "#FF0000"
    assert said(annotation)[7] == ("dead", "")
    annotation.add_class("dead")
    assert annotation.classes["dead"] == "#FF0000"
    annotation.redo()
    assert said(annotation)[7] == ("dead", "at the border")


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda one: one.rename_class("gone", "x"), 'no class "gone".*among dead, alive, odd'),
        (lambda one: one.rename_class("dead", " "), "a class needs a name"),
        (lambda one: one.remove_class("gone"), 'no class "gone"'),
        (lambda one: one.remove_class(""), "a class needs a name"),
        (lambda one: one.add_class("\n"), "a class needs a name"),
        (lambda one: one.add_class("dead", "reddish"), '"reddish" is no colour'),
    ],
)
def test_what_cannot_be_done_to_a_class_is_said_and_changes_nothing(act, text):
    annotation = classed()
    before, n_edits = snapshot(annotation), len(annotation.edits)
    with pytest.raises(ImageError, match=text):
        act(annotation)
    assert (snapshot(annotation), len(annotation.edits)) == (before, n_edits)


def test_a_damaged_list_in_the_journal_costs_that_edit_alone(tmp_path):
    path = tmp_path / "edits"
    annotation = Annotation(LABELS, journal=path)
    annotation.say([1], kind="dead")
    annotation.rename_class("dead", "gone")
    annotation.say([2], kind="alive")
    header, *lines = path.read_text().splitlines()
    for lists in (7, [{"dead": "reddish"}, {}], [{"": ORANGE}, {}], [{}], [[], []]):
        damaged = json.dumps(json.loads(lines[1]) | {"classes": lists})
        path.write_text("\n".join([header, lines[0], damaged, lines[2]]) + "\n")
        again = Annotation(LABELS, journal=path)
        assert again.recover() == 2
        assert again.cells["class"].tolist() == ["dead", "alive", ""]
    path.write_text("\n".join([header, *lines]) + "\n")
    again = Annotation(LABELS, journal=path)
    assert again.recover() == 3
    assert again.classes == {"gone": ORANGE, "alive": BLUE}


# --- the file that a folder shares ----------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images; cells of b and c are dead."""
    home = tmp_path / "plate"
    home.mkdir()
    for name in "abc":
        tifffile.imwrite(home / f"{name}.tif", IMAGE)
    for name in "bc":
        annotation = Annotation(LABELS)
        annotation.say([1], kind="dead")
        annotation.say([2], kind="alive", note="dead?")
        annotation.write(home / f"{name}_masks.tif")
    return home


def editor_of(folder: Path, name: str = "a", labels: np.ndarray = LABELS) -> MaskEditor:
    path = folder / f"{name}_masks.tif"
    return MaskEditor(IMAGE, labels, path=path, classes=ClassFile(path))


def rows(folder: Path) -> list[str]:
    return (folder / "classes.csv").read_text(encoding="utf-8").splitlines()


def test_classes_are_known_to_all_images_of_a_folder_and_after_a_restart(folder):
    editor = editor_of(folder)
    editor.add_class("dead", "#123456")
    editor.set_class([1], "alive")
    assert rows(folder) == ["class,colour", "dead,#123456"]  # "alive" waits for its cells
    editor.save()
    assert rows(folder) == ["class,colour", "dead,#123456", f"alive,{ORANGE}"]
    for again in (editor_of(folder, "b"), editor_of(folder)):
        assert list(again.classes.items()) == [("dead", "#123456"), ("alive", ORANGE)]


def test_a_rename_is_in_the_file_with_the_cells_that_have_it(folder):
    editor = editor_of(folder)
    editor.set_class([1], "dead")
    editor.save()
    editor.rename_class("dead", "gone")
    assert rows(folder) == ["class,colour", f"dead,{ORANGE}"]
    editor.save()
    assert rows(folder) == ["class,colour", f"gone,{ORANGE}"]
    assert "gone" in (folder / "a_cells.csv").read_text()
    editor.undo()
    editor.save()
    assert rows(folder) == ["class,colour", f"dead,{ORANGE}"]


def test_a_list_of_classes_alone_leaves_no_masks_to_be_saved(folder):
    editor = editor_of(folder)
    for name in ("dead", "alive", "odd"):
        editor.add_class(name)
    editor.rename_class("odd", "even")
    editor.remove_class("alive")
    assert rows(folder) == ["class,colour", f"dead,{ORANGE}", f"even,{GREEN}"]
    editor.undo()
    assert rows(folder) == ["class,colour", f"dead,{ORANGE}", f"alive,{BLUE}", f"even,{GREEN}"]
    assert not editor.is_changed
    assert not folders.list_images(folder)[0].is_unsaved
    editor.set_note([1], "x")
    assert editor.is_changed
    assert folders.list_images(folder)[0].is_unsaved


def test_an_image_without_cells_stays_without_masks_when_classes_are_made_at_it(folder):
    panel = AnnotatePanel(folder)
    assert panel.current is not None
    assert panel.current.name == "a"
    panel.editor.add_class("dead")
    panel.step(1)
    assert not (folder / "a_masks.tif").exists()
    assert list(panel.editor.classes) == ["dead", "alive"]
    assert list(AnnotatePanel(folder).editor.classes) == ["dead"]


def test_classes_of_one_folder_are_not_taken_to_another(folder, tmp_path):
    editor = editor_of(folder)
    editor.add_class("dead")
    other = tmp_path / "other"
    editor.load(IMAGE, LABELS, path=other / "a_masks.tif", classes=ClassFile(other / "a_masks.tif"))
    assert editor.classes == {}
    editor.load(
        IMAGE, LABELS, path=folder / "b_masks.tif", classes=ClassFile(folder / "b_masks.tif")
    )
    assert editor.classes == {"dead": ORANGE}


def test_classes_that_were_made_before_the_first_image_are_written_with_it(folder):
    (folder / "classes.csv").write_text(f"class,colour\nalive,{GREEN}\n")
    editor = MaskEditor()
    editor.add_class("dead")
    editor.add_class("alive", "red")
    editor.load(
        IMAGE, LABELS, path=folder / "a_masks.tif", classes=ClassFile(folder / "a_masks.tif")
    )
    assert list(editor.classes.items()) == [("alive", GREEN), ("dead", ORANGE)]
    editor.save()
    assert rows(folder)[1:] == [f"alive,{GREEN}", f"dead,{ORANGE}"]


@pytest.mark.parametrize("part", ["shot", "query", "corrected"])
def test_the_parts_of_an_experiment_share_one_list(tmp_path, part):
    editor = editor_of(tmp_path / part)
    editor.add_class("dead")
    assert rows(tmp_path) == ["class,colour", f"dead,{ORANGE}"]
    for other in ("shot", "query", "corrected"):
        assert ClassFile(tmp_path / other / "b_masks.tif").read() == {"dead": ORANGE}


def test_what_a_crash_has_left_comes_back_with_its_classes(folder):
    editor = editor_of(folder)
    editor.set_class([1], "dead")
    editor.save()
    editor.rename_class("dead", "gone")
    editor.add_class("odd")
    editor.add_class("gone", "#123456")
    again = MaskEditor(
        IMAGE,
        readers.read_masks(folder / "a_masks.tif"),
        cells=pd.read_csv(folder / "a_cells.csv", keep_default_na=False),
        path=folder / "a_masks.tif",
        classes=ClassFile(folder / "a_masks.tif"),
    )
    assert again.cells["class"].tolist() == ["dead", "", ""]
    assert again.recover() == 3
    assert again.cells["class"].tolist() == ["gone", "", ""]
    assert again.classes == editor.classes == {"gone": "#123456", "odd": BLUE}


def test_a_change_of_the_list_alone_leaves_what_a_crash_has_left_to_be_asked_for(folder):
    editor_of(folder).delete([1])
    editor = editor_of(folder)
    editor.add_class("dead")
    editor.rename_class("dead", "gone")
    assert sorted(folder.glob(".*")) == [folder / ".a_masks.tif.edits"]
    assert editor.recover() == 1
    assert editor.cells["label"].tolist() == [2, 3]
    assert editor.classes == {"gone": ORANGE}


# --- as somebody has written it by hand -----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"class,colour\ndead,#e69f00\n", {"dead": ORANGE}),
        (b"\xef\xbb\xbfClass;Color\r\ndead;red\r\n;\r\n", {"dead": "#FF0000"}),
        (b"colour\tclass\n\ttab\n", {"tab": ORANGE}),
        (b"class\ndead\nalive\n", {"dead": ORANGE, "alive": BLUE}),
        (b"class,colour\ndead,rot\nalive,#E69F00\n", {"dead": BLUE, "alive": ORANGE}),
        (b"class,colour\ndead\nalive,red,more\n", {"dead": ORANGE, "alive": "#FF0000"}),
        (b"class,colour\ndead,red\n dead ,blue\n,red\n", {"dead": "#FF0000"}),
        ("class,colour\nZellmüll,red\n".encode(), {"Zellmüll": "#FF0000"}),
        ("class,colour\nZellmüll,red\n".encode("cp1252"), {"Zellmüll": "#FF0000"}),
        (b'class,colour\n"a, b",red\n', {"a, b": "#FF0000"}),
        (b"class,colour\n", {}),
    ],
)
def test_a_list_that_was_written_by_hand_is_read(folder, content, expected):
    (folder / "classes.csv").write_bytes(content)
    editor = editor_of(folder)
    assert editor.classes == expected
    editor.set_note([1], "x")
    editor.save()
    assert (folder / "classes.csv").read_bytes() == content  # nothing has changed in it


def test_further_columns_and_the_separator_of_a_list_are_kept(folder):
    (folder / "classes.csv").write_text("meaning;class\nno movement;dead\nmoves;alive\n")
    editor = editor_of(folder)
    editor.add_class("alive", "#123456")
    editor.add_class("odd; or not")
    assert rows(folder) == [
        "meaning;class;colour",
        f"no movement;dead;{ORANGE}",
        "moves;alive;#123456",
        f';"odd; or not";{BLUE}',
    ]


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\x00\x01,\x02", b"name,colour\ndead,red\n", b"dead\nalive\n"]
)
def test_a_file_that_is_no_list_is_said_and_never_overwritten(folder, content):
    file = folder / "classes.csv"
    file.write_bytes(content)
    editor = editor_of(folder)
    (page,) = connected(editor)
    assert "this is no list of classes" in page.told("open")["trouble"]
    assert str(file) in page.told("open")["trouble"]
    page.command("add_class", name="odd")
    assert "move it away" in page.told("say")["text"]
    page.command("set_class", cells=[1], name="dead")
    page.command("save")
    assert page.told("say")["text"].startswith("Saved 3 cells: a_masks.tif and a_cells.csv.")
    assert "this is no list of classes" in page.told("say")["text"]
    assert file.read_bytes() == content
    editor.load(
        IMAGE, LABELS, path=folder / "b_masks.tif", classes=ClassFile(folder / "b_masks.tif")
    )
    assert list(editor.classes) == ["odd", "dead"]  # they are kept in the window
    file.unlink()
    editor.save()
    assert rows(folder) == ["class,colour", f"odd,{ORANGE}", f"dead,{BLUE}"]


def test_a_list_that_cannot_be_written_is_said_and_written_later(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    editor = editor_of(tmp_path / "folder")
    (page,) = connected(editor)
    page.command("add_class", name="dead")
    assert "cannot be written" in page.told("say")["text"]
    assert page.told("classes")["classes"] == {"dead": ORANGE}
    (tmp_path / "folder").unlink()
    page.command("add_class", name="alive")
    assert rows(tmp_path / "folder") == ["class,colour", f"dead,{ORANGE}", f"alive,{BLUE}"]


def test_a_list_that_cannot_be_read_is_said(folder):
    (folder / "classes.csv").mkdir()
    (page,) = connected(editor_of(folder))
    assert "cannot be read" in page.told("open")["trouble"]


# --- two windows ----------------------------------------------------------------------------------


@pytest.fixture
def windows(folder: Path) -> tuple[MaskEditor, MaskEditor]:
    """Two on images of one folder, whose classes are dead and alive."""
    (folder / "classes.csv").write_text(f"class,colour\ndead,{ORANGE}\nalive,{BLUE}\n")
    return editor_of(folder), editor_of(folder, "c")


def test_a_window_never_overwrites_the_classes_of_another_and_says_so(windows, folder):
    one, two = windows
    (page,) = connected(two)
    one.add_class("odd")
    two.add_class("even")
    assert "another window has changed the classes" in page.told("say")["text"]
    assert [row.split(",")[0] for row in rows(folder)[1:]] == ["dead", "alive", "odd"]
    two.save()  # the masks and their list
    assert [row.split(",")[0] for row in rows(folder)[1:]] == ["dead", "alive", "odd"]
    path = folder / "c_masks.tif"
    two.load(IMAGE, readers.read_masks(path), path=path, classes=ClassFile(path))
    two.add_class("round")
    assert list(two.classes) == ["dead", "alive", "odd", "even", "round"]
    assert [row.split(",")[0] for row in rows(folder)[1:]] == list(two.classes)


def test_a_list_that_was_deleted_is_written_anew(windows, folder):
    one, _ = windows
    (folder / "classes.csv").unlink()
    one.add_class("odd")
    assert len(rows(folder)) == 4


# --- other images of the folder -------------------------------------------------------------------


def cells_of(folder: Path, name: str) -> list[str]:
    return pd.read_csv(folder / f"{name}_cells.csv", keep_default_na=False)["class"].tolist()


def renaming(folder: Path, new: str = "gone"):
    """An editor on image a whose class "dead" a page has renamed."""
    editor = editor_of(folder)
    editor.set_class([1, 2], "dead")
    (page,) = connected(editor)
    page.command("rename_class", old="dead", new=new)
    return editor, page


def test_other_images_keep_the_old_name_and_are_counted(folder):
    editor, page = renaming(folder)
    assert page.told("say")["text"] == (
        '"dead" is called "gone" now, with 2 cells. '
        '2 other images of this folder still have "dead".'
    )
    assert page.told("others") == {"type": "others", "old": "dead", "new": "gone"} | {
        "images": ["b", "c"]
    }
    editor.save()
    assert cells_of(folder, "b") == ["dead", "alive", ""]
    path = folder / "b_masks.tif"
    again = MaskEditor(
        IMAGE, LABELS, cells=read_cells(folder / "b_cells.csv"), path=path, classes=ClassFile(path)
    )
    assert list(again.classes) == ["gone", "dead", "alive"]


def test_the_image_that_is_open_is_no_other_one(folder):
    editor = editor_of(folder)
    editor.set_class([1], "dead")
    editor.save()
    (page,) = connected(editor)
    page.command("rename_class", old="dead", new="gone")
    assert page.told("others")["images"] == ["b", "c"]
    assert editor.rename_elsewhere("dead", "gone") == (["b", "c"], [])
    assert cells_of(folder, "a") == ["dead", "", ""]


def test_other_images_are_renamed_when_it_is_asked_for(folder):
    frame = pd.read_csv(folder / "b_cells.csv", keep_default_na=False)
    frame.assign(depth="007").to_csv(folder / "b_cells.csv", index=False)
    editor, page = renaming(folder)
    page.post(type="rename_elsewhere", old="dead", new="gone")
    assert page.told("say")["text"] == '"dead" is called "gone" in b, c too.'
    changed = pd.read_csv(folder / "b_cells.csv", keep_default_na=False, dtype=str)
    expected = frame.assign(depth="007").replace({"class": {"dead": "gone"}}).astype(str)
    pd.testing.assert_frame_equal(changed, expected)
    assert changed["note"].tolist() == ["", "dead?", ""]
    assert cells_of(folder, "c") == ["gone", "alive", ""]
    assert not (folder / "a_cells.csv").exists()  # this one is saved as ever
    assert editor.rename_elsewhere("dead", "gone") == ([], [])


def test_images_with_edits_that_were_not_saved_are_left_as_they_are(folder):
    editor_of(folder, "c").delete([1])
    _, page = renaming(folder)
    page.post(type="rename_elsewhere", old="dead", new="gone")
    assert page.told("say")["error"]
    assert page.told("say")["text"] == (
        '"dead" is called "gone" in b too. Not in c, which cannot be changed or has edits that '
        "were not saved: open and save it first."
    )
    assert cells_of(folder, "c") == ["dead", "alive", ""]


def test_a_damaged_list_of_cells_is_neither_counted_nor_touched(folder):
    (folder / "c_cells.csv").write_bytes(b'label,"dead\n1')
    _, page = renaming(folder)
    assert page.told("others")["images"] == ["b"]
    page.post(type="rename_elsewhere", old="dead", new="gone")
    assert (folder / "c_cells.csv").read_bytes() == b'label,"dead\n1'


def test_other_images_of_all_parts_of_an_experiment_are_counted_once(folder):
    for part in ("shot", "query", "corrected"):
        (folder / part).mkdir()
    for place in ("shot", "corrected"):
        shutil.copy(folder / "b_cells.csv", folder / place)
    file = ClassFile(folder / "query" / "a_masks.tif")
    assert file.others("dead", folder / "query" / "a_masks.tif") == ["b", "c"]
    editor = editor_of(folder / "query")
    editor.add_class("dead")
    (page,) = connected(editor)
    page.command("rename_class", old="dead", new="gone")
    assert page.told("others")["images"] == ["b", "c"]


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("rename_class", {"old": "alive", "new": "lively"}, '"alive" is called "lively" now, with'),
        ("rename_class", {"old": "odd", "new": "even"}, '"odd" is called "even" now.'),
        ("rename_class", {"old": "alive", "new": "odd"}, '"alive" is part of "odd" now, with 1 ce'),
        ("remove_class", {"name": "odd"}, 'The class "odd" is removed. Undo brings it back.'),
        ("remove_class", {"name": "alive"}, 'The class "alive" is removed; 1 cell has none now.'),
        ("remove_class", {"name": "dead"}, "is removed; 2 cells have none now. Undo brings it ba"),
    ],
)
def test_a_page_is_told_what_became_of_a_class(tmp_path, name, args, text):
    editor = editor_of(tmp_path)
    editor.set_class([1, 2], "dead")
    editor.set_class([3], "alive")
    editor.add_class("odd")
    (page,) = connected(editor)
    answers = page.command(name, **args)
    assert text in page.told("say")["text"]
    assert answers[-1]["type"] == "done"
    assert "others" not in page.types()
    (edit,) = [answer for answer in answers if answer["type"] == "edit"]
    assert edit["classes"] == editor.classes
    page.turn("undo", edit["id"])
    assert editor.classes == {"dead": ORANGE, "alive": BLUE, "odd": GREEN}
    assert editor.cells["class"].tolist() == ["dead", "dead", "alive"]


def test_who_else_has_a_removed_class_is_said(folder):
    editor = editor_of(folder)
    editor.add_class("dead")
    (page,) = connected(editor)
    page.command("remove_class", name="dead")
    assert page.told("say")["text"].endswith(
        '2 other images of this folder still have "dead". Open them, and it is listed again.'
    )
    assert "others" not in page.types()


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("rename_class", {"old": "x", "new": "y"}, 'there is no class "x"'),
        ("remove_class", {"name": "x"}, 'there is no class "x"'),
        ("add_class", {"name": " "}, "a class needs a name"),
        ("add_class", {"name": "x", "colour": "rot"}, '"rot" is no colour'),
    ],
)
def test_what_a_page_asks_of_a_class_in_vain_is_refused_in_words(folder, name, args, text):
    editor = editor_of(folder)
    (page,) = connected(editor)
    (answer,) = page.command(name, **args)
    assert answer["type"] == "refused"
    assert text in answer["text"]
    assert editor.edits == []
    assert not (folder / "classes.csv").exists()


# --- what the file is never taken for -------------------------------------------------------------


def test_the_list_of_classes_is_no_image_no_masks_and_no_list_of_cells(folder, tmp_path):
    images, samples = folders.find_images(folder), folders.find_samples(folder)
    labels, shown = folders.find_labels(folder), folders.list_images(folder)
    editor_of(folder).add_class("dead")
    assert (folder / "classes.csv").is_file()
    assert folders.find_images(folder) == images
    assert folders.find_samples(folder) == samples
    assert folders.find_labels(folder) == labels
    assert folders.list_images(folder) == shown
    done = export.export(folder, tmp_path / "out", ("table", "geojson"))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "b.geojson",
        "b_measurements.csv",
        "c.geojson",
        "c_measurements.csv",
    ]
    assert done.failed == []

"""``classes.csv``: the classes that all images of an experiment share, in an editor and by hand."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from scellseg_lib.errors import ImageError
from scellseg_lib.files import images as readers
from scellseg_lib.workbench.annotate import AnnotatePanel
from scellseg_lib.workbench.editor import MaskEditor
from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.classes import COLOURS
from scellseg_lib.workbench.experiment import ClassesChanged, ClassFile
from tests.workbench.editor.page import connect

ORANGE, BLUE, GREEN = list(COLOURS.values())[:3]
IMAGE = np.arange(6 * 12, dtype=np.uint8).reshape(6, 12)
LABELS = np.zeros((6, 12), np.int32)
LABELS[0, :4], LABELS[2, :6], LABELS[4, :8] = 1, 2, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images; cells of b and c are dead."""
    home = tmp_path / "plate"
    home.mkdir()
    for name in "abc":
        tifffile.imwrite(home / f"{name}.tif", IMAGE)
    for name in "bc":
        annotation = Annotation(LABELS)
        annotation.set_class([1], "dead")
        annotation.set_class([2], "alive")
        annotation.set_note([2], "dead?")
        annotation.write(home / f"{name}_masks.tif")
    return home


def class_file(folder: Path) -> ClassFile:
    return ClassFile(folder / "a_masks.tif")


def edit(folder: Path, name: str = "a") -> MaskEditor:
    path = folder / f"{name}_masks.tif"
    return MaskEditor(IMAGE, LABELS, path=path, classes=ClassFile(path))


def rows(folder: Path) -> list[str]:
    return (folder / "classes.csv").read_text(encoding="utf-8").splitlines()


def kinds(folder: Path, name: str) -> list[str]:
    return pd.read_csv(folder / f"{name}_cells.csv", keep_default_na=False)["class"].tolist()


def test_all_images_of_an_experiment_share_one_list(folder, tmp_path):
    for number, part in enumerate(("", "shot", "query", "corrected")):
        file = ClassFile(folder / part / "a_masks.tif")
        known = file.read()
        assert len(known) == number
        file.write(known | {part or "first": f"#00000{number}"})
    assert len(rows(folder)) == 5
    other = ClassFile(tmp_path / "other" / "a_masks.tif")
    assert (other.read(), other == file, file == class_file(folder)) == ({}, False, True)
    for part in ("shot", "corrected"):  # in several parts, an image counts once
        (folder / part).mkdir()
        shutil.copy(folder / "b_cells.csv", folder / part)
    file = ClassFile(folder / "query" / "a_masks.tif")
    assert file.others("dead", folder / "a_masks.tif") == ["b", "c"]


def test_an_image_without_cells_stays_without_masks_when_classes_are_made_at_it(folder):
    panel = AnnotatePanel(folder)
    panel.editor.add_class("dead")
    panel.step(1)
    assert not (folder / "a_masks.tif").exists()
    assert list(panel.editor.classes) == ["dead", "alive"]
    assert list(AnnotatePanel(folder).editor.classes) == ["dead"]


def test_a_window_never_overwrites_the_classes_of_another_and_says_so(folder):
    one, two = edit(folder), edit(folder, "c")
    (page,) = connect(two)
    one.add_class("odd")
    two.add_class("even")
    assert "another window has changed the classes" in page.told("say")["text"]
    two.save()  # the masks and their list of cells
    assert rows(folder) == ["class,colour", f"odd,{ORANGE}"]
    path = folder / "c_masks.tif"
    two.load(IMAGE, readers.read_masks(path), path=path, classes=ClassFile(path))
    two.add_class("round")
    assert list(two.classes) == ["odd", "even", "round"]
    assert [row.split(",")[0] for row in rows(folder)[1:]] == list(two.classes)
    late = class_file(folder)
    late.read()
    (folder / "classes.csv").write_text("class,colour\nother,red\n")
    with pytest.raises(ClassesChanged) as raised:
        late.write({"mine": ORANGE})
    assert raised.value.where == folder / "classes.csv"


def test_classes_are_shared_at_once_and_those_of_cells_with_the_masks(folder):
    editor, shared = edit(folder), class_file(folder)
    editor.add_class("dead", "#123456")
    editor.add_class("odd")
    editor.rename_class("odd", "  very   odd ")
    assert shared.read() == {"dead": "#123456", "very odd": ORANGE}
    editor.undo()
    assert list(shared.read()) == ["dead", "odd"]
    assert not editor.is_changed  # no masks have to be saved for it
    editor.set_class([1], "dead")
    editor.rename_class("dead", "gone")
    assert list(shared.read()) == ["dead", "odd"]  # as the saved cells have it
    editor.save()
    assert shared.read() == edit(folder, "c").classes == {"gone": "#123456", "odd": ORANGE}


def test_a_list_that_cannot_be_read_is_said_and_what_is_added_kept_until_it_can(folder):
    (folder / "classes.csv").write_text("name\n")
    editor, path = edit(folder), folder / "b_masks.tif"
    (page,) = connect(editor)
    trouble = page.told("open")["trouble"]
    assert "this is no list of classes" in trouble
    page.command("add_class", name="dead")
    told = page.told("say")
    assert (told["text"], told["error"]) == (trouble, True)
    assert page.told("edit")["classes"] == {"dead": ORANGE}
    page.command("save")
    assert page.told("say")["text"] == f"Saved 3 cells: a_masks.tif and a_cells.csv. {trouble}"
    (folder / "classes.csv").write_text(f"class,colour\nold,{GREEN}\n")
    editor.load(IMAGE, LABELS, path=path, classes=ClassFile(path))
    assert editor.classes == {"old": GREEN, "dead": ORANGE}
    editor.add_class("odd")
    assert list(class_file(folder).read()) == ["old", "dead", "odd"]


def test_classes_made_before_the_first_image_go_to_its_list_and_to_no_other(folder, tmp_path):
    class_file(folder).write({"alive": GREEN})
    editor = MaskEditor()
    editor.add_class("dead")
    editor.add_class("alive", "red")
    for home, expected in ((folder, {"alive": GREEN, "dead": ORANGE}), (tmp_path / "other", {})):
        path = home / "a_masks.tif"
        editor.load(IMAGE, LABELS, path=path, classes=ClassFile(path))
        assert list(editor.classes.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("args", "text", "images"),
    [
        ({"old": "alive", "new": "x"}, '"alive" is called "x" now, with 1 cell.', ["b", "c"]),
        ({"old": "odd", "new": "even"}, '"odd" is called "even" now, with 0 cells.', []),
        ({"old": "alive", "new": "odd"}, '"alive" is part of "odd" now, with 1 cell.', ["b", "c"]),
        ({"name": "dead"}, 'The class "dead" is removed; 2 cells had it.', ["b", "c"]),
        ({"name": "odd"}, 'The class "odd" is removed; 0 cells had it. Undo brings', []),
    ],
)
def test_a_page_is_told_what_became_of_a_class_and_who_else_has_it(folder, args, text, images):
    edit(folder, "c").delete([3])
    editor = edit(folder)
    (page,) = connect(editor)
    editor.set_class([1, 2], "dead")
    editor.set_class([3], "alive")
    editor.add_class("odd")
    answers = page.command("rename_class" if "new" in args else "remove_class", **args)
    assert page.told("say")["text"].startswith(text)
    if images and "new" in args:
        assert page.told("others") == {"type": "others", "images": images} | args
        page.post(type="rename_elsewhere", **args)
        told = page.told("say")["text"]
        assert told.startswith('"{old}" is called "{new}" in b too. Not in c'.format(**args))
    else:
        assert "others" not in page.types()
        assert ("Other images still have it (b, c)" in page.told("say")["text"]) == bool(images)
    (done,) = [answer for answer in answers if answer["type"] == "edit"]
    page.turn("undo", done["id"])
    assert editor.classes == {"dead": ORANGE, "alive": BLUE, "odd": GREEN}
    assert editor.cells["class"].tolist() == ["dead", "dead", "alive"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"class,colour\ndead,#e69f00\n", {"dead": ORANGE}),
        (b"\xef\xbb\xbfClass;Color\r\ndead;red\r\n;\r\n", {"dead": "#FF0000"}),
        (b"class\ndead\nalive\n", {"dead": ORANGE, "alive": BLUE}),
        (b"class,colour\ndead,rot\nalive,#E69F00\n", {"dead": BLUE, "alive": ORANGE}),
        (b"class,colour\ndead\nalive,red,more\n", {"dead": ORANGE, "alive": "#FF0000"}),
        (b"class,colour\ndead,red\n dead ,blue\n,red\n", {"dead": "#FF0000"}),
        (b'class,colour\n"a, b",red\n', {"a, b": "#FF0000"}),
        (b"class,colour\n", {}),
    ],
)
def test_a_list_that_was_written_by_hand_is_read_and_not_rewritten(folder, content, expected):
    (folder / "classes.csv").write_bytes(content)
    file = class_file(folder)
    assert file.read() == expected
    file.write(expected)
    assert (folder / "classes.csv").read_bytes() == content


def test_further_columns_and_the_separator_of_a_list_are_kept(folder):
    (folder / "classes.csv").write_text("meaning;class\nno movement;dead\nmoves;alive\n")
    editor = edit(folder)
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
def test_a_file_that_is_no_list_is_never_overwritten(folder, content):
    (folder / "classes.csv").write_bytes(content)
    file = class_file(folder)
    for act in (file.read, lambda: file.write({"dead": ORANGE})):
        with pytest.raises(ImageError, match="this is no list of classes") as raised:
            act()
        assert raised.value.where == folder / "classes.csv"
    assert (folder / "classes.csv").read_bytes() == content
    (folder / "classes.csv").unlink()
    (folder / "classes.csv").mkdir()
    with pytest.raises(ImageError, match="cannot be read"):
        file.read()
    with pytest.raises(ImageError, match="cannot be written"):
        class_file(folder / "b.tif").write({"dead": ORANGE})


def test_other_images_are_found_and_renamed_but_for_those_with_unsaved_edits(folder):
    frame = pd.read_csv(folder / "b_cells.csv", keep_default_na=False).assign(depth="007")
    for name in "bd":
        frame.to_csv(folder / f"{name}_cells.csv", index=False)
    edit(folder, "c").delete([1])
    (folder / "e_cells.csv").write_bytes(b'label,"dead\n1')  # a damaged one has none
    file, own = class_file(folder), folder / "d_masks.tif"
    assert file.others("dead", own) == ["b", "c"]
    assert file.rename("dead", "gone", own) == (["b"], ["c"])
    assert kinds(folder, "c") == kinds(folder, "d") == ["dead", "alive", ""]
    changed = pd.read_csv(folder / "b_cells.csv", keep_default_na=False, dtype=str)
    expected = frame.replace({"class": {"dead": "gone"}}).astype(str)
    pd.testing.assert_frame_equal(changed, expected)
    assert (folder / "e_cells.csv").read_bytes() == b'label,"dead\n1'
    assert file.rename("dead", "gone", folder / "c_masks.tif") == (["d"], [])

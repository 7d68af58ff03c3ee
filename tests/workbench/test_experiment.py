"""The folder of an experiment: shots, rounds of correction, classes of all images; kills."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.files.images import read_masks, write_labels
from scellseg_lib.workbench import experiment as module
from scellseg_lib.workbench.annotate import AnnotatePanel
from scellseg_lib.workbench.editor import MaskEditor
from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.classes import COLOURS
from scellseg_lib.workbench.experiment import COLUMNS, ClassesChanged, ClassFile, Experiment
from scellseg_lib.workbench.session import SegmentationSettings
from tests.workbench.conftest import draw, files, squares
from tests.workbench.editor.test_editor import connect

PREDICTED = squares((2, 2), (2, 20), (20, 2))
CORRECTED = squares((2, 2), (2, 21), (28, 28))
"""The first as it was, the second a pixel to the right, one removed, one added."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path / "shot", "a_img", "b_img")
    draw(tmp_path / "query", "c_img", "d_img", "e_img")
    write_labels(tmp_path / "shot" / "a_masks.tif", squares((2, 2)))
    write_labels(tmp_path / "shot" / "b_masks.tif", squares((2, 2), (20, 20)))
    return tmp_path


def correct(folder: Path, name: str = "c", corrected=CORRECTED, weights: str = "w1", **options):
    image, masks = folder / "query" / f"{name}_img.tif", folder / "segmented" / f"{name}_masks.tif"
    made_by = None, f"{weights}.safetensors", weights, SegmentationSettings(30.0)
    result = module.SegmentedImage(name, image, masks, *made_by)
    return Experiment(folder).keep_correction(result, PREDICTED, corrected, **options)


def test_a_correction_is_counted_and_scored_by_arithmetic():
    found = module.compare(PREDICTED, CORRECTED)
    # The moved square has an IoU of 7 / 9: it counts up to the threshold 0.75, the other always.
    assert found.pop("map") == pytest.approx((6 * 2 / 4 + 4 * 1 / 5) / 10)
    counts = {"predicted": 3, "corrected": 3, "added": 1, "removed": 1, "changed": 1}
    assert found == {"ap50": 2 / 4} | counts
    same = module.compare(PREDICTED, PREDICTED * 5)  # other numbers, the same cells
    assert same == {"ap50": 1, "map": 1} | counts | {"added": 0, "removed": 0, "changed": 0}


def test_image_and_masks_become_a_shot_classes_and_notes_too_and_the_image_stays(folder):
    before, query = files(folder), folder / "query" / "c_img.tif"
    image, masks = Experiment(folder).add_to_shots(query, CORRECTED)
    after = files(folder)
    assert set(after) - set(before) == {"shot/c_img.tif", "shot/c_masks.tif"}
    assert after.items() >= before.items()
    assert image.read_bytes() == before["query/c_img.tif"]
    np.testing.assert_array_equal(read_masks(masks), CORRECTED)
    assert [sample.name for sample in load_dataset(folder).shot] == ["a", "b", "c"]
    table = folder / "segmented" / "c_cells.csv"
    table.parent.mkdir()
    table.write_text("label,area,class,note\n1,100,male,curled\n")
    there = folder / "shot" / "c_cells.csv"
    correct(folder, cells=table)
    assert there.read_text() == table.read_text()
    Experiment(folder).add_to_shots(query, CORRECTED)  # nobody says a word of notes: they stay
    assert there.is_file()
    table.unlink()
    Experiment(folder).add_to_shots(query, PREDICTED, replace=True, cells=table)
    assert not there.exists()


def test_what_cannot_become_a_shot_is_refused_and_leaves_no_trace(folder: Path):
    query, shot = folder / "query", folder / "shot" / "a_img.tif"
    write_labels(query / "a_img.tif", CORRECTED)
    (query / "e_img.tif").write_bytes(b"II*\0")
    before = files(folder)
    for image, masks, replace, error, words in (
        (shot, CORRECTED, False, module.OtherMasks, "other masks already"),
        (query / "a_img.tif", CORRECTED, True, DatasetError, r"of this name.*Rename a_img\.tif"),
        (query / "c_img.tif", 0 * CORRECTED, True, DatasetError, "no cells"),
        (query / "c_img.tif", CORRECTED[:-1], True, ImageError, "40 x 50 px"),
        (query / "e_img.tif", CORRECTED, True, ImageError, "damaged"),
    ):
        with pytest.raises(error, match=words):
            Experiment(folder).add_to_shots(image, masks, replace=replace)
        assert files(folder) == before
    Experiment(folder).add_to_shots(shot, CORRECTED, replace=True)
    after = files(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"shot/a_masks.tif"}


def test_other_weights_begin_the_next_round(folder: Path):
    (folder / "shot" / "a_masks.tif").write_bytes(b"II*\0 cut off")  # costs no correction
    correct(folder, "c")
    correct(folder, "d", PREDICTED)
    correct(folder, "e", weights="w2")
    table = Experiment(folder).rounds()
    # Shots of the round's begin: the corrections of this round taught its model nothing.
    columns = ["round", "image", "model", "shots", "shot_cells", "ap50", "seen"]
    assert table[columns].values.tolist() == [
        [1, "c", "w1.safetensors", 1, 2, 0.5, False],
        [1, "d", "w1.safetensors", 1, 2, 1.0, False],
        [2, "e", "w2.safetensors", 3, 8, 0.5, False],
    ]
    assert pd.to_datetime(table["time"]).dt.tz is not None
    columns = ["images", "ap50", "added", "removed", "changed"]
    summary = Experiment(folder).sum_up_rounds()[columns].values.tolist()
    assert summary == [[2, 0.75, 1, 1, 1], [1, 0.5, 1, 1, 1]]


def test_correcting_an_image_again_replaces_its_row_and_its_masks(folder: Path):
    correct(folder, "c")
    correct(folder, "d")
    again = squares((2, 2), (30, 2))
    correct(folder, "c", again)
    # The prediction was made before: the model had not seen the correction.
    table = Experiment(folder).rounds()[["image", "ap50", "seen"]]
    assert table.values.tolist() == [["d", 0.5, False], ["c", 0.25, False]]
    np.testing.assert_array_equal(read_masks(folder / "shot/c_masks.tif"), again)
    write_labels(folder / "shot/c_masks.tif", squares((1, 1)))  # by others
    before = files(folder)
    with pytest.raises(module.OtherMasks):
        correct(folder, "c", squares((9, 9)))
    assert files(folder) == before  # no score of what was not kept


def test_an_image_that_the_model_has_learnt_is_kept_and_not_averaged(folder: Path):
    correct(folder, "c")
    correct(folder, "c", squares((9, 9)), weights="w2")
    assert np.isnan(Experiment(folder).sum_up_rounds()["ap50"].iloc[1])
    correct(folder, "d", PREDICTED, weights="w2")
    assert Experiment(folder).rounds()["seen"].tolist() == [False, True, False]
    second = Experiment(folder).sum_up_rounds().iloc[1]
    assert (second["images"], second["ap50"]) == (2, 1.0)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\0\0\0", ",".join(COLUMNS) + "\nx,y\n"])
def test_a_file_that_is_not_ours_is_refused_and_left_alone(folder: Path, content: str):
    (folder / "rounds.csv").write_text(content)
    before = files(folder)
    with pytest.raises(DatasetError, match="Move it away"):
        correct(folder)
    assert files(folder) == before


@pytest.mark.parametrize(("dies_in", "n_scored"), [("to_csv", 1), ("add_to_shots", 2)])
def test_a_kill_leaves_all_whole_and_to_be_done_again(folder, monkeypatch, dies_in, n_scored):
    """The score comes before the shot."""
    correct(folder, "c")

    def die(_: object, file: Path, *rest: object, **options: object) -> None:
        if dies_in == "to_csv":
            file.write_text("round,ti")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame if dies_in == "to_csv" else Experiment, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            correct(folder, "d")
    assert len(Experiment(folder).rounds()) == n_scored
    assert not (folder / "shot" / "d_masks.tif").exists()
    correct(folder, "d")
    table = Experiment(folder).rounds()[["image", "seen", "shots"]]
    assert table.values.tolist() == [["c", False, 2], ["d", False, 2]]
    assert [sample.name for sample in load_dataset(folder).shot] == ["a", "b", "c", "d"]


ORANGE, BLUE, GREEN = list(COLOURS.values())[:3]
IMAGE = np.arange(6 * 12, dtype=np.uint8).reshape(6, 12)
LABELS = np.zeros((6, 12), np.int32)
LABELS[0, :4], LABELS[2, :6], LABELS[4, :8] = 1, 2, 3


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Three images; cells of b and c are dead."""
    home = tmp_path / "plate"
    draw(home, *"abc", shape=IMAGE.shape)
    for name in "bc":
        annotation = Annotation(LABELS)
        annotation.set_class([1], "dead")
        annotation.set_class([2], "alive")
        annotation.set_note([2], "dead?")
        annotation.write(home / f"{name}_masks.tif")
    return home


def class_file(plate: Path) -> ClassFile:
    return ClassFile(plate / "a_masks.tif")


def edit(plate: Path, name: str = "a") -> MaskEditor:
    path = plate / f"{name}_masks.tif"
    return MaskEditor(IMAGE, LABELS, path=path, classes=ClassFile(path))


def rows(plate: Path) -> list[str]:
    return (plate / "classes.csv").read_text(encoding="utf-8").splitlines()


def test_all_images_of_an_experiment_share_one_list(plate, tmp_path):
    for number, part in enumerate(("", "shot", "query", "corrected")):
        file = ClassFile(plate / part / "a_masks.tif")
        known = file.read()
        assert len(known) == number
        file.write(known | {part or "first": f"#00000{number}"})
    assert len(rows(plate)) == 5
    other = ClassFile(tmp_path / "other" / "a_masks.tif")
    assert (other.read(), other == file, file == class_file(plate)) == ({}, False, True)
    for part in ("shot", "corrected"):  # in several parts, an image counts once
        (plate / part).mkdir()
        shutil.copy(plate / "b_cells.csv", plate / part)
    file = ClassFile(plate / "query" / "a_masks.tif")
    assert file.others("dead", plate / "a_masks.tif") == ["b", "c"]


def test_an_image_without_cells_stays_without_masks_when_classes_are_made_at_it(plate):
    panel = AnnotatePanel(plate)
    panel.editor.add_class("dead")
    panel.step(1)
    assert not (plate / "a_masks.tif").exists()
    assert list(panel.editor.classes) == ["dead", "alive"]
    assert list(AnnotatePanel(plate).editor.classes) == ["dead"]


def test_a_window_never_overwrites_the_classes_of_another_and_says_so(plate):
    one, two = edit(plate), edit(plate, "c")
    (page,) = connect(two)
    one.add_class("odd")
    two.add_class("even")
    assert "another window has changed the classes" in page.told("say")["text"]
    two.save()  # the masks and their list of cells
    assert rows(plate) == ["class,colour", f"odd,{ORANGE}"]
    path = plate / "c_masks.tif"
    two.load(IMAGE, read_masks(path), path=path, classes=ClassFile(path))
    two.add_class("round")
    assert list(two.classes) == ["odd", "even", "round"]
    assert [row.split(",")[0] for row in rows(plate)[1:]] == list(two.classes)
    late = class_file(plate)
    late.read()
    (plate / "classes.csv").write_text("class,colour\nother,red\n")
    with pytest.raises(ClassesChanged) as raised:
        late.write({"mine": ORANGE})
    assert raised.value.where == plate / "classes.csv"


def test_classes_are_shared_at_once_and_those_of_cells_with_the_masks(plate):
    editor, shared = edit(plate), class_file(plate)
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
    assert shared.read() == edit(plate, "c").classes == {"gone": "#123456", "odd": ORANGE}


def test_a_list_that_cannot_be_read_is_said_and_what_is_added_kept_until_it_can(plate):
    (plate / "classes.csv").write_text("name\n")
    editor, path = edit(plate), plate / "b_masks.tif"
    (page,) = connect(editor)
    trouble = page.told("open")["trouble"]
    assert "this is no list of classes" in trouble
    page.command("add_class", name="dead")
    told = page.told("say")
    assert (told["text"], told["error"]) == (trouble, True)
    assert page.told("edit")["classes"] == {"dead": ORANGE}
    page.command("save")
    assert page.told("say")["text"] == f"Saved 3 cells: a_masks.tif and a_cells.csv. {trouble}"
    (plate / "classes.csv").write_text(f"class,colour\nold,{GREEN}\n")
    editor.load(IMAGE, LABELS, path=path, classes=ClassFile(path))
    assert editor.classes == {"old": GREEN, "dead": ORANGE}
    editor.add_class("odd")
    assert list(class_file(plate).read()) == ["old", "dead", "odd"]


def test_classes_made_before_the_first_image_go_to_its_list_and_to_no_other(plate, tmp_path):
    class_file(plate).write({"alive": GREEN})
    editor = MaskEditor()
    editor.add_class("dead")
    editor.add_class("alive", "red")
    for home, expected in ((plate, {"alive": GREEN, "dead": ORANGE}), (tmp_path / "other", {})):
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
def test_a_page_is_told_what_became_of_a_class_and_who_else_has_it(plate, args, text, images):
    edit(plate, "c").delete([3])
    editor = edit(plate)
    (page,) = connect(editor)
    editor.set_class([1, 2], "dead")
    editor.set_class([3], "alive")
    editor.add_class("odd")
    answers = page.command("rename_class" if "new" in args else "remove_class", **args)
    assert page.told("say")["text"].startswith(text)
    if images and "new" in args:
        assert page.told("others") == {"type": "others", "images": images} | args
        page.post(type="rename", **args)
        told = page.told("say")["text"]
        assert told.startswith('"{old}" is called "{new}" in b too. Not in c'.format(**args))
    else:
        assert "others" not in page.types()
        assert ("Other images still have it (b, c)" in page.told("say")["text"]) == bool(images)
    (done,) = [answer for answer in answers if answer["type"] == "edit"]
    page.turn("undo", done["id"])
    assert editor.classes == {"dead": ORANGE, "alive": BLUE, "odd": GREEN}
    assert editor.cells["class"].tolist() == ["dead", "dead", "alive"]


def test_a_list_that_was_written_by_hand_is_read_and_not_rewritten(plate):
    for content, expected in (
        (b"class,colour\ndead,#e69f00\n", {"dead": ORANGE}),
        (b"\xef\xbb\xbfClass;Color\r\ndead;red\r\n;\r\n", {"dead": "#FF0000"}),
        (b"class\ndead\nalive\n", {"dead": ORANGE, "alive": BLUE}),
        (b"class,colour\ndead,rot\nalive,#E69F00\n", {"dead": BLUE, "alive": ORANGE}),
        (b"class,colour\ndead\nalive,red\n", {"dead": ORANGE, "alive": "#FF0000"}),
        (b"class,colour\ndead,red\n dead ,blue\n,red\n", {"dead": "#FF0000"}),
        (b'class,colour\n"a, b",red\n', {"a, b": "#FF0000"}),
        (b"class,colour\n", {}),
    ):
        (plate / "classes.csv").write_bytes(content)
        file = class_file(plate)
        assert file.read() == expected
        file.write(expected)
        assert (plate / "classes.csv").read_bytes() == content


def test_further_columns_and_the_separator_of_a_list_are_kept(plate):
    (plate / "classes.csv").write_text("meaning;class\nno movement;dead\nmoves;alive\n")
    editor = edit(plate)
    editor.add_class("alive", "#123456")
    editor.add_class("odd; or not")
    first, *others = rows(plate)
    assert first == "meaning;class;colour"
    dead, odd = f"no movement;dead;{ORANGE}", f';"odd; or not";{BLUE}'
    assert others == [dead, "moves;alive;#123456", odd]


def test_a_file_that_is_no_list_is_never_overwritten(plate):
    file = class_file(plate)
    others = b"", b"class\ndead,red\n", b"\x00,\x02", b"name,colour\ndead,red\n", b"dead\nalive\n"
    for content in others:
        (plate / "classes.csv").write_bytes(content)
        for act in (class_file(plate).read, lambda: class_file(plate).write({"dead": ORANGE})):
            with pytest.raises(ImageError, match="this is no list of classes") as raised:
                act()
            assert raised.value.where == plate / "classes.csv"
        assert (plate / "classes.csv").read_bytes() == content
    (plate / "classes.csv").unlink()
    (plate / "classes.csv").mkdir()
    with pytest.raises(ImageError, match="cannot be read"):
        file.read()
    with pytest.raises(ImageError, match="cannot be written"):
        class_file(plate / "b.tif").write({"dead": ORANGE})


def test_other_images_are_found_and_renamed_but_for_those_with_unsaved_edits(plate):
    frame = pd.read_csv(plate / "b_cells.csv", keep_default_na=False).assign(depth="007")
    for name in "bd":
        frame.to_csv(plate / f"{name}_cells.csv", index=False)
    edit(plate, "c").delete([1])
    (plate / "e_cells.csv").write_bytes(b'label,"dead\n1')  # a damaged one has none
    file, own = class_file(plate), plate / "d_masks.tif"
    assert file.others("dead", own) == ["b", "c"]
    assert file.rename("dead", "gone", own) == (["b"], ["c"])
    for name in "cd":
        assert pd.read_csv(plate / f"{name}_cells.csv")["class"].tolist()[:2] == ["dead", "alive"]
    changed = pd.read_csv(plate / "b_cells.csv", keep_default_na=False, dtype=str)
    pd.testing.assert_frame_equal(changed, frame.replace({"class": {"dead": "gone"}}).astype(str))
    assert (plate / "e_cells.csv").read_bytes() == b'label,"dead\n1'
    assert file.rename("dead", "gone", plate / "c_masks.tif") == (["d"], [])

"""Rounds of correction: what is scored, what lies in the folder, what a kill leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.files import images as readers
from scellseg_lib.files import layout as folders
from scellseg_lib.workbench.experiment import COLUMNS, Experiment, SegmentedImage, compare
from scellseg_lib.workbench.session import SegmentationSettings
from tests.workbench.waiting import until

SIDE = 40


def squares(*corners: tuple[int, int], side: int = 8) -> np.ndarray:
    """Labels of squares at these corners."""
    masks = np.zeros((SIDE, SIDE), np.int32)
    for label, (y, x) in enumerate(corners, start=1):
        masks[y : y + side, x : x + side] = label
    return masks


PREDICTED = squares((2, 2), (2, 20), (20, 2))
CORRECTED = squares((2, 2), (2, 21), (28, 28))
"""The first as it was, the second a pixel to the right, one removed, one added."""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two annotated images, three to segment."""
    for part, names in (("shot", "ab"), ("query", "cde")):
        (tmp_path / part).mkdir()
        for seed, name in enumerate(names):
            values = np.random.default_rng(ord(name)).integers(0, 4000, (SIDE, SIDE), np.uint16)
            tifffile.imwrite(tmp_path / part / f"{name}_img.tif", values)
            if part == "shot":
                masks = squares((2, 2), (20, 20)) if seed else squares((2, 2))
                readers.write_labels(tmp_path / part / f"{name}_masks.tif", masks)
    return tmp_path


def correct(
    folder: Path, name: str = "c", corrected: np.ndarray = CORRECTED, weights: str = "w1", **options
):
    image, masks = folder / "query" / f"{name}_img.tif", folder / "segmented" / f"{name}_masks.tif"
    result = SegmentedImage(
        name, image, masks, 3, None, f"{weights}.safetensors", weights, SegmentationSettings(30.0)
    )
    return Experiment(folder).keep_correction(result, PREDICTED, corrected, **options)


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


# --- comparing ---------------------------------------------------------------------------------


def test_a_correction_is_counted_and_scored_by_arithmetic():
    found = compare(PREDICTED, CORRECTED)
    assert (found.predicted, found.corrected) == (3, 3)
    assert (found.added, found.removed, found.changed) == (1, 1, 1)
    assert found.ap50 == pytest.approx(2 / 4)
    # The moved square has an IoU of 7 / 9: it counts up to the threshold 0.75, the other always.
    assert found.map == pytest.approx((6 * 2 / 4 + 4 * 1 / 5) / 10)


def test_what_needed_no_correction_scores_one_and_nothing_is_changed():
    found = compare(PREDICTED, PREDICTED * 5)  # other numbers, the same cells
    assert (found.ap50, found.map) == (1.0, 1.0)
    assert (found.added, found.removed, found.changed) == (0, 0, 0)


# --- shots -------------------------------------------------------------------------------------


def test_image_and_masks_become_a_shot_and_the_image_stays(experiment: Path):
    source = experiment / "query" / "c_img.tif"
    before = files(experiment)
    _, masks_there = Experiment(experiment).add_to_shots(source, CORRECTED)
    after = files(experiment)
    assert set(after) - set(before) == {"shot/c_img.tif", "shot/c_masks.tif"}
    assert {name: after[name] for name in before} == before
    assert after["shot/c_img.tif"] == before["query/c_img.tif"]
    np.testing.assert_array_equal(readers.read_masks(masks_there), CORRECTED)
    assert [sample.name for sample in load_dataset(experiment).shot] == ["a", "b", "c"]


def test_classes_and_notes_go_with_the_masks(experiment: Path):
    source, table = experiment / "query" / "c_img.tif", experiment / "segmented" / "c_cells.csv"
    table.parent.mkdir()
    table.write_text("label,area,class,note\n1,100,male,curled\n")
    there = experiment / "shot" / "c_cells.csv"
    correct(experiment, "c", cells=table)
    assert there.read_text() == table.read_text()
    Experiment(experiment).add_to_shots(source, CORRECTED)  # nobody says a word of notes: they stay
    assert there.is_file()
    table.unlink()
    Experiment(experiment).add_to_shots(source, PREDICTED, replace=True, cells=table)
    assert not there.exists()


def test_a_shot_folder_is_made_and_a_double_ending_is_kept(tmp_path: Path):
    image = tmp_path / "query" / "plate 1.ome.tif"
    image.parent.mkdir()
    tifffile.imwrite(image, np.zeros((SIDE, SIDE), np.uint16), metadata={"axes": "YX"})
    image_there, masks_there = Experiment(tmp_path).add_to_shots(image, CORRECTED)
    assert (image_there.name, masks_there.name) == ("plate 1_img.ome.tif", "plate 1_masks.tif")
    assert [found.name for found in folders.find_samples(tmp_path / "shot")] == ["plate 1"]


@pytest.mark.parametrize("part", ["shot", ""])
def test_the_names_that_a_folder_has_are_kept(tmp_path: Path, part: str):
    """A file called *_img, or a new shot/, would hide the images that are called otherwise."""
    home = tmp_path / part
    home.mkdir(exist_ok=True)
    for name in ("a", "b"):
        tifffile.imwrite(home / f"{name}.tif", np.full((SIDE, SIDE), ord(name), np.uint8))
    readers.write_labels(home / "a_masks.png", PREDICTED)
    source = home / "b.tif"
    if part:
        source = source.rename(tmp_path / "b.tif")
    image_there, masks_there = Experiment(tmp_path).add_to_shots(source, CORRECTED)
    assert (image_there, masks_there) == (home / "b.tif", home / "b_masks.tif")
    found = folders.find_samples(tmp_path)
    assert [(one.name, one.masks is None) for one in found] == [("a", False), ("b", False)]


def test_masks_that_cellpose_has_saved_are_not_hidden(experiment: Path):
    for name in "ab":
        file = experiment / "shot" / f"{name}_masks.tif"
        file.rename(file.with_name(f"{name}_cp_masks.tif"))
    correct(experiment, "c")
    shots = load_dataset(experiment).shot
    assert [sample.name for sample in shots] == ["a", "b", "c"]
    np.testing.assert_array_equal(shots[2].masks, CORRECTED)
    assert Experiment(experiment).rounds()[["shots", "shot_cells"]].values.tolist() == [[2, 3]]


def test_annotations_in_seg_files_are_not_hidden(experiment: Path):
    for name in "ab":
        (experiment / "shot" / f"{name}_masks.tif").unlink()
        (experiment / "shot" / f"{name}_img_seg.npy").touch()
    before = files(experiment)
    with pytest.raises(DatasetError, match="Export them as label images"):
        correct(experiment, "c")
    assert files(experiment) == before


def test_masks_that_are_there_are_replaced_only_when_asked(experiment: Path):
    image = experiment / "shot" / "a_img.tif"
    before = files(experiment)
    with pytest.raises(DatasetError, match="other masks already"):
        Experiment(experiment).add_to_shots(image, CORRECTED)
    assert files(experiment) == before
    Experiment(experiment).add_to_shots(image, CORRECTED, replace=True)
    after = files(experiment)
    assert {name for name in after if after[name] != before.get(name)} == {"shot/a_masks.tif"}


def test_masks_in_a_file_of_another_kind_are_replaced_there(experiment: Path):
    shot = experiment / "shot"
    (shot / "a_masks.tif").unlink()
    readers.write_labels(shot / "a_masks.png", PREDICTED)
    Experiment(experiment).add_to_shots(shot / "a_img.tif", CORRECTED, replace=True)
    assert not (shot / "a_masks.tif").exists()
    np.testing.assert_array_equal(readers.read_masks(shot / "a_masks.png"), CORRECTED)


def test_another_image_of_the_same_name_is_never_replaced(experiment: Path):
    tifffile.imwrite(experiment / "query" / "a_img.tif", np.zeros((SIDE, SIDE), np.uint8))
    before = files(experiment)
    with pytest.raises(DatasetError, match=r"another image of this name.*Rename a_img\.tif"):
        Experiment(experiment).add_to_shots(
            experiment / "query" / "a_img.tif", CORRECTED, replace=True
        )
    assert files(experiment) == before


def test_what_teaches_nothing_is_refused(experiment: Path):
    image = experiment / "query" / "c_img.tif"
    before = files(experiment)
    with pytest.raises(DatasetError, match="no cells"):
        Experiment(experiment).add_to_shots(image, np.zeros((SIDE, SIDE), np.int32))
    with pytest.raises(ImageError, match="40 x 40 px"):
        Experiment(experiment).add_to_shots(image, CORRECTED[:-1])
    assert files(experiment) == before
    image.write_bytes(b"II*\0")
    with pytest.raises(ImageError, match="damaged"):
        Experiment(experiment).add_to_shots(image, CORRECTED)


# --- rounds ------------------------------------------------------------------------------------


def test_an_experiment_without_rounds_has_an_empty_table(tmp_path: Path):
    table = Experiment(tmp_path).rounds()
    assert list(table) == list(COLUMNS)
    assert len(table) == len(Experiment(tmp_path).sum_up_rounds()) == 0
    assert list(tmp_path.iterdir()) == []


def test_other_weights_begin_the_next_round(experiment: Path):
    correct(experiment, "c")
    correct(experiment, "d", PREDICTED)
    correct(experiment, "e", weights="w2")
    table = Experiment(experiment).rounds()
    assert table["round"].tolist() == [1, 1, 2]
    assert table["image"].tolist() == ["c", "d", "e"]
    assert table["model"].tolist() == ["w1.safetensors"] * 2 + ["w2.safetensors"]
    # Of the round's begin: the corrections of this round taught its model nothing.
    assert table["shots"].tolist() == [2, 2, 4]
    assert table["shot_cells"].tolist() == [3, 3, 9]
    assert table["ap50"].tolist() == [0.5, 1.0, 0.5]
    assert not table["seen"].any()
    assert all(pd.to_datetime(table["time"]).dt.tz is not None for _ in table)
    summary = Experiment(experiment).sum_up_rounds()
    assert summary["images"].tolist() == [2, 1]
    assert summary["ap50"].tolist() == [0.75, 0.5]
    assert summary[["added", "removed", "changed"]].values.tolist() == [[1, 1, 1]] * 2


def test_correcting_an_image_again_replaces_its_row_and_its_masks(experiment: Path):
    correct(experiment, "c")
    correct(experiment, "d")
    again = squares((2, 2), (30, 2))
    found = correct(experiment, "c", again)
    table = Experiment(experiment).rounds().set_index("image")
    assert table.index.tolist() == ["d", "c"]
    assert table.loc["c", "ap50"] == pytest.approx(found.ap50) == 1 / 4
    assert not table.loc["c", "seen"]  # the prediction was made before
    np.testing.assert_array_equal(readers.read_masks(experiment / "shot/c_masks.tif"), again)


def test_an_image_that_the_model_has_learnt_is_kept_and_not_averaged(experiment: Path):
    correct(experiment, "c")
    correct(experiment, "c", squares((9, 9)), weights="w2")
    correct(experiment, "d", PREDICTED, weights="w2")
    assert Experiment(experiment).rounds()["seen"].tolist() == [False, True, False]
    second = Experiment(experiment).sum_up_rounds().iloc[1]
    assert (second["images"], second["scored"], second["ap50"]) == (2, 1, 1.0)


def test_a_round_of_learnt_images_alone_has_no_score(experiment: Path):
    correct(experiment, "c")
    correct(experiment, "c", weights="w2")
    assert np.isnan(Experiment(experiment).sum_up_rounds()["ap50"].iloc[1])


def test_masks_changed_by_others_meanwhile_are_not_overwritten(experiment: Path):
    correct(experiment, "c")
    readers.write_labels(experiment / "shot/c_masks.tif", squares((1, 1)))
    before = files(experiment)
    with pytest.raises(DatasetError, match="other masks already"):
        correct(experiment, "c", squares((9, 9)))
    assert files(experiment) == before  # no score of what was not kept


def test_a_damaged_shot_does_not_cost_the_correction(experiment: Path):
    (experiment / "shot/a_masks.tif").write_bytes(b"II*\0 cut off")
    correct(experiment)
    assert Experiment(experiment).rounds()[["shots", "shot_cells"]].values.tolist() == [[1, 2]]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\0\0\0", ",".join(COLUMNS) + "\nx,y\n"])
def test_a_file_that_is_not_ours_is_refused_and_left_alone(experiment: Path, content: str):
    (experiment / "rounds.csv").write_text(content)
    before = files(experiment)
    with pytest.raises(DatasetError, match="Move it away"):
        correct(experiment)
    assert files(experiment) == before


KILLED = """
import sys
from pathlib import Path
from tests.workbench.test_experiment import correct, squares

folder = Path(sys.argv[1])
print("ready", flush=True)
for turn in range(100000):
    correct(folder, "cde"[turn % 3], squares((turn % 30, 3)), weights=f"w{turn // 3}")
"""


def test_a_kill_leaves_a_whole_table(experiment: Path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILLED, str(experiment)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:  # the table is read while it is written
            until(lambda: len(Experiment(experiment).rounds()) >= 7)
        finally:
            process.kill()
    table = Experiment(experiment).rounds()
    assert len(table) >= 7
    assert not table.duplicated(["round", "image"]).any()
    last = table.iloc[-1]["round"]
    correct(experiment, "c", weights="after")
    assert Experiment(experiment).rounds()["round"].max() == last + 1
    assert len(load_dataset(experiment).shot) == 5

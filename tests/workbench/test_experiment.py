"""The folder of an experiment: what becomes a shot, rounds of correction, what a kill leaves."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.files.images import read_masks, write_labels
from scellseg_lib.workbench.experiment import (
    COLUMNS,
    Experiment,
    OtherMasks,
    SegmentedImage,
    compare,
)
from scellseg_lib.workbench.session import SegmentationSettings
from tests.workbench import waiting
from tests.workbench.waiting import files

SIDE = 40
squares = partial(waiting.squares, shape=(SIDE, SIDE))
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
                write_labels(tmp_path / part / f"{name}_masks.tif", masks)
    return tmp_path


def correct(folder: Path, name: str = "c", corrected=CORRECTED, weights: str = "w1", **options):
    image, masks = folder / "query" / f"{name}_img.tif", folder / "segmented" / f"{name}_masks.tif"
    settings = SegmentationSettings(30.0)
    result = SegmentedImage(name, image, masks, None, f"{weights}.safetensors", weights, settings)
    return Experiment(folder).keep_correction(result, PREDICTED, corrected, **options)


def test_a_correction_is_counted_and_scored_by_arithmetic():
    found = compare(PREDICTED, CORRECTED)
    # The moved square has an IoU of 7 / 9: it counts up to the threshold 0.75, the other always.
    assert found.pop("map") == pytest.approx((6 * 2 / 4 + 4 * 1 / 5) / 10)
    counts = {"predicted": 3, "corrected": 3, "added": 1, "removed": 1, "changed": 1}
    assert found == {"ap50": 2 / 4} | counts
    same = compare(PREDICTED, PREDICTED * 5)  # other numbers, the same cells
    assert same == {"ap50": 1, "map": 1} | counts | {"added": 0, "removed": 0, "changed": 0}


def test_image_and_masks_become_a_shot_and_the_image_stays(experiment: Path):
    before = files(experiment)
    image, masks = Experiment(experiment).add_to_shots(
        experiment / "query" / "c_img.tif", CORRECTED
    )
    after = files(experiment)
    assert set(after) - set(before) == {"shot/c_img.tif", "shot/c_masks.tif"}
    assert after.items() >= before.items()
    assert image.read_bytes() == before["query/c_img.tif"]
    np.testing.assert_array_equal(read_masks(masks), CORRECTED)
    assert [sample.name for sample in load_dataset(experiment).shot] == ["a", "b", "c"]


def test_classes_and_notes_go_with_the_masks(experiment: Path):
    source, table = experiment / "query" / "c_img.tif", experiment / "segmented" / "c_cells.csv"
    table.parent.mkdir()
    table.write_text("label,area,class,note\n1,100,male,curled\n")
    there = experiment / "shot" / "c_cells.csv"
    correct(experiment, cells=table)
    assert there.read_text() == table.read_text()
    Experiment(experiment).add_to_shots(source, CORRECTED)  # nobody says a word of notes: they stay
    assert there.is_file()
    table.unlink()
    Experiment(experiment).add_to_shots(source, PREDICTED, replace=True, cells=table)
    assert not there.exists()


def test_what_cannot_become_a_shot_is_refused_and_leaves_no_trace(experiment: Path):
    query, shot = experiment / "query", experiment / "shot" / "a_img.tif"
    tifffile.imwrite(query / "a_img.tif", np.zeros((SIDE, SIDE), np.uint8))
    (query / "e_img.tif").write_bytes(b"II*\0")
    before = files(experiment)
    for image, masks, replace, error, words in (
        (shot, CORRECTED, False, OtherMasks, "other masks already"),
        (query / "a_img.tif", CORRECTED, True, DatasetError, r"of this name.*Rename a_img\.tif"),
        (query / "c_img.tif", 0 * CORRECTED, True, DatasetError, "no cells"),
        (query / "c_img.tif", CORRECTED[:-1], True, ImageError, "40 x 40 px"),
        (query / "e_img.tif", CORRECTED, True, ImageError, "damaged"),
    ):
        with pytest.raises(error, match=words):
            Experiment(experiment).add_to_shots(image, masks, replace=replace)
        assert files(experiment) == before
    Experiment(experiment).add_to_shots(shot, CORRECTED, replace=True)
    after = files(experiment)
    assert {name for name in after if after[name] != before.get(name)} == {"shot/a_masks.tif"}


def test_other_weights_begin_the_next_round(experiment: Path):
    (experiment / "shot" / "a_masks.tif").write_bytes(b"II*\0 cut off")  # costs no correction
    correct(experiment, "c")
    correct(experiment, "d", PREDICTED)
    correct(experiment, "e", weights="w2")
    table = Experiment(experiment).rounds()
    # Shots of the round's begin: the corrections of this round taught its model nothing.
    columns = ["round", "image", "model", "shots", "shot_cells", "ap50", "seen"]
    assert table[columns].values.tolist() == [
        [1, "c", "w1.safetensors", 1, 2, 0.5, False],
        [1, "d", "w1.safetensors", 1, 2, 1.0, False],
        [2, "e", "w2.safetensors", 3, 8, 0.5, False],
    ]
    assert pd.to_datetime(table["time"]).dt.tz is not None
    summary = Experiment(experiment).sum_up_rounds()
    columns = ["images", "ap50", "added", "removed", "changed"]
    assert summary[columns].values.tolist() == [[2, 0.75, 1, 1, 1], [1, 0.5, 1, 1, 1]]


def test_correcting_an_image_again_replaces_its_row_and_its_masks(experiment: Path):
    correct(experiment, "c")
    correct(experiment, "d")
    again = squares((2, 2), (30, 2))
    correct(experiment, "c", again)
    table = Experiment(experiment).rounds()
    # The prediction was made before: the model had not seen the correction.
    columns = ["image", "ap50", "seen"]
    assert table[columns].values.tolist() == [["d", 0.5, False], ["c", 0.25, False]]
    np.testing.assert_array_equal(read_masks(experiment / "shot/c_masks.tif"), again)
    write_labels(experiment / "shot/c_masks.tif", squares((1, 1)))  # by others
    before = files(experiment)
    with pytest.raises(OtherMasks):
        correct(experiment, "c", squares((9, 9)))
    assert files(experiment) == before  # no score of what was not kept


def test_an_image_that_the_model_has_learnt_is_kept_and_not_averaged(experiment: Path):
    correct(experiment, "c")
    correct(experiment, "c", squares((9, 9)), weights="w2")
    assert np.isnan(Experiment(experiment).sum_up_rounds()["ap50"].iloc[1])
    correct(experiment, "d", PREDICTED, weights="w2")
    assert Experiment(experiment).rounds()["seen"].tolist() == [False, True, False]
    second = Experiment(experiment).sum_up_rounds().iloc[1]
    assert (second["images"], second["ap50"]) == (2, 1.0)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\0\0\0", ",".join(COLUMNS) + "\nx,y\n"])
def test_a_file_that_is_not_ours_is_refused_and_left_alone(experiment: Path, content: str):
    (experiment / "rounds.csv").write_text(content)
    before = files(experiment)
    with pytest.raises(DatasetError, match="Move it away"):
        correct(experiment)
    assert files(experiment) == before


@pytest.mark.parametrize("dies_in", ["to_csv", "add_to_shots"])
def test_a_kill_leaves_a_whole_table_and_all_can_be_done_again(experiment, monkeypatch, dies_in):
    correct(experiment, "c")

    def die(_: object, file: Path, *rest: object, **options: object) -> None:
        if dies_in == "to_csv":
            file.write_text("round,ti")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame if dies_in == "to_csv" else Experiment, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            correct(experiment, "d")
    n_scored = 1 if dies_in == "to_csv" else 2  # the score comes first
    assert len(Experiment(experiment).rounds()) == n_scored
    assert not (experiment / "shot" / "d_masks.tif").exists()
    correct(experiment, "d")
    table = Experiment(experiment).rounds()
    assert table[["image", "seen", "shots"]].values.tolist() == [["c", False, 2], ["d", False, 2]]
    assert [sample.name for sample in load_dataset(experiment).shot] == ["a", "b", "c", "d"]

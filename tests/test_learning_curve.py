"""The learning curve on one's own images: what is held out, what is kept, and what is said."""

import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from scellseg_lib import Dataset, Sample, errors, finetune, learning_curve, load_dataset, paths
from scellseg_lib.learning_curve import COLUMNS, Expectation, expect, plan_folds, tell_styles
from scellseg_lib.metrics import MEASURED
from scellseg_lib.model import new_model
from scellseg_lib.segmentation import Cells, Prediction
from scellseg_lib.stats import fit_hyperbola
from scellseg_lib.style import embed
from tests import tiny


def worms(n: int) -> Dataset:
    """Those of the tiny images that show a worm."""
    every = tiny.worms(12)
    return replace(every, samples=tuple(every[i] for i in (0, 1, 3, 7, 8, 11)[:n]))


@pytest.mark.parametrize(("n_images", "n_folds"), [(2, 2), (5, 3), (6, 3), (10, 5), (7, 20)])
def test_every_image_is_held_out_once_and_never_in_its_own_pool(n_images, n_folds):
    folds = plan_folds(n_images, n_folds)
    assert len(folds) == min(n_folds, n_images)
    assert sorted(i for _, held_out in folds for i in held_out) == list(range(n_images))
    for pool, held_out in folds:
        assert sorted(pool + held_out) == list(range(n_images))
    assert folds == plan_folds(n_images, n_folds)


def test_folds_hang_on_the_seed_and_their_draws_differ():
    assert plan_folds(8, 4, seed=1) != plan_folds(8, 4, seed=2)
    # Else the same image would be the one shot of most folds.
    assert len({pool[0] for pool, _ in plan_folds(10, 10)}) > 2
    assert plan_folds(1, 3) == plan_folds(0, 3) == []
    with pytest.raises(errors.TrainingError, match="two folds"):
        plan_folds(5, 1)
    counts = {0: [], 1: [1], 3: [1, 2, 3], 4: [1, 2, 4], 10: [1, 2, 4, 8, 10]}
    assert {n_pool: learning_curve.choose_counts(n_pool) for n_pool in counts} == counts


@pytest.fixture
def tuning(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Nothing is tuned, and nothing segmented: each image is found as it was annotated."""
    stand_in = Mock()
    monkeypatch.setattr(learning_curve, "finetune", stand_in)
    monkeypatch.setattr(learning_curve, "segment", lambda model, held, **_: [s.masks for s in held])
    return stand_in


def run(file: Path, images: int | list[Sample] = 5, seed_of_model: int = 0, **options):
    settings = {"strategy": "classic", "steps": 2, "n_folds": 3} | options
    model = new_model("scellseg", tiny.LEVELS, seed=seed_of_model)
    shots = worms(images) if isinstance(images, int) else images
    return learning_curve.cross_validate(model, shots, file, **settings)


def test_a_table_of_folds_and_numbers_of_shots(tmp_path: Path, tuning: Mock):
    frame = run(tmp_path / "curve.csv")
    # Five images in three folds: the smallest pool has three.
    assert frame.groupby("fold")["n_shots"].agg(list).tolist() == [[0, 1, 2, 3]] * 3
    assert list(frame) == list(COLUMNS)
    assert (frame["map"] == 1).all()
    for _, row in frame.iterrows():
        learnt = {name for name in row["shots"].split("; ") if name}
        assert len(learnt) == row["n_shots"]
        assert not learnt & set(row["held_out"].split("; "))
        assert row["cells"] == sum(one.masks.max() for one in worms(5) if one.name in learnt)
        assert (row[[*MEASURED]] == 0).all()
    # Nested: the shots of a smaller number are among those of a larger one.
    for _, part in frame[frame["n_shots"] > 0].groupby("fold"):
        drawn = [names.split("; ") for names in part["shots"]]
        assert all(more[: len(few)] == few for few, more in pairwise(drawn))
    assert [len(call.args[1]) for call in tuning.call_args_list] == [1, 2, 3] * 3


def test_a_killed_run_goes_on_and_a_second_computes_nothing(tmp_path: Path, tuning: Mock):
    file = tmp_path / "curve.csv"
    tuning.side_effect = [None] * 4 + [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        run(file)
    before = pd.read_csv(file)
    assert (before["n_shots"] > 0).sum() == 4  # all that were finished
    tuning.side_effect = None
    frame = run(file)
    assert tuning.call_count == 1 + 9
    assert frame["key"].tolist()[: len(before)] == before["key"].tolist()
    pd.testing.assert_frame_equal(run(file), frame)
    assert tuning.call_count == 1 + 9
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]  # no scratch file is left


@pytest.mark.parametrize("change", ["masks", "steps", "seed", "seed_of_model"])
def test_what_a_score_depends_on_is_not_taken_over(tmp_path: Path, tuning: Mock, change: str):
    file, images = tmp_path / "curve.csv", list(worms(3))
    first = run(file, images)
    options = {} if change == "masks" else {change: 3}
    if change == "masks":
        corrected = np.flipud(images[0].masks)
        images[0] = replace(images[0], read_masks=lambda: corrected)
    second = run(file, images, **options)
    assert not set(first["key"]) & set(second["key"])
    kept = pd.read_csv(file)["key"]
    assert set(kept) == set(first["key"]) | set(second["key"])  # nothing is lost


def test_queries_belong_to_contrastive_tuning_alone(tmp_path: Path, tuning: Mock):
    queries, file = tiny.worms(2, 5).without_masks(), tmp_path / "curve.csv"
    classic = run(file)
    assert run(file, queries=queries)["key"].tolist() == classic["key"].tolist()
    contrastive = run(file, queries=queries, strategy="contrastive")
    assert not set(contrastive["key"]) & set(classic["key"])
    assert all(call.args[2] is queries for call in tuning.call_args_list[9:])
    assert not set(contrastive["held_out"]) & {query.name for query in queries}


def test_images_without_cells_are_left_out(tmp_path: Path, tuning: Mock):
    empty = Sample("empty", lambda: tiny.worm(9)[0], lambda: np.zeros((200, 200), np.int32))
    frame = run(tmp_path / "curve.csv", [*worms(3), empty])
    assert not frame["held_out"].str.contains("empty").any()
    assert len(frame) == 3 * 3
    one = run(tmp_path / "one.csv", 1)
    assert one.empty
    assert "at least three annotated images" in expect(one, [1]).sentence


def test_it_tunes_and_scores_in_earnest(tmp_path: Path, small_patches: None):
    """With the real tuning: a fold's score is that of `finetune` and `segment` done by hand."""
    frame = run(tmp_path / "curve.csv", 2, n_folds=2, steps=1)
    assert frame["n_shots"].tolist() == [0, 1, 0, 1]
    assert frame["map"].between(0, 1).all()
    model, fold = new_model("scellseg", tiny.LEVELS), plan_folds(2, 2)[1]
    shot, held = ([worms(2)[i] for i in part] for part in fold)
    tuned = finetune(model, shot, strategy="classic", steps=1)
    scored = learning_curve.evaluate(learning_curve.segment(tuned, held), held)
    by_hand = learning_curve.summary(scored) | scored.iloc[0][[*MEASURED]].to_dict()
    last = frame.iloc[-1][list(by_hand)].tolist()
    assert last == pytest.approx(list(by_hand.values()), nan_ok=True)


COUNTS = np.array([1, 2, 4, 8] * 5)


def curve(x, bmax=0.7, kd=1.5):
    return bmax * np.asarray(x, float) / (kd + np.asarray(x, float))


def test_interval_is_that_of_the_difference():
    """Against draws of (Bmax, Kd) from the fit's covariance, of which each gives a difference."""
    rng = np.random.default_rng(0)
    fit = fit_hyperbola(COUNTS, curve(COUNTS) + rng.normal(0, 0.02, COUNTS.size))
    draws = np.random.default_rng(1).multivariate_normal([fit.bmax, fit.kd], fit.covariance, 50_000)
    differences = curve(12, *draws.T) - curve(10, *draws.T)
    low, high = fit.confidence_band(12, 10)
    rise = curve(12, fit.bmax, fit.kd) - curve(10, fit.bmax, fit.kd)
    assert (low + high) / 2 == pytest.approx(rise)
    student = 2.1009  # of 18 degrees of freedom
    assert (high - low) / 2 == pytest.approx(student * differences.std(), rel=0.03)


def table(scores: dict[int, list[float]]) -> pd.DataFrame:
    rows = [(n, score, fold) for n, all_ in scores.items() for fold, score in enumerate(all_)]
    frame = pd.DataFrame(rows, columns=["n_shots", "map", "fold"])
    return frame.assign(cells=frame["n_shots"])  # one in each image


def of_curve(noise: float, **shape: float) -> pd.DataFrame:
    scores = curve(COUNTS, **shape) + np.random.default_rng(0).normal(0, noise, COUNTS.size)
    return pd.DataFrame({"n_shots": COUNTS, "map": scores, "fold": 0, "cells": COUNTS})


def test_sentences_of_curves_that_rise_or_have_levelled_off_and_of_scores_that_scatter():
    frame = pd.concat([of_curve(0.005), table({0: [0.9, 0.9]})])  # the untuned is not on the curve
    said = expect(frame, [1] * 10, 2)
    numbers = [f"{value:.2f}" for value in (said.gain, said.low, said.high)]
    assert said.gain == pytest.approx(curve(12) - curve(10), abs=0.01)
    start = "2 more cells (2.0 images like yours, 1 minutes at 30 s a cell) are expected to add "
    start += "{} mAP ({} to {}). This is an extrapolation"
    assert said.sentence.startswith(start.format(*numbers))
    assert "with 1 to 8 cells" in said.sentence
    start = "90 more cells (9.0 images like yours, 30 minutes at 20 s a cell) are"
    assert expect(frame, [4, 16], 90, 20).sentence.startswith(start)
    said = expect(of_curve(0.3, kd=1.0), [1] * 10, 2)
    assert said.low < 0 < said.high
    assert "that may be nothing at all" in said.sentence
    assert "\N{MINUS SIGN}0." in said.sentence
    level = expect(of_curve(0.002, kd=0.001), [10], 2).sentence
    assert "add 0.00 mAP" in level
    assert "the curve has levelled off" in level


def test_where_there_is_no_curve_it_says_why():
    for scores, why in (
        ({}, "at least three annotated images"),
        ({0: [0.1, 0.2]}, "at least three annotated images"),
        ({1: [0.1, 0.2, 0.3]}, "all scores are of models tuned on one image"),
        ({1: [0.5, 0.5], 2: [0.5, 0.5]}, "same with any number"),
        ({1: [0.1], 2: [0.2], 4: [0.41]}, r"not level off.*0\.10 with 1, 0\.20 with 2, 0\.41 with"),
        ({1: [0.9], 2: [0.5], 4: [0.05]}, "does not rise"),
    ):
        said = expect(table(scores), [2, 3])
        assert said.fit is None, scores
        assert np.isnan([said.gain, said.low, said.high]).all()
        start = "What 50 more cells (20.0 images like yours, 25 minutes at 30 s a cell) would add"
        assert said.sentence.startswith(f"{start} cannot be told: ")
        assert re.search(why, said.sentence)


def test_the_curve_is_drawn_as_far_as_there_is_one():
    frame = pd.concat([of_curve(0.02), table({0: [0.1, 0.2]})])
    axes = plt.figure().subplots(1, 3)
    learning_curve.draw_curve(axes[0], frame, expect(frame, [10], 2), 10, 2)
    learning_curve.draw_curve(axes[1], frame, Expectation("no curve"), 10)
    learning_curve.draw_curve(axes[2], frame[:0], Expectation("no curve"), 1)
    labels = [" ".join(panel.get_legend_handles_labels()[1]) for panel in axes]
    assert ["extrapolated" in one for one in labels] == [True, False, False]
    assert axes[0].get_xlim()[1] > 12
    plt.close("all")


def test_example_folder_is_one_that_can_be_loaded(tmp_path: Path):
    folder = learning_curve.write_example(tmp_path / "worms", n_shot=1, n_query=1)
    data = load_dataset(folder)
    assert len(data.shot) == 1
    assert data.shot[0].masks.max() > 5
    (query,) = learning_curve.select_queries(data)
    assert (query.name, query.read_masks) == ("worms_2", None)
    # Bright on black: what the packaged models have not seen.
    image, masks = data.shot[0].image[0], data.shot[0].masks
    assert np.median(image[masks > 0]) > 2 * np.median(image[masks == 0])
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tif")}
    learning_curve.write_example(folder, n_shot=1, n_query=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.tif")} == written
    shutil.rmtree(folder / "query")  # nothing to be segmented is no error
    assert len(learning_curve.select_queries(load_dataset(folder))) == 0


def test_styles_say_which_images_are_far():
    model, images = new_model("scellseg", tiny.LEVELS), worms(3)
    unknown = learning_curve.check_styles(model, images, 20.0)
    assert unknown["distance"].isna().all()
    assert "does not say" in tell_styles(unknown)
    near = embed(model, images[0], 20.0).astype(float).tolist()
    model.card = model.card.model_copy(update={"styles": [near], "style_radius": 1e-6})
    some = learning_curve.check_styles(model, images, 20.0)
    assert some["in words"].str.startswith("far").tolist() == [False, True, True]
    assert "seen: 2 of 3 images (up to" in tell_styles(some)
    assert "Annotate one like worm1, worm3, and" in tell_styles(some)
    assert tell_styles(some[:1]) == "No image is far from what the model has seen."
    assert "2 of 2 images" in tell_styles(some[1:])
    assert "Do not trust it" in tell_styles(some[1:])


def test_gallery_counts_the_cells():
    images = worms(2)
    two = images[1].masks.copy()
    two[:5, :5] = 7
    images = [replace(images[0], name=r"a$\frac$b"), images[1]]
    figure = learning_curve.draw_gallery(images, [images[0].masks, two], 20.0)
    figure.canvas.draw()  # a name is no mathematics
    first, second, *_ = (axes.get_title() for axes in figure.axes)
    assert (first, second) == (r"a$\frac$b: 1 cell", "worm1: 2 cells")


def test_results_are_written_for_every_cell(tmp_path: Path):
    images = worms(2)
    said = [Prediction(one.name, one.image, one.image, (200, 200), 20.0) for one in images]
    found = [Cells(one.name, one.masks, of) for one, of in zip(images, said, strict=True)]
    cells = learning_curve.save_results(found, images, tmp_path)
    assert cells.groupby("image")["label"].size().tolist() == [one.masks.max() for one in images]
    areas = np.bincount(images[0].masks.ravel())[1:]
    assert cells.loc[cells["image"] == "worm0", "area_px"].tolist() == areas.tolist()
    assert "intensity_mean_gray" in cells
    assert len(pd.read_csv(tmp_path / "measurements.csv")) == len(cells)
    files = {path.name for path in tmp_path.rglob("*.*")}
    assert files >= {"worm0_masks.tif", "worm1_masks.tif", "worm0_rois.zip", "worm1_rois.zip"}
    learning_curve.save_results(found[1:], replace(images, samples=images.samples[1:]), tmp_path)
    left = {path.name for path in tmp_path.rglob("*.*")}
    assert left == {"measurements.csv", "worm1_masks.tif", "worm1_rois.zip"}


def test_folders_of_one_name_have_results_of_their_own(tmp_path: Path):
    runs, folders = tmp_path / "runs", [tmp_path / part / "worms" for part in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    find = learning_curve.place_results
    places = [find(runs, folder, "worms") for folder in folders]
    assert len(set(places)) == 2
    assert all(place.parent == runs and place.name.startswith("worms-") for place in places)
    assert find(runs, str(folders[0] / ".." / "worms"), "worms") == places[0]
    assert find(runs, "", "worms") == find(runs, "no_folder_but_a_set", "worms") == runs / "worms"


def test_the_notebook_tells_the_scores_of_its_second_curve() -> None:
    means = pd.read_csv(paths.results("cpu") / "your_own_images_bbbc010_elegans.csv")
    means = means.groupby("n_shots")["map"].mean()
    notebook = nbformat.read(paths.REPOSITORY / "notebooks" / "your_own_images.ipynb", as_version=4)
    (told,) = [c.source for c in notebook.cells if c.source.startswith("With the example stands")]
    (said,) = re.findall(r"was has (\S+) mAP, tuned on one image (\S+), on eight (\S+)\.", told)
    assert [*said] == [f"{means[n]:.2f}" for n in (0, 1, 8)]

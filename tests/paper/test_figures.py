"""Tables and panels of the figures: what they count, measure and draw, by arithmetic."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from scellseg_lib import Dataset, Sample, ScellsegError, plots, stats, style
from scellseg_lib.model import new_model
from scellseg_lib.paper import styles
from scellseg_lib.paper.figures import architecture, datasets, diagrams, pipeline, scores, touching
from scellseg_lib.segmentation import Cells, Prediction
from tests import tiny
from tests.test_plots import legend


@pytest.fixture(autouse=True)
def axes() -> Iterator[Axes]:
    """An empty panel; all figures are closed afterwards."""
    yield plt.figure().subplots()
    plt.close("all")


def make_sample(name: str, masks: np.ndarray, split: str = "shot", width: int = 20) -> Sample:
    image = np.zeros((2, 10, width), np.float32)
    return Sample(name, lambda: image, lambda: masks.astype(np.int32), split)


def draw_squares(*sides: int) -> np.ndarray:
    masks = np.zeros((10, 20), np.int32)
    for label, side in enumerate(sides, start=1):
        masks[:side, 5 * label : 5 * label + side] = label
    return masks


def test_cells_are_counted_and_measured_and_a_damaged_image_is_left_out(axes):
    samples = [make_sample("two", draw_squares(2, 4)), make_sample("none", draw_squares())]
    samples.append(make_sample("one", draw_squares(3), "query"))
    samples.append(make_sample("damaged", draw_squares(3), width=7))
    data = Dataset("squares", "Squares", "CC0-1.0", tuple(samples))
    census = datasets.count_cells([data])
    found = census.set_index("image")
    assert list(found.index) == ["two", "none", "one"]
    assert found.loc["two", ["cells", "mean_area", "sd_area"]].tolist() == [2, 10, 72**0.5]
    assert found.loc["one", "median_diameter"] == pytest.approx(2 * np.sqrt(9 / np.pi))
    assert found.loc["none", ["cells", "coverage"]].tolist() == [0, 0]
    assert np.isnan(found.loc["none", "mean_area"])
    summed = datasets.sum_up_census(datasets.count_cells([data, data])).set_index("split")
    row = summed.loc["shot", ["images", "cells", "cells_min", "cells_max", "mean_area"]]
    assert row.tolist() == [4, 4, 0, 2, 10]  # the area is that of images that have cells
    assert summed.loc["query", "coverage"] == pytest.approx(9 / 200)
    datasets.draw_sizes(axes, census, "cells", "cells in an image", "sd_area")
    assert legend(axes) == ["shots: 1 ± 1 (n = 2)", "queries: 1 \u00b1 nan (n = 1)"]
    shots, queries = (axes.containers[i].lines[0].get_xydata().tolist() for i in range(2))
    assert (shots, queries) == ([[0, 0], [1, 2]], [[4, 1]])


def test_examples_show_images_or_words_in_their_place():
    shown = {"a": make_sample("a", draw_squares(3, 2)), "b": "not shown"}
    image, words = datasets.draw_examples(shown, columns=2, letter="a", note="synthetic").axes
    told = [text.get_text() for text in image.texts]
    assert (image.get_title(), told) == ("a", ["a", "n = 2 cells", "synthetic"])
    assert [text.get_text() for text in words.texts] == ["", "not shown"]


def make_clouds(distance: float, n: int = 20, sets: int = 2) -> pd.DataFrame:
    """Round clouds of points in 8 dimensions, their middles ``distance`` apart."""
    points = np.random.default_rng(0).normal(size=(sets * n, 8))
    points[:, 0] += np.repeat(np.arange(sets), n) * distance
    frame = pd.DataFrame(points, columns=[f"s{k}" for k in range(8)])
    names = np.repeat([f"set{k}" for k in range(sets)], n)
    return frame.assign(data=names, image=range(sets * n), size=0.0)


def test_each_image_is_embedded_at_the_scale_of_its_cells():
    model = new_model("scellseg", tiny.LEVELS)
    empty = Sample("empty", lambda: np.zeros((2, 60, 60)), lambda: np.zeros((60, 60), np.int32))
    worms, other = tiny.worms(2), Dataset("other", "", "", (tiny.contrast()[0], empty))
    frame = styles.embed_styles(model, [worms, other])
    assert frame["data"].tolist() == ["worms", "worms", "other"]  # no cells, no scale
    assert frame["image"].tolist() == ["worm0", "worm1", "c0"]
    assert styles.stack_styles(frame).shape == (3, tiny.LEVELS[-1])
    expected = style.embed(model, worms[1], worms[1].diameter)
    np.testing.assert_allclose(styles.stack_styles(frame)[1], expected, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(styles.stack_styles(frame), axis=1), 1, rtol=1e-5)


def test_purity_is_that_of_arithmetic_and_needs_two_sets():
    # Two places 1 apart, six images on each: every own distance is 0, every other 1.
    frame = pd.DataFrame({"s0": [0.0] * 6 + [1.0] * 6, "data": ["a"] * 6 + ["b"] * 6})
    assert styles.measure_purity(frame.assign(image=range(12))) == styles.Purity(1.0, 1.0, 0.5, 12)
    one_cloud = styles.measure_purity(make_clouds(0))
    assert one_cloud.knn_accuracy < 0.75
    assert abs(one_cloud.silhouette) < 0.1
    for few in (make_clouds(1, sets=1), make_clouds(1, n=5)):
        with pytest.raises(ScellsegError, match="purity is not defined"):
            styles.measure_purity(few)


def test_the_layout_is_the_same_each_time_and_keeps_far_clouds_apart(axes):
    first, again = (styles.lay_out(make_clouds(20), perplexity=10, seed=0) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert first.columns.tolist() == ["data", "image", "x", "y"]
    points = first[["x", "y"]].to_numpy()
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert (first["data"].to_numpy()[gaps.argmin(axis=1)] == first["data"]).all()
    datasets.draw_embedding(axes, first)
    assert legend(axes) == ["set0 (n = 20)", "set1 (n = 20)"]


def test_distances_of_styles_by_hand_and_all_panels_have_the_plane_of_the_first():
    """Styles in the plane: shots at 0 and 2, queries at 1, contrasts at 5 and 7 (before)."""
    rows = [("shot", 0.0), ("shot", 2.0), ("query", 1.0), ("contrast", 5.0), ("contrast", 7.0)]
    before = pd.DataFrame(rows, columns=["role", "s0"]).assign(s1=0.0, when="before")
    both = pd.concat([before, before.assign(s0=before["s0"] / 2, when="after")])
    found = styles.compare_distances(both).set_index("when")
    # Mean over two components of squares of 1, 1 and of 5, 7, 3, 5.
    assert found.loc["before"].tolist() == pytest.approx([0.5, 13.5, 0.5 / 13.5])
    assert found.loc["after"].tolist() == pytest.approx([0.125, 3.375, 0.5 / 13.5])
    assert list(found.index) == ["before", "after"]
    axes = plt.figure().subplots(1, 2)
    pipeline.draw_style_plane(axes, both)
    shots = [panel.collections[-1] for panel in axes]  # they lie on top
    widths = [np.ptp(np.asarray(drawn.get_offsets())[:, 0]) for drawn in shots]
    assert widths == pytest.approx([2.0, 1.0])
    named = ["contrast (n = 2 images)", "query (n = 1 images)", "shot (n = 2 images)"]
    assert legend(axes[1]) == named


def test_flow_colours_tell_directions_apart():
    flows = np.zeros((2, 1, 5), np.float32)
    flows[:, 0, :4] = np.array([[0, 1, 0, -1], [1, 0, -1, 0]])
    colours = plots.colour_flows(flows)[0]
    assert np.allclose(colours[4], 0)
    assert len({tuple(np.round(colour, 3)) for colour in colours}) == 5
    assert np.allclose(colours[0], [1, 0.15, 0.15])  # to the right: red


def make_cells(masks: np.ndarray) -> Cells:
    maps = np.zeros((3, *masks.shape), np.float32)
    return Cells("a", masks, Prediction("a", maps, np.zeros(8), masks.shape, 30.0))


def test_pipeline_says_what_its_objects_are(axes):
    sample = make_sample("a", masks := draw_squares(4, 4))
    found = [make_cells(np.where(masks == 2, 1, 0)), make_cells(masks)]
    pipeline.draw_pipeline(axes, [sample] * 2, [sample] * 2, sample, found, "made up")
    told = " ".join(text.get_text() for text in axes.texts)
    for words in ("(made up)", "2 shots", "directly:\n1 of 2 right", "fine-tuned:\n2 of 2 right"):
        assert words in told
    pipeline.draw_strategy(axes, sample, sample, sample)
    assert len(axes.child_axes) == 4 + 5 + 3  # pictures: small ones, of the query, patches


def test_arrows_run_between_the_sides_of_boxes_and_back_beside_them(axes):
    one, other = (diagrams.draw_box(axes, (x, 0), "", size=(4, 2)) for x in (0, 20))
    diagrams.draw_arrow(axes, one, (10, 0), (10, 5), kind="learnt")
    diagrams.draw_arrow(axes, one, other)
    back, there, straight = (arrow._path_original.vertices.tolist() for arrow in axes.patches[2:])
    assert there == [[2, 0], [10, 0], [10, 5]]
    np.testing.assert_allclose(back, [[11.2, 5], [11.2, -1.2], [2, -1.2]])
    assert straight == [[2, 0], [18, 0]]


def test_parts_of_a_network_hold_all_its_parameters(axes):
    network = new_model("scellseg", (4, 8)).network.train()
    parts = architecture.list_parts(network, side=32)
    assert parts["parameters"].sum() == sum(each.numel() for each in network.parameters())
    assert network.training
    assert parts.loc[parts["style"] > 0, "style"].tolist() == [8, 12]  # deep first
    architecture.draw_network(axes, parts, left=0)
    told = [text.get_text() for text in axes.texts]
    assert {"32 px", "16 px", "8", "12"} <= set(told)
    assert sum("\u2192" in text for text in told) == len(parts)
    for unit in set(parts["part"]) - {"Tasker"}:
        diagrams.draw_plan(axes, unit)


TRUE = np.array([[*map(int, row)] for row in ("112200", "112205", "000305", "770330")], np.int32)


def test_touching_agrees_with_every_pair_of_pixels():
    rng = np.random.default_rng(0)
    for shape in ((1, 7), (7, 1), (9, 11)):
        masks = rng.integers(0, 6, shape)
        expected = set()
        for y, x in np.ndindex(shape):
            for other in masks[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].ravel().tolist():
                pair = tuple(sorted((int(masks[y, x]), other)))
                expected |= {pair} if pair[0] and pair[0] != pair[1] else set()
        assert set(map(tuple, touching.find_touching(masks).tolist())) == expected


def test_a_prediction_over_most_of_both_merges_and_half_is_not_most():
    pairs = touching.find_touching(TRUE)
    merged, nothing = np.where(np.isin(TRUE, (1, 2)), 4, TRUE), np.zeros_like(TRUE)
    merged[0, 3] = 0  # a pixel of cell 2, so that this is cell 1 rather
    assert touching.are_separated(TRUE, merged, pairs).tolist() == [False, True, True]
    assert touching.are_found(TRUE, merged, pairs).tolist() == [False, False, True]
    assert touching.are_separated(TRUE, TRUE, pairs).all()
    assert touching.are_found(TRUE, TRUE, pairs).all()
    # Cells that are not found are not merged.
    assert touching.are_separated(TRUE, nothing, pairs).all()
    assert not touching.are_found(TRUE, nothing, pairs).any()
    for true, predicted, apart in (("1122", "3330", True), ("11222", "33330", False)):
        rows = (np.array([[*map(int, row)]]) for row in (true, predicted))
        assert touching.are_separated(*rows, np.array([[1, 2]])).tolist() == [apart]


def test_touching_cells_of_images_are_counted_and_drawn():
    sample = Sample("a", lambda: np.zeros((2, *TRUE.shape), np.float32), lambda: TRUE)
    empty = Sample("b", lambda: np.zeros((2, 2, 2), np.float32), lambda: np.zeros((2, 2), int))
    found = [make_cells(np.where(TRUE, 1, 0)), make_cells(np.zeros((2, 2), int))]
    lines = touching.count_touching(found, [sample, empty]).to_csv(index=False).splitlines()
    assert lines == ["image,pairs,separated,both_found", "a,3,0,0", "b,0,0,0"]
    row, pairs = plt.figure().subplots(1, 2), touching.find_touching(TRUE)
    one = make_cells(np.where(TRUE == 2, 0, TRUE))
    touching.draw_before_and_after(row, sample, {"before": one}, pairs, side=4)
    assert [panel.get_title() for panel in row] == ["before: flows", "before: masks"]
    assert [text.get_text() for text in row[1].texts] == ["\N{MINUS SIGN}", "\N{MINUS SIGN}", "+"]
    assert np.ptp(row[0].lines[0].get_xdata()) == pytest.approx(sample.diameter)


def test_labels_of_models_and_strategies():
    strategies = {"strategy": ["direct", "classic", "contrastive", "classic"]}
    found = scores.add_labels(pd.DataFrame(strategies).assign(model=["scellseg"] * 3 + ["unet2"]))
    assert found["label"].tolist() == ["Scellseg", "Scellseg-FT", "Scellseg-CFT", "U-Net2-FT"]
    assert found["tuned"].tolist() == [False, True, True, True]


def test_transfer_draws_means_and_stars_and_leaves_out_what_stays_under_a_hundredth(axes):
    heights = {("HoVer-FT", 0): 0.4, ("HoVer-FT", 1): 0.6, ("HoVer", 0): 0.2, ("U-Net2", 0): 0.009}
    rows = [(*of, t, ap, "i") for of, ap in heights.items() for t in (0.5, 0.75)]
    frame = pd.DataFrame(rows, columns=["label", "seed", "threshold", "ap", "image"])
    frame["tuned"] = frame["label"].str.endswith("-FT")
    frame["strategy"] = np.where(frame["tuned"], "classic", "direct")
    frame = frame.assign(data="set", n_shots=1)
    scores.draw_transfer(axes, frame, stars={"*": [0.75], "+": []})
    assert axes.get_ylabel().startswith("AP")
    assert np.allclose(axes.lines[0].get_ydata(), 0.5)
    assert axes.get_legend_handles_labels()[1] == ["HoVer-FT", "HoVer, not tuned"]
    told = [(text.get_text(), text.get_position()[0]) for text in axes.texts]
    assert told == [("*", 0.75), ("mean and SD, n = 2 random states x 1 images", 0.5)]
    scores.name_panel(axes, "c", scores.name_data("dsb2018"))
    assert (axes.get_title(), axes.texts[-1].get_text()) == ("DSB 2018", "c")
    scores.add_legend(axes.figure)
    assert len(axes.figure.legends[0].texts) == 2
    assert scores.compare_at_thresholds(frame.assign(ap=0.5), "HoVer-FT", "HoVer") is None


def test_choices_are_means_side_by_side_with_their_number(axes):
    rows = [("a", "x", 0.2), ("a", "x", 0.4), ("a", "y", 0.5), ("b", "x", 0.6), ("b", "y", 0.7)]
    frame = pd.DataFrame(rows, columns=["label", "data", "map"])
    frame["seed"] = frame.groupby(["label", "data"]).cumcount()
    frame = frame.assign(n_shots=1, strategy="classic")
    scores.draw_choices(axes, frame, "map", "mAP", xlabel="sets")
    heights = [np.asarray(bars.lines[0].get_ydata(), float) for bars in axes.containers]
    np.testing.assert_allclose(heights, [[0.3, 0.5], [0.6, 0.7]])
    assert axes.get_legend_handles_labels()[1] == ["a", "b"]
    assert [text.get_text() for text in axes.texts] == ["mean and SD, n = 1 to 2 random states"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("sets", "mAP")


def test_shot_scale_draws_every_trial_and_the_curves_there_are(axes):
    shots = np.array([1.0, 2, 4, 8])
    curve = {"label": "HoVer-FT", "seed": 0, "n_shots": shots, "map": 0.8 * shots / (1 + shots)}
    curve = pd.DataFrame(curve).assign(data="a_set", strategy="classic")
    flat = curve.assign(label="U-Net2-FT", map=0.5)
    frame = pd.concat([curve, flat, flat.assign(seed=1, map=0.7)])
    fits = {"HoVer-FT": stats.fit_hyperbola(shots, curve["map"].to_numpy())}
    scores.draw_shot_scale(axes, frame, fits, notes=["Pm: 0.5"])
    bands = [one for one in axes.collections if not isinstance(one, LineCollection)]
    assert bands == []  # a single state has none
    line, points = axes.get_lines()[:2]
    np.testing.assert_allclose(line.get_ydata(), 0.8 * line.get_xdata() / (1 + line.get_xdata()))
    assert list(points.get_ydata()) == list(curve["map"])
    mean, _, (bars,) = axes.containers[1].lines
    np.testing.assert_allclose(np.asarray(mean.get_ydata(), float), 0.6)
    ends = np.array(bars.get_segments())[:, :, 1]
    np.testing.assert_allclose(np.diff(ends), 2 * 0.1 * 2**0.5)  # the SD of 0.5 and 0.7, twice
    assert axes.texts[0].get_text() == "Pm: 0.5\nHoVer-FT: R = 1.00"


def test_differences_over_shots_are_of_one_random_state_with_intervals():
    rows = [("Scellseg-CFT", 1, 0, 0.5), ("Scellseg-FT", 1, 0, 0.4), ("Scellseg-CFT", 1, 1, 0.7)]
    rows += [("Scellseg-FT", 1, 1, 0.5), ("Scellseg-CFT", 2, 0, 0.3), ("Scellseg-FT", 2, 0, 0.4)]
    rows += [("Scellseg-CFT", 2, 1, 0.9)]  # whose other is missing
    runs = pd.DataFrame(rows, columns=["label", "n_shots", "seed", "map"])
    runs = runs.assign(data="a_set", strategy="classic")
    anovas = scores.compare_over_shots(runs, "map")
    above, below = scores.draw_over_shots(runs, "map", {}, anovas).axes
    mean, _, (bars,) = below.containers[0].lines
    np.testing.assert_allclose(np.asarray(mean.get_ydata(), float), [0.15, -0.1])
    half = (bars.get_segments()[0][1, 1] - bars.get_segments()[0][0, 1]) / 2
    assert half == pytest.approx(12.706 * 0.05, rel=1e-4)  # Student's t of one degree of freedom
    assert above.get_title() == "a set"
    expected = stats.two_way_anova(runs, "map", ["label", "n_shots"])
    pd.testing.assert_frame_equal(anovas["a_set", "Scellseg-FT"], expected)
    assert [*anovas] == [("a_set", "Scellseg-FT")]
    assert above.texts[0].get_text() == f"Pm against Scellseg-FT: {expected['p']['label']:.2g}"


def test_training_logs_have_the_look_of_their_model_and_the_name_of_their_loss(axes):
    log = pd.DataFrame({"step": [1, 2], "loss": [9.0, 2.0], "validation_loss": [np.nan, 1.0]})
    scores.draw_training_log(axes, {"HoVer": log, "HoVer, full width": log}, "cross-entropy")
    half, full = axes.get_lines()[1::2]
    assert half.get_color() == full.get_color() == half.get_markerfacecolor()
    assert (full.get_markerfacecolor(), axes.get_ylabel()) == ("white", "cross-entropy")

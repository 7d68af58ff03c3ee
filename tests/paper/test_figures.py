"""Panels of Fig. 1 and labels of trials: what they draw and measure, by arithmetic."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from scellseg_lib import plots, stats
from scellseg_lib.model import new_model
from scellseg_lib.paper.figures import pipeline, scores
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import Cells, Prediction


@pytest.fixture(autouse=True)
def _closed() -> object:
    yield
    plt.close("all")


def styles() -> pd.DataFrame:
    """Styles in the plane: shots at 0 and 2, queries at 1, contrasts at 5 and 7 (before)."""
    rows = [("shot", 0.0), ("shot", 2.0), ("query", 1.0), ("contrast", 5.0), ("contrast", 7.0)]
    before = pd.DataFrame(rows, columns=["role", "s0"]).assign(s1=0.0, when="before")
    return pd.concat([before, before.assign(s0=before["s0"] / 2, when="after")])


def test_pair_distances_by_hand() -> None:
    found = pipeline.pair_distances(styles()).set_index("when")
    # Mean over two components of squares of 1, 1 and of 5, 7, 3, 5.
    assert found.loc["before"].tolist() == pytest.approx([0.5, 13.5, 0.5 / 13.5])
    assert found.loc["after"].tolist() == pytest.approx([0.125, 3.375, 0.5 / 13.5])
    assert list(found.index) == ["before", "after"]


def test_all_panels_have_the_plane_of_the_first() -> None:
    axes = plt.figure().subplots(1, 2)
    pipeline.style_plane(styles(), axes)
    (*_, before), (*_, after) = (panel.collections for panel in axes)  # shots lie on top
    widths = [np.ptp(np.asarray(drawn.get_offsets())[:, 0]) for drawn in (before, after)]
    assert widths == pytest.approx([2.0, 1.0])
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [
        "contrast (n = 2 images)",
        "query (n = 1 images)",
        "shot (n = 2 images)",
    ]


def test_flow_colours_tell_directions_apart() -> None:
    flows = np.zeros((2, 1, 5), np.float32)
    flows[:, 0, :4] = np.array([[0, 1, 0, -1], [1, 0, -1, 0]])
    colours = plots.flow_colours(flows)[0]
    assert np.allclose(colours[4], 0)
    assert len({tuple(np.round(colour, 3)) for colour in colours}) == 5
    assert np.allclose(colours[0], [1, 0.15, 0.15])  # to the right: red


def test_pipeline_says_what_its_objects_are() -> None:
    masks = np.zeros((32, 32), np.int32)
    masks[4:12, 4:12], masks[20:28, 20:28] = 1, 2
    image = np.stack((masks, np.zeros_like(masks))).astype(np.float32)
    sample = Sample("a", lambda: image, lambda: masks)
    maps = np.zeros((3, 32, 32), np.float32)
    found = Cells("a", masks, Prediction("a", maps, np.zeros(8), (32, 32), 30.0))
    figure = pipeline.pipeline(new_model("scellseg", (4, 8)), [sample, sample], found, sample)
    titles = " ".join(axes.get_title() for axes in figure.axes)
    assert "2 shots" in titles
    assert "levels 4, 8" in titles
    assert titles.count("n = 2 cells") == 2


def test_labels_of_models_and_strategies() -> None:
    frame = pd.DataFrame(
        {
            "model": ["scellseg", "scellseg", "scellseg", "unet2"],
            "strategy": ["direct", "classic", "contrastive", "classic"],
        }
    )
    found = scores.labelled(frame)
    assert found["label"].tolist() == ["Scellseg", "Scellseg", "Scellseg-CFT", "U-Net2"]
    assert found["tuned"].tolist() == [False, True, True, True]


def test_transfer_draws_the_score_asked_for() -> None:
    rows = [
        {"label": "A", "tuned": True, "seed": s, "threshold": t, "image": "i", "ap": 0.2, "aji": a}
        for s, a in ((0, 0.4), (1, 0.6))
        for t in (0.5, 0.75)
    ]
    axes = scores.transfer(pd.DataFrame(rows), value="aji")
    assert axes.get_ylabel().startswith("AJI")
    assert np.allclose(axes.lines[0].get_ydata(), 0.5)


def test_choices_are_means_side_by_side_with_their_number() -> None:
    rows = [("a", "x", 0.2), ("a", "x", 0.4), ("a", "y", 0.5), ("b", "x", 0.6), ("b", "y", 0.7)]
    frame = pd.DataFrame(rows, columns=["label", "set", "map"])
    axes = scores.choices(frame, "map", "mAP", by="set", xlabel="sets")
    heights = [[bar.get_height() for bar in bars.patches] for bars in axes.containers[::2]]
    np.testing.assert_allclose(heights, [[0.3, 0.5], [0.6, 0.7]])
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["a (n = 1 to 2 states)", "b (n = 1 state)"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("sets", "mAP")


def test_shot_scale_draws_every_trial_and_the_curves_there_are() -> None:
    shots = np.array([1.0, 2, 4, 8])
    curve = pd.DataFrame({"label": "a", "n_shots": shots, "map": 0.8 * shots / (1 + shots)})
    frame = pd.concat([curve, curve.assign(label="b", map=0.5)])
    fits = {"a": stats.fit_hyperbola(shots, curve["map"].to_numpy())}
    axes = scores.shot_scale(frame, fits)
    line, *points = axes.get_lines()
    np.testing.assert_allclose(line.get_ydata(), 0.8 * line.get_xdata() / (1 + line.get_xdata()))
    assert [list(one.get_ydata()) for one in points] == [list(curve["map"]), [0.5] * 4]
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["a (n = 4 trials, R = 1.00)", "b (n = 4 trials)"]


def test_curves_that_stay_under_a_hundredth_are_left_out_and_stars_stand_where_asked() -> None:
    thresholds, rows = [0.5, 0.75], []
    for label, height in (("a", 0.8), ("b", 0.009)):
        rows += [
            {"label": label, "tuned": True, "seed": 0, "threshold": t, "ap": height, "image": "x"}
            for t in thresholds
        ]
    axes = scores.transfer(pd.DataFrame(rows), [0.75])
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["a, tuned (n = 1 state)"]
    assert [(text.get_text(), text.get_position()[0]) for text in axes.texts] == [("*", 0.75)]

"""Panels of Fig. 1 and labels of trials: what they draw and measure, by arithmetic."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from scellseg_lib.data import Sample
from scellseg_lib.model import new_model
from scellseg_lib.panels import pipeline, scores
from scellseg_lib.segment import Cells, Prediction


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
    colours = pipeline.flow_colours(flows)[0]
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

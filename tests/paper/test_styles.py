"""Style embeddings: at each image's scale, laid out alike each time, purity by arithmetic."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scellseg_lib.errors import ScellsegError
from scellseg_lib.model import new_model
from scellseg_lib.paper.shots import coverage_order
from scellseg_lib.paper.styles import Purity, purity, style_embeddings, styles_of, tsne
from scellseg_lib.samples import Dataset, Sample
from scellseg_lib.style import embed
from tests import tiny


def clouds(distance: float, n: int = 20, sets: int = 2) -> pd.DataFrame:
    """Round clouds of points in 8 dimensions, their middles ``distance`` apart."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(sets * n, 8))
    points[:, 0] += np.repeat(np.arange(sets), n) * distance
    frame = pd.DataFrame(points, columns=[f"s{k}" for k in range(8)])
    return frame.assign(
        data=np.repeat([f"set{k}" for k in range(sets)], n), image=range(sets * n), size=0.0
    )


def test_each_image_is_embedded_at_the_scale_of_its_cells():
    model = new_model("scellseg", tiny.LEVELS)
    empty = Sample("empty", lambda: np.zeros((2, 60, 60)), lambda: np.zeros((60, 60), np.int32))
    worms, other = tiny.worms(2), Dataset("other", "", "", (tiny.contrast()[0], empty))
    frame = style_embeddings(model, [worms, other])
    assert frame["data"].tolist() == ["worms", "worms", "other"]  # no cells, no scale
    assert frame["image"].tolist() == ["worm0", "worm1", "c0"]
    assert styles_of(frame).shape == (3, tiny.LEVELS[-1])
    expected = embed(model, worms[1], worms[1].diameter)
    np.testing.assert_allclose(styles_of(frame)[1], expected, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(styles_of(frame), axis=1), 1, rtol=1e-5)


def test_far_clouds_are_pure_and_one_cloud_is_not():
    far, near = purity(clouds(20)), purity(clouds(0))
    assert far.knn_accuracy == 1
    assert far.silhouette > 0.6
    assert near.knn_accuracy < 0.75
    assert abs(near.silhouette) < 0.1
    assert (far.chance, far.n_images) == (0.5, 40)


def test_purity_is_that_of_arithmetic():
    # Two places 1 apart, six images on each: every own distance is 0, every other 1.
    frame = pd.DataFrame({"s0": [0.0] * 6 + [1.0] * 6, "data": ["a"] * 6 + ["b"] * 6})
    assert purity(frame.assign(image=range(12))) == Purity(1.0, 1.0, 0.5, 12)


def test_coverage_begins_in_the_middle_and_goes_where_most_is_missing():
    line = np.array([[0.0], [1.0], [2.5], [5.0], [6.0], [6.1]])
    assert coverage_order(line, line)[:2] == [2, 4]
    # Images that may not be annotated are to be covered all the same.
    candidates, more = np.array([[0.0], [4.0], [5.0]]), np.array([[9.0], [9.5]])
    assert coverage_order(candidates, np.concatenate((candidates, more))) == [2, 0, 1]


def test_coverage_takes_what_leaves_the_least_distance():
    images = np.random.default_rng(1).normal(size=(30, 4))
    order = coverage_order(images[:12], images)
    assert sorted(order) == list(range(12))
    gaps = np.linalg.norm(images[:12, None] - images[None], axis=2)
    for n in range(1, 13):  # no other next one would have left less
        left = [k for k in range(12) if k not in order[: n - 1]]
        worst = {k: gaps[[*order[: n - 1], k]].min(axis=0).max() for k in left}
        assert worst[order[n - 1]] == min(worst.values())


@pytest.mark.parametrize("frame", [clouds(1, sets=1), clouds(1, n=5)])
def test_too_little_for_purity_is_refused(frame: pd.DataFrame):
    with pytest.raises(ScellsegError, match="purity is not defined"):
        purity(frame)


def test_the_layout_is_the_same_each_time_and_keeps_far_clouds_apart():
    frame = clouds(20)
    first, again, other = (tsne(frame, perplexity=10, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert first.columns.tolist() == ["data", "image", "x", "y"]
    for layout in (first, other):
        points = layout[["x", "y"]].to_numpy()
        gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(gaps, np.inf)
        assert (layout["data"].to_numpy()[gaps.argmin(axis=1)] == layout["data"]).all()
    with pytest.raises(ScellsegError, match="too few"):
        tsne(frame, perplexity=40)

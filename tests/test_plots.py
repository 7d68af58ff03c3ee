"""Figures: the contours lie on the cells, the curves show the numbers, the bytes are repeatable."""

import hashlib
import json

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from scellseg_lib import errors, plots


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def two_cells() -> np.ndarray:
    masks = np.zeros((40, 60), np.int32)
    masks[5:15, 10:30] = 3
    masks[30:40, 50:60] = 7  # touches the border
    return masks


def test_contours_run_half_a_pixel_outside_the_cells_and_tell_touching_ones_apart() -> None:
    first, last = plots.contours(two_cells())
    assert first.min(axis=0).tolist() == [9.5, 4.5]  # (x, y)
    assert first.max(axis=0).tolist() == [29.5, 14.5]
    assert last.max(axis=0).tolist() == [59.5, 39.5]
    assert (first[0] == first[-1]).all()
    touching = np.repeat([[0, 1, 1, 2, 2, 0]], 5, axis=0).astype(np.int32)
    assert len(plots.contours(touching)) == 2
    assert plots.contours(np.zeros((4, 4), np.int32)) == []


def test_overlay_has_the_papers_colours() -> None:
    masks = two_cells()
    image = np.random.default_rng(0).random((2, 40, 60), np.float32)
    axes = plots.overlay(image, masks, true=np.where(masks == 3, masks, 0))
    true, predicted = axes.collections
    red, yellow = (matplotlib.colors.to_rgba(colour) for colour in ("red", plots.TRUE))
    assert tuple(predicted.get_edgecolor()[0]) == red
    assert tuple(true.get_edgecolor()[0]) == yellow
    assert predicted.get_linestyle()[0][1] is not None  # dotted
    assert true.get_linestyle()[0][1] is None  # solid
    assert (len(predicted.get_segments()), len(true.get_segments())) == (2, 1)
    assert legend(axes) == ["truth (n = 1 cells)", "prediction (n = 2 cells)"]
    with pytest.raises(errors.ImageError, match="prediction"):
        plots.overlay(np.zeros((40, 61)), two_cells())


def legend(axes: plt.Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def scores(ap: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    """One row per label, seed, image and threshold; two images that differ by 0.2."""
    rows = [
        {"label": label, "seed": seed, "image": image, "threshold": t, "ap": value + shift}
        for (label, seed), values in ap.items()
        for t, value in zip((0.5, 0.75), values, strict=True)
        for image, shift in (("A", -0.1), ("B", 0.1))
    ]
    return pd.DataFrame(rows)


def test_curve_is_the_mean_and_its_band_the_deviation_over_seeds() -> None:
    frame = scores({("ours", 0): [0.8, 0.4], ("ours", 1): [0.6, 0.4], ("theirs", 0): [0.5, 0.3]})
    axes = plots.ap_curve(frame)
    ours, theirs = axes.lines
    np.testing.assert_allclose(ours.get_xydata(), [(0.5, 0.7), (0.75, 0.4)])
    np.testing.assert_allclose(theirs.get_xydata(), [(0.5, 0.5), (0.75, 0.3)])
    (band,) = axes.collections  # none for a single seed
    y = band.get_paths()[0].vertices[:, 1]
    assert (y.min(), y.max()) == pytest.approx((0.4, 0.7 + 0.2 / np.sqrt(2)))
    assert legend(axes) == ["ours (n = 2 images, 2 seeds)", "theirs (n = 2 images)"]
    assert "SD over seeds" in axes.get_legend().get_title().get_text()
    axes = plots.ap_curve(frame[:4].drop(columns=["label", "seed"]))  # one run needs no label
    assert legend(axes) == ["n = 2 images"]
    assert axes.get_legend().get_title().get_text() == "mean over images"


def test_curve_of_one_image_is_marked_where_one_looks_and_lies_beside_another() -> None:
    thresholds = np.arange(50, 96) / 100
    now = pd.DataFrame({"threshold": thresholds, "ap": 1 - thresholds, "image": "A"})
    frame = pd.concat([now.assign(label="now"), now.assign(label="before", ap=0.3)])
    axes = plots.ap_curve(frame, marked=0.6)
    assert legend(axes) == ["now", "AP 0.40 at IoU 0.60", "before"]
    assert axes.get_legend().get_title().get_text() == ""
    _, line, dot, _ = axes.lines
    assert list(line.get_xdata()) == [0.6, 0.6]
    np.testing.assert_allclose(dot.get_xydata(), [(0.6, 0.4)])


def test_saving_twice_gives_the_same_bytes_and_they_are_shown_again(tmp_path) -> None:
    with pytest.raises(errors.DatasetError, match=r"fig2.c.png: the figure has not been drawn"):
        plots.show_saved(tmp_path / "first" / "fig2.c")
    hashes = []
    for name in ("first", "second"):
        axes = plots.ap_curve(scores({("ours", 0): [0.8, 0.4], ("ours", 1): [0.6, 0.4]}))
        plots.overlay(np.eye(40, 60), two_cells(), axes=axes.inset_axes((0.6, 0.6, 0.3, 0.3)))
        png = plots.save(axes.figure, tmp_path / name / "fig2.c", {"seed": 1, "data": "worms"})
        assert png == tmp_path / name / "fig2.c.png"
        files = sorted((tmp_path / name).iterdir())
        assert [file.name for file in files] == ["fig2.c.json", "fig2.c.png", "fig2.c.svg"]
        hashes.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert hashes[0] == hashes[1]
    assert json.loads(files[0].read_text()) == {"data": "worms", "seed": 1}
    assert ">IoU threshold<" in files[2].read_text()  # text stays text
    assert "dc:date" not in files[2].read_text()
    shown = plots.show_saved(tmp_path / "first" / "fig2.c", width=4)
    np.testing.assert_array_equal(shown.images[0].get_array(), plt.imread(png))
    assert shown.figure.get_size_inches()[0] == 4

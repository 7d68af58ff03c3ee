"""Scores against arithmetic and what Cellpose counted."""

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scellseg_lib import Sample, metrics
from scellseg_lib.errors import MetricError, ScellsegError
from tests.benchmarks.label_pairs import disc_grid, random_pair


def strip(*spans: tuple[int, int, int], width: int = 40) -> np.ndarray:
    """Label image of one row: (start, stop, label) spans."""
    labels = np.zeros((1, width), np.int32)
    for start, stop, label in spans:
        labels[0, start:stop] = label
    return labels


def test_an_iou_equal_to_the_threshold_passes_however_computed_and_one_pixel_less_not() -> None:
    true = strip((0, 100, 1), width=200)
    for percent in range(50, 100, 5):
        for shared, expected in ((percent, 1.0), (percent - 1, 0.0)):
            predicted = strip((0, shared, 1), width=200)
            assert metrics.average_precision(true, predicted, [percent / 100])[0] == expected
    accumulated = np.arange(0.5, 1, 0.05)
    assert accumulated[2] > 0.6  # this is what a floating-point comparison trips over
    true, predicted = strip((0, 10, 1)), strip((0, 6, 1))
    ap = metrics.average_precision(true, predicted, accumulated)
    np.testing.assert_array_equal(ap, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    told = metrics.scores(true, predicted, accumulated).thresholds
    assert told.tolist() == list(metrics.THRESHOLDS)


def test_below_one_half_as_many_as_possible_are_matched_and_of_equal_ious_the_larger() -> None:
    true = strip((0, 10, 1), (10, 20, 2))
    predicted = strip((0, 4, 1), (4, 14, 2))  # IoUs: 1-1 0.4, 1-2 6/14, 2-2 0.25
    result = metrics.scores(true, predicted, [0.25, 0.4, 0.42])
    assert result.tp.tolist() == [2, 1, 1]
    assert result.ap.tolist() == [1, 1 / 3, 1 / 3]
    assert metrics.match(true, predicted, 0.25)["partner"].tolist() == [1, 2, 1, 2]
    assert metrics.match(true, predicted, 0.4)["partner"].tolist() == [2, 0, 0, 1]
    one, other = np.array([[0, 1, 1, 1, 0, 0, 0, 0, 0]]), np.array([[1, 1, 2, 2, 2, 2, 2, 2, 2]])
    assert metrics.overlap(one, other).iou.tolist() == [1 / 4, 2 / 8]
    for pair in ((one, other), (other, one)):
        assert metrics.scores(*pair, [0.2]).aji.tolist() == [2 / 10]  # the larger overlap


def test_empty_against_empty_is_perfect_and_one_sided_emptiness_is_nothing() -> None:
    nothing, something = strip(), strip((0, 10, 1))
    for true, predicted in ((nothing, nothing), (nothing, something), (something, nothing)):
        score = float(true is predicted)
        assert metrics.scores(true, predicted).ap.mean() == score
        for threshold in (None, 0.5):
            assert metrics.aggregated_jaccard_index(true, predicted, threshold) == score


def test_labels_need_not_be_contiguous_nor_of_one_type_nor_in_one_order() -> None:
    true, predicted = disc_grid(30, seed=2)
    gaps = np.append(0, np.random.default_rng(0).permutation(np.arange(1, 250))[:30])[predicted]
    large = np.where(predicted > 0, predicted + np.int64(2**40), 0)
    types = (np.uint8, np.uint16, ">u2", ">i4", np.int64, np.uint64)
    for changed in (*map(gaps.astype, types), large, np.asfortranarray(gaps)):
        np.testing.assert_equal(metrics.scores(true, changed), metrics.scores(true, predicted))
    views = (true[::2, ::-1], predicted[::2, ::-1])
    copies = map(np.ascontiguousarray, views)
    np.testing.assert_equal(metrics.scores(*views), metrics.scores(*copies))


def test_standard_aji_by_hand() -> None:
    # Prediction 1 serves true cells 1 and 2; prediction 2 is never used; cell 3 touches nothing.
    true = strip((0, 10, 1), (10, 14, 2), (20, 25, 3))
    predicted = strip((0, 14, 1), (30, 33, 2))
    assert metrics.aggregated_jaccard_index(true, predicted) == (10 + 4) / (14 + 14 + 5 + 3)
    assert metrics.aggregated_jaccard_index(true, predicted, 0.5) == 10 / (14 + 4 + 5 + 3)
    assert metrics.aggregated_jaccard_index(true, predicted, 0.75) == 0
    # A tie goes to the lower label.
    for small, large, aji in ((3, 8, 2 / (8 + 9)), (8, 3, 3 / (12 + 4))):
        predicted = strip((8, 12, small), (13, 22, large))  # IoU 2/8 and 3/12
        assert metrics.aggregated_jaccard_index(strip((10, 16, 1)), predicted) == aji


def test_scores_of_random_pairs_are_those_of_the_formula_from_either_side() -> None:
    """AJI as Kumar et al. wrote it: of equal IoUs that with the lower label counts."""
    for true, predicted in map(random_pair, range(20)):
        shared = np.zeros((true.max() + 1, predicted.max() + 1), int)
        np.add.at(shared, (true, predicted), 1)
        t, p, overlap = shared.sum(1)[1:], shared.sum(0)[1:], shared[1:, 1:]
        union = t[:, None] + p - overlap
        hit = {i: int(row.argmax()) for i, row in enumerate(overlap / union) if row.any()}
        whole = sum(union[pair] for pair in hit.items()) + np.delete(t, [*hit]).sum()
        whole += np.delete(p, [*{*hit.values()}]).sum()
        aji = sum(overlap[pair] for pair in hit.items()) / whole if whole else 1.0
        assert metrics.aggregated_jaccard_index(true, predicted) == pytest.approx(aji)
        one, other = metrics.scores(true, predicted), metrics.scores(predicted, true)
        assert (one.tp.tolist(), one.fp.tolist()) == (other.tp.tolist(), other.fn.tolist())


def test_counts_equal_those_of_cellpose() -> None:
    counts = pd.read_csv(Path(__file__).parent / "data" / "cellpose_counts.csv")
    pairs = counts.sort_values("threshold").groupby("pair")
    assert len(pairs) >= 30
    for seed, expected in pairs:
        result = metrics.scores(*random_pair(int(seed)), expected["threshold"].to_numpy())
        for name in ("tp", "fp", "fn"):
            assert getattr(result, name).tolist() == expected[name].tolist(), seed


def test_records_say_what_became_of_each_object() -> None:
    true = strip((0, 10, 4), (12, 20, 2), (30, 34, 9))
    predicted = strip((1, 10, 6), (12, 15, 5), (36, 40, 8))
    assert metrics.match(true, predicted, 0.5).to_dict("list") == {
        "side": ["true"] * 3 + ["predicted"] * 3,
        "label": [2, 4, 9, 5, 6, 8],
        "area": [8, 10, 4, 3, 9, 4],
        "outcome": ["FN", "TP", "FN", "FP", "TP", "FP"],
        "partner": [0, 6, 0, 0, 4, 0],
        "iou": [3 / 8, 0.9, 0.0, 3 / 8, 0.9, 0.0],
    }


def test_memory_grows_with_pixels_and_not_with_pairs() -> None:
    true = np.arange(1, 160_001, dtype=np.int32).reshape(400, 400)  # a dense table: 200 GB
    metrics.overlap(true[:2], true[:2])
    tracemalloc.start()
    ap = metrics.scores(true, true[::-1]).ap.mean()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ap == 1.0
    assert peak < 1000 * true.size


def test_what_cannot_be_compared_is_refused() -> None:
    for true, predicted, words in (
        (np.zeros((4, 5), int), np.zeros((5, 4), int), r"\(4, 5\).*\(5, 4\).*nearest"),
        (np.full((4, 5), 0.5), np.zeros((4, 5), int), "true labels.*float64 from 0.0 to 0.5"),
        (np.zeros((4, 5), int), np.full((4, 5), -1), "predicted labels.*from -1.*on background 0"),
    ):
        with pytest.raises(ScellsegError, match=words):
            metrics.scores(true, predicted)
        with pytest.raises(ScellsegError, match=f"^image 1.*{words}"):
            metrics.evaluate([strip(), predicted], [strip(), true])
    for thresholds in ([0.0], [1.1], [-0.5], [np.nan], 0.5, [[0.5]]):
        with pytest.raises(MetricError, match="above 0 and at most 1"):
            metrics.average_precision(strip(), strip(), thresholds)  # type: ignore[arg-type]


def test_errors_are_in_what_is_measured_and_nothing_is_made_of_nothing() -> None:
    true, nothing = np.zeros((20, 30), int), np.zeros((20, 30), int)
    true[2:6, 2:12], true[8:12, 2:12] = 5, 2**40  # two cells of 4 x 10 px
    halved = np.where(np.arange(30) == 7, 0, true)  # of 5 and 4 px each
    halved[:, 8:][true[:, 8:] > 0] += 1
    long, *short = (np.sqrt(n**2 - 1) for n in (10, 4, 5))  # to which the axis is proportional
    expected = dict(zip(metrics.MEASURED, (1, -0.1, -0.55, np.mean(short) / long - 1), strict=True))
    assert metrics.measurement_errors(true, halved) == pytest.approx(expected)
    for given, found, error in ((true, nothing, -1), (nothing, true, np.nan)):
        errors = [*metrics.measurement_errors(given, found).values()]
        np.testing.assert_array_equal(errors, [error, error, np.nan, np.nan])


def test_evaluate_is_tidy_and_its_summary_averages_over_images() -> None:
    perfect, half = strip((0, 10, 1)), strip((0, 6, 1))
    truths = [Sample(name, lambda: None, lambda: perfect) for name in ("B05", "C19")]
    frame = metrics.evaluate([perfect, half], truths)
    scored = ["image", "threshold", "ap", "tp", "fp", "fn", "aji", "aji_standard"]
    assert list(frame) == [*scored, *metrics.MEASURED]
    assert frame["image"].tolist() == ["B05"] * 10 + ["C19"] * 10
    assert frame["threshold"].tolist() == list(metrics.THRESHOLDS) * 2
    second = frame[frame["image"] == "C19"]
    assert second["tp"].tolist() == [1, 1, 1] + [0] * 7
    assert set(second["aji_standard"]) == {0.6}
    assert set(second["total_area"]) == {6 / 10 - 1}
    expected = {"ap50": 1.0, "ap75": 0.5, "map": (1 + 0.3) / 2, "maji": (1 + 0.3 * 0.6) / 2}
    assert metrics.summary(frame) == pytest.approx(expected)
    frame = metrics.evaluate([perfect], [half], [0.5, 0.75])  # bare labels, too few thresholds
    assert frame["image"].tolist() == ["0", "0"]
    for call, words in (
        (lambda: metrics.summary(frame), r"lack the thresholds 0\.55.*default thresholds"),
        (lambda: metrics.evaluate([strip(), strip()], [strip()]), "2 predictions for 1"),
        (lambda: metrics.evaluate([], []), "no image"),
    ):
        with pytest.raises(MetricError, match=words):
            call()

"""Truth against prediction: colours, words and the curve, on squares whose IoU is arithmetic."""

from __future__ import annotations

import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from scellseg_lib import metrics
from scellseg_lib.errors import MetricError
from scellseg_lib.workbench import comparison
from scellseg_lib.workbench.comparison import COLOURS, IOUS, Standing


def bars(*pieces: tuple[int, int, int]) -> np.ndarray:
    """Bars of ten rows: label, first column and width each."""
    masks = np.zeros((10, 100), np.int32)
    for label, start, width in pieces:
        masks[:, start : start + width] = label
    return masks


# True cell 9 and found cell 12: IoU 8/10. 4 and 3: 6/10. 5 is missed, 7 is of nothing.
TRUE = bars((9, 0, 10), (4, 20, 10), (5, 40, 10))
FOUND = bars((12, 0, 8), (3, 20, 6), (7, 60, 10))


def rgba(colour: str, opacity: int) -> list[int]:
    return [*bytes.fromhex(colour[1:]), opacity]


# --- colours ---------------------------------------------------------------------------------


def test_found_cells_are_green_or_orange() -> None:
    colours = comparison.colours(metrics.match(TRUE, FOUND, 0.5), "predicted")
    assert colours.dtype == np.uint8
    assert colours.shape == (13, 4)
    assert colours[12].tolist() == colours[3].tolist() == rgba("#009E73", comparison.FILL)
    assert colours[7].tolist() == rgba("#E69F00", comparison.FILL)
    assert not colours[[0, 1, 2, 4, 5, 6, 8, 9, 10, 11]].any()


def test_missed_cells_are_blue() -> None:
    colours = comparison.colours(metrics.match(TRUE, FOUND, 0.5), "true")
    assert colours.shape == (10, 4)
    assert colours[9].tolist() == colours[4].tolist() == rgba("#009E73", 255)
    assert colours[5].tolist() == rgba("#0072B2", 255)


@pytest.mark.parametrize(
    ("iou", "right"), [(0.60, {12, 3}), (0.61, {12}), (0.80, {12}), (0.81, set())]
)
def test_colours_follow_the_threshold(iou: float, right: set[int]) -> None:
    colours = comparison.colours(metrics.match(TRUE, FOUND, iou), "predicted")
    green = np.all(colours[:, :3] == list(bytes.fromhex(COLOURS["TP"][1:])), axis=1)
    assert set(np.flatnonzero(green)) == right


@pytest.mark.parametrize("side", comparison.SIDES)
def test_nothing_has_no_colour(side: comparison.Side) -> None:
    nothing = metrics.match(bars(), bars())
    assert comparison.colours(nothing, side).tolist() == [[0, 0, 0, 0]]
    assert comparison.tips(nothing, side) == [""]


# --- words -----------------------------------------------------------------------------------


def test_tips_name_the_partner() -> None:
    found = metrics.match(TRUE, FOUND, 0.7)
    tips = comparison.tips(found, "predicted")
    assert tips[12] == "cell 12: matches true cell 9, IoU 0.80, true positive"
    assert tips[3] == "cell 3: matches no true cell (best IoU 0.60), false positive"
    assert tips[7] == "cell 7: matches no true cell (best IoU 0.00), false positive"
    true = comparison.tips(found, "true")
    assert true[9] == "true cell 9: found as cell 12, IoU 0.80, true positive"
    assert true[4] == "true cell 4: missed (best IoU 0.60), false negative"
    assert len(tips) == 13
    assert sum(map(bool, tips)) == sum(map(bool, true)) == 3


def test_iou_is_never_rounded_over_a_threshold() -> None:
    assert comparison.shown(0.4999) == "0.49"
    assert [comparison.shown(iou) for iou in IOUS] == [f"{iou:.2f}" for iou in IOUS]
    assert comparison.shown(1.0) == "1.00"


def test_sizes_by_label() -> None:
    tips = comparison.sizes(FOUND)
    assert tips[12] == "cell 12: 80 pixels"
    assert len(tips) == 13


def test_legend_counts_in_words() -> None:
    text = comparison.legend(metrics.match(TRUE, FOUND, 0.7), FOUND, 0.7)
    counts = re.findall(r"<b>(\d+)</b></td><td>(\w+ \w+): ", text)
    assert counts == [("1", "true positive"), ("2", "false positive"), ("2", "false negative")]
    assert "0.70 or more" in text
    assert "3 cells" in comparison.legend(None, FOUND, 0.7)


# --- the list --------------------------------------------------------------------------------


def standing(name: str, true: np.ndarray, found: np.ndarray) -> Standing:
    return Standing(name, comparison.scores(true, found))


def test_standing_is_that_of_the_metrics() -> None:
    assert set(metrics.THRESHOLDS) <= set(IOUS)
    one = standing("one", TRUE, FOUND)
    assert one.mean_ap == pytest.approx(metrics.mean_average_precision(TRUE, FOUND))
    assert one.ap(0.6) == 2 / 4  # of four cells in all, two are right
    assert one.ap(0.61) == 1 / 5


def test_worst_first_at_the_threshold() -> None:
    steady = standing("steady", bars((1, 0, 10), (2, 20, 10)), bars((1, 0, 10)))  # 1/2 throughout
    rough = standing("rough", bars((1, 0, 10)), bars((1, 0, 6)))  # 1 up to 0.60, then 0
    unknown, broken = Standing("unknown"), Standing("broken", problem="sizes differ")
    images = [broken, unknown, rough, steady]
    names = [[images[i].name for i in comparison.worst_first(images, iou)] for iou in (0.6, 0.7)]
    assert names == [
        ["steady", "rough", "unknown", "broken"],
        ["rough", "steady", "unknown", "broken"],
    ]


def test_equal_ap_is_ordered_by_the_mean() -> None:
    images = [standing(str(w), bars((1, 0, 10)), bars((1, 0, w))) for w in (9, 6, 10, 8)]
    assert [images[i].name for i in comparison.worst_first(images, 0.5)] == ["6", "8", "9", "10"]


def test_lines_say_the_scores() -> None:
    assert comparison.line(standing("A05", TRUE, FOUND), 0.6) == "AP 0.50 · mean 0.23 · A05"
    assert "no true cells given" in comparison.line(Standing("A06"), 0.6)
    assert "cannot be compared" in comparison.line(Standing("A07", problem="why"), 0.6)


def test_summary_leaves_out_what_has_no_truth() -> None:
    perfect = standing("perfect", TRUE, TRUE)
    text = comparison.summary([perfect, standing("empty", TRUE, bars()), Standing("none")], 0.5)
    assert "3 images" in text
    assert "Over the 2 images with true cells: AP 0.50 at IoU 0.50, mean AP 0.50" in text
    alone = comparison.summary([Standing("none")], 0.5)
    assert "<b>1 image</b>, the worst first</div>" in alone
    assert "1 image still" in comparison.summary([Standing("none")], 0.5, n_stale=1)


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(MetricError, match="Resize the prediction"):
        comparison.scores(TRUE, FOUND[:5])


# --- the curve -------------------------------------------------------------------------------


def test_curve_marks_the_threshold() -> None:
    scores = comparison.scores(TRUE, FOUND)
    drawn = ElementTree.fromstring(comparison.curve(scores, 0.6))
    space = "{http://www.w3.org/2000/svg}"
    points = [
        tuple(map(float, point.split(",")))
        for point in drawn.find(f"{space}polyline").get("points").split()  # type: ignore[union-attr]
    ]
    assert len(points) == len(IOUS)
    dot = drawn.find(f"{space}circle")
    assert dot is not None
    assert (float(dot.get("cx", 0)), float(dot.get("cy", 0))) == points[IOUS.index(0.6)]
    heights = [height for _, height in points]
    assert heights == sorted(heights)  # AP falls, and height is counted from above
    assert "AP 0.50 at IoU 0.60" in {text.text for text in drawn.iter(f"{space}text")}


def test_curve_shows_what_was_before() -> None:
    before, after = comparison.scores(TRUE, FOUND), comparison.scores(TRUE, TRUE)
    assert comparison.curve(after, 0.5).count("<polyline") == 1
    assert comparison.curve(after, 0.5, before).count("<polyline") == 2
    assert comparison.curve(None, 0.5) == ""


@pytest.mark.parametrize("with_truth", [True, False])
def test_still_picture(with_truth: bool) -> None:
    buffer = BytesIO()
    Image.fromarray(np.full((40, 60, 3), (0, 158, 115), np.uint8)).save(buffer, "PNG")
    scores = comparison.scores(TRUE, FOUND) if with_truth else None
    drawn = Image.open(BytesIO(comparison.still(buffer.getvalue(), "A05", scores, 0.6)))
    assert drawn.size == ((900, 400) if with_truth else (600, 400))
    pixels = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    assert (pixels == (0, 158, 115)).all(axis=1).mean() > 0.2

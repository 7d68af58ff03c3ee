"""The inspector: what is seen of each image, thresholds that act at once, and the way from image to
image.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from scellseg_lib import progress, representation
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.metrics import match
from scellseg_lib.model import new_model
from scellseg_lib.representation import Decoding
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import Cells, Prediction, decode, segment
from scellseg_lib.workbench import session
from scellseg_lib.workbench.inspect import COLOURS, Inspector
from scellseg_lib.workbench.session import (
    SETTINGS,
    InspectedImage,
    Inspection,
    Newest,
    Thresholds,
)
from tests import tiny
from tests.workbench.waiting import LONG

SIZE = 120


def squares(*cells: tuple[int, int, int]) -> np.ndarray:
    """Square cells: first row, first column and side of each."""
    masks = np.zeros((SIZE, SIZE), np.int32)
    for label, (y, x, side) in enumerate(cells, start=1):
        masks[y : y + side, x : x + side] = label
    return masks


# Squares of 20, 24 and 30 px; the logit falls from the first to the third.
TRUE = squares((10, 10, 20), (10, 60, 24), (60, 20, 30))
LOGITS = (0, 5, 3, 1)


def said(masks: np.ndarray = TRUE, name: str = "flow") -> Prediction:
    """What a network says that sees all, but is less sure of each further cell."""
    chosen = representation.get(name)
    if name.startswith("unet"):
        classes = chosen.targets(masks)[0].astype(int)
        sure = np.take(LOGITS, np.minimum(masks, 3))
        maps = np.stack([(classes == k) * (sure if k == 1 else 6) for k in range(chosen.n_outputs)])
    else:
        maps = chosen.targets(masks)
        maps[:2] *= 5
        maps[2] = np.where(masks > 0, np.take(LOGITS, np.minimum(masks, 3)), -6)
    style = np.ones(4, np.float32) / 2
    return Prediction("a", maps.astype(np.float32), style, masks.shape, 30.0)


def entry(
    name: str = "a", true: Any = TRUE, predicted: np.ndarray = TRUE, **more
) -> InspectedImage:
    image = np.random.default_rng(0).integers(0, 255, predicted.shape).astype(np.uint8)
    return InspectedImage(name, image, true, predicted, **more)


def movable(name: str = "a", true: Any = TRUE, kind: str = "flow") -> InspectedImage:
    """An image whose thresholds can be moved."""
    chosen, decoding = representation.get(kind), Decoding()
    masks = decode(said(name=kind), chosen, decoding)
    return replace(entry(name, true, masks), prediction=said(name=kind), representation=chosen,
                   decoding=decoding)  # fmt: skip


def found(panel: ipywidgets.Widget, name: str) -> Any:
    """The one widget of a class of the page."""
    hits, waiting = [], [panel]
    while waiting:
        widget = waiting.pop()
        waiting += getattr(widget, "children", ())
        if f"scellseg-{name}" in widget._dom_classes:
            hits.append(widget)
    assert len(hits) == 1
    return hits[0]


def text(panel: Inspector, name: str) -> str:
    return found(panel, name).value


def colour(panel: Inspector, label: int, side: int = 0) -> str:
    """What became of a cell by its colour; side 1: true cells."""
    table = panel.view._colours[side]
    assert table is not None
    of = {tuple(bytes.fromhex(value[1:])): name for name, value in COLOURS.items()}
    return of[tuple(table[label, :3].tolist())]


# --- one image -------------------------------------------------------------------------------


def test_nothing_says_what_to_do() -> None:
    panel = Inspector()
    assert "Segment one or more images first" in text(panel, "message")
    assert panel.entry is None
    assert panel.names == []
    panel.next()  # and nothing happens
    panel.iou.value = 0.7
    panel.show([entry()])
    assert "Segment" not in text(panel, "message")
    assert panel.entry is not None
    panel.show([])
    assert "Segment one or more images first" in text(panel, "message")


def test_cells_are_coloured_told_and_counted() -> None:
    # IoU 1; 16 of 24 rows, 2/3; one of nothing; the third true cell is missed.
    predicted = TRUE.copy()
    predicted[26:34, 60:84] = 0
    predicted[predicted == 3] = 0
    predicted[95:110, 95:110] = 3
    panel = Inspector([entry(predicted=predicted)])
    np.testing.assert_array_equal(panel.view.labels, predicted)
    assert [colour(panel, label) for label in (1, 2, 3)] == ["TP", "TP", "FP"]
    assert [colour(panel, label, 1) for label in (1, 2, 3)] == ["TP", "TP", "FN"]
    assert panel.view._tips[0][2] == "cell 2: matches true cell 2, IoU 0.66, true positive"
    assert panel.view._tips[1][3] == "true cell 3: missed (best IoU 0.00), false negative"
    assert "AP 0.50 at IoU 0.50" in text(panel, "ap-curve")
    panel.iou.value = 0.67
    assert [colour(panel, label) for label in (1, 2, 3)] == ["TP", "FP", "FP"]
    assert colour(panel, 2, 1) == "FN"
    assert "AP 0.20 at IoU 0.67" in text(panel, "ap-curve")
    assert "0.67 or more" in text(panel, "legend")


def test_cell_that_is_clicked_is_told() -> None:
    panel = Inspector([entry()])
    assert "Point at a cell" in text(panel, "told")
    panel.view.selected = 2
    assert text(panel, "told") == "cell 2: matches true cell 2, IoU 1.00, true positive"
    panel.view.selected = 0
    assert "Point at a cell" in text(panel, "told")


def test_without_truth_the_prediction_is_shown() -> None:
    panel = Inspector([entry(true=None)])
    np.testing.assert_array_equal(panel.view.labels, TRUE)
    assert panel.view._colours == [None, None]
    assert panel.view._reference is None
    assert panel.view._tips[0][1] == "cell 1: 400 pixels"
    assert "3 cells" in text(panel, "legend")
    assert text(panel, "ap-curve") == ""


@pytest.mark.parametrize("true", [TRUE, np.zeros_like(TRUE), None])
def test_no_cells_at_all(true: np.ndarray | None) -> None:
    panel = Inspector([entry(true=true, predicted=np.zeros_like(TRUE))])
    assert "No cells were found" in text(panel, "message")
    ap = {0: "AP 1.00", 3: "AP 0.00"}
    assert true is None or ap[true.max()] in text(panel, "ap-curve")


def test_sizes_that_differ_are_said() -> None:
    good, bad = entry("good"), entry("bad", true=TRUE[:50])
    panel = Inspector([bad, good])
    assert panel.names == ["good", "bad"]
    panel.next()
    message = text(panel, "message")
    assert "Problem" in message
    assert "(50, 120)" in message
    assert "Resize" in message
    np.testing.assert_array_equal(panel.view.labels, TRUE)
    panel.next()
    assert "Problem" not in text(panel, "message")


def broken() -> np.ndarray:
    raise ImageError("the file is damaged", where="a.tif", remedy="Get it again.")


@pytest.mark.parametrize("image", [broken, np.zeros((50, 50)), Path("absent.tif").read_bytes])
def test_image_that_cannot_be_shown(image: Any) -> None:
    panel = Inspector([replace(entry(), image=image)])
    assert "Problem" in text(panel, "message")
    np.testing.assert_array_equal(panel.view.labels, TRUE)
    assert colour(panel, 1) == "TP"


def test_truth_that_cannot_be_read() -> None:
    panel = Inspector([entry("bad", true=broken), entry("good")])
    assert panel.names == ["good", "bad"]
    panel.next()
    assert "the file is damaged" in text(panel, "message")
    np.testing.assert_array_equal(panel.view.labels, TRUE)


# --- thresholds ------------------------------------------------------------------------------


def test_settings_are_those_that_are_read() -> None:
    """A setting is shown if and only if its value makes a difference to the representation."""
    extremes = {"min_size": (0, 10**6), "flow_threshold": (1e-9, 3)}
    for kind in ("flow", "hover", "unet2", "unet3"):
        chosen, maps = representation.get(kind), said(name=kind).maps
        maps = maps + np.random.default_rng(0).normal(size=maps.shape).astype(np.float32) / 10
        read = {
            name
            for name in SETTINGS
            if len({
                chosen.masks(maps, Decoding().model_copy(update={name: value})).tobytes()
                for value in extremes.get(name, (-50, 50))
            }) > 1
        }  # fmt: skip
        assert set(chosen.thresholds) == read


@pytest.mark.parametrize("kind", ["flow", "hover", "unet2", "unet3"])
def test_moved_thresholds_give_what_decode_gives(kind: str) -> None:
    panel = Inspector([movable(kind=kind)])
    first = representation.get(kind).thresholds[0]
    values = {first: 4.0, "min_size": 150}
    for name, value in values.items():
        found(panel, name.replace("_", "-")).value = value
    wanted = Decoding().model_copy(update=values)  # type: ignore[arg-type]
    expected = decode(said(name=kind), representation.get(kind), wanted)
    assert expected.max() == 1  # of three
    np.testing.assert_array_equal(panel.view.labels, expected)
    assert panel.entry is not None
    assert panel.entry.decoding == wanted
    np.testing.assert_array_equal(panel.entry.predicted, expected)
    assert match(TRUE, expected).tp == 1
    assert colour(panel, 2, 1) == "FN"
    assert "AP 0.33 at IoU 0.50" in text(panel, "ap-curve")


def test_thresholds_are_taken_back() -> None:
    panel = Inspector([movable()])
    slider, reset = found(panel, "cell-threshold"), found(panel, "thresholds-reset")
    assert (slider.value, reset.disabled) == (0.5, True)
    slider.value = 4.0
    assert panel.view.labels.max() == 1
    assert text(panel, "ap-curve").count("<polyline") == 2
    assert not reset.disabled
    reset.click()
    assert slider.value == 0.5
    assert panel.thresholds.chosen == {}
    assert reset.disabled
    assert panel.view.labels.max() == 3
    assert text(panel, "ap-curve").count("<polyline") == 1


def test_corrected_cells_come_back_with_the_thresholds() -> None:
    """Masks that were corrected by hand are not what the network's output gives."""
    corrected = squares((10, 10, 40))
    panel = Inspector([replace(movable(), predicted=corrected)])
    np.testing.assert_array_equal(panel.view.labels, corrected)
    slider = found(panel, "cell-threshold")
    slider.value = 4.0
    slider.value = 0.5
    np.testing.assert_array_equal(panel.view.labels, corrected)


def test_value_outside_of_the_usual_is_kept() -> None:
    unusual = Decoding(cell_threshold=-9.0, min_size=900)
    panel = Inspector([replace(movable(), decoding=unusual)])
    assert found(panel, "cell-threshold").value == -9.0
    assert found(panel, "min-size").value == 900
    assert panel.thresholds.chosen == {}


def test_without_the_networks_output_nothing_can_be_moved() -> None:
    panel = Inspector([entry("fixed", predicted=squares((10, 10, 20))), movable("movable")])
    reset, rows = found(panel, "thresholds-reset"), panel.thresholds._rows
    assert panel.entry is not None
    assert panel.entry.name == "fixed"
    assert {row.layout.display for row in rows.values()} == {"none"}
    assert "cannot be moved" in text(panel, "thresholds-note")
    assert reset.layout.display == "none"
    panel.next()
    assert {name for name, row in rows.items() if row.layout.display is None} == set(
        representation.get("flow").thresholds
    )
    assert text(panel, "thresholds-note") == ""


def test_only_the_newest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slider that is moved while cells are sought: those in between are never sought."""
    panel, values = Inspector([movable()]), []
    entered, go_on = Event(), Event()

    def slowly(prediction: Prediction, chosen: Any, decoding: Decoding, **options: Any):
        values.append(decoding.cell_threshold)
        entered.set()
        assert go_on.wait(LONG)
        return decode(prediction, chosen, decoding, **options)

    monkeypatch.setattr(session, "decode", slowly)
    slider = found(panel, "cell-threshold")
    first = Thread(target=lambda: setattr(slider, "value", 1.0))
    first.start()
    assert entered.wait(LONG)
    for value in (2.0, 3.0, 4.0):
        slider.value = value
    go_on.set()
    first.join(LONG)
    assert values == [1.0, 4.0]
    assert panel.view.labels.max() == 1
    assert panel.thresholds.chosen == {"cell_threshold": 4.0}


def test_newest_goes_on_after_an_error() -> None:
    calls = []

    def work() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise ValueError("the moon")

    newest = Newest(work)
    with pytest.raises(ValueError, match="the moon"):
        newest()
    newest()
    assert calls == [0, 1]


def test_steps_are_not_added_up_in_binary() -> None:
    thresholds = Thresholds(lambda: None)
    thresholds.load(Decoding(), representation.get("flow"))
    found(thresholds, "cell-threshold").value = 0.1 + 0.2
    assert thresholds.chosen == {"cell_threshold": 0.3}


def test_what_is_unforeseen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Inspector([movable()])

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("the moon")

    with monkeypatch.context() as patch:
        patch.setattr(session, "decode", fails)
        found(panel, "cell-threshold").value = 1.0
    assert "the moon" in text(panel, "message")
    found(panel, "cell-threshold").value = 4.0
    assert panel.view.labels.max() == 1


# --- several images --------------------------------------------------------------------------


def three() -> list[InspectedImage]:
    """AP at 0.5: two thirds, one third, unknown; at 0.85 the first has 0."""
    first = squares((10, 10, 18), (10, 60, 22))  # IoU 0.81 and 0.84
    second = squares((10, 10, 20))
    return [entry("unknown", None), entry("first", TRUE, first), entry("second", TRUE, second)]


def lines(panel: Inspector) -> list[str]:
    return [label for label, _ in found(panel, "images").options]


def test_list_is_worst_first_at_the_threshold() -> None:
    panel = Inspector(three())
    assert panel.names == ["second", "first", "unknown"]
    assert [line.split(" · ")[0] for line in lines(panel)] == [
        "AP 0.33",
        "AP 0.67",
        "no true cells given",
    ]
    assert panel.entry is not None
    assert panel.entry.name == "second"
    panel.iou.value = 0.85
    assert panel.names == ["first", "second", "unknown"]
    assert panel.entry.name == "second"  # what is looked at stays
    assert found(panel, "images").value == 2
    assert "image 2 of 3" in text(panel, "message")
    assert "AP 0.17 at IoU 0.85" in text(panel, "summary")


def test_next_and_previous_go_round() -> None:
    panel = Inspector(three())
    seen = []
    for _ in range(4):
        assert panel.entry is not None
        seen.append(panel.entry.name)
        found(panel, "next").click()
    assert seen == ["second", "first", "unknown", "second"]
    found(panel, "previous").click()
    found(panel, "previous").click()
    assert panel.entry.name == "unknown"
    found(panel, "previous").click()
    assert panel.entry.name == "first"
    np.testing.assert_array_equal(panel.view.labels, three()[1].predicted)
    assert panel.view.title == "first"


def test_image_is_chosen_in_the_list() -> None:
    panel = Inspector(three())
    found(panel, "images").value = 0
    assert panel.entry is not None
    assert panel.entry.name == "unknown"
    assert found(panel, "images").value == 0
    panel.show([entry("alone")])
    assert panel.entry.name == "alone"
    assert found(panel, "next").disabled


def test_thresholds_hold_for_the_next_image() -> None:
    panel = Inspector([movable("a"), movable("b"), entry("fixed")])
    found(panel, "cell-threshold").value = 4.0
    assert [line.endswith(" *") for line in lines(panel)] == [False, True, False]
    panel.next()
    assert panel.entry is not None
    assert panel.entry.name == "b"
    assert panel.view.labels.max() == 1
    assert not any("*" in line for line in lines(panel))


def test_thresholds_are_applied_to_all() -> None:
    panel = Inspector([movable(name) for name in "abc"])
    apply = found(panel, "apply")
    assert apply.disabled
    found(panel, "cell-threshold").value = 4.0
    assert not apply.disabled
    assert "* 2 images still at the thresholds before" in text(panel, "summary")
    assert "AP 0.78" in text(panel, "summary")  # (1/3 + 1 + 1) / 3
    panel.apply_to_all().join(LONG)
    assert apply.disabled
    assert "AP 0.33" in text(panel, "summary")
    assert not any("*" in line for line in lines(panel))
    assert "*" not in text(panel, "summary")
    assert "image 1 of 3" in text(panel, "message")


def test_failure_for_one_of_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Inspector([movable(name) for name in "ab"])
    found(panel, "cell-threshold").value = 4.0

    def fails(*_: Any, **__: Any) -> None:
        raise ImageError("no memory", remedy="Close other programs.")

    monkeypatch.setattr(session, "decode", fails)
    panel.apply_to_all().join(LONG)
    assert "Close other programs" in text(panel, "message")


def test_correct_this_image() -> None:
    given: list[InspectedImage] = []
    panel = Inspector([movable("a"), movable("b")], on_edit=given.append)
    found(panel, "cell-threshold").value = 4.0
    found(panel, "correct").click()
    assert [one.name for one in given] == ["a"]
    assert given[0].predicted.max() == 1
    np.testing.assert_array_equal(np.asarray(given[0].true), TRUE)
    assert found(Inspector([entry()]), "correct").layout.display == "none"


# --- what is read and asked when it is needed --------------------------------------------------


class Waiting:
    """An image whose cells are read, and whose network is asked, when that is needed."""

    def __init__(self, name: str, true: np.ndarray = TRUE) -> None:
        self.asked, self.read = Event(), 0
        self.known = movable(name, true)
        self.entry = replace(self.known, predicted=self.cells, prediction=self.answer)
        self.answers: Prediction | None = said()
        self.error: Exception | None = None

    def cells(self) -> np.ndarray:
        self.read += 1
        assert isinstance(self.known.predicted, np.ndarray)
        return self.known.predicted

    def answer(self) -> Prediction | None:
        self.asked.set()
        if self.error is not None:
            raise self.error
        return self.answers


def test_images_are_compared_one_by_one_and_their_memory_freed() -> None:
    true = [TRUE, squares((10, 10, 20)), squares((90, 90, 9))]
    waiting = [Waiting(name, cells) for name, cells in zip("abc", true, strict=True)]
    panel = Inspector([one.entry for one in waiting])
    panel.join(LONG)
    assert panel.names == ["c", "b", "a"]
    assert [line[:7] for line in lines(panel)] == ["AP 0.00", "AP 0.33", "AP 1.00"]
    assert "Over the 3 images with true cells: AP 0.44" in text(panel, "summary")
    assert [record._found is None for record in panel._inspections] == [False, True, True]
    assert [one.asked.is_set() for one in waiting] == [True, False, False]
    panel.go_to("b")
    panel.join(LONG)
    assert [record._found is None for record in panel._inspections] == [True, False, True]
    assert [record.prediction is None for record in panel._inspections] == [True, False, True]
    assert panel.names == ["c", "b", "a"]


def test_the_network_is_asked_about_each_image_that_is_looked_at() -> None:
    waiting = [Waiting(name) for name in "ab"]
    panel = Inspector([one.entry for one in waiting])
    panel.join(LONG)
    found(panel, "cell-threshold").value = 4.0
    assert panel.view.labels.max() == 1
    panel.next()
    panel.join(LONG)
    assert panel.entry is not None
    assert (panel.entry.name, panel.entry.predicted.max()) == ("b", 1)
    assert text(panel, "thresholds-note") == ""
    assert "cell probability" in {layer.name for layer in panel.view._layers}


def test_the_page_stays_alive_while_the_network_is_asked() -> None:
    one, gate = Waiting("a"), Event()

    def slow() -> Prediction:
        assert gate.wait(LONG)
        return said()

    panel = Inspector([replace(one.entry, prediction=slow)])
    panel.iou.value = 0.6
    assert text(panel, "thresholds-note").startswith("The network is asked")
    found(panel, "cell-threshold").value = 4.0
    assert panel.view.labels.max() == 3  # as they were given
    gate.set()
    panel.join(LONG)
    assert panel.view.labels.max() == 1
    assert text(panel, "thresholds-note") == ""


def test_thresholds_are_applied_to_images_that_were_not_asked_about() -> None:
    waiting = [Waiting(name) for name in "abc"]
    panel = Inspector([one.entry for one in waiting])
    panel.join(LONG)
    found(panel, "cell-threshold").value = 4.0
    assert [line.endswith("*") for line in lines(panel)].count(True) == 2
    panel.apply_to_all().join(LONG)
    assert all(one.asked.is_set() for one in waiting)
    assert not any("*" in line for line in lines(panel))
    assert "AP 0.33" in text(panel, "summary")


@pytest.mark.parametrize("fails", [False, True])
def test_a_network_that_does_not_answer(fails: bool) -> None:
    one = Waiting("a")
    one.answers = None
    one.error = ImageError("no memory", remedy="Close other programs.") if fails else None
    panel = Inspector([one.entry])
    panel.join(LONG)
    assert "choose it under 3 segment" in text(panel, "thresholds-note").lower()
    assert ("Close other programs" in text(panel, "message")) is fails
    assert panel.entry is not None
    assert panel.entry.prediction is None


def test_an_image_that_is_left_when_the_network_answers_is_asked_about_again() -> None:
    class Left(Inspection):
        """Its memory is freed at the very moment."""

        prediction = property(lambda self: None, lambda self, answer: None)  # type: ignore[assignment]

    one = Waiting("a")
    record = Left(one.entry)
    record.ask()
    assert one.asked.is_set()
    assert record.is_unasked


def test_cells_that_cannot_be_read_are_a_problem_of_one_image() -> None:
    def damaged() -> np.ndarray:
        raise ImageError("the file is damaged", where="a_masks.tif")

    sound, broken = Waiting("a"), replace(Waiting("b").entry, predicted=damaged)
    panel = Inspector([sound.entry, broken])
    panel.join(LONG)
    assert lines(panel)[1] == "cannot be compared · b"
    panel.next()
    panel.join(LONG)
    assert "a_masks.tif: the file is damaged" in text(panel, "message")
    panel.next()
    assert "a: image 1 of 2" in text(panel, "message")


# --- from what segment gives -----------------------------------------------------------------


def test_of_cells_and_samples() -> None:
    model = new_model("scellseg", tiny.LEVELS)
    worms = tiny.worms(2)
    samples = [worms[0], worms[1].without_masks()]
    cells = segment(model, samples, diameter=30.0, resample=False, cell_threshold=-2.0)
    used = model.card.decoding.model_copy(update={"cell_threshold": -2.0})
    panel = Inspector.of(cells, samples, model, resample=False, decoding=used)
    assert panel.names == ["worm0", "worm1"]
    assert panel.entry is not None
    np.testing.assert_array_equal(panel.view.labels, cells[0].masks)
    np.testing.assert_array_equal(np.asarray(panel.entry.true), worms[0].masks)
    assert [layer.name for layer in panel.view._layers][-2:] == ["cell probability", "flow"]
    slider = found(panel, "cell-threshold")
    assert slider.value == -2.0
    slider.value = -3.0
    expected = decode(
        cells[0].prediction,
        model.representation,
        used.model_copy(update={"cell_threshold": -3.0}),
        resample=False,
    )
    np.testing.assert_array_equal(panel.view.labels, expected)


def test_of_others_cells_is_refused() -> None:
    model, worms = new_model("scellseg", tiny.LEVELS), tiny.worms(2)
    cells = [Cells(sample.name, TRUE, said()) for sample in worms]
    with pytest.raises(DatasetError, match="in the same order"):
        Inspector.of(cells[::-1], worms, model)
    with pytest.raises(DatasetError, match="2 results are not those of these 1 images"):
        Inspector.of(cells, worms[:1], model)


def test_nucleus_plane_is_shown_where_there_is_one() -> None:
    model = new_model("scellseg", tiny.LEVELS)
    planes = np.stack((TRUE, TRUE * 2)).astype(np.float32)
    for image, n_planes in ((planes, 2), (planes * [[[1]], [[0]]], 1)):
        sample = Sample("a", lambda image=image: image)  # type: ignore[misc]
        panel = Inspector.of([Cells("a", TRUE, said())], [sample], model)
        assert sum(layer.channel for layer in panel.view._layers) == n_planes


@pytest.mark.parametrize("kind", ["flow", "hover", "unet2", "unet3"])
def test_network_pictures(kind: str) -> None:
    maps = said(name=kind)
    pictures = session.network_pictures(
        replace(maps, shape=(SIZE * 2, SIZE)), representation.get(kind)
    )
    assert all(picture.shape[:2] == (SIZE * 2, SIZE) for picture in pictures.values())
    probability = pictures["cell probability"]
    assert probability[40, 20] > 0.9  # in the first cell
    assert probability[230, 110] < 0.5
    assert ("flow" in pictures) == (kind == "flow")


# --- where no browser is ---------------------------------------------------------------------


def test_still_picture_where_a_machine_runs_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    panel, empty = Inspector(three()), Inspector()
    monkeypatch.setattr(progress, "run_by_machine", lambda: True)
    data, _ = panel._repr_mimebundle_()
    picture = Image.open(BytesIO(b64decode(data["image/png"])))
    assert picture.size == (900, 400)
    assert "application/vnd.jupyter.widget-view+json" not in data
    assert data["text/plain"] == "Inspector: 3 images"
    data, _ = empty._repr_mimebundle_()
    assert data == {"text/plain": "Inspector: 0 images"}


def test_widget_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "run_by_machine", lambda: False)
    shown = Inspector([entry()])._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown


@pytest.mark.real_data
def test_thresholds_act_at_once_on_worms(real_data: Path) -> None:
    """New cells in under half a second on an image of 696 x 520 (BBBC010)."""
    sample = load_dataset("bbbc010_elegans").query[0]
    model = load_model("scellseg")
    cells = segment(model, [sample], diameter=sample.diameter, progress=False)
    panel = Inspector.of(cells, [sample], model)
    before = panel.view.labels.copy()
    found(panel, "cell-threshold").value = 2.0
    wanted = model.card.decoding.model_copy(update={"cell_threshold": 2.0})
    after = decode(cells[0].prediction, model.representation, wanted)
    np.testing.assert_array_equal(panel.view.labels, after)
    assert (before > 0).sum() > (after > 0).sum() > 0

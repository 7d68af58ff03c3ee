"""The inspector: what is seen of images and their cells, and thresholds that act at once."""

import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from scellseg_lib import metrics, representation
from scellseg_lib.errors import ImageError
from scellseg_lib.representation import Decoding
from scellseg_lib.segmentation import Prediction, decode
from scellseg_lib.workbench import forms, inspect, session
from scellseg_lib.workbench.inspect import COLOURS, Inspector
from scellseg_lib.workbench.session import InspectedImage
from tests.workbench import conftest
from tests.workbench.conftest import LONG, is_shown

SIZE = 96
KINDS = ("flow", "hover", "unet2", "unet3")
squares = partial(conftest.squares, shape=(SIZE, SIZE))
# Squares of 20, 24 and 30 px; the logit falls from the first to the third.
TRUE = squares((10, 10, 20), (10, 60, 24), (60, 20, 30))
LOGITS = (0, 5, 3, 1)
damaged = Mock(side_effect=ImageError("the file is damaged", where="a.tif", remedy="Get it again."))


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
    return Prediction("a", maps.astype(np.float32), np.ones(4, np.float32) / 2, masks.shape, 30.0)


def entry(name: str = "a", true: Any = TRUE, predicted: Any = TRUE, **more) -> InspectedImage:
    image = np.random.default_rng(0).integers(0, 255, TRUE.shape).astype(np.uint8)
    return InspectedImage(name, image, true, predicted, **more)


def movable(name: str = "a", true: Any = TRUE, kind: str = "flow") -> InspectedImage:
    chosen, decoding = representation.get(kind), Decoding()
    maps = said(name=kind)
    masks = decode(maps, chosen, decoding)
    return entry(name, true, masks, prediction=maps, representation=chosen, decoding=decoding)


def found(panel, name: str) -> Any:
    if f"scellseg-{name}" in panel._dom_classes:
        return panel
    inside = (found(child, name) for child in getattr(panel, "children", ()))
    return next((hit for hit in inside if hit is not None), None)


def go_to(panel: Inspector, name: str) -> None:
    panel._list.value = next(one for one in panel._images if one.name == name)


def text(panel: Inspector, name: str) -> str:
    return found(panel, name).value


def colour(panel: Inspector, label: int, side: int = 0) -> str:
    """What became of a cell by its colour; side 1: true cells."""
    of = {tuple(bytes.fromhex(value[1:])): name for name, value in COLOURS.items()}
    return of[tuple(panel.view._colours[side][label, :3].tolist())]


def lines(panel: Inspector) -> list[str]:
    return [label for label, _ in found(panel, "images").options]


def names(panel: Inspector) -> list[str]:
    return [image.name for _, image in found(panel, "images").options]


def svg(html: str) -> str:
    code = re.search(r"base64,([^\"]+)\"", html)
    assert code
    return b64decode(code[1]).decode()


def test_a_figure_goes_into_a_page_with_its_words():
    image = forms.render_html(Figure(), "AP <b> 0.8")
    assert ElementTree.fromstring(image.replace(">", "/>")).get("alt") == "AP <b> 0.8"
    assert ElementTree.fromstring(svg(image)).tag.endswith("svg")


def test_cells_are_coloured_told_and_counted():
    # IoU 1; 18 of 24 rows, 3/4; one of nothing; the third true cell is missed.
    predicted = np.where(TRUE == 3, 0, TRUE)
    predicted[28:34, 60:84] = 0
    predicted[80:95, 80:95] = 3
    panel = Inspector([entry(predicted=predicted)])
    np.testing.assert_array_equal(panel.view.labels, predicted)
    assert [colour(panel, label) for label in (1, 2, 3)] == ["TP", "TP", "FP"]
    assert [colour(panel, label, 1) for label in (1, 2, 3)] == ["TP", "TP", "FN"]
    of_found, of_true = panel.view._tips
    assert of_found[2] == "cell 2: matches true cell 2, IoU 0.75, true positive"
    assert of_found[3].startswith("cell 3: matches no true cell (best IoU 0.00), false")
    assert of_true[2] == "true cell 2: found as cell 2, IoU 0.75, true positive"
    assert of_true[3] == "true cell 3: missed (best IoU 0.00), false negative"
    assert "0.50 at 0.50" in text(panel, "ap-curve")
    panel.iou.value = 0.75  # reached
    assert colour(panel, 2) == "TP"
    panel.iou.value = 0.76
    assert [colour(panel, label) for label in (1, 2, 3)] == ["TP", "FP", "FP"]
    assert colour(panel, 2, 1) == "FN"
    assert "AP 0.20 at IoU 0.76" in svg(text(panel, "ap-curve"))
    counts = re.findall(r"<b>(\d+)</b></td><td>(\w+ \w+): ", text(panel, "legend"))
    assert counts == [("1", "true positive"), ("2", "false positive"), ("2", "false negative")]
    panel.view.selected = 1
    assert text(panel, "told") == "cell 1: matches true cell 1, IoU 1.00, true positive"
    nearly = metrics.match(np.repeat([[1, 0]], [1667, 9], 1), np.repeat([[1, 0]], [833, 843], 1))
    assert "0.49" in inspect.tell_outcomes(nearly, "true")[1][1]  # 0.4997 is no 0.50


def test_without_truth_or_without_cells_it_is_said():
    panel = Inspector([entry(true=None)])
    np.testing.assert_array_equal(panel.view.labels, TRUE)
    assert (panel.view._colours, panel.view._reference) == ([None, None], None)
    assert panel.view._tips[0][1] == "cell 1: 400 pixels"
    assert ("3 cells" in text(panel, "legend"), text(panel, "ap-curve")) == (True, "")
    for true, ap in ((TRUE, "0.00"), (TRUE * 0, "1.00")):
        panel = Inspector([entry(true=true, predicted=TRUE * 0)])
        assert "No cells were found" in text(panel, "message")
        assert ap in text(panel, "ap-curve")


def test_what_is_wrong_with_one_image_is_said_and_the_others_are_shown():
    for bad, words in (
        ({"true": TRUE[:50]}, "(50, 96)"),
        *(({part: damaged}, "the file is damaged") for part in ("true", "image", "predicted")),
        ({"image": np.zeros((50, 50))}, "Segment the image again"),
        ({"image": Path("absent.tif").read_bytes}, "absent.tif"),
    ):
        panel = Inspector([replace(entry("bad"), **bad), entry("good")])
        panel.join(LONG)
        go_to(panel, "bad")
        assert words in text(panel, "message").partition("Problem")[2]
        if "predicted" not in bad:  # the cells can be looked at all the same
            np.testing.assert_array_equal(panel.view.labels, TRUE)
        assert ("cannot be compared · bad" in lines(panel)) == ("image" not in bad)
        go_to(panel, "good")
        assert "good: image" in text(panel, "message")
        assert colour(panel, 1) == "TP"


@pytest.mark.parametrize("kind", KINDS)
def test_moved_thresholds_give_what_decode_gives(kind: str):
    panel, known = Inspector([movable(kind=kind)]), representation.get(kind)
    values = {known.thresholds[0]: 4.0, "min_size": 150}
    for name, value in values.items():
        found(panel, name.replace("_", "-")).value = value
    assert panel.entry.decoding == Decoding().model_copy(update=values)
    expected = decode(said(name=kind), known, panel.entry.decoding)
    assert expected.max() == 1  # of three
    for labels in (panel.view.labels, panel.entry.predicted):
        np.testing.assert_array_equal(labels, expected)
    assert colour(panel, 2, 1) == "FN"
    assert "0.33 at 0.50" in text(panel, "ap-curve")


def test_thresholds_are_taken_back_to_the_cells_as_they_were_given():
    corrected = squares((10, 10, 40))  # by hand: not what the network's output gives
    panel = Inspector([replace(movable(), predicted=corrected)])
    slider, reset = found(panel, "cell-threshold"), found(panel, "thresholds-reset")
    assert (slider.value, reset.disabled) == (0.5, True)
    for back in (lambda: setattr(slider, "value", 0.5), reset.click):
        slider.value = 4.0
        assert (panel.view.labels.max(), reset.disabled) == (1, False)
        assert "at the model's own" in svg(text(panel, "ap-curve"))
        back()
        np.testing.assert_array_equal(panel.view.labels, corrected)
        assert "at the model's own" not in svg(text(panel, "ap-curve"))
    assert (panel.thresholds.chosen, reset.disabled) == ({}, True)


def test_without_the_networks_output_nothing_can_be_moved():
    unusual = Decoding(cell_threshold=-9.0, min_size=900)
    fixed = entry("fixed", predicted=squares((10, 10, 20)))
    panel = Inspector([fixed, replace(movable("movable"), decoding=unusual)])
    rows = panel.thresholds._rows
    assert not any(map(is_shown, rows.values()))
    assert "cannot be moved" in text(panel, "thresholds-note")
    for button in ("thresholds-reset", "correct", "use"):  # nobody is there to take them
        assert not is_shown(found(panel, button))
    panel.step(1)
    shown = {name for name, row in rows.items() if is_shown(row)}
    assert shown == set(representation.get("flow").thresholds)
    assert text(panel, "thresholds-note") == ""
    values = [found(panel, name).value for name in ("cell-threshold", "min-size")]
    assert (values, panel.thresholds.chosen) == ([-9.0, 900], {})  # also beyond the usual


def test_only_the_newest_counts(monkeypatch: pytest.MonkeyPatch):
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


def test_what_fails_is_said_and_the_next_move_counts(monkeypatch: pytest.MonkeyPatch):
    panel = Inspector([movable(name) for name in "ab"])
    with monkeypatch.context() as patch:
        patch.setattr(session, "decode", Mock(side_effect=RuntimeError("the moon")))
        found(panel, "cell-threshold").value = 1.0
        assert "the moon" in text(panel, "message")
        panel.apply_to_all().join(LONG)
        assert "the moon" in text(panel, "message")
    found(panel, "cell-threshold").value = 4.0
    assert panel.view.labels.max() == 1


def three() -> list[InspectedImage]:
    """AP at 0.5: two thirds, one third, unknown; at 0.85 the first has 0."""
    first = squares((10, 10, 18), (10, 60, 22))  # IoU 0.81 and 0.84
    second = squares((10, 10, 20))
    return [entry("unknown", None), entry("first", TRUE, first), entry("second", TRUE, second)]


def test_the_list_is_worst_first_at_the_threshold_and_goes_round():
    panel = Inspector(three())
    # Of ten thresholds, the cells of the first image pass the first seven (IoU 0.81 and 0.84).
    scored = ["AP 0.33 · mean 0.33 · second", "AP 0.67 · mean 0.47 · first"]
    assert lines(panel) == [*scored, "3 cells found · unknown"]
    panel.iou.value = 0.85
    assert names(panel) == ["first", "second", "unknown"]
    assert panel.entry.name == "second"  # what is looked at stays
    assert "AP 0.17 at IoU 0.85" in text(panel, "summary")
    sides = (19, 15, 18)  # of equal AP at 0.5: by the mean
    panel.show([entry(str(n), squares((10, 10, 20)), squares((10, 10, n))) for n in sides])
    panel.iou.value = 0.5
    assert names(panel) == ["15", "18", "19"]
    panel, seen = Inspector(three()), []  # the way from image to image goes round
    for button in ("next", "next", "next", "previous"):
        found(panel, button).click()
        assert panel.entry.name == panel.view.title
        seen.append(panel.entry.name)
    assert seen == ["first", "unknown", "second", "unknown"]
    first, *others = three()[1:]
    panel.show([replace(first, learnt=True), *others], "first")
    assert panel.entry.name == "first"
    assert lines(panel)[1] == "AP 0.67 · mean 0.47 · first (perhaps learnt from)"
    said = text(panel, "summary")  # what was learnt from is told apart
    assert "In the one image with true cells: AP 0.33" in said
    assert (
        "In the one image that the model has learnt from, or may have, which flatters it: AP 0.67"
        in said
    )
    panel.show([entry("alone")])
    assert (panel.entry.name, found(panel, "next").disabled) == ("alone", True)
    panel.show([])
    panel.step(1)
    assert "Segment one or more images first" in text(panel, "message")


def test_thresholds_hold_for_the_next_image_and_are_applied_to_all():
    panel = Inspector([*map(movable, "abc"), entry("fixed")])
    apply = found(panel, "apply")
    assert apply.disabled
    found(panel, "cell-threshold").value = 4.0
    assert [line.endswith(" *") for line in lines(panel)].count(True) == 2
    assert "* 2 images still at the thresholds before" in text(panel, "summary")
    panel.step(1)
    assert (panel.entry.name, panel.view.labels.max()) == ("b", 1)
    assert not apply.disabled
    panel.apply_to_all().join(LONG)
    assert apply.disabled
    assert "*" not in "".join(lines(panel)) + text(panel, "summary")
    assert "AP 0.50" in text(panel, "summary")  # (1/3 + 1/3 + 1/3 + 1) / 4


class Waiting:
    """An image whose cells are read, and whose network is asked, when that is needed."""

    def __init__(self, name: str, true: np.ndarray = TRUE, answer: Callable[[], Any] = said):
        self.asked, self.gate, self.answers = Event(), Event(), answer
        self.gate.set()
        known = movable(name, true)
        self.entry = replace(known, predicted=lambda: known.predicted, prediction=self.answer)

    def answer(self) -> Prediction | None:
        self.asked.set()
        assert self.gate.wait(LONG)
        return self.answers()


def test_images_are_compared_one_by_one_and_their_memory_freed():
    true = {"a": TRUE, "b": squares((10, 10, 20)), "c": squares((80, 80, 9))}
    waiting = [Waiting(name, cells) for name, cells in true.items()]
    panel = Inspector([one.entry for one in waiting])
    panel.join(LONG)
    assert names(panel) == ["c", "b", "a"]
    assert [line[:7] for line in lines(panel)] == ["AP 0.00", "AP 0.33", "AP 1.00"]
    assert "Over the 3 images with true cells: AP 0.44" in text(panel, "summary")
    # Three squares are found in each; of the two images with one there are two too many.
    assert "measured: count +133% (SD 115%), total area" in text(panel, "summary")
    assert [one.asked.is_set() for one in waiting] == [True, False, False]

    def freed() -> list[bool]:
        return [one.found.predicted is session.NOT_READ for one in panel._images]

    assert freed() == [False, True, True]
    go_to(panel, "b")
    panel.join(LONG)
    assert freed() == [one.said is None for one in panel._images] == [True, False, True]
    found(panel, "cell-threshold").value = 4.0
    assert panel.view.labels.max() == 1
    go_to(panel, "a")
    panel.join(LONG)
    assert (panel.entry.name, panel.entry.predicted.max()) == ("a", 1)
    assert "cell probability" in {layer.name for layer in panel.view._layers}


def test_the_page_stays_alive_while_the_network_is_asked():
    one, other = Waiting("a"), Waiting("b")
    one.gate.clear()
    panel = Inspector([one.entry, other.entry])
    panel.iou.value = 0.6
    assert text(panel, "thresholds-note").startswith("The network is asked")
    found(panel, "cell-threshold").value = 4.0
    assert panel.view.labels.max() == 3  # as they were given
    one.gate.set()
    panel.join(LONG)
    assert (panel.view.labels.max(), text(panel, "thresholds-note")) == (1, "")
    assert not other.asked.is_set()
    panel.apply_to_all().join(LONG)
    assert other.asked.is_set()
    assert "AP 0.33" in text(panel, "summary")


@pytest.mark.parametrize("fails", [False, True])
def test_a_network_that_does_not_answer(fails: bool):
    panel = Inspector([Waiting("a", answer=damaged if fails else lambda: None).entry])
    panel.join(LONG)
    assert "choose the model that has made them" in text(panel, "thresholds-note")
    assert ("Get it again" in text(panel, "message")) is fails
    assert panel.entry.prediction is None


def test_an_image_that_is_left_when_the_network_answers_is_asked_about_again(monkeypatch):
    freed_at_once = property(lambda self: None, lambda self, answer: None)
    monkeypatch.setattr(InspectedImage, "said", freed_at_once, raising=False)
    one = Waiting("a")
    one.entry.ask()
    assert (one.asked.is_set(), one.entry.is_unasked) == (True, True)

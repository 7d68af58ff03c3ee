"""Looking at one image: thresholds that are moved, what a model suggests, where it doubts."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scellseg_lib import representation
from scellseg_lib.model import new_model
from scellseg_lib.representation import Decoding
from scellseg_lib.segmentation import Prediction, decode
from scellseg_lib.workbench import session
from scellseg_lib.workbench.app import Workbench
from scellseg_lib.workbench.session import SegmentationSettings, Thresholds, find_cells
from tests import tiny
from tests.workbench.conftest import draw, is_shown, squares, until
from tests.workbench.test_inspect import KINDS, SIZE, said


@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_is_shown_if_and_only_if_it_makes_a_difference(kind: str):
    extremes = {"min_size": (0, 10**6), "flow_threshold": (1e-9, 3)}
    chosen, maps = representation.get(kind), said(name=kind).maps
    maps = maps + np.random.default_rng(0).normal(size=maps.shape).astype(np.float32) / 10
    makes_difference = set()
    for name in set(Decoding.model_fields) - {"n_steps"}:
        values = extremes.get(name, (-50, 50))
        tried = [Decoding().model_copy(update={name: value}) for value in values]
        if len({chosen.masks(maps, one).tobytes() for one in tried}) > 1:
            makes_difference.add(name)
    thresholds = Thresholds(lambda: None)
    thresholds.load(Decoding(), chosen)
    shown = {name for name, row in thresholds._rows.items() if is_shown(row)}
    assert shown == set(chosen.thresholds) == makes_difference
    name = chosen.thresholds[0]
    thresholds._sliders[name].value = 0.1 + 0.2  # steps of a slider, added up in binary
    assert thresholds.chosen == {name: 0.3}


@pytest.mark.parametrize("kind", KINDS)
def test_network_pictures(kind: str):
    maps = said(name=kind)
    twice = Prediction("a", maps.maps, maps.style, (SIZE * 2, SIZE), 30.0)
    pictures = session.network_pictures(twice, representation.get(kind))
    assert all(picture.shape[:2] == (SIZE * 2, SIZE) for picture in pictures.values())
    probability = pictures["cell probability"]
    assert probability[40, 20] > 0.9  # in the first cell
    assert probability[190, 90] < 0.5
    assert ("flow" in pictures) == (kind == "flow")


SIZES = "They are 24 px wide, and it looked for cells of 70 px: set the diameter to 24 in step 3, "
STYLE = "It has not learnt from images like this one: draw or correct some, then Fine-tune it."
NOTHING = "It looked for cells 30 px wide: .* or lower the threshold Cell probability, "


@pytest.mark.parametrize("kind", KINDS)
def test_pointing_finds_a_cell_of_which_the_network_is_less_sure(kind: str, monkeypatch):
    """Its threshold is only as low as it must be; and background is no cell."""
    model = new_model({"flow": "scellseg"}.get(kind, kind), tiny.LEVELS)
    monkeypatch.setattr(session, "predict_one", lambda *_: said(name=kind))
    first = model.representation.thresholds[0]
    usual = find_cells(Path("a.tif"), "mine", model, SegmentationSettings(30.0))
    higher = (Decoding().model_copy(update={first: float(value)}) for value in range(99))
    tried = (SegmentationSettings(30.0, decoding) for decoding in higher)
    each = (find_cells(Path("a.tif"), "mine", model, settings) for settings in tried)
    before, strict = next(pair for pair in pairwise(each) if not pair[1].masks.any())
    assert usual.masks.any()
    assert before.masks.any()
    for label in np.unique(before.masks[before.masks > 0]):
        cell = before.masks == label
        y, x = map(int, np.median(np.nonzero(cell), axis=1))
        np.testing.assert_array_equal(before.pick(y, x), cell)
        picked = strict.pick(y, x)
        assert np.count_nonzero(picked & cell) / np.count_nonzero(picked | cell) > 0.5
    assert not usual.pick(SIZE - 1, SIZE - 1).any()


DOUBTS = [
    (30.0, 0.9, 0.5, ""),
    (70.0, 0.9, 0.5, f"{SIZES}.*again."),
    (30.0, 1.1, 0.5, STYLE),
    (70.0, 1.1, 0.5, f"{SIZES}.*again. {STYLE}"),
    (30.0, 0.9, 6.0, f"{NOTHING}.*again."),
]


@pytest.mark.parametrize(("diameter", "distance", "threshold", "doubt"), DOUBTS)
def test_it_doubts_where_segmenting_warns(monkeypatch, diameter, distance, threshold, doubt):
    corners = [(30 * y + 4, 30 * x + 4) for y, x in np.ndindex(3, 4)]
    masks = squares(*corners, side=21, shape=(90, 120))  # 24 px in diameter
    maps = said(np.minimum(masks, 1) * masks).maps
    maps[2] = np.where(masks > 0, 5, -6)
    model = new_model("scellseg", tiny.LEVELS)
    known = {"styles": [[0.0] * 4], "style_radius": 1 / distance}  # styles have length 1
    model.card = model.card.model_copy(update=known)
    found = Prediction("a", maps, np.ones(4, np.float32) / 2, masks.shape, diameter)
    monkeypatch.setattr(session, "predict_one", lambda *_: found)
    chosen = SegmentationSettings(diameter, Decoding(cell_threshold=threshold), resample=False)
    suggested = find_cells(Path("a.tif"), "mine", model, chosen)
    assert (suggested.model, suggested.masks.max()) == ("mine", 0 if threshold > 5 else 12)
    assert re.fullmatch(doubt, suggested.doubt)


def press(workbench: Workbench) -> None:
    workbench.annotate.suggest.click()
    until(lambda: not workbench.annotate.suggest.disabled)


def test_the_workbench_suggests_what_the_segment_panel_would_find(experiment: Path):
    draw(experiment / "query", "G_img", shape=(64, 64, 3))
    workbench = Workbench(experiment)
    form, editor = workbench.segment.form, workbench.annotate.editor
    editor.diameter = 40.0  # the disk beside the cells
    editor.diameter = 0.0  # hides it
    form.thresholds._sliders["min_size"].value = 8
    press(workbench)
    _, model, wanted = form.chosen
    assert (wanted.diameter, wanted.decoding.min_size) == (40.0, 8)
    prediction = session.predict_one(model, experiment / "query" / "A_img.tif", wanted)
    expected = decode(prediction, model.representation, wanted.decoding)
    assert expected.any()
    np.testing.assert_array_equal(editor.labels, expected)
    assert [layer.name for layer in editor._layers] == ["image", "cell probability", "flow"]
    workbench.annotate.show(workbench.annotate.images[-1])
    assert form.channels.value is None  # the first image has no choice of them
    press(workbench)
    assert "Choose under Channels what to segment" in workbench.annotate.message.text
    assert form.channels.is_missing  # nothing is taken in silence: it is asked for here, too
    press(workbench)
    assert "several channels. Choose one above." in workbench.annotate.message.text
    assert form.channels in workbench.annotate.children
    form.channels.cells.value = "green"
    press(workbench)
    assert not workbench.annotate.message.is_error
    form.loaded = None
    press(workbench)
    assert "Choose one in step 3, Segment" in workbench.annotate.message.text

"""Looking at one image: thresholds that are moved, what a model suggests, how that joins what is
drawn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from scellseg_lib import representation
from scellseg_lib.errors import ImageError, ModelError
from scellseg_lib.model import Model, new_model
from scellseg_lib.representation import Decoding
from scellseg_lib.segmentation import Prediction, decode
from scellseg_lib.workbench import session
from scellseg_lib.workbench.app import Workbench
from scellseg_lib.workbench.editor import MaskEditor, operations
from scellseg_lib.workbench.editor.patches import apply
from scellseg_lib.workbench.session import Newest, SegmentationSettings, Thresholds, find_cells
from tests import tiny
from tests.workbench.editor.page import connect
from tests.workbench.test_inspect import KINDS, SIZE, said
from tests.workbench.waiting import until

# --- thresholds, and what the network says --------------------------------------------------------


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
    shown = {name for name, row in thresholds._rows.items() if row.layout.display is None}
    assert shown == set(chosen.thresholds) == makes_difference


def test_steps_of_a_slider_are_not_added_up_in_binary():
    thresholds = Thresholds(lambda: None)
    thresholds.load(Decoding(), representation.get("flow"))
    slider = thresholds._sliders["cell_threshold"]
    assert slider.description == "Cell probability"
    slider.value = 0.1 + 0.2
    assert thresholds.chosen == {"cell_threshold": 0.3}


def test_newest_goes_on_after_an_error():
    calls: list[int] = []

    def work() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise ValueError("the moon")
        if len(calls) == 2:
            newest()  # asked for while it is at work

    newest = Newest(work)
    with pytest.raises(ValueError, match="the moon"):
        newest()
    newest()
    assert calls == [0, 1, 2]


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


SIZES = (
    "They are 24 px wide, and it looked for cells of 70 px: set the diameter to 24 in step 3, "
    "Segment, then press Suggest cells again."
)
NOTHING = (
    "It looked for cells 30 px wide: set the diameter to that of yours in step 3, Segment, or "
    "lower the threshold Cell probability, then press Suggest cells again."
)
STYLE = "It has not learnt from images like this one: draw or correct some, then Fine-tune it."


@pytest.mark.parametrize(
    ("diameter", "distance", "threshold", "doubt"),
    [
        (30.0, 0.9, 0.5, ""),
        (70.0, 0.9, 0.5, SIZES),
        (30.0, 1.1, 0.5, STYLE),
        (70.0, 1.1, 0.5, f"{SIZES} {STYLE}"),
        (30.0, 0.9, 6.0, NOTHING),
    ],
)
def test_it_doubts_where_segmenting_warns_and_where_nothing_is_found(
    monkeypatch: pytest.MonkeyPatch, diameter: float, distance: float, threshold: float, doubt: str
):
    masks = np.zeros((90, 120), np.int32)
    for number in range(12):  # squares of 21 px, in diameter 24 px
        y, x = 30 * (number // 4) + 4, 30 * (number % 4) + 4
        masks[y : y + 21, x : x + 21] = number + 1
    maps = said(np.minimum(masks, 1) * masks).maps
    maps[2] = np.where(masks > 0, 5, -6)
    tiny_model = new_model("scellseg", tiny.LEVELS)
    known = {"styles": [[0.0] * 4], "style_radius": 1 / distance}  # styles have length 1
    model = Model(
        tiny_model.network, tiny_model.representation, tiny_model.card.model_copy(update=known)
    )

    def predict(*_: object) -> Prediction:
        return Prediction("a", maps, np.ones(4, np.float32) / 2, masks.shape, diameter)

    monkeypatch.setattr(session, "predict_one", predict)
    chosen = SegmentationSettings(diameter, Decoding(cell_threshold=threshold), resample=False)
    found = find_cells(Path("a.tif"), "mine", model, chosen)
    assert (found.model, found.masks.max()) == ("mine", 0 if threshold > 5 else 12)
    assert found.doubt == doubt


# --- how found cells join those that are there ----------------------------------------------------

EIGHT = np.ones((3, 3))
sides = st.integers(1, 12)
labels_of = st.tuples(sides, sides).flatmap(
    lambda shape: st.tuples(
        *(
            hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 0, 0, *cells]))
            for cells in ((2, 7, 7, 9), (1, 1, 3, 8))
        )
    )
)
"""Cells that are there, and cells that are found, of one size."""


def blown_up(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of 3 x 4 px, the found ones moved by a pixel: they overlap at their borders."""
    drawn, found = (np.kron(labels, np.ones((3, 4), np.int32)) for labels in pair)
    return drawn, np.roll(found, 1, axis=(0, 1))


def add(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    after = labels.copy()
    apply(after, operations.add_found(labels, found))
    return after


def shares(labels: np.ndarray, inside: np.ndarray) -> float:
    """Largest share that a found cell has of a cell that is there, or they of it."""
    under = labels[inside]
    cells = np.unique(under[under > 0])
    of_drawn = [(under == cell).sum() / (labels == cell).sum() for cell in cells]
    return float(max([(under > 0).mean(), *of_drawn]))


@settings(max_examples=100, deadline=None)
@given(st.one_of(labels_of, labels_of.map(blown_up)))
def test_found_cells_leave_all_that_is_there_and_are_cells_of_their_own(pair):
    labels, found = pair
    after = add(labels, found)
    np.testing.assert_array_equal(after[labels > 0], labels[labels > 0])
    assert not after[(labels == 0) & (found == 0)].any()
    new = np.setdiff1d(np.unique(after), np.unique(labels))
    assert (new > labels.max(initial=0)).all()
    origins = [np.unique(found[after == cell]) for cell in new]
    assert all(len(origin) == 1 for origin in origins)  # none is of two, no two are of one
    assert len({int(origin[0]) for origin in origins}) == len(new)
    for cell, (origin,) in zip(new, origins, strict=True):
        whole, mine = found == origin, after == cell
        if (labels[whole] > 0).any():
            assert ndimage.label(mine, EIGHT)[1] == 1
        else:
            np.testing.assert_array_equal(mine, whole)
    for cell in np.unique(found[found > 0]):  # left out where it is a cell that is there
        inside = found == cell
        is_new = bool((after[inside & (labels == 0)] > 0).any())
        assert is_new == (shares(labels, inside) <= 1 / 3)


def bar(start: int, stop: int, label: int = 1) -> np.ndarray:
    """A bar of 4 px height in an image of 6 x 40."""
    labels = np.zeros((6, 40), np.int32)
    labels[1:5, start:stop] = label
    return labels


@pytest.mark.parametrize(
    ("drawn", "found", "left"),
    [
        ((0, 20), (20, 32), 12),  # columns of the found one that are left
        ((0, 20), (16, 28), 8),
        ((0, 20), (15, 27), 0),
        ((0, 36), (8, 12), 0),  # a small one in a drawn one
        ((8, 12), (0, 36), 0),  # a large one around it
    ],
)
def test_what_a_found_bar_shares_with_a_drawn_one_is_cut_off(drawn, found, left):
    labels = bar(*drawn, 5)
    after = add(labels, bar(*found))
    assert (after == 6).sum() == 4 * left
    np.testing.assert_array_equal(after[labels > 0], labels[labels > 0])


def test_of_a_cell_that_is_cut_in_two_the_larger_piece_remains():
    labels, found = np.zeros((20, 40), np.int32), np.zeros((20, 40), np.int32)
    labels[:, 10:12], found[1:5, 4:30] = 3, 1
    expected = labels.copy()
    expected[1:5, 12:30] = 4
    np.testing.assert_array_equal(add(labels, found), expected)
    with pytest.raises(ImageError, match="Open the image again"):
        operations.add_found(labels, found[:, 1:])


def test_pictures_come_to_an_open_image_without_touching_cells_or_history():
    image = np.arange(600, dtype=np.uint16).reshape(20, 30)
    flow, probability = np.full((20, 30, 3), 77, np.uint8), np.linspace(0, 1, 600).reshape(20, 30)
    editor = MaskEditor(image, title="a")
    (page,) = connect(editor)
    editor.outline(np.array([[5, 5], [5, 15], [15, 15]], float))
    edits, labels, heard = editor.edits, np.array(editor.labels), len(page.heard)
    editor.show_layers({"flow": flow, "cell probability": probability})
    assert page.types()[heard:] == ["layers"]
    assert [one["name"] for one in page.told("layers")["layers"]] == ["flow", "cell probability"]
    assert page.buffers[-1][0] == flow.tobytes()
    levels = np.frombuffer(page.buffers[-1][1], np.uint16)
    np.testing.assert_allclose(levels, probability.ravel() * 65535, atol=0.5)
    assert editor.edits == edits
    np.testing.assert_array_equal(editor.labels, labels)
    editor.show_layers({"flow": flow})  # in the place of both
    for wrong in (flow[1:], flow.astype(float)):
        with pytest.raises(ImageError, match="flow"):
            editor.show_layers({"flow": wrong})
    (later,) = connect(editor)  # a page that comes later gets it with the image
    assert [one["name"] for one in later.told("open")["layers"]] == ["image", "flow"]
    editor.load(image, title="b")
    assert [layer.name for layer in editor._layers] == ["image"]


# --- the workbench, and a network -----------------------------------------------------------------


def press(workbench: Workbench) -> None:
    workbench.annotate.suggest.click()
    until(lambda: not workbench.annotate.suggest.disabled)


def test_the_workbench_suggests_what_the_segment_panel_would_find(experiment: Path):
    workbench = Workbench(experiment)
    form, editor = workbench.segment.form, workbench.annotate.editor
    editor.diameter = 40.0  # the disk
    form.thresholds._sliders["min_size"].value = 8
    press(workbench)
    assert form.chosen is not None
    _, model, wanted = form.chosen
    assert (wanted.diameter, wanted.decoding.min_size) == (40.0, 8)
    prediction = session.predict_one(model, experiment / "query" / "A_img.tif", wanted)
    expected = decode(prediction, model.representation, wanted.decoding)
    assert expected.any()
    np.testing.assert_array_equal(editor.labels, expected)
    assert [layer.name for layer in editor._layers] == ["image", "cell probability", "flow"]
    form.thresholds._sliders["min_size"].value = 400
    press(workbench)
    assert len(editor.cells) < expected.max()
    workbench.segment.form.loaded = None
    press(workbench)
    assert "Choose one in step 3, Segment" in workbench.annotate.message.text
    with pytest.raises(ModelError):
        workbench._finder(experiment / "query" / "A_img.tif")


def test_of_an_image_whose_channels_differ_they_are_asked_for(experiment: Path):
    planes = np.random.default_rng(0).integers(0, 200, (64, 64, 3)).astype(np.uint8)
    tifffile.imwrite(experiment / "query" / "G_img.tif", planes, photometric="rgb")
    workbench = Workbench(experiment)
    workbench.annotate.show(workbench.annotate.images[-1])
    form = workbench.segment.form
    assert form.channels.value is None  # the first image has no choice of them
    press(workbench)
    assert "Choose under Channels what to segment" in workbench.annotate.message.text
    assert form.channels.value is not None
    press(workbench)
    assert not workbench.annotate.message.is_error

"""Cells that a model suggests: how they join those that are drawn, and where they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from scellseg_lib.datasets import synthetic
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.device import Precision
from scellseg_lib.errors import ChannelsNeeded, ImageError, ModelError
from scellseg_lib.files import images as readers
from scellseg_lib.model import Model
from scellseg_lib.segmentation import FarFromModel, decode, segment
from scellseg_lib.workbench.annotate import AnnotatePanel
from scellseg_lib.workbench.app import Workbench
from scellseg_lib.workbench.editor import ImageView, MaskEditor, operations
from scellseg_lib.workbench.editor.patches import apply
from scellseg_lib.workbench.editor.view import make_layers
from scellseg_lib.workbench.experiment import SegmentedImage
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.session import (
    STEP,
    SegmentationSettings,
    Suggestion,
    find_cells,
    predict_one,
)
from tests.workbench.editor.page import connect
from tests.workbench.waiting import until

SHAPE = (40, 50)
SQUARE = np.array([[5, 5], [5, 15], [15, 15], [15, 5]], float)
"""Outline of a cell, (y, x)."""

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
    block = np.ones((3, 4), np.int32)
    drawn, found = (np.kron(labels, block) for labels in pair)
    return drawn, np.roll(found, 1, axis=(0, 1))


any_pair = st.one_of(labels_of, labels_of.map(blown_up))


def added(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    after = labels.copy()
    apply(after, operations.add_found(labels, found))
    return after


def shares(labels: np.ndarray, inside: np.ndarray) -> float:
    """Largest share that a found cell has of a cell that is there, or they of it."""
    under = labels[inside]
    of_drawn = [
        (under == cell).sum() / (labels == cell).sum() for cell in np.unique(under[under > 0])
    ]
    return float(max([(under > 0).mean(), *of_drawn]))


@settings(max_examples=200, deadline=None)
@given(any_pair)
def test_found_cells_leave_all_that_is_there_and_are_cells_of_their_own(pair):
    labels, found = pair
    after = added(labels, found)
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


@settings(max_examples=200, deadline=None)
@given(any_pair)
def test_a_found_cell_is_left_out_where_it_is_a_cell_that_is_there(pair):
    labels, found = pair
    after = added(labels, found)
    for cell in np.unique(found[found > 0]):
        inside = found == cell
        is_new = bool((after[inside & (labels == 0)] > 0).any())
        assert is_new == (shares(labels, inside) <= 1 / 3)


def bar(start: int, stop: int, label: int = 1) -> np.ndarray:
    """A bar of 4 px height in an image of 6 x 40."""
    labels = np.zeros((6, 40), np.int32)
    labels[1:5, start:stop] = label
    return labels


@pytest.mark.parametrize(
    ("start", "left"),
    [(20, 12), (17, 9), (16, 8), (15, 0), (0, 0)],  # of 12 columns, the drawn bar has 0 to 19
)
def test_what_a_found_bar_shares_with_a_drawn_one_is_cut_off(start: int, left: int):
    labels = bar(0, 20, 5)
    after = added(labels, bar(start, start + 12))
    assert (after == 6).sum() == 4 * left
    np.testing.assert_array_equal(after[:, :20], labels[:, :20])


def test_of_a_cell_that_is_cut_in_two_the_larger_piece_remains():
    labels, found = np.zeros((20, 40), np.int32), np.zeros((20, 40), np.int32)
    labels[:, 10:12], found[1:5, 4:30] = 3, 1
    after = added(labels, found)
    assert np.unique(after).tolist() == [0, 3, 4]
    larger = np.zeros(labels.shape, bool)
    larger[1:5, 12:30] = True
    np.testing.assert_array_equal(after == 4, larger)


def test_a_small_cell_in_a_drawn_one_and_a_large_one_around_it_are_left_out():
    small, large = bar(8, 12, 5), bar(0, 36, 5)
    assert operations.add_found(large, bar(8, 12)).n_pixels == 0
    assert operations.add_found(small, bar(0, 36)).n_pixels == 0


def test_masks_of_another_size_are_an_error():
    with pytest.raises(ImageError, match="Open the image again"):
        operations.add_found(bar(0, 9), bar(0, 9)[:, 1:])


# --- pictures that come later --------------------------------------------------------------------

IMAGE = np.arange(600, dtype=np.uint16).reshape(20, 30)
FLOW = np.full((20, 30, 3), 77, np.uint8)
PROBABILITY = np.linspace(0, 1, 600).reshape(20, 30)


def test_pictures_come_to_an_open_image_and_go_without_touching_cells_or_history():
    editor = MaskEditor(IMAGE, title="a")
    (page,) = connect(editor)
    editor.outline(SQUARE)
    before = [editor.edits, np.array(editor.labels)]
    heard = len(page.heard)
    editor.show_layers({"flow": FLOW, "cell probability": PROBABILITY})
    assert page.types()[heard:] == ["layers"]
    told, buffers = page.told("layers"), page.buffers[-1]
    assert [(one["name"], one["kind"], one["channel"]) for one in told["layers"]] == [
        ("flow", "rgb", False),
        ("cell probability", "uint16", False),
    ]
    assert buffers[0] == FLOW.tobytes()
    np.testing.assert_allclose(
        np.frombuffer(buffers[1], np.uint16), PROBABILITY.ravel() * 65535, atol=0.5
    )
    assert [editor.edits, np.array(editor.labels).tolist()] == [before[0], before[1].tolist()]
    (later,) = connect(editor)  # a page that comes later gets them with the image
    names = [one["name"] for one in later.told("open")["layers"]]
    assert names == ["image", "flow", "cell probability"]
    editor.show_layers({"flow": FLOW})  # in the place of both
    assert [layer.name for layer in editor._layers] == ["image", "flow"]
    editor.load(IMAGE, title="b")
    assert [layer.name for layer in editor._layers] == ["image"]


def test_pictures_that_do_not_fit_leave_those_that_are_there():
    view = ImageView()
    view.show(IMAGE, layers={"flow": FLOW})
    for wrong in (FLOW[1:], FLOW.astype(float)):
        with pytest.raises(ImageError, match="flow"):
            view.show_layers({"flow": wrong})
    assert [layer.name for layer in view._layers] == ["image", "flow"]
    assert len(make_layers(IMAGE, (), {"flow": FLOW})) == 2


# --- the panel -----------------------------------------------------------------------------------


def squares(*corners: tuple[int, int], side: int = 8) -> np.ndarray:
    """Square cells with these upper left corners."""
    labels = np.zeros(SHAPE, np.int32)
    for label, (y, x) in enumerate(corners, 1):
        labels[y : y + side, x : x + side] = label
    return labels


class Answers:
    """A model whose answer is known, and that answers when it is let."""

    def __init__(self) -> None:
        self.gate, self.asked = Event(), list[str]()
        self.masks, self.doubt = squares((20, 5), (20, 30)), ""
        self.error: Exception | None = None

    def __call__(self, image: Path) -> Callable[[], Suggestion]:
        self.asked.append(image.name)
        masks, doubt, error = self.masks, self.doubt, self.error

        def find() -> Suggestion:
            assert self.gate.wait(60)
            if error is not None:
                raise error
            return Suggestion("worms", masks, {"cell probability": masks / 9}, doubt)

        return find


@pytest.fixture
def model() -> Iterator[Answers]:
    one = Answers()
    yield one
    one.gate.set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "images"
    home.mkdir()
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 200, SHAPE).astype(np.uint8)
        tifffile.imwrite(home / f"image_{number}.tif", pixels)
    return home


@pytest.fixture
def panel(folder: Path, model: Answers) -> AnnotatePanel:
    return AnnotatePanel(folder, on_suggest=model)


def shown(panel: AnnotatePanel) -> bool:
    return panel.suggest.layout.display != "none"


def answered(panel: AnnotatePanel, model: Answers) -> None:
    """Let the model answer, and wait for what becomes of it."""
    job = panel.suggestions.job
    assert job is not None
    model.gate.set()
    until(lambda: not panel.suggest.disabled)
    model.gate.clear()


def suggest(panel: AnnotatePanel, model: Answers) -> None:
    panel.suggest.click()
    answered(panel, model)


def test_the_button_is_there_with_a_model_and_an_image(folder: Path, model: Answers):
    assert not shown(AnnotatePanel(folder))
    assert not shown(AnnotatePanel(on_suggest=model))
    assert shown(AnnotatePanel(folder, on_suggest=model))


def test_suggestions_are_one_edit_that_undo_takes_back(panel: AnnotatePanel, model: Answers):
    editor = panel.editor
    suggest(panel, model)
    assert model.asked == ["image_1.tif"]
    np.testing.assert_array_equal(editor.labels, model.masks)
    assert [edit.kind for edit in editor.edits] == ["replace"]
    assert [layer.name for layer in editor._layers] == ["image", "cell probability"]
    assert panel.message.text == (
        "The model worms suggests 2 cells. Correct what is wrong; undo takes them all back."
    )
    editor.undo()
    assert not editor.labels.any()
    editor.redo()
    np.testing.assert_array_equal(editor.labels, model.masks)


def test_what_was_drawn_before_and_meanwhile_is_kept(panel: AnnotatePanel, model: Answers):
    editor = panel.editor
    (page,) = connect(editor)
    editor.outline(SQUARE)
    drawn = np.array(editor.labels)
    panel.suggest.click()
    assert panel.suggest.disabled
    assert panel.message.text.startswith("The model looks at image_1.")
    page.stroke(np.flatnonzero(squares((28, 40)) == 1), 2, fresh=True)  # overlaps a found one
    stroke = squares((28, 40)) > 0
    answered(panel, model)
    np.testing.assert_array_equal(editor.labels[drawn > 0], drawn[drawn > 0])
    np.testing.assert_array_equal(editor.labels == 2, stroke)
    assert (editor.labels == 3).sum() == 64
    assert (editor.labels == 4).sum() == 64
    assert panel.message.text.startswith(
        "The model worms suggests 2 cells; 2 that were there are kept. Correct"
    )
    np.testing.assert_array_equal(page.labels, editor.labels)
    editor.undo()
    np.testing.assert_array_equal(editor.labels, np.where(stroke, 2, drawn))


def test_a_stroke_that_the_page_began_before_it_heard_gets_a_cell_of_its_own(
    panel: AnnotatePanel, model: Answers
):
    (page,) = connect(panel.editor)
    suggest(panel, model)
    stroke = squares((2, 2)) > 0
    page.stroke(np.flatnonzero(stroke), 1, fresh=True)  # cell 1 is a suggested one by now
    np.testing.assert_array_equal(panel.editor.labels == 3, stroke)
    np.testing.assert_array_equal(panel.editor.labels[~stroke], model.masks[~stroke])


@pytest.mark.parametrize("back", [False, True])
def test_what_is_found_never_comes_to_another_image(
    panel: AnnotatePanel, model: Answers, folder: Path, back: bool
):
    panel.suggest.click()
    panel.step(1)
    if back:
        panel.step(1)
    answered(panel, model)
    assert panel.current is not None
    assert panel.current.name == ("image_1" if back else "image_2")
    np.testing.assert_array_equal(panel.editor.labels, model.masks * back)
    if not back:
        assert panel.message.text.startswith(
            "The cells that the model found in image_1 are not added: you have opened another"
        )
        assert [layer.name for layer in panel.editor._layers] == ["image"]
        panel.step(1)
        assert not panel.editor.labels.any()
        assert not list(folder.glob("*_masks.tif"))


def test_suggestions_that_nobody_has_touched_make_room_for_new_ones(
    panel: AnnotatePanel, model: Answers
):
    editor = panel.editor
    editor.outline(SQUARE)
    suggest(panel, model)
    model.masks = squares((18, 4), (18, 31), (30, 18))
    suggest(panel, model)
    assert len(editor.cells) == 4
    np.testing.assert_array_equal(editor.labels > 1, model.masks > 0)
    editor.undo()
    assert len(editor.cells) == 1
    editor.redo()
    editor.delete([2])
    touched = np.array(editor.labels)
    model.masks = squares((17, 4), (17, 31), (31, 18))
    suggest(panel, model)  # the deleted one is found again, the others are there
    np.testing.assert_array_equal(editor.labels[touched > 0], touched[touched > 0])
    assert len(editor.cells) == 4
    assert "suggests 1 cell; 3 that were there are kept" in panel.message.text


def test_suggestions_of_the_image_before_are_not_undone_in_this_one(
    panel: AnnotatePanel, model: Answers
):
    suggest(panel, model)
    panel.step(1)
    panel.editor.outline(SQUARE)  # the first edit here, as the suggestions were there
    suggest(panel, model)
    assert len(panel.editor.cells) == 3


def test_where_nothing_is_found_it_is_said_and_the_pictures_are_there(
    panel: AnnotatePanel, model: Answers
):
    model.masks, model.doubt = np.zeros(SHAPE, np.int32), "Set the diameter."
    suggest(panel, model)
    assert panel.message.text == "The model worms finds no cells in image_1. Set the diameter."
    assert not panel.editor.edits
    assert [layer.name for layer in panel.editor._layers] == ["image", "cell probability"]
    panel.editor.outline(SQUARE)
    model.masks = np.array(panel.editor.labels)
    suggest(panel, model)
    assert panel.message.text.startswith(
        "The model worms finds no cells in image_1 beside the 1 that are there."
    )


def test_a_prediction_that_is_corrected_gets_what_another_model_finds_beside_it(
    panel: AnnotatePanel, model: Answers, folder: Path
):
    image, masks = folder / "image_2.tif", folder / "segmented" / "image_2_masks.tif"
    readers.write_labels(masks, squares((20, 30)))
    panel.correct(
        SegmentedImage("image_2", image, masks, 1, None, "", "", SegmentationSettings(30.0))
    )
    assert shown(panel)
    suggest(panel, model)
    assert model.asked == ["image_2.tif"]
    np.testing.assert_array_equal(panel.editor.labels > 0, model.masks > 0)
    assert "suggests 1 cell; 1 that was there is kept" in panel.message.text
    assert panel.editor.path == folder / "corrected" / "image_2_masks.tif"


def test_an_error_is_said_and_the_button_can_be_pressed_again(panel: AnnotatePanel, model: Answers):
    model.error = ChannelsNeeded("the channels differ", ["red", "green"])
    suggest(panel, model)
    assert panel.message.is_error
    assert panel.message.text == "the channels differ. Choose under Channels what to segment."
    model.error, model.masks = None, np.zeros((5, 5), np.int32)
    suggest(panel, model)
    assert panel.message.is_error
    assert "Open the image again" in panel.message.text
    assert not panel.editor.edits
    model.masks = squares((20, 5))
    suggest(panel, model)
    assert not panel.message.is_error
    assert len(panel.editor.cells) == 1


def test_edits_that_a_crash_has_left_are_decided_on_first(folder: Path, model: Answers):
    AnnotatePanel(folder).editor.outline(SQUARE)
    panel = AnnotatePanel(folder, on_suggest=model)
    panel.suggest.click()
    assert panel.suggestions.job is None
    assert "Bring them back or forget them first" in panel.message.text
    assert panel.editor.recover() == 1
    suggest(panel, model)
    assert len(panel.editor.cells) == 3


# --- the workbench, and the network ---------------------------------------------------------------


@pytest.fixture
def nuclei(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two images of some twenty cells."""
    monkeypatch.setattr("scellseg_lib.device.recall_precision", lambda key: Precision())
    monkeypatch.setattr("scellseg_lib.datasets.weights.default_device", lambda: torch.device("cpu"))
    home = tmp_path / "nuclei"
    home.mkdir()
    for seed, name in enumerate("ab"):
        image, _ = synthetic.make_image("Kc167", seed, (200, 200))
        tifffile.imwrite(home / f"{name}.tif", image[0].astype(np.uint16))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield home
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model("scellseg")


def pressed(workbench: Workbench) -> Job:
    workbench.annotate.suggest.click()
    job = workbench.annotate.suggestions.job
    assert job is not None
    until(lambda: not workbench.annotate.suggest.disabled)
    return job


def test_the_workbench_suggests_what_the_segment_panel_would_find(nuclei: Path):
    workbench = Workbench(nuclei)
    form = workbench.segment.form
    workbench.annotate.editor.diameter = 40.0  # the disk
    form.thresholds._sliders["cell_threshold"].value = 1.0
    job = pressed(workbench)
    assert job.state == "done"
    chosen = form.chosen
    assert chosen is not None
    _, model, wanted = chosen
    assert (wanted.diameter, wanted.decoding.cell_threshold) == (40.0, 1.0)
    prediction = predict_one(model, nuclei / "a.tif", wanted)
    expected = decode(prediction, model.representation, wanted.decoding)
    assert expected.max() > 15
    np.testing.assert_array_equal(workbench.annotate.editor.labels, expected)
    names = [layer.name for layer in workbench.annotate.editor._layers]
    assert names == ["image", "cell probability", "flow"]
    form.thresholds._sliders["cell_threshold"].value = 6.0
    pressed(workbench)
    assert len(workbench.annotate.editor.cells) < expected.max()


def test_without_a_model_it_is_said_where_to_choose_one(nuclei: Path):
    workbench = Workbench(nuclei)
    workbench.segment.form.loaded = None
    workbench.annotate.suggest.click()
    assert workbench.annotate.suggestions.job is None
    assert "Choose one in step 3, Segment" in workbench.annotate.message.text
    with pytest.raises(ModelError):
        workbench._finder(nuclei / "a.tif")


def test_of_an_image_whose_channels_differ_they_are_asked_for(nuclei: Path):
    coloured = np.random.default_rng(0).integers(0, 200, (64, 64, 3)).astype(np.uint8)
    tifffile.imwrite(nuclei / "c.tif", coloured, photometric="rgb")
    workbench = Workbench(nuclei)
    workbench.annotate.show(workbench.annotate.images[2])
    assert workbench.segment.form.channels.value is None  # the first image has no choice of them
    pressed(workbench)
    assert "Choose under Channels what to segment" in workbench.annotate.message.text
    assert workbench.segment.form.channels.value == ("green", "red")
    assert pressed(workbench).state == "done"


@pytest.mark.parametrize(
    ("diameter", "distance", "words"),
    [
        pytest.param(30.0, 0.9, "", id="as it knows them"),
        pytest.param(70.0, 0.9, "and it looked for cells of 70 px", id="size"),
        pytest.param(30.0, 1.1, "Fine-tune it", id="style"),
    ],
)
def test_it_doubts_where_segmenting_warns(
    nuclei: Path,
    small: Model,
    recwarn: pytest.WarningsRecorder,
    diameter: float,
    distance: float,
    words: str,
):
    style = predict_one(small, nuclei / "a.tif", SegmentationSettings(diameter)).style
    seen = {"styles": ((0.0,) * len(style),), "style_radius": 1 / distance}  # styles have length 1
    known = Model(small.network, small.representation, small.card.model_copy(update=seen))
    chosen = SegmentationSettings(diameter, known.card.decoding)
    found = find_cells(nuclei / "a.tif", "mine", known, chosen)
    assert found.model == "mine"
    assert found.masks.max() >= 5
    recwarn.clear()
    segment(known, [readers.read_image(nuclei / "a.tif")], diameter=diameter)
    warned = any(issubclass(one.category, FarFromModel) for one in recwarn)
    assert warned == bool(found.doubt) == bool(words)
    assert words in found.doubt


@pytest.mark.filterwarnings("ignore:.*next to no contrast")
def test_without_any_cell_the_next_step_is_the_diameter_or_the_threshold(
    nuclei: Path, small: Model
):
    tifffile.imwrite(nuclei / "empty.tif", np.full((80, 80), 100, np.uint16))
    found = find_cells(
        nuclei / "empty.tif", "scellseg", small, SegmentationSettings(33.0, small.card.decoding)
    )
    assert not found.masks.any()
    assert found.doubt.startswith(
        "It looked for cells 33 px wide: set the diameter to that of yours in step 3, Segment, or "
        "lower the threshold Cell probability, then press Suggest cells again."
    )
    assert STEP in found.doubt

"""The inference panel: what is offered, what is written, what goes wrong; no browser."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from scellseg_lib import cli
from scellseg_lib.datasets import synthetic
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.device import Precision
from scellseg_lib.errors import DatasetError
from scellseg_lib.files import folder as batch
from scellseg_lib.files import images as readers
from scellseg_lib.model import Model, new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.representation import Decoding
from scellseg_lib.segmentation import decode
from scellseg_lib.workbench import folder_run, segment_panel, segment_preview, segment_results
from scellseg_lib.workbench.experiment import Experiment, SegmentedImage, offer_models
from scellseg_lib.workbench.folder_run import reworded
from scellseg_lib.workbench.inspect import Inspector
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.segment_panel import SegmentPanel
from scellseg_lib.workbench.segment_results import SegmentResults
from scellseg_lib.workbench.session import SegmentationSettings
from tests.workbench.waiting import LONG, rests, until

SEGMENT = import_module("scellseg_lib.segmentation")
LEVELS = (4, 8, 16, 32)
DECODING = Decoding(cell_threshold=0.33, flow_threshold=0.0, min_size=5)
"""With these an untrained network finds cells of a kind."""
NAMES, SIDE = "ABCDEF", 96


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Float32 without measuring what is fastest (some 10 s), on one thread, as images are tiny."""
    monkeypatch.setattr("scellseg_lib.device.recall_precision", lambda key: Precision())
    monkeypatch.setattr("scellseg_lib.datasets.weights.default_device", lambda: torch.device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_model(architecture: str = "scellseg", seed: int = 0, **card: Any) -> Model:
    model = new_model(architecture, LEVELS, seed=seed)
    update = {"diameter": 60.0, "decoding": DECODING, "origin": "made for a test"} | card
    model.card = model.card.model_copy(update=update)
    return model


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Images of 8 bits."""
    scaled = []
    for seed in range(len(NAMES)):
        image, _ = synthetic.make_image("Kc167", seed, (200, 200))
        scaled.append(cv2.normalize(image[0, :SIDE, :SIDE], np.zeros(0), 0, 255, cv2.NORM_MINMAX))
    return [image.astype(np.uint8) for image in scaled]


@pytest.fixture
def experiment(tmp_path: Path, pictures: list[np.ndarray]) -> Path:
    """Six images to segment, and a model."""
    folder = tmp_path / "worms"
    (folder / "query").mkdir(parents=True)
    for name, image in zip(NAMES, pictures, strict=True):
        tifffile.imwrite(folder / "query" / f"{name}_img.tif", image)
    tiny_model().save(folder / "tuned.safetensors")
    return folder


def segmented(panel: SegmentPanel) -> Job:
    """Press Segment and wait, for its cells to be counted too."""
    panel.start.click()
    assert panel.job is not None
    job = panel.job.join(LONG)
    assert job.ended
    if panel.results.job is not None:
        assert panel.results.job.join(LONG).ended
    return job


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def shown(widget: Any) -> bool:
    return widget.layout.display != "none"


class Gate:
    """Lets the reading of images pass one at a time, so that a test can act in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.read, self._wait = threading.Semaphore(0), 0, True
        monkeypatch.setattr(batch, "read_image", self._gated(batch.read_image))

    def _gated(self, original: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def read_image(*arguments: Any, **options: Any) -> np.ndarray:
            if self._wait:
                assert self.open.acquire(timeout=LONG)
            self.read += 1
            return original(*arguments, **options)

        return read_image

    def release(self) -> None:
        """All may pass from now on."""
        self._wait = False
        self.open.release(100)


# --- models ------------------------------------------------------------------------------------


def test_models_of_the_experiment_come_first_the_newest_before_all(experiment: Path):
    tiny_model(seed=1).save(experiment / "older.safetensors")
    os.utime(experiment / "older.safetensors", (1, 1))
    titles = [choice.title for choice in offer_models(experiment)]
    assert titles[:4] == [
        "Yours: tuned",
        "Yours: older",
        "Scellseg",
        "Scellseg, smaller and quicker",
    ]
    assert len(set(titles)) == len(titles)
    assert offer_models(None)[0].title == "Scellseg"


def test_the_authors_own_are_offered_once_they_were_fetched(temporary_cache: Path):
    def theirs() -> list[tuple[Any, str]]:
        return [(one.name, one.weights) for one in offer_models(None) if one.weights == "released"]

    assert theirs() == []
    file = temporary_cache / "released" / "cellpose.safetensors"
    file.parent.mkdir()
    file.touch()
    assert theirs() == [("cellpose", "released")]


def test_card_of_the_chosen_model_is_shown_and_its_diameter_taken(experiment: Path):
    tiny_model("unet3", diameter=41.5).save(experiment / "other.safetensors")
    panel = SegmentPanel(experiment)
    form = panel.form
    form.model.value = next(one for one in offer_models(experiment) if one.title == "Yours: tuned")
    assert form.diameter.value == 60
    assert "made for a test" in form._origin.value
    assert form.settings().decoding == DECODING
    form.diameter.value = 50
    form.model.value = next(one for one in offer_models(experiment) if one.title == "Yours: other")
    assert form.diameter.value == 41.5
    assert "U-Net with 3 classes" in form._origin.value


def test_a_damaged_model_is_said_and_cannot_be_run(experiment: Path):
    (experiment / "tuned.safetensors").write_bytes(b"cut off")
    panel = SegmentPanel(experiment)
    assert panel.form.message.is_error
    assert "tuned.safetensors" in panel.form.message.text
    assert panel.segment() is None
    assert panel.message.text == "There is no model. Choose one above."
    panel.form.model.value = offer_models(None)[0]
    assert not panel.form.message.is_error
    assert panel.form.settings() is not None


def test_a_model_just_tuned_is_chosen(experiment: Path):
    panel = SegmentPanel(experiment)
    made = tiny_model(seed=3, diameter=33.0).save(experiment / "round2.safetensors")
    panel.go_to(experiment, made)
    assert panel.form.loaded[0].name == made
    assert panel.form.diameter.value == 33


# --- where -------------------------------------------------------------------------------------


def test_without_a_folder_the_panel_says_what_to_do_first():
    panel = SegmentPanel()
    assert panel.found.text.startswith("Type the folder of your images")
    assert panel.start.disabled
    assert panel.preview.button.disabled
    assert "Nothing is segmented here yet" in panel.results.message.text


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("nowhere", "nowhere: there is no such file or folder. Check how it is written"),
        ("empty", "empty: there are no images. Name them"),
    ],
)
def test_a_wrong_path_is_said_in_words(experiment: Path, typed: str, words: str):
    (experiment / "empty").mkdir()
    panel = SegmentPanel(experiment)
    panel.source.value = str(experiment / typed)
    assert panel.found.is_error
    assert panel.found.text.startswith(words)
    assert panel.start.disabled
    panel.source.value = f' "{experiment / "query"}" '  # as it is pasted from a file manager
    assert panel.found.text == "6 images found."
    assert not panel.start.disabled


def test_masks_never_come_to_lie_among_the_images(experiment: Path):
    panel = SegmentPanel(experiment)
    panel.output.value = str(experiment / "query")
    assert panel.found.is_error
    assert "would pass for annotations" in panel.found.text
    assert panel.start.disabled


def test_channels_are_asked_for_only_where_they_differ(experiment: Path, tmp_path: Path):
    colours = tmp_path / "colours"
    colours.mkdir()
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    tifffile.imwrite(colours / "c.tif", values, photometric="rgb")
    panel = SegmentPanel(experiment)
    assert not shown(panel.form._channels)
    assert panel.form.settings().channels is None
    panel.form.model.value = offer_models(None)[0]
    panel.source.value = str(colours)
    assert shown(panel.form._channels)
    assert panel.form.settings().channels == ("green", "red")  # as the packaged card says
    panel.form.to_segment.value, panel.form.nuclei.value = "blue", "none"
    assert segmented(panel).state == "done"
    record = json.loads((colours / "segmented" / "segmented.json").read_text())
    assert record["channels"] == ["blue", "none"]
    panel.source.value = str(experiment / "query")
    assert panel.form.settings().channels is None


# --- preview -----------------------------------------------------------------------------------


def tried(panel: SegmentPanel, name: str = "B_img.tif") -> Job:
    options = dict(panel.preview.image.options)
    panel.preview.image.value = options[name]
    panel.preview.button.click()
    return panel.preview.job.join(LONG)


def slider(panel: SegmentPanel, name: str) -> Any:
    return panel.form.thresholds._sliders[name]


@pytest.mark.parametrize("tried", [False, True])
def test_channels_are_asked_for_once_an_image_needs_them(tmp_path: Path, tried: bool):
    grey = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 1), np.uint8).repeat(3, 2)
    for name, image in (("A", grey), ("B", np.roll(grey, (0, 9), (0, 2)) // [1, 2, 3])):
        tifffile.imwrite(tmp_path / f"{name}.tif", image.astype(np.uint8), photometric="rgb")
    tiny_model().save(tmp_path / "tuned.safetensors")
    panel = SegmentPanel(tmp_path)
    panel.source.value = str(tmp_path)
    assert not panel.form.asks_channels
    if tried:
        panel.preview.image.value = tmp_path / "B.tif"
        panel.preview.try_image().join(LONG)
        assert "Choose under Channels" in panel.preview.message.text
    else:
        segmented(panel)
        assert "Choose under Channels" in panel.failures.value
    assert panel.form.asks_channels
    panel.form.to_segment.value = "green"
    panel.check()  # as when the page is looked at again
    assert panel.form.settings().channels == ("green", "none")
    segmented(panel)
    if not tried:
        panel._anew()
        panel.job.join(LONG)
    assert panel.failures.value.count("could not be segmented") == 0
    assert (tmp_path / "segmented" / "B_masks.tif").is_file()


def test_the_network_runs_once_and_cells_follow_the_thresholds(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    original = segment_preview.predict_one
    monkeypatch.setattr(
        segment_preview, "predict_one", lambda *a: calls.append(a[1].name) or original(*a)
    )
    panel = SegmentPanel(experiment)
    prediction = tried(panel).result.prediction
    view, model = panel.preview.view, panel.form.loaded[1]
    np.testing.assert_array_equal(view.labels, decode(prediction, model.representation, DECODING))
    before = view.labels.copy()
    for threshold in (0.325, 0.34):
        slider(panel, "cell_threshold").value = threshold
        decoding = DECODING.model_copy(update={"cell_threshold": threshold})
        wanted = decode(prediction, model.representation, decoding)
        assert wanted.any()
        assert not np.array_equal(wanted, before)
        np.testing.assert_array_equal(view.labels, wanted)
    slider(panel, "cell_threshold").value = 0.33
    np.testing.assert_array_equal(view.labels, before)
    panel.form.full_size.value = False
    fast = decode(prediction, model.representation, DECODING, resample=False)
    np.testing.assert_array_equal(view.labels, fast)
    assert not np.array_equal(before, fast)
    assert calls == ["B_img.tif"]
    assert str(len(np.unique(fast)) - 1) in panel.preview.message.text


def test_the_first_image_is_proposed_and_that_chosen_is_kept(experiment: Path):
    panel = SegmentPanel(experiment)
    preview = panel.preview
    assert preview.image.value == experiment / "query" / "A_img.tif"
    preview.button.click()
    assert preview.job.join(LONG).result.image == preview.image.value
    preview.image.value = experiment / "query" / "C_img.tif"
    panel.check()
    assert preview.image.value == experiment / "query" / "C_img.tif"


def test_what_the_network_must_see_again_is_asked_for(experiment: Path):
    panel = SegmentPanel(experiment)
    tried(panel)
    before = panel.preview.view.labels.copy()
    panel.form.flips.value = True
    assert "press Try again" in panel.preview.message.text
    np.testing.assert_array_equal(panel.preview.view.labels, before)
    panel.form.flips.value = False
    assert "found" in panel.preview.message.text
    panel.form.diameter.value = 30
    assert "press Try again" in panel.preview.message.text
    tried(panel)
    assert "found" in panel.preview.message.text


def test_the_preview_is_what_the_run_then_writes(experiment: Path):
    panel = SegmentPanel(experiment)
    slider(panel, "cell_threshold").value = 0.34
    slider(panel, "min_size").value = 8
    tried(panel)
    segmented(panel)
    written = readers.read_pixels(experiment / "segmented" / "B_masks.tif")
    np.testing.assert_array_equal(written, panel.preview.view.labels)


def test_a_damaged_image_cannot_be_tried(experiment: Path):
    panel = SegmentPanel(experiment)
    (experiment / "query" / "B_img.tif").write_bytes(b"II*\0")
    assert tried(panel).state == "failed"
    assert panel.preview.message.is_error
    assert "B_img.tif" in panel.preview.message.text
    assert not panel.preview.button.disabled


@pytest.mark.parametrize(
    ("architecture", "used"),
    [("hover", ["cell_threshold", "min_size"]), ("unet2", ["interior_threshold", "min_size"])],
)
def test_only_thresholds_that_the_model_reads_are_shown(
    experiment: Path, architecture: str, used: list[str]
):
    made = tiny_model(architecture).save(experiment / "other.safetensors")
    panel = SegmentPanel(experiment)
    panel.go_to(experiment, made)
    rows = panel.form.thresholds._rows
    assert [name for name in rows if shown(rows[name])] == used
    name = used[0]
    slider(panel, name).value = -2
    segmented(panel)
    assert json.loads((experiment / "segmented/segmented.json").read_text())[name] == -2


# --- runs --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_writes_what_the_command_writes(experiment: Path, tmp_path: Path):
    panel = SegmentPanel(experiment)
    job = segmented(panel)
    assert (job.state, job.done, job.total) == ("done", 6, 6)
    command = ["segment", str(experiment / "query"), "--output", str(tmp_path / "command")]
    command += ["--model", str(experiment / "tuned.safetensors")]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    ours = files(experiment / "segmented")
    assert list(ours) == [*(f"{name}_masks.tif" for name in NAMES), "segmented.json"]
    assert ours == files(tmp_path / "command")
    cells = [readers.read_pixels(experiment / f"segmented/{name}_masks.tif").max() for name in "AB"]
    panel.results.job.join(LONG)
    for (line, _), n_cells in zip(panel.results.list.options, cells, strict=False):
        assert line.endswith(f": {n_cells} cells")
    assert panel.message.text.startswith("6 images segmented")
    assert not shown(panel.cancel)
    segmented(panel)
    assert panel.message.text.startswith("6 images done before. The masks are in")
    assert files(experiment / "segmented") == ours


def test_one_image_alone(experiment: Path):
    panel = SegmentPanel(experiment)
    panel.source.value = str(experiment / "query" / "C_img.tif")
    assert panel.found.text == "1 image found."
    segmented(panel)
    assert list(files(experiment / "segmented")) == ["C_masks.tif", "segmented.json"]
    assert [entry.name for entry in panel.results.entries] == ["C"]


def test_a_folder_survives_a_damaged_file_and_says_what_to_do(experiment: Path):
    whole = (experiment / "query" / "B_img.tif").read_bytes()
    (experiment / "query" / "B_img.tif").write_bytes(whole[:200])
    panel = SegmentPanel(experiment)
    assert segmented(panel).state == "done"
    assert [entry.name for entry in panel.results.entries] == list("ACDEF")
    assert panel.message.text.startswith("5 images segmented")
    assert "1 image could not be segmented" in panel.failures.value
    assert "<li>B_img.tif: the file is damaged" in panel.failures.value
    assert "Fetch or export the file again" in panel.failures.value
    (experiment / "query" / "B_img.tif").write_bytes(whole)
    before = files(experiment / "segmented")
    segmented(panel)
    assert panel.message.text.startswith("1 image segmented")
    assert "5 images done before" in panel.message.text
    assert "could not be segmented" not in panel.failures.value
    after = files(experiment / "segmented")
    assert set(after) - set(before) == {"B_masks.tif"}
    assert {name: after[name] for name in before} == before


def test_paused_it_waits_and_then_goes_on(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    panel = SegmentPanel(experiment)
    gate = Gate(monkeypatch)
    panel.start.click()
    assert panel.start.disabled
    assert shown(panel.pause)
    gate.open.release(1)
    until(lambda: gate.read == 1)
    panel.pause.click()
    assert panel.pause.description == "Go on"
    gate.release()
    until(lambda: rests(panel.job))
    assert gate.read <= 2  # it may have waited for the second already, and does not read the third
    assert "Paused" in panel.message.text
    panel.pause.click()
    panel.job.join(LONG)
    assert panel.job.state == "done"
    assert len(files(experiment / "segmented")) == 7


def test_stopped_it_keeps_what_is_done_and_goes_on_from_there(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
):
    panel = SegmentPanel(experiment)
    gate = Gate(monkeypatch)
    panel.start.click()
    gate.open.release(batch.GROUP + 1)
    until(lambda: gate.read == batch.GROUP + 1)  # the first group is written
    panel.cancel.click()
    gate.release()
    panel.job.join(LONG)
    assert panel.job.state == "cancelled"
    assert panel.message.text.startswith("Stopped: 4 of 6 images done")
    before = files(experiment / "segmented")
    assert len(before) == batch.GROUP + 1
    assert not any(name.startswith(".") for name in before)
    segmented(panel)
    after = files(experiment / "segmented")
    assert len(after) == 7
    assert {name: after[name] for name in before} == before
    assert "2 images segmented" in panel.message.text
    assert "4 images done before" in panel.message.text


def test_stopped_between_the_images_of_a_group(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    panel = SegmentPanel(experiment)
    original, written = readers.write_labels, []

    def write_labels(path: Path, masks: np.ndarray) -> None:
        original(path, masks)
        written.append(path.name)
        if len(written) == 2:
            panel.job.cancel()

    monkeypatch.setattr(batch, "write_labels", write_labels)
    assert segmented(panel).state == "cancelled"
    assert written == ["A_masks.tif", "B_masks.tif"]
    assert panel.run.outcome.failed == {}  # nothing was at fault


def test_masks_of_other_settings_are_kept_until_made_anew(experiment: Path):
    panel = SegmentPanel(experiment)
    segmented(panel)
    before = files(experiment / "segmented")
    slider(panel, "cell_threshold").value = 0.36
    assert segmented(panel).state == "failed"
    assert shown(panel.question)
    assert "Make anew?" in panel._asked.value
    assert "cell probability 0.33 there, 0.36 now" in panel._asked.value
    assert files(experiment / "segmented") == before
    _, buttons = panel.question.children
    anew, keep = buttons.children
    keep.click()
    assert not shown(panel.question)
    assert files(experiment / "segmented") == before
    segmented(panel)
    anew.click()
    assert panel.job.join(LONG).state == "done"
    assert not shown(panel.question)
    after = files(experiment / "segmented")
    assert after.keys() == before.keys()
    assert json.loads(after["segmented.json"])["cell_threshold"] == 0.36
    changed = [name for name in after if after[name] != before[name]]
    assert len(changed) > 1


def test_masks_of_other_images_are_not_deleted(experiment: Path):
    panel = SegmentPanel(experiment)
    segmented(panel)
    before = files(experiment / "segmented")
    panel.source.value = str(experiment / "query" / "A_img.tif")
    panel.form.diameter.value = 50
    segmented(panel)
    panel.question.children[1].children[0].click()
    panel.job.join(LONG)
    assert not shown(panel.question)
    assert panel.message.is_error
    assert "Choose another folder for the masks" in panel.message.text
    assert files(experiment / "segmented") == before


def test_a_foreign_record_is_no_question(experiment: Path):
    panel = SegmentPanel(experiment)
    (experiment / "segmented").mkdir()
    (experiment / "segmented" / "segmented.json").write_text("[]")
    segmented(panel)
    assert not shown(panel.question)
    assert "segmented.json: this file is not ours" in panel.message.text


def test_doubts_about_the_diameter_are_told(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    masks = np.zeros((SIDE, SIDE), np.int32)
    for k in range(6):
        masks[15 * k : 15 * k + 10, 5:15] = k + 1
    monkeypatch.setattr(batch, "decode", lambda *_, **__: masks)
    panel = SegmentPanel(experiment)
    segmented(panel)
    assert "Set the diameter of the cells to 11 px" in panel.failures.value
    assert "6 images in all" in panel.failures.value
    assert "diameter=" not in panel.failures.value


@pytest.mark.filterwarnings("always")
def test_of_two_runs_at_once_one_waits_and_warnings_go_their_former_way_after(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
):
    before, gate = warnings.showwarning, Gate(monkeypatch)
    first, second = SegmentPanel(experiment), SegmentPanel(experiment)
    second.output.value = str(experiment / "other")
    first.start.click()
    until(lambda: warnings.showwarning is not before)
    second.start.click()
    until(lambda: "when the other run" in second.message.text)
    gate.release()
    assert [panel.job.join(LONG).state for panel in (first, second)] == ["done", "done"]
    assert warnings.showwarning is before
    assert second.run.outcome.segmented == 6


def test_one_that_waits_can_be_stopped(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    gate = Gate(monkeypatch)
    first, second = SegmentPanel(experiment), SegmentPanel(experiment)
    first.start.click()
    until(folder_run._RUNS.locked)
    second.start.click()
    second.cancel.click()
    assert second.job.join(LONG).state == "cancelled"
    gate.release()
    assert first.job.join(LONG).state == "done"


def test_a_stop_that_comes_too_late_changes_nothing(experiment: Path):
    panel = SegmentPanel(experiment)
    segmented(panel)
    said = panel.message.text
    panel.cancel.click()  # the page has not heard of the end yet
    assert panel.message.text == said


def test_images_chosen_while_a_run_ends_are_those_whose_results_are_listed(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
):
    original, listing, go_on = segment_panel.results, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> list[SegmentedImage]:
        found = original(*arguments)
        if found and not listing.is_set():
            listing.set()
            assert go_on.wait(LONG)
        return found

    panel, other = SegmentPanel(experiment), experiment / "other"
    other.mkdir()
    (other / "Z_img.tif").write_bytes((experiment / "query" / "A_img.tif").read_bytes())
    monkeypatch.setattr(segment_panel, "results", slow)
    panel.start.click()
    assert listing.wait(LONG)
    page = threading.Thread(target=lambda: setattr(panel.source, "value", str(other)))
    page.start()
    page.join(0.2)  # it waits until the end is shown
    go_on.set()
    page.join(LONG)
    panel.job.join(LONG)
    assert panel.found.text == "1 image found."
    assert panel.results.entries == []


def test_the_time_left_is_told(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    panel, said = SegmentPanel(experiment), []
    panel.message.observe(lambda change: said.append(panel.message.text), "value")
    monkeypatch.setattr("scellseg_lib.workbench.jobs.TELL_EVERY", 0)
    segmented(panel)
    assert any(text.startswith("3 of 6 images") and "left" in text for text in said), said


# --- results -----------------------------------------------------------------------------------


def test_results_are_looked_at_and_corrected(experiment: Path):
    looked: list[SegmentedImage] = []
    edited: list[SegmentedImage] = []
    panel = SegmentPanel(experiment, looked.append, edited.append)
    assert panel.results.buttons["inspect"].disabled
    segmented(panel)
    panel.results.list.index = 2
    panel.results.buttons["inspect"].click()
    panel.results.buttons["edit"].click()
    (entry,) = looked
    assert edited == [entry]
    assert (entry.name, entry.image) == ("C", experiment / "query" / "C_img.tif")
    assert entry.masks == experiment / "segmented" / "C_masks.tif"
    model = load_model(experiment / "tuned.safetensors")
    assert (entry.model_file, entry.weights) == ("tuned.safetensors", weights_hash(model.network))
    prediction = entry.predict()
    again = decode(prediction, entry.model.representation, entry.settings.decoding)
    np.testing.assert_array_equal(again, readers.read_masks(entry.masks))
    assert readers.read_pixels(entry.image).shape == readers.read_masks(entry.masks).shape


def test_a_result_opens_in_the_inspector_with_its_thresholds(experiment: Path):
    panel = SegmentPanel(experiment)
    panel.form.full_size.value = False
    segmented(panel)
    entry = panel.results.entries[1]
    given = entry.to_inspect(readers.read_masks(entry.masks))
    assert callable(given.predicted)  # nothing is read or asked before it is needed
    assert callable(given.prediction)
    inspector = Inspector([given])
    inspector.join(LONG)
    shown_cells = inspector.entry
    np.testing.assert_array_equal(shown_cells.predicted, readers.read_masks(entry.masks))
    assert shown_cells.resample is False
    inspector.thresholds._sliders["cell_threshold"].value = 0.34
    wanted = decode(
        entry.predict(),
        entry.model.representation,
        DECODING.model_copy(update={"cell_threshold": 0.34}),
        resample=False,
    )
    np.testing.assert_array_equal(inspector.entry.predicted, wanted)
    assert not np.array_equal(wanted, readers.read_masks(entry.masks))


def test_a_panel_without_callbacks_has_no_such_buttons(experiment: Path):
    assert SegmentPanel(experiment).results.buttons == {}


def test_former_results_are_listed_and_belong_to_their_model(experiment: Path):
    segmented(SegmentPanel(experiment))
    made = tiny_model(seed=1).save(experiment / "second.safetensors")
    panel = SegmentPanel(experiment)
    panel.go_to(experiment, experiment / "tuned.safetensors")
    assert panel.found.text == "6 images found, 6 of them segmented already."
    assert panel.results.entries[0].model is panel.form.loaded[1]
    panel.go_to(experiment, made)
    entry = panel.results.entries[0]
    assert entry.model is None
    assert entry.predict() is None
    assert Inspector([entry.to_inspect()]).entry.prediction is None
    assert entry.weights == weights_hash(load_model(experiment / "tuned.safetensors").network)
    assert entry.settings.decoding == DECODING


def test_damaged_masks_are_listed_as_such(experiment: Path):
    segmented(SegmentPanel(experiment))
    (experiment / "segmented" / "B_masks.tif").write_bytes(b"II*\0")
    panel = SegmentPanel(experiment, lambda entry: readers.read_masks(entry.masks))
    panel.results.job.join(LONG)
    assert "B: the masks are damaged; delete" in panel.results.list.options[1][0]
    panel.results.list.index = 1
    panel.results.buttons["inspect"].click()
    assert panel.results.message.is_error
    assert "B_masks.tif" in panel.results.message.text


def test_results_are_listed_before_their_cells_are_counted(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
):
    segmented(SegmentPanel(experiment)).join(LONG)
    for file in (experiment / "segmented").glob("*.tif"):
        os.utime(file, (1, 1))  # they were not counted since
    n_cells = readers.read_masks(experiment / "segmented" / "D_masks.tif").max()
    gate, read = threading.Event(), readers.read_pixels
    panel = SegmentPanel(None, lambda entry: None)

    def slow(path: Path) -> np.ndarray:
        if threading.current_thread() is not threading.main_thread():
            assert gate.wait(LONG)
        elif path.name.endswith("_masks.tif"):
            pytest.fail("masks are read while the page waits")
        return read(path)

    monkeypatch.setattr(readers, "read_pixels", slow)
    panel.go_to(experiment)
    results = panel.results
    assert [line for line, _ in results.list.options] == list(NAMES)
    assert "being counted" in results.message.text
    results.list.index = 3
    gate.set()
    results.job.join(LONG)
    assert results.list.index == 3
    assert results.list.options[3][0] == f"D: {n_cells} cells"
    assert results.message.text.startswith("6 images with ")


@pytest.fixture
def three() -> list[SegmentedImage]:
    """Results whose cells are to be counted."""
    settings = SegmentationSettings(30.0)
    return [
        SegmentedImage(
            name, Path(f"{name}.tif"), Path(f"{name}_masks.tif"), -1, None, "", "", settings
        )
        for name in "abc"
    ]


def test_numbers_that_come_too_late_are_not_those_of_other_images(
    three: list[SegmentedImage], monkeypatch: pytest.MonkeyPatch
):
    counting, go_on = threading.Event(), threading.Event()

    def count(masks: Path) -> int:
        counting.set()
        assert go_on.wait(LONG)
        return 7

    monkeypatch.setattr(segment_results, "count_cells", count)
    results = SegmentResults(None, None)
    results.show(three[:1], None)
    former = results.job
    assert counting.wait(LONG)
    results.show([replace(three[1], cells=3)], None)
    go_on.set()
    assert former.join(LONG).ended
    assert [line for line, _ in results.list.options] == ["b: 3 cells"]
    assert results.message.text == "1 image with 3 cells."


def test_what_is_chosen_is_opened_while_the_numbers_are_filled_in(
    three: list[SegmentedImage], monkeypatch: pytest.MonkeyPatch
):
    """Filled anew, the list goes to its first line for a moment."""
    counted, filling, go_on = threading.Event(), threading.Event(), threading.Event()

    def fills(change: dict[str, Any]) -> None:
        if threading.current_thread() is not threading.main_thread() and change["new"] == 0:
            filling.set()
            assert go_on.wait(LONG)

    monkeypatch.setattr(segment_results, "count_cells", lambda masks: counted.wait(LONG) and 7)
    looked: list[SegmentedImage] = []
    results = SegmentResults(looked.append, None)
    results.show(three, None)
    results.list.index = 2
    results.list.observe(fills, "index")
    counted.set()
    assert filling.wait(LONG)
    page = threading.Thread(target=results.buttons["inspect"].click)
    page.start()
    page.join(0.2)  # it waits until the list is filled
    go_on.set()
    page.join(LONG)
    assert [one.name for one in looked] == ["c"]


def test_a_round_of_correction_is_kept_and_shown(experiment: Path):
    panel = SegmentPanel(experiment)
    segmented(panel)
    assert panel.results.rounds.value == ""
    entry = panel.results.entries[0]
    corrected = readers.read_masks(entry.masks)
    corrected[corrected == 1] = 0
    found = Experiment(experiment).keep_correction(
        entry, readers.read_masks(entry.masks), corrected
    )
    assert (found.removed, found.added) == (1, 0)
    panel.list_results()
    assert "tuned.safetensors" in panel.results.rounds.value
    assert "the area that both share, divided by the area of either" in panel.results.rounds.value
    assert (experiment / "shot" / "A_masks.tif").is_file()
    panel.check()
    assert panel.found.text == "6 images found, 6 of them segmented already."


# --- words -------------------------------------------------------------------------------------


def test_words_of_the_library_become_those_of_the_panel(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 9, (9, 9, 3), np.uint8)
    tifffile.imwrite(tmp_path / "c.tif", values, photometric="rgb")
    tifffile.imwrite(tmp_path / "stack.tif", values.transpose(2, 0, 1), photometric="minisblack")
    for name in ("c", "stack"):
        with pytest.raises(Exception, match=name) as told:
            readers.read_image(tmp_path / f"{name}.tif")
        words = reworded(told.value, tmp_path)
        assert words.startswith(f"{name}.tif: ")
        assert "=" not in words
    assert not folder_run.made_otherwise(DatasetError("there are no images", remedy="Add some."))

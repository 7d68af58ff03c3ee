"""The inference panel: what is offered, what is written, what goes wrong; no browser."""

import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from scellseg_lib import cli, load_model
from scellseg_lib.files.images import read_masks, read_pixels, write_labels
from scellseg_lib.network import weights_hash
from scellseg_lib.segmentation import decode
from scellseg_lib.workbench import experiment as experiment_module
from scellseg_lib.workbench import jobs, session
from scellseg_lib.workbench.experiment import Experiment, SegmentedImage, offer_models
from scellseg_lib.workbench.inspect import Inspector
from scellseg_lib.workbench.jobs import Job, ProcessEnded
from scellseg_lib.workbench.segment import SegmentPanel
from tests.workbench import conftest
from tests.workbench.conftest import DECODING, LONG, NAMES, SIDE, files, is_shown, problem, until

pytestmark = conftest.SMALL


def run(panel: SegmentPanel) -> Job:
    panel.start.click()
    assert panel.job.join(LONG).ended
    return panel.job


def tried(panel: SegmentPanel, name: str = "B_img.tif") -> Job:
    panel.preview.image.value = dict(panel.preview.image.options)[name]
    panel.preview.button.click()
    return panel.preview.job.join(LONG)


def slider(panel: SegmentPanel, name: str):
    return panel.form.thresholds._sliders[name]


@pytest.fixture
def panel(experiment: Path) -> SegmentPanel:
    return SegmentPanel(experiment)


def test_the_chosen_model_says_what_it_is_and_brings_its_diameter(experiment: Path):
    os.utime(conftest.add_model(experiment, "older", "unet3", diameter=41.5, flips=True), (1, 1))
    panel = SegmentPanel(experiment)
    form = panel.form
    titles = [title for title, _ in form.model.options]
    assert titles[:3] == ["Yours: tuned", "Yours: older", "Scellseg"]
    assert (form.diameter.value, form.chosen[2].decoding) == (60, DECODING)
    assert "made for a test" in form.origin.value
    form.diameter.value = 50
    form.model.value = offer_models(experiment)[1]
    assert (form.diameter.value, form.chosen[2].flips) == (41.5, True)
    panel.go_to(experiment)  # what the user has chosen stays
    assert form.loaded[0].title == "Yours: older"
    made = conftest.add_model(experiment, "round2", diameter=33.0)
    panel.go_to(experiment, made)  # until a model is just tuned
    assert (form.loaded[0].name, form.diameter.value, form.flips.value) == (made, 33, False)


def test_a_damaged_model_is_said_and_cannot_be_run(experiment: Path):
    (experiment / "tuned.safetensors").write_bytes(b"cut off")
    panel = SegmentPanel(experiment)
    assert "tuned.safetensors" in problem(panel.form)
    assert panel.segment() is None
    assert problem(panel) == "there is no model. Choose one in step 3, Segment."
    panel.form.model.value = offer_models(None)[0]
    assert not problem(panel.form)
    assert panel.form.chosen is not None


def test_a_wrong_path_is_said_in_words(experiment: Path, panel):
    (experiment / "empty").mkdir()
    query = experiment / "query"
    for source, output, words in (
        (experiment / "nowhere", "", "nowhere: there is no such file or folder. Check how"),
        (experiment / "empty", "", "empty: there are no images. Name them"),
        (query, str(query), "query: masks beside the images would pass for annotations"),
    ):
        panel.source.value, panel.output.value = str(source), output
        assert (panel.found.is_error, panel.start.disabled) == (True, True)
        assert panel.found.text.startswith(words)
    panel.output.value = ""
    panel.source.value = f' "{query}" '  # as it is pasted from a file manager
    assert (panel.found.text, panel.start.disabled) == ("6 images found.", False)


def test_channels_are_asked_for_only_where_they_differ(experiment: Path, panel, tmp_path: Path):
    colours = tmp_path / "colours"
    conftest.draw(colours, "c", shape=(64, 64, 3))
    channels = panel.form.channels
    assert channels.value is None
    panel.source.value = str(colours)
    assert (channels.value, channels.is_missing) == (None, True)
    assert channels.pictures.value.count("<img") == 3
    assert (panel.preview.button.disabled, panel.segment()) == (True, None)
    assert "in which channel" in panel.preview.message.text
    assert "the images have several channels. Choose one above." in problem(panel)
    panel.go_to(experiment, conftest.add_model(experiment, "other", channels=("1", "red")))
    panel.source.value = str(colours)
    assert channels.value == ("green", "red")  # as the model's card says
    channels.cells.value, channels.nuclei.value = "blue", "none"
    panel.form.model.value = offer_models(experiment)[-1]
    assert channels.value == ("blue", "none")  # as the user says
    assert run(panel).state == "done"
    record = json.loads((colours / "segmented" / "segmented.json").read_text())
    assert record["channels"] == ["blue", "none"]
    again = SegmentPanel(colours)  # the folder remembers it
    assert again.form.channels.value == ("blue", "none")
    conftest.draw(tmp_path / "others", "c", shape=(64, 64, 3))
    panel.source.value = str(tmp_path / "others")  # of another it says nothing
    assert channels.is_missing
    panel.source.value = str(colours)
    panel.source.value = str(experiment / "query")
    assert channels.value is None


@pytest.mark.parametrize("is_tried", [False, True])
def test_channels_are_asked_for_once_an_image_needs_them(tmp_path: Path, is_tried: bool):
    grey = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 1), np.uint8).repeat(3, 2)
    coloured = np.roll(grey, (0, 9), (0, 2)) // [1, 2, 3]  # not among the five looked at first
    for name, image in (*((name, grey) for name in "123456"), ("B", coloured)):
        tifffile.imwrite(tmp_path / f"{name}.tif", image.astype(np.uint8), photometric="rgb")
    conftest.add_model(tmp_path, "tuned")
    panel = SegmentPanel(tmp_path)
    assert panel.form.channels.value is None
    (tried(panel, "B.tif") if is_tried else run(panel))
    said = panel.preview.message.text if is_tried else panel.failures.value
    assert "Choose under Channels" in said
    panel.form.channels.cells.value = "green"
    panel.check()  # as when the page is looked at again
    assert panel.form.channels.value == ("green", "none")
    run(panel)
    if not is_tried:
        panel.anew.value = True
        run(panel)
    assert "could not be segmented" not in panel.failures.value
    assert (tmp_path / "segmented" / "B_masks.tif").is_file()


def test_the_network_runs_once_and_cells_follow_the_thresholds(experiment, panel, monkeypatch):
    calls, original = [], session.predict_one
    monkeypatch.setattr(session, "predict_one", lambda *a: calls.append(a[1].name) or original(*a))
    prediction = tried(panel).result[1]
    view, known = panel.preview.view, panel.form.loaded[1].representation
    np.testing.assert_array_equal(view.labels, decode(prediction, known, DECODING))
    before = view.labels.copy()
    with monkeypatch.context() as patch:
        patch.setattr("scellseg_lib.workbench.segment.decode", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            slider(panel, "cell_threshold").value = 0.3  # the next move counts all the same
    for threshold in (0.325, 0.34):
        slider(panel, "cell_threshold").value = threshold
        decoding = DECODING.model_copy(update={"cell_threshold": threshold})
        wanted = decode(prediction, known, decoding)
        assert wanted.any()
        assert not np.array_equal(wanted, before)
        np.testing.assert_array_equal(view.labels, wanted)
    panel.form.full_size.value = False
    fast = decode(prediction, known, decoding, resample=False)
    assert not np.array_equal(wanted, fast)
    np.testing.assert_array_equal(view.labels, fast)
    assert calls == ["B_img.tif"]
    assert str(len(np.unique(fast)) - 1) in panel.preview.message.text
    run(panel)  # writes what was seen
    np.testing.assert_array_equal(read_pixels(experiment / "segmented" / "B_masks.tif"), fast)
    entry = panel.entries[1]  # which knows how it was made
    assert (entry.settings.resample, entry.settings.decoding) == (False, decoding)
    np.testing.assert_array_equal(entry.predict().maps, prediction.maps)


def test_what_the_network_must_see_again_is_asked_for(experiment: Path, panel):
    preview = panel.preview
    assert preview.image.value == experiment / "query" / "A_img.tif"
    tried(panel)
    before = preview.view.labels.copy()
    panel.check()
    assert preview.image.value == experiment / "query" / "B_img.tif"  # that was chosen
    panel.form.flips.value = True
    assert "press Try again" in preview.message.text
    np.testing.assert_array_equal(preview.view.labels, before)
    panel.form.flips.value = False
    assert "found" in preview.message.text
    panel.form.diameter.value = 30
    assert "press Try again" in preview.message.text
    (experiment / "query" / "B_img.tif").write_bytes(b"II*\0")
    assert tried(panel).state == "failed"
    assert "B_img.tif" in problem(preview)
    states = [preview.button.disabled]
    preview.button.observe(lambda change: states.append(change["new"]), "disabled")
    panel.form.refresh(experiment)
    assert states == [False, True, False]  # not while a model is loaded


def test_a_run_writes_what_the_command_writes(experiment, panel, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("scellseg_lib.workbench.jobs.TELL_EVERY", 0)
    said, other = [], SegmentPanel(experiment)
    panel.message.observe(lambda change: said.append(panel.message.text), "value")
    other.output.value = str(experiment / "other")
    other.start.click()  # both at once
    job = run(panel)
    assert (job.state, job.done, job.total) == ("done", 6, 6)
    assert any(text.startswith("Segmenting: 3 of 6 images") and "left" in text for text in said), (
        said
    )
    command = ["segment", str(experiment / "query"), "--output", str(tmp_path / "command")]
    command += ["--model", str(experiment / "tuned.safetensors")]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    ours = files(experiment / "segmented")
    assert list(ours) == [*(f"{name}_masks.tif" for name in NAMES), "segmented.json"]
    assert other.job.join(LONG).state == "done"
    assert ours == files(tmp_path / "command") == files(experiment / "other")
    assert panel.message.text.startswith("6 images segmented")
    assert not is_shown(panel.cancel)
    run(panel)
    ended = panel.message.text
    assert ended.startswith("0 images segmented, 0 cells; 6 images done before. The masks are in")
    assert files(experiment / "segmented") == ours
    for name in "BCD":
        (experiment / "segmented" / f"{name}_masks.tif").unlink()
    told = []
    panel.message.observe(lambda change: told.append(panel.message.text), "value")
    run(panel)
    # What was done before took no time: it is counted apart, and tells nothing of what is left.
    assert any(text.startswith("Segmenting: 2 of 3 images") and "left" in text for text in told), (
        told
    )
    assert not any(text.startswith("Segmenting: 4 of") for text in told)
    assert files(experiment / "segmented") == ours
    ended = panel.message.text
    panel.cancel.click()  # the page has not heard of the end yet
    assert panel.message.text == ended


def test_one_image_alone(experiment: Path, panel):
    panel.source.value = str(experiment / "query" / "C_img.tif")
    assert panel.found.text == "1 image found."
    run(panel)
    assert list(files(experiment / "segmented")) == ["C_masks.tif", "segmented.json"]
    assert [entry.name for entry in panel.entries] == ["C"]


def test_a_folder_survives_a_damaged_file_and_says_what_to_do(experiment: Path, panel):
    whole = (experiment / "query" / "B_img.tif").read_bytes()
    (experiment / "query" / "B_img.tif").write_bytes(whole[:200])
    assert run(panel).state == "done"
    assert [entry.name for entry in panel.entries] == list("ACDEF")
    assert panel.message.text.startswith("5 images segmented")
    for words in ("1 image could not", "<br>B_img.tif: the file is damaged", "export the file"):
        assert words in panel.failures.value
    (experiment / "query" / "B_img.tif").write_bytes(whole)
    run(panel)
    assert re.match(r"1 image segmented.*5 images done before", panel.message.text)
    assert "could not be segmented" not in panel.failures.value
    assert (experiment / "segmented" / "B_masks.tif").is_file()


def test_paused_it_waits_and_then_goes_on(experiment: Path, panel, monkeypatch):
    """Stopped, it keeps what is done, and another run goes on from there."""
    acts = [panel.pause.click, panel.cancel.click]

    def write(path: Path, masks: np.ndarray) -> None:
        write_labels(path, masks)
        _ = acts and acts.pop(0)()  # in the run's thread, between the images of a group

    monkeypatch.setattr("scellseg_lib.files.images.write_labels", write)
    monkeypatch.setattr("scellseg_lib.workbench.jobs.TELL_EVERY", 0)
    said = []
    panel.message.observe(lambda _: said.append(panel.message.text), "value")
    panel.start.click()
    until(lambda: conftest.rests(panel.job))
    state = panel.start.disabled, is_shown(panel.pause), panel.pause.description
    assert state == (True, True, "Go on")
    assert "Paused" in panel.message.text
    assert list(files(experiment / "segmented")) == ["A_masks.tif", "segmented.json"]
    panel.pause.click()
    assert panel.job.join(LONG).state == "cancelled"
    assert panel.message.text.startswith("Stopped: 2 of 6 images done")
    stopping = said.index("Stopping after the image that is in work.")
    assert len(said) > stopping + 2
    assert all("Stop" in text for text in said[stopping:])  # also in the report that came after
    assert "could not be segmented" not in panel.failures.value  # nothing was at fault
    assert list(files(experiment / "segmented")) == ["A_masks.tif", "B_masks.tif", "segmented.json"]
    run(panel)
    assert len(files(experiment / "segmented")) == 7
    assert re.match(r"4 images segmented.*2 images done before", panel.message.text)


def test_what_a_killed_process_has_written_is_listed(panel, monkeypatch):
    def killed(work):
        def follow(job: Job) -> None:
            work(job)
            raise ProcessEnded("the process was ended", remedy="Look at the log.")

        return follow

    monkeypatch.setattr(jobs, "apart", killed)
    assert run(panel).state == "failed"
    assert problem(panel) == "the process was ended. Look at the log."
    assert [entry.name for entry in panel.entries] == list(NAMES)
    assert panel.found.text == "6 images found, 6 of them with masks."
    assert not panel.inspect.disabled


def test_masks_of_other_settings_are_kept_until_made_anew(segmented: Path):
    panel, before = SegmentPanel(segmented), files(segmented / "segmented")
    slider(panel, "cell_threshold").value = 0.36
    assert run(panel).state == "failed"
    assert "cell probability 0.33 there, 0.36 now" in problem(panel)
    assert is_shown(panel.anew)
    assert files(segmented / "segmented") == before
    panel.anew.value = True
    assert run(panel).state == "done"
    assert (is_shown(panel.anew), panel.anew.value) == (False, False)  # the wish is for once
    after = files(segmented / "segmented")
    assert after.keys() == before.keys()
    assert json.loads(after["segmented.json"])["cell_threshold"] == 0.36
    panel.source.value = str(segmented / "query" / "A_img.tif")  # there are masks of others, too
    panel.form.diameter.value = 50
    panel.anew.value = True
    run(panel)
    assert (bool(problem(panel)), is_shown(panel.anew)) == (True, False)
    assert files(segmented / "segmented") == after
    (segmented / "segmented" / "segmented.json").write_text("[]")
    run(panel)
    assert not is_shown(panel.anew)  # a foreign record is no question
    panel.check()
    for message in (panel.message, panel.found):
        assert "segmented.json: this file is not ours" in message.text


def test_doubts_about_the_diameter_are_told(panel, monkeypatch: pytest.MonkeyPatch):
    masks = conftest.squares(*((15 * k, 5) for k in range(6)), side=10, shape=(SIDE, SIDE))
    monkeypatch.setattr("scellseg_lib.segmentation.decode", lambda *_, **__: masks)
    run(panel)
    assert "a diameter of the cells of 11 px" in panel.doubts.value
    assert "6 images in all" in panel.doubts.value


def test_images_chosen_while_a_run_ends_are_those_listed(experiment, panel, monkeypatch):
    original, listing, go_on = experiment_module.list_results, threading.Event(), threading.Event()

    def slow(*arguments) -> list[SegmentedImage]:
        found = original(*arguments)
        if found and not listing.is_set():
            listing.set()
            assert go_on.wait(LONG)
        return found

    conftest.draw(experiment / "other", "Z_img")
    monkeypatch.setattr(experiment_module, "list_results", slow)
    panel.start.click()
    assert listing.wait(LONG)
    other = str(experiment / "other")
    page = threading.Thread(target=lambda: setattr(panel.source, "value", other))
    page.start()
    page.join(0.2)  # it waits until the end is shown
    go_on.set()
    page.join(LONG)
    panel.job.join(LONG)
    assert (panel.found.text, panel.entries) == ("1 image found.", [])


def test_former_results_are_listed_and_belong_to_their_model(segmented: Path):
    panel, said = SegmentPanel(segmented), "6 images found, 6 of them with masks."
    entry = panel.entries[0]
    assert (panel.found.text, panel.rounds.value) == (said, "")
    assert entry.model is panel.form.loaded[1]
    assert not entry.to_inspect().learnt
    entry.model.card.recipe = {"shots": ["Z"], "initial": {"shots": ["A"], "initial": "ours"}}
    assert [one.to_inspect().learnt for one in panel.entries] == [True] + [False] * 5
    labels = read_masks(entry.masks)
    Experiment(segmented).keep_correction(entry, labels, np.where(labels == 1, 0, labels))
    panel.go_to(segmented, conftest.add_model(segmented, "second"))
    assert panel.found.text == said
    assert "tuned.safetensors" in panel.rounds.value
    entry = panel.entries[0]
    assert (entry.model, entry.predict()) == (None, None)
    assert Inspector([entry.to_inspect()]).entry.prediction is None
    assert entry.weights == weights_hash(load_model(segmented / "tuned.safetensors").network)
    assert entry.settings.decoding == DECODING


@pytest.mark.parametrize("file", ["segmented/B_masks.tif", "query/B_img.tif"])
@pytest.mark.parametrize("write", [write_labels, lambda file, _: file.write_bytes(b"II*\0")])
def test_masks_that_are_not_those_of_their_image_are_listed_as_such(segmented: Path, file, write):
    """Damaged, or the image or the masks are others since they were made."""
    write(segmented / file, np.ones((SIDE, SIDE), np.int32))
    inspector = Inspector([one.to_inspect() for one in SegmentPanel(segmented).entries])
    inspector.join(LONG)
    problems = {one.name: one.found.problem for one in inspector._images}
    assert {name for name in NAMES if problems[name]} == {"B"}
    assert Path(file).name in problems["B"] or "B_masks.tif" in problems["B"]

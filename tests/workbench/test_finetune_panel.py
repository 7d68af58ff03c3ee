"""The fine-tune panel, driven as by a hand but without a browser: what lies in the folder after."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from math import inf
from pathlib import Path
from threading import Condition, Event, Thread
from time import monotonic

import cv2
import numba
import numpy as np
import psutil
import pytest
import tifffile
import torch

from scellseg_lib import augment, paths
from scellseg_lib.datasets.load import load_folder
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.device import Precision
from scellseg_lib.files import layout
from scellseg_lib.finetuning import finetune
from scellseg_lib.model import new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.training import Enough
from scellseg_lib.workbench import finetune_choices, tuning
from scellseg_lib.workbench.drawings import diameter_disk, loss_curve
from scellseg_lib.workbench.experiment import Experiment, offer_models, offer_starts
from scellseg_lib.workbench.finetune_panel import FinetunePanel
from scellseg_lib.workbench.forms import duration, plain, typed_path
from scellseg_lib.workbench.jobs import Job
from tests import tiny
from tests.workbench.waiting import LONG, until

FINETUNE = import_module("scellseg_lib.finetuning")  # the package's name is its function
SIDE = 160


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Models of a few channels."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("scellseg", "unet2"):
        new_model(name, tiny.LEVELS).save(folder / f"{name}_4.safetensors")
    return folder


def on_one_thread(*arguments, **options):
    """Fine-tune without the wait for a second core; the same sums in the same order each time."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    return finetune(*arguments, **options)


@pytest.fixture(autouse=True)
def tiny_world(weights, temporary_cache, monkeypatch):
    """Small models and patches, nothing measured, two styles to contrast with."""
    monkeypatch.setattr(paths, "PACKAGED_WEIGHTS", weights)
    monkeypatch.setattr(finetune_choices, "seconds_per_step", lambda job, settings: 2.0)
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)
    monkeypatch.setattr("scellseg_lib.device.recall_precision", lambda key: Precision())
    monkeypatch.setattr(FINETUNE, "default_contrast", tiny.contrast)
    monkeypatch.setattr(tuning, "finetune", on_one_thread)
    threads = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(threads[0])
    numba.set_num_threads(threads[1])


def disks(n: int, radius: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Image of 8 bits with `n` disks, and its masks."""
    masks = np.zeros((SIDE, SIDE), np.uint8)
    for i in range(n):
        middle = (30 + 45 * (i % 3), 30 + 45 * (i // 3))
        cv2.circle(masks, middle, radius, i + 1, -1)
    noise = np.random.default_rng(n).integers(0, 40, masks.shape)
    return ((masks > 0) * 150 + noise).astype(np.uint8), masks


def annotate(folder: Path, name: str, n: int, radius: int = 12) -> None:
    image, masks = disks(n, radius)
    (folder / "shot").mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "shot" / f"{name}_img.tif", image)
    tifffile.imwrite(folder / "shot" / f"{name}_masks.tif", masks)


def add_query(folder: Path, name: str) -> Path:
    (folder / "query").mkdir(parents=True, exist_ok=True)
    file = folder / "query" / f"{name}_img.tif"
    tifffile.imwrite(file, disks(4)[0])
    return file


def truncate(file: Path) -> None:
    """Damage a file as a copy does that was broken off."""
    file.write_bytes(file.read_bytes()[:-2000])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two annotated images and two to be segmented."""
    folder = tmp_path / "worms"
    annotate(folder, "A", 5)
    annotate(folder, "B", 3)
    add_query(folder, "C")
    add_query(folder, "D")
    return folder


def opened(folder: Path | None, **options) -> FinetunePanel:
    panel = FinetunePanel(folder, **options)
    panel.join(LONG)
    panel.steps.value, panel.batch.value = 4, 2
    panel.strategy.value = "classic"
    panel.join(LONG)
    return panel


class Pace:
    """Holds runs at the start of a step, so that a test can act in between.

    Attributes
    ----------
    left : float
        Steps that may still begin.
    """

    def __init__(self) -> None:
        self.left, self._changed = inf, Condition()

    def let(self, steps: float) -> None:
        """Let this many steps begin from now on, and no more; `inf`: all."""
        with self._changed:
            self.left = steps
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until a step may begin."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.left > 0, LONG)
            self.left -= 1


@pytest.fixture
def pace(monkeypatch) -> Pace:
    """How far runs may go."""
    pace, draw = Pace(), FINETUNE.labelled_batch
    monkeypatch.setattr(FINETUNE, "labelled_batch", lambda *a: (pace.wait(), draw(*a))[1])
    return pace


def stopped(panel: FinetunePanel, pace: Pace, after: int = 2) -> None:
    """Start a run and stop it on the way: after these steps, or one more."""
    pace.let(after)
    panel.start.click()
    until(lambda: len(panel.tuning.log) >= after)
    panel.stop.click()
    pace.let(inf)
    panel.join(LONG)
    assert panel.job.state == "cancelled"


def visible(widget) -> bool:
    return widget.layout.display != "none"


def test_hiding_one_part_hides_no_other(folder):
    panel = opened(folder)
    parts = {name: part for name, part in vars(panel).items() if hasattr(part, "layout")}
    hidden = {name for name, part in parts.items() if not visible(part)}
    assert hidden == {"stop", "go_on", "keep", "discard", "progress", "time", "overwrite"}


# --- before the start -----------------------------------------------------------------------------


def test_without_a_folder_the_panel_says_what_to_do():
    panel = FinetunePanel()
    assert "Type the folder" in panel.message.value
    panel.start.click()
    assert panel.message.is_error
    assert "Name the folder" in panel.message.text
    assert panel.job is None


def test_the_shots_their_cells_and_diameter_are_found(folder):
    panel = opened(folder)
    assert [(shot.name, shot.cells) for shot in panel.found.usable] == [("A", 5), ("B", 3)]
    assert panel.found.queries == ("C", "D")
    assert re.findall(r">(\w+)</td><td[^>]*>(\d+)</td>", panel.shots.value) == [
        ("A", "5"),
        ("B", "3"),
    ]
    assert "2 annotated images</b> with 8 cells; 2 images to be segmented" in panel.shots.value
    assert panel.found.diameter == pytest.approx(24, abs=1)
    assert f"a disk {panel.found.diameter:.0f} px wide" in panel.diameter.value
    assert panel.message.text == "Ready: press Start."
    assert not panel.message.is_error


def test_the_disk_is_to_the_scale_of_the_piece_beside_it():
    crop = np.arange(100.0).reshape(10, 10).repeat(8, 0).repeat(8, 1)
    svg = ElementTree.fromstring(diameter_disk(crop, 20))
    named = {element.tag.rpartition("}")[2]: element for element in svg}
    shown, radius = float(named["image"].get("width")), float(named["circle"].get("r"))
    assert 2 * radius / shown == pytest.approx(20 / 80, abs=1e-3)


def test_the_piece_that_is_shown_is_around_a_cell(folder):
    found = Experiment(folder).survey()
    crop = found.crop(None)
    assert crop.shape == (round(4 * found.diameter - 0.5),) * 2
    assert np.count_nonzero(crop >= 150) >= 400  # a disk of 24 px has 450, the noise is below


def test_a_damaged_shot_is_named_and_left_out(folder):
    truncate(folder / "shot" / "A_img.tif")
    tifffile.imwrite(folder / "shot" / "E_img.tif", disks(2)[0][:80])
    tifffile.imwrite(folder / "shot" / "E_masks.tif", disks(2)[1])
    tifffile.imwrite(folder / "shot" / "F_img.tif", disks(2)[0])
    tifffile.imwrite(folder / "shot" / "F_masks.tif", np.zeros((SIDE, SIDE), np.uint8))
    panel = opened(folder)
    problems = {shot.name: shot.problem for shot in panel.found.shots}
    assert problems["B"] == ""
    assert "A_img.tif: the file is damaged" in problems["A"]
    assert "80 x 160 px" in problems["E"]
    assert "No cell is drawn" in problems["F"]
    assert panel.shots.value.count("left out") == 3
    assert "3 annotated images are left out" in panel.message.text
    panel.start.click()
    panel.join(LONG)
    assert panel.job.state == "done"
    assert load_model(panel.job.result).card.recipe["shots"] == ["B"]


def test_a_folder_without_shots_says_what_to_do_next(tmp_path):
    add_query(tmp_path, "C")
    panel = opened(tmp_path)
    assert panel.message.is_error
    assert "Draw all cells in one or two" in panel.message.text
    panel.start.click()
    assert panel.job is None
    annotate(tmp_path, "A", 4)
    panel.check.click()
    panel.join(LONG)
    assert panel.message.text == "Ready: press Start."


@pytest.mark.parametrize("kind", ["absent", "empty", "file"])
def test_what_is_no_folder_of_images_is_said_in_words(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "empty":
        place.mkdir()
    elif kind == "file":
        place.write_text("notes")
    panel = opened(place)
    assert panel.message.is_error
    assert "place: there" in panel.message.text
    assert "Traceback" not in panel.message.value
    assert panel.found is None


def test_channels_are_offered_from_the_files_and_asked_for(tmp_path):
    image, masks = disks(4)
    (tmp_path / "shot").mkdir()
    colours = np.stack([255 - image, image, image // 2, image // 3], axis=-1)
    tifffile.imwrite(tmp_path / "shot" / "A_img.tif", colours, photometric="minisblack")
    tifffile.imwrite(tmp_path / "shot" / "A_masks.tif", masks)
    tifffile.imwrite(
        tmp_path / "shot" / "A_img.tif",
        colours.transpose(2, 0, 1),
        imagej=True,
        metadata={"axes": "CYX"},
    )
    panel = opened(tmp_path)
    names = [name for _, name in panel.cells_channel.options]
    assert names == [None, "red", "green", "blue", "3", "gray"]
    assert [name for _, name in panel.nuclei_channel.options] == ["none", *names[1:]]
    assert "choose the one of the cells" in panel.message.text
    panel.start.click()
    assert panel.message.text == "Choose the channel of the cells."
    panel.cells_channel.value, panel.nuclei_channel.value = "green", "3"
    assert panel.message.text == "Ready: press Start."
    assert "<svg" in panel.diameter.value
    panel.join(LONG)
    panel.start.click()
    panel.join(LONG)
    assert load_model(panel.job.result).card.channels == ("green", "3")


def test_images_of_one_channel_need_no_choice(folder):
    panel = opened(folder)
    assert panel.cells_channel.options == (("the only one", ""),)
    assert panel.channels is None


def test_all_packaged_fetched_and_own_models_are_offered(folder, monkeypatch, temporary_cache):
    monkeypatch.setattr(paths, "PACKAGED_WEIGHTS", paths.PACKAGE / "weights")
    new_model("hover", tiny.LEVELS).save(folder / "mine.safetensors")
    (folder / "other.safetensors").write_bytes(b"no model")
    keys = [start.key for start in offer_starts(folder)]
    packaged = ["scellseg_32", "scellseg_16", "cellpose_16", "hover_16", "unet3_16", "unet2_16"]
    assert keys == [*packaged, "mine.safetensors"]
    fetched = temporary_cache / "released" / "cellpose.safetensors"
    fetched.parent.mkdir()
    fetched.touch()
    assert [start.key for start in offer_starts(folder)][6:] == [
        "released cellpose",
        "mine.safetensors",
    ]
    offered = [start.title for start in offer_models(folder)]
    assert [start.title for start in offer_starts(folder)] == [*offered[2:], "Yours: mine"]
    panel = FinetunePanel(folder)
    panel.join(LONG)
    panel.model.value = offer_starts(folder)[-1]
    assert panel.about.value.startswith("HoVer, of unknown origin. Made for cells 30 px wide.")
    panel.join(LONG)
    loaded = offer_starts(folder)[1].load()
    assert (loaded.card.architecture, loaded.card.levels[0]) == ("scellseg", 16)


@pytest.fixture
def timed(monkeypatch):
    """Steps are timed after all."""
    monkeypatch.setattr(finetune_choices, "seconds_per_step", tuning.seconds_per_step)


def test_the_time_is_estimated_before_the_start_from_the_quicker_step(folder, timed, monkeypatch):
    clock, ends = [0.0], iter((50.0, 4.0, 3.0))  # the first is slower: all is new
    draw = FINETUNE.labelled_batch

    def after_a_while(*arguments):
        clock[0] += next(ends)
        return draw(*arguments)

    monkeypatch.setattr(tuning, "monotonic", lambda: clock[0])
    with monkeypatch.context() as patch:
        patch.setattr(FINETUNE, "labelled_batch", after_a_while)
        panel = FinetunePanel(folder)
        panel.join(LONG)
    assert next(ends, None) is None  # of the run itself no step is done
    panel.steps.value = 20
    assert "about <b>60 s</b>" in panel.estimate.value
    assert "an estimate" in panel.estimate.value
    assert list(folder.glob("*.checkpoint*")) == []


def test_what_a_hand_changes_while_a_thread_fills_the_form_is_heard(folder):
    panel = opened(folder)
    filling, changed = Event(), Event()

    def fill() -> None:
        with panel._quietly():
            filling.set()
            changed.wait(LONG)

    thread = Thread(target=fill)
    thread.start()
    assert filling.wait(LONG)
    panel.steps.value = 300
    changed.set()
    thread.join()
    assert "about <b>10 min</b>" in panel.estimate.value


def test_what_changes_the_time_of_a_step_is_timed_anew(folder, monkeypatch):
    asked = []

    def seconds(job, settings):
        asked.append((settings.strategy, settings.batch_size))
        return 2.0 * settings.batch_size

    monkeypatch.setattr(finetune_choices, "seconds_per_step", seconds)
    panel = opened(folder)
    asked.clear()
    panel.steps.value = 50
    assert "about <b>3 min</b>" in panel.estimate.value  # 50 steps of 4 s; known without a trial
    assert asked == []
    panel.batch.value = 4
    panel.join(LONG)
    panel.strategy.value = "contrastive"
    panel.join(LONG)
    assert asked == [("classic", 4), ("contrastive", 4)]
    assert "about <b>7 min</b>" in panel.estimate.value


def test_an_estimate_that_fails_is_said_and_hinders_nothing(folder, monkeypatch):
    def fails(job, settings):
        raise MemoryError

    monkeypatch.setattr(finetune_choices, "seconds_per_step", fails)
    panel = opened(folder)
    assert "memory does not suffice" in panel.message.text
    panel.start.click()
    panel.join(LONG)
    assert panel.job.state == "done"


# --- the run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["classic", "contrastive"])
def test_a_run_saves_a_model_with_its_diameter_and_card(folder, strategy):
    tuned = []
    panel = opened(folder, on_tuned=tuned.append)
    panel.strategy.value = strategy
    panel.name.value = "my worms"
    panel.start.click()
    assert panel.running
    assert panel.steps.disabled
    assert visible(panel.stop)
    panel.join(LONG)
    assert panel.job.state == "done", panel.message.text
    file = folder / "my worms.safetensors"
    assert tuned == [file]
    card = load_model(file).card
    assert card.diameter == pytest.approx(panel.found.diameter, abs=0.01)
    assert card.recipe["strategy"] == strategy
    assert card.recipe["steps"] == 4
    assert card.recipe["queries"] == (["C", "D"] if strategy == "contrastive" else [])
    assert "my worms.safetensors" in panel.message.text
    assert not list(folder.glob("*.checkpoint*"))
    assert not panel.running
    assert not panel.steps.disabled
    assert [start.key for _, start in panel.model.options][-1] == "my worms.safetensors"
    assert "now" in panel.curve.value


def test_the_saved_model_is_the_one_that_the_library_tunes(folder):
    panel = opened(folder)
    start = panel.model.value.load()
    panel.start.click()
    panel.join(LONG)
    shots = load_folder(folder).shot
    same = on_one_thread(
        start, shots, strategy="classic", steps=4, batch_size=2, precision=Precision()
    )
    assert weights_hash(load_model(panel.job.result).network) == weights_hash(same.network)


def test_a_query_that_cannot_be_read_is_named_and_left_out(folder):
    truncate(folder / "query" / "D_img.tif")
    panel = opened(folder)
    panel.strategy.value = "contrastive"
    panel.start.click()
    panel.join(LONG)
    assert panel.job.state == "done", panel.message.text
    assert "D_img.tif: the file is damaged" in panel.message.text
    assert load_model(panel.job.result).card.recipe["queries"] == ["C"]


def test_the_page_stays_alive_while_it_learns(folder, pace, monkeypatch):
    """No step ends before this thread, the kernel's, lets it, and the curve grows meanwhile."""
    monkeypatch.setattr("scellseg_lib.workbench.jobs.TELL_EVERY", 0)
    monkeypatch.setattr("scellseg_lib.workbench.finetune_panel.DRAWN_EVERY", 0)
    panel = opened(folder)
    panel.steps.value = 6
    pace.let(0)
    panel.start.click()
    run, curves = panel.tuning, set()
    for step in range(1, 6):
        pace.let(1)
        until(lambda step=step: len(run.log) == step)
        until(lambda: panel.curve.value not in curves)
        curves.add(panel.curve.value)
    assert panel.running
    pace.let(inf)
    panel.join(LONG)
    assert panel.job.state == "done"


def test_the_curve_is_drawn_four_times_a_second_at_most(folder, monkeypatch):
    drawn = []

    def draw(log, n_steps):
        drawn.append((monotonic(), len(log)))
        return ""

    panel = opened(folder)
    panel.steps.value = 30
    monkeypatch.setattr("scellseg_lib.workbench.finetune_form.loss_curve", draw)
    begun = monotonic()
    panel.start.click()
    panel.join(LONG)
    assert panel.job.state == "done"
    assert drawn[-1][1] == 30
    assert len(drawn) <= 4 * (monotonic() - begun) + 3


def test_the_curve_shows_every_loss_on_one_scale():
    log = [{"step": i + 1, "segmentation": 4.0 - i, "loss": 4.0 - i} for i in range(4)]
    svg = ElementTree.fromstring(loss_curve(log, 8))
    heights = [float(e.get("cy")) for e in svg if e.tag.endswith("circle")]
    places = [float(e.get("cx")) for e in svg if e.tag.endswith("circle")]
    assert len(heights) == 4
    assert heights == sorted(heights)  # a falling loss goes down the page
    assert np.ptp(np.diff(heights)) < 0.2
    assert max(places) < 0.6 * 560  # half of the steps are done
    both = [entry | {"loss": entry["loss"] + 1} for entry in log]
    assert loss_curve(both, 8).count("<polyline") == 2
    assert loss_curve([], 8) == ""


# --- stopped --------------------------------------------------------------------------------------


def test_a_callback_that_has_enough_ends_a_run_that_can_be_gone_on_with(tmp_path):
    def enough(progress):
        if progress.step == 2:
            raise Enough

    checkpoint = tmp_path / "run.checkpoint"
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    part = tiny.tune(checkpoint=checkpoint, callback=enough)
    assert [entry["step"] for entry in part.log] == [1, 2]
    assert "2 steps" in part.card.origin
    assert not part.network.training
    rest = tiny.tune(checkpoint=checkpoint)
    assert weights_hash(rest.network) == weights_hash(tiny.tune().network)
    assert weights_hash(rest.network) != weights_hash(part.network)


def test_a_stopped_run_goes_on_to_the_model_that_was_never_stopped(folder, pace):
    panel = opened(folder)
    panel.name.value = "whole"
    panel.steps.value = 8
    panel.start.click()
    panel.join(LONG)
    panel.name.value = "halted"
    stopped(panel, pace)
    done = len(panel.tuning.log)
    assert 2 <= done < 8
    assert (folder / "halted.checkpoint").is_file()
    assert not (folder / "halted.safetensors").exists()
    assert visible(panel.go_on)
    assert visible(panel.keep)
    assert not visible(panel.start)
    panel.go_on.click()
    panel.join(LONG)
    assert panel.job.state == "done", panel.message.text
    whole, halted = (load_model(folder / f"{n}.safetensors") for n in ("whole", "halted"))
    assert weights_hash(whole.network) == weights_hash(halted.network)
    assert halted.card.model_dump(exclude={"recipe"}) == whole.card.model_dump(exclude={"recipe"})
    assert not list(folder.glob("*.checkpoint*"))


@pytest.mark.parametrize("start", ["scellseg_4", "unet2_4"])
def test_a_stopped_run_can_be_kept_as_it_is(folder, pace, start):
    tuned = []
    panel = opened(folder, on_tuned=tuned.append)
    panel.model.value = next(value for _, value in panel.model.options if value.key == start)
    panel.join(LONG)
    panel.steps.value = 9
    stopped(panel, pace)
    done, kept = len(panel.tuning.log), weights_hash(panel.tuning.kept.network)
    panel.keep.click()
    model = load_model(tuned[0])
    assert weights_hash(model.network) == kept
    assert model.card.recipe["stopped_after"] == done
    assert f"{done} steps" in model.card.origin
    assert model.card.diameter == pytest.approx(panel.found.diameter, abs=0.01)
    assert panel.tuning is None
    assert visible(panel.start)
    assert not list(folder.glob("*.checkpoint*"))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_stopped_run_can_be_kept_after_another_look(folder, pace, elsewhere):
    panel = opened(folder)
    panel.steps.value = 9
    stopped(panel, pace)
    kept = panel.tuning.kept
    if elsewhere:  # another window has gone on with it, and stopped it too
        second = opened(folder)
        pace.let(1)
        second.go_on.click()
        until(lambda: len(second.tuning.log) > len(kept.log))
        second.stop.click()
        pace.let(inf)
        second.join(LONG)
    panel.check.click()
    panel.join(LONG)
    assert visible(panel.keep) is not elsewhere
    if not elsewhere:
        panel.keep.click()
        model = load_model(folder / "worms-scellseg.safetensors")
        assert weights_hash(model.network) == weights_hash(kept.network)


def test_what_learns_in_another_window_is_left_alone(folder, pace, monkeypatch):
    monkeypatch.setattr("scellseg_lib.training.SAVE_EVERY", 0.0)
    stale = opened(folder)
    stopped(stale, pace)
    first = opened(folder)
    pace.let(0)
    first.go_on.click()
    until(lambda: "process" in (folder / "worms-scellseg.checkpoint.json").read_text())
    second = opened(folder)
    assert second.tuning is None
    assert "worms-scellseg is still being learnt in another window" in second.message.text
    assert second.name.value == "worms-scellseg-2"
    for button in (stale.go_on, stale.keep, stale.discard):
        button.click()
        stale.join(LONG)
        assert "being learnt in another window" in stale.message.text
    pace.let(inf)
    first.join(LONG)
    assert first.job.state == "done", first.message.text


def test_a_run_whose_process_was_killed_is_offered(folder, pace):
    panel = opened(folder)
    stopped(panel, pace)
    record = folder / "worms-scellseg.checkpoint.json"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        process = tuning._process(psutil.Process(other.pid))
        record.write_text(json.dumps(json.loads(record.read_text()) | {"process": process}))
        busy = opened(folder).message.text
        other.kill()
    assert "in another window" in busy
    assert "An unfinished run, worms-scellseg, lies here" in opened(folder).message.text


def test_a_killed_run_is_found_again_and_goes_on(folder, pace, tmp_path, monkeypatch):
    monkeypatch.setattr("scellseg_lib.training.SAVE_EVERY", 0.0)
    first = opened(folder)
    first.steps.value, first.name.value = 8, "worm"
    first.strategy.value = "contrastive"
    pace.let(3)
    first.start.click()
    until(lambda: len(first.tuning.log) == 3)
    left = tmp_path / "left"  # what lies on the disk at this moment is all that a kill would leave
    shutil.copytree(folder, left, ignore=shutil.ignore_patterns(".*"))
    pace.let(inf)
    first.join(LONG)
    second = FinetunePanel(left)
    second.join(LONG)
    assert len(second.tuning.log) == 3
    assert "An unfinished run, worm, lies here" in second.message.text
    assert (second.steps.value, second.strategy.value) == (8, "contrastive")
    assert second.steps.disabled
    assert "<svg" in second.curve.value
    run = second.tuning
    second.go_on.click()
    second.join(LONG)
    assert second.job.state == "done", second.message.text
    assert [entry["step"] for entry in run.log] == list(range(1, 9))
    whole, resumed = (load_model(place / "worm.safetensors") for place in (folder, left))
    assert weights_hash(whole.network) == weights_hash(resumed.network)


def test_a_run_whose_images_changed_is_not_gone_on_with(folder, pace):
    panel = opened(folder)
    panel.steps.value = 8
    stopped(panel, pace)
    annotate(folder, "B", 6)
    panel.go_on.click()
    panel.join(LONG)
    assert panel.message.is_error
    assert "have changed since this run was stopped" in panel.message.text
    assert visible(panel.discard)
    panel.discard.click()
    panel.join(LONG)
    assert not list(folder.glob("*.checkpoint*"))
    assert visible(panel.start)
    panel.start.click()
    panel.join(LONG)
    assert panel.job.state == "done"


def test_a_stop_before_the_first_step_leaves_nothing(folder, monkeypatch):
    panel = opened(folder)
    panel.strategy.value = "contrastive"
    panel.join(LONG)
    before = sorted(folder.iterdir())
    clicked = Event()
    held = {"cancel": lambda _: None, "join": lambda _: clicked.wait(LONG)}
    panel._timing = type("Held", (), held)()
    panel.start.click()
    panel.stop.click()
    clicked.set()
    panel.job.join(LONG)
    assert panel.job.state == "cancelled"
    assert panel.message.text == "Stopped before the first step."
    assert sorted(folder.iterdir()) == before
    assert visible(panel.start)


def test_a_model_is_passed_on_though_the_folder_is_looked_into_as_its_run_ends(folder, monkeypatch):
    tuned, ending, go_on = [], Event(), Event()
    panel, tell = opened(folder, on_tuned=tuned.append), Job._tell

    def held(job: Job) -> None:
        if job is panel.job and job.ended:
            ending.set()
            assert go_on.wait(LONG)
        tell(job)

    monkeypatch.setattr(Job, "_tell", held)
    panel.start.click()
    assert ending.wait(LONG)
    panel.check.click()
    go_on.set()
    panel.join(LONG)
    assert tuned == [folder / "worms-scellseg.safetensors"]
    assert panel.tuning is None
    assert visible(panel.start)


def test_the_last_word_of_a_run_that_stops_at_once_is_that_it_has(folder, pace):
    panel = opened(folder)
    pace.let(1)
    panel.start.click()
    until(lambda: len(panel.tuning.log) == 1)
    cancel = panel.job.cancel

    def at_once() -> None:
        cancel()
        pace.let(inf)
        panel.job.join(1)

    panel.job.cancel = at_once
    panel.stop.click()
    panel.join(LONG)
    assert panel.message.text.startswith("Stopped: ")


# --- what may go wrong ----------------------------------------------------------------------------


def test_no_model_is_overwritten_in_silence(folder):
    panel = opened(folder)
    assert panel.name.value == "worms-scellseg"
    taken = new_model("scellseg", tiny.LEVELS, seed=5).save(folder / "taken.safetensors")
    before = taken.read_bytes()
    panel.name.value = "taken"
    assert visible(panel.overwrite)
    panel.start.click()
    assert panel.message.is_error
    assert "There is a model of this name" in panel.message.text
    assert panel.job is None
    panel.overwrite.value = True
    panel.start.click()
    panel.join(LONG)
    assert panel.job.state == "done"
    assert taken.read_bytes() != before
    assert not panel.overwrite.value  # the wish is for once


def test_a_model_that_came_meanwhile_is_left_alone(folder, pace):
    panel = opened(folder)
    panel.name.value = "worm"
    pace.let(1)
    panel.start.click()
    until(lambda: len(panel.tuning.log) == 1)
    came = new_model("scellseg", tiny.LEVELS).save(folder / "worm.safetensors")
    before = came.read_bytes()
    pace.let(inf)
    panel.join(LONG)
    assert panel.job.result == folder / "worm-2.safetensors"
    assert came.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../worm", ".hidden", "a/b"])
def test_names_that_are_no_file_names_are_refused(folder, name):
    panel = opened(folder)
    panel.name.value = name
    panel.start.click()
    assert panel.message.is_error
    assert panel.job is None


def test_another_run_has_another_name_proposed(folder):
    panel = opened(folder)
    panel.start.click()
    panel.join(LONG)
    assert panel.name.value == "worms-scellseg-2"


def test_an_own_model_brings_its_channels(tmp_path):
    image, masks = disks(4)
    (tmp_path / "shot").mkdir()
    cv2.imwrite(
        str(tmp_path / "shot" / "A_img.png"), np.stack([image, image // 2, 255 - image], -1)
    )
    cv2.imwrite(str(tmp_path / "shot" / "A_masks.png"), masks)
    model = new_model("scellseg", tiny.LEVELS)
    model.card = model.card.model_copy(update={"channels": ("blue", "red")})
    model.save(tmp_path / "mine.safetensors")
    panel = opened(tmp_path)
    assert panel.channels is None
    panel.model.value = panel.model.options[-1][1]
    assert panel.channels == ("blue", "red")
    panel.join(LONG)


def test_errors_are_said_in_words_and_the_panel_lives_on(folder, monkeypatch):
    panel = opened(folder)

    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr("scellseg_lib.workbench.tuning.finetune", fails)
    panel.start.click()
    panel.join(LONG)
    assert panel.job.state == "failed"
    assert panel.message.is_error
    assert "Use fewer images per step" in panel.message.text
    assert visible(panel.start)
    assert not list(folder.glob("*.checkpoint*"))
    monkeypatch.undo()


def test_a_folder_that_cannot_be_written_to_is_said_in_words(folder, monkeypatch):
    panel = opened(folder)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", str(folder / "x.checkpoint.json"))

    monkeypatch.setattr("scellseg_lib.workbench.tuning.whole", refused)
    panel.start.click()
    panel.join(LONG)
    assert "x.checkpoint.json: Permission denied" in panel.message.text


def test_what_fails_after_the_model_is_saved_does_not_hide_that_it_is(folder):
    def fails(path: Path) -> None:
        raise RuntimeError("no list")

    panel = opened(folder, on_tuned=fails)
    panel.start.click()
    panel.join(LONG)
    assert "Saved as worms-scellseg.safetensors" in panel.message.text
    assert "no list" in panel.message.text
    assert (folder / "worms-scellseg.safetensors").is_file()


def test_a_stack_is_explained_without_arguments(tmp_path):
    (tmp_path / "shot").mkdir()
    tifffile.imwrite(tmp_path / "shot" / "A_img.tif", np.zeros((5, 64, 64), np.uint8))
    tifffile.imwrite(tmp_path / "shot" / "A_masks.tif", disks(2)[1])
    shot = Experiment(tmp_path).survey().shots[0]
    assert "Save it as one plane" in shot.problem
    assert "axes=" not in shot.problem


def test_names_are_shown_as_text_and_not_as_markup(tmp_path):
    annotate(tmp_path, "<b>x", 3)
    panel = opened(tmp_path)
    assert "<b>x" not in panel.shots.value
    assert "&lt;b&gt;x" in panel.shots.value


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (41, "41 s"), (200, "3 min"), (5400, "1 h 30 min"), (7200, "2 h")],
)
def test_times_are_as_precise_as_an_estimate(seconds, said):
    assert duration(seconds) == said


def test_unforeseen_errors_are_logged_in_full(caplog):
    try:
        raise KeyError("odd")
    except KeyError as error:
        text = plain(error)
    assert "Something unforeseen happened (KeyError" in text
    assert "Traceback" in caplog.text


def test_a_file_that_is_gone_is_not_a_full_disk():
    told = plain(FileNotFoundError(2, "No such file or directory", "/data/a.tif"))
    assert told.startswith("a.tif: there is no such file or folder.")
    assert "disk" not in told


@pytest.mark.parametrize("typed", ["{}", " {} ", "'{}'", ' "{}"', "{}/sub/.."])
def test_paths_are_understood_as_they_are_pasted(tmp_path, typed):
    assert typed_path(typed.format(tmp_path)) == tmp_path
    assert typed_path("~") == Path.home().resolve()
    assert typed_path(" ''") is None


def test_a_free_name_is_free_of_models_cards_and_unfinished_runs(tmp_path):
    for taken in ("a.safetensors", "a-2.json", "a-3.checkpoint"):
        (tmp_path / taken).touch()
    assert layout.find_free_name(tmp_path, "a") == "a-4"

"""The fine-tune panel, driven as by a hand but without a browser: what lies in the folder after."""

import re
import shutil
from math import inf
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from scellseg_lib import finetune, paths, training
from scellseg_lib.datasets.load import load_folder
from scellseg_lib.datasets.weights import load_model, released_file
from scellseg_lib.device import Precision
from scellseg_lib.finetuning import RECIPES
from scellseg_lib.model import new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.workbench.experiment import offer_models
from scellseg_lib.workbench.finetune import FinetunePanel, note_pace
from scellseg_lib.workbench.jobs import Job
from tests import tiny
from tests.workbench.conftest import LONG, SMALL, add_model, is_shown, problem, until

pytestmark = [pytest.mark.slow, *SMALL]
SIDE = 160
FINETUNE = "scellseg_lib.workbench.finetune"


def disks(n: int) -> tuple[np.ndarray, np.ndarray]:
    masks = np.zeros((SIDE, SIDE), np.uint8)
    for i in range(n):
        cv2.circle(masks, (30 + 45 * (i % 3), 30 + 45 * (i // 3)), 12, i + 1, -1)
    noise = np.random.default_rng(n).integers(0, 40, masks.shape)
    return ((masks > 0) * 150 + noise).astype(np.uint8), masks


def annotate(folder: Path, name: str, image: np.ndarray, masks: np.ndarray, **how) -> None:
    (folder / "shot").mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "shot" / f"{name}_img.tif", image, **how)
    tifffile.imwrite(folder / "shot" / f"{name}_masks.tif", masks)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "worms"
    annotate(folder, "A", *disks(5))
    annotate(folder, "B", *disks(3))
    (folder / "query").mkdir()
    for name in "CD":
        tifffile.imwrite(folder / "query" / f"{name}_img.tif", disks(4)[0])
    return folder


def end(panel: FinetunePanel) -> FinetunePanel:
    for job in (panel._looking, panel.job):
        if job is not None:
            assert job.join(LONG).ended
    return panel


def opened(folder: Path | None, **options) -> FinetunePanel:
    panel = end(FinetunePanel(folder, **options))
    choose(panel, "quick")
    return panel


def choose(panel: FinetunePanel, recipe: str) -> None:
    panel.recipe.value = recipe
    panel.steps.value, panel.batch.value = 4, 2


@pytest.fixture
def panel(folder: Path) -> FinetunePanel:
    return opened(folder)


def tuned(panel: FinetunePanel) -> Path:
    (panel.go_on if is_shown(panel.go_on) else panel.start).click()
    assert end(panel).job.state == "done", panel.message.text
    return panel.job.result


def checkpoints(folder: Path) -> list[str]:
    return [file.name for file in folder.glob("*.checkpoint*")]


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """How many steps of runs may end: `left`, which a test sets while a run waits."""
    pace, original = SimpleNamespace(left=inf), training.Progress

    def progress(*arguments, **options):
        until(lambda: pace.left > 0)
        pace.left -= 1
        return original(*arguments, **options)

    monkeypatch.setattr(training, "Progress", progress)
    return pace


def start(panel: FinetunePanel, pace: SimpleNamespace, steps: int = 1) -> None:
    pace.left = steps
    panel.start.click()
    until(lambda: len(panel.run.log) == steps)


def stop(panel: FinetunePanel, pace: SimpleNamespace) -> None:
    """On the way: where it waits, or a step later."""
    panel.stop.click()
    pace.left = inf
    assert end(panel).job.state == "cancelled"


def test_the_shots_their_cells_and_diameter_are_found(panel):
    assert [(shot.name, shot.cells) for shot in panel.found.usable] == [("A", 5), ("B", 3)]
    assert panel.found.queries == ("C", "D")
    rows = re.findall(r"<td>(\w+)</td>\s*<td>(\d+)</td>\s*<td>24 px</td>", panel.shots.value)
    assert rows == [("A", "5"), ("B", "3")]
    assert "2 annotated images</b> with 8 cells; 2 images to be segmented" in panel.shots.value
    assert "Your cells are 24 px wide on average" in panel.shots.value
    assert panel.message.text == "Ready: press Start."
    later = (panel.stop, panel.go_on, panel.discard, panel.overwrite, panel.channels)
    assert not any(map(is_shown, (*later, panel.progress, panel.time)))


def test_a_damaged_shot_is_named_and_left_out(folder):
    (folder / "shot" / "A_img.tif").write_bytes(b"II*\0")
    image, masks = disks(2)
    annotate(folder, "E", image[:80], masks)
    annotate(folder, "F", image, 0 * masks)
    annotate(folder, "G", np.stack([image] * 5), masks)
    panel = opened(folder)
    problems = {shot.name: shot.problem for shot in panel.found.shots}
    assert problems.pop("B") == ""
    expected = (
        "A_img.tif: the file is damaged",
        "80 x 160",
        "No cell is drawn",
        "Choose one of its planes",
    )
    for found, words in zip(problems.values(), expected, strict=True):
        assert words in found
    assert panel.shots.value.count("left out") == 4
    assert load_model(tuned(panel)).card.recipe["shots"] == ["B"]


def test_without_anything_to_learn_from_the_panel_says_what_to_do(tmp_path):
    panel = opened(None)
    panel.start.click()
    assert "Name the folder" in problem(panel)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("notes")
    for name in ("absent", "empty", "file"):
        panel.folder.value = str(tmp_path / name)
        assert f"{name}: there" in problem(end(panel))
    (tmp_path / "query").mkdir()
    tifffile.imwrite(tmp_path / "query" / "C_img.tif", disks(4)[0])
    panel.folder.value = str(tmp_path)
    end(panel).start.click()
    assert "Draw all cells in one or two" in problem(panel)
    assert panel.job is None
    annotate(tmp_path, "<b>A", *disks(4))
    panel.check.click()
    assert end(panel).message.text == "Ready: press Start."
    assert "&lt;b&gt;A" in panel.shots.value  # names are text and not markup


def test_channels_are_offered_from_the_files_and_asked_for(folder, tmp_path):
    assert not is_shown(opened(folder).channels)  # of one channel nothing is to be chosen
    image, masks = disks(4)
    place = tmp_path / "colours"
    colours = np.stack([255 - image, image, image // 2, image // 3])
    annotate(place, "A", colours, masks, imagej=True, metadata={"axes": "CYX"})
    add_model(place, "mine", channels=("blue", "red"))
    panel = opened(place)
    cells, nuclei = panel.channels.cells, panel.channels.nuclei
    names = [name for _, name in cells.options]
    assert names == [None, "red", "green", "blue", "3", "gray"]
    assert [name for _, name in nuclei.options] == ["none", *names[1:]]
    panel.start.click()
    assert "choose the one of the cells" in problem(panel)
    panel.model.value = panel.model.options[-1][1]  # an own model brings its channels
    assert panel.channels.value == ("blue", "red")
    cells.value, nuclei.value = "green", "3"
    assert panel.message.text == "Ready: press Start."
    assert load_model(tuned(panel)).card.channels == ("green", "3")


def test_all_packaged_fetched_and_own_models_are_offered(folder, monkeypatch):
    monkeypatch.setattr(paths, "PACKAGED_WEIGHTS", paths.PACKAGE / "weights")
    new_model("hover", tiny.LEVELS).save(folder / "mine.safetensors")
    (folder / "other.safetensors").write_bytes(b"no model")
    fetched = released_file("cellpose")
    fetched.parent.mkdir()
    fetched.touch()
    panel, starts = end(FinetunePanel(folder)), offer_models(folder, to_start=True)
    packaged = [f"{name}_16" for name in ("scellseg", "cellpose", "hover", "unet3", "unet2")]
    expected = ["scellseg_32", *packaged, "released cellpose", "mine.safetensors"]
    assert [start.key for start in starts] == expected
    loaded = starts[1].load()
    assert (loaded.card.architecture, loaded.card.levels[0]) == ("scellseg", 16)
    assert [title for title, _ in panel.model.options] == [start.title for start in starts]
    with panel._lock:  # what a hand chooses while a thread fills the form is heard
        panel._is_filling = True
        hand = Thread(target=lambda: setattr(panel.model, "value", starts[-1]))
        hand.start()
        hand.join(0.1)
        panel._is_filling = False
    hand.join(LONG)
    assert panel.about.value.startswith("HoVer, of unknown origin. Made for cells 30 px wide.")


def test_each_recipe_says_about_how_long_it_takes_and_nothing_is_measured_for_it(
    folder, monkeypatch
):
    monkeypatch.setattr(paths, "PACKAGED_WEIGHTS", paths.PACKAGE / "weights")
    monkeypatch.setattr(f"{FINETUNE}.finetune", Mock(side_effect=AssertionError))
    monkeypatch.setattr("scellseg_lib.model.Model.copy", Mock(side_effect=AssertionError))
    panel = opened(folder)

    def told() -> list[str]:
        return [words.partition(", about ")[2] for words, _ in panel.recipe.options]

    words = [words.partition(":")[0] for words, _ in panel.recipe.options]
    assert words == ["Best", "Quick", "As in the paper"]
    full = ["9 min on two cores", "44 s on two cores", "8 min on two cores"]
    assert told() == full
    starts = dict(panel.model.options)
    panel.model.value = next(one for one in starts.values() if one.key == "scellseg_16")
    assert told() == ["3 min on two cores", "13 s on two cores", "2 min on two cores"]
    chosen = panel.recipe.value, panel.steps.value, panel.batch.value
    assert chosen == ("quick", 4, 2)  # as they were
    note_pace([0, 5.44, 10.88, 100], RECIPES["best"].options, starts["Scellseg"].card)
    panel.model.value = starts["Scellseg"]
    assert told() == [f"{time} on this computer" for time in ("18 min", "87 s", "16 min")]


@pytest.mark.parametrize("recipe", ["quick", "paper"])
def test_a_run_saves_a_model_with_its_diameter_and_card(folder, recipe):
    (folder / "query" / "D_img.tif").write_bytes(b"II*\0")
    passed_on = []
    panel = opened(folder, on_tuned=passed_on.append)
    choose(panel, recipe)
    panel.name.value = "my worms"
    panel.start.click()
    assert (panel.steps.disabled, is_shown(panel.stop)) == (True, True)
    assert end(panel).job.state == "done", panel.message.text
    file = folder / "my worms.safetensors"
    assert passed_on == [file]
    assert all("on this computer" in words for words, _ in panel.recipe.options)
    card = load_model(file).card
    assert card.diameter == pytest.approx(panel.found.diameter, abs=0.01)
    assert card.recipe["recipe"] == f"{recipe} {RECIPES[recipe].version}"
    assert card.recipe["steps"] == 4
    uses = card.recipe["strategy"] == "contrastive"  # of what it does not use it says nothing
    assert card.recipe["queries"] == (["C"] if uses else [])
    assert ("D_img.tif: the file is damaged" in panel.message.text) is uses
    assert "my worms.safetensors" in panel.message.text
    assert checkpoints(folder) == []
    assert not panel.steps.disabled
    assert [start.key for _, start in panel.model.options][-1] == "my worms.safetensors"
    assert "Loss over 4 of 4 steps, now" in panel.curve.value


def test_the_saved_model_is_the_one_that_the_library_tunes(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(f"{FINETUNE}.draw_losses", lambda log, n: drawn.append(len(log)) or "")
    monkeypatch.setattr(f"{FINETUNE}.DRAWN_EVERY", LONG)
    panel = opened(folder)
    model, options = panel.model.value.load(), {"recipe": "quick", "steps": 4, "batch_size": 2}
    same = finetune(model, load_folder(folder).shot, precision=Precision(), **options)
    assert weights_hash(load_model(tuned(panel)).network) == weights_hash(same.network)
    assert panel.name.value == "worms-scellseg-2"  # for the next one
    assert drawn == [0, 4]  # the curve, and not at every step


def test_the_page_stays_alive_and_the_time_is_told_from_the_third_step(panel, pace, monkeypatch):
    """No step ends before this thread, the kernel's, lets it, and the curve grows meanwhile."""
    monkeypatch.setattr("scellseg_lib.workbench.jobs.TELL_EVERY", 0)
    monkeypatch.setattr(f"{FINETUNE}.DRAWN_EVERY", 0)
    pace.left, panel.steps.value = 0, 5
    panel.start.click()
    curves = {""}
    for step in range(1, 4):
        pace.left = 1
        until(lambda step=step: f"Learning: {step} of 5" in panel.time.value)
        until(lambda: panel.curve.value not in curves)
        curves.add(panel.curve.value)
        assert ("left" in panel.time.value) == (step == 3)
    cancel = panel.job.cancel

    def at_once() -> None:
        cancel()
        pace.left = inf
        panel.job.join(1)

    panel.job.cancel = at_once
    panel.stop.click()  # the last word is that it has stopped
    assert end(panel).message.text.startswith("Stopped: ")


def test_a_stopped_run_goes_on_to_the_model_that_was_never_stopped(
    folder, panel, pace, tmp_path, monkeypatch
):
    """And so does one that was killed, once it is found again."""
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    choose(panel, "paper")
    panel.name.value = "whole"
    whole = load_model(tuned(panel))
    panel.name.value = "halted"
    start(panel, pace, 2)
    left = tmp_path / "left/worms"  # what lies on the disk now is all that a kill would leave
    shutil.copytree(folder, left, ignore=shutil.ignore_patterns(".*"))
    stop(panel, pace)
    assert 2 <= len(panel.run.log) < 4
    assert "halted.checkpoint" in checkpoints(folder)
    assert not (folder / "halted.safetensors").exists()
    assert panel.message.text.startswith("Stopped: ")
    assert [is_shown(one) for one in (panel.go_on, panel.start)] == [True, False]
    found = end(FinetunePanel(left))
    assert (len(found.run.log), found.steps.value, found.recipe.value) == (2, 4, "paper")
    assert "An unfinished run, halted, lies here" in found.message.text
    assert (found.steps.disabled, "<img" in found.curve.value) == (True, True)
    models = [whole, *(load_model(tuned(each)) for each in (panel, found))]
    assert len({weights_hash(one.network) for one in models}) == 1
    assert len({one.card.model_dump_json(exclude={"recipe"}) for one in models}) == 1
    assert checkpoints(folder) == []


def test_it_says_what_more_cells_would_add(folder, pace, monkeypatch):
    short = RECIPES["quick"].options.change(steps=2, batch_size=2)
    monkeypatch.setitem(RECIPES, "quick", RECIPES["quick"]._replace(options=short))
    monkeypatch.setattr("scellseg_lib.workbench.jobs.TELL_EVERY", 0)
    panel = opened(folder)
    panel.more.button.click()
    assert "three images or more" in problem(panel.more)
    annotate(folder, "E", *disks(4))
    panel.check.click()
    end(panel)
    pace.left = 3  # the first model, and one step of the second
    panel.more.button.click()
    until(lambda: "5 of 18" in panel.more.message.text)
    assert panel.more.button.description == "Stop"
    panel.start.click()
    assert "Stop the test of what more cells would add" in problem(panel)
    said = []
    panel.more.message.observe(lambda _: said.append(panel.more.message.text), "value")
    monkeypatch.setattr("scellseg_lib.workbench.jobs.TELL_EVERY", 0)
    panel.more.button.click()
    pace.left = inf
    assert panel.more.job.join(LONG).state == "cancelled"
    assert len(said) > 2
    assert all("Stop" in text for text in said)  # also in the report that came after
    assert "Stopped. The scores so far are kept" in panel.more.message.text
    kept = pd.read_csv(folder / "learning_curve.csv")
    panel.more.button.click()
    assert panel.more.job.join(LONG).state == "done", panel.more.message.text
    scores = pd.read_csv(folder / "learning_curve.csv")
    assert scores["n_shots"].tolist() == [0, 1, 2] * 3
    pd.testing.assert_frame_equal(scores[: len(kept)], kept)
    assert panel.more.message.text.startswith(f"{folder}, 3 images with 12 cells: ")
    held_out = scores.loc[scores["n_shots"] == 2, "map"].mean()
    words = f"on those that it has not learnt from the model scores {held_out:.2f} of 1"
    assert words in panel.more.message.text
    assert "50 more cells (12.5 images like yours, 25 minutes" in panel.more.message.text
    assert "<img" in panel.more.curve.value
    assert panel.more.button.description == "What would more cells add?"
    panel.folder.value = str(folder / "query")  # of which it says nothing
    assert (panel.more.message.text, panel.more.curve.value) == ("", "")


def test_what_learns_in_another_window_or_from_other_images_is_left_alone(folder, pace):
    stale = opened(folder)
    stale.steps.value = 9
    start(stale, pace, 2)
    stop(stale, pace)
    first, n_steps = opened(folder), len(stale.run.log)
    pace.left = 0
    first.go_on.click()
    until(lambda: first.run.is_learnt)
    second = opened(folder)
    assert second.run is None
    assert "worms-scellseg is still being learnt in another window" in second.message.text
    assert second.name.value == "worms-scellseg-2"
    for button in (stale.go_on, stale.discard):
        button.click()
        assert "another run or window is at work here" in end(stale).message.text
    pace.left = 1
    until(lambda: len(first.run.log) > n_steps)
    stop(first, pace)
    stale.check.click()
    assert is_shown(end(stale).go_on)
    annotate(folder, "B", *disks(6))
    stale.go_on.click()
    assert "have changed since this run was stopped" in problem(end(stale))
    stale.discard.click()
    end(stale)
    assert checkpoints(folder) == []
    tuned(stale)


def test_a_stop_before_the_first_step_leaves_nothing(folder, monkeypatch):
    panel, clicked = opened(folder), Event()

    def read_later(*arguments):
        assert clicked.wait(LONG)
        return load_folder(*arguments)

    monkeypatch.setattr(f"{FINETUNE}.load_folder", read_later)
    before = sorted(folder.iterdir())
    panel.start.click()
    panel.stop.click()
    clicked.set()
    assert end(panel).message.text == "Stopped before the first step."
    assert sorted(folder.iterdir()) == before
    assert is_shown(panel.start)


def test_a_model_is_passed_on_though_the_folder_is_looked_into_as_its_run_ends(folder, monkeypatch):
    passed_on, ending, go_on = [], Event(), Event()
    panel, tell = opened(folder, on_tuned=passed_on.append), Job._tell

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
    end(panel)
    assert passed_on == [folder / "worms-scellseg.safetensors"]
    assert panel.run is None
    assert is_shown(panel.start)


def test_no_model_is_overwritten_in_silence(folder, panel, pace):
    taken = new_model("scellseg", tiny.LEVELS, seed=5).save(folder / "taken.safetensors")
    before = taken.read_bytes()
    panel.name.value = "taken"
    assert is_shown(panel.overwrite)
    panel.start.click()
    assert "There is a model of this name" in problem(panel)
    panel.overwrite.value = True
    for name in ("", "../worm", ".hidden", "a/b"):  # no file names
        panel.name.value = name
        panel.start.click()
        assert problem(panel)
    assert panel.job is None
    panel.name.value = "taken"
    tuned(panel)
    assert taken.read_bytes() != before
    assert not panel.overwrite.value  # the wish is for once
    panel.name.value = "worm"
    start(panel, pace)
    (folder / "worm.safetensors").write_bytes(b"it came meanwhile")
    pace.left = inf
    assert end(panel).job.result == folder / "worm-2.safetensors"
    assert (folder / "worm.safetensors").read_bytes() == b"it came meanwhile"


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("finetune", MemoryError(), "Use fewer images per step"),
        ("whole", PermissionError(13, "Permission denied", "x.json"), "x.json: Permission denied"),
    ],
)
def test_errors_are_said_in_words_and_the_panel_lives_on(folder, monkeypatch, place, error, words):
    panel = opened(folder, on_tuned=Mock(side_effect=RuntimeError("no list")))
    with monkeypatch.context() as patch:
        patch.setattr(f"{FINETUNE}.{place}", Mock(side_effect=error))
        panel.start.click()
        assert words in problem(end(panel))
    assert is_shown(panel.start)
    assert checkpoints(folder) == []
    if place == "whole":  # what fails after the model is saved does not hide that it is
        assert tuned(panel).is_file()
        assert re.search("Saved as worms-scellseg.safetensors.*no list", panel.message.text, re.S)

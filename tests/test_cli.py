"""The command line: what a biologist types, what lies on the disk afterwards, what goes wrong."""

import json
import re
import shutil
import warnings
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock, Mock

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import scellseg_lib as scellseg
from scellseg_lib import augment, cli, metrics, network, paths, segmentation, tiles, training
from scellseg_lib.datasets import synthetic
from scellseg_lib.files import export, folder, seg_npy
from scellseg_lib.files.images import read_image, read_masks, read_pixels, relabel, write_labels
from scellseg_lib.model import new_model
from scellseg_lib.paper import grid
from scellseg_lib.representation import Decoding
from tests import tiny
from tests.corpus.test_images import tiff
from tests.workbench.conftest import files

pytestmark = pytest.mark.slow

SIDE = 120
THRESHOLDS = {"cell_threshold": -1.0, "flow_threshold": 0.0, "diameter": 60.0}
"""With these an untrained network finds cells of a kind."""
make_small = cache(partial(synthetic.make_image, shape=(200, 200)))
OPTIONS = ["--cell-threshold", "-1", "--flow-threshold", "0", "--diameter", "60"]


@pytest.fixture(autouse=True, scope="module")
def quick(one_thread):
    """Float32 on every machine, one thread and small patches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cpu.get_capabilities", dict)
        patch.setattr("scellseg_lib.datasets.weights.default_device", lambda: torch.device("cpu"))
        patch.setattr(augment, "PATCH", tiny.PATCH)
        yield


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    model = new_model("scellseg", (4, 8, 16, 32))
    model.card = model.card.model_copy(update={"channels": ("gray", "none")})
    return str(model.save(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@cache
def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image of 8 bits and its masks."""
    image, masks = synthetic.make_image("Kc167", seed, (200, 200))
    pixels = cv2.normalize(image[0], np.zeros(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return pixels[:SIDE, :SIDE].copy(), relabel(masks[:SIDE, :SIDE])


def save(file: Path, pixels: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), pixels)
    return file


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, model_file):
    """A plate of three images that was segmented, and what was said."""
    home = tmp_path_factory.mktemp("first") / "plate"
    for seed, name in enumerate("ABC"):
        save(home / f"{name}.png", picture(seed)[0])
    return home, run("segment", home, "--model", model_file, *OPTIONS)


@pytest.fixture
def segmented(first_run, tmp_path):
    return shutil.copytree(first_run[0], tmp_path / "plate")


@pytest.fixture
def plate(segmented):
    shutil.rmtree(segmented / "segmented")
    return segmented


def run(*arguments: str | Path):
    """Result of a command, whatever its exit code; never a traceback."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def done(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(*arguments: str | Path, code: int = 1) -> str:
    """What is said of a command that ends with this exit code."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return result.stderr


interrupt = Mock(side_effect=KeyboardInterrupt)


def test_masks_are_those_of_the_library(first_run, model_file):
    home, said = first_run
    model = scellseg.load_model(model_file)
    images = [read_image(home / f"{name}.png") for name in "ABC"]
    with warnings.catch_warnings(record=True, action="always") as doubts:
        cells = scellseg.segment(model, images, **THRESHOLDS)
    count = sum(one.masks.max() for one in cells)
    assert count > 5
    for name, one in zip("ABC", cells, strict=True):
        written = read_masks(home / "segmented" / f"{name}_masks.tif")
        np.testing.assert_array_equal(written, one.masks)
    assert f"3 images segmented, {count} cells" in said.stdout
    record = json.loads((home / "segmented" / "segmented.json").read_text())
    expected = {"weights": network.weights_hash(model.network), "resample": True, "format": "tiff"}
    expected |= THRESHOLDS | {"min_size": 35, "channels": None, "axes": None, "page": None}
    assert expected.items() <= record.items()
    # The first doubt is told at once, all are summed up at the end, without a word of code.
    first, last = said.stderr.splitlines()
    pattern = r"Warning: [ABC]\.png: the masks' median diameter is (\d+) px, .*"
    assert re.fullmatch(rf"{pattern} Give --diameter \1\.", first)
    found = [one.message.diameter for one in doubts]  # type: ignore[union-attr]
    told = f"Warning: {len(found)} images in all hold cells of another size. Give --diameter "
    assert last == told + f"{np.median(found):.0f}, the median of what was found."


def test_masks_of_other_settings_do_not_pass_for_done(segmented, model_file):
    before = files(segmented / "segmented")
    command, options = ("segment", segmented, "--model", model_file), [*OPTIONS[:-1], "45"]
    refused = failed(*command, *options, "--fast")
    assert "diameter 60.0 there, 45.0 asked for; resample True there, False" in refused
    assert "Give another folder as the output, or --overwrite." in refused
    # Not even with --overwrite where masks of other images would be left among the new ones.
    one = ("segment", segmented / "A.png", *command[2:], *options)
    assert "other images" in failed(*one, "--overwrite")
    failed(*command, *OPTIONS, "--page", "0")
    assert files(segmented / "segmented") == before
    # The model's own settings are the same, given or not.
    assert "3 already done" in done(*command, *OPTIONS, "--min-size", "35")
    record = segmented / "segmented" / "segmented.json"
    old = {k: v for k, v in json.loads(record.read_text()).items() if k not in ("robust", "dtype")}
    record.write_text(json.dumps(old))
    assert "made by an earlier version: robust unknown there" in failed(*command, *OPTIONS)
    record.write_text('{"my": "notes"}')
    assert "segmented.json: this file is not ours" in failed(*command, *OPTIONS, "--overwrite")
    assert record.read_text() == '{"my": "notes"}'


def test_overwriting_that_is_stopped_leaves_nothing_old(segmented, model_file, monkeypatch):
    other = ("segment", segmented, "--model", model_file, *OPTIONS, "--diameter", "45")
    monkeypatch.setattr(segmentation, "predict", interrupt)
    assert "the same command goes on" in failed(*other, "--overwrite", code=130)
    assert list(files(segmented / "segmented")) == ["segmented.json"]


def test_overlays(segmented, model_file, monkeypatch):
    """Drawn later without the network, and over only when asked: the old would show other masks."""
    command = ("segment", segmented, "--model", model_file, *OPTIONS)
    own, made = (segmented / "segmented" / f"{name}_overlay.png" for name in "AB")
    before = files(segmented)
    own.write_bytes(b"the user's own")
    with monkeypatch.context() as patch:
        patch.setattr(segmentation, "predict", None)
        done(*command, "--preview")
    assert own.read_bytes() == b"the user's own"
    assert before.items() < files(segmented).items()
    blue, green, red = cv2.imread(str(made), cv2.IMREAD_COLOR).T.astype(int)
    edges = (red == 255) & (green == 0) & (blue == 0)
    masks = read_masks(segmented / "segmented" / "B_masks.tif")
    assert edges.any()
    assert not edges.T[masks == 0].any()
    done(*command, "--overwrite")
    assert own.read_bytes().startswith(b"\x89PNG")


def test_masks_are_not_needed_to_segment(tmp_path, model_file):
    """Shots and queries of one name stay apart, files of one name are no guess."""
    home, command = tmp_path / "set", ("segment", tmp_path / "set", "--model", model_file)
    names = "shot/a_img.png shot/b_img.png query/a_img.png query/c_img.png query/c_img.tif"
    for name in names.split():
        save(home / name, picture(0)[0])
    for name in ("shot/orphan_masks.png", "shot/a_masks.png", "query/x_masks.tif"):
        (home / name).write_bytes(b"never read")
    said = failed(*command, "--output", tmp_path / "out")
    made = ["query/a_masks.tif", "segmented.json", "shot/a_masks.tif", "shot/b_masks.tif"]
    assert list(files(tmp_path / "out")) == made
    assert "images that failed (2):" in said
    for suffix in ("png", "tif"):
        file = re.escape(str(home / "query" / f"c_img.{suffix}"))
        assert re.search(rf"{file}: .*same name: c_img\.png, c_img\.tif\. Keep one", said)
    before = files(home)
    assert "would pass for annotations" in failed(*command, "--output", home, "--overwrite")
    assert files(home) == before


STEPS = [(tiles, "normalise"), (segmentation, "decode")]
STEPS += [(folder.images, "write_labels"), (folder, "write_overlay")]


@pytest.mark.parametrize(("module", "name"), STEPS)
def test_an_image_that_fails_does_not_stop_others(module, name, plate, model_file, monkeypatch):
    save(plate / "B.png", np.zeros((150, 150), np.uint8))  # known by its size
    original = getattr(module, name)

    def failing(*arguments, **options):
        shapes = [getattr(a, "shape", np.shape(getattr(a, "maps", a)))[-2:] for a in arguments]
        if (150, 150) in shapes:
            raise MemoryError("not enough of it")
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, failing)
    said = failed("segment", plate, "--model", model_file, *OPTIONS, "--preview")
    assert "images that failed (1):\n  B.png: it failed (not enough of it)" in said
    there = set(files(plate / "segmented"))
    assert {"A_masks.tif", "C_masks.tif", "C_overlay.png"} <= there
    assert ("B_masks.tif" in there) == (name == "write_overlay")


def test_the_bar_counts_images_as_they_are_done(plate, model_file, monkeypatch):
    told, shown = [], MagicMock(n=3)  # images that are done when it looks for those that failed
    shown.__enter__.return_value = shown
    shown.refresh.side_effect = lambda: told.append("shown")
    shown.update.side_effect = lambda n=1: told.append((n, len([*plate.rglob("*_masks.tif")])))
    (plate / "D.png").write_bytes(b"no image")
    monkeypatch.setattr(folder, "bar", lambda n, *_: {4: shown}[n])
    run("segment", plate, "--model", model_file, *OPTIONS)
    assert told == ["shown", (1, 1), (1, 2), (1, 3), (1, 3)]  # shown before any image is done


def test_channels_are_the_models_unless_named_and_never_guessed(tmp_path, model_file):
    planes = [picture(seed)[0] for seed in range(3)]
    image = save(tmp_path / "rgb.png", np.dstack(planes))  # blue, green, red
    said = "3 channels that differ, and none is named. Name the one to segment and that of the "
    said += "nuclei, such as --channels green,red; gray is the mean of all, none is no nuclei. "
    said += "There are: 0 (red), 1 (green), 2 (blue)."
    assert said in failed("segment", image, "--model", model_file)
    model = scellseg.load_model(model_file)
    model.card = model.card.model_copy(update={"channels": ("green", "red")})
    own = str(model.save(tmp_path / "green.safetensors"))
    found = {}
    for options in ("", "--channels green,red", "--channels 2 --format png"):
        out = tmp_path / f"out{options}"
        done("segment", image, "--model", own, *OPTIONS, *options.split(), "--output", out)
        (file,) = out.glob("rgb_masks.*")
        found[options] = read_masks(file)
    assert file.name == "rgb_masks.png"
    expected = scellseg.segment(model, [np.stack(planes[1:]).astype(np.float32)], **THRESHOLDS)
    first, same, other = found.values()
    np.testing.assert_array_equal(first, expected[0].masks)
    np.testing.assert_array_equal(same, first)
    assert not np.array_equal(other, first)


def test_one_page_of_a_stack(tmp_path, model_file):
    pages = np.stack([picture(seed)[0] for seed in range(2)])
    (tmp_path / "z.tif").write_bytes(tiff(pages, "ZYX", imagej=True))
    command = ("segment", tmp_path, "--model", model_file, *OPTIONS)
    assert "Give --page, 0 to 1, for one plane, or save it" in failed(*command)
    done(*command, "--page", "1")
    model = scellseg.load_model(model_file)
    expected = scellseg.segment(model, [pages[1].astype(np.float32)], **THRESHOLDS)[0].masks
    np.testing.assert_array_equal(read_masks(tmp_path / "segmented" / "z_masks.tif"), expected)


# What is typed, the exit code, and what is said.
WRONG = [
    ("segment nowhere", 2, "is no file, folder or data set"),
    ("evaluate {plate} nowhere", 2, "is no file, folder or data set"),
    ("segment bbbc010_elegans", 1, "scellseg data fetch bbbc010_elegans"),
    ("segment synthetic --channels red", 1, "says itself which planes"),
    ("segment {plate} --model {model} --cell-threshold nan", 1, "--cell-threshold nan is not a"),
    ("segment . --diameter 0", 2, "diameter"),
    ("segment {plate} --format jpg", 2, "jpg"),
    ("finetune {plate} --strategy magic", 2, "magic"),
    ("finetune {plate} --output model.pt", 2, ".safetensors"),
    ("segment {plate} --model {model} --weights released", 1, "--weights released"),
    ("segment {plate} --model lost.safetensors", 1, "no such file"),
    ("finetune {plate} --model {model}", 1, "none of the 3 images of 'plate' is annotated. Annot"),
    ("export {plate}/A.png --to cells", 1, "Say where they are: --images."),
    ("models fetch", 1, "SCELLSEG_OFFLINE"),
    ("segmnet x", 2, "segmnet"),
]


@pytest.mark.parametrize(("typed", "code", "message"), WRONG)
def test_what_goes_wrong_is_said_in_one_message(
    typed, code, message, plate, model_file, temporary_cache, monkeypatch
):
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    monkeypatch.setenv("SCELLSEG_DATA", str(temporary_cache / "data"))
    result = run(*(part.format(plate=plate, model=model_file) for part in typed.split()))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""


@pytest.fixture(autouse=True)
def tuning(monkeypatch):
    """Options of each fine-tuning, of one patch a step, with a checkpoint after each."""
    options = {"batch_size": 1, "contrast": tiny.contrast()}
    original = scellseg.finetune
    monkeypatch.setattr(scellseg, "finetune", lambda *a, **o: original(*a, **o | options))
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    return options


@pytest.fixture
def annotated(tmp_path):
    """Scellseg layout; the masks of the query images are not even readable."""
    home = tmp_path / "worms"
    for seed, part in enumerate(("shot", "query")):
        image, masks = picture(seed)
        save(home / part / f"{seed}_img.png", image)
        write_labels(home / part / f"{seed}_masks.png", masks)
    (home / "query" / "1_masks.png").write_bytes(b"not to be looked at")
    return home


def test_killed_finetuning_goes_on_to_the_same_model(annotated, model_file, tuning):
    command = ("finetune", annotated, "--model", model_file, "--steps", "3", "--recipe", "paper")
    command += ("--output",)
    whole, part = (annotated / f"{name}.safetensors" for name in ("whole", "part"))
    assert "tuned on 1 annotated and 1 unlabelled images" in done(*command, whole)
    tuning["callback"] = lambda progress: interrupt() if progress.step == 2 else None
    failed(*command, part, code=130)
    assert (part.with_suffix(".checkpoint").is_file(), part.exists()) == (True, False)
    steps: list[int] = []
    tuning["callback"] = lambda progress: steps.append(progress.step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scellseg.Model, "save", interrupt)
        failed(*command, part, code=130)
    assert part.with_suffix(".checkpoint").is_file()  # until the model is saved
    done(*command, part)
    assert (steps, part.with_suffix(".checkpoint").exists()) == ([3], False)
    assert part.read_bytes() == whole.read_bytes()


def test_damaged_query_images_are_left_out_and_told_of(annotated, model_file):
    query = annotated / "query"
    (query / "2_img.tif").write_bytes(tiff(np.zeros((3, SIDE, SIDE), np.uint8), "ZYX", imagej=True))
    command = ("finetune", annotated, "--model", model_file, "--recipe", "paper", "--steps", "1")
    result = run(*command)
    assert result.exit_code == 1
    assert "1 unlabelled images could not be read and were left out" in result.stderr
    assert re.search(r"2_img\.tif: .* z-stack .* Give --page, 0 to 2", result.stderr)
    assert "tuned on 1 annotated and 1 unlabelled images" in result.stdout
    file = annotated / "model.safetensors"
    assert scellseg.load_model(file).card.recipe["queries"] == ["1"]
    (query / "1_img.png").write_bytes(b"no picture")
    file.unlink()
    assert re.search("none of the unlabelled images can be read.*--inductive", failed(*command))
    assert not file.exists()


TUNED = ["--strategy classic --seed 7 --schedule cosine --layers extractor_fixed --channels 0"]
TUNED += ["--alpha fixed --statistics shot --crops clipped --learning-rate 0.002 --inductive"]


@pytest.mark.parametrize("options", TUNED)
def test_options_reach_the_fine_tuning(annotated, model_file, options):
    """The card of the tuned model says them."""
    command = ("finetune", annotated, "--model", model_file, "--steps", "1", *options.split())
    done(*command)
    file = annotated / "model.safetensors"
    card, before = scellseg.load_model(file).card, file.read_bytes()
    given = {"steps": "1", **dict(re.findall(r"--([\w-]+) ([\w.]+)", options))}
    assert card.channels == (given.pop("channels", "gray"), "none")
    assert {name: str(card.recipe[name.replace("-", "_")]) for name in given} == given
    assert card.recipe["queries"] == []  # as it is inductive, or classic
    assert "give --overwrite" in failed(*command)
    assert file.read_bytes() == before
    assert done(*command, "--overwrite")


def test_the_whole_job_on_a_data_set_by_name(model_file, tmp_path, monkeypatch):
    """Four shots and two queries under the name of the synthetic worms."""
    names = ["shot0", "shot1", "shot2", "shot3", "query4", "query5"]
    pairs = zip(tiny.worms(6), names, strict=True)
    samples = tuple(replace(one, name=name, split=name[:-1]) for one, name in pairs)
    small_worms = scellseg.Dataset("synthetic_worms", "", "", samples)
    monkeypatch.setattr(synthetic, "make_dataset", {"synthetic_worms": small_worms}.__getitem__)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synthetic_worms").mkdir()  # of the same name, but not meant
    options = ("--shots", "2", "--seed", "3", "--steps", "1", "--strategy", "contrastive")
    options += ("--model", model_file)
    said = done("finetune", "synthetic_worms", *options)
    assert "scellseg segment synthetic_worms --model synthetic_worms.safetensors" in said
    card = scellseg.load_model("synthetic_worms.safetensors").card
    assert card.recipe["shots"] == [sample.name for sample in small_worms.shots(2, seed=3)]
    assert (card.recipe["seed"], card.recipe["queries"]) == (3, ["query4", "query5"])

    segmenting = ("segment", "synthetic_worms", "--model", "synthetic_worms.safetensors", *OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(scellseg.Sample, "masks", property(interrupt))  # never looked at to segment
        assert "2 images segmented" in done(*segmenting)
        done(*segmenting, "--output", "masks")
    made = files(tmp_path / "segmented" / "synthetic_worms")
    assert list(made) == ["query4_masks.tif", "query5_masks.tif", "segmented.json"]
    assert files(tmp_path / "masks") == made

    done("evaluate", "masks", "synthetic_worms", "--csv", "scores.csv")
    frame = pd.read_csv("scores.csv")
    for sample in small_worms.query:
        found = read_masks(tmp_path / "masks" / f"{sample.name}_masks.tif")
        expected = metrics.average_precision(sample.masks, found, [0.5])[0]
        rows = frame[frame["image"].eq(sample.name) & frame["threshold"].eq(0.5)]
        assert rows["ap"].tolist() == pytest.approx([expected])
    (tmp_path / "masks" / "query5_masks.tif").unlink()
    assert "without a partner: query5." in run("evaluate", "masks", "synthetic_worms").stderr
    save(tmp_path / "synthetic_worms" / "A.png", picture(0)[0])  # a folder is meant by its path
    assert "1 images segmented" in done("segment", "./synthetic_worms", "--model", model_file)


@pytest.fixture
def scored(tmp_path):
    """Predictions and truths of two images: one right, one with a cell less and one moved."""
    truth = np.zeros((40, 40), np.int32)
    truth[2:12, 2:12], truth[20:30, 20:30] = 1, 2
    pred, true = tmp_path / "pred", tmp_path / "true"
    save(true / "A_img.png", truth)
    moved = np.roll(np.where(truth == 2, 0, truth), 2, axis=0)
    for name, masks in (("A", truth * 5), ("B", moved)):
        write_labels(true / f"{name}_masks.png", truth)
        write_labels(pred / f"{name}_masks.tif", masks)
    (pred / "A_overlay.png").write_bytes(b"no labels")
    return pred, true


def test_scores_by_arithmetic(scored, tmp_path, monkeypatch):
    table = tmp_path / "scores.csv"
    lines = done("evaluate", *scored, "--csv", table).splitlines()
    assert lines[0].split()[:7] == ["AP@0.5", "AP@0.75", "mAP", "mAJI", "AJI", "count", "error"]
    assert lines[1].split() == ["A", *["1.000"] * 5, *["0.000"] * 4]
    # 80 px of 120 are common: a match at four of ten thresholds. The other cell has 100 px.
    errors = ["-0.500", "-0.500", "0.000", "0.000"]
    assert lines[2].split() == ["B", "0.500", "0.000", "0.200", "0.145", "0.364", *errors]
    means = ["0.750", "0.500", "0.600", "0.573", "0.682", "-0.250", "-0.250", "0.000", "0.000"]
    assert lines[3].split() == ["mean", "of", "2", *means]
    assert lines[4].split()[:2] == ["SD", "0.354"]
    frame = pd.read_csv(table)
    assert len(frame) == 20
    counts = frame[frame["image"] == "B"][["tp", "fp", "fn"]].drop_duplicates()
    assert counts.to_numpy().tolist() == [[1, 0, 1], [0, 1, 2]]

    table.write_text("the user's own")
    command = ("evaluate", *scored, "--csv", table)
    assert "give --overwrite" in failed(*command)
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", interrupt)
        failed(*command, "--overwrite", code=130)
    assert table.read_text() == "the user's own"
    done(*command, "--overwrite")
    assert len(pd.read_csv(table)) == 20


def test_warnings_of_one_kind_are_one_and_counted(scored):
    pieces = np.zeros((40, 40), np.int32)
    pieces[2:12, 2:12] = pieces[20:30, 20:30] = 1
    for name in "AB":
        write_labels(scored[0] / f"{name}_masks.tif", pieces)
    first, last = run("evaluate", *scored).stderr.splitlines()
    assert first.startswith(f"Warning: {scored[0] / 'A_masks.tif'}: 1 of 1 labels lie in pieces")
    assert last.startswith("Warning: more of the same: 1. Each label counts as one cell")


def test_cells_are_not_measured_on_another_image(segmented):
    measure = ("export", segmented / "segmented", "--to", "table", "--images", segmented)
    done(*measure)
    save(segmented / "B.png", picture(9)[0])
    assert "B.png: it was replaced. Segment it" in run(*measure, "--overwrite").stderr


def test_label_files_that_do_not_fit_are_named(scored):
    pred, true = scored
    write_labels(pred / "B_masks.tif", np.zeros((40, 41), np.int32))
    assert "image B" in failed("evaluate", *scored)
    (pred / "B_masks.tif").rename(pred / "D_masks.tif")
    alone = failed("evaluate", pred, true)
    assert str(pred / "D_masks.tif") in alone
    assert str(true / "B_masks.png") in alone
    assert "A_masks" not in alone


def test_every_format_by_the_command(tmp_path):
    """Out of Cellpose's file, with an image of two channels; a damaged file is told of."""
    pixels = np.arange(12 * 14 * 2, dtype=np.uint16).reshape(12, 14, 2)
    for name in "AB":
        (tmp_path / f"{name}.tif").write_bytes(tiff(pixels, planarconfig="contig"))
    seg_npy.write_seg(tmp_path / "A_seg.npy", np.pad(np.ones((3, 5), np.int32), ((1, 8), (1, 8))))
    (tmp_path / "B_seg.npy").write_bytes(b"\x93NUMPY")
    kinds = [part for kind in export.FORMATS for part in ("--to", kind)]
    command = ("export", tmp_path, *kinds, "--channels", "worm,dye", "--images", tmp_path)
    found = run(*command, "--cut-out", "--side", "7", "--pixel-size", "0.5")
    assert found.exit_code == 1
    assert f"{len(export.FORMATS)} written, 0 there already" in found.stdout
    assert re.search(r"1 label files failed:\n  \S+B_seg\.npy: ", found.stderr)
    out = tmp_path / "exported"
    assert {one.name for one in out.iterdir()} == {f"A{end}" for end in export.FORMATS.values()}
    table = pd.read_csv(out / "A_measurements.csv")
    assert (table["area_um2"].tolist(), "intensity_max_dye" in table) == ([15 / 4], True)
    crop = read_pixels(out / "A_cells" / "A_cells_00001.tif")
    assert (crop.shape, crop[0].any()) == ((7, 7, 2), False)


def test_data_and_models(temporary_cache, monkeypatch):
    monkeypatch.setenv("SCELLSEG_DATA", str(temporary_cache))
    assert done("data", "path", "dsb2018").strip() == str(temporary_cache / "dsb2018")
    listed = done("data", "list")
    assert re.search(r"^synthetic_worms +made as they are read", listed, re.M)
    assert re.search(r"^bbbc010_elegans +0 of +49 here +open +CC BY", listed, re.M)
    verified = run("data", "verify", "bbbc010_elegans")
    assert (verified.exit_code, "98 missing" in verified.stdout) == (1, True)
    assert done("models", "list").count("not fetched yet") == 2
    assert done("--version").strip() == f"scellseg {version('scellseg-notebooks')}"


def test_doctor(temporary_cache, monkeypatch):
    monkeypatch.setattr(synthetic, "_cached", make_small)
    lines = done("doctor").splitlines()
    assert f"torch {torch.__version__}" in lines[1]
    assert re.fullmatch(r"segmentation: +AP@0.5 = (0.9\d|1.00), after.* (0.9\d|1.00)", lines[-1])
    monkeypatch.setattr(scellseg, "segment", lambda _, shots: [np.zeros_like(shots[0].masks)])
    assert "not to be trusted" in failed("doctor")


COMMANDS = ["segment", "finetune", "evaluate", "sweep", "doctor", "export"]
COMMANDS += ["data list", "data fetch", "data verify", "data path", "models list", "models fetch"]


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_the_help_use_its_options(command):
    text = done(*command.split(), "--help")
    examples = re.findall(rf"^ +(?:Example: )?scellseg {command}\b(.*)$", text, re.M)
    assert examples
    for option in re.findall(r"--[\w-]+", " ".join(examples)):
        assert re.search(rf"^  {option}\b", text, re.M), option


def test_help_says_what_the_options_classes_say():
    text = re.sub(r"\s+", " ", done("finetune", "--help"))
    steps = r"--steps <int range> Optimiser steps; .* Default: the recipe's\. \[x>=1\]"
    assert re.search(steps, text)
    assert "--layers <all|downsampling_fixed|extractor_fixed> What is learnt" in text
    text = re.sub(r"\s+", " ", done("segment", "--help"))
    told = re.escape(Decoding.describe("min_size")["description"])
    assert re.search(rf"--min-size <int range> {told} Default: the model's. \[x>=0\]", text)
    assert all(name in done("sweep", "--help") for name in grid.EXPERIMENTS)


@pytest.fixture
def sweeping(tmp_path, monkeypatch):
    """A sweep of two trials whose results go into a temporary folder."""
    whole = grid.EXPERIMENTS["transferability"]
    monkeypatch.setitem(grid.EXPERIMENTS, "transferability", lambda scale: list(whole(scale))[-2:])
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr("scellseg_lib.paper.run.measure_step", lambda _: 1.0)
    return ["sweep", "transferability", "--state", "0"]


def test_a_sweep_is_counted_computed_and_not_computed_again(sweeping, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_cached", make_small)
    sets = cache(partial(synthetic.make_dataset, n_query=2))
    monkeypatch.setattr("scellseg_lib.paper.run._load_once", sets)
    command = [*sweeping, "--profile", "smoke", "--data", "synthetic_phase"]
    assert done(*command, "--dry-run").startswith("2 trials, 0 of them are there. The others take ")
    assert not list(tmp_path.iterdir())
    assert "0 trials computed" in done(*command, "--limit-time", "0")
    both = failed(*command, "--limit-time", "0", "--cluster", "local:1", code=2)
    assert "--limit-time is for one machine" in both
    assert "2 trials computed" in done(*command)
    kept = files(tmp_path / "smoke" / "trials")
    assert len(kept) == 2 * 2
    assert re.match("2 trials, 2 of them are there.*\n0 trials computed", done(*command))
    assert files(tmp_path / "smoke" / "trials") == kept


def test_trials_that_fail_are_listed(sweeping, tmp_path, monkeypatch):
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    said = failed(*sweeping, "--profile", "paper", "--data", "mito")
    assert "2 trials failed" in said
    assert "scellseg data fetch mito" in said

"""The command line: what a biologist types, what lies on the disk afterwards, what goes wrong."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from tqdm import tqdm
from typer.testing import CliRunner

import scellseg_lib as scellseg
from scellseg_lib import augment, cli, paths
from scellseg_lib import training as checkpoint
from scellseg_lib.datasets import synthetic
from scellseg_lib.device import Precision
from scellseg_lib.files import folder as batch
from scellseg_lib.files import images as readers
from scellseg_lib.metrics import average_precision, scores
from scellseg_lib.model import new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.samples import Dataset, Sample
from tests import tiny

FINETUNE, SEGMENT = (
    import_module(f"scellseg_lib.{name}") for name in ("finetuning", "segmentation")
)
LEVELS = (4, 8, 16, 32)
THRESHOLDS = {"cell_threshold": -1.0, "flow_threshold": 0.0, "diameter": 60.0}
"""With these an untrained network finds cells of a kind."""
OPTIONS = ["--cell-threshold", "-1", "--flow-threshold", "0", "--diameter", "60"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Float32 without measuring what is fastest (some 10 s), on one thread, as images are tiny."""
    monkeypatch.setattr("scellseg_lib.device.recall_precision", lambda key: Precision())
    monkeypatch.setattr("scellseg_lib.datasets.weights.default_device", lambda: torch.device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = new_model("scellseg", LEVELS)
    model.card = model.card.model_copy(update={"channels": ("gray", "none")})
    return str(model.save(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image of 8 bits and its masks."""
    image, masks = synthetic.make_image("Kc167", seed, (200, 200))
    return cv2.normalize(image[0], np.zeros(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8), masks


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Three images without masks."""
    folder = tmp_path / "plate"
    folder.mkdir()
    for seed, name in enumerate("ABC"):
        cv2.imwrite(str(folder / f"{name}.png"), picture(seed)[0])
    return folder


def run(*arguments: str | Path) -> Any:
    """Result of a command, whatever its exit code; never a traceback."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def done(*arguments: str | Path) -> str:
    """Output of a command that succeeds."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- segment ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::scellseg_lib.segmentation.FarFromModel")
def test_masks_are_those_of_the_library(plate: Path, model_file: str) -> None:
    out = done("segment", plate, "--model", model_file, *OPTIONS)
    model = scellseg.load_model(model_file)
    images = [readers.read_image(plate / f"{name}.png") for name in "ABC"]
    expected = [cells.masks for cells in scellseg.segment(model, images, **THRESHOLDS)]
    assert sum(masks.max() for masks in expected) > 5
    for name, masks in zip("ABC", expected, strict=True):
        written = readers.read_masks(plate / "segmented" / f"{name}_masks.tif")
        np.testing.assert_array_equal(written, masks)
    assert f"3 images segmented, {sum(masks.max() for masks in expected)} cells" in out


def test_one_bad_file_is_reported_and_the_rest_segmented(plate: Path, model_file: str) -> None:
    whole = (plate / "B.png").read_bytes()
    (plate / "B.png").write_bytes(whole[: len(whole) // 2])
    command = ("segment", plate, "--model", model_file, "--output", plate / "out", *OPTIONS)
    first = run(*command)
    assert first.exit_code == 1
    assert "1 of 3 images failed" in first.stderr
    assert str(plate / "B.png") in first.stderr
    kept = files(plate / "out")
    assert list(kept) == ["A_masks.tif", "C_masks.tif", "segmented.json"]

    (plate / "B.png").write_bytes(whole)
    assert "1 images segmented" in (out := done(*command))
    assert "2 already done" in out
    assert kept.items() < files(plate / "out").items()


def test_nothing_is_overwritten_unless_asked(plate: Path, model_file: str) -> None:
    command = ("segment", plate / "A.png", "--model", model_file, "--format", "png")
    done(*command, *OPTIONS)
    before = files(plate / "segmented")
    assert "0 images segmented" in done(*command, *OPTIONS)
    assert files(plate / "segmented") == before
    cv2.imwrite(str(plate / "A.png"), np.full((90, 90), 7, np.uint8))
    assert "1 images segmented" in done(*command, *OPTIONS, "--overwrite")
    assert readers.read_masks(plate / "segmented" / "A_masks.png").shape == (90, 90)


def test_masks_of_other_settings_do_not_pass_for_done(plate: Path, model_file: str) -> None:
    command = ("segment", plate, "--model", model_file)
    done(*command, *OPTIONS)
    before = files(plate / "segmented")
    record = json.loads(before["segmented.json"])
    weights = weights_hash(scellseg.load_model(model_file).network)
    expected = {"weights": weights, "diameter": 60, "cell_threshold": -1, "min_size": 35}
    assert expected | {"resample": True, "channels": None, "format": "tiff"} == {
        name: record[name] for name in (*expected, "resample", "channels", "format")
    }
    options = [*OPTIONS[:-1], "45", "--fast"]
    refused = run(*command, *options)
    assert refused.exit_code == 1
    assert "diameter 60.0 there, 45.0 asked for; resample True there, False" in refused.stderr
    assert "another folder as the output, or --overwrite." in refused.stderr
    # Not even with --overwrite where masks of other images would be left among the new ones.
    assert run("segment", plate / "A.png", *command[2:], *options, "--overwrite").exit_code == 1
    assert files(plate / "segmented") == before
    # The model's own settings are the same, given or not.
    done(*command, "--output", plate / "own")
    assert "3 already done" in done(*command, "--output", plate / "own", "--min-size", "35")
    assert run(*command, "--output", plate / "own", "--page", "0").exit_code == 1
    (plate / "own" / "segmented.json").unlink()
    assert "weights unknown there" in run(*command, "--output", plate / "own").stderr


@pytest.mark.parametrize("theirs", ['{"my": "notes"}', "[1]", "notes"])
def test_a_strangers_record_is_left_alone(plate: Path, model_file: str, theirs: str) -> None:
    record = plate / "segmented" / "segmented.json"
    record.parent.mkdir()
    record.write_text(theirs)
    for more in ([], ["--overwrite"]):
        refused = run("segment", plate, "--model", model_file, *OPTIONS, *more)
        assert refused.exit_code == 1
        assert "segmented.json: this file is not ours" in refused.stderr
    assert record.read_text() == theirs


def test_overwriting_with_other_settings_that_is_stopped_leaves_nothing_old(
    plate: Path, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("segment", plate, "--model", model_file, *OPTIONS)
    done(*command, "--preview")
    other = (*command, "--diameter", "45")
    with monkeypatch.context() as patch:
        patch.setattr(batch, "predict", lambda *_, **__: interrupt())
        assert run(*other, "--overwrite").exit_code == 130
    assert list(files(plate / "segmented")) == ["segmented.json"]
    assert "3 images segmented" in done(*other)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_overlays_are_drawn_over_only_when_asked(plate: Path, model_file: str) -> None:
    command = ("segment", plate / "A.png", "--model", model_file, *OPTIONS)
    overlay = plate / "segmented" / "A_overlay.png"
    overlay.parent.mkdir()
    overlay.write_bytes(b"the user's own")
    done(*command)
    done(*command, "--preview")
    assert overlay.read_bytes() == b"the user's own"
    done(*command, "--overwrite")  # it would show other masks
    assert overlay.read_bytes().startswith(b"\x89PNG")


def test_masks_are_not_needed_to_segment(tmp_path: Path, model_file: str) -> None:
    for name in ("shot/a_img.png", "shot/b_img.png", "query/c_img.png", "query/c_img.tif"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        readers.write_labels(tmp_path / "set" / name, picture(0)[1])
    for name in ("shot/orphan_masks.png", "query/x_masks.tif", "query/x_masks.png"):
        (tmp_path / "set" / name).write_bytes(b"never read")
    result = run("segment", tmp_path / "set", "--model", model_file, "--output", tmp_path / "out")
    assert result.exit_code == 1
    made = ["segmented.json", "shot/a_masks.tif", "shot/b_masks.tif"]
    assert list(files(tmp_path / "out")) == made
    assert "2 of 4 images failed" in result.stderr
    for suffix in ("png", "tif"):
        file = re.escape(str(tmp_path / "set" / "query" / f"c_img.{suffix}"))
        assert re.search(rf"{file}: .*same name: c_img\.png, c_img\.tif.*Keep one", result.stderr)


@pytest.mark.parametrize("where", ["network", "decoding", "writing", "drawing"])
def test_one_image_that_fails_on_the_way_does_not_stop_the_others(
    where: str, plate: Path, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(plate / "B.png"), np.zeros((150, 150), np.uint8))  # known by its size

    def failing(original: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            shapes = [np.shape(getattr(a, "maps", a))[-2:] for a in arguments]
            if (150, 150) in shapes:
                raise MemoryError("not enough of it")
            return original(*arguments, **options)

        return wrapped

    module, name = {
        "network": (SEGMENT, "normalise"),
        "decoding": (batch, "decode"),
        "writing": (batch, "write_labels"),
        "drawing": (batch, "write_overlay"),
    }[where]
    monkeypatch.setattr(module, name, failing(getattr(module, name)))
    options = [*OPTIONS[:-1], "30", "--output", plate / "out", "--preview"]
    result = run("segment", plate, "--model", model_file, *options)
    assert result.exit_code == 1
    assert "1 of 3 images failed:\n  B.png: not enough of it" in result.stderr
    assert {"A_masks.tif", "C_masks.tif", "C_overlay.png"} <= set(files(plate / "out"))
    assert ("B_masks.tif" in files(plate / "out")) == (where == "drawing")


def test_the_bar_counts_images_as_they_are_done(
    plate: Path, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plate / "D.png").write_bytes(b"no image")
    told: list[Any] = []

    class Bar(tqdm):
        def __init__(self, total: int, *_: Any, **__: Any) -> None:
            super().__init__(total=total, file=io.StringIO())
            told.append(total)

        def refresh(self, *_: Any, **__: Any) -> None:
            told.append("shown")

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            told.append((self.n, len(list(plate.rglob("*_masks.tif")))))

    monkeypatch.setattr(batch, "bar", Bar)
    run("segment", plate, "--model", model_file, *OPTIONS)
    assert told[:2] == [4, "shown"]  # before any image is done
    assert told[2:] == [(1, 1), (2, 2), (3, 3), (4, 3)]
    told.clear()
    run("segment", plate, "--model", model_file, *OPTIONS, "--preview")
    assert told[0] == 4  # the bad file, and three overlays
    assert told[-1] == (4, 3)


def test_interrupted_run_goes_on(
    plate: Path, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("segment", plate, "--model", model_file, *OPTIONS, "--output")
    done(*command, plate / "whole")
    original, calls = batch.predict, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(batch, "GROUP", 1)
    monkeypatch.setattr(batch, "predict", interrupted)
    stopped = run(*command, plate / "parts")
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.stderr
    assert list(files(plate / "parts")) == ["A_masks.tif", "segmented.json"]
    assert "2 images segmented" in done(*command, plate / "parts")
    assert files(plate / "parts") == files(plate / "whole")


def test_shots_and_queries_of_one_name_are_kept_apart(tmp_path: Path, model_file: str) -> None:
    for seed, part in enumerate(("shot", "query")):
        (tmp_path / "set" / part).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "set" / part / "A_img.png"), picture(seed)[0])
    (tmp_path / "set" / "shot" / "A_masks.png").write_bytes(b"never read")
    done("segment", tmp_path / "set", "--model", model_file, "--output", tmp_path / "out")
    made = ["query/A_masks.tif", "segmented.json", "shot/A_masks.tif"]
    assert list(files(tmp_path / "out")) == made


def test_annotations_are_safe_from_outputs(plate: Path, model_file: str) -> None:
    readers.write_labels(plate / "A_masks.tif", np.eye(200, dtype=np.int32))
    before = files(plate)
    result = run("segment", plate, "--model", model_file, "--output", plate, "--overwrite")
    assert result.exit_code == 1
    assert "annotations" in result.stderr
    assert files(plate) == before


def test_previews_are_drawn_later_without_the_network(
    plate: Path, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("segment", plate / "A.png", "--model", model_file, *OPTIONS)
    done(*command)
    masks = files(plate / "segmented")
    monkeypatch.setattr(batch, "predict", None)
    done(*command, "--preview")
    after = files(plate / "segmented")
    overlay = after.pop("A_overlay.png")
    assert after == masks
    blue, green, red = cv2.imdecode(np.frombuffer(overlay, np.uint8), cv2.IMREAD_COLOR).T
    assert ((red > 200) & (green < 60) & (blue < 60)).sum() > 100


@pytest.mark.filterwarnings("ignore::scellseg_lib.segmentation.FarFromModel")
def test_channels_are_the_models_unless_named(tmp_path: Path) -> None:
    planes = [picture(seed)[0] for seed in range(3)]
    cv2.imwrite(str(tmp_path / "rgb.png"), np.dstack(planes))  # blue, green, red
    model = new_model("scellseg", LEVELS)
    model.card = model.card.model_copy(update={"channels": ("green", "red")})
    file = model.save(tmp_path / "green.safetensors")
    found = {}
    for name, options in (("own", []), ("same", ["green,red"]), ("other", ["2"])):
        chosen = [part for option in options for part in ("--channels", option)]
        arguments = ("--model", file, *OPTIONS, *chosen, "--output", tmp_path / name)
        done("segment", tmp_path / "rgb.png", *arguments)
        found[name] = readers.read_masks(tmp_path / name / "rgb_masks.tif")
    image = np.stack(planes[1:]).astype(np.float32)
    expected = scellseg.segment(model, [image], **THRESHOLDS)[0].masks
    np.testing.assert_array_equal(found["own"], expected)
    np.testing.assert_array_equal(found["same"], expected)
    assert not np.array_equal(found["other"], expected)


def test_doubts_are_told_without_code(plate: Path, model_file: str) -> None:
    result = run("segment", plate / "A.png", "--model", model_file, *OPTIONS)
    (line,) = result.stderr.splitlines()
    pattern = r"Warning: A\.png: the masks' median diameter is (\d+) px, .* Give --diameter \1\."
    assert re.fullmatch(pattern, line)


def test_doubts_of_many_images_are_summed_up(plate: Path, model_file: str) -> None:
    result = run("segment", plate, "--model", model_file, *OPTIONS)
    first, last = result.stderr.splitlines()
    assert first.startswith("Warning: A.png: ")
    images = [readers.read_image(plate / f"{name}.png") for name in "ABC"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scellseg.segment(scellseg.load_model(model_file), images, **THRESHOLDS)
    median = np.median([each.message.diameter for each in caught])  # type: ignore[union-attr]
    said = f"Warning: 3 images in all hold cells of another size. Give --diameter {median:.0f}, "
    assert last == said + "the median of what was found."


def test_colours_are_not_averaged_unless_asked(tmp_path: Path, model_file: str) -> None:
    planes = [picture(seed)[0] for seed in range(3)]
    cv2.imwrite(str(tmp_path / "rgb.png"), np.dstack(planes))
    command = ("segment", tmp_path / "rgb.png", "--model", model_file)
    result = run(*command)
    assert result.exit_code == 1
    said = "3 channels that differ, and none is named. Name the one to segment and that of the "
    said += "nuclei, such as --channels green,red; gray is the mean of all, none is no nuclei. "
    assert said + "There are: 0 (red), 1 (green), 2 (blue)." in result.stderr
    assert "1 images segmented" in done(*command, "--channels", "gray", "--output", tmp_path / "o")


@pytest.mark.filterwarnings("ignore::scellseg_lib.segmentation.FarFromModel")
def test_one_page_of_a_stack(tmp_path: Path, model_file: str) -> None:
    pages = np.stack([picture(seed)[0] for seed in range(2)])
    (tmp_path / "stack").mkdir()
    tifffile.imwrite(tmp_path / "stack" / "z.tif", pages, imagej=True, metadata={"axes": "ZYX"})
    command = ("segment", tmp_path / "stack", "--model", model_file, *OPTIONS)
    result = run(*command)
    assert "Give --page, 0 to 1, for one plane" in result.stderr
    assert "page=" not in result.stderr
    done(*command, "--page", "1")
    model = scellseg.load_model(model_file)
    expected = scellseg.segment(model, [pages[1].astype(np.float32)], **THRESHOLDS)[0].masks
    written = readers.read_masks(tmp_path / "stack" / "segmented" / "z_masks.tif")
    np.testing.assert_array_equal(written, expected)


def test_an_image_of_no_contrast_is_told_by_its_name(tmp_path: Path, model_file: str) -> None:
    tifffile.imwrite(tmp_path / "dim.tif", picture(0)[0].astype(np.float32) * 9e-4 / 255)
    result = run("segment", tmp_path / "dim.tif", "--model", model_file)
    assert result.exit_code == 0
    assert "Warning: dim.tif: next to no contrast, treated as empty." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["segment", "nowhere"], 2, "does not exist"),
        (["finetune", "nowhere"], 2, "does not exist"),
        (["evaluate", "{plate}", "nowhere"], 2, "does not exist"),
        (["segment", "bbbc010_elegans"], 1, "scellseg data fetch bbbc010_elegans"),
        (["segment", "synthetic", "--channels", "red"], 1, "says itself which planes"),
        (["finetune", "synthetic", "--page", "1"], 1, "says itself which planes"),
        (["finetune", "synthetic", "--shots", "11"], 1, "Ask for 1 to 10"),
        (
            ["segment", "{plate}", "--model", "{model}", "--cell-threshold", "nan"],
            1,
            "--cell-threshold nan is not a number",
        ),
        (["segment", ".", "--diameter", "0"], 2, "diameter"),
        (["segment", "{plate}", "--model", "{model}", "--channels", "mauve"], 2, "green,red"),
        (["segment", "{plate}", "--model", "{model}", "--weights", "released"], 2, "weights"),
        (["segment", "{plate}", "--format", "jpg"], 2, "jpg"),
        (["segment", "{plate}", "--model", "cellposer"], 1, "there is no model 'cellposer'"),
        (["segment", "{plate}", "--model", "lost.safetensors"], 1, "no such file"),
        (
            ["finetune", "{plate}", "--model", "{model}"],
            1,
            "none of the 3 images of 'plate' is annotated. Annotate",
        ),
        (["finetune", "{plate}", "--output", "model.pt"], 2, ".safetensors"),
        (["finetune", "{plate}", "--strategy", "magic"], 2, "magic"),
        (["data", "fetch", "nothing"], 1, "no data set is called 'nothing'"),
        (["data", "fetch", "cellpose"], 1, "cannot be downloaded automatically"),
        (["models", "fetch"], 1, "SCELLSEG_OFFLINE"),
        (["segmnet", "x"], 2, "segmnet"),
    ],
)
def test_what_goes_wrong_is_said_in_one_message(
    arguments: list[str],
    code: int,
    message: str,
    plate: Path,
    model_file: str,
    temporary_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    monkeypatch.setenv("SCELLSEG_DATA", str(temporary_cache / "data"))
    result = run(*(text.format(plate=plate, model=model_file) for text in arguments))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""


# --- finetune --------------------------------------------------------------------------------


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning with one patch a step, checkpoints after each, and two contrast images."""
    styles = [
        Sample(name, lambda n=n: synthetic.make_image("Kc167", n, (200, 200))[0],
               lambda n=n: synthetic.make_image("Kc167", n, (200, 200))[1], style=name)
        for n, name in enumerate(("one", "two"))
    ]  # fmt: skip
    contrast = Dataset("two styles", "", "", tuple(styles))
    options = {"batch_size": 1, "contrast": contrast}
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(scellseg, "finetune", partial(scellseg.finetune, **options))


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """Scellseg layout; the masks of the query images are not even readable."""
    folder = tmp_path / "worms"
    for seed, part in enumerate(("shot", "query")):
        (folder / part).mkdir(parents=True)
        image, masks = picture(seed)
        cv2.imwrite(str(folder / part / f"{seed}_img.png"), image)
        readers.write_labels(folder / part / f"{seed}_masks.png", masks)
    (folder / "query" / "1_masks.png").write_bytes(b"not to be looked at")
    return folder


@pytest.mark.usefixtures("small_steps")
def test_killed_finetuning_goes_on_to_the_same_model(
    annotated: Path, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("finetune", annotated, "--model", model_file, "--steps", "3", "--output")
    said = done(*command, annotated / "whole.safetensors")
    assert "tuned on 1 annotated and 1 unlabelled images" in said

    original = FINETUNE._Run._step

    def killed(run: Any, step: int) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return original(run, step)

    part = annotated / "part.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(FINETUNE._Run, "_step", killed)
        assert run(*command, part).exit_code == 130
    assert (annotated / "part.checkpoint").is_file()
    assert not part.exists()

    begun: list[int] = []

    def counted(run: Any, step: int) -> Any:
        begun.append(step)
        return original(run, step)

    monkeypatch.setattr(FINETUNE._Run, "_step", counted)
    done(*command, part)
    assert begun == [2]
    assert not (annotated / "part.checkpoint").exists()
    whole, resumed = (
        scellseg.load_model(annotated / f"{name}.safetensors") for name in ("whole", "part")
    )
    assert weights_hash(whole.network) == weights_hash(resumed.network)
    assert weights_hash(whole.network) != weights_hash(scellseg.load_model(model_file).network)
    assert whole.card == resumed.card
    assert whole.card.recipe["queries"] == ["1"]


@pytest.mark.usefixtures("small_steps")
def test_a_damaged_query_image_is_left_out_and_told_of(annotated: Path, model_file: str) -> None:
    damaged = annotated / "query" / "2_img.png"
    damaged.write_bytes((annotated / "query" / "1_img.png").read_bytes()[:500])
    file = annotated / "tuned.safetensors"
    options = ["--steps", "1", "--output", str(file)]
    result = run("finetune", annotated, "--model", model_file, *options)
    assert result.exit_code == 1
    assert "1 unlabelled images could not be read and were left out" in result.stderr
    assert "2_img.png" in result.stderr
    assert "tuned on 1 annotated and 1 unlabelled images" in result.stdout
    assert scellseg.load_model(file).card.recipe["queries"] == ["1"]
    damaged.unlink()
    assert done("finetune", annotated, "--model", model_file, *options, "--overwrite")


@pytest.mark.usefixtures("small_steps")
def test_no_query_image_that_can_be_read_is_an_error(annotated: Path, model_file: str) -> None:
    (annotated / "query" / "1_img.png").write_bytes(b"no picture")
    result = run("finetune", annotated, "--model", model_file, "--steps", "1")
    assert result.exit_code == 1
    assert "none of the unlabelled images can be read" in result.stderr
    assert "--inductive" in result.stderr
    assert not list(annotated.glob("*.safetensors"))


@pytest.mark.usefixtures("small_steps")
def test_finetuning_options_are_kept_in_the_card(annotated: Path, model_file: str) -> None:
    file = annotated / "tuned.safetensors"
    options = ["--strategy", "classic", "--steps", "1", "--seed", "7", "--schedule", "cosine"]
    options += ["--layers", "extractor_fixed", "--channels", "0", "--output", str(file)]
    done("finetune", annotated, "--model", model_file, *options)
    card = scellseg.load_model(file).card
    expected = {"strategy": "classic", "steps": 1, "seed": 7, "schedule": "cosine"}
    assert expected.items() <= card.recipe.items()
    assert card.recipe["layers"] == "extractor_fixed"
    assert card.channels == ("0", "none")
    cells = np.unique(picture(0)[1], return_counts=True)[1][1:]
    assert card.diameter == pytest.approx(np.median(2 * np.sqrt(cells / np.pi)), abs=0.01)

    before = file.read_bytes()
    again = run("finetune", annotated, "--model", model_file, *options)
    assert (again.exit_code, file.read_bytes()) == (1, before)
    assert "--overwrite" in again.stderr


def test_the_checkpoint_stays_until_the_model_is_saved(
    annotated: Path, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned(model: Any, *_: Any, checkpoint: Path, **__: Any) -> Any:
        checkpoint.write_bytes(b"the last state")
        return model

    monkeypatch.setattr(scellseg, "finetune", tuned)
    command = ("finetune", annotated, "--model", model_file)
    with monkeypatch.context() as patch:
        patch.setattr(scellseg.Model, "save", lambda *_: interrupt())
        assert run(*command).exit_code == 130
    assert (annotated / "model.checkpoint").exists()
    done(*command)
    assert (annotated / "model.safetensors").exists()
    assert not (annotated / "model.checkpoint").exists()


@pytest.mark.usefixtures("small_steps")
def test_the_papers_options_reach_the_fine_tuning(annotated: Path, model_file: str) -> None:
    file = annotated / "tuned.safetensors"
    options = ["--steps", "1", "--alpha", "fixed", "--statistics", "shot"]
    options += ["--learning-rate", "0.002", "--inductive", "--output", str(file)]
    said = done("finetune", annotated, "--model", model_file, *options)
    assert "1 annotated and 0 unlabelled" in said
    recipe = scellseg.load_model(file).card.recipe
    expected = {"alpha": "fixed", "statistics": "shot", "learning_rate": 0.002, "queries": []}
    assert expected.items() <= recipe.items()


# --- a data set by its name ------------------------------------------------------------------


@pytest.fixture
def small_worms(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Four shots and two queries under the name of the synthetic worms."""

    def one(number: int, split: str) -> Sample:
        image, masks = synthetic.make_image("worms", number, (200, 200))
        return Sample(f"{split}{number}", lambda: image, lambda: masks, split)

    samples = [one(n, "shot") for n in range(4)] + [one(n, "query") for n in (4, 5)]
    worms = Dataset("synthetic_worms", "", "", tuple(samples))
    monkeypatch.setattr(synthetic, "make_dataset", lambda name: {"synthetic_worms": worms}[name])
    return worms


@pytest.mark.usefixtures("small_steps")
def test_the_whole_job_on_a_data_set_by_name(
    small_worms: Dataset, model_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synthetic_worms").mkdir()  # of the same name, but not meant
    options = ("--shots", "2", "--seed", "3", "--steps", "1", "--model", model_file)
    said = done("finetune", "synthetic_worms", *options)
    assert "scellseg segment synthetic_worms --model synthetic_worms.safetensors" in said
    card = scellseg.load_model("synthetic_worms.safetensors").card
    assert card.recipe["shots"] == [sample.name for sample in small_worms.shots(2, seed=3)]
    assert (card.recipe["seed"], card.recipe["queries"]) == (3, ["query4", "query5"])

    segmenting = ("segment", "synthetic_worms", "--model", "synthetic_worms.safetensors")
    assert "2 images segmented" in done(*segmenting, *OPTIONS)
    folder = tmp_path / "segmented" / "synthetic_worms"
    assert list(files(folder)) == ["query4_masks.tif", "query5_masks.tif", "segmented.json"]
    done(*segmenting, *OPTIONS, "--output", "masks")
    assert files(tmp_path / "masks") == files(folder)

    done("evaluate", "masks", "synthetic_worms", "--csv", "scores.csv")
    frame = pd.read_csv("scores.csv")
    for sample in small_worms.query:
        found = readers.read_masks(tmp_path / "masks" / f"{sample.name}_masks.tif")
        expected = average_precision(sample.masks, found, [0.5])[0]
        rows = frame[frame["image"].eq(sample.name) & frame["threshold"].eq(0.5)]
        assert rows["ap"].tolist() == pytest.approx([expected])
    (tmp_path / "masks" / "query5_masks.tif").unlink()
    assert "without a partner: query5." in run("evaluate", "masks", "synthetic_worms").stderr


def test_masks_of_a_set_are_never_looked_at_to_segment_it(
    small_worms: Dataset, model_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sample, "masks", property(lambda _: interrupt()))
    done("segment", "synthetic_worms", "--model", model_file, "--output", tmp_path / "masks")


@pytest.mark.usefixtures("small_worms")
def test_a_folder_of_a_sets_name_is_given_as_a_path(
    plate: Path, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plate.rename(plate.with_name("synthetic_worms"))
    monkeypatch.chdir(plate.parent)
    assert "3 images segmented" in done("segment", "./synthetic_worms", "--model", model_file)


@pytest.mark.real_data
def test_real_sets_by_name(
    real_data: Path, model_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worms = scellseg.load_dataset("bbbc010_elegans")
    seen: list[Any] = []
    monkeypatch.setattr(cli, "segment_jobs", lambda jobs, *_, **__: seen.extend(jobs))
    done("segment", "bbbc010_elegans", "--model", model_file, "--output", tmp_path / "out")
    names = [f"{sample.name}_masks.tif" for sample in worms.query]
    assert [job.masks.name for job in seen] == names
    np.testing.assert_array_equal(seen[0].sample.image, worms.query[0].image)

    def tuned(model: Any, shots: Dataset, queries: Dataset, *_: Any, **options: Any) -> Any:
        drawn = worms.shots(8, seed=1)
        assert [sample.name for sample in shots] == [sample.name for sample in drawn]
        np.testing.assert_array_equal(shots[0].masks, drawn[0].masks)
        assert [sample.read_masks for sample in queries] == [None] * 39
        assert options["seed"] == 1
        return model

    monkeypatch.setattr(scellseg, "finetune", tuned)
    options = ("--shots", "8", "--seed", "1", "--output", tmp_path / "t.safetensors")
    done("finetune", "bbbc010_elegans", "--model", model_file, *options)

    for sample in worms.query:
        readers.write_labels(tmp_path / f"{sample.name}_masks.png", sample.masks)
    last = done("evaluate", tmp_path, "bbbc010_elegans").splitlines()[-1]
    assert last.split() == ["mean", "(n", "=", "39)", *["1.000"] * 5]


# --- evaluate --------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and truths of two images: one right, one with a cell too few."""
    truth = np.zeros((40, 40), np.int32)
    truth[2:12, 2:12], truth[20:30, 20:30] = 1, 2
    pred, true = tmp_path / "pred", tmp_path / "true"
    pred.mkdir()
    true.mkdir()
    readers.write_labels(true / "A_masks.png", truth)
    readers.write_labels(true / "B_masks.png", truth)
    cv2.imwrite(str(true / "A_img.png"), truth)
    readers.write_labels(pred / "A_masks.tif", truth * 5)
    readers.write_labels(pred / "B_masks.tif", np.where(truth == 2, 0, truth))
    (pred / "A_overlay.png").write_bytes(b"no labels")
    return pred, true


def test_scores_by_arithmetic(scored: tuple[Path, Path], tmp_path: Path) -> None:
    lines = done("evaluate", *scored, "--csv", tmp_path / "scores.csv").splitlines()
    assert lines[0].split() == ["AP@0.5", "AP@0.75", "mAP", "mAJI", "AJI"]
    assert lines[1].split() == ["A", *["1.000"] * 5]
    assert lines[2].split() == ["B", *["0.500"] * 5]
    assert lines[3].split() == ["mean", "(n", "=", "2)", *["0.750"] * 5]
    frame = pd.read_csv(tmp_path / "scores.csv")
    assert len(frame) == 20
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pred", "scores.csv", "true"]
    counts = frame[frame["image"] == "B"][["tp", "fp", "fn"]].drop_duplicates()
    assert counts.to_numpy().tolist() == [[1, 0, 1]]


def test_a_table_is_not_overwritten_unless_asked(
    scored: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("the user's own")
    command = ("evaluate", *scored, "--csv", table)
    assert "give --overwrite" in run(*command).stderr
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", lambda *_, **__: interrupt())
        assert run(*command, "--overwrite").exit_code == 130
    assert table.read_text() == "the user's own"
    done(*command, "--overwrite")
    assert len(pd.read_csv(table)) == 20


def test_each_column_is_its_score(tmp_path: Path) -> None:
    """Shifted cells, whose five scores differ."""
    truth = picture(0)[1]
    shifted = np.roll(np.where(truth % 5 == 0, 0, truth), 4, axis=0)
    for name, masks in (("x", shifted), ("y", truth)):
        readers.write_labels(tmp_path / f"{name}.tif", masks)
    values = done("evaluate", tmp_path / "x.tif", tmp_path / "y.tif").splitlines()[1].split()[1:]
    ap50, ap75 = average_precision(truth, shifted, [0.5, 0.75])
    assert float(values[0]) == pytest.approx(ap50, abs=6e-4)
    assert float(values[1]) == pytest.approx(ap75, abs=6e-4)
    maji = scores(truth, shifted).aji.mean()
    assert float(values[3]) == pytest.approx(maji, abs=6e-4)
    assert len(set(values)) == 5


def test_files_without_a_partner_are_listed(scored: tuple[Path, Path]) -> None:
    pred, true = scored
    (pred / "B_masks.tif").rename(pred / "D_masks.tif")
    result = run("evaluate", pred, true)
    assert result.exit_code == 1
    assert str(pred / "D_masks.tif") in result.stderr
    assert str(true / "B_masks.png") in result.stderr
    assert "A_masks" not in result.stderr


def test_another_size_names_the_image(scored: tuple[Path, Path]) -> None:
    readers.write_labels(scored[0] / "B_masks.tif", np.zeros((40, 41), np.int32))
    result = run("evaluate", *scored)
    assert result.exit_code == 1
    assert "image B" in result.stderr


# --- data, models, doctor, help --------------------------------------------------------------


def test_data_commands(temporary_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCELLSEG_DATA", str(temporary_cache))
    assert done("data", "path", "dsb2018").strip() == str(temporary_cache / "dsb2018")
    assert re.search(r"^synthetic_worms +made as they are read", done("data", "list"), re.M)
    assert re.search(r"^bbbc010_elegans +0 of +49 here +open +CC BY", done("data", "list"), re.M)
    verified = run("data", "verify", "bbbc010_elegans")
    assert verified.exit_code == 1
    assert "98 missing" in verified.stdout


def test_models_list_says_what_is_not_fetched(temporary_cache: Path) -> None:
    assert done("models", "list").count("not fetched yet") == 2


def test_doctor(temporary_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "LEVELS", LEVELS)
    lines = done("doctor").splitlines()
    assert f"torch {torch.__version__}" in lines[1]
    assert sum(": ok, " in re.sub(" +", " ", line) for line in lines) == 3
    monkeypatch.setattr(cli, "flows_to_masks", lambda flows, logit: np.zeros_like(logit, int))
    broken = run("doctor")
    assert broken.exit_code == 1
    assert re.search(r"flows and back: +FAILED, AP@0.5 = 0.00", broken.stdout)


def test_version() -> None:
    assert done("--version").strip() == f"scellseg {version('scellseg-notebooks')}"


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("channels", ("green", "red"), "--channels green,red"),
        ("page", 0, "--page 0"),
        ("cell_threshold", None, "--cell-threshold"),
        ("overwrite", True, "--overwrite"),
    ],
)
def test_options_are_told_as_they_are_typed(name: str, value: Any, typed: str) -> None:
    assert cli.as_option(name, value) == typed


COMMANDS = ["segment", "finetune", "evaluate", "sweep", "doctor"]
COMMANDS += ["data list", "data fetch", "data verify", "data path", "models list", "models fetch"]


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_the_help_use_its_options(command: str) -> None:
    text = done(*command.split(), "--help")
    examples = re.findall(rf"^ +scellseg {command}\b(.*)$", text, re.M)
    assert examples
    for option in re.findall(r"--[\w-]+", " ".join(examples)):
        assert re.search(rf"^  {option}\b", text, re.M), option


# --- sweep -----------------------------------------------------------------------------------


def test_a_sweep_is_counted_computed_and_not_computed_again(tmp_path, monkeypatch) -> None:
    """The trials of the smoke profile, but of small images and patches."""
    small = partial(synthetic.make_image, shape=(200, 200))
    monkeypatch.setattr(synthetic, "_cached", cache(small))
    sets = cache(partial(synthetic.make_dataset, n_query=2))
    monkeypatch.setattr("scellseg_lib.paper.run._load_once", sets)
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    monkeypatch.setattr(paths, "runs", lambda: tmp_path / "runs")
    command = ("sweep", "transferability", "--profile", "smoke", "--data", "synthetic_phase")
    command += ("--state", "0")
    counted = done(*command, "--dry-run")
    assert counted.startswith("11 trials, 0 of them are there. The others take about ")
    assert not list(tmp_path.iterdir())
    assert "0 trials computed" in done(*command, "--limit-time", "0")
    both = run(*command, "--limit-time", "0", "--cluster", "local:1")
    assert both.exit_code == 1
    assert "a time limit is for one machine" in both.stderr
    said = done(*command)
    assert "11 trials computed" in said
    kept = files(tmp_path / "smoke" / "trials")
    assert len(kept) == 2 * 11
    again = done(*command)
    assert "11 trials, 11 of them are there." in again
    assert "0 trials computed" in again
    assert files(tmp_path / "smoke" / "trials") == kept


def test_trials_that_fail_are_listed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    monkeypatch.setattr(paths, "runs", lambda: tmp_path / "runs")
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    monkeypatch.setattr("scellseg_lib.paper.run.measure_step", lambda _: 1.0)
    command = ("sweep", "transferability", "--profile", "paper", "--data", "mito", "--state", "0")
    result = run(*command)
    assert result.exit_code == 1
    assert "11 trials failed" in result.stderr
    assert "scellseg data fetch mito" in result.stderr

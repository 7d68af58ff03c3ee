"""What all tests of the workbench share: small models and images, and no thread of another test."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import enumerate as threads
from time import monotonic, sleep
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch

from scellseg_lib import augment, paths
from scellseg_lib.datasets import synthetic
from scellseg_lib.files import layout
from scellseg_lib.model import new_model
from scellseg_lib.representation import Decoding
from scellseg_lib.workbench import jobs
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.segment import SegmentPanel
from tests import tiny

NAMES, SIDE, LEVELS = "ABCDEF", 96, (4, 8, 16, 32)
DECODING = Decoding(cell_threshold=0.33, flow_threshold=0.0, min_size=5)
"""With these an untrained network finds cells of a kind."""
SMALL = [pytest.mark.usefixtures("tiny_world"), pytest.mark.filterwarnings("ignore::UserWarning")]
LONG = 180
"""Seconds after which a test gives up: many times what the slowest takes on a busy machine."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name in ("scellseg", "unet2"):
        new_model(name, tiny.LEVELS).save(folder / f"{name}_4.safetensors")
    return folder


TOUCHED: list[str] = []
"""Images that were there already and that the library has written, moved or removed."""


def _watch(event: str, about: tuple) -> None:
    writes = event == "open" and isinstance(about[2], int) and about[2] & (os.O_WRONLY | os.O_RDWR)
    files = about[: {"os.rename": 2, "os.remove": 1, "os.truncate": 1}.get(event, bool(writes))]
    for file in (str(one) for one in files):
        if layout.parse_name(Path(file).name)[0] in ("image", "img") and Path(file).is_file():
            frame, seen = sys._getframe(), set[str]()
            while frame := frame.f_back:  # type: ignore[assignment]
                seen.add(frame.f_globals.get("__name__", ""))
            if any(name.startswith("scellseg_lib.workbench") for name in seen) and not Path(
                file
            ).name.startswith("."):
                TOUCHED.append(f"{event} {file}")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def images_are_never_written() -> Iterator[None]:
    """Whatever a test of the workbench does: images that are there are read, and nothing else."""
    yield
    touched = TOUCHED.copy()
    TOUCHED.clear()
    assert not touched


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that tests open are none that the user has opened."""
    monkeypatch.setenv("SCELLSEG_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def jobs_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for the jobs that a test has left; none has a process, which a patch does not reach."""
    monkeypatch.setattr(jobs, "apart", lambda work: work)
    yield
    until(lambda: not any(thread.name == "scellseg-job" for thread in threads()))


@pytest.fixture
def tiny_world(weights: Path, temporary_cache: Path, one_thread, monkeypatch) -> None:
    """Small models and patches, float32, two styles to contrast with, the same sums each time."""
    shrink_world(weights, monkeypatch)


def shrink_world(weights: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(jobs, "apart", lambda work: work)
    patch.setattr(paths, "PACKAGED_WEIGHTS", weights)
    patch.setattr(augment, "PATCH", tiny.PATCH)
    patch.setattr("scellseg_lib.finetuning.default_contrast", tiny.contrast)
    patch.setattr("torch.cpu.get_capabilities", dict)
    patch.setattr("scellseg_lib.datasets.weights.default_device", lambda: torch.device("cpu"))


@pytest.fixture(scope="session")
def made_experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images to segment, and a model of the user's own; `experiment` is a copy of it."""
    folder = tmp_path_factory.mktemp("experiment") / "worms"
    (folder / "query").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        pixels = synthetic.make_image("Kc167", seed, (200, 200))[0][0, :SIDE, :SIDE]
        grey = cv2.normalize(pixels, np.zeros(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        tifffile.imwrite(folder / "query" / f"{name}_img.tif", grey)
    add_model(folder, "tuned", seed=0)
    return folder


def add_model(
    folder: Path, name: str, architecture: str = "scellseg", *, seed: int = 1, **card: Any
) -> Path:
    model = new_model(architecture, LEVELS, seed=seed)
    update = {"diameter": 60.0, "decoding": DECODING, "origin": "made for a test"} | card
    model.card = model.card.model_copy(update=update)
    return model.save(folder / f"{name}.safetensors")


@pytest.fixture
def experiment(made_experiment: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_experiment, tmp_path / "worms"))


@pytest.fixture(scope="session")
def made_results(made_experiment: Path, weights: Path) -> Path:
    """The same folder once its images are segmented."""
    folder = Path(shutil.copytree(made_experiment, made_experiment.parent / "results"))
    with pytest.MonkeyPatch.context() as patch:
        shrink_world(weights, patch)
        assert SegmentPanel(folder).segment().join(LONG).state == "done"
    return folder


@pytest.fixture
def segmented(made_results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_results, tmp_path / "worms"))


def until(condition: Callable[[], Any], seconds: float = LONG) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "it did not come about"
        sleep(0.002)


def rests(job: Job) -> bool:
    """Whether the work of a paused job waits in its report, where it was asked to."""
    return job.state == "paused" and bool(job._changed._waiters)  # type: ignore[attr-defined]


def is_shown(widget: Any) -> bool:
    return widget.layout.display != "none"


def problem(panel: Any) -> str:
    """What a panel says that is wrong; empty where it says no such thing."""
    return panel.message.text if panel.message.is_error else ""


def squares(*cells: tuple[int, ...], side: int = 8, shape: tuple[int, int] = (40, 50)) -> Any:
    """Square cells with these upper left corners, and sides of their own, int32[H, W]."""
    labels = np.zeros(shape, np.int32)
    for label, (y, x, *own) in enumerate(cells, 1):
        length = own[0] if own else side
        labels[y : y + length, x : x + length] = label
    return labels


def draw(folder: Path, *names: str, shape: tuple[int, ...] = (40, 50)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.random.default_rng([*name.encode()]).integers(1, 200, shape).astype(np.uint8)
        how = {"planarconfig": "contig"} if len(shape) > 2 else {}
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack", **how)


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files of a folder that are not hidden, by their paths in it."""
    found = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

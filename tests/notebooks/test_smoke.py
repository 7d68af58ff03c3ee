"""Every notebook, computing live: each of its cells runs here, in this process, on small images.

What is committed is compared by nbval; here figures are computed at the profile ``smoke``. The two
notebooks that tune in any case are executed here alone, on as little as still says something, and
their stored tables are compared.
"""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import IPython.display
import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import papermill
import pytest

import scellseg_lib as scellseg
from scellseg_lib import augment, learning_curve, paths, pretraining
from scellseg_lib.datasets import load, synthetic
from scellseg_lib.model import new_model
from scellseg_lib.paper import grid, run
from tests import tiny

NOTEBOOKS, COMMITTED = Path(__file__).parents[2] / "notebooks", paths.results
SMOKE = {"PROFILE": "smoke", "COMPUTE": True, "SHOTS": []}
# One data set, two models and one random state, so that a notebook takes seconds.
FEW = {"DATA": ["synthetic_worms"], "MODELS": ["scellseg", "cellpose"], "STATES": [0]}
NEEDS = {
    "fig2_transferability": {"STATES": [0, 1]},  # for its statistics
    "fair_baselines": {"MODELS": ["scellseg", "hover", "unet2", "unet3"]},
}


def list_code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
FIGURES = [path for path in PATHS if "PROFILE =" in list_code(path)[0].source]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where everything goes that a notebook writes; images, patches and data sets are small."""
    folder = tmp_path_factory.mktemp("copy")
    (folder / "notebooks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "notebooks")
        patch.setattr(paths, "results", lambda name: folder / "figures" / "data" / name)
        patch.setattr(paths, "figure", lambda _, name: folder / "figures" / name)
        patch.setattr(paths, "RUNS", folder / "runs")
        patch.setattr(synthetic, "make_image", partial(synthetic.make_image, shape=(256, 256)))
        patch.setattr(synthetic, "_cached", cache(synthetic.make_image))  # each made once
        patch.setattr(synthetic, "make_dataset", partial(synthetic.make_dataset, n_query=2))
        patch.setattr(load, "SUBSET", 16)  # images to pre-train on, two of each kind:
        patch.setattr(pretraining, "VALIDATE_EVERY", 2)  # one learns, one validates
        patch.setattr(grid, "STEPS", grid.STEPS[:2])
        patch.setattr(augment, "PATCH", tiny.PATCH)
        run._load_once.cache_clear()
        yield folder
    run._load_once.cache_clear()


def execute(notebook: str, capture: pytest.CaptureFixture[str], **given: Any) -> str:
    """Run a notebook's cells here, as papermill would in a kernel; returns its text."""
    path, namespace = NOTEBOOKS / f"{notebook}.ipynb", {"__name__": "__main__"}
    prepared = papermill.execute_notebook(path, None, given, prepare_only=True)
    with pytest.MonkeyPatch.context() as patch, matplotlib.rc_context():
        patch.setattr(IPython.display, "display", lambda *shown: print(*shown, sep="\n"))
        pd.set_option("display.max_columns", 20)  # as in a notebook
        for number, cell in enumerate(prepared.cells):
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{notebook}, cell {number}", "exec"), namespace)
    pd.reset_option("^display")
    plt.close("all")
    return capture.readouterr().out


def list_stored(notebook: str) -> list[str]:
    """Text of the stored outputs that are the same wherever the notebook is executed."""
    cells = list_code(NOTEBOOKS / f"{notebook}.ipynb")
    cells = [one for one in cells if "nbval-ignore-output" not in one.metadata.get("tags", [])]
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in outputs]
    return [text for text in texts if text and not text.startswith("<Figure")]


@pytest.mark.parametrize("name", [path.stem for path in FIGURES])
def test_figure_computes_live(folder: Path, name: str, capsys) -> None:
    """What a notebook has computed stays for the next one, as it does for a user."""
    before = set((folder / "figures").glob("*.svg"))
    execute(name, capsys, **SMOKE | FEW | NEEDS.get(name, {}))
    pictures = {file.stem for file in set((folder / "figures").glob("*.svg")) - before}
    assert any(picture.split("_")[0] == name.split("_")[0] for picture in pictures)


def test_quickstart_shows_what_is_stored_and_what_it_lacks(folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr(paths, "results", COMMITTED)
    monkeypatch.setenv("SCELLSEG_DATA", str(folder / "nothing"))
    monkeypatch.setenv("SCELLSEG_CACHE", str(folder / "cache"))
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    text = execute("00_quickstart", capsys, REAL=True, N_SHOTS=1, STEPS=1, N_QUERIES=1)
    stored = [one for one in list_stored("00_quickstart") if "8 shots, 3 query" not in one]
    assert len(stored) == 1
    assert all(one in text for one in stored)
    assert "0 trials computed, 0 are there; " in text
    assert text.count("data set 'bbbc010_elegans' lacks") == 1


def test_example_of_own_images_shows_what_is_stored(folder, capsys, monkeypatch) -> None:
    """But for the tuning, which the next test does."""
    monkeypatch.setattr(paths, "results", COMMITTED)
    monkeypatch.setattr(synthetic, "make_image", synthetic.make_image.func)  # of the usual size
    monkeypatch.setattr(scellseg, "load_model", lambda *_, **__: new_model("scellseg", (2, 4)))
    monkeypatch.setattr(scellseg, "finetune", lambda model, *_, **__: model)
    text = execute("your_own_images", capsys)
    stored = list_stored("your_own_images")
    assert len(stored) > 3
    assert [one for one in stored if one not in text] == []


def test_own_images_are_learnt_from_and_segmented(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "make_image", synthetic.make_image.func)  # of the usual size
    monkeypatch.setattr(scellseg, "load_model", lambda *_, **__: new_model("scellseg", tiny.LEVELS))
    images = learning_curve.write_example(folder / "mine", n_shot=3, n_query=1)
    few, before = {"STEPS": 1, "FOLDS": 2, "SHOWN": 1}, sorted(images.rglob("*"))
    text = execute("your_own_images", capsys, FOLDER=str(images), **few)
    assert sorted(images.rglob("*")) == before  # nothing is written beside the user's images
    assert "3 annotated images, 1 to be segmented." in text
    (work,) = (folder / "runs" / "your_own_images").glob("mine-*")
    files = {file.name for file in work.iterdir()}
    assert files >= {"learning_curve.csv", "learning_curve.png", "masks", "measurements.csv"}


def test_parameters_of_figures_are_guarded() -> None:
    assert len(FIGURES) >= 5
    for path in FIGURES:
        assert "choose_profile(globals())" in list_code(path)[2].source

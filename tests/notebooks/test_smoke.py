"""Every notebook at the profile ``smoke``, computing live, and what it says when it cannot.

They run in a copy of the tracked files, so that nothing is found that an earlier run has left, and
on fewer images.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

ROOT = Path(__file__).parents[2]
PARTS = ("scellseg_lib", "notebooks", "data_manifests", "figures/data")
SMOKE = {"PROFILE": "smoke", "COMPUTE": True, "SHOTS": []}
# One data set, two models and one random state, so that a notebook takes seconds.
FEW = {"DATA": ["synthetic_worms"], "MODELS": ["scellseg", "cellpose"], "STATES": [0]}
NEEDS = {
    "fig2_transferability": {"STATES": [0, 1]},  # for its statistics
    "fair_baselines": {"MODELS": ["scellseg", "hover", "unet2", "unet3"]},
}


def parameters(path: Path) -> str:
    return nbformat.read(path, as_version=4).cells[1].source


FIGURES = [
    path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if "PROFILE =" in parameters(path)
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of what the notebooks need."""
    folder = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PARTS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    synthetic = folder / "scellseg_lib" / "synthetic" / "__init__.py"
    text, usual = synthetic.read_text(), "n_query: int = 8"
    assert text.count(usual) == 1
    synthetic.write_text(text.replace(usual, "n_query: int = 2"))
    return folder


def execute(copy: Path, notebook: str, **given: object) -> str:
    """Run a notebook of the copy; returns the text of its outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(copy))
        done = papermill.execute_notebook(
            copy / "notebooks" / notebook,
            copy / f"executed_{notebook}",
            given,
            cwd=copy / "notebooks",
            kernel_name="python3",
            progress_bar=False,
        )
    return json.dumps([cell.get("outputs", []) for cell in done.cells])


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_figure_computes_live(copy: Path, path: Path) -> None:
    text = execute(copy, path.name, **SMOKE | FEW | NEEDS.get(path.stem, {}))
    assert "image/png" in text
    pictures = {file.stem for file in (copy / "figures" / "smoke").glob("*.svg")}
    assert any(name.split("_")[0] == path.stem.split("_")[0] for name in pictures)


def test_quickstart_says_what_it_lacks_for_the_real_images(copy: Path, monkeypatch) -> None:
    monkeypatch.setenv("SCELLSEG_DATA", str(copy / "nothing"))
    monkeypatch.setenv("SCELLSEG_CACHE", str(copy / "cache"))
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    few = {"N_SHOTS": 1, "STEPS": 1, "N_QUERIES": 1}
    text = execute(copy, "00_quickstart.ipynb", REAL=True, **few)
    assert "0 trials computed, 0 are there; " in text
    assert text.count("data set 'bbbc010_elegans' lacks") == 1


def test_most_notebooks_are_figures() -> None:
    assert len(FIGURES) >= 5


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_parameters_are_guarded(path: Path) -> None:
    assert "figure_profile(globals())" in nbformat.read(path, as_version=4).cells[3].source


def test_mistyped_parameter_is_an_error(copy: Path) -> None:
    with pytest.raises(PapermillExecutionError, match=r"no parameter PROFIL.*mean PROFILE"):
        execute(copy, FIGURES[0].name, PROFIL="smoke")


def test_missing_data_set_is_an_error(copy: Path) -> None:
    with pytest.raises(PapermillExecutionError, match=r"no data set 'nowhere'.*bbbc010_elegans"):
        execute(copy, "fig2_transferability.ipynb", DATA=["nowhere"])


def test_result_that_is_not_there_is_an_error(copy: Path) -> None:
    with pytest.raises(PapermillExecutionError, match=r"no result of the \d+ trials asked for"):
        execute(copy, "edfig5_aji.ipynb", SHOTS=[1], PROFILE="cpu", DATA=["hela_phase_nuclei"])


def test_damaged_result_is_named(copy: Path) -> None:
    file = min((copy / "figures" / "data" / "released" / "trials").glob("*.csv"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(PapermillExecutionError, match=f"{file.stem}.csv: a result cannot"):
            execute(copy, "claims.ipynb")
    finally:
        file.write_bytes(whole)

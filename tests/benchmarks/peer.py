"""Cellpose 3.1.1.2 in an environment of its own, for comparisons; the library never imports it.

Cellpose 3.1.1.2 wants an older numpy than this library runs with (numpy 2.0.2 is what pip picks),
so the two cannot share an interpreter. Arrays go to and fro as ``.npz`` files, without pickles.
The peer needs Python 3.11 or 3.12, and on Linux an index of pip's that has PyTorch's CPU builds.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from tests.benchmarks.clock import THREADS

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = REPOSITORY / "runs" / "peer"
# The local version keeps the CUDA build, gigabytes of it, out on Linux; elsewhere there is none.
TORCH = "torch==2.13.0+cpu" if sys.platform == "linux" else "torch==2.13.0"
CELLPOSE = "cellpose==3.1.1.2"


def make_environment(folder: Path, *packages: str) -> Path:
    """Make an environment of packages, PyTorch first, if it is not there; its interpreter."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = folder / "complete.txt"
    wanted = "".join(f"{package}\n" for package in packages)
    if complete.is_file() and complete.read_text() == wanted:
        return python
    print(f"Making an environment with {packages[-1]} in {folder} ..", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, packages[0]], check=True)
    subprocess.run([*pip, *packages], check=True)
    complete.write_text(wanted)  # last, so that an interrupted installation starts anew
    return python


def numbered(**arrays: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of unequal size under a name each: ``masks_0``, ``masks_1``, .."""
    return {f"{name}_{k}": one for name, several in arrays.items() for k, one in enumerate(several)}


def listed(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Those that `numbered` has put under a name."""
    return [arrays[f"{name}_{k}"] for k in range(sum(key.startswith(f"{name}_") for key in arrays))]


def run_peer(
    name: str,
    inputs: Mapping[str, np.ndarray],
    side: str = "peer_side",
    python: Path | None = None,
    **variables: str,
) -> dict[str, np.ndarray]:
    """Run a function of `peer_side`, or another side, in its environment, with these variables.

    It takes a dictionary of arrays and returns one.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(THREADS))
    environment |= {"CELLPOSE_LOCAL_MODELS_PATH": str(ENVIRONMENT / "models")} | variables
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, allow_pickle=False, **inputs)
        python = python or make_environment(ENVIRONMENT, TORCH, CELLPOSE)
        command = [python, "-m", f"tests.benchmarks.{side}", name, given, answer]
        subprocess.run([str(part) for part in command], check=True, cwd=REPOSITORY, env=environment)
        with np.load(answer, allow_pickle=False) as outputs:
            return dict(outputs)


def answer(functions: Mapping[str, Callable]) -> None:
    """What a side does in its environment: the function that is named, on a file of inputs."""
    name, given, file = sys.argv[1:]
    with np.load(given, allow_pickle=False) as arrays:
        found = functions[name](dict(arrays))
    np.savez(file, allow_pickle=False, **found)

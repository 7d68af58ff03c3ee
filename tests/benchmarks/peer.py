"""Cellpose 3.1.1.2 in an environment of its own, for comparisons; the library never imports it.

Cellpose 3.1.1.2 wants an older numpy than this library runs with (numpy 2.0.2 is what pip picks),
so the two cannot share an interpreter. Arrays go to and fro as ``.npz`` files, without pickles.
The peer needs Python 3.11 or 3.12, and on Linux an index of pip's that has PyTorch's CPU builds.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.benchmarks.clock import THREADS

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = REPOSITORY / "runs" / "peer"
# The local version keeps the CUDA build, gigabytes of it, out on Linux; elsewhere there is none.
TORCH = "torch==2.13.0+cpu" if sys.platform == "linux" else "torch==2.13.0"
CELLPOSE = "cellpose==3.1.1.2"


def peer_python() -> Path:
    """Make the peer's environment if it is not there yet; return its interpreter."""
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = ENVIRONMENT / "complete.txt"
    wanted = f"{TORCH}\n{CELLPOSE}\n"
    if complete.is_file() and complete.read_text() == wanted:
        return python
    print(f"Making the environment of the peer ({CELLPOSE}) in {ENVIRONMENT} ..", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, TORCH, CELLPOSE], check=True)
    complete.write_text(wanted)  # last, so that an interrupted installation starts anew
    return python


def run_peer(name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a function of `peer_side` in the peer's environment.

    It takes a dictionary of arrays and returns one. Images of unequal size go under a name each.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(THREADS))
    environment["CELLPOSE_LOCAL_MODELS_PATH"] = str(ENVIRONMENT / "models")
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, allow_pickle=False, **inputs)
        module = "tests.benchmarks.peer_side"
        command = [peer_python(), "-m", module, name, given, answer]
        subprocess.run([str(part) for part in command], check=True, cwd=REPOSITORY, env=environment)
        with np.load(answer, allow_pickle=False) as outputs:
            return dict(outputs)

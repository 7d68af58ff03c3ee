"""What a user would pick instead, on the same shots and queries, each by its own code.

``python -m tests.benchmarks.peers --peers cellpose forest`` adds a row to a table for each number
of shots and state, with scores, processor seconds and megabytes, and goes on where it was stopped.
Each learns in one thread, and its processor seconds are counted: they hardly depend on what else
the machine does. Cellpose-SAM and micro-sam need weights that are downloaded first, which nobody
has done: they are not run.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from scellseg_lib import paths
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.paper.shots import find_shots
from scellseg_lib.paper.store import find_commit
from tests.benchmarks import peer
from tests.benchmarks.bench_segment import cellpose_state
from tests.benchmarks.table import add_run, read_runs

SHOTS = {"bbbc010_elegans": (8, 1), "hela_phase_nuclei": (10, 1)}  # as of the recipe itself
STATES = (0, 1, 2)
STARDIST = ("numpy<2.3", "tensorflow-cpu==2.21.0", "stardist==0.9.2")
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
SETTINGS = {
    "ours": ("best", "quick", "paper"),
    "cellpose": ("window", "command line"),
    "stardist": ("20 minutes", "ceiling"),
    "forest": ("distances", "inside and border"),
}  # of each peer, its own defaults first


def compare(data: str, n_shots: int, state: int, name: str, setting: str) -> pd.DataFrame:
    """Let a peer learn and segment: a row of its scores, seconds and megabytes."""
    images = load_dataset(data)
    names = find_shots(data, n_shots, state)
    shots = [sample for sample in images.shot if sample.name in names]
    inputs = peer.numbered(
        shot=[one.image for one in shots],
        masks=[one.masks for one in shots],
        query=[one.masks if setting == "ceiling" else one.image for one in images.query],
    )
    inputs |= {"seed": np.array(state), "setting": np.array(setting)}
    python = Path(sys.executable)
    if name == "cellpose":
        inputs |= cellpose_state()
        python = peer.make_environment(peer.ENVIRONMENT, peer.TORCH, peer.CELLPOSE)
    elif name == "stardist":
        python = peer.make_environment(peer.REPOSITORY / "runs" / "stardist", *STARDIST)
    with tempfile.TemporaryDirectory() as folder:
        inputs["folder"] = np.array(folder)
        found = peer.run_peer(name, inputs, "peers_side", python, **THREADS)
    row = {"data": data, "shots": n_shots, "state": state, "peer": name, "setting": setting}
    row |= {fact: float(found[fact]) for fact in ("learning", "segmenting", "megabytes")}
    scored = evaluate(peer.listed(found, "found"), images.query)
    return pd.DataFrame([row | summary(scored)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", choices=SETTINGS, nargs="+", default=[*SETTINGS])
    parser.add_argument("--skip", nargs="*", default=[], help="settings that are not to be run")
    parser.add_argument("--states", nargs="*", type=int, default=STATES)
    parser.add_argument("--table", type=Path, default=paths.results("released/peers.csv"))
    asked = parser.parse_args()
    sets = [(name, n) for name, numbers in SHOTS.items() for n in numbers]
    plan = itertools.product(asked.states, sets, asked.peers)
    keys = [(*one, state, name, how) for state, one, name in plan for how in SETTINGS[name]]
    for key in keys:
        if key[-1] in asked.skip or (key[-1] == "ceiling" and (key[1] == 1 or key[2])):
            continue  # it depends on the queries alone
        if (run := " ".join(map(str, key))) not in read_runs(asked.table):
            row = compare(*key)
            print(row.round(3).to_string(header=False, index=False), flush=True)
            add_run(asked.table, run, row.round(6), {"commit": find_commit()}, threads=1)

"""The authors' own code on our wells, shots and states, decoded by their program and by ours.

``python -m tests.benchmarks.authors --state 0 --strategy contrastive`` adds rows to a table. Their
reader, OpenCV's "unchanged", keeps all 16 bits of a PNG, and a grey one is one plane to it whatever
channels are asked for; so that is how wells are written, and queries without masks.
"""

import argparse
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from scellseg_lib import paths
from scellseg_lib.datasets.weights import ARCHIVE, ARCHIVE_SHA256, fetch_archive, load_model, rename
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.model import fill_model, library_versions
from scellseg_lib.paper import run
from scellseg_lib.paper.as_released import as_paper
from scellseg_lib.paper.shots import find_shots
from scellseg_lib.paper.store import find_commit
from scellseg_lib.paper.trial import Trial
from scellseg_lib.samples import Sample
from tests.benchmarks.peer import REPOSITORY, TORCH, make_environment, run_peer
from tests.benchmarks.table import add_run, read_runs

DATA, ENVIRONMENT = "bbbc010_elegans", REPOSITORY / "runs" / "authors"
PACKAGES = "numpy==2.4.6 scipy==1.17.1 opencv-python-headless==5.0.0.93 scikit-image==0.26.0 "
PACKAGES += "numba==0.68.1 matplotlib==3.11.2 natsort==8.4.0 tabulate==0.10.0 tifffile==2026.3.3 "
PACKAGES += "tqdm==4.70.1 tensorboardX==2.6.5"


def export(shots: Sequence[Sample], queries: Sequence[Sample], folder: Path) -> None:
    """Write what their loaders read; ValueError for what 16 bits of grey do not hold."""
    for part, samples in (("shot", shots), ("query", queries)):
        (folder / part).mkdir(parents=True)
        for sample in samples:
            masks = {"masks": sample.masks} if part == "shot" else {}
            for kind, plane in ({"img": sample.image[0]} | masks).items():
                exact = plane.astype(np.uint16)
                if not np.array_equal(plane, exact) or sample.image[1].any():
                    raise ValueError(f"the {kind} of {sample.name} are no 16 bits of grey")
                cv2.imwrite(str(folder / part / f"{sample.name}_{kind}.png"), exact)


def compare(strategy: str, state: int, steps: int, precision: str) -> tuple[pd.DataFrame, dict]:
    """Tune by their code and decode by both programs: rows of scores, and their origin."""
    names, start = find_shots(DATA, 10, state), as_paper(load_model("scellseg", "released"))
    trial = Trial(DATA, "scellseg", "released", "direct", names, state, 0, precision=precision)
    shots = trial.select_shots(images := run.load_images(trial))
    queries, rows = images[DATA].query, []
    python = make_environment(ENVIRONMENT, TORCH, *PACKAGES.split())
    with tempfile.TemporaryDirectory(dir=ENVIRONMENT) as folder:
        with tarfile.open(fetch_archive(), "r:gz") as archive:
            archive.extractall(folder, filter="data")
        export(shots, queries, Path(folder))
        given: dict = {"folder": folder, "strategy": strategy, "steps": steps}
        given |= {"seed": state + 1, "bf16": precision == "bf16", "thresholds": run.CELL_THRESHOLDS}
        source = f"{folder}/{ARCHIVE.removesuffix('.tar.gz')}"
        how = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(torch.get_num_threads()))
        found = run_peer("tune", given, "authors_side", python, PYTHONPATH=source, **how)
    assert np.isclose(found["diameter"], shots.diameter)
    weights = {rename(k[7:]): torch.tensor(v) for k, v in found.items() if k[:7] == "weight:"}
    tuned = fill_model(start.card, weights, where=ARCHIVE)
    for threshold, ours in run.score(trial, tuned, images, Path()).groupby("cell_threshold"):
        theirs = evaluate([found[f"{threshold}:{one.name}"] for one in queries], queries)
        for decoder, frame in (("theirs", theirs), ("ours", ours)):
            row = {"strategy": strategy, "state": state, "decoder": decoder, **summary(frame)}
            row |= {"cell_threshold": threshold, "images": len(queries), "precision": precision}
            rows.append({**row, "steps": steps, "seconds": round(float(found["seconds"]))})
    origin = {"commit": find_commit(), "ours": library_versions(), "theirs": f"{TORCH} {PACKAGES}"}
    return pd.DataFrame(rows), origin | {"losses": found["losses"].round(5).tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=int, required=True)
    parser.add_argument("--strategy", choices=("classic", "contrastive"), required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--bf16", action="store_const", const="bf16", default="fp32")
    parser.add_argument("--table", type=Path, default=paths.results("released/authors_code.csv"))
    asked = parser.parse_args()
    key = asked.strategy, asked.state, asked.steps, asked.bf16
    if (name := " ".join(map(str, key))) not in read_runs(asked.table):
        rows, origin = compare(*key)
        how = {"archive": ARCHIVE, "sha256": ARCHIVE_SHA256}
        add_run(asked.table, name, rows.round(6), origin, **how)
    print(pd.read_csv(asked.table).to_string())

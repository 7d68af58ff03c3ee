"""A sweep that is killed twenty times and resumed: nothing lost, done twice or half-written."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

from scellseg_lib import augment, paths
from scellseg_lib import training as checkpoint
from scellseg_lib.cli import app
from scellseg_lib.datasets import synthetic
from scellseg_lib.device import Precision
from scellseg_lib.paper import run
from scellseg_lib.paper import sweep as sweeping
from scellseg_lib.paper.store import Store
from tests import tiny

KILLS = 20
COMMAND = ("sweep", "shot_scale", "transferability", "--profile", "tiny")
PROFILE = """
weights: untrained
levels: [2, 4]
models: [cellpose, unet2]
data:
  synthetic_mito: {shots: [1, 2], states: [0, 1, 2]}
  synthetic_phase: {shots: [1, 2], states: [0, 1, 2]}
contrast: synthetic_contrast
steps: 2
"""
# Processes are forked from one that has imported all this but computed nothing: importing takes as
# long as ten trials, and threads do not survive a fork.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["scellseg_lib.cli", "torch.distributed.tensor", "pytest"])


def sweep(folder: Path, *options: str) -> None:
    """Run the command in a process of its own: trials of half a second, checkpoints at each step.

    Everything is in `folder`: profile, results, runs, what it says, and a line for each put.
    """
    # Locks are unlinked when they are made, so that a killed process leaves none.
    multiprocessing.set_start_method("fork", force=True)
    paths.profiles, paths.runs = lambda: folder, lambda: folder / "runs"
    paths.results = lambda profile: folder / profile
    synthetic.make_image = partial(synthetic.make_image, shape=(200, 200))
    synthetic.make_dataset = partial(synthetic.make_dataset, n_query=1)
    augment.PATCH, checkpoint.SAVE_EVERY = tiny.PATCH, 0
    run.choose_precision = lambda *_: Precision()
    sweeping.step_seconds = lambda _: 1.0
    put = Store.put

    def noted(store: Store, key: str, *rest) -> None:
        with (folder / "puts").open("a") as file:
            file.write(f"{key}\n")
        put(store, key, *rest)

    Store.put = noted
    with (folder / "said").open("w") as said, redirect_stdout(said):
        app([*COMMAND, *options])


def started(folder: Path, *options: str) -> BaseProcess:
    process = PROCESSES.Process(target=sweep, args=(folder, *options), daemon=True)
    process.start()
    return process


def said(folder: Path, *options: str) -> list[int]:
    """Run the command to its end; the numbers of trials that it speaks of."""
    process = started(folder, *options)
    process.join(300)
    assert process.exitcode == 0
    return [int(n) for n in re.findall(r"(\d+) (?:trials|of them)", (folder / "said").read_text())]


def found(folder: Path, part: str) -> set[Path]:
    return {*folder.glob(f"{part}/trials/*")}


def kill(process: BaseProcess, files: Callable[[], set[Path]], changes: int, delay: float) -> None:
    """Kill a process some time after so many files have come or gone."""
    seen, until = files(), time.monotonic() + 100
    while changes and process.is_alive() and time.monotonic() < until:
        time.sleep(0.001)
        now = files()
        changes, seen = changes - (now != seen), now
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def whole_results(store: Store) -> dict[str, tuple[str, int, int]]:
    """Read all results; hash, time and inode of each file, which change when it is put again."""
    keys = store.keys()
    if keys:
        rows = store.frame().groupby("key").size()  # compares each table with its hash
        assert sorted(rows.index) == keys
        assert set(rows) == {20}  # an image, two cell thresholds, ten of the IoU
    files = [store.folder / f"{key}.{suffix}" for key in keys for suffix in ("csv", "json")]
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), s.st_mtime_ns, s.st_ino)
        for file in files
        for s in (file.stat(),)
    }


def test_a_sweep_killed_twenty_times_computes_each_trial_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    (tmp_path / "puts").touch()
    store, moments = Store(tmp_path / "tiny" / "trials"), random.Random(0)
    n_trials, n_there = said(tmp_path, "--dry-run")
    assert (n_there, store.keys()) == (0, [])
    kept: dict[str, tuple[str, int, int]] = {}
    n_puts = 0
    for _ in range(KILLS):
        # At the start, when models or checkpoints are written or soon after, or within a put.
        folder, changes, delay = moments.choice(
            [("*", 0, 0.5), ("runs", moments.randint(1, 5), 0.2), ("tiny", 1, 0.005)]
        )
        files = partial(found, tmp_path, folder)
        kill(started(tmp_path), files, changes, delay * moments.random())
        now, puts = whole_results(store), (tmp_path / "puts").read_text().split()
        assert kept.items() <= now.items()  # nothing lost, nothing changed
        assert not {f"{key}.json" for key in puts[n_puts:]} & kept.keys()  # nothing put again
        kept, n_puts = now, len(puts)
    n_there = len(store.keys())
    assert 0 < n_there < n_trials
    assert said(tmp_path) == [n_trials, n_there, n_trials - n_there]
    done = whole_results(store)
    assert kept.items() <= done.items()
    puts = (tmp_path / "puts").read_text().split()
    assert set(puts) == set(store.keys())
    assert len(store.keys()) == len(store.trials()) == n_trials
    assert len(puts) - n_trials <= KILLS  # those that a kill cut short
    assert said(tmp_path) == [n_trials, n_trials, 0]
    assert whole_results(store) == done
    scratch = [file for file in found(tmp_path, "*") if file.name.startswith(".")]
    print(
        f"{KILLS} kills, {n_there} of {n_trials} trials done by the last; {len(puts) - n_trials} "
        f"puts were cut short, {len(scratch)} half-written files left, none read as a result"
    )

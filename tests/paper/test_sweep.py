"""Sweeps: what they lack and how long it takes, here and on a cluster, killed and resumed."""

import asyncio
import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import LocalCluster
from distributed.process import AsyncProcess

from scellseg_lib import augment, paths, training
from scellseg_lib.cli import app
from scellseg_lib.datasets import synthetic
from scellseg_lib.device import Precision, default_device, machine
from scellseg_lib.errors import ScellsegError
from scellseg_lib.paper import run
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.run import Workspace
from scellseg_lib.paper.store import Store
from scellseg_lib.paper.trial import Trial
from tests import tiny
from tests.paper.made_up import make_origin, make_scores

pytestmark = pytest.mark.slow


def test_a_plan_counts_what_is_missing_and_learns_how_long_it_takes(tmp_path, monkeypatch):
    step = 8.0
    monkeypatch.setattr(run, "measure_step", lambda _: step)
    store = Store(tmp_path)
    profile = load_profile("released").narrow(data=["bbbc010_elegans"], shots=[10])
    every = run.plan_sweep(["shot_scale"], profile, store)
    assert (every.n_trials, len(every.missing)) == (9, 9)
    contrastive, classic, other = every.missing[:3]
    assert run.estimate_seconds(classic, {}) == pytest.approx(step * (100 + 10))
    assert run.estimate_seconds(contrastive, {}) == pytest.approx(step * (180 + 10))
    flipped = replace(classic, protocol="best")
    assert run.estimate_seconds(flipped, {}) == pytest.approx(step * (100 + 40))
    for trial, seconds in ((classic, 50.0), (other, 30.0)):
        store.put(trial.model, make_scores(), make_origin(trial) | {"seconds": seconds})
    then = run.plan_sweep(["shot_scale"], profile, store)
    assert (then.n_trials, len(then.missing)) == (9, 7)
    # Two of each kind that is known, three contrastive ones of which nothing is known.
    assert then.seconds == pytest.approx(2 * 50 + 2 * 30 + 3 * step * 190)
    assert not {classic, other} & set(then.missing)
    with pytest.raises(ScellsegError, match=r"no experiment 'shots'.*shot_scale"):
        run.plan_sweep(["shots"], profile, store)
    whole = run.plan_sweep(["all"], load_profile("paper").narrow(states=[0]), store)
    assert whole.n_trials == len(whole.missing) > 400


def test_workers_that_die_lose_no_trial_and_a_poisoned_one_is_named(tmp_path, monkeypatch):
    def compute_or_die(trial: str, folder: Path) -> tuple[str, bool]:
        """Stand-in that workers get by value, so that they need not import the library."""
        died = folder / "died"
        if trial == "wrong":
            raise ValueError("no such image")
        if trial == "deadly" or (trial == "dies once" and not died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return trial.upper(), True

    async def start_late(process: AsyncProcess) -> None:
        await asyncio.sleep(2.0)  # long enough that the last worker is being started at the end
        await start(process)

    start = AsyncProcess.start
    monkeypatch.setattr(AsyncProcess, "start", start_late)
    monkeypatch.setattr(run, "compute", compute_or_die)
    trials: Any = ["sound", "wrong", "dies once", "deadly"]
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):  # three by itself
        outcome = run.compute_on_cluster(trials, tmp_path, "local:2")  # type: ignore[arg-type]
    assert {*outcome.failed} == {"deadly", "wrong"}
    assert "worker" in outcome.failed["deadly"]
    assert outcome.failed["wrong"] == "no such image"
    assert (sorted(outcome.keys), outcome.computed) == (["DIES ONCE", "SOUND"], 2)


def test_a_cluster_elsewhere_computes_what_the_store_lacks(tmp_path: Path):
    """A scheduler that was there before and goes on after; trials and results pass a socket."""
    usual = {"shots": ("mito_shot_000",), "seed": 2, "levels": (2, 4)}
    trial = Trial("synthetic_mito", "unet2", "untrained", "direct", **usual)
    workspace = Workspace(Store(tmp_path / "store"), tmp_path)
    options = {"processes": False, "protocol": "tcp://", "dashboard_address": None}
    with LocalCluster(1, threads_per_worker=1, **options) as elsewhere:
        address = elsewhere.scheduler_address
        assert address.startswith("tcp://127.0.0.1:")
        first, again = (run.compute_on_cluster([trial], workspace, address) for _ in range(2))
    assert (first.failed, first.computed, again.computed) == ({}, 1, 0)
    assert first.keys == again.keys == workspace.store.list_keys()
    assert workspace.store.read_origin(first.keys[0])["machine"] == machine(default_device())


@pytest.mark.parametrize(
    ("address", "message"),
    [("local:0", "no number of processes"), ("tcp://127.0.0.1:9", "no scheduler answers")],
)
def test_an_address_that_is_none_is_refused(address: str, message: str, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PATIENCE", 1)
    with pytest.raises(ScellsegError, match=message):
        run.compute_on_cluster([], Workspace(Store(tmp_path), tmp_path), address)


KILLS = 4
COMMAND = ("sweep", "shot_scale", "transferability", "--profile", "tiny")
PROFILE = """
weights: untrained
levels: [2, 4]
models: [cellpose]
data:
  synthetic_mito: {shots: [1, 2], states: [0, 1, 2]}
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
    paths.PROFILES, paths.RUNS = folder, folder / "runs"
    paths.results = lambda profile: folder / profile
    synthetic.make_image = partial(synthetic.make_image, shape=(200, 200))
    synthetic.make_dataset = partial(synthetic.make_dataset, n_query=1)
    augment.PATCH, training.SAVE_EVERY = tiny.PATCH, 0
    run.choose_precision = lambda *_: Precision()
    run.measure_step = lambda _: 1.0
    put = Store.put

    def note_and_put(store: Store, key: str, *rest) -> None:
        with (folder / "puts").open("a") as file:
            file.write(f"{key}\n")
        put(store, key, *rest)

    Store.put = note_and_put
    with (folder / "said").open("w") as said, redirect_stdout(said):
        app([*COMMAND, *options])


def start_sweep(folder: Path, *options: str) -> BaseProcess:
    process = PROCESSES.Process(target=sweep, args=(folder, *options), daemon=True)
    process.start()
    return process


def finish_sweep(folder: Path, *options: str) -> list[int]:
    """Run the command to its end; the numbers of trials that it speaks of."""
    process = start_sweep(folder, *options)
    process.join(300)
    assert process.exitcode == 0
    return [int(n) for n in re.findall(r"(\d+) (?:trials|of them)", (folder / "said").read_text())]


def find_files(folder: Path, part: str) -> set[Path]:
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


def read_results(store: Store) -> dict[str, tuple[bytes, int]]:
    """Read all results; bytes and time of each file, which change when it is put again."""
    keys = store.list_keys()
    if keys:
        rows = store.read_scores().groupby("key").size()  # compares each table with its hash
        assert sorted(rows.index) == keys
        assert set(rows) == {20}  # an image, two cell thresholds, ten of the IoU
    files = [store.folder / f"{key}.{suffix}" for key in keys for suffix in ("csv", "json")]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_a_sweep_that_is_killed_again_and_again_computes_each_trial_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    (tmp_path / "puts").touch()
    store, moments = Store(tmp_path / "tiny" / "trials"), random.Random(0)
    n_trials, n_there = finish_sweep(tmp_path, "--dry-run")
    assert (n_there, store.list_keys()) == (0, [])
    kept: dict[str, tuple[bytes, int]] = {}
    n_puts = 0
    for _ in range(KILLS):
        # At the start, when models or checkpoints are written or soon after, or within a put.
        folder, changes, delay = moments.choice(
            [("*", 0, 0.5), ("runs", moments.randint(1, 5), 0.2), ("tiny", 1, 0.005)]
        )
        files = partial(find_files, tmp_path, folder)
        kill(start_sweep(tmp_path), files, changes, delay * moments.random())
        now, puts = read_results(store), (tmp_path / "puts").read_text().split()
        assert kept.items() <= now.items()  # nothing lost, nothing changed
        assert not {f"{key}.json" for key in puts[n_puts:]} & kept.keys()  # nothing put again
        kept, n_puts = now, len(puts)
    n_there = len(store.list_keys())
    assert 0 < n_there < n_trials
    assert finish_sweep(tmp_path) == [n_trials, n_there, n_trials - n_there]
    done = read_results(store)
    assert kept.items() <= done.items()
    puts = (tmp_path / "puts").read_text().split()
    assert set(puts) == set(store.list_keys())
    assert len(store.list_keys()) == len(store.list_trials()) == n_trials
    assert len(puts) - n_trials <= KILLS  # those that a kill cut short
    assert finish_sweep(tmp_path) == [n_trials, n_trials, 0]
    assert read_results(store) == done

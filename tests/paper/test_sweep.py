"""Sweeps: what they lack and how long it takes, here and on a cluster."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import LocalCluster
from distributed.process import AsyncProcess

from scellseg_lib.device import default_device, machine
from scellseg_lib.errors import ScellsegError
from scellseg_lib.paper import run
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.store import Store
from scellseg_lib.paper.trial import Trial
from tests.paper.made_up import make_origin, make_scores

pytestmark = pytest.mark.slow


def test_a_plan_counts_what_is_missing_and_learns_how_long_it_takes(tmp_path, monkeypatch):
    step = 8.0
    monkeypatch.setattr(run, "measure_step", lambda _: step)
    store = Store(tmp_path)
    some = load_profile("released").narrow(data=["bbbc010_elegans"], shots=[10], states=[0, 1, 2])
    trials, missing = run.plan_sweep(["shot_scale"], some, store)
    assert [*missing] == trials
    contrastive, classic, other = trials[:3]
    assert run.estimate_seconds(classic, {}) == pytest.approx(step * (100 + 10))
    assert run.estimate_seconds(contrastive, {}) == pytest.approx(step * (180 + 10))
    flipped = replace(classic, protocol="best")
    assert run.estimate_seconds(flipped, {}) == pytest.approx(step * (100 + 40))
    for trial, seconds in ((classic, 50.0), (other, 30.0)):
        store.put(trial.model, make_scores(), make_origin(trial) | {"seconds": seconds})
    again, missing = run.plan_sweep(["shot_scale"], some, store)
    assert (again, len(trials), len(missing)) == (trials, 9, 7)
    # Two of each kind that is known, three contrastive ones of which nothing is known.
    assert sum(missing.values()) == pytest.approx(2 * 50 + 2 * 30 + 3 * step * 190)
    assert not {classic, other} & {*missing}
    with pytest.raises(ScellsegError, match=r"no experiment 'shots'.*shot_scale"):
        run.plan_sweep(["shots"], some, store)
    trials, missing = run.plan_sweep(["all"], load_profile("paper").narrow(states=[0]), store)
    assert len(trials) == len(missing) > 400


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
    workspace = run.Workspace(Store(tmp_path / "store"), tmp_path)
    options = {"processes": False, "protocol": "tcp://", "dashboard_address": None}
    with LocalCluster(1, threads_per_worker=1, **options) as elsewhere:
        address = elsewhere.scheduler_address
        assert address.startswith("tcp://127.0.0.1:")
        first, again = (run.compute_on_cluster([trial], workspace, address) for _ in range(2))
    assert (first.failed, first.computed, again.computed) == ({}, 1, 0)
    assert first.keys == again.keys == workspace.store.list_keys()
    assert workspace.store.read_origin(first.keys[0])["machine"] == machine(default_device())


def test_an_address_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PATIENCE", 1)
    wrong = {"local:0": "no number of processes", "tcp://127.0.0.1:9": "no scheduler answers"}
    for address, message in wrong.items():
        with pytest.raises(ScellsegError, match=message):
            run.compute_on_cluster([], run.Workspace(Store(tmp_path), tmp_path), address)

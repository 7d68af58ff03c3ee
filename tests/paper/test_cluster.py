"""Trials on a real Dask cluster of this machine, whose workers are killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import LocalCluster

from scellseg_lib.errors import ScellsegError
from scellseg_lib.paper import cluster, run
from scellseg_lib.paper.run import Place
from scellseg_lib.paper.store import Store
from scellseg_lib.paper.trial import Trial

SHOTS = ("worms_shot_000",)


def trial(seed: int, **fields) -> Trial:
    """Of seconds: an untrained network of two narrow levels, fine-tuned by one step."""
    settings = {"shots": SHOTS, "seed": seed, "steps": 1, "levels": (2, 4)} | fields
    return Trial("synthetic_worms", "scellseg", "untrained", "classic", **settings)


class Deadly(Store):
    """A store at which the worker of one trial dies, whenever it gets there."""

    def put(self, key, scores, origin):
        if origin["trial"]["seed"] == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        super().put(key, scores, origin)


@contextmanager
def killing(folder: Path, times: int) -> Iterator[list[int]]:
    """Kill the process of a running trial, some times, while the block runs."""
    killed, done = [], threading.Event()

    def kill() -> None:
        moments = random.Random(0)
        while len(killed) < times and not done.is_set():
            running = [int(f.read_text()) for f in folder.glob("*.pid")]
            if fresh := [pid for pid in running if pid not in killed]:
                time.sleep(moments.uniform(0, 0.5))
                os.kill(fresh[0], signal.SIGKILL)
                killed.append(fresh[0])
            time.sleep(0.1)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


class Watched(Store):
    """A store that leaves the number of each process that asks it."""

    def __contains__(self, key: object) -> bool:
        (self.folder.parent / f"{os.getpid()}.pid").write_text(str(os.getpid()))
        return super().__contains__(str(key))


def test_workers_that_are_killed_lose_no_trial(tmp_path: Path):
    store = Watched(tmp_path / "store")
    wanted = [trial(seed) for seed in range(4)]
    with killing(tmp_path, times=2) as killed:
        outcome = cluster.run_on_cluster(wanted, Place(store, tmp_path), "local:2")
    assert len(killed) == 2
    assert (outcome.failed, len(set(outcome.keys))) == ({}, 4)
    assert set(store.trials()) == set(wanted)
    assert not list(store.folder.glob(".*"))  # nothing half-written
    here = Store(store.folder)  # the same store and the same keys in this process
    again = run.run_missing(wanted, Place(here, tmp_path))
    assert (sorted(again.keys), again.computed) == (sorted(outcome.keys), 0)


def test_a_poisoned_trial_is_named_and_stops_nothing(tmp_path: Path):
    store = Deadly(tmp_path / "store")
    deadly, wrong, sound = trial(13), trial(1, shots=("none",)), trial(2)
    outcome = cluster.run_on_cluster([deadly, wrong, sound], Place(store, tmp_path), "local:1")
    assert set(outcome.failed) == {deadly, wrong}
    assert "worker" in outcome.failed[deadly]
    assert "none" in outcome.failed[wrong]
    assert set(store.trials()) == {sound}


@pytest.mark.parametrize(
    ("address", "message"),
    [("local:0", "no number of processes"), ("tcp://127.0.0.1:9", "no scheduler answers")],
)
def test_an_address_that_is_none_is_refused(address: str, message: str, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with pytest.raises(ScellsegError, match=message):
        cluster.run_on_cluster([], Place(Store(tmp_path), tmp_path), address)


def test_a_scheduler_elsewhere_is_asked_at_its_address(tmp_path: Path):
    """One that was there before and goes on after, as of ``dask scheduler`` and ``dask worker``."""
    store, wanted = Store(tmp_path / "store"), [trial(0), trial(1)]
    with LocalCluster(1, threads_per_worker=1, dashboard_address=None) as elsewhere:
        address = elsewhere.scheduler_address
        assert address.startswith("tcp://127.0.0.1:")
        first = cluster.run_on_cluster(wanted[:1], Place(store, tmp_path), address)
        both = cluster.run_on_cluster(wanted, Place(store, tmp_path), address)
    assert (first.failed, first.computed) == ({}, 1)
    assert (both.failed, both.computed, len(both.keys)) == ({}, 1, 2)
    assert set(store.trials()) == set(wanted)

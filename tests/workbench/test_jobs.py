"""Jobs: they report, pause, go on, end as told, and leave the caller's thread free."""

import gc
import os
import signal
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import psutil
import pytest

from scellseg_lib import progress
from scellseg_lib.errors import ChannelsNeeded
from scellseg_lib.workbench.jobs import Cancelled, Job, ProcessEnded, apart
from tests.workbench.conftest import LONG, rests, until


class Gated:
    """Work of five steps, each of which waits until the test lets it pass by `gate.release`."""

    def __init__(self) -> None:
        self.step = 0  # the one that waits or is done, from 1
        self.gate = threading.Semaphore(0)

    def __call__(self, job: Job) -> str:
        job.report(0, 5)
        for step in range(1, 6):
            self.step = step
            assert self.gate.acquire(timeout=LONG)
            job.report(step, 5, latest=step)
        return "all steps"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("scellseg_lib.workbench.jobs.monotonic", lambda: clock.now)
    return clock


def test_a_pause_holds_the_work_and_does_not_count_in_the_time_left(clock):
    work = Gated()
    job = Job(work).start()

    def take_ten_seconds(step: int) -> None:
        until(lambda: work.step == step)
        clock.now += 10
        work.gate.release()

    take_ten_seconds(1)
    take_ten_seconds(2)
    until(lambda: work.step == 3)
    job.pause_or_resume()
    take_ten_seconds(3)
    until(lambda: rests(job))
    assert (job.state, job.done) == ("paused", 3)
    clock.now += 1000
    assert job.seconds_left == 20  # two steps of ten seconds
    job.pause_or_resume()
    take_ten_seconds(4)
    until(lambda: work.step == 5)
    assert (job.state, job.seconds_left, job.facts) == ("running", 10, {"latest": 4})
    work.gate.release()
    assert job.join(LONG).result == "all steps"
    assert (job.state, job.error, job.done, job.total) == ("done", None, 5, 5)


def test_the_time_left_follows_the_speed_since_the_part_of_the_work_began(clock):
    def work(job: Job) -> None:
        job.report(0, 8, doing="reading")
        clock.now += 1
        job.report(8, 8)
        job.report(50, 100, doing="learning")  # goes on where an earlier run was stopped
        lefts.append(job.seconds_left)
        for done in range(51, 61):
            clock.now += 2
            job.report(done, 100)
        lefts.append(job.seconds_left)

    lefts: list[float | None] = []
    assert Job(work).start().join(LONG).state == "done"
    assert lefts == [None, 40 * 2]


def test_changes_are_told_at_most_ten_times_a_second_and_always_at_the_end(clock):
    told: list[tuple[str, int, bool]] = []

    def tell(job: Job) -> None:
        told.append((job.state, job.done, threading.current_thread() is threading.main_thread()))

    def work(job: Job) -> None:
        assert told == [("running", 0, True)]  # the caller tells the start, before all else
        for done in range(500):
            clock.now = done / 64
            job.report(done, 500)

    Job(work, on_change=tell).start().join(LONG)
    # A 64th of a second is exact in binary: seven of them are the first beyond a tenth.
    running = [("running", done, False) for done in range(0, 500, 7)]
    assert told[1:] == [*running[1:], ("done", 499, False)]


def test_the_end_does_not_come_in_the_middle_of_what_is_told():
    work, told, pausing, go_on = Gated(), [], threading.Event(), threading.Event()

    def tell(job: Job) -> None:
        if job.state == "paused":
            work.gate.release()
            pausing.set()
            assert go_on.wait(LONG)
            job.join(0.1)  # long enough to end, if it could
        told.append((job.state, job.ended))

    job = Job(work, on_change=tell).start()
    until(lambda: work.step == 1)
    page = threading.Thread(target=job.pause_or_resume)
    page.start()
    assert pausing.wait(LONG)
    job.cancel()  # which wakes it: its end now waits until the pause is told
    until(lambda: job.done == 1)
    go_on.set()
    page.join(LONG)
    job.join(LONG)
    assert told[-2:] == [("paused", False), ("cancelled", True)]
    assert (job.done, job.result) == (1, None)


def test_a_display_that_fails_does_not_stop_the_work(caplog):
    gone = Mock(side_effect=RuntimeError("the page is gone"))
    job = Job(lambda job: 7, on_change=gone).start().join(LONG)
    assert (job.state, job.result) == ("done", 7)
    assert "the page is gone" in caplog.text


@pytest.mark.parametrize("fails", [False, True])
def test_a_job_that_has_ended_keeps_nothing_of_its_work(fails):
    image = np.zeros(1)  # stands for what takes much memory
    seen = weakref.ref(image)

    def work(job: Job, image: np.ndarray = image) -> str:
        held = [image]
        if fails:
            raise ValueError(f"{len(held)} image is odd")
        return "done"

    job = Job(work, on_change=partial(lambda kept, job: None, image)).start().join(LONG)
    del image, work
    gc.collect()
    assert seen() is None
    job.cancel()
    job.pause_or_resume()  # what has ended stays as it is
    expected = ("failed", None, "1 image is odd") if fails else ("done", "done", "None")
    assert (job.state, job.result, str(job.error)) == expected


def test_a_thread_draws_no_bars(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(progress, "run_by_machine", lambda: False)
    assert not progress.silent()
    assert Job(lambda job: progress.silent()).start().join(LONG).result is True


def report_until(file: Path, job: Job) -> int:
    """Work until a file exists; a stop is noted in it."""
    step = 0
    try:
        while not file.exists():
            job.report(step := step + 1, 0, process=os.getpid())
            time.sleep(0.005)
    except Cancelled:
        file.write_text("stopped")
        raise
    return os.getpid()


def refuse(job: Job) -> None:
    raise ChannelsNeeded("it has two channels", ["phase", "dye"], where="cells.tif")


@pytest.fixture
def far(tmp_path: Path) -> Job:
    """Work in a process of its own that has begun."""
    job = Job(apart(partial(report_until, tmp_path / "end"))).start()
    until(lambda: job.facts.get("process"))
    return job


def test_work_apart_is_paused_and_gives_its_result(far, tmp_path):
    far.pause_or_resume()
    until(lambda: rests(far))
    done = far.done
    time.sleep(0.1)
    assert far.done == done
    far.pause_or_resume()
    until(lambda: far.done > done)
    (tmp_path / "end").touch()
    assert far.join(LONG).result == far.facts["process"] != os.getpid()
    assert not psutil.pid_exists(far.result)


def test_work_apart_is_stopped_in_order(far, tmp_path):
    far.cancel()
    assert far.join(LONG).state == "cancelled"
    assert (tmp_path / "end").read_text() == "stopped"


def test_work_apart_outlives_an_interrupt_of_the_kernel(far, tmp_path):
    os.kill(far.facts["process"], signal.SIGINT)
    done = far.done
    until(lambda: far.done > done + 5)
    (tmp_path / "end").touch()
    assert far.join(LONG).state == "done"


def test_work_apart_that_is_killed_is_an_error_and_costs_no_more(far):
    psutil.Process(far.facts["process"]).kill()
    assert isinstance(far.join(LONG).error, ProcessEnded)
    assert "memory" in str(far.error)


def test_an_error_of_work_apart_keeps_what_it_says():
    error = Job(apart(refuse)).start().join(LONG).error
    assert (type(error), error.channels, error.where) == (
        ChannelsNeeded,
        ["phase", "dye"],
        "cells.tif",
    )
    assert "refuse" in "".join(error.__notes__)


def test_work_apart_ends_in_order_where_nobody_listens_any_more(tmp_path):
    code = "import sys, time; from functools import partial; from pathlib import Path; "
    code += "from scellseg_lib.workbench.jobs import Job, apart; "
    code += "from tests.workbench.test_jobs import report_until; "
    code += "job = Job(apart(partial(report_until, Path(sys.argv[1])))).start()\n"
    code += "while 'process' not in job.facts: time.sleep(0.01)\n"
    code += "print(job.facts['process'], flush=True); time.sleep(600)"
    kernel = psutil.Popen([sys.executable, "-c", code, str(tmp_path / "end")], stdout=PIPE)
    process = int(kernel.stdout.readline())
    kernel.kill()
    until((tmp_path / "end").exists)
    kernel.wait()
    until(lambda: not psutil.pid_exists(process) or psutil.Process(process).status() == "zombie")

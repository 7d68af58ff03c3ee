"""Jobs: they report, pause, go on, end as told, and leave the caller's thread free."""

from __future__ import annotations

import logging
import os
import threading
from time import monotonic, sleep

import pytest

from scellseg_lib.widgets.jobs import Cancelled, Job
from tests.widgets.waiting import until


def gated(n_steps: int = 5):
    """Work of `n_steps`, each of which waits until the test lets it pass."""
    gate = threading.Semaphore(0)

    def work(job: Job) -> list[int]:
        passed = []
        job.report(0, n_steps)
        for step in range(n_steps):
            assert gate.acquire(timeout=10)
            passed.append(step)
            job.report(step + 1, n_steps, latest=step)
        return passed

    return work, gate


def test_work_runs_beside_the_caller_and_gives_its_result():
    work, gate = gated()
    job = Job(work)
    assert job.state == "waiting"
    assert job.start() is job
    until(lambda: job.total == 5)
    assert (job.state, job.done) == ("running", 0)  # we are here, and it has not ended
    gate.release(2)
    until(lambda: job.done == 2)
    assert job.facts == {"latest": 1}
    gate.release(3)
    job.join(5)
    assert (job.state, job.result, job.error, job.done) == ("done", [0, 1, 2, 3, 4], None, 5)
    assert job.ended


def test_cancelled_work_stops_at_its_next_report():
    work, gate = gated()
    cleaned = []

    def careful(job: Job) -> list[int]:
        try:
            return work(job)
        except Cancelled:
            cleaned.append(job.done)
            raise

    job = Job(careful).start()
    gate.release(1)
    until(lambda: job.done == 1)
    job.cancel()
    gate.release(4)
    job.join(5)
    assert (job.state, job.done, job.result) == ("cancelled", 2, None)
    assert cleaned == [2]


def test_a_job_cancelled_before_it_begins_never_does():
    ran = []
    job = Job(lambda job: ran.append(1))
    job.cancel()
    assert job.start().state == "cancelled"
    assert job.join(1).state == "cancelled"
    assert ran == []


def test_a_pause_holds_the_work_and_does_not_count_in_the_time_left():
    work, gate = gated(4)
    job = Job(work).start()
    gate.release(2)
    until(lambda: job.done == 2)
    job.pause()
    gate.release(2)
    until(lambda: job.done == 3)
    sleep(0.3)
    assert (job.state, job.done) == ("paused", 3)
    left = job.seconds_left
    job.resume()
    job.join(5)
    assert job.state == "done"
    assert left is not None
    assert left < 0.2  # one of four steps that took hardly any time


def test_a_paused_job_can_be_cancelled():
    work, gate = gated()
    job = Job(work).start()
    until(lambda: job.total == 5)
    job.pause()
    gate.release(1)
    until(lambda: job.done == 1)
    job.cancel()
    job.join(5)
    assert (job.state, job.done) == ("cancelled", 1)


def test_work_that_fails_keeps_its_error():
    def work(job: Job) -> None:
        raise ValueError("no such cell")

    job = Job(work).start().join(5)
    assert job.state == "failed"
    assert str(job.error) == "no such cell"
    job.cancel()
    job.pause()
    assert job.state == "failed"  # what has ended stays as it is


def test_the_time_left_follows_the_speed_since_the_first_report():
    def work(job: Job) -> None:
        job.report(50, 100)  # goes on where an earlier run was stopped
        assert job.seconds_left is None
        for done in range(51, 61):
            sleep(0.02)
            job.report(done, 100)
        lefts.append(job.seconds_left)

    lefts: list[float | None] = []
    assert Job(work).start().join(5).state == "done"
    assert lefts[0] == pytest.approx(40 * 0.02, rel=0.5)


def test_another_part_of_the_work_has_a_speed_of_its_own():
    def work(job: Job) -> None:
        job.report(0, 8, doing="reading")
        job.report(8, 8)
        job.report(41, 100, doing="learning")  # 41 were done before
        lefts.append(job.seconds_left)
        sleep(0.05)
        job.report(42, 100)
        lefts.append(job.seconds_left)

    lefts: list[float | None] = []
    assert Job(work).start().join(5).state == "done"
    assert lefts[0] is None
    assert lefts[1] == pytest.approx(58 * 0.05, rel=0.5)


def test_changes_are_told_at_most_ten_times_a_second_and_always_at_the_end():
    told: list[tuple[str, int]] = []
    threads = set()

    def tell(job: Job) -> None:
        told.append((job.state, job.done))
        threads.add(threading.get_ident())

    def work(job: Job) -> None:
        for done in range(500):
            job.report(done, 500)
            sleep(0.001)

    began = monotonic()
    Job(work, on_change=tell).start().join(10)
    seconds = monotonic() - began
    assert told[-1] == ("done", 499)
    assert 3 <= len(told) <= 10 * seconds + 3
    assert len(threads) == 2  # the start is told by the caller, the rest by the thread


def test_a_display_that_fails_does_not_stop_the_work(caplog):
    def tell(job: Job) -> None:
        raise RuntimeError("the page is gone")

    with caplog.at_level(logging.ERROR):
        job = Job(lambda job: 7, on_change=tell).start().join(5)
    assert (job.state, job.result) == ("done", 7)
    assert "the page is gone" in caplog.text


def test_bars_are_silent_while_any_job_runs(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    go, seen = [threading.Event(), threading.Event()], []

    def work(number):
        def wait(job):
            seen.append(os.environ["TQDM_DISABLE"])
            go[number].wait(10)

        return wait

    first, second = Job(work(0)).start(), Job(work(1)).start()
    go[0].set()
    first.join(10)
    assert os.environ["TQDM_DISABLE"] == "1"
    go[1].set()
    second.join(10)
    assert (seen, os.environ["TQDM_DISABLE"]) == (["1", "1"], "0")

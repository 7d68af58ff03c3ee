"""Work beside the page, in threads and processes, while a network learns or segments."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Condition, RLock, Thread
from time import monotonic
from types import SimpleNamespace
from typing import Any, Literal

from scellseg_lib.device import release_memory
from scellseg_lib.errors import ScellsegError
from scellseg_lib.workbench.forms import count, duration

State = Literal["running", "paused", "done", "cancelled", "failed"]
TIMED = 2  # steps after which the time left is told: the first is slower, as all is new
TELL_EVERY = 0.1  # least seconds between two calls of `on_change`: what an eye can follow


class Cancelled(Exception):
    """Raised within the work by `Job.report` after `Job.cancel`."""


class ProcessEnded(ScellsegError):
    """The process that did the work was ended from outside, as where memory does not suffice."""


class Job:
    """Work in a thread of its own.

    `work` is called with the job, in the thread. It calls ``job.report`` often, and first
    ``job.report(0, total)``, from which the time left is reckoned. Another `total`, or fewer `done`
    than before, begin another part of the work, with a speed of its own.

    `on_change` is called with the job, at most ten times a second from the thread that changed it,
    and always when it begins, pauses or goes on, and once when it has ended; never twice at once,
    and the end does not come in the middle of a call. It must not wait for the job. What it raises
    is logged and does not stop the work.

    Once a job has ended, it keeps nothing of the work but its result: images and models are free.
    """

    def __init__(
        self, work: Callable[[Job], Any], *, on_change: Callable[[Job], object] = lambda job: None
    ) -> None:
        self.state: State = "running"
        self.result: Any = None
        self.error: Exception | None = None
        self.done = self.total = 0  # of the latest report; a `total` of 0 is not known
        self.facts: dict[str, Any] = {}  # all that the reports told beside that, the latest values
        self._on_change = on_change
        self._changed, self._telling = Condition(), RLock()
        self._cancelled = False
        self._told = -TELL_EVERY
        self._first: tuple[int, float] | None = None
        self._latest = self._rested = 0.0
        self._thread = Thread(target=self._run, args=(work,), name="scellseg-job", daemon=True)

    def start(self) -> Job:
        """Tell that it begins, and begin."""
        self._tell()
        self._thread.start()
        return self

    def report(self, done: int, total: int, **facts: Any) -> None:
        """Tell from within the work how far it is; waits while paused, may raise `Cancelled`."""
        with self._changed:
            # Other work, such as learning after reading: its speed is another.
            is_new = self._first is None or total != self.total or done < self.done
            self.done, self.total = done, total
            self.facts.update(facts)
            self._latest = monotonic() - self._rested
            if is_new:
                self._first = done, self._latest
        if monotonic() - self._told >= TELL_EVERY:
            self._tell()
        with self._changed:
            began = monotonic()
            self._changed.wait_for(lambda: self.state != "paused" or self._cancelled)
            self._rested += monotonic() - began
            if self._cancelled:
                raise Cancelled

    def cancel(self) -> None:
        """End the work at its next report."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def pause_or_resume(self) -> None:
        """Hold the work at its next report, or let it go on."""
        with self._changed:
            if self.ended or self._cancelled:
                return
            self.state = "running" if self.state == "paused" else "paused"
            self._changed.notify_all()
        self._tell()

    def join(self, timeout: float | None = None) -> Job:
        """Wait for the end, at most `timeout` seconds; `state` says whether it came."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return self

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the speed so far; None while there is nothing to tell it from."""
        first, since = self._first or (self.done, 0.0)
        if self.ended or self.done < first + TIMED or not self.total:
            return None
        return (self._latest - since) / (self.done - first) * max(0, self.total - self.done)

    @property
    def ended(self) -> bool:
        """Whether it is done, cancelled or failed."""
        return self.state in ("done", "cancelled", "failed")

    def _run(self, work: Callable[[Job], Any]) -> None:
        state: State = "done"
        try:
            self.result = work(self)
        except Cancelled:
            state = "cancelled"
        except Exception as error:
            self.error, state = _without_frames(error), "failed"
        del work
        release_memory()
        with self._telling:
            with self._changed:
                self.state = state
            self._tell()

    def _tell(self) -> None:
        self._told = monotonic()
        with self._telling:  # the thread and the page may change the job at once
            tell = self._on_change
            if self.ended:  # which is told once, and is the last that happens
                self._on_change = lambda job: None
            try:
                tell(self)
            except Exception:  # a page that cannot be drawn must not cost hours of work
                logging.getLogger(__name__).exception("the display of a job failed")


def apart(work: Callable[[Any], Any]) -> Callable[[Job], Any]:
    """Do the same in a process of its own, whose memory is free once it ends.

    The work, the facts that it reports and its result are pickled: paths and options, no networks.
    `ProcessEnded` if it is killed.
    """

    def follow(job: Job) -> Any:
        job.report(0, 0, doing="Starting")
        here, there = (context := get_context("spawn")).Pipe()
        process = context.Process(target=_work_apart, args=(there, work), daemon=True)
        process.start()
        there.close()
        try:
            with here:
                for done, total, facts in iter(here.recv, None):
                    with suppress(Cancelled):
                        job.report(done, total, **facts)
                    here.send(not job._cancelled)
                result, error = here.recv()
        except (OSError, EOFError):
            process.join()
            what = f"the process that computes was ended (code {process.exitcode})"
            remedy = "If that is -9, the memory did not suffice. The log has what it said last."
            raise ProcessEnded(what, remedy=remedy) from None
        process.join()
        if error is not None:
            raise error
        return result

    return follow


def _work_apart(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Work, with what stands for the job: where nobody listens any more, that is a stop."""

    def report(done: int, total: int, **facts: Any) -> None:
        try:
            pipe.send((done, total, facts))
            goes_on = pipe.recv()
        except (OSError, EOFError):
            goes_on = False
        if not goes_on:
            raise Cancelled

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which JupyterLab sends to end another cell
    os.environ["TQDM_DISABLE"] = "1"
    result = error = None
    try:
        result = work(SimpleNamespace(report=report))
    except Exception as raised:
        error = _without_frames(raised)
    with suppress(OSError):  # nobody listens
        pipe.send(None)
        pipe.send((result, error))


def _without_frames(error: Exception) -> Exception:
    """Say in a note where it happened, and free what the work had in its variables."""
    error.add_note("".join(traceback.format_exception(error)))
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def tell_progress(job: Job, unit: str = "") -> str:
    """Say what a job does, how far it is, and how long it will take once that is known."""
    text = str(job.facts.get("doing", "Starting"))
    if job.total:
        text += f": {job.done} of {count(job.total, unit) if unit else job.total}"
    if job._cancelled:
        text += ". Stopping after what is being done"
    elif job.state == "paused":
        text += ". Paused: it waits until you press Go on"
    elif job.seconds_left is not None:
        text += f", about {duration(job.seconds_left)} left"
    return f"{text}."


def runs(job: Job | None) -> bool:
    """Whether there is a job that has not ended."""
    return job is not None and not job.ended

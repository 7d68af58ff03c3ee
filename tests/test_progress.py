"""Progress: a bar where somebody looks, a line a minute in a log, and otherwise nothing."""

from __future__ import annotations

import io
import re
import sys
import types
from pathlib import Path

import pytest

from scellseg_lib import augment, progress
from scellseg_lib import device as precision
from scellseg_lib import training as checkpoint
from tests import tiny


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def output(monkeypatch):
    """Say where errors go: to a terminal or to a file; to be called in the test."""

    def outside(stream: io.StringIO) -> io.StringIO:
        for variable in ("TQDM_DISABLE", "PYTEST_CURRENT_TEST"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return outside


@pytest.fixture
def runner(monkeypatch):
    """Make this process a kernel that a program of some command line has started."""

    def kernel(*command: str) -> None:
        process = types.SimpleNamespace(cmdline=lambda: list(command), name=lambda: command[0])
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
        psutil = types.SimpleNamespace(Process=lambda _: process)
        monkeypatch.setitem(sys.modules, "psutil", psutil)
        progress.run_by_machine.cache_clear()

    yield kernel
    progress.run_by_machine.cache_clear()


def work(n: int = 3) -> None:
    """Bars of both kinds, and a word."""
    progress.say("Now it takes long.")
    with progress.bar(n, "train", delay=0) as bar:
        for _ in range(n):
            bar.update()
    assert list(progress.progress_bar(range(n), n, "look")) == list(range(n))


def test_a_terminal_shows_a_bar_at_once_but_none_of_a_short_iteration(output):
    stream = output(Terminal())
    assert list(progress.progress_bar("abc", 3, "look")) == ["a", "b", "c"]
    assert stream.getvalue() == ""
    with progress.bar(3, "train", delay=0):
        assert re.search(r"train: +0%.* 0/3 \[", stream.getvalue())
    progress.say("Now it takes long.")
    assert stream.getvalue().endswith("Now it takes long.\n")


def test_a_log_gets_a_plain_line_with_the_time_left(output, monkeypatch):
    stream = output(io.StringIO())
    monkeypatch.setattr(progress, "LOG_EVERY", 0)
    for _ in progress.progress_bar(range(4), 4, "look"):
        pass
    lines = stream.getvalue().splitlines()
    expected = [rf"look: {n} of 4 images after 00:00, (00:00|\?) left" for n in range(5)]
    assert [bool(re.fullmatch(*pair)) for pair in zip(expected, lines, strict=True)] == [True] * 5
    assert "\r" not in stream.getvalue()


def test_a_log_gets_a_line_a_minute_not_one_a_step(output, monkeypatch):
    stream = output(io.StringIO())
    seconds = [1000.0]
    with progress.bar(100, "train", initial=10) as bar:
        bar.start_t = bar.last_print_t = seconds[0]
        monkeypatch.setattr(bar, "_time", lambda: seconds[0])
        for _ in range(40):
            seconds[0] += 4
            bar.update()
    # 160 s of 4 s a step, resumed after ten steps: the time left is not that of a faster run.
    assert stream.getvalue().splitlines() == [
        "train: 25 of 100 steps after 01:00, 05:00 left",
        "train: 40 of 100 steps after 02:00, 04:00 left",
    ]


def test_a_short_run_and_a_bar_that_is_not_wanted_leave_no_line_in_a_log(output, monkeypatch):
    stream = output(io.StringIO())
    work()
    monkeypatch.setattr(progress, "LOG_EVERY", 0)
    assert list(progress.progress_bar("abc", 3, "look", shown=False)) == ["a", "b", "c"]
    assert stream.getvalue() == ""


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
@pytest.mark.parametrize("variable", ["TQDM_DISABLE", "PYTEST_CURRENT_TEST"])
def test_silence_where_it_is_asked_for_and_in_tests(output, monkeypatch, stream, variable: str):
    stream = output(stream)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(progress, "LOG_EVERY", 0)
    work()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        (("python", "-u", "-c", "import sys;exec(eval(sys.stdin.readline()))"), False),
        (("python", "/bin/papermill", "a.ipynb"), False),
        (("python", "-m", "pytest", "--nbval"), False),
        (("jupyter-nbconvert", "--execute"), False),
        (("python", "/bin/jupyter-lab"), True),
    ],
)
def test_a_notebook_that_a_machine_executes_is_not_watched(output, runner, command, seen: bool):
    stream = output(Terminal())
    runner(*command)
    assert progress.watched() is seen
    progress.say("Now it takes long.")
    assert bool(stream.getvalue()) is seen


# Who shows it


@pytest.mark.parametrize("train", ["fine-tune", "pre-train scellseg"])
def test_trainings_show_all_that_takes_long(output, monkeypatch, tmp_path: Path, train: str):
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0)
    monkeypatch.setattr(progress, "LOG_EVERY", 0)
    stream, before = output(io.StringIO()), []
    options = {
        "checkpoint": tmp_path / "c.safetensors",
        "callback": lambda _: before.append(stream.getvalue()),
    }

    def run() -> None:
        if train == "fine-tune":
            tiny.tune("classic", tiny.new_model("unet2", tiny.LEVELS), **options)
        else:
            tiny.train(**options)

    run()
    assert f"{train}: 0 of {tiny.STEPS}" in before[0]  # the bar, before the first step is done
    labels = [line.partition(":")[0] for line in stream.getvalue().splitlines()]
    assert labels.count(train) >= tiny.STEPS
    assert "styles" in labels
    assert ("thresholds" in labels) == (train == "fine-tune")
    stream.truncate(0)
    run()  # finished: none of its steps is shown as if it were done now
    assert f"{train}: {tiny.STEPS} of {tiny.STEPS}" in stream.getvalue()
    assert f"{train}: 0 of" not in stream.getvalue()


def test_measuring_the_speed_is_said_in_a_terminal(output, monkeypatch, temporary_cache):
    monkeypatch.setattr(precision, "measure", lambda *_: ({precision.Precision(): 1.0}, True))
    stream = output(Terminal())
    precision.choose_precision(precision.torch.device("cpu"), (4, 8))
    assert stream.getvalue().startswith("Measuring")

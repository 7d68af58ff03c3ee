"""Progress: a bar where somebody looks, once a minute in a log, and otherwise nothing."""

import io
import re
import sys
import types
from functools import partial

import pytest

from scellseg_lib import progress, training
from tests import tiny


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show_in(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Let errors go to a terminal or to a file, as outside of tests and notebooks."""
    for variable in ("TQDM_DISABLE", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_terminal_shows_a_bar_at_once_but_none_of_a_short_iteration(monkeypatch):
    stream = show_in(Terminal(), monkeypatch)
    assert list(progress.progress_bar("abc", 3, "look")) == ["a", "b", "c"]
    assert stream.getvalue() == ""
    with progress.bar(3, "train", delay=0):
        assert re.search(r"train: +0%.* 0/3 \[", stream.getvalue())


def test_a_log_gets_the_bar_once_a_minute_not_at_each_step(monkeypatch):
    stream, seconds = show_in(io.StringIO(), monkeypatch), [1000.0]
    assert list(progress.progress_bar("abc", 3, "look", shown=False)) == ["a", "b", "c"]
    with progress.bar(100, "train", initial=10) as bar:
        bar.start_t = bar.last_print_t = seconds[0]
        monkeypatch.setattr(bar, "_time", lambda: seconds[0])
        for _ in range(40):
            seconds[0] += 4
            bar.update()
        # Of 4 s a step, resumed after ten steps: the time left is not that of a faster run.
        shown = re.findall(r"train: +(\d+)%.*? (\d+)/100 \[(.*?)<(.*?),", stream.getvalue())
    assert shown == [("25", "25", "01:00", "05:00"), ("40", "40", "02:00", "04:00")]


@pytest.mark.parametrize("variable", [None, "TQDM_DISABLE", "PYTEST_CURRENT_TEST"])
def test_silence_where_it_is_asked_for_and_in_tests(monkeypatch, variable):
    """And in a log, where the run is short."""
    for stream in (io.StringIO(), Terminal()) if variable else (io.StringIO(),):
        show_in(stream, monkeypatch)
        if variable:
            monkeypatch.setenv(variable, "1")
            monkeypatch.setattr(progress, "LOG_EVERY", 0)
        with progress.bar(3, "train", delay=0) as bar:
            bar.update(3)
        assert list(progress.progress_bar(range(3), 3, "look")) == [0, 1, 2]
        assert stream.getvalue() == ""


MACHINES = ["python -u -c import sys;exec(eval(sys.stdin.readline()))", "jupyter-nbconvert a.ipynb"]
MACHINES += ["python /bin/papermill a.ipynb", "python -m pytest --nbval"]


@pytest.mark.parametrize("command", [*MACHINES, "python /bin/jupyter-lab"])
def test_a_notebook_that_a_machine_executes_is_silent(monkeypatch, command):
    """This process is made a kernel that a program of some command line has started."""
    show_in(Terminal(), monkeypatch)
    process = types.SimpleNamespace(cmdline=command.split, name=lambda: command.split()[0])
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=lambda _: process))
    monkeypatch.setattr(progress, "run_by_machine", progress.run_by_machine.__wrapped__)  # no cache
    assert progress.silent() is (command in MACHINES)


@pytest.mark.parametrize("train", ["fine-tuned", "pre-trained"])
def test_trainings_show_all_that_takes_long(small_patches, monkeypatch, tmp_path, train):
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    monkeypatch.setattr(progress, "LOG_EVERY", 0)
    stream, before = show_in(io.StringIO(), monkeypatch), []
    classic = partial(tiny.tune, "classic", tiny.new_model("unet2", tiny.LEVELS))
    run = partial(classic if train == "fine-tuned" else tiny.train, checkpoint=tmp_path / "c")
    run(callback=lambda _: before.append(stream.getvalue()))
    assert re.search(rf"train: +0%.* 0/{tiny.STEPS} ", before[0])  # before a step is done
    labels = re.findall(r"(?:^|\r|\n)([^\r\n:]+): ", stream.getvalue())
    assert labels.count("train") >= tiny.STEPS
    assert "styles" in labels
    assert ("thresholds" in labels) == (train == "fine-tuned")
    stream.truncate(0)
    run()  # finished: none of its steps is shown as if it were done now
    assert f"{tiny.STEPS}/{tiny.STEPS}" in stream.getvalue()
    assert "train:   0%" not in stream.getvalue()

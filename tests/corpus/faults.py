"""Kills, full disks, forbidden folders and two at once: ``make faults`` counts what they cost.

Every writer of this library works in a process of its own. *Lost* is what was there before and is
there no more; *wrong* is a file that is half written, a result other than that of an undisturbed
run once the same is asked for again, and an error that is not in words.
"""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from io import StringIO
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from scellseg_lib import ScellsegError, augment, cli, device, finetuning, model, training
from scellseg_lib.datasets import download, synthetic
from scellseg_lib.files import export
from scellseg_lib.files.images import read_masks, read_pixels, write_labels
from scellseg_lib.paper import run, store, trial
from scellseg_lib.workbench.experiment import ClassFile, Experiment
from tests import tiny
from tests.corpus.test_annotations import open_editor
from tests.corpus.test_stores import FOREIGN
from tests.datasets.conftest import serving
from tests.paper.made_up import make_origin, make_scores, make_trial

NOISE = np.random.default_rng(0).bytes(200_000)
NOBODY = 65534
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "torch.distributed.tensor", "torch._dynamo"])


def prepare(home: Path) -> None:
    """Three images with masks and a model, which all may read."""
    for seed in range(3):
        image, masks = (plane[..., :120, :120] for plane in tiny.worm(seed))
        write_labels(home / f"in/{seed}_masks.tif", masks)
        pixels = 255 * (image[0] - image[0].min()) / np.ptp(image[0])
        write_labels(home / f"in/{seed}.png", pixels.astype(np.uint8))
    model.new_model("scellseg", tiny.LEVELS).save(home / "in/base.safetensors")
    subprocess.run(["chmod", "-R", "a+rX", str(home)], check=True)


def command(said: str, to: Path) -> None:
    """A command of the command line; ``IN`` and ``TO`` are the folders."""
    try:
        cli.app(said.replace("IN", str(to.parent / "in")).replace("TO", str(to)).split())
    except SystemExit as ended:
        if ended.code:
            raise


def tune(to: Path) -> None:
    if not (to / "m.safetensors").exists():
        how = "--model IN/base.safetensors --output TO/m.safetensors --steps 4 --inductive"
        command(f"finetune IN {how}", to)


def compute_trials(to: Path) -> None:
    of = "synthetic_mito", "unet2", "untrained", "classic"
    usual: dict[str, Any] = {"shots": ("mito_shot_000",), "levels": (2, 4), "steps": 2}
    trials = [trial.Trial(*of, seed=k, **usual) for k in range(2)]
    done = run.compute_missing(trials, run.Workspace(store.Store(to / "store"), to / "runs"))
    if done.failed:
        raise ScellsegError(str(done.failed), remedy="See there.")


def put(to: Path) -> None:
    for k in range(6):
        store.Store(to).put(f"t{k}", make_scores(k / 8), make_origin(make_trial(seed=k)))


def get(to: Path) -> None:
    with serving(files={"/noise.bin": NOISE}, pause=0.01) as server:
        url = f"{server.address}/noise.bin"
        download.download(url, to / "noise.bin", sha256(NOISE).hexdigest())


def annotate(to: Path) -> None:
    """Twenty edits, of which each is noted once it is done, saved now and then."""
    editor = open_editor(to / "A_masks.tif", np.zeros((40, 60), int))
    noted = to.parent / "edits"
    if noted.exists() and len(editor.cells) < int(noted.read_text() or 0):
        raise RuntimeError(f"lost all but {len(editor.cells)} of {noted.read_text()} edits")
    for k in range(len(editor.cells), 20):
        labels = editor.annotation.labels.copy()
        labels[2 * k : 2 * k + 2, 5:50] = k + 1
        editor.show_labels(labels)
        if noted.exists() and not editor.annotation.trouble:  # which the page shows
            noted.write_text(str(k + 1))
        time.sleep(0.01)
        _ = editor.save() if k % 6 == 5 else None
    editor.save()


def name_classes(to: Path) -> None:
    file = ClassFile(to / "A_masks.tif")
    file.read()
    for k in range(12):
        file.write({f"class {i}": "#ff0000" for i in range(k + 1)})


def add_shot(to: Path) -> None:
    image = to.parent / "in" / "0.png"
    Experiment(to).add_to_shots(image, read_masks(image.with_name("0_masks.tif")))


EXPORT = f"export IN --images IN --output TO --to {' --to '.join(export.FORMATS)}"
SEGMENT = "segment IN --model IN/base.safetensors --output TO/out --diameter 30 --preview"
WRITERS: dict[str, Callable[[Path], None]] = {
    "fine-tuning": tune,
    "run over a folder": partial(command, SEGMENT),
    "export": partial(command, EXPORT),
    "sweep": compute_trials,
    "download": get,
    "editor's journal": annotate,
    "store": put,
    "list of classes": name_classes,
    "shots": add_shot,
}  # fmt: skip
KILLED = [*WRITERS][:6]


def work(name: str, to: Path, answers: Any, user: int = 0) -> None:
    """What a process does: small, on one thread, and always with the same sums."""
    augment.PATCH, training.SAVE_EVERY, download.ATTEMPTS = tiny.PATCH, 0, 1
    finetuning.default_contrast = tiny.contrast
    synthetic.make_image = partial(synthetic.make_image, shape=(120, 120))
    synthetic.make_dataset = partial(synthetic.make_dataset, n_query=1)
    run.choose_precision = lambda *_: device.Precision()
    torch.cpu.get_capabilities = dict
    torch.backends.mkldnn.enabled = False  # which rounds by what was computed before
    torch.set_num_threads(1)
    os.environ.update(NO_PROXY="127.0.0.1", SCELLSEG_OFFLINE="")
    said, answer = StringIO(), "done"
    with redirect_stderr(said), redirect_stdout(said):
        if user:
            WRITERS[name](to.with_name("before"))  # he may not read all that is imported on the way
            (to.parent / "edits").write_text("0")
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        try:
            WRITERS[name](to)
        except (Exception, SystemExit) as error:
            of_file = getattr(error, "filename", None) and getattr(error, "strerror", None)
            told = isinstance(error, SystemExit) and "Error: " in said.getvalue()  # by a command
            answer = "refused" if getattr(error, "remedy", of_file or told) else repr(error)
    found = [word for word in FOREIGN if word in said.getvalue()]
    answers.put(f"foreign words: {said.getvalue()[:400]}" if found else answer)
    if user:
        os._exit(0)  # he may not tidy up


def files(to: Path) -> dict[str, str]:
    """Hashes of what a folder holds but for scratch; what tells the time counts by its name."""
    seen = {file.relative_to(to).as_posix(): file for file in to.rglob("*") if file.is_file()}
    timed = (".json", ".checkpoint", ".lock")
    return {
        name: "" if file.suffix in timed else sha256(file.read_bytes()).hexdigest()
        for name, file in seen.items()
        if not file.name.startswith(".") and file.suffix != ".part"
    }


READERS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys((".json", ".geojson"), lambda file: json.loads(file.read_bytes())),
    **dict.fromkeys((".safetensors", ".checkpoint"), load_file),
    **dict.fromkeys((".tif", ".png"), read_pixels),
    **{".csv": pd.read_csv, ".npy": read_masks, ".zip": ZipFile},
}


def find_halves(to: Path) -> Iterator[str]:
    """What in a folder cannot be read."""
    for name in files(to):
        try:
            READERS.get(Path(name).suffix, Path.read_bytes)(to / name)
        except Exception as error:
            yield f"{name} is half written: {error}"


@dataclass
class Case:
    """A writer on folders in `home`, and what it comes to if nothing is in its way."""

    name: str
    home: Path
    right: dict[str, str] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)  # fault -> tried, lost, wrong
    seconds: float = 0.0

    def note(self, fault: str, wrong: Iterable[str], lost: Sequence[str] = ()) -> None:
        wrong = [*wrong]
        for one in (*wrong, *(f"{one} is lost" for one in lost)):
            print(f"FAULT {fault}, {self.name}: {one}", flush=True)
        added = 1, bool(lost), bool(wrong)
        self.counts[fault] = [*map(add, self.counts.get(fault, [0] * 3), added)]

    def empty(self) -> Path:
        (to := self.home / f"to{len([*self.home.glob('to*')])}").mkdir()
        (self.home / "edits").write_text("0")
        (self.home / "edits").chmod(0o666)
        return to

    def start(self, to: Path, user: int = 0) -> Any:
        answers = PROCESSES.SimpleQueue()
        process = PROCESSES.Process(target=work, args=(self.name, to, answers, user), daemon=True)
        with patch.dict(os.environ, OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1"):
            process.start()  # of one thread, as a pool of more would not outlive the fork
        return process, answers

    def finish(self, process: Any, answers: Any) -> str:
        process.join(600)
        return answers.get() if process.exitcode == 0 else f"ended by {process.exitcode}"

    def check(self, answer: str, to: Path) -> list[str]:
        """What is wrong after a run that has ended, done or refused."""
        if answer == "done":
            names = sorted({*files(to).items()} ^ {*self.right.items()})
            return [f"other than undisturbed: {names[:4]}"] if names else []
        left = [f.name for f in to.rglob(".*") if f.suffix != ".edits" and f.name != ".hashes"]
        wrong = [answer] if answer != "refused" else []
        return [*wrong, *find_halves(to), *(f"leaves {name}" for name in left)]

    def again(self, to: Path) -> list[str]:
        answer = self.finish(*self.start(to))
        return self.check(answer, to) if answer == "done" else [f"asked again: {answer}"]

    def kill(self, n: int) -> None:
        """Kill at random moments, and go on; again and again."""
        draw, to, killed = random.Random(self.name), self.empty(), 0
        while killed < n:
            before, (process, answers) = files(to), self.start(to)
            process.join(draw.uniform(0, self.seconds))
            process.kill()
            process.join()
            if process.exitcode == 0:
                self.note("killed, to the end", self.check(answers.get(), to))
                to = self.empty()
            else:
                now, killed = files(to), killed + 1
                lost = [k for k, said in before.items() if said == self.right.get(k) != now.get(k)]
                self.note("kill -9", find_halves(to), lost)
        self.note("killed, to the end", self.again(to))

    def fill(self, n: int) -> None:
        """Disks that are too small by much or little, and then large enough."""
        mount = ["mount", "-t", "tmpfs", "-o"]
        whole = sum(file.stat().st_size for file in self.home.glob("to0/**/*"))
        for k in range(n):
            to = self.empty()
            disk = subprocess.run([*mount, f"size={k * whole // n + 4096}", "tmpfs", str(to)])
            if disk.returncode:
                return  # this user may not mount one
            wrong = self.check(self.finish(*self.start(to)), to)
            subprocess.run([*mount, "remount,size=64m", "tmpfs", str(to)], check=True)
            self.note("full disk", [*wrong, *self.again(to)])
            subprocess.run(["umount", str(to)], check=True)

    def forbid(self) -> None:
        """A folder in which another user may not write."""
        if os.getuid() == 0:
            to = self.empty()
            answer = self.finish(*self.start(to, NOBODY))
            done = ["done, although it may not be"] if answer == "done" else []
            self.note("permission denied", [*done, *self.check(answer, to), *self.again(to)])

    def pair(self, n: int) -> None:
        """Two processes at once: each is done or refused, and nothing is mixed up."""
        for _ in range(n):
            to = self.empty()
            (self.home / "edits").unlink()  # those of one window would be those of the other
            both = [self.start(to) for _ in range(2)]
            wrong = {self.finish(*one) for one in both} - {"done", "refused"}
            self.note("two at once", [*wrong, *self.again(to)])


def try_one(name: str, kills: int, others: int) -> dict[str, list[int]]:
    """Each fault on a writer: tried, lost, wrong."""
    with TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        prepare(Path(scratch))
        case = Case(name, Path(scratch))
        for _ in range(2):  # the first process waits for the imports of all
            to, began = case.empty(), time.monotonic()
            assert (answer := case.finish(*case.start(to))) == "done", answer
        case.right, case.seconds = files(to), time.monotonic() - began
        if name in KILLED:
            case.kill(kills)
        case.fill(others)
        case.forbid()
        case.pair(others)
        return case.counts


def main(kills: int = 17, others: int = 3) -> None:
    """Print the table, and exit: 1 if a case was lost or wrong.

    Started by ``-c``: each process would import what ``-m`` is given.
    """
    found = {name: try_one(name, kills, others) for name in WRITERS}
    rows = [(fault, name, *n) for name, counts in found.items() for fault, n in counts.items()]
    for row in (("fault", "writer", "tried", "lost", "wrong"), *sorted(rows)):
        print("{:22}{:22}{:>8}{:>8}{:>8}".format(*row))
    sys.exit(any(lost or wrong for *_, lost, wrong in rows))

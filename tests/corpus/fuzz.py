"""Damaged files and random cells by the thousand: ``make fuzz`` counts what becomes of them.

A damaged file is read as it was, is refused in words, or is read with other content, which only a
format without a check of its own may do. All else is a fault: an error of another class or in the
words of a library, no answer in ten seconds, or other content of a format that has sums to check.
The flows of random cells come after, against the plain formula of `test_flows`.
"""

import json
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import Mock, patch

import numpy as np
import pandas as pd
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from scellseg_lib import datasets, errors, load_model, network, paths
from scellseg_lib.files.folder import read_record
from scellseg_lib.files.images import read_masks, read_pixels, write_labels
from scellseg_lib.learning_curve import COLUMNS, _read_scores
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.store import Store
from scellseg_lib.workbench.experiment import ClassFile, Experiment, read_cells
from tests.corpus.test_annotations import LABELS, open_editor
from tests.corpus.test_images import WHOLE
from tests.corpus.test_stores import FOREIGN, MODEL, ORIGIN, checkpoint
from tests.datasets.test_fetch import GOOD, tarred
from tests.datasets.test_manifest import VALID
from tests.paper.made_up import make_scores
from tests.test_flows import differing_flows

MASKS = "A_masks.tif"
SECONDS, ANSWERS = 10, ("same", "other", "refused", "fault")
HOW = settings(database=None, deadline=None, phases=[Phase.generate])
HOW = settings(HOW, suppress_health_check=[*HealthCheck])


class Kind(NamedTuple):
    """A kind of file: its name, its content or who writes it into a folder, and how it is read."""

    file: str
    content: bytes | Callable[[Path], Any]
    read: Callable[[Path], Any]
    has_sums: bool = False


def leave_edits(folder: Path) -> None:
    editor = open_editor(folder / MASKS)
    editor.set_class([1], "dead")
    editor.set_note([2], "odd")
    editor.delete([1])


def recover(file: Path) -> Any:
    editor = open_editor(file.with_name(MASKS))
    return editor.annotation.labels, editor.cells.to_csv(), json.dumps(editor.classes)


def unpack(file: Path) -> Any:
    with TemporaryDirectory() as to:
        datasets.fetch.unpack(file, Path(to))
        return sorted(file.read_bytes() for file in Path(to).rglob("*") if file.is_file())


def load(file: Path) -> Any:
    model = load_model(file)
    return network.weights_hash(model.network), model.card.model_dump_json()


def resume(file: Path) -> Any:
    found = checkpoint(file)
    return found.resume(), str(found.modules["network"].state_dict()), found.optimiser.state_dict()


def read_scores(file: Path) -> Any:
    return Store(file.parent).read_scores().to_csv()


def put(folder: Path) -> None:
    Store(folder).put("one", make_scores(), ORIGIN)


def read_yaml(folder: str, load: Callable[[str], Any], file: Path) -> Any:
    datasets.manifest._parse.cache_clear()
    with patch.object(paths, folder, file.parent):
        return load(file.stem)


def image(name: str) -> Kind:
    reading = {"axes": "CYX"} if name.endswith(("pages", "stack")) else {}
    read = read_masks if name == "_seg.npy" else lambda file: read_pixels(file, **reading)
    return Kind("image.bin", WHOLE[name], read, name == "PNG")


RECORD = b'{"weights": "ab", "diameter": 30.0, "masks": {"A_masks.tif": ["ab", "cd"]}}'
LIST = b"label,area,class,note\n7,15,dead,\n312,24,alive,odd\n"
CLASSES = b"class,colour\ndead,#ff0000\nalive,#00ff00\n"
ROUNDS = ",".join(Experiment(Path("nowhere")).rounds()).encode()
ROUNDS += b"\n2,2026-01-01,m.safetensors,ab,3,40,A,False,0.5,0.25,9,8,1,2,3,cd\n"
CURVE = f"{','.join(COLUMNS)}\n{','.join('1' * len(COLUMNS))}\n".encode()
PROFILE = partial(read_yaml, "PROFILES", load_profile)
MANIFEST = partial(read_yaml, "MANIFESTS", datasets.manifest.load_manifest)
TARRED = partial(tarred, "b/c.txt", content=b"a.txt" * 100)
KINDS = {name: image(name) for name in WHOLE} | {
    "page of a stack": Kind("a.bin", WHOLE["ImageJ stack"], lambda file: read_pixels(file, page=1)),
    "model": Kind("one.safetensors", lambda to: MODEL.save(to / "one.safetensors"), load),
    "checkpoint": Kind("c.safetensors", lambda to: checkpoint(to / "c.safetensors"), resume),
    "store, origin": Kind("one.json", put, read_scores),
    "store, scores": Kind("one.csv", put, read_scores, True),
    "journal of edits": Kind(".A_masks.tif.edits", leave_edits, recover),
    "record of a run": Kind("segmented.json", RECORD, lambda file: read_record(file.parent)),
    "list of cells": Kind("A_cells.csv", LIST, lambda file: str(read_cells(file.with_name(MASKS)))),
    "list of classes": Kind("classes.csv", CLASSES, lambda file: ClassFile(file).read()),
    "rounds": Kind("rounds.csv", ROUNDS, lambda file: str(Experiment(file.parent).rounds())),
    "learning curve": Kind("scores.csv", CURVE, lambda file: str(_read_scores(file))),
    "profile": Kind("mine.yaml", (paths.PROFILES / "smoke.yaml").read_bytes(), PROFILE),
    "manifest": Kind("small.yaml", yaml.safe_dump(VALID, sort_keys=False).encode(), MANIFEST),
    "zip": Kind("archive.zip", GOOD, unpack, True),
    "tar": Kind("archive.tar", TARRED(mode="w"), unpack),
    "tar.gz": Kind("archive.tar.gz", TARRED(), unpack),
}


def damage(content: bytes, draw: random.Random) -> bytes:
    """One to three flipped bits, runs of zeros, bytes put in or copied, or cuts."""
    for _ in range(draw.randint(1, 3)):
        end = len(content) if draw.random() < 0.5 else min(300, len(content))  # half in the header
        at, n = draw.randint(0, end), draw.randint(1, 9)
        before, after = content[:at], content[at:]
        what = draw.choice(("flip", "flip", "flip", "zeros", "insert", "copy", "cut"))
        if what == "flip" and after:
            after = bytes([after[0] ^ 1 << draw.randrange(8)]) + after[1:]
        elif what == "zeros":
            after = bytes(len(after[:n])) + after[n:]
        elif what == "insert":
            before += draw.randbytes(n)
        elif what == "copy":
            before += content[draw.randint(0, end) :][: 9 * n]
        content = before + (b"" if what == "cut" else after)
    return content


def read_once(kind: Kind, file: Path, right: Any) -> str:
    """What became of a file: "same", "other", "refused"; or what is wrong, if it is a fault."""
    signal.signal(signal.SIGALRM, Mock(side_effect=TimeoutError))
    signal.alarm(SECONDS)
    began = time.monotonic()
    try:
        with warnings.catch_warnings(action="error"):
            warnings.simplefilter("ignore", errors.ScellsegWarning)
            found = kind.read(file)
    except errors.ScellsegError as error:
        said, name = str(error), kind.file.partition(".")[0] or kind.file
        foreign = len(said) > 900 or not error.remedy or [one for one in FOREIGN if one in said]
        answer = f"not in our words: {said[:200]}" if foreign or name not in said else "refused"
    except Exception as error:
        answer = f"{type(error).__name__}: {str(error)[:200]}"
    else:
        try:
            np.testing.assert_equal(found, right)
            answer = "same"
        except (AssertionError, ValueError):
            answer = "other content, although it has sums" if kind.has_sums else "other"
    signal.alarm(0)
    return answer if time.monotonic() - began < SECONDS else "no answer in ten seconds"


def fuzz(name: str, n: int) -> Counter[str]:
    """Read `n` damaged files of a kind; how many of each answer. Those of faults are kept."""
    kind, found, kept = KINDS[name], Counter[str](), paths.RUNS / "fuzz"
    with TemporaryDirectory() as scratch:
        file = Path(scratch, kind.file)
        write_labels(file.with_name(MASKS), LABELS)
        if callable(kind.content):
            kind.content(file.parent)
        else:
            file.write_bytes(kind.content)
        there = {one: one.read_bytes() for one in file.parent.iterdir()}
        right = kind.read(file)

        @seed(0)
        @settings(HOW, max_examples=n)
        @given(st.randoms(use_true_random=True))
        def once(draw: random.Random) -> None:
            for one in {*file.parent.iterdir(), *there}:
                one.write_bytes(there[one]) if one in there else one.unlink()
            file.write_bytes(content := damage(there[file], draw))
            answer = read_once(kind, file, right)
            found[answer if answer in ANSWERS else "fault"] += 1
            if answer not in ANSWERS:
                kept.mkdir(parents=True, exist_ok=True)
                (kept / f"{name} {found['fault']}").write_bytes(content)
                print(f"FAULT, see {kept / name} {found['fault']}: {answer}", flush=True)

        once()
    return found


def main(n: int) -> int:
    """Try `n` files, and flows of a tenth as many images; returns how many faults there were."""
    found = {name: fuzz(name, -(-n // len(KINDS))) for name in KINDS}
    files = pd.DataFrame(found, [*ANSWERS]).fillna(0).astype(int).T
    files.loc["all"] = files.sum()
    print(f"\ndamaged files\n{files.assign(tried=files.sum(axis=1))}\n", flush=True)
    differ = differing_flows(-(-n // 10))
    print(f"flows of random cells that differ from a plain formula: {differ} of {-(-n // 10)}")
    return int(files.loc["all", "fault"]) + len(differ)


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]))))

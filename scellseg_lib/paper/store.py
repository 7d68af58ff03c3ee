"""Results that are kept: scores of trials, and the tables beside them that figures are drawn from.

A result is written once and whole: its CSV first, the JSON of its origin last, each by a rename. It
is there when its JSON is, so that a kill at any moment leaves nothing that is half a result.
"""

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError, telling
from scellseg_lib.metrics import THRESHOLDS
from scellseg_lib.model import library_versions
from scellseg_lib.paper.profile import Profile
from scellseg_lib.paper.trial import METHOD_VERSION, Trial

AGAIN = "Delete the trial's two files; it is computed again."
RESTORE = "Restore it from the repository, or compute it anew in its notebook."
ROOM = "Make room, or see to it that the folder can be written to."
IMAGES = {"image": str}  # an image may be named "000"
PERCENT = {threshold: round(100 * threshold) for threshold in THRESHOLDS}
parse_trial = TypeAdapter(Trial).validate_python  # of the field "trial" of a file of origin


class Store:
    """A folder with the scores of trials: a CSV and a JSON of origin each, named by the key."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __contains__(self, key: str) -> bool:
        return (self.folder / f"{key}.json").is_file()

    def list_keys(self) -> list[str]:
        """Return the keys of all results, sorted."""
        # Hidden files are scratch of runs that were killed.
        return sorted(file.stem for file in self.folder.glob("[!.]*.json"))

    def list_trials(self) -> dict[Trial, dict[str, Any]]:
        """Return the trials of this version of the method, each with its origin and ``key``."""
        origins = [self.read_origin(key) | {"key": key} for key in self.list_keys()]
        mine = [origin for origin in origins if origin["trial"]["method"] == METHOD_VERSION]
        return {parse_trial(origin["trial"]): origin for origin in mine}

    def put(self, key: str, scores: pd.DataFrame, origin: Mapping[str, Any]) -> None:
        """Keep a trial's scores of `metrics.evaluate`, by ``cell_threshold``, and its origin."""
        table = self.folder / f"{key}.csv"
        with telling("a result cannot be written", table, ROOM):
            text = _widen(scores).to_csv(index=False)
            with whole(table) as file:
                file.write_text(text, encoding="utf-8")
            _write_origin(table, {**origin, "scores_sha256": sha256(text.encode()).hexdigest()})

    def read_origin(self, key: str) -> dict[str, Any]:
        """Return what is known of a trial's run; DatasetError for what is no file of origin."""
        file = self.folder / f"{key}.json"
        with telling("a result cannot be read", file, AGAIN):
            origin = dict(json.loads(file.read_bytes()))
            trial, seconds = origin["trial"], origin.get("seconds", 0)
            hash((parse_trial(trial), trial["method"], float(seconds)))
            return origin

    def summarise_origins(self, keys: Iterable[str]) -> dict[str, Any]:
        """Say briefly where results come from, for the file of origin of a figure."""
        trials, versions, methods = {}, [], set()
        for key in dict.fromkeys(keys):
            origin = self.read_origin(key)
            with telling("a result cannot be read", self.folder / f"{key}.json", AGAIN):
                hashes = {name: origin["trial"][name][:16] for name in ("pixels", "weights_sha256")}
                trials[key] = {"commit": origin["commit"]} | hashes
                methods.add(origin["trial"]["method"])
                if origin["versions"] not in versions:
                    versions.append(origin["versions"])
        return {"trials": trials, "versions": versions, "method": sorted(methods)}

    def read_scores(
        self, among: Iterable[Trial] | None = None, *, keys: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Read scores of this version of the method: of all trials, or those given, in their order.

        One row for each trial, cell threshold, image and IoU threshold: the columns of
        `metrics.evaluate`, ``cell_threshold``, the trial's fields, and its ``key``. DatasetError if
        a file is damaged, no trial is there, or one has two results.
        """
        found: dict[Trial, dict[str, Any]] = {trial: {} for trial in among or ()}
        hashes = {}
        for key in self.list_keys() if keys is None else dict.fromkeys(keys):
            origin = self.read_origin(key)
            trial, method = parse_trial(origin["trial"]), origin["trial"]["method"]
            if method != METHOD_VERSION or (among is not None and trial not in found):
                continue
            if known := found.get(trial):
                what = f"a trial has two results, {known['key']} and {key}: of other images "
                remedy = "Delete the two files of the one that is out of date."
                raise DatasetError(f"{what}or weights", where=self.folder, remedy=remedy)
            found[trial] = asdict(trial) | {"n_shots": trial.n_shots, "key": key}
            hashes[key] = origin.get("scores_sha256")
        if not (rows := [row for row in found.values() if row]):
            what = f"the {len(found)} trials asked for" if among is not None else "any trial"
            remedy = "Run the trials first (COMPUTE = True in a notebook, or `scellseg sweep`)."
            raise DatasetError(f"there is no result of {what}", where=self.folder, remedy=remedy)
        trials = pd.DataFrame(rows)
        # All tables are read as one, which is thirty times as fast as one after the other.
        tables = [self._read_text(key, hashes[key]).partition("\n") for key in trials["key"]]
        with telling("the results cannot be read", self.folder, AGAIN):
            text = f"{tables[0][0]}\n" + "".join(rows for *_, rows in tables)
            images = pd.read_csv(StringIO(text), dtype=IMAGES)
            images["of"] = np.repeat(trials.index, [rows.count("\n") for *_, rows in tables])
            scores = _lengthen(images).sort_values("of", kind="stable", ignore_index=True)
        return scores.join(trials, on="of").drop(columns="of")

    def _read_text(self, key: str, expected: str | None) -> str:
        """Text of a trial's table, of the hash expected whatever line ends a checkout gave it."""
        file = self.folder / f"{key}.csv"
        with telling("a result cannot be read", file, AGAIN):
            text = file.read_text(encoding="utf-8")
            if sha256(text.encode()).hexdigest() != expected:
                raise ValueError("it is not as it was written")
            return text


def load_or_compute(
    name: str,
    profile: Profile,
    make: Callable[[], pd.DataFrame],
    *,
    compute: bool = False,
    **origin: Any,
) -> pd.DataFrame:
    """Read the table ``figures/data/PROFILE/NAME.csv``, made first where it is missing.

    A table that was made of something else than ``origin`` says counts as missing. DatasetError
    when it is missing and may not be made (``compute``), or is damaged.
    """
    file = paths.results(profile.name) / f"{name}.csv"
    said, asked = file.with_suffix(".json"), json.loads(json.dumps(origin))
    with telling("a table cannot be read", said, RESTORE):
        known = dict(json.loads(said.read_bytes())) if said.exists() else {}
    other = [field for field in asked if known.get(field) != asked[field]]
    if other or not known:
        if not compute:
            of = f" of these {', '.join(other)}" if known else ""
            what = f"the table {name} of the profile {profile.name!r} has not been computed{of}"
            raise DatasetError(what, where=file, remedy="Set COMPUTE = True.")
        frame = make()
        if frame.empty:
            remedy = "Fetch data sets (scellseg data list), or set SCELLSEG_DATA."
            raise DatasetError(f"there is nothing to make the table {name} from", remedy=remedy)
        with telling("the table cannot be written", file, ROOM):
            said.unlink(missing_ok=True)  # a table is there when its origin is
            with whole(file) as scratch:
                frame.to_csv(scratch, index=False, float_format="%.5g")
            _write_origin(file, asked | {"versions": library_versions(), "commit": find_commit()})
    return read_table(file)


def read_table(file: Path) -> pd.DataFrame:
    """Read a committed table; DatasetError when it cannot be read."""
    with telling("a table cannot be read", file, RESTORE):
        return pd.read_csv(file, dtype=IMAGES)


def find_commit() -> str | None:
    """Commit of the code, where it is a clone, with a mark if the library differs from it."""
    ask = partial(subprocess.check_output, cwd=paths.REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        commit = ask(["git", "rev-parse", "HEAD"]).strip()
        changes = ask(["git", "status", "--porcelain", "--", "scellseg_lib"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" and changes" if changes else "")


def _write_origin(table: Path, known: Mapping[str, Any]) -> None:
    """Write what is known of a table beside it."""
    with whole(table.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def _widen(scores: pd.DataFrame) -> pd.DataFrame:
    """One row an image and cell threshold: a third of the bytes of one row an IoU threshold."""
    images = scores.assign(percent=(100 * scores["threshold"]).round().astype(int))
    images["n_true"] = images["tp"] + images["fn"]
    images["n_predicted"] = images["tp"] + images["fp"]
    index = ["cell_threshold", "image"]
    first = images.groupby(index)[["n_true", "n_predicted", "aji_standard"]].first()
    wide = images.pivot(index=index, columns="percent", values=["tp", "aji"])
    wide.columns = [f"{name}_{percent}" for name in ("tp", "aji") for percent in PERCENT.values()]
    counts = {f"tp_{percent}": int for percent in PERCENT.values()}
    return first.join(wide.astype(counts)).round(6).reset_index()


def _lengthen(images: pd.DataFrame) -> pd.DataFrame:
    """Rows of `metrics.evaluate` from those of `_widen`."""
    parts = []
    for threshold, percent in PERCENT.items():
        tp = images[f"tp_{percent}"]
        fp, fn = images["n_predicted"] - tp, images["n_true"] - tp
        ap = (tp / (tp + fp + fn)).fillna(1.0)  # of an empty image
        part = images[["of", "cell_threshold", "image", "aji_standard"]]
        part = part.assign(threshold=threshold, ap=ap, tp=tp, fp=fp, fn=fn)
        parts.append(part.assign(aji=images[f"aji_{percent}"]))
    return pd.concat(parts, ignore_index=True)

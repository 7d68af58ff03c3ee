"""Results of trials: a CSV of scores and a JSON of origin each, named by the trial's key.

A result is written once and whole: the CSV first, the JSON last, each by a rename. A trial is there
when its JSON is, so that a kill at any moment leaves nothing that is half a result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError
from scellseg_lib.metrics import THRESHOLDS
from scellseg_lib.paper.trial import ADDED, METHOD_VERSION, Trial

_PERCENT = [round(100 * float(threshold)) for threshold in THRESHOLDS]


class Store:
    """A folder of results.

    Parameters
    ----------
    folder : path
        Made when the first result comes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __contains__(self, key: str) -> bool:
        return (self.folder / f"{key}.json").is_file()

    def keys(self) -> list[str]:
        """Return the keys of all results, sorted."""
        # Hidden files are scratch of runs that were killed.
        return sorted(file.stem for file in self.folder.glob("[!.]*.json"))

    def put(self, key: str, scores: pd.DataFrame, origin: Mapping[str, Any]) -> None:
        """Keep the scores of a trial.

        Parameters
        ----------
        key : str
        scores : DataFrame
            As `metrics.evaluate` gives at its default thresholds, with a column
            ``cell_threshold``.
        origin : mapping
            The trial's identity under ``"trial"``, and what else should be known of the run.
        """
        with whole(self.folder / f"{key}.csv") as file:
            _wide(scores).to_csv(file, index=False)
        known = dict(origin) | {"scores_sha256": _hash(self.folder / f"{key}.csv")}
        with whole(self.folder / f"{key}.json") as file:
            file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")

    def origin(self, key: str) -> dict[str, Any]:
        """What is known of a trial's run."""
        return self._read(f"{key}.json", lambda file: json.loads(file.read_text()))

    def provenance(self, keys: Iterable[str]) -> dict[str, Any]:
        """Say briefly where results come from, for the file of origin of a figure.

        Returns
        -------
        dict
            ``trials``: key, commit and hashes of images and weights of each; ``versions``: of the
            packages, each set once; ``method``: versions of the method.
        """
        trials, versions, methods = {}, [], set()
        for key in dict.fromkeys(keys):
            origin = self.origin(key)
            said = origin["trial"]
            trials[key] = {"commit": origin["commit"]} | {
                name: said[name][:16] for name in ("pixels", "weights_sha256")
            }
            methods.add(said["method"])
            if origin["versions"] not in versions:
                versions.append(origin["versions"])
        return {"trials": trials, "versions": versions, "method": sorted(methods)}

    def trials(self) -> dict[Trial, dict[str, Any]]:
        """Trials of this version of the method that are there, each with its origin and ``key``.

        Nothing but the trial itself is compared: neither images nor weights need be at hand.
        """
        found = {}
        for key in self.keys():
            origin = self.origin(key) | {"key": key}
            if origin["trial"]["method"] == METHOD_VERSION:
                found[trial_of(origin)] = origin
        return found

    def frame(
        self,
        among: Collection[Trial] | None = None,
        *,
        keys: Iterable[str] | None = None,
        **wanted: Any,
    ) -> pd.DataFrame:
        """Scores of trials, of this version of the method.

        Parameters
        ----------
        among : collection of Trial, optional
            None: all that are there.
        keys : iterable of str, optional
            Results to look at; None: all.
        **wanted
            Values that fields of the trials must have; lists are tuples here.

        Returns
        -------
        DataFrame
            One row for each trial, cell threshold, image and IoU threshold: ``image``,
            ``threshold``, ``ap``, ``tp``, ``fp``, ``fn``, ``aji``, ``aji_standard``,
            ``cell_threshold``, the trial's fields, and its ``key``. Sorted by what is asked for in
            a trial, not by when it was computed.

        Raises
        ------
        DatasetError
            If a file is damaged, a field unknown, no trial fits, or one has two results.
        """
        frames: dict[Trial, pd.DataFrame] = {}
        for key in self.keys() if keys is None else dict.fromkeys(keys):
            origin = self.origin(key)
            trial = ADDED | origin["trial"]
            trial |= {"n_shots": len(trial["shots"]), "key": key}
            said = {name: _frozen(value) for name, value in trial.items()}
            if unknown := wanted.keys() - said.keys():
                raise DatasetError(
                    f"trials have no {sorted(unknown)}", remedy=f"They have {sorted(said)}."
                )
            fits = all(said[f] == v for f, v in (wanted | {"method": METHOD_VERSION}).items())
            asked = trial_of(origin)
            if fits and (among is None or asked in among):
                if asked in frames:
                    twin = frames[asked]["key"].iloc[0]
                    raise DatasetError(
                        f"a trial has two results, {twin} and {key}: of other images or weights",
                        where=self.folder,
                        remedy="Delete the two files of the one that is out of date.",
                    )
                known = origin.get("scores_sha256")
                scores = self._read(f"{key}.csv", partial(_read_scores, known=known))
                columns = {name: [value] * len(scores) for name, value in said.items()}
                frames[asked] = scores.assign(**columns)
        if not frames:
            what = f"the {len(among)} trials asked for" if among is not None else "any trial"
            raise DatasetError(
                f"there is no result of {wanted or what}",
                where=self.folder,
                remedy="Run the trials first (COMPUTE = True in a notebook, or `scellseg sweep`).",
            )
        order = ["data", "weights", "protocol", "model", "strategy", "n_shots", "seed"]
        return pd.concat(frames.values()).sort_values(order, kind="stable", ignore_index=True)

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        try:
            return read(self.folder / name)
        except (OSError, ValueError, KeyError) as error:
            raise DatasetError(
                f"a result cannot be read ({error})",
                where=self.folder / name,
                remedy="Delete the trial's two files; it is computed again.",
            ) from error


def trial_of(origin: Mapping[str, Any]) -> Trial:
    """Trial that a file of origin tells of."""
    said = origin["trial"]
    names = {field.name for field in fields(Trial)} & said.keys()
    return Trial(**{name: _frozen(said[name]) for name in names})


def _read_scores(file: Path, known: str | None) -> pd.DataFrame:
    """Read a table that is the one of which the file of origin tells."""
    if _hash(file) != known:
        raise ValueError("it is not as it was written")
    return _long(pd.read_csv(file, dtype={"image": str}))  # an image may be named "000"


def _hash(file: Path) -> str:
    """SHA-256 of a table's text, whatever line ends it was checked out with."""
    return hashlib.sha256(file.read_text(encoding="utf-8").encode()).hexdigest()


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _wide(scores: pd.DataFrame) -> pd.DataFrame:
    """One row an image and cell threshold: a third of the bytes of one row an IoU threshold."""
    images = scores.assign(percent=(100 * scores["threshold"]).round().astype(int))
    index = ["cell_threshold", "image"]
    tables = images.pivot(index=index, columns="percent", values=["tp", "aji"])
    first = images.groupby(index)[["tp", "fp", "fn", "aji_standard"]].first()
    columns: dict[str, Any] = {
        "n_true": first["tp"] + first["fn"],
        "n_predicted": first["tp"] + first["fp"],
        "aji_standard": first["aji_standard"].round(6),
    }
    columns |= {f"tp_{p}": tables["tp"][p].astype(int) for p in _PERCENT}
    columns |= {f"aji_{p}": tables["aji"][p].round(6) for p in _PERCENT}
    return pd.DataFrame(columns).reset_index()


def _long(images: pd.DataFrame) -> pd.DataFrame:
    """Rows of `metrics.evaluate` from those of `_wide`."""
    parts = []
    for threshold, percent in zip(THRESHOLDS, _PERCENT, strict=True):
        tp = images[f"tp_{percent}"]
        fp, fn = images["n_predicted"] - tp, images["n_true"] - tp
        total = tp + fp + fn
        ap = np.where(total > 0, tp / np.maximum(total, 1), 1.0)
        part = images[["cell_threshold", "image", "aji_standard"]].assign(
            threshold=round(float(threshold), 2), ap=ap, tp=tp, fp=fp, fn=fn
        )
        parts.append(part.assign(aji=images[f"aji_{percent}"]))
    return pd.concat(parts, ignore_index=True)

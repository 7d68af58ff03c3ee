"""Folders of label files against each other: paired by name, scored, laid out as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from scellseg_lib.errors import DatasetError
from scellseg_lib.files import images as readers
from scellseg_lib.files import layout as folders
from scellseg_lib.metrics import evaluate, summary
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Sample

Pair = tuple[Path, Sample]
"""Predicted labels, and the image that has the true ones."""


def pair_labels(predicted: Path, true: Path | Sequence[Sample]) -> list[Pair]:
    """Label files of the same name, ``NAME_masks.*`` or ``NAME.*``, in two folders.

    Two files are a pair whatever their names. On the true side may be samples, by their names.

    Raises
    ------
    DatasetError
        If a file has no partner; all such are listed.
    """
    if isinstance(true, Path) and predicted.is_file() and true.is_file():
        return [(predicted, _truth(folders.label_name(predicted), true))]
    ours = folders.find_labels(predicted)
    theirs: Mapping[str, Path | Sample]
    theirs = (
        folders.find_labels(true)
        if isinstance(true, Path)
        else {sample.name: sample for sample in true}
    )
    lost = [ours.get(name) or theirs[name] for name in sorted(ours.keys() ^ theirs.keys())]
    alone = [one.name if isinstance(one, Sample) else str(one) for one in lost]
    if alone or not ours:
        raise DatasetError(
            f"label files without a partner: {', '.join(alone)}" if alone else "no label files",
            where=f"{predicted} and {true}" if isinstance(true, Path) else predicted,
            remedy="Each NAME_masks.* needs a NAME_masks.* or NAME.* on the other side.",
        )
    return [(ours[name], _truth(name, theirs[name])) for name in ours]


def score_files(pairs: list[Pair]) -> pd.DataFrame:
    """Score label files, one pair in memory at a time; the frame of `evaluate`."""
    frames = []
    for predicted, truth in progress_bar(pairs, len(pairs), "evaluate"):
        # A sample keeps what it has read: the copy is forgotten with its masks.
        frames.append(evaluate([readers.read_masks(predicted)], [replace(truth)]))
    return pd.concat(frames, ignore_index=True)


def score_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each image, and their mean: AP@0.5, AP@0.75, mAP, mAJI and the standard AJI."""
    rows = {
        name: [*summary(part).values(), part["aji_standard"].iloc[0]]
        for name, part in frame.groupby("image", sort=False)
    }
    table = pd.DataFrame(rows, index=["AP@0.5", "AP@0.75", "mAP", "mAJI", "AJI"]).T
    table.loc[f"mean (n = {len(rows)})"] = table.mean()
    return table


def _truth(name: str, true: Path | Sample) -> Sample:
    if isinstance(true, Sample):
        return true
    return Sample(name, partial(readers.read_image, true), partial(readers.read_masks, true))

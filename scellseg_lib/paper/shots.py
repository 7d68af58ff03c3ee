"""Committed tables of shots, the same for all models: drawn at random, or covering the styles."""

from functools import cache

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from scellseg_lib import paths
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.errors import DatasetError, telling
from scellseg_lib.model import Model
from scellseg_lib.paper.as_released import as_paper
from scellseg_lib.samples import Dataset
from scellseg_lib.style import embed


def find_shots(data: str, n: int, state: int) -> tuple[str, ...]:
    """Names of `n` shots: from the table, or drawn from the data set's pool where it has none.

    Of a data set that is neither in the table nor here, the names are open ("shot 1 of state 0"): a
    sweep can be planned without it, and computing such a trial says that the data set is not here.
    """
    drawn = _read_table("shots.csv", ("data", "state")).get((data, state), ())
    if n <= len(drawn):
        return drawn[:n]
    try:
        here = load_dataset(data)
    except DatasetError:
        return tuple(f"shot {i} of state {state}" for i in range(1, n + 1))
    return tuple(sample.name for sample in here.shots(n, state))


def find_covering_shots(data: str, n: int) -> tuple[str, ...]:
    """Names of the `n` shots that cover the styles of a data set, from the table.

    There are none for a data set that the table lacks, and where `n` is the whole pool.
    """
    pool = _read_table("covering_shots.csv", ("data",)).get((data,), ())
    return pool[:n] if n < len(pool) else ()


def cover_styles(data: Dataset, model: Model) -> tuple[str, ...]:
    """Whole pool of a data set in the order in which it covers the styles of pool and queries.

    Greedy k-centre: each next shot leaves the least largest distance of any image's style to that
    of the nearest chosen one; where several do, the one whose mean distance is least.
    ``covering_shots.csv`` holds it by the authors' Scellseg, untuned; of synthetic sets by ours at
    half width. All images are taken at the mean diameter of the pool, as somebody would who has
    none annotated yet but knows about how large the cells are; masks of queries are not looked at.
    """
    pool, diameter, model = data.shot, data.shot.diameter, as_paper(model)
    styles = np.stack([embed(model, sample, diameter) for sample in (*pool, *data.query)])
    distances, nearest = cdist(styles[: len(pool)], styles), np.full(len(styles), np.inf)
    left, names = {sample.name: row for sample, row in zip(pool, distances, strict=True)}, []
    while left:
        after = {name: np.minimum(row, nearest) for name, row in left.items()}
        names.append(min(after, key=lambda name: (after[name].max(), after[name].mean())))
        nearest = after[names[-1]]
        del left[names[-1]]
    return tuple(names)


@cache
def _read_table(file: str, by: tuple[str, ...]) -> dict[tuple[str | int, ...], tuple[str, ...]]:
    """Names of images, by the columns that say whose they are."""
    path, remedy = paths.MANIFESTS / file, "Restore it from the repository."
    with telling("the table of shots cannot be read", path, remedy):
        rows = pd.read_csv(path, dtype={"images": str})
        keys, images = rows[[*by]].itertuples(index=False, name=None), rows["images"]
        return {key: tuple(names.split(" ")) for key, names in zip(keys, images, strict=True)}

"""Which images are the shots: drawn by a random state, or chosen to cover the styles.

Both are committed tables, the same for all models.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from scellseg_lib import paths
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.errors import DatasetError
from scellseg_lib.model import Model
from scellseg_lib.samples import Dataset
from scellseg_lib.style import embed


def shots(data: str, n: int, state: int) -> tuple[str, ...]:
    """Names of the shots: from the table, or drawn from the data set's pool where it has none.

    Of a data set that is in neither, the names are open ("shot 1 of state 0"): a sweep can be
    planned without it, and computing such a trial says that the data set is not here.

    Parameters
    ----------
    data : str
        Name of the data set.
    n : int
        How many; those of a smaller number are among those of a larger one.
    state : int
        Random state.
    """
    drawn = _table("shots.csv", "data", "state").get((data, state))
    if drawn is not None and n <= len(drawn):
        return drawn[:n]
    try:
        here = load_dataset(data)
    except DatasetError:
        return tuple(f"shot {i} of state {state}" for i in range(1, n + 1))
    return tuple(sample.name for sample in here.shots(n, state))


def covering_shots(data: str, n: int) -> tuple[str, ...]:
    """Names of the shots that cover the styles of a data set, from the table; see `covering`.

    Parameters
    ----------
    data : str
        Name of the data set.
    n : int
        How many; those of a smaller number are among those of a larger one.

    Returns
    -------
    tuple of str
        Empty for a data set that the table lacks, and where `n` is the whole pool.
    """
    pool = _table("covering_shots.csv", "data").get((data,), ())
    return pool[:n] if n < len(pool) else ()


def covering(data: Dataset, model: Model) -> tuple[str, ...]:
    """Whole pool of a data set in the order in which it covers the styles of pool and queries.

    The table's are by the authors' Scellseg; those of synthetic sets by ours at half width.

    All images are taken at the mean diameter of the pool, as somebody would who has none annotated
    yet but knows about how large the cells are; masks of queries are not looked at.

    Parameters
    ----------
    data : Dataset
    model : Model
        Untuned.
    """
    pool, diameter = data.shot, data.shot.diameter
    styles = np.stack([embed(model, sample, diameter) for sample in (*pool, *data.query)])
    return tuple(pool[k].name for k in coverage_order(styles[: len(pool)], styles))


def coverage_order(candidates: np.ndarray, images: np.ndarray) -> list[int]:
    """Order in which to annotate candidates so that few of them cover the styles of all images.

    Greedy k-centre: each next one leaves the least largest distance of any image to the nearest
    chosen; where several do, the one whose mean distance is least.

    Parameters
    ----------
    candidates : float[m, S]
        Styles of the images that may be annotated.
    images : float[n, S]
        Styles of those that are to be covered.

    Returns
    -------
    list of int
        All candidates, the most telling first.
    """
    distances = cdist(candidates, images)
    order: list[int] = []
    nearest = np.full(len(images), np.inf)
    while len(order) < len(candidates):
        after = np.minimum(distances, nearest)
        left = [k for k in range(len(candidates)) if k not in order]
        chosen = min(left, key=lambda k: (after[k].max(), after[k].mean()))
        order.append(chosen)
        nearest = after[chosen]
    return order


def draw(data: Dataset, states: int) -> pd.DataFrame:
    """Rows of the table: ``data``, ``state`` and the whole pool in the order drawn."""
    orders = [data.shots(len(data.shot), state) for state in range(states)]
    images = [" ".join(sample.name for sample in order) for order in orders]
    return pd.DataFrame({"data": data.name, "state": range(states), "images": images})


@cache
def _table(file: str, *by: str) -> dict[tuple[str | int, ...], tuple[str, ...]]:
    """Names of images, by the columns that say whose they are."""
    rows = pd.read_csv(paths.manifests() / file, dtype={"images": str})
    names = rows[[*by]].itertuples(index=False, name=None)
    return dict(zip(names, map(tuple, rows["images"].str.split(" ")), strict=True))

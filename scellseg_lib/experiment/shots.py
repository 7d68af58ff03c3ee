"""Which images a random state draws as shots: a committed table, the same for all models."""

from __future__ import annotations

from functools import cache

import pandas as pd

from scellseg_lib import paths
from scellseg_lib.data import Dataset, load_dataset
from scellseg_lib.errors import DatasetError


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
    drawn = _table().get((data, state))
    if drawn is not None and n <= len(drawn):
        return drawn[:n]
    try:
        here = load_dataset(data)
    except DatasetError:
        return tuple(f"shot {i} of state {state}" for i in range(1, n + 1))
    return tuple(sample.name for sample in here.shots(n, state))


def draw(data: Dataset, states: int) -> pd.DataFrame:
    """Rows of the table: ``data``, ``state`` and the whole pool in the order drawn."""
    orders = [data.shots(len(data.shot), state) for state in range(states)]
    images = [" ".join(sample.name for sample in order) for order in orders]
    return pd.DataFrame({"data": data.name, "state": range(states), "images": images})


@cache
def _table() -> dict[tuple[str, int], tuple[str, ...]]:
    rows = pd.read_csv(paths.manifests() / "shots.csv", dtype={"images": str})
    names = zip(rows["data"], rows["state"], strict=True)
    return dict(zip(names, map(tuple, rows["images"].str.split(" ")), strict=True))

"""The evidence that is committed: trials of profiles, and the tables of the figures beside them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scellseg_lib import paths
from scellseg_lib.paper.claims.evidence import Evidence
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.store import Store
from scellseg_lib.paper.styles import purity
from scellseg_lib.paper.tables import read_table

TABLES = "released"
"""Profile whose tables of styles, data sets and touching cells are evidence."""


def gathered(profiles: Sequence[str]) -> Evidence:
    """Gather what there is to judge the claims by.

    Parameters
    ----------
    profiles : sequence of str
        Whose trials count; one that has none yet adds nothing.

    Raises
    ------
    ScellsegError
        For a profile that there is not.
    DatasetError
        For a file that is damaged.
    """
    for name in profiles:
        load_profile(name)
    trials = [
        store.frame().assign(profile=name)
        for name in profiles
        if (store := Store(paths.results(name) / "trials")).keys()
    ]
    styles, counted, touching = (
        read_table(file) if (file := paths.results(TABLES) / f"{name}.csv").is_file() else None
        for name in ("fig2_styles", "census", "fig3_neighbours")
    )
    return Evidence(
        pd.concat(trials, ignore_index=True) if trials else pd.DataFrame(),
        purity=None if styles is None else purity(styles),
        purity_of=() if styles is None else tuple(dict.fromkeys(styles["data"])),
        datasets=None if counted is None else data_sets(counted),
        neighbours=touching,
    )


def data_sets(census: pd.DataFrame) -> pd.DataFrame:
    """Sum a census up as `Evidence.datasets` has it; sets without shots and queries are left out.

    Parameters
    ----------
    census : DataFrame
        Of `census.census`.
    """
    rows = []
    for name, images in census.groupby("data", sort=False):
        shot, query = (images[images["split"] == split] for split in ("shot", "query"))
        if shot.empty or query.empty:
            continue
        cells = images["cells"].sum()
        rows.append(
            {
                "data": name,
                "train": len(shot),
                "test": len(query),
                "instances_test": int(query["cells"].sum()),
                "height": int(images["height"].iloc[0]),
                "width": int(images["width"].iloc[0]),
                "mean_area_px": (images["mean_area"] * images["cells"]).sum() / cells,
            }
        )
    return pd.DataFrame(rows)

"""The evidence that is committed: trials of profiles, and the tables of the figures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scellseg_lib import paths
from scellseg_lib.claims.evidence import Evidence
from scellseg_lib.embedding import purity
from scellseg_lib.errors import DatasetError
from scellseg_lib.experiment.store import Store

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
    DatasetError
        For a file that is damaged.
    """
    trials = [
        Store(folder).frame().assign(profile=name)
        for name in profiles
        if any((folder := paths.results(name) / "trials").glob("*.json"))
    ]
    styles, counted, touching = (
        _table(paths.results(TABLES) / f"{name}.csv")
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


def _table(file: Path) -> pd.DataFrame | None:
    """Read a table that may not be there yet."""
    if not file.is_file():
        return None
    try:
        return pd.read_csv(file, dtype={"image": str})
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"a table cannot be read ({error})",
            where=file,
            remedy="Restore it from the repository, or compute it anew in its notebook.",
        ) from error

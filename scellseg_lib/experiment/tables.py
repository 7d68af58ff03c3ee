"""Tidy tables that figures are drawn from beside the trials: committed, or computed if missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError
from scellseg_lib.experiment.profile import Profile
from scellseg_lib.experiment.run import commit
from scellseg_lib.model import library_versions


def kept(
    name: str,
    profile: Profile,
    make: Callable[[], pd.DataFrame],
    *,
    compute: bool = False,
    **origin: Any,
) -> pd.DataFrame:
    """Read the table ``figures/data/PROFILE/NAME.csv``, made first where it is missing.

    Parameters
    ----------
    name : str
    profile : Profile
    make : callable
        Computes the table.
    compute : bool
        Whether it may be made.
    **origin
        What its file of origin should say beside versions and commit.

    Raises
    ------
    DatasetError
        When it is missing and may not be made, or is damaged.
    """
    file = paths.results(profile.name) / f"{name}.csv"
    if not file.is_file():
        if not compute:
            raise DatasetError(
                f"the table {name} of the profile {profile.name!r} has not been computed",
                where=file,
                remedy="Set COMPUTE = True.",
            )
        frame = make()
        if frame.empty:
            raise DatasetError(
                f"there is nothing to make the table {name} from",
                remedy="Fetch data sets (scellseg data list), or set SCELLSEG_DATA.",
            )
        known = origin | {"versions": library_versions(), "commit": commit()}
        with whole(file) as scratch:
            frame.to_csv(scratch, index=False, float_format="%.5g")
        with whole(file.with_suffix(".json")) as scratch:
            scratch.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return read_table(file)


def read_table(file: Path) -> pd.DataFrame:
    """Read a committed table.

    Raises
    ------
    DatasetError
        When it cannot be read.
    """
    try:
        return pd.read_csv(file, dtype={"image": str})  # an image may be named "000"
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"a table cannot be read ({error})",
            where=file,
            remedy="Restore it from the repository, or compute it anew in its notebook.",
        ) from error

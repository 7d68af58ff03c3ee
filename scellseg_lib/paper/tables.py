"""Tidy tables that figures are drawn from beside the trials: committed, or computed if missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError
from scellseg_lib.model import library_versions
from scellseg_lib.paper.profile import Profile
from scellseg_lib.paper.run import commit


def kept(
    name: str,
    profile: Profile,
    make: Callable[[], pd.DataFrame],
    *,
    compute: bool = False,
    **origin: Any,
) -> pd.DataFrame:
    """Read the table ``figures/data/PROFILE/NAME.csv``, made first where it is missing.

    A table that was made of something else than is asked for counts as missing.

    Parameters
    ----------
    name : str
    profile : Profile
    make : callable
        Computes the table.
    compute : bool
        Whether it may be made.
    **origin
        What it is made of: its file of origin says so, beside versions and commit.

    Raises
    ------
    DatasetError
        When it is missing and may not be made, or is damaged.
    """
    file = paths.results(profile.name) / f"{name}.csv"
    said, asked = file.with_suffix(".json"), json.loads(json.dumps(origin))
    known = _read(said, lambda f: json.loads(f.read_text())) if said.is_file() else {}
    other = [field for field in asked if known.get(field) != asked[field]]
    if other or not known:
        if not compute:
            of = f" of these {', '.join(other)}" if known else ""
            raise DatasetError(
                f"the table {name} of the profile {profile.name!r} has not been computed{of}",
                where=file,
                remedy="Set COMPUTE = True.",
            )
        frame = make()
        if frame.empty:
            raise DatasetError(
                f"there is nothing to make the table {name} from",
                remedy="Fetch data sets (scellseg data list), or set SCELLSEG_DATA.",
            )
        known = asked | {"versions": library_versions(), "commit": commit()}
        said.unlink(missing_ok=True)  # a table is there when its origin is
        with whole(file) as scratch:
            frame.to_csv(scratch, index=False, float_format="%.5g")
        with whole(said) as scratch:
            scratch.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return read_table(file)


def read_table(file: Path) -> pd.DataFrame:
    """Read a committed table.

    Raises
    ------
    DatasetError
        When it cannot be read.
    """
    return _read(file, partial(pd.read_csv, dtype={"image": str}))  # one may be named "000"


def _read(file: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(file)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"a table cannot be read ({error})",
            where=file,
            remedy="Restore it from the repository, or compute it anew in its notebook.",
        ) from error

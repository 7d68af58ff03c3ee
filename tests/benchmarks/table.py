"""Tables of runs that come one after the other, and beside each what is known of its runs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from scellseg_lib.atomic import whole


def read_runs(table: Path) -> dict[str, Any]:
    """Origins of the runs that are in a table, by their names."""
    file = table.with_suffix(".json")
    return json.loads(file.read_text())["runs"] if file.is_file() else {}


def add_run(table: Path, name: str, rows: pd.DataFrame, origin: dict, **told: Any) -> None:
    """Add a run's rows, and last its origin: a run is there when that is.

    Both are read only now, for another run may have ended meanwhile. What is `told` is of all runs.
    """
    runs = read_runs(table)
    rows = pd.concat([pd.read_csv(table), rows]) if runs else rows
    with whole(table) as scratch:
        rows.to_csv(scratch, index=False)
    with whole(table.with_suffix(".json")) as scratch:
        known = told | {"runs": runs | {name: origin}}
        scratch.write_text(json.dumps(known, indent=1) + "\n")

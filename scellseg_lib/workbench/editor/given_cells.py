"""Labels and lists of cells as they are given: checked before they are edited."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scellseg_lib.errors import ImageError
from scellseg_lib.samples import as_labels
from scellseg_lib.workbench.editor.edits import NOTHING, Facts

COLUMNS = ("label", "area", "class", "note")
"""Of the list of cells; areas are in pixels."""
LARGEST_LABEL = 2_000_000


def checked_labels(labels: np.ndarray) -> np.ndarray:
    """Copy of labels as int32[H, W]; ImageError for what are none."""
    return as_labels(labels, largest=LARGEST_LABEL).copy()


def checked_facts(cells: pd.DataFrame, areas: np.ndarray) -> dict[int, Facts]:
    """What a list says of cells, those apart of which it says nothing.

    Parameters
    ----------
    cells : DataFrame
        ``label``, and ``class`` or ``note`` or both.
    areas : int[n]
        Of the cells that there are, by label.

    Raises
    ------
    ImageError
        If it has no labels, or names a cell which there is not.
    """
    if "label" not in cells:
        raise ImageError(
            "the list of cells has no column 'label'",
            remedy=f"Its columns: {', '.join(COLUMNS)}.",
        )
    found = {}
    texts = cells.reindex(columns=["class", "note"]).astype(object).fillna("").astype(str)
    named = pd.to_numeric(cells["label"], errors="coerce")
    for cell, kind, note in zip(named, texts["class"], texts["note"], strict=True):
        if not 0 < cell < len(areas) or cell % 1 or not areas[int(cell)]:
            raise ImageError(
                f"the list names cell {cell}, which the masks have not",
                remedy="Take the list that was saved with these masks.",
            )
        facts = Facts(" ".join(kind.split()), note)
        if facts != NOTHING:
            found[int(cell)] = facts
    return found

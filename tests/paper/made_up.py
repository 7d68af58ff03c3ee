"""Trials and scores that nobody has computed."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from scellseg_lib.metrics import evaluate
from scellseg_lib.paper.trial import METHOD_VERSION, Trial
from tests import tiny


def make_trial(strategy: str = "classic", **fields: Any) -> Trial:
    usual: dict[str, Any] = {"shots": ("worm0", "worm1"), "steps": 1, "levels": tiny.LEVELS}
    usual["contrast"] = "two" if strategy == "contrastive" else ""
    return Trial("worms", "scellseg", "packaged", strategy, **usual | fields)


def make_origin(trial: Trial, **changed: Any) -> dict[str, Any]:
    return {"trial": asdict(trial) | {"method": METHOD_VERSION} | changed}


def make_scores(ap: float = 0.5) -> pd.DataFrame:
    """Scores of two pictures of four cells: ``ap`` of them are found in one, all in the other."""
    true = np.kron([[1, 2], [3, 4]], np.ones((4, 4), int)).astype(np.int32)
    found = np.where(true <= round(4 * ap), true, 0)
    return evaluate([found, true], [true, true]).assign(cell_threshold=0.5)

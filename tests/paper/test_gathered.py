"""Evidence for the claims, from the committed files and from none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scellseg_lib import paths
from scellseg_lib.errors import DatasetError
from scellseg_lib.paper import claims
from scellseg_lib.paper.claims.gathered import data_sets, gathered


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results of the profile ``released``, empty at first."""
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    (tmp_path / "released").mkdir()
    return tmp_path / "released"


def test_data_sets_are_summed_up_by_hand() -> None:
    images = pd.DataFrame(
        {
            "data": ["a", "a", "a", "b"],
            "split": ["shot", "query", "query", "pretrain"],
            "height": 4,
            "width": 5,
            "cells": [1, 2, 0, 7],
            "mean_area": [10.0, 4.0, np.nan, 1.0],
        }
    )
    row = {"data": "a", "train": 1, "test": 2, "instances_test": 2, "height": 4, "width": 5}
    assert data_sets(images).to_dict("records") == [row | {"mean_area_px": 6.0}]


def test_committed_results_are_evidence() -> None:
    found = gathered(["released"])
    assert set(found.trials["profile"]) == {"released"}
    assert found.datasets is not None
    worms = found.datasets.set_index("data").loc["bbbc010_elegans"]
    assert worms[["train", "test", "instances_test"]].tolist() == [10, 39, 540]
    assert len(claims.judge(found)) == len(claims.load_claims().claims) + 1


def test_without_results_nothing_is_tested(results: Path) -> None:
    found = gathered(["released", "cpu"])
    assert found.trials.empty
    assert (found.purity, found.datasets, found.neighbours) == (None, None, None)
    verdicts = {finding.verdict for finding in claims.judge(found)}
    assert verdicts == {claims.Verdict.UNTESTED}


def test_styles_are_measured(results: Path) -> None:
    rng = np.random.default_rng(0)
    styles = pd.DataFrame(rng.normal(size=(20, 3)), columns=["s0", "s1", "s2"])
    styles.loc[10:, "s0"] += 50
    names = ["bbbc010_elegans"] * 10 + ["t98g_phase"] * 10
    styles.assign(data=names, image="x").to_csv(results / "fig2_styles.csv", index=False)
    found = gathered([])
    assert found.purity is not None
    assert found.purity.knn_accuracy == 1
    assert found.purity_of == ("bbbc010_elegans", "t98g_phase")


def test_damaged_table_is_named(results: Path) -> None:
    (results / "census.csv").write_text("")
    with pytest.raises(DatasetError, match=r"census\.csv: a table cannot be read"):
        gathered([])

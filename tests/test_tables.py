"""Tables of figures: read where they are committed, made once where they may be."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from scellseg_lib import paths
from scellseg_lib.errors import DatasetError
from scellseg_lib.experiment import tables
from scellseg_lib.experiment.profile import load_profile


def test_a_table_is_made_once_and_only_where_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    smoke, calls = load_profile("smoke"), []

    def make() -> pd.DataFrame:
        calls.append(1)
        return pd.DataFrame({"image": ["000", "1"], "area": [1 / 3, 2.0]})

    with pytest.raises(DatasetError, match=r"table sizes of the profile 'smoke'.*COMPUTE = True"):
        tables.kept("sizes", smoke, make)
    first = tables.kept("sizes", smoke, make, compute=True, data=["worms"])
    again = tables.kept("sizes", smoke, make)
    assert len(calls) == 1
    pd.testing.assert_frame_equal(first, again)
    assert first["image"].tolist() == ["000", "1"]
    origin = json.loads((tmp_path / "smoke" / "sizes.json").read_text())
    assert origin["data"] == ["worms"]
    assert {"commit", "versions"} <= origin.keys()
    assert sorted(f.name for f in (tmp_path / "smoke").iterdir()) == ["sizes.csv", "sizes.json"]

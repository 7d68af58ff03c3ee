"""Tables of figures: read where they are committed, made once where they may be."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from scellseg_lib import paths
from scellseg_lib.errors import DatasetError
from scellseg_lib.paper import tables
from scellseg_lib.paper.profile import load_profile


def test_a_table_is_made_once_and_only_where_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    smoke, calls = load_profile("smoke"), []

    def make() -> pd.DataFrame:
        calls.append(1)
        return pd.DataFrame({"image": ["000", "1"], "area": [1 / 3, 2.0]})

    with pytest.raises(DatasetError, match=r"table sizes of the profile 'smoke'.*COMPUTE = True"):
        tables.kept("sizes", smoke, make)
    first = tables.kept("sizes", smoke, make, compute=True, data=["worms"])
    again = tables.kept("sizes", smoke, make, data=["worms"])
    assert len(calls) == 1
    pd.testing.assert_frame_equal(first, again)
    assert first["image"].tolist() == ["000", "1"]
    origin = json.loads((tmp_path / "smoke" / "sizes.json").read_text())
    assert origin["data"] == ["worms"]
    assert {"commit", "versions"} <= origin.keys()
    assert sorted(f.name for f in (tmp_path / "smoke").iterdir()) == ["sizes.csv", "sizes.json"]


def test_a_table_of_something_else_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    smoke = load_profile("smoke")

    def asked(shots: tuple[str, ...], compute: bool = False) -> pd.DataFrame:
        def make() -> pd.DataFrame:
            return pd.DataFrame({"image": shots})

        return tables.kept("sizes", smoke, make, compute=compute, shots=shots, seed=0)

    asked(("A1", "A2"), compute=True)
    with pytest.raises(DatasetError, match="has not been computed of these shots"):
        asked(("A1", "B7"))
    assert asked(("A1", "A2"))["image"].tolist() == ["A1", "A2"]
    assert asked(("A1", "B7"), compute=True)["image"].tolist() == ["A1", "B7"]
    with pytest.raises(DatasetError, match="of these shots"):
        asked(("A1", "A2"))


def test_a_table_that_is_half_written_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    smoke = load_profile("smoke")
    tables.kept("sizes", smoke, lambda: pd.DataFrame({"area": [1]}), compute=True)
    (tmp_path / "smoke" / "sizes.json").unlink()  # it is written last
    with pytest.raises(DatasetError, match="has not been computed"):
        tables.kept("sizes", smoke, pd.DataFrame)
    frame = tables.kept("sizes", smoke, lambda: pd.DataFrame({"area": [2]}), compute=True)
    assert frame["area"].tolist() == [2]


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_damaged_table_is_named(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    smoke = load_profile("smoke")
    tables.kept("sizes", smoke, lambda: pd.DataFrame({"area": [1]}), compute=True)
    (tmp_path / "smoke" / f"sizes.{suffix}").write_text("" if suffix == "csv" else "{")
    with pytest.raises(DatasetError, match=rf"sizes.{suffix}: a table cannot be read"):
        tables.kept("sizes", smoke, pd.DataFrame)

"""Results that are kept: whole, named when damaged, never mixed up; tables made once."""

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from scellseg_lib import metrics, paths
from scellseg_lib.errors import DatasetError
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.run import average_scores
from scellseg_lib.paper.store import Store, load_or_compute
from tests.paper.made_up import make_origin, make_scores, make_trial


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_is_kept_comes_back(store):
    found = {"few": make_scores(0.25), "many": make_scores(0.75).assign(cell_threshold=0.0)}
    for (name, frame), seed in zip(found.items(), (1, 0), strict=True):
        store.put(name, frame, make_origin(make_trial(seed=seed)) | {"seconds": 3})
        assert name in store
        assert store.read_origin(name)["seconds"] == 3
        assert store.read_origin(name)["trial"]["shots"] == ["worm0", "worm1"]
    assert "none" not in store
    back = store.read_scores([make_trial(seed=seed) for seed in (0, 7, 1, 0)])
    assert back["key"].unique().tolist() == ["many", "few"]  # as they were asked for
    assert (back["n_shots"] == 2).all()
    for name, frame in found.items():
        mine = back[back["key"] == name]
        both = frame.merge(mine, on=["image", "threshold", "cell_threshold"], suffixes=("", "_b"))
        assert len(both) == len(frame) == len(mine)
        for column in ("ap", "tp", "fp", "fn", "aji", "aji_standard"):
            np.testing.assert_allclose(both[column], both[f"{column}_b"], atol=1e-6)
    with pytest.raises(DatasetError, match="no result of the 1 trials asked for"):
        store.read_scores([make_trial(seed=7)])
    table = average_scores(back).set_index("seed")
    for name in ("ap50", "ap75", "map", "maji"):  # the mean of (ap, 1) of two images
        np.testing.assert_allclose(table[name], [0.875, 0.625])


def test_what_another_version_gave_or_a_killed_run_has_half_written_is_no_result(store):
    trial = make_trial()
    store.put("now", make_scores(), make_origin(trial))
    store.put("before", make_scores(0.25), make_origin(trial, method=0))
    (store.folder / ".77.half.json").write_text('{"trial": {"da')
    assert store.list_keys() == ["before", "now"]
    assert set(store.read_scores()["key"]) == set(store.read_scores({trial})["key"]) == {"now"}
    assert [origin["key"] for origin in store.list_trials().values()] == ["now"]


def test_two_results_of_one_trial_are_not_averaged(store):
    """As after pre-training anew: other weights, the same trial."""
    for name in ("before", "now"):
        store.put(name, make_scores(), make_origin(make_trial(), weights_sha256=name))
    with pytest.raises(DatasetError, match="two results, before and now: of other images"):
        store.read_scores()
    assert set(store.read_scores({make_trial()}, keys=["now"])["key"]) == {"now"}


def test_empty_pictures_keep_their_ap_of_one_whatever_line_ends_a_checkout_has(store):
    nothing = np.zeros((5, 5), np.int32)
    frame = metrics.evaluate([nothing], [nothing]).assign(cell_threshold=0.5)
    store.put("empty", frame, make_origin(make_trial()))
    for file in store.folder.iterdir():
        file.write_text(file.read_text(), newline="\r\n")
    assert store.read_scores()["ap"].tolist() == [1] * len(frame)


SMOKE = load_profile("smoke")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "results", lambda profile: tmp_path / profile)
    return tmp_path / "smoke"


def test_a_table_is_made_once_and_only_where_it_may_be(folder):
    make = Mock(return_value=pd.DataFrame({"image": ["000", "1"], "area": [1 / 3, 2.0]}))
    with pytest.raises(DatasetError, match=r"table sizes of the profile 'smoke'.*COMPUTE = True"):
        load_or_compute("sizes", SMOKE, make)
    first = load_or_compute("sizes", SMOKE, make, compute=True, data=["worms"])
    again = load_or_compute("sizes", SMOKE, make, data=["worms"])
    assert make.call_count == 1
    pd.testing.assert_frame_equal(first, again)
    assert first["image"].tolist() == ["000", "1"]
    origin = json.loads((folder / "sizes.json").read_text())
    assert origin["data"] == ["worms"]
    assert {"commit", "versions"} <= origin.keys()
    assert sorted(file.name for file in folder.iterdir()) == ["sizes.csv", "sizes.json"]


def test_a_table_of_something_else_is_not_taken(folder):
    def ask(*shots: str, compute: bool = False) -> list[str]:
        options = {"compute": compute, "shots": shots, "seed": 0}
        frame = load_or_compute("sizes", SMOKE, lambda: pd.DataFrame({"image": shots}), **options)
        return frame["image"].tolist()

    ask("A1", "A2", compute=True)
    with pytest.raises(DatasetError, match="has not been computed of these shots"):
        ask("A1", "B7")
    assert ask("A1", "A2") == ["A1", "A2"]
    assert ask("A1", "B7", compute=True) == ["A1", "B7"]
    (folder / "sizes.json").unlink()  # it is written last: without it the table is half written
    with pytest.raises(DatasetError, match="has not been computed"):
        ask("A1", "B7")
    assert ask("A2", compute=True) == ["A2"]

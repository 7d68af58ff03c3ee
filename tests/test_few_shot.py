"""Few-shot trials: what is tuned by what, resumed where it stopped, and summed up right."""

from __future__ import annotations

import importlib

import numpy as np
import pandas as pd
import pytest

from scellseg_lib import augment, precision
from scellseg_lib.data import Dataset, Sample
from scellseg_lib.experiment import few_shot
from scellseg_lib.experiment.few_shot import FewShot, run, run_missing, table, trials
from scellseg_lib.model import new_model
from scellseg_lib.precision import Precision
from tests import tiny


@pytest.fixture
def data(monkeypatch) -> Dataset:
    """Three shots and two queries, with tiny models, small patches and two styles of contrast."""
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)
    monkeypatch.setattr(precision, "choose", lambda *_: Precision())
    module = importlib.import_module("scellseg_lib.finetune")
    monkeypatch.setattr(module, "_default_contrast", tiny.contrast)
    monkeypatch.setattr(few_shot, "choose", lambda *_: Precision())
    load = few_shot.load_model
    monkeypatch.setattr(
        few_shot,
        "load_model",
        lambda name, *weights: new_model(name, tiny.LEVELS) if weights else load(name),
    )
    query = tuple(Sample(s.name, s.read_image, s.read_masks, "query") for s in tiny.worms(2, 5))
    return Dataset("worms", "Worms", "", tiny.worms(3).samples + query)


def trial(strategy: str, **options) -> FewShot:
    return FewShot("scellseg", "packaged", strategy, **{"n_shots": 2, "steps": 1} | options)


def test_every_tuning_has_each_protocol_and_seed():
    found = trials("released", seeds=(0, 1))
    assert len(found) == len(set(found)) == 2 * (2 + 2 * 3)
    tuned = {t for t in found if t.strategy != "direct"}
    assert {t.protocol for t in tuned} == {"paper", "best"}
    assert {t.seed for t in tuned} == {0, 1}
    assert {t.seed for t in found if t.strategy == "direct"} == {0}
    assert {(t.n_shots, t.steps, t.weights) for t in found} == {(8, 100, "released")}


@pytest.mark.parametrize("strategy", ["direct", "classic", "contrastive"])
def test_a_trial_scores_each_query_at_each_threshold(strategy: str, data, tmp_path):
    frame = run(trial(strategy), new_model("scellseg", tiny.LEVELS), data, tmp_path)
    assert len(frame) == 2 * 2 * 10  # cell thresholds, images, IoU thresholds
    assert set(frame["cell_threshold"]) == {0.5, 0.0}
    assert set(frame["image"]) == {"worm5", "worm6"}
    assert set(frame["strategy"]) == {strategy}
    assert set(frame["precision"]) == {"fp32"}
    assert frame["weights_sha256"].nunique() == 1
    assert not frame[["ap", "aji"]].isna().any(axis=None)


def test_fine_tuning_gets_the_drawn_shots_and_queries_without_masks(data, tmp_path, monkeypatch):
    given = {}

    def finetune(model, shots, **options):
        given.update(options, shots=[s.name for s in shots])
        return model

    monkeypatch.setattr(few_shot, "finetune", finetune)
    run(trial("contrastive", seed=4), new_model("scellseg", tiny.LEVELS), data, tmp_path)
    assert given["shots"] == [s.name for s in data.shots(2, 4)]
    assert [s.read_masks for s in given["queries"]] == [None, None]
    assert (given["strategy"], given["steps"], given["seed"]) == ("contrastive", 1, 4)


def test_a_direct_model_takes_the_diameter_of_the_shots(data, tmp_path):
    start = new_model("scellseg", tiny.LEVELS)
    model = few_shot.tune(trial("direct", seed=1), start, data, tmp_path)
    assert model.card.diameter == data.shots(2, 1).diameter
    assert start.card.diameter == 30  # the model given is left alone


def test_protocols_decode_as_their_names_say(data, tmp_path, monkeypatch):
    seen = []
    predict, decode = few_shot.predict, few_shot.decode

    def watched_predict(*arguments, **options):
        seen.append(options["flips"])
        return predict(*arguments, **options)

    def watched_decode(*arguments, **options):
        seen.append(options["resample"])
        return decode(*arguments, **options)

    monkeypatch.setattr(few_shot, "predict", watched_predict)
    monkeypatch.setattr(few_shot, "decode", watched_decode)
    for protocol, expected in (("paper", {False}), ("best", {True})):
        seen.clear()
        run(trial("direct", protocol=protocol), new_model("scellseg", tiny.LEVELS), data, tmp_path)
        assert set(seen) == expected
        assert len(seen) == 5


def test_a_tuned_model_serves_both_protocols(data, tmp_path, monkeypatch):
    calls = []
    finetune = few_shot.finetune
    monkeypatch.setattr(few_shot, "finetune", lambda *a, **k: calls.append(1) or finetune(*a, **k))
    start = new_model("scellseg", tiny.LEVELS)
    first, again, other, longer = (
        few_shot.tune(each, model, data, tmp_path)
        for each, model in (
            (trial("classic"), start),
            (trial("classic", protocol="best"), start),
            (trial("classic"), new_model("scellseg", tiny.LEVELS, seed=9)),
            (trial("classic", steps=2), start),
        )
    )
    assert len(calls) == 3  # but not another start, nor another recipe
    assert first.card == again.card
    assert first.card.recipe["weights"] != other.card.recipe["weights"]
    assert longer.card.recipe["steps"] == 2
    assert not list(tmp_path.glob("*.checkpoint"))


def test_trials_that_are_there_are_not_run_again(data, tmp_path, monkeypatch):
    done = []
    real = few_shot.run

    def counted(each, *arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(each)
        return real(each, *arguments)

    monkeypatch.setattr(few_shot, "run", counted)
    results = tmp_path / "deeper" / "results.csv"
    wanted = [trial("direct", seed=s, protocol=p) for s in (0, 1) for p in ("paper", "best")]
    with pytest.raises(KeyboardInterrupt):
        run_missing(wanted, data, results, tmp_path)
    assert done == wanted[:2]  # both are in the file, though the third was cut off
    assert len(pd.read_csv(results)) == 2 * 40
    done.clear()
    frame = run_missing(wanted, data, results, tmp_path)
    assert done == wanted[2:]
    assert len(frame) == 4 * 40
    assert not frame.duplicated(["seed", "protocol", "cell_threshold", "image", "threshold"]).any()
    assert [file.name for file in results.parent.iterdir()] == ["results.csv"]
    before = results.read_bytes()
    run_missing(wanted, data, results, tmp_path)
    assert results.read_bytes() == before


def test_the_table_is_the_mean_over_images():
    thresholds = np.arange(0.5, 1, 0.05).round(2)
    rows = [
        {"image": image, "threshold": t, "ap": base * (1 - t), "aji": base / 2}
        for image, base in (("a", 0.4), ("b", 0.8))
        for t in thresholds
    ]
    keys = {"model": "scellseg", "weights": "packaged", "strategy": "classic", "seed": 0}
    keys |= {"data": "worms", "n_shots": 8, "steps": 100}
    parts = [
        pd.DataFrame(rows).assign(**keys, protocol=p, cell_threshold=0.5) for p in ("paper", "best")
    ]
    found = table(pd.concat(parts))
    assert found["protocol"].tolist() == ["paper", "best"]
    expected = {"ap50": 0.6 * 0.5, "ap75": 0.6 * 0.25, "map": 0.6 * 0.275, "maji": 0.3}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value)

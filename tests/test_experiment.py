"""Trials, their store and their runs: tuned by the right images, kept whole, never run twice."""

from __future__ import annotations

import ast
import hashlib
import itertools
import multiprocessing
import random
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scellseg_lib import augment, paths, precision
from scellseg_lib.checkpoint import weights_hash
from scellseg_lib.data import Dataset, Sample
from scellseg_lib.errors import DatasetError
from scellseg_lib.experiment import grid, run
from scellseg_lib.experiment.store import Store
from scellseg_lib.experiment.trial import METHOD_SOURCES, Trial, key
from scellseg_lib.metrics import evaluate
from scellseg_lib.model import new_model
from scellseg_lib.precision import Precision
from tests import tiny


@pytest.fixture
def data(monkeypatch) -> Dataset:
    """Three shots and two queries, with tiny models, small patches and two styles of contrast."""
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)
    monkeypatch.setattr(precision, "choose", lambda *_: Precision())
    monkeypatch.setattr(run, "choose", lambda *_: Precision())
    query = tuple(Sample(s.name, s.read_image, s.read_masks, "query") for s in tiny.worms(2, 5))
    worms = Dataset("worms", "Worms", "", tiny.worms(3).samples + query)
    load = run.load_model
    monkeypatch.setattr(
        run,
        "load_model",
        lambda name, *weights, levels=None: new_model(name, levels) if weights else load(name),
    )
    monkeypatch.setattr(run, "load_dataset", {"worms": worms, "two": tiny.contrast()}.get)
    return worms


def trial(strategy: str = "classic", **options) -> Trial:
    settings = {"shots": ("worm0", "worm1"), "steps": 1, "levels": tiny.LEVELS}
    settings["contrast"] = "two" if strategy == "contrastive" else ""
    return Trial("worms", "scellseg", "packaged", strategy, **settings | options)


def identity(each: Trial, data: Dataset) -> dict:
    return each.identity(data, tiny.contrast() if each.contrast else None, "weights")


def scores(ap: float = 0.5) -> pd.DataFrame:
    """Scores of two pictures of four cells: ``ap`` of them are found in one, all in the other."""
    true = np.kron([[1, 2], [3, 4]], np.ones((4, 4), int)).astype(np.int32)
    found = np.where(true <= round(4 * ap), true, 0)
    return evaluate([found, true], [true, true]).assign(cell_threshold=0.5)


def test_every_tuning_has_each_protocol_and_state(data):
    found = grid.few_shot(data, "released", n_shots=2, states=(0, 1))
    assert len(found) == len(set(found)) == 2 * (2 + 2 * 3)
    tuned = {t for t in found if t.strategy != "direct"}
    assert {t.protocol for t in tuned} == {"paper", "best"}
    assert {t.seed for t in tuned} == {0, 1}
    assert {t.seed for t in found if t.strategy == "direct"} == {0}
    assert {(t.n_shots, t.weights) for t in found} == {(2, "released")}
    for state in (0, 1):  # the shots of a state are the same for all models
        drawn = tuple(sample.name for sample in data.shots(2, state))
        assert {t.shots for t in found if t.seed == state} == {drawn}


def test_what_decides_the_scores_decides_the_key(data):
    base = trial()
    names = [key(identity(base, data))]
    others = {"seed": 1, "steps": 2, "strategy": "direct", "protocol": "best", "precision": "bf16"}
    others |= {"shots": ("worm1", "worm0"), "options": (("layers", "all"),)}
    names += [key(identity(replace(base, **{k: v}), data)) for k, v in others.items()]
    names.append(key(base.identity(data, None, "other weights")))
    names.append(key(base.identity(data, tiny.contrast(), "weights")))
    darker = [Sample(s.name, lambda s=s: s.image / 2, s.read_masks, s.split) for s in data]
    names.append(key(identity(base, replace(data, samples=tuple(darker)))))
    assert len(set(names)) == len(names) == 11
    assert names[0] == key(identity(trial(), data))


@pytest.mark.parametrize("strategy", ["direct", "classic", "contrastive"])
def test_a_trial_scores_each_query_at_each_threshold(strategy: str, data, tmp_path):
    start = new_model("scellseg", tiny.LEVELS)
    frame = run.run(trial(strategy), start, data, tiny.contrast(), tmp_path)
    assert len(frame) == 2 * 2 * 10  # cell thresholds, images, IoU thresholds
    assert set(frame["cell_threshold"]) == {0.5, 0.0}
    assert set(frame["image"]) == {"worm5", "worm6"}
    assert not frame[["ap", "aji"]].isna().any(axis=None)


def test_fine_tuning_gets_the_shots_the_options_and_queries_without_masks(
    data, tmp_path, monkeypatch
):
    given = {}

    def finetune(model, shots, **options):
        given.update(options, shots=[s.name for s in shots])
        return model

    monkeypatch.setattr(run, "finetune", finetune)
    options = {"shots": ("worm2", "worm0"), "seed": 4, "options": (("alpha", "fixed"),)}
    start, contrast = new_model("scellseg", tiny.LEVELS), tiny.contrast()
    run.run(trial("contrastive", **options), start, data, contrast, tmp_path)
    assert given["contrast"] is contrast
    assert given["shots"] == ["worm2", "worm0"]
    assert [s.name for s in given["queries"]] == ["worm5", "worm6"]
    assert [s.read_masks for s in given["queries"]] == [None, None]
    assert (given["strategy"], given["steps"], given["seed"]) == ("contrastive", 1, 4)
    assert given["alpha"] == "fixed"


def test_a_direct_model_takes_the_diameter_of_the_shots(data, tmp_path):
    start = new_model("scellseg", tiny.LEVELS)
    model = run.tune(trial("direct"), start, data, None, tmp_path)
    assert model.card.diameter == trial().shot_samples(data).diameter
    assert start.card.diameter == 30  # the model given is left alone


def test_protocols_decode_as_their_names_say(data, tmp_path, monkeypatch):
    seen = []
    predict, decode = run.predict, run.decode

    def watched_predict(*arguments, **options):
        seen.append(options["flips"])
        return predict(*arguments, **options)

    def watched_decode(*arguments, **options):
        seen.append(options["resample"])
        return decode(*arguments, **options)

    monkeypatch.setattr(run, "predict", watched_predict)
    monkeypatch.setattr(run, "decode", watched_decode)
    for protocol, expected in (("paper", {False}), ("best", {True})):
        seen.clear()
        each = trial("direct", protocol=protocol)
        run.run(each, new_model("scellseg", tiny.LEVELS), data, None, tmp_path)
        assert set(seen) == expected
        assert len(seen) == 5


def test_a_tuned_model_serves_both_protocols(data, tmp_path, monkeypatch):
    calls = []
    finetune = run.finetune
    monkeypatch.setattr(run, "finetune", lambda *a, **k: calls.append(1) or finetune(*a, **k))
    start = new_model("scellseg", tiny.LEVELS)
    first, again, other, longer = (
        run.tune(each, model, data, None, tmp_path)
        for each, model in (
            (trial(), start),
            (trial(protocol="best"), start),
            (trial(), new_model("scellseg", tiny.LEVELS, seed=9)),
            (trial(steps=2), start),
        )
    )
    assert len(calls) == 3  # but not another start, nor another recipe
    assert first.card == again.card
    assert first.card.recipe["weights"] != other.card.recipe["weights"]
    assert longer.card.recipe["steps"] == 2
    assert not list(tmp_path.glob("*.checkpoint"))


def test_trials_that_are_there_are_not_run_again(data, tmp_path, monkeypatch):
    done, real = [], run.run

    def counted(each, *arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(each)
        return real(each, *arguments)

    monkeypatch.setattr(run, "run", counted)
    store = Store(tmp_path / "deeper" / "trials")
    wanted = [trial("direct", seed=s, protocol=p) for s in (0, 1) for p in ("paper", "best")]
    with pytest.raises(KeyboardInterrupt):
        run.run_missing(wanted, store, tmp_path)
    assert done == wanted[:2]  # both are kept, though the third was cut off
    assert len(store.frame()) == 2 * 40
    done.clear()
    keys = run.run_missing(wanted, store, tmp_path)
    assert done == wanted[2:]
    frame = store.frame()
    assert set(frame["key"]) == set(keys)
    assert not frame.duplicated(["key", "cell_threshold", "image", "threshold"]).any()
    before = {file.name: file.read_bytes() for file in store.folder.iterdir()}
    assert len(before) == 2 * 4
    assert run.run_missing(wanted, store, tmp_path) == keys
    assert {file.name: file.read_bytes() for file in store.folder.iterdir()} == before
    assert run.run_missing([trial(seed=9)], store, tmp_path, limit_seconds=0.0) == []


def test_what_is_kept_comes_back(data, tmp_path):
    store = Store(tmp_path)
    found = {"few": scores(0.25), "many": scores(0.75).assign(cell_threshold=0.0)}
    for (name, frame), seed in zip(found.items(), (1, 0), strict=True):
        known = {"trial": identity(trial(seed=seed), data), "seconds": 3}
        store.put(name, frame, known)
        assert name in store
        assert store.origin(name)["seconds"] == 3
        assert store.origin(name)["trial"]["shots"] == ["worm0", "worm1"]
    assert "none" not in store
    back = store.frame()
    assert back["key"].unique().tolist() == ["many", "few"]  # by random state
    assert (back["n_shots"] == 2).all()
    for name, frame in found.items():
        mine = back[back["key"] == name]
        both = frame.merge(mine, on=["image", "threshold", "cell_threshold"], suffixes=("", "_b"))
        assert len(both) == len(frame) == len(mine)
        for column in ("ap", "tp", "fp", "fn", "aji", "aji_standard"):
            np.testing.assert_allclose(both[column], both[f"{column}_b"], atol=1e-6)
    assert set(store.frame(seed=1)["key"]) == {"few"}
    with pytest.raises(DatasetError, match=r"no result of .*'seed': 7"):
        store.frame(seed=7)


def test_empty_pictures_keep_their_ap_of_one(data, tmp_path):
    nothing = np.zeros((5, 5), np.int32)
    frame = evaluate([nothing], [nothing]).assign(cell_threshold=0.5)
    Store(tmp_path).put("empty", frame, {"trial": identity(trial(), data)})
    assert (Store(tmp_path).frame()["ap"] == 1).all()


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_a_damaged_result_is_named(suffix: str, data, tmp_path):
    Store(tmp_path).put("one", scores(), {"trial": identity(trial(), data)})
    file = tmp_path / f"one.{suffix}"
    file.write_text(file.read_text()[:20])
    with pytest.raises(DatasetError, match=rf"one\.{suffix}.*cannot be read"):
        Store(tmp_path).frame()


def test_a_store_that_is_killed_at_any_moment_holds_whole_results(tmp_path):
    """Twenty times a process that puts results one after the other is killed."""
    fork, moments = multiprocessing.get_context("fork"), random.Random(0)
    for _ in range(20):
        began = fork.Event()
        process = fork.Process(target=_put_for_ever, args=(tmp_path, began))
        process.start()
        assert began.wait(60)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    frame = Store(tmp_path).frame()
    sizes = frame.groupby("key").size()
    assert len(sizes) == len(list(tmp_path.glob("*.json"))) >= 20
    assert (sizes == 20).all()
    seeds = sorted(frame["seed"].unique())
    assert seeds == list(range(len(seeds)))  # no result was lost, none put twice under a new name


def _put_for_ever(folder: Path, began) -> None:
    store, frame = Store(folder), scores()
    for seed in itertools.count():
        if f"trial{seed}" not in store:
            store.put(f"trial{seed}", frame, {"trial": asdict(trial(seed=seed))})
            began.set()


def test_the_table_is_the_mean_over_images(data, tmp_path):
    store = Store(tmp_path)
    for strategy, ap in itertools.product(("classic",), (0.25, 0.75)):
        seed = int(ap > 0.5)
        store.put(str(seed), scores(ap), {"trial": identity(trial(strategy, seed=seed), data)})
    found = run.table(store.frame())
    assert found["seed"].tolist() == [0, 1]
    for name in ("ap50", "ap75", "map", "maji"):  # the mean of (ap, 1) of two images
        np.testing.assert_allclose(found[name], [0.625, 0.875])


def test_trials_that_differ_in_anything_stay_apart(data, tmp_path):
    store = Store(tmp_path)
    for steps in (100, 300):
        store.put(str(steps), scores(), {"trial": identity(trial(steps=steps), data)})
    assert run.table(store.frame())["key"].tolist() == ["100", "300"]
    assert store.frame(steps=300, n_shots=2, levels=tiny.LEVELS)["key"].unique() == ["300"]
    with pytest.raises(DatasetError, match=r"have no \['stepz'\]"):
        store.frame(stepz=300)


def test_a_killed_tuning_goes_on_in_the_layout_that_it_began_with(data, tmp_path, monkeypatch):
    whole = run.tune(trial(steps=3), new_model("scellseg", tiny.LEVELS), data, None, tmp_path / "a")
    finetune = run.finetune

    def killed(*arguments, **options):
        def stop(progress):
            if progress.step == 2:
                raise KeyboardInterrupt

        return finetune(*arguments, checkpoint_every=1, callback=stop, **options)

    monkeypatch.setattr(run, "finetune", killed)
    with pytest.raises(KeyboardInterrupt):
        run.tune(trial(steps=3), new_model("scellseg", tiny.LEVELS), data, None, tmp_path / "b")
    monkeypatch.setattr(run, "finetune", finetune)
    monkeypatch.setattr(run, "choose", lambda *_: Precision(channels_last=True))
    model = run.tune(trial(steps=3), new_model("scellseg", tiny.LEVELS), data, None, tmp_path / "b")
    assert weights_hash(model.network) == weights_hash(whole.network)
    assert model.card.recipe["precision"] == {"dtype": "fp32", "channels_last": False}


METHOD = ("samples", "augment", "tiles", "flows", "network", "finetune", "contrast", "segment")
METHOD += ("metrics", "representation/base", "representation/flow", "representation/hover")
METHOD += ("representation/semantic",)


def test_the_method_has_not_changed_under_its_version():
    """Blank lines, comments and docstrings aside.

    When it fails: raise `METHOD_VERSION` if the change moves any score, then write the new hash.
    """
    digest = hashlib.sha256()
    for name in METHOD:
        source = (paths.PACKAGE / f"{name}.py").read_text()
        said = {
            line
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for line in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        for number, line in enumerate(source.splitlines(), start=1):
            if number not in said and (code := line.partition("  # ")[0].strip()):
                digest.update(b"" if code.startswith("#") else code.encode())
    assert digest.hexdigest()[:16] == METHOD_SOURCES

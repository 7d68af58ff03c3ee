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

from scellseg_lib import augment, paths
from scellseg_lib import device as precision
from scellseg_lib import training as checkpoint
from scellseg_lib.device import Precision
from scellseg_lib.errors import DatasetError
from scellseg_lib.metrics import evaluate
from scellseg_lib.model import new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.paper import as_released, run
from scellseg_lib.paper.store import Store
from scellseg_lib.paper.trial import METHOD_SOURCES, METHOD_VERSION, PROTOCOLS, Trial, key
from scellseg_lib.pretraining import PretrainRecipe, log_of
from scellseg_lib.samples import Dataset, Sample
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
    monkeypatch.setattr(run, "_images", {"worms": worms, "two": tiny.contrast()}.__getitem__)
    return worms


def trial(strategy: str = "classic", **options) -> Trial:
    settings = {"shots": ("worm0", "worm1"), "steps": 1, "levels": tiny.LEVELS}
    settings["contrast"] = "two" if strategy == "contrastive" else ""
    return Trial("worms", "scellseg", "packaged", strategy, **settings | options)


def images(data: Dataset) -> dict[str, Dataset]:
    return {"worms": data, "two": tiny.contrast()}


def identity(each: Trial, data: Dataset) -> dict:
    return each.identity(images(data), "weights")


def place(folder: Path) -> run.Place:
    return run.Place(Store(folder / "store"), folder)


def scores(ap: float = 0.5) -> pd.DataFrame:
    """Scores of two pictures of four cells: ``ap`` of them are found in one, all in the other."""
    true = np.kron([[1, 2], [3, 4]], np.ones((4, 4), int)).astype(np.int32)
    found = np.where(true <= round(4 * ap), true, 0)
    return evaluate([found, true], [true, true]).assign(cell_threshold=0.5)


def test_what_decides_the_scores_decides_the_key(data):
    base = trial()
    names = [key(identity(base, data))]
    others = {"seed": 1, "steps": 2, "strategy": "direct", "protocol": "best", "precision": "bf16"}
    others |= {"shots": ("worm1", "worm0"), "options": (("layers", "all"),)}
    names += [key(identity(replace(base, **{k: v}), data)) for k, v in others.items()]
    others = {"split": "held_out", "queries": "shot", "contrast": "two", "tested_on": "worms"}
    names += [key(identity(replace(base, **{k: v}), data)) for k, v in others.items()]
    contrastive = trial("contrastive")
    others = {"seed": 0, "split": "held_out", "queries": "shot", "tested_on": "worms"}
    names += [key(identity(replace(contrastive, **{k: v}), data)) for k, v in others.items()]
    names.append(key(base.identity(images(data), "other weights")))
    darker = [Sample(s.name, lambda s=s: s.image / 2, s.read_masks, s.split) for s in data]
    names.append(key(identity(base, replace(data, samples=tuple(darker)))))
    assert len(set(names)) == len(names) == 18
    assert names[0] == key(identity(trial(), data))


@pytest.mark.parametrize("strategy", ["direct", "classic", "contrastive"])
def test_a_trial_scores_each_query_at_each_threshold(strategy: str, data, tmp_path):
    start = new_model("scellseg", tiny.LEVELS)
    frame = run.run(trial(strategy), start, images(data), tmp_path)
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
    start, known = new_model("scellseg", tiny.LEVELS), images(data)
    run.run(trial("contrastive", **options), start, known, tmp_path)
    assert given["contrast"] is known["two"]
    assert given["shots"] == ["worm2", "worm0"]
    assert [s.name for s in given["queries"]] == ["worm5", "worm6"]
    assert [s.read_masks for s in given["queries"]] == [None, None]
    assert (given["strategy"], given["steps"], given["seed"]) == ("contrastive", 1, 4)
    assert given["alpha"] == "fixed"


def test_a_direct_model_takes_the_diameter_of_the_shots(data, tmp_path):
    start = new_model("scellseg", tiny.LEVELS)
    model = run.tune(trial("direct"), start, images(data), tmp_path)
    assert model.card.diameter == trial().shot_samples(images(data)).diameter
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
    for protocol, (resample, flips, other) in PROTOCOLS.items():
        if other:
            continue  # of other models than this one
        seen.clear()
        each = trial("direct", protocol=protocol)
        run.run(each, new_model("scellseg", tiny.LEVELS), images(data), tmp_path)
        assert seen == [flips, *[resample] * 4]  # two images at two thresholds
    assert [*PROTOCOLS] == ["paper", "flips", "resample", "best", "as_released"]


@pytest.mark.parametrize("name", ["hover", "unet2", "unet3"])
def test_the_released_decoders_serve_their_protocol_alone(name, data, tmp_path, monkeypatch):
    decoders, original = [], as_released.decoder

    def decoder(*arguments):
        decoders.append(original(*arguments))
        return decoders[-1]

    monkeypatch.setattr(as_released, "decoder", decoder)
    start, each = new_model(name, tiny.LEVELS), replace(trial(), model=name)
    run.run(each, start, images(data), tmp_path)
    assert not decoders
    frame = run.run(replace(each, protocol="as_released"), start, images(data), tmp_path)
    assert len(decoders) == 1
    assert not frame["ap"].isna().any()


def test_a_tuned_model_serves_both_protocols(data, tmp_path, monkeypatch):
    calls = []
    finetune = run.finetune
    monkeypatch.setattr(run, "finetune", lambda *a, **k: calls.append(1) or finetune(*a, **k))
    start = new_model("scellseg", tiny.LEVELS)
    first, again, other, longer = (
        run.tune(each, model, images(data), tmp_path)
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
    here = run.Place(Store(tmp_path / "deeper" / "trials"), tmp_path)
    wanted = [trial("direct", seed=s, protocol=p) for s in (0, 1) for p in ("paper", "best")]
    with pytest.raises(KeyboardInterrupt):
        run.run_missing(wanted, here)
    assert done == wanted[:2]  # both are kept, though the third was cut off
    assert len(here.store.frame()) == 2 * 40
    assert set(here.store.trials()) == set(done)
    done.clear()
    outcome = run.run_missing(wanted, here)
    assert done == wanted[2:]
    assert (outcome.computed, outcome.failed) == (2, {})
    frame = here.store.frame()
    assert set(frame["key"]) == set(outcome.keys)
    assert not frame.duplicated(["key", "cell_threshold", "image", "threshold"]).any()
    before = {file.name: file.read_bytes() for file in here.store.folder.iterdir()}
    assert len(before) == 2 * 4
    again = run.run_missing(wanted, here)
    assert (again.keys, again.computed) == (outcome.keys, 0)
    assert {file.name: file.read_bytes() for file in here.store.folder.iterdir()} == before
    late = run.run_missing([trial(seed=9)], here, limit_seconds=-1.0)
    assert (late.keys, late.failed) == ([], {})


def test_a_trial_that_fails_is_named_and_stops_no_other(data, tmp_path):
    poisoned, sound = trial("direct", shots=("no such image",)), trial("direct")
    outcome = run.run_missing([poisoned, sound], place(tmp_path))
    assert list(outcome.failed) == [poisoned]
    assert "no such image" in outcome.failed[poisoned]
    assert (len(outcome.keys), outcome.computed) == (1, 1)


def test_held_out_images_are_those_of_the_pool_that_are_no_shots(data):
    tested = trial(split="held_out").tested(images(data))
    assert [sample.name for sample in tested] == ["worm2"]


def test_images_of_another_set_are_scaled_by_their_own_cells(data, monkeypatch):
    sizes = {"narrow": 30.0, "wide": 40.0, "empty": float("nan")}
    monkeypatch.setattr(Sample, "diameter", property(lambda sample: sizes[sample.name]))
    seen = []

    def watched(model, samples, *, diameter, **options):
        seen.append((samples[0].name, samples[0].read_masks, diameter))
        return iter(())

    monkeypatch.setattr(run, "predict", watched)
    samples = tuple(Sample(name, data[0].read_image, split="query") for name in sizes)
    other, each = replace(data, samples=samples), trial("direct", tested_on="other")
    known = {"worms": data, "other": other}
    run._predicted(each, new_model("scellseg", tiny.LEVELS), known)
    # One without cells is taken at the mean of the others.
    assert seen == [("narrow", None, 30.0), ("wide", None, 40.0), ("empty", None, 35.0)]
    assert each.tested(known).samples == samples


def test_inductive_queries_come_from_the_pool(data):
    queries = trial("contrastive", queries="shot").query_samples(images(data))
    assert [s.name for s in queries] == ["worm0", "worm1", "worm2"]
    assert [s.read_masks for s in queries] == [None] * 3


def test_one_tuned_model_serves_all_scorings():
    tuned = {t.tuning() for t in (trial(protocol=p, tested_on=x) for p in PROTOCOLS for x in "ab")}
    assert len(tuned) == 1


def test_a_model_of_a_subset_is_pretrained_once(data, tmp_path, monkeypatch):
    calls = []

    def pretrain(name, datasets, **options):
        calls.append((name, datasets, options["recipe"]))
        options["checkpoint"].touch()
        model = new_model(name, options["levels"])
        model.log = [{"step": 1, "loss": 2.0}]
        return model

    monkeypatch.setattr(run, "pretrain", pretrain)
    monkeypatch.setattr(run, "load_pretraining_subset", lambda name: [f"images of {name}", "none"])
    monkeypatch.setattr(run, "_whole", lambda images: images.replace("none", ""))
    recipe = PretrainRecipe(steps=3)
    here = run.Place(Store(tmp_path / "store"), tmp_path, recipe)
    each = replace(trial("direct"), weights="subset:micro")
    first, again = run.start(each, here), run.start(each, here)
    assert calls == [("scellseg", ["images of micro"], recipe)]  # of "none" all are damaged
    assert weights_hash(first.network) == weights_hash(again.network)
    assert not list(tmp_path.glob("*.checkpoint"))
    (file,) = tmp_path.glob("*.safetensors")
    assert file == run.pretrained_file(each, here)
    assert pd.read_csv(log_of(file)).to_dict("list") == {"step": [1], "loss": [2.0]}
    run.start(each, replace(here, pretraining=PretrainRecipe(steps=4)))
    assert len(calls) == 2  # by another recipe it is another model


def test_a_damaged_image_is_left_out_of_pretraining_with_a_warning(data):
    broken = Sample("bad", data[0].read_image, lambda: np.zeros((3, 3), np.int32))
    more = replace(data, samples=(*data.samples, broken))
    with pytest.warns(UserWarning, match=rf"1 of the {len(more)} images .* left out, the first: "):
        assert run._whole(more).samples == data.samples
    assert run._whole(data).samples == data.samples


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


def test_results_of_another_version_of_the_method_do_not_count(data, tmp_path):
    store, each = Store(tmp_path), trial()
    store.put("now", scores(), {"trial": identity(each, data)})
    store.put("before", scores(0.25), {"trial": identity(each, data) | {"method": 0}})
    assert set(store.frame()["key"]) == set(store.frame(among={each})["key"]) == {"now"}
    assert [origin["key"] for origin in store.trials().values()] == ["now"]


def test_two_results_of_one_trial_are_not_averaged(data, tmp_path):
    """As after pre-training anew: other weights, the same trial."""
    store, each = Store(tmp_path), trial()
    for name in ("before", "now"):
        store.put(name, scores(), {"trial": identity(each, data) | {"weights_sha256": name}})
    with pytest.raises(DatasetError, match="two results, before and now: of other images"):
        store.frame()
    assert set(store.frame(among={each}, keys=["now"])["key"]) == {"now"}


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


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.95])
def test_a_table_that_was_cut_is_never_read(share: float, data, tmp_path):
    """Not at a row's end either, where each line that is left is whole."""
    Store(tmp_path).put("one", scores(), {"trial": identity(trial(), data)})
    file = tmp_path / "one.csv"
    lines = file.read_text().splitlines(keepends=True)
    text = "".join(lines)
    for left in (text[: round(share * len(text))], "".join(lines[: int(share * len(lines))])):
        file.write_text(left)
        with pytest.raises(DatasetError, match=r"one\.csv.*cannot be read"):
            Store(tmp_path).frame()
    file.write_text(text, newline="\r\n")  # as git may check it out
    assert len(Store(tmp_path).frame()) == len(scores())


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
    assert len(sizes) == len(Store(tmp_path).keys()) >= 20
    assert (sizes == 20).all()
    seeds = sorted(frame["seed"].unique())
    assert seeds == list(range(len(seeds)))  # no result was lost, none put twice under a new name


def test_what_a_killed_run_has_half_written_is_no_result(tmp_path):
    store = Store(tmp_path)
    store.put("whole", scores(), {"trial": asdict(trial()) | {"method": 1}})
    (tmp_path / ".77.half.json").write_text('{"trial": {"da')
    assert store.keys() == ["whole"]
    assert set(store.frame()["key"]) == {"whole"}
    assert [origin["key"] for origin in store.trials().values()] == ["whole"]


def _put_for_ever(folder: Path, began) -> None:
    store, frame = Store(folder), scores()
    for seed in itertools.count():
        if f"trial{seed}" not in store:
            said = asdict(trial(seed=seed)) | {"method": METHOD_VERSION}
            store.put(f"trial{seed}", frame, {"trial": said})
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
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    start, known = new_model("scellseg", tiny.LEVELS), images(data)
    whole = run.tune(trial(steps=3), start, known, tmp_path / "a")
    finetune = run.finetune

    def killed(*arguments, **options):
        def stop(progress):
            if progress.step == 2:
                raise KeyboardInterrupt

        return finetune(*arguments, callback=stop, **options)

    monkeypatch.setattr(run, "finetune", killed)
    with pytest.raises(KeyboardInterrupt):
        run.tune(trial(steps=3), start, known, tmp_path / "b")
    monkeypatch.setattr(run, "finetune", finetune)
    monkeypatch.setattr(run, "choose", lambda *_: Precision(channels_last=True))
    model = run.tune(
        trial(steps=3), new_model("scellseg", tiny.LEVELS), images(data), tmp_path / "b"
    )
    assert weights_hash(model.network) == weights_hash(whole.network)
    assert model.card.recipe["precision"] == {"dtype": "fp32", "channels_last": False}


METHOD = ("samples", "augment", "tiles", "flows", "network", "finetuning", "contrast")
METHOD += ("segmentation", "metrics", "representation/base", "representation/flow")
METHOD += ("representation/hover", "representation/semantic", "datasets/load", "model")
METHOD += ("datasets/weights", "paper/run", "paper/as_released")


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

"""Trials and their runs: what names them, tuned by the right images, never computed twice."""

import ast
import hashlib
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

from scellseg_lib import Dataset, Sample, augment, device, paths, pretraining, training
from scellseg_lib.model import new_model
from scellseg_lib.network import weights_hash
from scellseg_lib.paper import as_released, run, store
from scellseg_lib.paper.trial import METHOD_SOURCES, PROTOCOLS, Trial, hash_identity
from tests import tiny
from tests.paper.made_up import make_trial

pytestmark = pytest.mark.slow


@pytest.fixture
def data(monkeypatch) -> Dataset:
    """Three shots and two queries, with tiny models, small patches and two styles of contrast."""
    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)
    monkeypatch.setattr("scellseg_lib.device.choose_precision", lambda *_: device.Precision())
    monkeypatch.setattr(run, "choose_precision", lambda *_: device.Precision())
    query = tuple(Sample(s.name, s.read_image, s.read_masks, "query") for s in tiny.worms(2, 5))
    worms = Dataset("worms", "Worms", "", tiny.worms(3).samples + query)

    def load(name, *weights, levels=None, load=run.load_model):
        return new_model(name, levels) if weights else load(name)

    monkeypatch.setattr(run, "load_model", load)
    monkeypatch.setattr(run, "_load_once", images(worms).__getitem__)
    return worms


@pytest.fixture
def start():
    return new_model("scellseg", tiny.LEVELS)


def images(data: Dataset) -> dict[str, Dataset]:
    return {"worms": data, "two": tiny.contrast()}


def test_what_decides_the_scores_decides_the_key(data):
    def name(trial: Trial, of: Dataset = data, weights: str = "weights") -> str:
        return hash_identity(trial.identify(images(of), weights))

    base, contrastive = make_trial(), make_trial("contrastive")
    changes = {"seed": 1, "steps": 2, "strategy": "direct", "protocol": "best", "precision": "bf16"}
    changes |= {"shots": ("worm1", "worm0"), "options": (("layers", "all"),), "contrast": "two"}
    others = {"split": "held_out", "queries": "shot", "tested_on": "worms", "recalibrated": "shot"}
    names = [name(base), name(contrastive)]
    names += [name(replace(base, **{k: v})) for k, v in (changes | others).items()]
    names += [name(replace(contrastive, **{k: v})) for k, v in others.items()]
    darker = [Sample(s.name, lambda s=s: s.image / 2, s.read_masks, s.split) for s in data]
    names += [name(base, weights="others"), name(base, replace(data, samples=tuple(darker)))]
    assert len(set(names)) == len(names) == 20
    assert names[0] == name(make_trial())


def test_images_of_a_trial(data):
    known = images(data)
    (held_out,) = make_trial(split="held_out").select_tested(known)
    assert held_out.name == "worm2"
    inductive = make_trial("contrastive", queries="shot").select_queries(known)
    seen = [(sample.name, sample.read_masks) for sample in inductive]
    assert seen == [("worm0", None), ("worm1", None), ("worm2", None)]
    # One tuned model serves all scorings.
    each = [make_trial(protocol=p, tested_on=other) for p in PROTOCOLS for other in "ab"]
    each += [make_trial(recalibrated=way, contrast="two") for way in ("shot", "released")]
    assert len({trial.drop_scoring() for trial in each}) == 1


def test_fine_tuning_gets_shots_options_and_bare_queries(data, start, tmp_path, monkeypatch):
    finetune = Mock(return_value=start)
    monkeypatch.setattr(run, "finetune", finetune)
    options = {"shots": ("worm2", "worm0"), "seed": 4, "options": (("alpha", "fixed"),)}
    known = images(data)
    run.tune(make_trial("contrastive", **options), start, known, tmp_path)
    given = finetune.call_args.kwargs
    assert given["contrast"] is known["two"]
    assert [s.name for s in finetune.call_args.args[1]] == ["worm2", "worm0"]
    assert [(s.name, s.read_masks) for s in given["queries"]] == [("worm5", None), ("worm6", None)]
    assert (given["strategy"], given["steps"], given["seed"]) == ("contrastive", 1, 4)
    assert given["alpha"] == "fixed"


def test_a_direct_model_takes_the_diameter_of_the_shots(data, start, tmp_path):
    model = run.tune(make_trial("direct"), start, images(data), tmp_path)
    assert model.card.diameter == make_trial().select_shots(images(data)).diameter
    assert start.card.diameter == 30  # the model given is left alone


def test_protocols_decode_as_their_names_say(data, start, monkeypatch):
    """Each flips and resamples as it says; the released decoders serve their own alone."""
    predict, decode = Mock(wraps=run.predict), Mock(wraps=run.decode)
    choose = Mock(wraps=as_released.choose_decoder)
    monkeypatch.setattr(run, "predict", predict)
    monkeypatch.setattr(run, "decode", decode)
    monkeypatch.setattr(as_released, "choose_decoder", choose)
    others = [new_model(name, tiny.LEVELS) for name in ("hover", "unet2")]
    for protocol, (resample, flips, released) in PROTOCOLS.items():
        for model in others if released else [start]:
            trial = make_trial("direct", protocol=protocol)
            _, decode_at = run._predict(trial, model, images(data))
            assert [masks.dtype for masks in decode_at(0.5)] == [np.int32] * 2
            assert predict.call_args.kwargs["flips"] == flips
            assert [c.kwargs["resample"] for c in decode.call_args_list[-2:]] == [resample] * 2
            assert choose.called == released
    assert [*PROTOCOLS] == ["paper", "flips", "resample", "best", "as_released"]


def test_statistics_are_estimated_anew_of_what_a_trial_says(data, start):
    """Of the shots or the queries, and of query and contrast patches in one pass or in both."""
    parts = {"": "none of them", "shot": "", "encoder": "extractor.down", "released": "extractor"}
    states = {}
    for way in (*parts, "query"):
        model = start.copy()
        run._predict(make_trial(recalibrated=way, contrast="two"), model, images(data))
        states[way] = {k: v for k, v in model.network.state_dict().items() if "running" in k}
        before = states["shot" if way in ("encoder", "released") else ""]
        differing = {key for key in before if not torch.equal(before[key], states[way][key])}
        assert differing == {key for key in before if key.startswith(parts.get(way, ""))}


def test_a_tuned_model_serves_both_protocols(data, start, tmp_path, monkeypatch):
    finetune = Mock(wraps=run.finetune)
    monkeypatch.setattr(run, "finetune", finetune)
    elsewhere = new_model("scellseg", tiny.LEVELS, seed=9)
    asked = [(make_trial(), start), (make_trial(protocol="best"), start)]
    asked += [(make_trial(), elsewhere), (make_trial(steps=2), start)]
    first, again, other, longer = (run.tune(*one, images(data), tmp_path) for one in asked)
    assert finetune.call_count == 3  # but not another start, nor another recipe
    # A file that an earlier version has left does not say that the paper's normalisation is meant.
    assert again.card == as_released.as_paper(first).card != first.card
    assert first.card.recipe["weights"] != other.card.recipe["weights"]
    assert longer.card.recipe["steps"] == 2
    assert not list(tmp_path.glob("*.checkpoint"))


def test_a_trial_that_fails_is_named_and_stops_no_other(data, tmp_path):
    poisoned, sound = make_trial("direct", shots=("no such image",)), make_trial("direct")
    workspace = run.Workspace(store.Store(tmp_path / "store"), tmp_path)
    outcome = run.compute_missing([poisoned, sound], workspace)
    assert list(outcome.failed) == [poisoned]
    assert "no such image" in outcome.failed[poisoned]
    assert (len(outcome.keys), outcome.computed) == (1, 1)
    again = run.compute_missing([sound], workspace)
    assert (again.keys, again.computed) == (outcome.keys, 0)
    late = run.compute_missing([make_trial(seed=9)], workspace, limit_seconds=-1.0)
    assert (late.keys, late.failed) == ([], {})


def test_images_of_another_set_are_scaled_by_their_own_cells(data, start, monkeypatch):
    sizes = {"narrow": 30.0, "wide": 40.0, "empty": float("nan")}
    monkeypatch.setattr(Sample, "diameter", property(lambda sample: sizes[sample.name]))
    predict = Mock(return_value=())
    monkeypatch.setattr(run, "predict", predict)
    samples = tuple(Sample(name, data[0].read_image, split="query") for name in sizes)
    other, trial = replace(data, samples=samples), make_trial("direct", tested_on="other")
    run._predict(trial, start, {"worms": data, "other": other})
    seen = [(*call.args[1], call.kwargs["diameter"]) for call in predict.call_args_list]
    seen = [(sample.name, sample.read_masks, diameter) for sample, diameter in seen]
    # One without cells is taken at the mean of the others.
    assert seen == [("narrow", None, 30.0), ("wide", None, 40.0), ("empty", None, 35.0)]


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
    monkeypatch.setattr(run, "_drop_damaged", lambda images: images.replace("none", ""))
    recipe = pretraining.PretrainRecipe(steps=3)
    workspace = run.Workspace(store.Store(tmp_path / "store"), tmp_path, recipe)
    trial = replace(make_trial("direct"), weights="subset:micro")
    first, again = run.load_start(trial, workspace), run.load_start(trial, workspace)
    assert calls == [("scellseg", ["images of micro"], recipe)]  # of "none" all are damaged
    assert weights_hash(first.network) == weights_hash(again.network)
    assert not list(tmp_path.glob("*.checkpoint"))
    (file,) = tmp_path.glob("*.safetensors")
    assert file == run.locate_pretrained(trial, workspace)
    assert pd.read_csv(run.log_of(file)).to_dict("list") == {"step": [1], "loss": [2.0]}
    run.load_start(trial, replace(workspace, pretraining=pretraining.PretrainRecipe(steps=4)))
    assert len(calls) == 2  # by another recipe it is another model


def test_a_damaged_image_is_left_out_of_pretraining_with_a_warning(data):
    broken = Sample("bad", data[0].read_image, lambda: np.zeros((3, 3), np.int32))
    more = replace(data, samples=(*data.samples, broken))
    with pytest.warns(UserWarning, match=rf"1 of the {len(more)} images .* left out, the first: "):
        assert run._drop_damaged(more).samples == data.samples
    assert run._drop_damaged(data).samples == data.samples


def test_a_killed_tuning_goes_on_in_the_layout_it_began_with(data, start, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    trial, known, finetune = make_trial(steps=3), images(data), run.finetune
    whole = run.tune(trial, start, known, tmp_path / "a")

    monkeypatch.setattr(run, "finetune", partial(finetune, callback=tiny.end_at(2)))
    with pytest.raises(tiny.Killed):
        run.tune(trial, start, known, tmp_path / "b")
    monkeypatch.setattr(run, "finetune", finetune)
    monkeypatch.setattr(run, "choose_precision", lambda *_: device.Precision(channels_last=True))
    model = run.tune(trial, new_model("scellseg", tiny.LEVELS), images(data), tmp_path / "b")
    assert weights_hash(model.network) == weights_hash(whole.network)
    assert model.card.recipe["precision"] == {"dtype": "fp32", "channels_last": False}


METHOD = ("samples", "augment", "tiles", "flows", "network", "finetuning", "contrast")
METHOD += ("training", "segmentation", "metrics", "representation/base", "representation/flow")
METHOD += ("representation/hover", "representation/semantic", "datasets/load", "model")
METHOD += ("paper/run", "paper/as_released")


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

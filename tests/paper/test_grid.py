"""Which trials the experiments consist of, at which profile, and what a sweep still lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from scellseg_lib import paths
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.device import default_device, machine
from scellseg_lib.errors import ScellsegError
from scellseg_lib.paper import grid, profile, run, shots, sweep
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.store import Store
from scellseg_lib.paper.trial import Trial
from scellseg_lib.pretraining import PretrainRecipe
from tests.paper.test_experiment import scores

RELEASED = load_profile("released")


def test_each_state_has_the_same_shots_for_all_models():
    found = grid.shot_scale(RELEASED)
    plan = RELEASED.data["bbbc010_elegans"]
    assert len(found) == len(set(found))
    mine = [trial for trial in found if trial.data == "bbbc010_elegans"]
    assert len(mine) == 3 * len(plan.shots) * len(plan.states)
    drawn = {(t.n_shots, t.seed): set() for t in mine}
    for trial in mine:
        drawn[trial.n_shots, trial.seed].add(trial.shots)
    assert {len(sets) for sets in drawn.values()} == {1}
    for (n, state), (one,) in drawn.items():  # those of a smaller number are among the larger's
        assert set(one) <= set(*drawn[10, state])
        assert len(set(one)) == n


def test_transferability_has_each_model_of_the_profile_directly_and_tuned():
    found = grid.transferability(load_profile("smoke"))
    pairs = {(t.model, t.strategy) for t in found}
    models = {"unet2", "unet3", "hover", "cellpose", "scellseg"}
    expected = {(model, way) for model in models for way in ("direct", "classic")}
    assert pairs == expected | {("scellseg", "contrastive")}
    assert {t.steps for t in found if t.strategy == "direct"} == {0}
    assert {t.seed for t in found if t.strategy == "direct"} == {0}
    assert {t.contrast for t in found if t.strategy == "classic"} == {""}
    assert {t.contrast for t in found if t.strategy == "contrastive"} == {"synthetic_contrast"}


def test_generalization_scores_the_models_that_transferability_tunes():
    tuned = {t.tuning() for t in grid.transferability(RELEASED) if t.strategy != "direct"}
    general = [t for t in grid.generalization(RELEASED) if t.strategy != "direct"]
    assert {t.tuning() for t in general} <= tuned
    assert {(t.tested_on, t.split) for t in general} == {
        (name, "general_test") for name in RELEASED.general_test
    }


def test_longer_training_never_sees_a_query_image():
    found = grid.longer_training(RELEASED)
    assert {(t.split, t.contrast) for t in found} == {("held_out", "")}
    pools = {"bbbc010_elegans": 10, "t98g_phase": 10, "hela_phase_nuclei": 12}
    assert all(t.n_shots < pools[t.data] for t in found)
    eight = grid.longer_training(RELEASED.narrowed(shots=[8]))
    assert {t.n_shots for t in eight} == {8}
    assert {(t.steps, t.options) for t in found} == {
        (steps, (("schedule", schedule),)) for steps in grid.STEPS for schedule in grid.SCHEDULES
    }


def test_chosen_shots_differ_from_random_ones_in_nothing_else():
    random = {replace(t, shots=()): t for t in grid.shot_scale(RELEASED)}
    chosen = grid.which_images(RELEASED)
    assert {t.data for t in chosen} == set(RELEASED.data)
    for trial in chosen:
        other = replace(trial, shots=())
        assert other in random
        assert trial.shots == shots.covering_shots(trial.data, trial.n_shots)
    assert {(t.data, t.n_shots) for t in chosen if t.n_shots == 10} == {("hela_phase_nuclei", 10)}
    assert not shots.covering_shots("mito", 3)


def test_the_table_of_covering_shots_is_what_the_styles_say():
    worms = load_dataset("synthetic_worms")
    found = shots.covering(worms, load_model("scellseg", levels=(16, 32, 64, 128)))
    assert found[:-1] == shots.covering_shots("synthetic_worms", len(worms.shot) - 1)


@pytest.mark.real_data
def test_covering_shots_are_of_the_pool(real_data: Path):
    for name in RELEASED.data:
        pool = [sample.name for sample in load_dataset(name).shot]
        chosen = shots.covering_shots(name, len(pool) - 1)
        assert len({*chosen} & {*pool}) == len(pool) - 1
        assert not shots.covering_shots(name, len(pool))  # all of them are no choice


@pytest.mark.parametrize("name", grid.EXPERIMENTS)
def test_an_experiment_has_trials_where_its_profile_has_what_it_needs(name: str):
    found = grid.EXPERIMENTS[name](load_profile("cpu"))
    assert found
    assert len(found) == len(set(found))


def test_states_come_one_after_the_other():
    found = grid.ordered([*grid.layers(RELEASED), *grid.shot_scale(RELEASED)] * 2)
    states = [trial.seed for trial in found]
    assert states == sorted(states)
    assert len(found) == len(set(found))


def test_the_profile_of_the_paper_is_the_papers():
    paper = load_profile("paper")
    claims = yaml.safe_load((paths.manifests() / "paper_claims.yaml").read_text())
    assert {name: list(plan.shots) for name, plan in paper.data.items()} == claims["shot_levels"]
    assert {len(plan.states) for plan in paper.data.values()} == {claims["repeats"]}
    assert (paper.levels, paper.steps) == ((32, 64, 128, 256), 100)
    assert paper.pretraining is None  # the paper's recipe
    assert len(paper.models) == 5


@pytest.mark.real_data
def test_the_table_of_shots_is_what_data_sets_draw(real_data: Path):
    table = pd.read_csv(paths.manifests() / "shots.csv", dtype={"images": str})
    names = list(dict.fromkeys(table["data"]))
    assert names == list(RELEASED.data)
    drawn = pd.concat([shots.draw(load_dataset(name), 10) for name in names])
    pd.testing.assert_frame_equal(table, drawn.reset_index(drop=True))


def test_shots_of_a_set_that_is_not_here_are_open(monkeypatch, tmp_path):
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    assert shots.shots("mito", 2, 3) == ("shot 1 of state 3", "shot 2 of state 3")
    assert shots.shots("bbbc010_elegans", 2, 0) == ("B04", "A05")  # from the table
    assert len(shots.shots("synthetic_worms", 2, 0)) == 2


def test_a_profile_is_narrowed_to_what_is_asked_for():
    some = RELEASED.narrowed(data=["t98g_phase"], states=[5], shots=[3, 2], models=["scellseg"])
    assert some.models == ("scellseg",)
    assert {n: (p.shots, p.states) for n, p in some.data.items()} == {"t98g_phase": ((2, 3), (5,))}
    assert RELEASED.narrowed() == RELEASED


@pytest.mark.parametrize(
    ("choice", "message"),
    [({"data": ["mito"]}, "no data set 'mito'"), ({"models": ["unet"]}, r"models\.0")],
)
def test_what_a_profile_cannot_have_is_refused(choice: dict, message: str):
    with pytest.raises(ScellsegError, match=message):
        RELEASED.narrowed(**choice)


def test_a_mistyped_profile_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "profiles", lambda: tmp_path)
    text = (paths.REPOSITORY / "notebooks" / "profiles" / "smoke.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("\nsteps:", "\nstepz:"))
    with pytest.raises(ScellsegError, match=r"mine\.yaml: this is no profile: stepz"):
        load_profile("mine")
    with pytest.raises(ScellsegError, match=r"no profile 'other'.*There are: mine"):
        load_profile("other")
    assert profile.names() == ["mine"]


# --- what a sweep lacks ----------------------------------------------------------------------


def kept(store: Store, trial: Trial, seconds: float) -> None:
    known = {"trial": trial.__dict__ | {"method": 1}, "seconds": seconds}
    store.put(f"{trial.model}{trial.seed}", scores(), known)


def test_a_plan_counts_what_is_missing_and_learns_how_long_it_takes(tmp_path, monkeypatch):
    step = 8.0
    monkeypatch.setattr(sweep, "step_seconds", lambda _: step)
    store, mine = Store(tmp_path), RELEASED.narrowed(data=["bbbc010_elegans"], shots=[10])
    every = sweep.plan(["shot_scale"], mine, store)
    assert (every.n_trials, len(every.missing)) == (9, 9)
    first, second, third = every.missing[:3]
    assert sweep.estimate(first, {}) == pytest.approx(step * (100 + 10))
    assert sweep.estimate(second, {}) == pytest.approx(step * (180 + 10))
    assert sweep.estimate(replace(first, protocol="best"), {}) == pytest.approx(step * (100 + 40))
    kept(store, first, 50.0)
    kept(store, third, 30.0)
    then = sweep.plan(["shot_scale"], mine, store)
    assert (then.n_trials, len(then.missing)) == (9, 7)
    # Two of each kind that is known, three contrastive ones of which nothing is known.
    assert then.seconds == pytest.approx(2 * 50 + 2 * 30 + 3 * step * 190)
    assert not {first, third} & set(then.missing)


def test_an_unknown_experiment_is_refused(tmp_path):
    with pytest.raises(ScellsegError, match=r"no experiment 'shots'.*shot_scale"):
        sweep.plan(["shots"], RELEASED, Store(tmp_path))
    every = sweep.plan(["all"], load_profile("paper"), Store(tmp_path))
    assert every.n_trials == len(every.missing) > 900


# --- parameters of the notebooks -------------------------------------------------------------


def namespace(**changes) -> dict:
    """What a notebook holds after its imports: parameters, modules, and what IPython puts in."""
    return profile.PARAMETERS | {"In": [""], "Out": {}, "_oh": {}, "paths": paths} | changes


def test_a_notebook_gets_the_profile_that_its_parameters_ask_for():
    found = profile.figure_profile(namespace(PROFILE="smoke", STATES=[1]))
    assert found.name == "smoke"
    assert {plan.states for plan in found.data.values()} == {(1,)}
    assert profile.figure_profile(namespace()) == RELEASED


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"STATE": [1]}, r"no parameter STATE\. Did you mean STATES\?"),
        ({"profile": "smoke"}, r"no parameter profile\. Did you mean PROFILE\?"),
        ({"QUITE_ELSE": 3}, r"no parameter QUITE_ELSE\. It has: PROFILE, DATA"),
        ({"STATES": 1}, r"the parameter STATES is 1\. Give a value like \[\]"),
        ({"COMPUTE": "yes"}, r"COMPUTE is 'yes'\. Give a value like False"),
        ({"PROFILE": "fast"}, r"no profile 'fast'\. There are: cpu, paper"),
    ],
)
def test_a_wrong_parameter_is_refused_in_words(wrong: dict, message: str):
    with pytest.raises(ScellsegError, match=message):
        profile.figure_profile(namespace(**wrong))


@pytest.mark.real_data
def test_a_trial_of_the_papers_profile_runs(real_data: Path, tmp_path: Path, monkeypatch):
    """At two steps, from pre-training at full width on what lies in the place of Cellpose's set."""
    folder = tmp_path / "data" / "cellpose"
    folder.mkdir(parents=True)
    for name in ("bbbc010_elegans", "cellpose_contrast35"):
        (folder.parent / name).symlink_to(real_data / name)
    for number, sample in enumerate(load_dataset("synthetic_contrast")[:9]):
        stem = folder / f"train_{number:03d}"
        planes = np.zeros((*sample.image.shape[1:], 3), np.uint8)  # blue, green, red
        planes[..., 1], planes[..., 2] = sample.image / sample.image.max() * 255
        cv2.imwrite(f"{stem}_img.png", planes)
        cv2.imwrite(f"{stem}_masks.png", sample.masks.astype(np.uint16))
    monkeypatch.setenv("SCELLSEG_DATA", str(folder.parent))
    paper = load_profile("paper").narrowed(data=["bbbc010_elegans"], shots=[9], states=[9])
    (trial,) = [t for t in grid.shot_scale(paper) if t.strategy == "contrastive"]
    assert (trial.weights, trial.levels, trial.steps) == ("subset:Sgeneral", paper.levels, 100)
    place = run.Place(Store(tmp_path / "store"), tmp_path, PretrainRecipe(steps=2))
    name, new = run.compute(replace(trial, steps=2, split="held_out"), place)
    assert new
    assert place.store.frame()["image"].nunique() == 1
    origin = place.store.origin(name)
    assert origin["trial"]["precision"] == "fp32"
    assert origin["machine"] == machine(default_device())

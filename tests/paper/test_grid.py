"""Which trials the experiments consist of, at which profile and by which shots."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import yaml

from scellseg_lib import Dataset, ScellsegError, load_dataset, paths
from scellseg_lib.finetuning import RECIPES
from scellseg_lib.model import new_model
from scellseg_lib.paper import grid, profile, shots
from scellseg_lib.paper.claims.evidence import SUBSETS
from scellseg_lib.paper.trial import PROTOCOLS
from tests import tiny
from tests.datasets.test_manifest import LISTED

RELEASED = profile.load_profile("released")


def test_each_state_has_the_same_shots_for_all_models():
    plan = RELEASED.data["bbbc010_elegans"]
    mine = [one for one in grid.shot_scale(RELEASED) if one.data == "bbbc010_elegans"]
    assert len(mine) == 3 * len(plan.shots) * len(plan.states)
    drawn = {(one.n_shots, one.seed): one.shots for one in mine}
    assert all(drawn[one.n_shots, one.seed] == one.shots for one in mine)
    for (n, state), names in drawn.items():  # those of a smaller number are among the larger's
        assert {*names} <= {*drawn[10, state]}
        assert len({*names}) == n


def test_transferability_has_each_model_of_the_profile_directly_and_tuned():
    found = grid.transferability(profile.load_profile("smoke"))
    models = {"unet2", "unet3", "hover", "cellpose", "scellseg"}
    expected = {(model, way) for model in models for way in ("direct", "classic")}
    assert {(t.model, t.strategy) for t in found} == expected | {("scellseg", "contrastive")}
    ways = {(t.strategy, t.steps, t.contrast) for t in found}
    assert ways == {("direct", 0, ""), ("classic", 2, ""), ("contrastive", 2, "synthetic_contrast")}
    assert {t.seed for t in found if t.strategy == "direct"} == {0}


def test_generalization_and_statistics_are_of_the_models_that_transferability_tunes():
    tuned = {t.drop_scoring() for t in grid.transferability(RELEASED) if t.strategy != "direct"}
    general = [t for t in grid.generalization(RELEASED) if t.strategy != "direct"]
    expected = {(name, "general_test") for name in RELEASED.general_test}
    assert {(t.tested_on, t.split) for t in general} == expected
    found = grid.statistics(RELEASED)
    assert {t.drop_scoring() for t in (*general, *found)} <= tuned
    every = product(grid.STATISTICS, ("", "cellpose_cyto_test"))
    assert {(t.recalibrated, t.tested_on) for t in found} == {*every}


def test_smicro_is_shot_scale_with_other_weights_of_scellseg():
    cpu = profile.load_profile("cpu")
    found = grid.smicro(cpu)
    assert [replace(trial, weights="packaged") for trial in found] == grid.shot_scale(cpu)
    assert {t.weights for t in found if t.model == "scellseg"} == {"subset:micro"}


def test_longer_training_never_sees_a_query_image():
    found = grid.longer_training(RELEASED)
    assert {(t.split, t.contrast) for t in found} == {("held_out", "")}
    assert all(t.n_shots < LISTED[t.data]["shot"] for t in found)
    assert {t.n_shots for t in grid.longer_training(RELEASED.narrow(shots=[8]))} == {8}
    assert {(t.steps, t.options) for t in found} == {
        (steps, (("schedule", schedule),)) for steps in grid.STEPS for schedule in grid.SCHEDULES
    }


def test_the_best_recipe_is_the_one_that_users_get():
    for trial in grid.best_recipe(RELEASED):
        options = {"strategy": trial.strategy, "steps": trial.steps} | dict(trial.options)
        assert RECIPES["paper"].options.change(**options) == RECIPES["best"].options
    usual = grid.best_recipe(RELEASED)[0].protocol
    assert PROTOCOLS[usual] == (True, RECIPES["best"].flips, False)


def test_chosen_shots_differ_from_random_ones_in_nothing_else():
    random = {replace(t, shots=()): t for t in grid.shot_scale(RELEASED)}
    chosen = grid.which_images(RELEASED)
    assert {t.data for t in chosen} == set(RELEASED.data)
    for trial in chosen:
        assert replace(trial, shots=()) in random
        assert trial.shots == shots.find_covering_shots(trial.data, trial.n_shots)
    assert {(t.data, t.n_shots) for t in chosen if t.n_shots == 10} == {("hela_phase_nuclei", 10)}
    assert not shots.find_covering_shots("mito", 3)


@pytest.mark.parametrize("name", grid.EXPERIMENTS)
def test_an_experiment_has_trials_where_its_profile_has_what_it_needs(name: str):
    found = grid.EXPERIMENTS[name](profile.load_profile("cpu"))
    assert len(found) == len(set(found)) > 0
    states = [trial.seed for trial in grid.order_by_state(found * 2)]
    assert states == sorted(trial.seed for trial in found)  # each once, one state after the other


def test_shots_cover_the_styles_of_pool_and_queries_whose_masks_are_not_looked_at(monkeypatch):
    queries = tuple(replace(s, split="query", read_masks=None) for s in tiny.worms(2, 5))
    data = Dataset("worms", "", "", (*tiny.worms(3), *queries))
    places = {"worm0": 0.0, "worm1": 4.0, "worm2": 5.0, "worm5": 9.0, "worm6": 9.5}
    embed = Mock(side_effect=lambda _, sample, diameter: np.array([places[sample.name]]))
    monkeypatch.setattr(shots, "embed", embed)
    chosen = shots.cover_styles(data, new_model("scellseg", tiny.LEVELS))
    assert {call.args[2] for call in embed.call_args_list} == {data.shot.diameter}
    assert chosen == ("worm2", "worm0", "worm1")


@pytest.mark.real_data
def test_the_tables_of_shots_are_what_data_sets_draw_and_of_their_pools(real_data: Path):
    table = pd.read_csv(paths.MANIFESTS / "shots.csv", dtype={"images": str})
    assert list(table["data"].unique()) == list(RELEASED.data)
    sets: list[Dataset] = [load_dataset(name) for name in RELEASED.data]
    drawn = [(one.name, k, one.shots(len(one.shot), k)) for one in sets for k in range(10)]
    rows = [(name, k, " ".join(sample.name for sample in order)) for name, k, order in drawn]
    assert [*table.itertuples(index=False, name=None)] == rows
    for data in sets:
        pool = {sample.name for sample in data.shot}
        assert len({*shots.find_covering_shots(data.name, len(pool) - 1)} & pool) == len(pool) - 1
        assert not shots.find_covering_shots(data.name, len(pool))  # all of them are no choice


def test_shots_of_a_set_that_is_not_here_are_open(monkeypatch, tmp_path):
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    assert shots.find_shots("mito", 2, 3) == ("shot 1 of state 3", "shot 2 of state 3")
    assert shots.find_shots("bbbc010_elegans", 2, 0) == ("B04", "A05")  # from the table
    assert len(shots.find_shots("synthetic_worms", 2, 0)) == 2


def test_the_profile_of_the_paper_is_the_papers():
    paper = profile.load_profile("paper")
    claims = yaml.safe_load((paths.MANIFESTS / "paper_claims.yaml").read_text())
    assert {name: list(plan.shots) for name, plan in paper.data.items()} == claims["shot_levels"]
    assert {len(plan.states) for plan in paper.data.values()} == {claims["repeats"]}
    assert (paper.levels, paper.steps) == ((32, 64, 128, 256), 100)
    assert paper.pretraining is None  # the paper's recipe
    assert paper.subsets == SUBSETS
    assert len(paper.models) == 5


def test_a_profile_is_narrowed_to_what_is_asked_for():
    some = RELEASED.narrow(data=["t98g_phase"], states=[5], shots=[3, 2], models=["scellseg"])
    assert some.models == ("scellseg",)
    assert {n: (p.shots, p.states) for n, p in some.data.items()} == {"t98g_phase": ((2, 3), (5,))}
    assert RELEASED.narrow() == RELEASED
    with pytest.raises(ScellsegError, match="no data set 'mito'"):
        RELEASED.narrow(data=["mito"])


def namespace(**changes) -> dict:
    """What a notebook holds after its imports: parameters, modules, and what IPython puts in."""
    return profile.PARAMETERS | {"In": [""], "Out": {}, "_oh": {}, "paths": paths} | changes


def test_a_notebook_gets_the_profile_that_its_parameters_ask_for():
    found = profile.choose_profile(namespace(PROFILE="smoke", STATES=[1]))
    assert found.name == "smoke"
    assert {plan.states for plan in found.data.values()} == {(1,)}
    assert profile.choose_profile(namespace()) == RELEASED


def test_a_wrong_parameter_is_refused_in_words():
    for wrong, message in (
        ({"STATE": [1]}, r"no parameter STATE\. Did you mean STATES\?"),
        ({"profile": "smoke"}, r"no parameter profile\. Did you mean PROFILE\?"),
        ({"QUITE_ELSE": 3}, r"no parameter QUITE_ELSE\. It has: PROFILE, DATA"),
        ({"STATES": 1}, r"the parameter STATES is 1\. Give a value like \[\]"),
        ({"COMPUTE": "yes"}, r"COMPUTE is 'yes'\. Give a value like False"),
        ({"PROFILE": "fast"}, r"no profile 'fast'\. There are: cpu, paper"),
    ):
        with pytest.raises(ScellsegError, match=message):
            profile.choose_profile(namespace(**wrong))

"""The committed results are those of this code, these images and these weights."""

import json
import re
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scellseg_lib import load_dataset, load_model, paths
from scellseg_lib.network import weights_hash
from scellseg_lib.paper import grid, run
from scellseg_lib.paper.claims.evidence import group_by_profile, load_evidence
from scellseg_lib.paper.claims.judgement import RULES, judge_claims
from scellseg_lib.paper.claims.rules import judge_lead
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.store import Store, parse_trial
from scellseg_lib.paper.trial import hash_identity
from tests.datasets.test_manifest import LISTED

pytestmark = pytest.mark.slow

STORES = {file.parent.name: Store(file) for file in paths.results("any").parent.glob("*/trials")}
ORIGINS = {
    f"{profile}/{key}": store.read_origin(key)
    for profile, store in STORES.items()
    for key in store.list_keys()
}
TRIALS = {name: parse_trial(origin["trial"]) for name, origin in ORIGINS.items()}
SHOTS = pd.read_csv(paths.MANIFESTS / "shots.csv", dtype={"images": str})
README = " ".join((paths.REPOSITORY / "README.md").read_text(encoding="utf-8").split())


def test_each_result_is_whole_and_named_by_what_it_says():
    assert len(ORIGINS) >= 3
    for name, origin in ORIGINS.items():
        trial, (profile, key) = TRIALS[name], name.split("/")
        splits = LISTED[trial.tested_on or trial.data]
        n_images = splits["general_test" if trial.tested_on else "query"]
        if trial.split == "held_out":
            n_images = splits["shot"] - trial.n_shots
        rows = (STORES[profile].folder / f"{key}.csv").read_text().splitlines()[1:]
        assert len(rows) == 2 * n_images, name
        assert (len(origin["commit"]), bool(origin["versions"]["torch"])) == (40, True)  # clean
        assert hash_identity(origin["trial"]) == key


@pytest.mark.real_data
@pytest.mark.released_weights
def test_results_are_those_of_these_images_and_weights(real_data: Path):
    """All weights; all images, by the trial of the most shots among those that share the rest."""
    images, weights = cache(load_dataset), cache(load_model)
    some = {
        (trial.data, trial.tested_on, trial.split, trial.contrast, trial.queries): name
        for name, trial in sorted(TRIALS.items(), key=lambda item: item[1].n_shots)
    }
    some |= {(t.model, t.weights, t.levels): name for name, t in TRIALS.items()}
    for name in {*some.values()}:
        trial, said = TRIALS[name], ORIGINS[name]["trial"]
        if trial.weights.startswith("subset:"):  # not committed: see the test below
            start = said["weights_sha256"]
        else:
            start = weights_hash(weights(trial.model, trial.weights, levels=trial.levels).network)
        identity = trial.identify({each: images(each) for each in trial.needs}, start)
        assert name.endswith(hash_identity(identity))


def test_trials_of_a_subset_start_from_one_pretrained_model():
    some = {name: trial for name, trial in TRIALS.items() if trial.weights.startswith("subset:")}
    starts = [(name.split("/")[0], t.model, t.weights, t.levels) for name, t in some.items()]
    hashes = [ORIGINS[name]["trial"]["weights_sha256"] for name in some]
    assert len({*starts}) == len({*hashes}) == len({*zip(starts, hashes, strict=True)})


def recompute(data: str, model: str, strategy: str, protocol: str, n: int) -> list[list[float]]:
    """Four means at each of both cell thresholds, by plain arithmetic from the committed files."""
    asked = {"data": data, "model": model, "strategy": strategy, "protocol": protocol}
    asked |= {"split": "query", "options": [], "weights": "released", "precision": "bf16"}
    asked |= {"steps": 0 if strategy == "direct" else 100}
    found: list[list[list[float]]] = [[], []]
    at = range(50, 100, 5)  # hundredths of IoU
    draws = {(name, state): images.split(" ") for name, state, images in SHOTS.to_numpy()}
    for file in (paths.results("released") / "trials").glob("*.json"):
        said = json.loads(file.read_text())["trial"]
        usual = said.get("queries", "query") == "query" and not said.get("recalibrated")
        drawn = said["shots"] == draws[said["data"], said["seed"]][:n]
        if usual and drawn and not said.get("tested_on") and asked.items() <= said.items():
            rows = np.genfromtxt(file.with_suffix(".csv"), delimiter=",", names=True)
            for threshold, scores in zip((0.5, 0.0), found, strict=True):
                mine = rows[rows["cell_threshold"] == threshold]
                tp, aji = (np.array([mine[f"{name}_{t}"] for t in at]) for name in ("tp", "aji"))
                ap = tp / (mine["n_true"] + mine["n_predicted"] - tp)
                scores.append([ap[0].mean(), ap[5].mean(), ap.mean(), aji.mean()])
    return [np.mean(scores, axis=0).tolist() for scores in found]


def test_eight_shots_are_in_the_readme_by_plain_arithmetic():
    for row, *of in (
        ("the authors' Scellseg, directly", "scellseg", "direct", "paper"),
        ("the same, fine-tuned on eight shots, classic", "scellseg", "classic", "paper"),
        ("the same, contrastive", "scellseg", "contrastive", "paper"),
        ("the authors' Cellpose, directly", "cellpose", "direct", "paper"),
        ("the same, fine-tuned, classic", "cellpose", "classic", "paper"),
        ("*best decoding*: Scellseg, classic", "scellseg", "classic", "best"),
        ("*best decoding*: Scellseg, contrastive", "scellseg", "contrastive", "best"),
    ):
        half, zero = recompute("bbbc010_elegans", *of, n=8)
        cells = (f"{one:.3f} ({other:.3f})" for one, other in zip(half, zero, strict=True))
        assert f"| {row} | {' | '.join(cells)} |" in README


def test_ten_shots_are_in_the_readme_by_plain_arithmetic():
    sets = ("bbbc010_elegans", "t98g_phase", "hela_phase_nuclei")
    ways = {"directly": "direct", "classic": "classic", "contrastive": "contrastive"}
    rows = [*product(("Scellseg", "Cellpose"), ways)][:-1]  # there is no contrastive Cellpose
    for model, way in rows:
        found = [recompute(one, model.lower(), ways[way], "paper", 10)[0] for one in sets]
        cells = (" / ".join(f"{value:.3f}" for value in means) for means in found)
        assert f"| {model}, {way} | {' | '.join(cells)} |" in README


@pytest.mark.parametrize("cell_threshold", [0.5, 0.0])
def test_leads_in_the_readme_are_those_that_claims_are_judged_by(cell_threshold: float):
    at = group_by_profile(load_evidence(["released"]).trials, cell_threshold)["released"]
    methods = ("Scellseg-CFT", "Cellpose-FT")
    pairs = {data: [at.images("mAP", data, m) for m in methods] for data in at.sets()}
    for found in (RULES["fig5.ablation"].judge(None, at), judge_lead(pairs, *methods)):
        both = re.findall(r"(\S+ \[\S+, \S+\]), over states (\S+ \[\S+, \S+\])", found.ours)
        drawn, by_state = (" | ".join(column) for column in zip(*both, strict=True))
        row = f"| threshold {cell_threshold}, interval over images and states | {drawn} | "
        assert f"{row}| the same, over the states alone | {by_state} |" in README


def test_the_readme_counts_the_verdicts():
    verdicts = judge_claims(load_evidence(["released", "cpu"]))["verdict"]
    n = verdicts.str.removesuffix(" (on a stand-in)").value_counts()
    said = f"Of the paper's {len(verdicts)} claims {n['agrees']} agree, {n['disagrees']} disagree, "
    said += f"{n['cannot be told here']} cannot be told from so few states and images, "
    said += f"{n['not a fair test here']} have no fair test here, {n['not tested at this scale']} "
    assert f"{said}are not tested and {n['ambiguous in the paper']} are ambiguous" in README


def test_findings_in_the_readme_are_those_of_the_trials():
    profile = load_profile("released")
    trials = [*grid.shot_scale(profile), *grid.decoding(profile)]
    table = run.average_scores(run.load_scores(trials, profile))
    at = table.groupby(["data", "protocol", "cell_threshold", "n_shots", "model", "strategy"])
    mean = at["map"].mean().to_dict()
    best = ("bbbc010_elegans", "best", 0.0, 10)
    level = (mean[*best, *method] for method in (grid.CELLPOSE, grid.FT, grid.CFT))
    assert "({:.3f} against {:.3f} and {:.3f})".format(*level) in README
    one, four = (mean["hela_phase_nuclei", "paper", 0.5, n, "scellseg", "classic"] for n in (1, 4))
    chosen = run.average_scores(run.load_scores(grid.which_images(profile), profile))
    first = chosen[(chosen["data"] == "hela_phase_nuclei") & (chosen["n_shots"] == 1)]
    covering = first.loc[first["cell_threshold"] == 0.5, "map"].mean()
    said = f"a first image chosen to cover the styles (42 cells) {covering:.2f}, and four drawn"
    assert f"give {one:.2f}, {said} at random {four:.2f}" in README
    anew = run.average_scores(run.load_scores(grid.statistics(profile), profile))
    general = anew[(anew["tested_on"] != "") & (anew["cell_threshold"] == 0.5)]
    kept = general.pivot_table("map", "recalibrated", "strategy")  # columns: classic, contrastive
    assert "{:.3f} and {:.3f} mAP with statistics of the shots".format(*kept.loc["shot"]) in README
    assert "{:.3f} and {:.3f} with those that have".format(*kept.loc["encoder"]) in README
    authors = pd.read_csv(paths.results("released/authors_code.csv")).query("decoder == 'ours'")
    maps = authors.pivot_table("map", "cell_threshold", "strategy")
    ahead = maps["contrastive"] - maps["classic"]
    assert f"by {ahead[0.5]:.3f} at 0.5 and behind by {-ahead[0.0]:.3f} at 0.0" in README


def test_machines_agree_as_the_readme_says():
    table = pd.read_csv(paths.results("released") / "machines.csv")
    kept = Store(paths.results("released") / "trials")
    scores = run.average_scores(kept.read_scores(keys=table["key"])).query("cell_threshold == 0.5")
    both = table.merge(scores[["key", "map"]], on="key", validate="one_to_one")
    assert len(both) == len(table)  # and what is committed is one of the two
    assert both[["map cpu", "map gpu"]].sub(both["map"], axis=0).abs().min(axis=1).max() < 1e-6
    found = table[table["map cpu"] > 0]
    apart = found["map gpu"] - found["map cpu"]
    assert f"Of {len(table)} computed on both, the {len(found)} that found any cell" in README
    assert f"differ in mAP by {apart.mean():.4f} on average" in README
    assert f"deviation of {apart.std():.3f} and at most {apart.abs().max():.3f}" in README


@pytest.mark.real_data
def test_a_committed_trial_comes_out_again(real_data: Path, tmp_path: Path):
    """One image of an untuned model, in the numeric type that is fast on any processor."""
    asked = ("bbbc010_elegans", "scellseg", "packaged", "direct", (16, 32, 64, 128))
    said = {name: (t.data, t.model, t.weights, t.strategy, t.levels) for name, t in TRIALS.items()}
    name = next(name for name, fields in said.items() if fields == asked)
    committed = STORES["cpu"].read_scores(keys=[name.removeprefix("cpu/")])
    trial = replace(TRIALS[name], precision="fp32")
    data = load_dataset(trial.data)
    some = replace(data, samples=(*data.shot, data.query[0]))
    start = load_model(trial.model, trial.weights, levels=trial.levels)
    again = run.score(trial, start, {trial.data: some}, tmp_path)
    both = again.merge(committed, on=["image", "cell_threshold", "threshold"])
    assert len(both) == len(again) == 2 * 10
    assert (both["ap_x"] - both["ap_y"]).abs().mean() < 0.01
    assert both["ap_y"].mean() > 0.1  # there is something to compare

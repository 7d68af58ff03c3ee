"""The committed results are those of this code, these images and these weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from scellseg_lib import paths
from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.errors import ModelError
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.paper import grid, run
from scellseg_lib.paper import trial as trials
from scellseg_lib.paper.claims.evidence import load_evidence
from scellseg_lib.paper.claims.judgement import judge_claims
from scellseg_lib.paper.profile import load_profile
from scellseg_lib.paper.store import Store, parse_trial
from scellseg_lib.paper.trial import hash_identity
from scellseg_lib.samples import Dataset, Sample

FOLDERS = sorted((paths.REPOSITORY / "figures" / "data").glob("*/trials"))
RESULTS = [(folder, file.stem) for folder in FOLDERS for file in sorted(folder.glob("*.json"))]
POOLS = pd.read_csv(paths.manifests() / "shots.csv").groupby("data")["images"].first()
POOLS = POOLS.str.split(" ").map(len)
"""Images of each set that shots are drawn from."""


@cache
def images(name: str) -> Dataset:
    return load_dataset(name)


@cache
def model(name: str, weights: str, levels: tuple[int, ...]) -> Model:
    try:
        return load_model(name, weights, levels=levels)
    except ModelError as error:
        pytest.skip(str(error))


@cache
def hash_of_weights(name: str, weights: str, levels: tuple[int, ...]) -> str:
    return weights_hash(model(name, weights, levels).network)


HASHES: dict[tuple[object, ...], str] = {}


@pytest.fixture
def pixels_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many trials share their images, all of which are read and hashed in a second."""
    compute = trials._hash_pixels

    def remembered(samples: Sequence[Sample]) -> str:
        which = tuple((s.name, s.read_image, s.read_masks) for s in samples)
        if which not in HASHES:
            HASHES[which] = compute(samples)
        return HASHES[which]

    monkeypatch.setattr(trials, "_hash_pixels", remembered)


def test_there_are_results():
    assert len(RESULTS) >= 3


@pytest.mark.parametrize(
    ("folder", "name"), RESULTS, ids=lambda value: getattr(value, "stem", value)
)
def test_a_result_is_whole(folder: Path, name: str):
    store = Store(folder)
    trial = parse_trial(store.read_origin(name))
    scores = (folder / f"{name}.csv").read_text().splitlines()[1:]
    n_images = {"bbbc010_elegans": 39, "t98g_phase": 13, "hela_phase_nuclei": 20}
    n_images |= {"huh7_nuclei": 16, "tcell_if": 8}
    expected = n_images[trial.tested_on or trial.data]
    if trial.split == "held_out":
        expected = POOLS[trial.data] - trial.n_shots
    assert len(scores) == 2 * expected
    origin = store.read_origin(name)
    assert len(origin["commit"]) == 40  # of a clean tree
    assert origin["versions"]["torch"]


@pytest.mark.real_data
@pytest.mark.released_weights
@pytest.mark.usefixtures("pixels_hashed_once")
@pytest.mark.parametrize(
    ("folder", "name"), RESULTS, ids=lambda value: getattr(value, "stem", value)
)
def test_a_result_is_named_by_these_images_and_weights(folder: Path, name: str, real_data: Path):
    trial = parse_trial(Store(folder).read_origin(name))
    known = {each: images(each) for each in trial.needs}
    if trial.weights.startswith("subset:"):  # not committed: see the test below
        start = Store(folder).read_origin(name)["trial"]["weights_sha256"]
    else:
        start = hash_of_weights(trial.model, trial.weights, trial.levels)
    assert hash_identity(trial.identify(known, start)) == name


def test_trials_of_a_subset_start_from_one_pretrained_model():
    hashes: dict[tuple[object, ...], set[str]] = {}
    for folder, name in RESULTS:
        said = Store(folder).read_origin(name)["trial"]
        if said["weights"].startswith("subset:"):
            start = (folder, said["model"], said["weights"], *said["levels"])
            hashes.setdefault(start, set()).add(said["weights_sha256"])
    assert all(len(known) == 1 for known in hashes.values())
    assert len(set().union(*hashes.values())) == len(hashes)


def test_ten_shots_are_in_the_readme_as_they_were_computed():
    profile = load_profile("released")
    scores = run.average_scores(run.load_scores(grid.transferability(profile), profile))
    runs = scores[scores["cell_threshold"] == 0.5]
    means = runs.groupby(["model", "strategy", "data"])[["ap50", "ap75", "map", "maji"]].mean()
    readme = (paths.REPOSITORY / "README.md").read_text(encoding="utf-8")
    for trained, part in means.groupby(level=["model", "strategy"]):
        sets = part.droplevel([0, 1]).loc[[*profile.data]]
        cells = (" / ".join(f"{value:.3f}" for value in row) for row in sets.to_numpy())
        assert " | ".join(cells) in readme, trained


def test_findings_in_the_readme_are_those_of_the_trials():
    profile = load_profile("released")
    readme = " ".join((paths.REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    (ablation,) = (
        f for f in judge_claims(load_evidence(["released", "cpu"])) if f.id == "fig5.ablation"
    )
    ahead, counts = re.findall(r"average (\S+) .*; (ahead at .* shots)\.", ablation.reason)[0]
    assert f"with the authors' weights {ahead} mAP over all shots of the three sets" in readme
    assert counts in readme
    table = run.average_scores(
        run.load_scores([*grid.shot_scale(profile), *grid.decoding(profile)], profile)
    )
    at = table.groupby(["data", "protocol", "cell_threshold", "n_shots", "model", "strategy"])
    mean = at["map"].mean().to_dict()
    best = ("bbbc010_elegans", "best", 0.0, 10)
    ours = (mean[*best, "scellseg", strategy] for strategy in ("classic", "contrastive"))
    theirs = mean[*best, "cellpose", "classic"]
    assert "({:.3f} against {:.3f} and {:.3f})".format(theirs, *ours) in readme
    one, four = (mean["hela_phase_nuclei", "paper", 0.5, n, "scellseg", "classic"] for n in (1, 4))
    assert f"give {one:.2f}, a first image" in readme
    assert f"and four drawn at random {four:.2f}" in readme
    chosen = run.average_scores(run.load_scores(grid.which_images(profile), profile))
    first = chosen[(chosen["data"] == "hela_phase_nuclei") & (chosen["n_shots"] == 1)]
    covering = first.loc[first["cell_threshold"] == 0.5, "map"].mean()
    assert f"cover the styles (42 cells) {covering:.2f}" in readme


def test_machines_agree_as_the_readme_says():
    table = pd.read_csv(paths.results("released") / "machines.csv")
    kept = Store(paths.results("released") / "trials")
    scores = run.average_scores(kept.read_scores(keys=table["key"])).query("cell_threshold == 0.5")
    both = table.merge(scores[["key", "map"]], on="key", validate="one_to_one")
    assert len(both) == len(table)  # and what is committed is one of the two
    assert both[["map cpu", "map gpu"]].sub(both["map"], axis=0).abs().min(axis=1).max() < 1e-6
    found = table[table["map cpu"] > 0]
    apart = found["map gpu"] - found["map cpu"]
    readme = " ".join((paths.REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    assert f"Of {len(table)} computed on both, the {len(found)} that found any cell" in readme
    assert f"differ in mAP by {apart.mean():.4f} on average" in readme
    assert f"deviation of {apart.std():.3f} and at most {apart.abs().max():.3f}" in readme


@pytest.mark.real_data
@pytest.mark.released_weights
def test_a_committed_trial_comes_out_again(real_data: Path, tmp_path: Path):
    """Four images of the untuned model; other processors round otherwise, so nearly the same."""
    store = Store(paths.results("released") / "trials")
    committed = store.read_scores(strategy="direct", model="scellseg", precision="fp32")
    trial = parse_trial(store.read_origin(committed["key"][0]))
    data = images(trial.data)
    chosen = tuple(sample for sample in data if sample.split == "shot") + data.query.samples[:4]
    start = model(trial.model, trial.weights, trial.levels)
    again = run.score(trial, start, {trial.data: replace(data, samples=chosen)}, tmp_path)
    both = again.merge(committed, on=["image", "cell_threshold", "threshold"])
    assert len(both) == len(again) == 4 * 2 * 10
    difference = (both["ap_x"] - both["ap_y"]).abs()
    assert difference.mean() < 0.005
    assert both["ap_y"].mean() > 0.1  # there is something to compare

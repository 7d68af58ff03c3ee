"""docs/method.md: the sections that the code cites, and the constants that it quotes."""

import re
from pathlib import Path

import pandas as pd
import pytest

from scellseg_lib import augment, contrast, datasets, metrics, pretraining, samples, tiles
from scellseg_lib.datasets.manifest import load_manifest
from scellseg_lib.finetuning import FinetuneOptions
from scellseg_lib.network import ARCHITECTURES, build_network, count_parameters
from scellseg_lib.representation import Decoding, hover, semantic

ROOT = Path(__file__).resolve().parents[1]
METHOD = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\d+)\. (.*?)(?=^## |\Z)", METHOD, re.MULTILINE | re.DOTALL))
TUNED, PRETRAINED, DECODED = FinetuneOptions(), pretraining.PretrainRecipe(), Decoding()
UNET_RATE = ARCHITECTURES["unet2"].learning_rate
ADDITIONS = {"attention": "attention", "dense": "dense", "style": "hierarchical_style"}


def test_every_section_that_the_code_cites_is_there():
    assert [*SECTIONS] == [str(number) for number in range(1, 11)]
    found = {}
    for file in (p for folder in ("scellseg_lib", "tests") for p in (ROOT / folder).rglob("*.py")):
        plain = re.sub(r"\s+(?:# )?", " ", file.read_text(encoding="utf-8"))
        said = re.findall(r"docs/method\.md`?,? sections? ([\d, and]*\d)", plain)
        if said:
            found[file.name] = set(re.findall(r"\d+", " ".join(said)))
    assert len(found) >= 7
    assert {file: numbers for file, numbers in found.items() if numbers - {*SECTIONS}} == {}


def test_constants_are_those_of_the_code():
    for section, words in (
        ("1", f"2 x {augment.PATCH} x {augment.PATCH}"),
        ("2", f"scale = {augment.MEAN_DIAMETER:.0f} / diameter"),
        ("2", f"margin of {augment.MARGIN} px"),
        ("2", f"within {semantic.BORDER_WIDTH} px of its contour"),
        ("2", f"size {hover.SOBEL_SIZE} on maps"),
        ("2", f"edges are cut at {hover.EDGE_THRESHOLD}"),
        ("2", f"markers under {hover.MARKER_SIZE} px are dropped"),
        ("2", f"do not jump ({hover.JUMP})"),
        ("2", f"{DECODED.interior_threshold} and {DECODED.border_threshold} before fine-tuning"),
        ("2", f"interior {semantic.INTERIOR_THRESHOLDS[0]:.0f} to 4 in steps of 0.5"),
        ("2", f"border {semantic.BORDER_THRESHOLDS[0]:.0f} to 2 in steps of 1"),
        ("3", f"**{TUNED.steps} optimiser steps** of {TUNED.batch_size} random patches"),
        ("3", f"learning rate {TUNED.learning_rate:.0e}".replace("e-03", "e-3")),
        ("3", f"patches of {augment.PATCH} x {augment.PATCH}"),
        ("3", f"alpha starts at {contrast.INITIAL_ALPHA} and"),
        ("3", f"learnt with the rate {contrast.ALPHA_RATE}"),
        ("3", "common side U{{{}..{}}}".format(*augment.CROP_SIDES)),
        ("4", f"batches of {PRETRAINED.batch_size}, {PRETRAINED.epochs} epochs"),
        ("4", f"learning rate {PRETRAINED.learning_rate} (U-Nets {UNET_RATE})"),
        ("4", f"range is under {samples.MINIMAL_RANGE:.0e}".replace("e-03", "e-3")),
        ("4", f"SHA-256 `{datasets.weights.ARCHIVE_SHA256}`"),
        ("5", f"tiles of {tiles.TILE} x {tiles.TILE} with an overlap of at least {tiles.OVERLAP},"),
        ("5", f"at least {tiles.EDGE} px of zeros"),
        ("5", f"here {DECODED.cell_threshold} by default"),
        ("5", f"{DECODED.n_steps} at the 30-px scale"),
        ("5", f"may fill {DECODED.max_size_fraction:.0%} of the image".replace("%", " %")),
        ("5", f"flow error above {DECODED.flow_threshold}"),
        ("5", f"under {DECODED.min_size} px of the 30-px scale"),
        ("6", f"{len(metrics.THRESHOLDS)} thresholds"),
    ):
        assert words in re.sub(r"\s+", " ", SECTIONS[section]), words


def test_networks_have_the_parameters_that_are_told() -> None:
    """The five models, and Cellpose with each one or two of Scellseg's additions."""
    rows = re.findall(r"^\| ([CSU].*) \| ([\d,]+) \|$", SECTIONS["1"], flags=re.MULTILINE)
    assert len(rows) == 9
    for told, count in rows:
        models, _, added = told.partition(" + ")
        asked = {name: True for word, name in ADDITIONS.items() if word in added}
        for model in models.lower().replace("-", "").split(", "):
            assert f"{count_parameters(build_network(model, **asked)):,}" == count, told


def test_options_are_those_of_the_code():
    for name in ("alpha", "statistics", "crops"):
        (said,) = re.findall(rf"option `{name}` is (.*?)\.\s", SECTIONS["3"], flags=re.DOTALL)
        assert set(FinetuneOptions.describe(name)["enum"]) == set(re.findall(r"`(\w+)`", said))


def test_numbers_of_images_are_those_of_the_manifest():
    (train, *_) = load_manifest("cellpose").groups
    for name, last in re.findall(r"(S\w+) 000-(\d+)", SECTIONS["4"].replace("\n", " ")):
        assert train.ranges[f"subset:{name}"] == (0, int(last))
    listed = re.findall(r"(\w+)((?: \d{3}){5})", SECTIONS["4"].replace("\n", " "))
    told = {f"contrast:{name}": tuple(map(int, numbers.split())) for name, numbers in listed}
    assert told == train.picks


LEVELS = {  # of the table of the best recipe: what the runs and the decoding of a row differ in
    "base": {},
    "400 steps of 4": {"steps": 400, "batch_size": 4},
    "cells 1.5 times": {"magnification": 1.5},
    "a rate of 0.002": {"learning_rate": 0.002},
    "400 steps": {"steps": 400},
    "20 steps of warm-up": {"warm_up": 20},
    "a rate of 0.3 times": {"slower": 0.3},
    "brightness": {"photometric": 1.0},
    "elastic": {"elastic": 3.0},
    "the optimiser": {"optimiser": "sgd", "learning_rate": 0.1, "warm_up": 20},
    "mean of the weights": {"averaged": True},
    "flips": {"flips": True},
    "cells found at the 30-px": {"resample": False},
    "cell threshold 0": {"cell_threshold": 0.0},
}


@pytest.mark.parametrize(("stage", "names"), [(1, [*LEVELS]), (3, ["base", *[*LEVELS][-4:]])])
def test_the_tables_of_recipes_are_those_of_the_committed_runs(stage, names) -> None:
    runs = pd.read_csv(ROOT / "figures" / "data" / f"recipe_stage{stage}.csv")
    base = {"steps": 200, "batch_size": 8, "learning_rate": 0.001, "magnification": 1.0}
    base |= {"optimiser": "adam", "warm_up": 0, "slower": 1.0, "photometric": 0.0, "elastic": 0.0}
    base |= {"averaged": False, "flips": False, "resample": True, "cell_threshold": 0.5}

    def scores(level: dict) -> pd.Series:
        asked = pd.Series(base | level).filter(runs.columns)
        return runs[(runs[asked.index] == asked).all(axis=1)].set_index(["data", "fold"])["map"]

    tables = re.findall(r"^\|[-|]+\|\n((?:\|.*\|\n)+)", SECTIONS["10"], flags=re.MULTILINE)
    lines = tables[stage // 2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for (told, *numbers, verdict), name in zip(rows, names, strict=True):
        assert told.startswith(name)
        level = LEVELS[name]
        change = (scores(level) - (scores({}) if level else 0)).dropna()
        order = ["bbbc010_elegans", "t98g_phase", "hela_phase_nuclei"]
        sets = change.groupby("data").mean().reindex(order)
        sign = "+.3f" if level else ".3f"
        error = change.std(ddof=1) / len(change) ** 0.5
        whole = f"{sets.mean():+.3f} ({error:.3f})" if level else ""
        assert numbers == [whole, *(f"{value:{sign}}" for value in sets)]
        goes_on = sets.mean() >= max(0.005, error) and sets.min() >= -0.01
        assert not level or verdict.split(":")[0] == ("yes" if goes_on else "no"), name

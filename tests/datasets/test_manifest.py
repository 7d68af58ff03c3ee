"""Data manifests: what they hold, and what the schema refuses."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from scellseg_lib import paths
from scellseg_lib.datasets import manifest
from scellseg_lib.errors import DatasetError, ManifestError

STYLES = {"Kc167", "cytomembrane", "macrophagocyte", "neurocyte", "style1", "style2", "style3"}
LISTED = {
    "bbbc010_elegans": {"shot": 10, "query": 39},
    "cellpose_contrast35": {"pretrain": 35, **{f"contrast:{style}": 5 for style in STYLES}},
    "deepcell_nuclei": {"pretrain": 6},
    "deepcell_phase": {"pretrain": 8},
    "dsb2018": {"pretrain": 123, "general_test": 30},
    "hela_phase_nuclei": {"shot": 12, "query": 20},
    "hepg2_nuclei": {"pretrain": 25},
    "huh7_nuclei": {"general_test": 16},
    "raw264_fluo": {"pretrain": 3},
    "t98g_phase": {"shot": 10, "query": 13},
    "tcell_if": {"pretrain": 20, "general_test": 8},
}
CELLPOSE_CONTRAST = {
    "Kc167": [95, 96, 97, 102, 103],
    "cytomembrane": [290, 306, 309, 311, 326],
    "macrophagocyte": [104, 106, 107, 110, 121],
    "neurocyte": [10, 44, 69, 79, 80],
    "style1": [126, 127, 128, 134, 141],
    "style2": [144, 149, 150, 151, 152],
    "style3": [494, 495, 500, 503, 505],
}


def valid() -> dict[str, Any]:
    """A small manifest without a fault."""
    return {
        "name": "small",
        "title": "Two images",
        "citation": "nobody",
        "licence": "CC0",
        "licence_url": None,
        "access": "open",
        "archives": [{"url": "https://example.org/a.zip", "file": "a.zip", "sha256": None}],
        "converter": "cellpose",
        "channels": ["gray", "none"],
        "files": [
            {"image": "1_img.png", "masks": "1_masks.png", "splits": ["shot"]},
            {"image": "2_img.png", "masks": "2_masks.png", "splits": ["query"]},
        ],
    }


def load(content: Any, folder: Path) -> manifest.Manifest:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return manifest.load_manifest(path)


def test_every_set_has_a_manifest_with_its_splits() -> None:
    assert set(manifest.list_manifests()) == {*LISTED, "cellpose", "livecell_bv2", "mito"}
    for name, splits in LISTED.items():
        entries = manifest.load_manifest(name).entries()
        assert Counter(s for e in entries for s in e.splits) == splits, name


@pytest.mark.real_data
def test_manifests_agree_with_the_index(real_data: Path) -> None:
    rows = list(csv.DictReader((real_data / "index.csv").open(encoding="utf-8")))
    assert len(rows) == sum(len(manifest.load_manifest(name).files) for name in LISTED)
    entries = {(name, e.image): e for name in LISTED for e in manifest.load_manifest(name).files}
    for row in rows:
        entry = entries[row["dataset"], row["image"]]
        planes = int(row["channels"])
        size = (int(row["height"]), int(row["width"]))
        assert entry.shape == (size if planes == 1 else (*size, planes))
        assert (entry.masks, entry.dtype) == (row["masks"], row["dtype"])
        assert entry.masks_sha256 == row["masks_pixel_sha256"]
        assert entry.cells == int(row["cells"])
        assert set(entry.splits) == set(row["role"].split("+"))
        # The index has the hashes of truncated gray images there; see the manifest's note.
        if (row["dataset"], planes) != ("dsb2018", 1):
            assert entry.image_sha256 == row["image_pixel_sha256"]


def test_sets_without_a_stated_licence_say_so() -> None:
    silent = {
        n for n in manifest.list_manifests() if "none stated" in manifest.load_manifest(n).licence
    }
    assert silent == {
        "deepcell_nuclei",
        "deepcell_phase",
        "hela_phase_nuclei",
        "mito",
        "raw264_fluo",
        "tcell_if",
    }


def test_pretraining_subsets_are_nested() -> None:
    def images(parts: tuple[manifest.SubsetPart, ...]) -> list[tuple[str, str]]:
        return [
            (part.dataset, entry.name)
            for part in parts
            for entry in manifest.load_manifest(part.dataset).entries()
            if part.includes(entry)
        ]

    every = manifest.load_subsets()
    subsets = {name: images(every[name]) for name in ("one", "fluor", "cell", "micro", "general")}
    assert [len(s) for s in subsets.values()] == [25, 182, 203, 215, 220]
    ordered = list(subsets.values())
    assert all(set(less) < set(more) for less, more in pairwise(ordered))
    assert all(len(set(s)) == len(s) for s in ordered)
    # All that serves for pre-training is in the richest subset, and nothing that tests.
    pretrain = {
        (name, entry.name)
        for name in LISTED
        for entry in manifest.load_manifest(name).entries()
        if "pretrain" in entry.splits
    }
    assert set(subsets["general"]) == pretrain


def test_cellpose_subsets_and_styles_follow_the_numbers_of_the_files(tmp_path: Path) -> None:
    for number in range(540):
        (tmp_path / f"train_{number:03d}_img.png").touch()
    (tmp_path / "test_010_img.png").touch()
    entries = manifest.load_manifest("cellpose").entries(tmp_path)
    counts = Counter(split for entry in entries for split in entry.splits)
    sizes = {"Sneuro": 89, "Sfluor": 288, "Scell": 382, "Smicro": 455, "Sgeneral": 540}
    assert {name: counts[f"subset:{name}"] for name in sizes} == sizes
    assert counts["general_test"] == 1
    styled: dict[str, list[int]] = {}
    for entry in entries:
        if entry.style:
            styled.setdefault(entry.style, []).append(int(entry.name.removeprefix("train_")))
    assert styled == CELLPOSE_CONTRAST


def test_a_missing_file_does_not_shift_the_subsets(tmp_path: Path) -> None:
    for number in (9, 11, 44, 89):
        (tmp_path / f"train_{number:03d}_img.png").touch()
    entries = {e.name: e for e in manifest.load_manifest("cellpose").entries(tmp_path)}
    assert entries["train_044"].style == "neurocyte"
    assert entries["train_011"].style is None
    assert "subset:Sneuro" in entries["train_044"].splits
    assert "subset:Sneuro" not in entries["train_089"].splits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licens": "MIT"}, "licens: Extra inputs"),
        ({"citation": None}, "citation"),
        ({"access": "closed"}, "access"),
        ({"access": "manual"}, "needs instructions"),
        ({"archives": []}, "needs archives"),
        ({"converter": "unzip"}, "converter"),
        ({"channels": ["ultraviolet", "none"]}, "channels"),
        ({"files": []}, "either files or groups"),
        (
            {"archives": [{"url": "file:///etc/passwd", "file": "a.zip", "sha256": None}]},
            "archives.0.url",
        ),
        (
            {"archives": [{"url": "https://x/a", "file": "../a.zip", "sha256": None}]},
            "archives.0.file",
        ),
        ({"archives": [{"url": "https://x/a", "file": "a.zip"}]}, "archives.0.sha256"),
    ],
)
def test_faulty_manifest_is_refused_with_the_field(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    load(valid(), tmp_path)
    with pytest.raises(ManifestError, match=message) as caught:
        load(valid() | change, tmp_path)
    assert "small.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "../1_img.png"}, "image"),
        ({"image": "/1_img.png"}, "image"),
        ({"image_sha256": "abc"}, "image_sha256"),
        ({"splits": ["train"]}, "splits"),
        ({"splits": ["shot", "query"]}, "both trains and tests"),
        ({"splits": ["pretrain", "general_test"]}, "both trains and tests"),
        ({"splits": ["query", "pretrain"]}, "both trains and tests"),
        ({"splits": ["validation", "shot"]}, "both trains and tests"),
        ({"image": "2_img.png"}, "named twice"),
        ({"hash": "0" * 64}, "hash: Extra inputs"),
        ({"cells": -1}, "cells"),
    ],
)
def test_faulty_file_entry_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = valid()
    content["files"][0] |= change
    with pytest.raises(ManifestError, match=message):
        load(content, tmp_path)


@pytest.mark.parametrize(
    ("change", "image"),
    [
        ({"splits": ["shot", "query"]}, "image -1 of s_"),
        ({"ranges": {"pretrain": [0, 9], "general_test": [9, 12]}}, "image 9 of s_"),
        ({"splits": ["query"], "picks": {"shot": [3, 5]}}, "image [35] of s_"),
    ],
)
def test_a_group_keeps_training_and_test_apart(
    change: dict[str, Any], image: str, tmp_path: Path
) -> None:
    group = {"source": "train", "prefix": "s_", "splits": [], "count": None}
    load(valid() | {"files": [], "groups": [group]}, tmp_path)
    with pytest.raises(ManifestError, match=rf"{image}\* both trains and tests"):
        load(valid() | {"files": [], "groups": [group | change]}, tmp_path)


def test_what_is_not_yaml_or_not_there_is_a_manifest_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: [", encoding="utf-8")
    with pytest.raises(ManifestError, match="not YAML"):
        manifest.load_manifest(path)
    with pytest.raises(ManifestError, match="cannot be read"):
        manifest.load_manifest(tmp_path / "absent.yaml")


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="bbbc010_elegans"):
        manifest.load_manifest("bbbc011")


def test_a_manifest_must_bear_the_name_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "manifests", lambda: tmp_path)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(valid(), sort_keys=False))
    (tmp_path / "claims.yaml").write_text("claims: []\n")
    assert manifest.list_manifests() == ["other"]
    with pytest.raises(ManifestError, match="'small'"):
        manifest.load_manifest("other")

"""Data manifests: what they hold, and what the schema refuses."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from scellseg_lib import paths
from scellseg_lib.datasets import manifest
from scellseg_lib.errors import DatasetError, ManifestError

CELLPOSE_CONTRAST = {
    "Kc167": [95, 96, 97, 102, 103],
    "cytomembrane": [290, 306, 309, 311, 326],
    "macrophagocyte": [104, 106, 107, 110, 121],
    "neurocyte": [10, 44, 69, 79, 80],
    "style1": [126, 127, 128, 134, 141],
    "style2": [144, 149, 150, 151, 152],
    "style3": [494, 495, 500, 503, 505],
}
LISTED = {
    "bbbc010_elegans": {"shot": 10, "query": 39},
    "cellpose_contrast35": {"pretrain": 35} | {f"contrast:{s}": 5 for s in CELLPOSE_CONTRAST},
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
NO_LICENCE = {"deepcell_nuclei", "deepcell_phase", "hela_phase_nuclei"}
NO_LICENCE |= {"mito", "raw264_fluo", "tcell_if"}
FIRST = {"image": "1_img.png", "masks": "1_masks.png", "splits": ["shot"]}
VALID = {
    "name": "small",
    "title": "Two images",
    "citation": "nobody",
    "licence": "CC0",
    "licence_url": None,
    "access": "open",
    "archives": [{"url": "https://example.org/a.zip", "file": "a.zip", "sha256": None}],
    "converter": "cellpose",
    "channels": ["gray", "none"],
    "files": [FIRST, {"image": "2_img.png", "masks": "2_masks.png", "splits": ["query"]}],
}
"""A small manifest without a fault."""


def test_every_set_has_a_manifest_with_its_splits_and_says_its_terms() -> None:
    cards = {name: manifest.load_manifest(name) for name in manifest.list_manifests()}
    assert set(cards) == {*LISTED, "cellpose", "livecell_bv2", "mito"}
    for name, splits in LISTED.items():
        assert Counter(s for e in cards[name].entries() for s in e.splits) == splits, name
    assert {name for name, card in cards.items() if "none stated" in card.licence} == NO_LICENCE


@pytest.mark.real_data
def test_manifests_agree_with_the_index(real_data: Path) -> None:
    rows = list(csv.DictReader((real_data / "index.csv").open(encoding="utf-8")))
    entries = {(name, e.image): e for name in LISTED for e in manifest.load_manifest(name).files}
    listed = [row for row in rows if row["dataset"] in LISTED]
    assert len(listed) == len(entries)
    for row in listed:
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


def test_pretraining_subsets_are_nested() -> None:
    cards = {name: manifest.load_manifest(name) for name in LISTED}
    every = manifest.load_subsets()
    subsets = [
        {(p.dataset, e.name) for p in every[name] for e in cards[p.dataset].files if p.includes(e)}
        for name in ("one", "fluor", "cell", "micro", "general")
    ]
    assert [len(images) for images in subsets] == [25, 182, 203, 215, 220]
    assert all(less < more for less, more in pairwise(subsets))
    # All that serves for pre-training is in the richest subset, and nothing that tests.
    assert subsets[-1] == {
        (name, e.name) for name, card in cards.items() for e in card.files if "pretrain" in e.splits
    }


def test_cellpose_subsets_and_styles_follow_the_numbers_of_the_files(tmp_path: Path) -> None:
    for number in range(540):
        (tmp_path / f"train_{number:03d}_img.png").touch()
    (tmp_path / "test_010_img.png").touch()
    card = manifest.load_manifest("cellpose")
    entries = card.entries(tmp_path)
    counts = Counter(split for entry in entries for split in entry.splits)
    sizes = {"Sneuro": 89, "Sfluor": 288, "Scell": 382, "Smicro": 455, "Sgeneral": 540}
    assert {name: counts[f"subset:{name}"] for name in sizes} == sizes
    assert counts["general_test"] == 1
    styled: dict[str, list[int]] = {}
    for entry in entries:
        if entry.style:
            styled.setdefault(entry.style, []).append(int(entry.name.removeprefix("train_")))
    assert styled == CELLPOSE_CONTRAST
    (tmp_path / "train_043_img.png").unlink()  # a missing file shifts nothing
    assert {e.name: e.splits for e in card.entries(tmp_path)} == {
        e.name: e.splits for e in entries if e.name != "train_043"
    }


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., manifest.Manifest]:
    """Load `small.yaml` with such a content."""
    monkeypatch.setattr(paths, "manifests", lambda: tmp_path)

    def load(content: Any) -> manifest.Manifest:
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        manifest._parse.cache_clear()
        return manifest.load_manifest("small")

    return load


def archive(**changes: Any) -> dict[str, Any]:
    return {"archives": [VALID["archives"][0] | changes]}  # type: ignore[index, operator]


def first(**changes: Any) -> dict[str, Any]:
    return {"files": [FIRST | changes, VALID["files"][1]]}  # type: ignore[index]


def group(**changes: Any) -> dict[str, Any]:
    every = {"source": "train", "prefix": "s_", "splits": [], "count": None}
    return {"files": [], "groups": [every | changes]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licens": "MIT"}, "licens: Extra inputs"),
        ({"citation": None}, "citation"),
        ({"access": "closed"}, "access"),
        ({"access": "manual"}, "needs instructions"),
        ({"archives": []}, "needs archives"),
        ({"converter": "unzip"}, r"converter \(.*livecell"),
        ({"channels": ["ultraviolet", "none"]}, "channels"),
        ({"files": []}, "either files or groups"),
        (archive(url="file:///etc/passwd"), "archives.0.url"),
        (archive(file="../a.zip"), "archives.0.file"),
        ({"archives": [{"url": "https://x/a", "file": "a.zip"}]}, "archives.0.sha256"),
        (first(image="../1_img.png"), "image"),
        (first(image="/1_img.png"), "image"),
        (first(image="2_img.png"), "named twice"),
        (first(image_sha256="abc"), "image_sha256"),
        (first(hash="0" * 64), "hash: Extra inputs"),
        (first(cells=-1), "cells"),
        (first(splits=["train"]), "splits"),
        (first(splits=["shot", "query"]), "1_img.png both trains and tests"),
        (first(splits=["pretrain", "general_test"]), "both trains and tests"),
        (first(splits=["query", "pretrain"]), "both trains and tests"),
        (first(splits=["validation", "shot"]), "both trains and tests"),
        (group(splits=["shot", "query"]), r"image -1 of s_\* both trains and tests"),
        (group(ranges={"pretrain": [0, 9], "general_test": [9, 12]}), "image 9 of s_"),
        (group(splits=["query"], picks={"shot": [3, 5]}), "image 3 of s_"),
    ],
)
def test_faulty_manifest_is_refused_with_the_field(
    change: dict[str, Any], message: str, load: Callable[..., manifest.Manifest]
) -> None:
    assert load(VALID).files
    assert load(VALID | group()).groups
    with pytest.raises(ManifestError, match=message) as caught:
        load(VALID | change)
    assert "small.yaml" in str(caught.value)


def test_what_is_no_manifest_of_that_name(
    tmp_path: Path, load: Callable[..., manifest.Manifest]
) -> None:
    load(VALID)
    (tmp_path / "claims.yaml").write_text("claims: []\n")
    (tmp_path / "broken.yaml").write_text("name: [")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(VALID, sort_keys=False))
    assert manifest.list_manifests() == ["broken", "other", "small"]
    with pytest.raises(ManifestError, match=r"broken\.yaml: the manifest cannot be read"):
        manifest.load_manifest("broken")
    with pytest.raises(ManifestError, match="is named 'small'"):
        manifest.load_manifest("other")
    with pytest.raises(DatasetError, match=r"'bbbc011'.*There are: broken, other, small"):
        manifest.load_manifest("bbbc011")
    with pytest.raises(ManifestError, match="cannot be read"):
        manifest.load_subsets()

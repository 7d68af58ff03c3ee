"""Data manifests: what they hold, and what the schema refuses."""

import csv
from collections import Counter
from itertools import pairwise

import pytest
import yaml

from scellseg_lib.datasets import manifest, synthetic
from scellseg_lib.errors import DatasetError, ManifestError

LISTED = {
    "bbbc010_elegans": {"shot": 10, "query": 39},
    "cellpose_contrast35": {"pretrain": 35} | {f"contrast:{s}": 5 for s in synthetic.STYLES},
    "cellpose_cyto_test": {"general_test": 68},
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
VALID = {  # a small manifest without a fault
    "name": "small",
    "title": "One image",
    "citation": "nobody",
    "licence": "CC0",
    "licence_url": None,
    "access": "open",
    "archives": [{"url": "https://example.org/a.zip", "file": "a.zip", "sha256": None}],
    "converter": "cellpose",
    "channels": ["gray", "none"],
    "files": [{"image": "1_img.png", "masks": "1_masks.png", "splits": ["shot"]}],
}


def test_every_set_has_a_manifest_with_its_splits_and_says_its_terms():
    cards = {name: manifest.load_manifest(name) for name in manifest.list_manifests()}
    assert set(cards) == {*LISTED, "bbbc010_crowded", "cellpose", "livecell_bv2", "mito"}
    chosen, left = ({e.name for e in cards[f"bbbc010_{k}"].files} for k in ("elegans", "crowded"))
    assert (len(chosen), len(left), len(chosen | left)) == (49, 51, 100)  # all wells of the source
    for name, splits in LISTED.items():
        assert Counter(s for e in cards[name].entries() for s in e.splits) == splits, name
    assert {name for name, card in cards.items() if "none stated" in card.licence} == NO_LICENCE


def test_manifests_are_consistent_and_nothing_both_trains_and_tests():
    roles = ({"shot", "pretrain"}, {"validation"}, {"query", "general_test"})
    for name in manifest.list_manifests():
        card = manifest.load_manifest(name)
        assert card.name == name
        assert bool(card.files) != bool(card.groups)
        assert card.instructions if card.access == "manual" else card.converter
        assert bool(card.archives) == (card.converter is not None)
        names = [file for entry in card.files for file in (entry.image, entry.masks)]
        assert len(set(names)) == len(names)
        served = [entry.splits for entry in card.files]
        served += [group.splits_of(n) for group in card.groups for n in range(-1, 1000)]
        assert all(sum(not role.isdisjoint(splits) for role in roles) <= 1 for splits in served)


@pytest.mark.real_data
def test_manifests_agree_with_the_index(real_data):
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


def test_pretraining_subsets_are_nested():
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


def test_cellpose_subsets_and_styles_follow_the_numbers_of_the_files(tmp_path):
    for number in range(540):
        (tmp_path / f"train_{number:03d}_img.png").touch()
    card = manifest.load_manifest("cellpose")
    entries = card.entries(tmp_path)
    counts = Counter(split for entry in entries for split in entry.splits)
    sizes = {"Sneuro": 89, "Sfluor": 288, "Scell": 382, "Smicro": 455, "Sgeneral": 540}
    assert {name: counts[f"subset:{name}"] for name in sizes} == sizes
    styled = {(f"contrast:{one.style}", one.name) for one in entries if one.style}
    picks = card.groups[0].picks.items()  # whose numbers tests/test_docs.py compares
    assert styled == {(style, f"train_{n:03d}") for style, numbers in picks for n in numbers}
    (tmp_path / "train_043_img.png").unlink()  # a missing file shifts nothing
    assert {e.name: e.splits for e in card.entries(tmp_path)} == {
        e.name: e.splits for e in entries if e.name != "train_043"
    }


# The part of a manifest in which it is, and what the error says.
FAULTS = [
    ("", {"licens": "MIT"}, r"licens: Extra inputs"),
    ("", {"channels": ["ultraviolet", "none"]}, "channels"),
    ("", {"archives": [{"url": "https://x/a", "file": "a.zip"}]}, r"archives\.0\.sha256"),
    ("archives", {"url": "file:///etc/passwd"}, r"archives\.0\.url"),
    ("archives", {"file": "../a.zip"}, r"archives\.0\.file"),
    ("files", {"image": "/1_img.png"}, r"files\.0\.image"),
    ("files", {"image_sha256": "abc"}, "image_sha256"),
    ("files", {"hash": "0" * 64}, r"hash: Extra inputs"),
    ("files", {"splits": ["train"]}, "splits"),
]


@pytest.mark.parametrize(("part", "fault", "message"), FAULTS)
def test_faulty_manifest_is_refused_with_the_field(part, fault, message, tmp_path, monkeypatch):
    change = {part: [VALID[part][0] | fault]} if part else fault
    monkeypatch.setattr("scellseg_lib.paths.MANIFESTS", tmp_path)
    manifest._parse.cache_clear()
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(VALID | change, sort_keys=False))
    with pytest.raises(ManifestError, match=rf"small\.yaml: the manifest(.|\n)*{message}"):
        manifest.load_manifest("small")


def test_what_is_no_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("scellseg_lib.paths.MANIFESTS", tmp_path)
    (tmp_path / "claims.yaml").write_text("claims: []\n")
    (tmp_path / "broken.yaml").write_text("name: [")
    assert manifest.list_manifests() == ["broken"]
    with pytest.raises(DatasetError, match=r"'bbbc011'.*There are: broken"):
        manifest.load_manifest("bbbc011")

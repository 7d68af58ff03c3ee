"""The packaged weights: what their cards and files say of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

from scellseg_lib import paths
from scellseg_lib.datasets.manifest import load_manifest, names
from scellseg_lib.datasets.weights import load_model, packaged_files
from scellseg_lib.pretraining import log_of

FILES = packaged_files()


def test_all_five_models_are_there_at_half_width():
    models = ("cellpose", "hover", "scellseg", "unet2", "unet3")
    assert {f"{name}_16.safetensors" for name in models} <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_packaged_model_says_what_it_is(file: Path):
    card = load_model(file).card
    assert card == type(card).model_validate(json.loads(file.with_suffix(".json").read_text()))
    assert card.licence.startswith("research only")
    assert (paths.PACKAGED_WEIGHTS / "LICENSE-WEIGHTS.md").is_file()
    log = pd.read_csv(log_of(file))
    assert log["step"].tolist() == list(range(1, len(log) + 1))
    scored = {name.partition(" ")[0] for name in card.scores}
    assert {"huh7_nuclei", "dsb2018_colour", "tcell_if"} <= scored
    with safe_open(file, "pt") as tensors:
        kinds = {tensors.get_tensor(key).dtype for key in tensors.keys() if "weight" in key}  # noqa: SIM118
    assert [str(kind) for kind in kinds] == ["torch.float16"]
    assert file.stat().st_size < (4e6 if card.levels[0] == 16 else 16e6)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_packaged_model_has_seen_no_data_set_of_queries(file: Path):
    seen = {one.name for one in load_model(file).card.training_data}
    tested = {
        name
        for name in names()
        if any("query" in entry.splits for entry in load_manifest(name).entries())
    }
    assert "bbbc010_elegans" in tested
    assert seen
    assert not seen & tested

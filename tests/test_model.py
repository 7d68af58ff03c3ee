"""Models on disk: what is saved comes back, and what does not fit is refused in words."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from scellseg_lib.errors import ModelError
from scellseg_lib.model import Card, Model, TrainingData, new_model, read_card, read_model
from scellseg_lib.network import ARCHITECTURES, build_network
from scellseg_lib.representation import Decoding

TINY = (4, 8)
KNOWN = {"architecture": "scellseg", "levels": TINY, "representation": "flow"}
KNOWN |= {"diameter": 41.5, "channels": ("green", "red"), "styles": [[0.1] * 8]}
KNOWN |= {"style_radius": 0.3, "decoding": Decoding(cell_threshold=0.25, min_size=20)}
KNOWN |= {"origin": "a test", "licence": "BSD-3-Clause", "versions": {"torch": "2"}}
KNOWN |= {"training_data": [TrainingData(name="worms", images=8, licence="CC0")]}
KNOWN |= {"recipe": {"steps": 3, "precision": {"dtype": "fp32"}}, "scores": {"ap50": 0.9}}
FULL = Card(**KNOWN)


@pytest.fixture
def model() -> Model:
    """A model with statistics as after training, so that nothing saved is a default."""
    plain = new_model("scellseg", TINY, seed=3)
    plain.network.train()(torch.rand(2, 2, 32, 32))
    return Model(plain.network.eval(), plain.representation, FULL.model_copy(deep=True))


def assert_same_weights(a: Model, b: Model) -> None:
    torch.testing.assert_close(a.network.state_dict(), b.network.state_dict(), rtol=0, atol=0)


def test_a_saved_model_comes_back_bit_for_bit(model, tmp_path):
    path = model.save(tmp_path / "deeper" / "mine.safetensors")
    loaded = read_model(path)
    assert_same_weights(model, loaded)
    assert loaded.card == read_card(path) == model.card
    assert json.loads(path.with_suffix(".json").read_text()) == model.card.model_dump(mode="json")
    assert {file.name for file in path.parent.iterdir()} == {"mine.safetensors", "mine.json"}
    model.card.diameter = 17.0
    assert read_model(model.save(path)).card == model.card  # one of ours is written over
    assert json.loads(path.with_suffix(".json").read_text())["diameter"] == 17


def test_half_precision_rounds_weights_but_not_statistics(model, tmp_path):
    half = model.save(tmp_path / "half.safetensors", half=True)
    stored, loaded = load_file(half), read_model(half).network.state_dict()
    for key, value in model.network.state_dict().items():
        exact = "running" in key or not value.is_floating_point()
        assert stored[key].dtype == (value.dtype if exact else torch.float16)
        assert torch.equal(loaded[key], value if exact else value.half().float()), key
        assert loaded[key].dtype == value.dtype
    # Saving what was loaded gives the same file again.
    again = read_model(half).save(tmp_path / "again.safetensors", half=True)
    assert again.read_bytes() == half.read_bytes()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_model_comes_back_as_what_it_was_and_so_do_ablations(name, tmp_path):
    for parts in ({}, {"attention": False, "dense": True, "hierarchical_style": False}):
        model = new_model(name, TINY, seed=1)
        outputs = model.representation.n_outputs
        model.network = build_network(name, TINY, outputs=outputs, **parts)
        model.card = model.card.model_copy(update=parts)
        loaded = read_model(model.save(tmp_path / "m.safetensors"))
        assert loaded.card == model.card
        assert_same_weights(loaded, model)


def test_weights_of_a_new_model_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = new_model("cellpose", TINY, seed=4)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert_same_weights(first, new_model("cellpose", TINY, seed=4))
    torch.manual_seed(1)
    new_model("cellpose", TINY, seed=9)
    assert torch.equal(torch.random.get_rng_state(), state)  # the user's own numbers go on
    other = new_model("cellpose", TINY, seed=5).network.state_dict()
    assert any(not torch.equal(v, other[k]) for k, v in first.network.state_dict().items())


def test_a_copy_is_independent_and_whole(model):
    copy = model.copy()
    assert_same_weights(model, copy)
    assert copy.card == model.card
    next(copy.network.parameters()).data += 1
    copy.card.recipe["steps"] = 99
    copy.card.styles[0][0] = 9.0
    assert model.card == FULL
    assert not torch.equal(next(copy.network.parameters()), next(model.network.parameters()))


def test_another_suffix_a_file_as_folder_and_a_strangers_json_are_refused(model, tmp_path):
    beside = tmp_path / "m.json"
    beside.write_text('{"my": "settings"}')
    for name, words in (
        ("m.pt", r"saved as \.safetensors.*suffix"),
        ("m.json/m.safetensors", "cannot be written.*Give a folder"),
        ("m.safetensors", r"m\.json: .*not the card of a model.*another name"),
    ):
        with pytest.raises(ModelError, match=words):
            model.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == [beside]
    assert beside.read_text() == '{"my": "settings"}'


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_others_may_read_a_model_where_the_umask_allows_it(model, tmp_path):
    (tmp_path / "plain").touch()
    path = model.save(tmp_path / "m.safetensors")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode

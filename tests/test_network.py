"""The five networks: what docs/method.md says of their size, shapes and styles."""

from typing import get_args

import pytest
import torch

from scellseg_lib.errors import ModelError
from scellseg_lib.network import ARCHITECTURES, NetworkName, build_network, style_embedding

TINY = (4, 8)
IMAGES = torch.rand(2, 2, 48, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_models_have_the_shapes_of_the_paper_and_learn_every_weight(name):
    """Their parameters are counted in tests/test_docs.py."""
    for levels in (TINY, (2, 6, 10, 14, 18)):
        network = build_network(name, levels)
        assert network.stride == 2 ** (len(levels) - 1)
        maps, style = network(IMAGES)
        assert maps.shape == (2, 2 if name == "unet2" else 3, 48, 32)
        assert style.shape == (2, levels[-1])
        torch.testing.assert_close(style.norm(dim=1), torch.ones(2))
        maps.square().sum().backward()
        # A bias before a BatchNorm has a gradient of zero but for rounding: it must exist only.
        assert [key for key, p in network.named_parameters() if p.grad is None] == []
    assert build_network(name, TINY, outputs=7)(IMAGES).maps.shape[1] == 7


@pytest.mark.parametrize("name", ["cellpose", "scellseg"])
def test_the_embedding_alone_is_that_of_the_whole_network(name):
    network = build_network(name, TINY).eval()
    used: list[str] = []
    for part, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *_, part=part: used.append(part))
    torch.testing.assert_close(network.embed(IMAGES), network(IMAGES).style, rtol=0, atol=0)
    once = used[: len(used) - len(set(used))]
    assert once  # the first call went no further than the downsampling pass
    assert all(part.startswith("extractor.down.") for part in once)


def test_a_style_is_the_normalised_mean_of_a_map_and_zero_for_an_empty_one():
    features = torch.zeros(2, 3, 2, 2, requires_grad=True)
    style_embedding(features).sum().backward()
    assert torch.isfinite(features.grad).all()
    features = torch.zeros(2, 3, 2, 2)
    features[0, 0] = torch.tensor([[3.0, 5.0], [1.0, 3.0]])
    features[0, 1, 0, 0] = -16
    style = style_embedding(features)
    torch.testing.assert_close(style, torch.tensor([[0.6, -0.8, 0.0], [0.0, 0.0, 0.0]]))


def test_what_makes_no_network_is_an_error_and_who_checks_types_knows_the_names():
    assert set(get_args(NetworkName)) == set(ARCHITECTURES)
    with pytest.raises(ModelError, match=r"no model 'unet4'.*cellpose"):
        build_network("unet4")
    for levels in ((), (32,), (4, 7), (0, 4), (4, -8)):
        with pytest.raises(ModelError, match="at least two even widths"):
            build_network("scellseg", levels)

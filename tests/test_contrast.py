"""The contrastive term (Eq. 2-3) against plain sums, and its options."""

import numpy as np
import pytest
import torch
from torch import nn

from scellseg_lib.augment import CROP_SIDES, Source
from scellseg_lib.contrast import ContrastiveTerm, pair_distance
from scellseg_lib.device import Precision
from scellseg_lib.finetuning import FinetuneOptions
from scellseg_lib.network import build_network

TINY = (4, 8)


def sources(value: float, n: int = 2) -> list[Source]:
    rng = np.random.default_rng(int(value * 10))
    pixels = (value + rng.normal(0, 0.3, (n, 2, 80, 80))).astype(np.float32)
    return [Source(image, None, 1.0) for image in pixels]


def term(**options) -> ContrastiveTerm:
    return ContrastiveTerm(sources(1), [sources(2), sources(3)], FinetuneOptions(**options))


def styles(n: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(n, TINY[-1], generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(drawn, dim=1)


def double_loop(a: torch.Tensor, b: torch.Tensor) -> float:
    return sum(float(((x - y) ** 2).mean()) for x in a for y in b)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (1, 1), (3, 5)])
def test_the_distance_is_the_sum_over_all_pairs(n: int, m: int):
    a, b = styles(n, 0), styles(m, 1)
    assert float(pair_distance(a, b)) == pytest.approx(double_loop(a, b), rel=1e-5)
    assert float(pair_distance(a[:1], a[:1].expand(n, -1))) == 0


def test_the_term_is_that_of_equation_2():
    network = build_network("scellseg", TINY).eval()
    contrastive, shot = term(), styles(2, 2)
    value = contrastive(network, shot, np.random.default_rng(5), 0.5, Precision())
    query, contrast = contrastive.batches(np.random.default_rng(5), 2)
    with torch.no_grad():
        near, far = (double_loop(shot, network.embed(x)) for x in (query, contrast))
    expected = 1 / (1 + np.exp(-0.2)) * near / (far + 1e-5)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_contrast_like_the_shots_does_not_divide_by_zero():
    network = nn.Module()
    network.embed = lambda images, observe: torch.ones(len(images), 4) / 2
    for offset in (0, 0.1):
        shot, near = torch.ones(8, 4) / 2 + offset, 64 * offset**2
        value = term()(network, shot, np.random.default_rng(0), 0.0, Precision())
        assert float(value.detach()) == pytest.approx(0.54983 * near / (near + 1e-5), rel=1e-4)


def test_gradients_reach_all_three_styles_and_alpha():
    shot, *others = (styles(8, seed).requires_grad_() for seed in range(3))
    network, given, contrastive = nn.Module(), iter(others), term()
    network.embed = lambda _, observe: next(given)
    contrastive(network, shot, np.random.default_rng(0), 0.0, Precision()).backward()
    for each in (shot, *others):
        assert each.grad.abs().sum() > 0
    assert contrastive.alpha.grad > 0  # always: hence the collapse, docs/method.md, section 3


def test_one_style_and_one_crop_side_serve_a_step(monkeypatch):
    monkeypatch.setattr("scellseg_lib.contrast.unlabelled_batch", lambda *drawn, **_: drawn)
    contrastive = term()
    pairs = [contrastive.batches(np.random.default_rng((0, step)), 8) for step in range(200)]
    by_style = [sum(b[0] is style for _, b in pairs) for style in contrastive.contrast]
    assert sum(by_style) == 200
    assert min(by_style) > 60
    assert all(a[0] is contrastive.queries and a[2:] == b[2:] for a, b in pairs)
    sides = [side for (_, _, side, _), _ in pairs]
    assert CROP_SIDES[0] <= min(sides) < CROP_SIDES[0] + 8
    assert CROP_SIDES[1] - 8 < max(sides) <= CROP_SIDES[1]

"""The choice of precision; memory that is given back after a run."""

import psutil
import pytest
import torch
from torch import nn

from scellseg_lib import augment, device
from scellseg_lib.device import Precision, choose_precision
from scellseg_lib.model import new_model
from scellseg_lib.network import build_network
from tests import tiny

CPU = torch.device("cpu")


def test_the_layout_changes_no_number_and_gpus_too_repeat_themselves(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    layer, images = nn.Conv2d(2, 4, 3, padding=1), torch.rand(1, 2, 9, 7)
    expected = layer(images)
    found = Precision(channels_last=True).place(layer, CPU)(images)
    assert found.is_contiguous(memory_format=torch.channels_last)  # the weights bring it
    torch.testing.assert_close(found, expected)
    assert Precision().place(layer, CPU).weight.is_contiguous()
    assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize(
    ("facts", "has"),
    [
        ({"architecture": "x86_64", "cpu_name": "EPYC", "avx2": True, "avx512_bf16": False}, False),
        ({"architecture": "x86_64", "cpu_name": "EPYC", "avx512_bf16": True}, True),
        ({"architecture": "arm64", "bf16": True, "sve_max_length": 256}, True),
        ({}, False),  # torch knows nothing
    ],
)
def test_bf16_is_chosen_where_there_are_instructions_for_it(monkeypatch, facts, has: bool):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: facts)
    assert choose_precision(CPU) == (Precision("bf16", channels_last=True) if has else Precision())
    assert ("bf16" in device.machine(CPU)) is has


def test_the_network_computes_in_the_precision_and_keeps_its_weights():
    network = build_network("scellseg", (4, 8))
    for dtype, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Precision(dtype).autocast(CPU):
            assert network(torch.zeros(2, 2, 16, 16)).maps.dtype == expected
    assert network.tasker[2].weight.dtype == torch.float32


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 2**20


def test_a_run_that_has_ended_gives_its_memory_back(small_patches, monkeypatch):
    model = new_model("scellseg", (16, 32))
    tiny.tune("classic", model, steps=1)  # what stays for good: code and tables
    monkeypatch.setattr(augment, "PATCH", 224)
    before, during = megabytes(), []
    tiny.tune("classic", model, steps=1, callback=lambda _: during.append(megabytes()))
    assert during[0] > before + 150
    assert megabytes() < before + 50

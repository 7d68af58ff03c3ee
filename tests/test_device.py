"""The choice of precision: measured once for a machine and a width, and only where it can pay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from scellseg_lib import device as precision
from scellseg_lib.device import CANDIDATES, Precision

# Taken before a fixture of the other tests puts a constant in its place.
CHOOSE = precision.choose_precision
CPU = torch.device("cpu")
TINY = (4, 8)


@pytest.fixture
def measured(monkeypatch, temporary_cache) -> list[tuple[int, ...]]:
    """Widths for which a measurement was made; channels-last bf16 is given out as the fastest."""
    widths: list[tuple[int, ...]] = []

    def measure(device, levels):
        widths.append(levels)
        return {p: 1.0 + i for i, p in enumerate(reversed(CANDIDATES))}

    monkeypatch.setattr(precision, "measure", measure)
    return widths


def test_a_placed_network_repeats_itself_on_gpus_too(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    Precision().place(nn.Conv2d(1, 1, 3), CPU)
    assert torch.backends.cudnn.deterministic


def test_it_is_measured_once_for_each_width(measured, temporary_cache):
    for _ in range(3):
        assert CHOOSE(CPU, TINY) == Precision("bf16", channels_last=True)
    assert measured == [TINY]
    CHOOSE(CPU, (4, 16))
    assert measured == [TINY, (4, 16)]
    CHOOSE(CPU, TINY)
    assert len(measured) == 2
    stored = json.loads((temporary_cache / "precision.json").read_text())
    assert len(stored) == 2
    assert {file.name for file in temporary_cache.iterdir()} == {"precision.json"}


def test_another_number_of_threads_is_another_machine(measured, monkeypatch):
    CHOOSE(CPU, TINY)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    CHOOSE(CPU, TINY)
    assert len(measured) == 2


X86 = "model name\t: Some {}\nflags\t\t: fpu {} sse2\n\nmodel name\t: Some {}\n"


def test_another_processor_of_a_shared_home_is_another_machine(measured, monkeypatch, tmp_path):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision, "CPU_INFO", file)
    for name, flags, known in (
        ("EPYC", "avx2", 0),
        ("EPYC", "avx2 aes", 1),  # a flag that does not matter
        ("Xeon", "avx2", 1),
        ("EPYC", "avx2 avx512_bf16", 2),
        ("EPYC", "avx2 amx_tile", 3),
        ("Xeon", "avx2", 4),
    ):
        file.write_text(X86.format(name, flags, name))
        assert len(measured) == known
        CHOOSE(CPU, TINY)
    assert len(measured) == 4


def test_processors_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(precision.platform, "processor", lambda: "Intel64 Family 6")
    assert "Intel64 Family 6" in precision._machine_key(CPU, TINY)
    (tmp_path / "arm").write_text("processor: 0\nFeatures: fp asimd bf16 svebf16\n")
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "arm")
    assert "bf16 svebf16" in precision._machine_key(CPU, TINY)


DAMAGED = ("", "{", "[1]", "7", '{"KEY": 7}', '{"KEY": {"dtype": "fp8"}}', '{"KEY": {"speed": 1}}')


@pytest.mark.parametrize("content", [*(text.encode() for text in DAMAGED), b"\xff\xfe\x00"])
def test_a_damaged_cache_counts_as_empty(measured, temporary_cache, content: bytes):
    file = temporary_cache / "precision.json"
    file.write_bytes(content.replace(b"KEY", precision._machine_key(CPU, TINY).encode()))
    for _ in range(2):
        assert CHOOSE(CPU, TINY) == Precision("bf16", channels_last=True)
    assert measured == [TINY]


@pytest.mark.parametrize("place", ["", "deeper"])
def test_a_cache_that_cannot_be_written_to_is_gone_without(measured, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SCELLSEG_CACHE", str(tmp_path / "file" / place))
    for _ in range(2):
        assert CHOOSE(CPU, TINY) == Precision("bf16", channels_last=True)
    assert len(measured) == 2


def test_a_full_disk_costs_the_caching_alone(measured, temporary_cache, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert CHOOSE(CPU, TINY) == Precision("bf16", channels_last=True)
    assert list(temporary_cache.iterdir()) == []


def test_it_says_that_it_measures_once(measured, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(precision, "say", said.append)
    CHOOSE(CPU, TINY)
    assert [("Measuring" in text, "10 s" in text) for text in said] == [(True, True)]
    CHOOSE(CPU, TINY)
    assert len(said) == 1


def test_the_fastest_is_chosen(monkeypatch, temporary_cache):
    seconds = dict(zip(CANDIDATES, (3.0, 1.0, 2.0, 4.0), strict=True))
    monkeypatch.setattr(precision, "measure", lambda *_: seconds)
    assert CHOOSE(CPU, TINY) == Precision("fp32", channels_last=True)


@pytest.mark.parametrize(("bf16_seconds", "n"), [(10.0, 2), (2.0, 4), (0.1, 4)])
def test_bf16_is_measured_unless_one_convolution_says_it_is_emulated(monkeypatch, bf16_seconds, n):
    tried = []

    def seconds(network: nn.Module, images: torch.Tensor, p: Precision) -> float:
        if isinstance(network, nn.Conv2d):
            return bf16_seconds if p.dtype == "bf16" else 1.0
        tried.append(p)
        return 1.0

    monkeypatch.setattr(precision, "_step_seconds", seconds)
    found = precision.measure(CPU, TINY)
    assert list(found) == list(CANDIDATES[:n])
    assert {p.dtype for p in tried} == ({"fp32"} if n == 2 else {"fp32", "bf16"})


@pytest.mark.parametrize("first", [1, 2, 5, 10, 11, 14, 22, 30])
def test_a_machine_that_is_busy_for_a_moment_does_not_change_the_choice(monkeypatch, first):
    """Whichever step the other program slows, bf16 has turns without it."""
    calls = []

    def seconds(network: nn.Module, images: torch.Tensor, p: Precision) -> float:
        calls.append(p)
        busy = first <= len(calls) < first + 6
        return (0.5 if p.dtype == "bf16" else 1.0) * (10 if busy else 1)

    monkeypatch.setattr(precision, "_step_seconds", seconds)
    found = precision.measure(CPU, TINY)
    assert min(found, key=found.__getitem__).dtype == "bf16"


def test_a_step_is_forward_and_backward_in_the_precision():
    layer = nn.Conv2d(2, 4, 3, padding=1)
    seen: list[torch.dtype] = []
    layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    for dtype in ("fp32", "bf16"):
        assert precision._step_seconds(layer, torch.rand(1, 2, 8, 8), Precision(dtype)) > 0
    assert seen == [torch.float32, torch.bfloat16]
    assert layer.weight.grad is not None
    assert layer.weight.dtype == torch.float32


def test_the_layout_changes_no_number():
    layer = nn.Conv2d(2, 4, 3, padding=1)
    images = torch.rand(1, 2, 9, 7)
    expected = layer(images)
    last = Precision(channels_last=True)
    placed = last.place(layer, CPU)
    assert placed.weight.is_contiguous(memory_format=torch.channels_last)
    found = placed(last.batch(images, CPU))
    assert found.is_contiguous(memory_format=torch.channels_last)  # the weights bring it
    torch.testing.assert_close(found, expected)
    assert Precision().place(layer, CPU).weight.is_contiguous()


def test_keeping_memory_does_no_harm_and_is_done_once():
    precision.keep_memory.cache_clear()
    precision.keep_memory()
    precision.keep_memory()
    assert precision.keep_memory.cache_info().misses == 1
    large = [torch.rand(1 << 20) for _ in range(8)]
    total = float(torch.stack(large).sum())
    del large
    assert 0.45 < total / (8 << 20) < 0.55


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(precision.platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(precision.ctypes, "CDLL", lambda _: pytest.fail("mallopt is glibc's"))
    precision.keep_memory.cache_clear()
    precision.keep_memory()
    precision.keep_memory.cache_clear()

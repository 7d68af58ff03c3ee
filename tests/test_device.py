"""The choice of precision, beside busy programs too; and memory that is given back after a run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from scellseg_lib import augment, device
from scellseg_lib.device import Precision, choose_precision, keep_memory
from scellseg_lib.model import new_model
from scellseg_lib.network import NetworkOutput, build_network
from tests import tiny

CPU = torch.device("cpu")
TINY = (4, 8)
BEST = Precision("bf16", channels_last=True)
X86 = "model name\t: Some {}\nflags\t\t: fpu {} sse2\n\nmodel name\t: Some {}\n"


class Measured:
    """Stands in for `measure`: `BEST` is the fastest; notes for which widths it was asked."""

    def __init__(self) -> None:
        self.widths: list[tuple[int, ...]] = []
        self.undisturbed = True

    def __call__(self, _: torch.device, levels: tuple[int, ...]):
        self.widths.append(levels)
        return {Precision(): 3.0, BEST: 1.0, Precision("bf16"): 2.0}, self.undisturbed


@pytest.fixture
def measured(monkeypatch, temporary_cache) -> Measured:
    stand_in = Measured()
    monkeypatch.setattr(device, "measure", stand_in)
    monkeypatch.setattr(device, "_doubted", {})
    return stand_in


def test_the_layout_changes_no_number_and_gpus_too_repeat_themselves(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    layer, images = nn.Conv2d(2, 4, 3, padding=1), torch.rand(1, 2, 9, 7)
    expected = layer(images)
    found = Precision(channels_last=True).place(layer, CPU)(images)
    assert found.is_contiguous(memory_format=torch.channels_last)  # the weights bring it
    torch.testing.assert_close(found, expected)
    assert Precision().place(layer, CPU).weight.is_contiguous()
    assert torch.backends.cudnn.deterministic


# The choice


def test_it_is_measured_and_said_once_for_each_width(measured, temporary_cache, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(device, "say", said.append)
    for levels in (TINY, TINY, (4, 16), TINY):
        assert choose_precision(CPU, levels) == BEST
    assert measured.widths == [TINY, (4, 16)]
    assert ["Measuring how this machine computes fastest" in text for text in said] == [True, True]
    assert len(json.loads((temporary_cache / "device.json").read_text())) == 2
    assert [file.name for file in temporary_cache.iterdir()] == ["device.json"]


def test_what_is_measured_beside_busy_programs_is_not_written_down(
    measured, temporary_cache, monkeypatch
):
    said: list[str] = []
    monkeypatch.setattr(device, "say", said.append)
    measured.undisturbed = False
    for _ in range(2):
        assert choose_precision(CPU, TINY) == BEST
    assert len(measured.widths) == 1  # it serves for some minutes
    assert "Other programs are busy" in said[-1]
    assert list(temporary_cache.iterdir()) == []
    later = time.monotonic() + device.DOUBTED_FOR
    monkeypatch.setattr(time, "monotonic", lambda: later)
    measured.undisturbed = True
    choose_precision(CPU, TINY)
    assert len(measured.widths) == 2
    assert (temporary_cache / "device.json").is_file()


def test_another_machine_that_shares_the_cache_is_measured_too(measured, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    for name, flags, n_measured in (
        ("EPYC", "avx2", 1),
        ("EPYC", "avx2 aes", 1),  # a flag that does not matter
        ("Xeon", "avx2", 2),
        ("EPYC", "avx2 avx512_bf16", 3),
        ("Xeon", "avx2", 3),
    ):
        (tmp_path / "cpuinfo").write_text(X86.format(name, flags, name))
        choose_precision(CPU, TINY)
        assert len(measured.widths) == n_measured
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    choose_precision(CPU, TINY)
    assert len(measured.widths) == 4


DAMAGED = ("", "{", "[1]", "7", '{"KEY": 7}', '{"KEY": {"dtype": "fp8"}}', '{"KEY": {"speed": 1}}')


@pytest.mark.parametrize("content", [*(text.encode() for text in DAMAGED), b"\xff\xfe\x00"])
def test_a_damaged_cache_counts_as_empty(measured, temporary_cache, content: bytes):
    key = device._machine_key(CPU, TINY).encode()
    (temporary_cache / "device.json").write_bytes(content.replace(b"KEY", key))
    for _ in range(2):
        assert choose_precision(CPU, TINY) == BEST
    assert measured.widths == [TINY]


@pytest.mark.parametrize("place", ["file", "file/deeper", "full"])
def test_a_cache_that_cannot_be_written_to_is_gone_without(measured, tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise OSError("no space left on device")

    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SCELLSEG_CACHE", str(tmp_path / place))
    if place == "full":
        monkeypatch.setattr(Path, "write_text", full)
    for _ in range(2):
        assert choose_precision(CPU, TINY) == BEST
    assert len(measured.widths) == 2


@pytest.mark.parametrize(
    ("information", "has"),
    [
        (X86.format("EPYC", "avx2 f16c", "EPYC"), False),
        (X86.format("EPYC", "avx512_bf16", "EPYC"), True),
        ("processor: 0\nFeatures: fp asimd bf16 svebf16\n", True),
        (None, False),  # no Linux
    ],
)
def test_bf16_is_tried_only_where_there_are_instructions_for_it(
    monkeypatch, tmp_path, information: str | None, has: bool
):
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    if information is not None:
        (tmp_path / "cpuinfo").write_text(information)
    monkeypatch.setattr(device, "time_step", lambda *_: (1.0, 1.0))
    tried, undisturbed = device.measure(CPU, TINY)
    assert undisturbed
    fp32 = [Precision("fp32", False), Precision("fp32", True)]
    assert list(tried) == fp32 + [Precision("bf16", False), BEST] * has
    assert "bf16" in device.machine(CPU) or not has


@pytest.mark.parametrize("first", [1, 2, 3, 4, 5])
def test_a_machine_that_is_busy_for_a_moment_does_not_change_the_choice(monkeypatch, first: int):
    """Whichever steps the other program slows, each candidate has one without it."""
    calls = []

    def time_step(_: nn.Module, precision: Precision, __: torch.device) -> tuple[float, float]:
        calls.append(precision)
        seconds = 0.5 if precision.channels_last else 1.0
        return (10 * seconds, 0.2) if first <= len(calls) < first + 2 else (seconds, 0.97)

    monkeypatch.setattr(device, "time_step", time_step)
    seconds, undisturbed = device.measure(CPU, TINY)
    assert undisturbed
    assert seconds[Precision()] == 1.0
    assert seconds[Precision(channels_last=True)] == 0.5


def test_a_step_tells_whether_its_thread_has_computed_or_waited():
    class Waiting(nn.Conv2d):
        """As a network that waits for a processor for most of its step."""

        def forward(self, images: torch.Tensor) -> NetworkOutput:  # type: ignore[override]
            start = time.thread_time()
            maps = super().forward(images)
            time.sleep(0.05 + 2 * (time.thread_time() - start))
            return NetworkOutput(maps, maps)

    seconds, share = device.time_step(Waiting(2, 1, 1), Precision(), CPU)
    assert seconds > 0.05
    assert share < device.UNDISTURBED
    seconds, share = device.time_step(build_network("scellseg", TINY), Precision(), CPU)
    assert 0 < share < 1.05  # how much depends on what else runs here


def test_a_step_is_forward_and_backward_in_the_precision():
    network, seen = build_network("scellseg", TINY), []
    weight = network.tasker[2].weight
    network.tasker[2].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    for dtype in ("fp32", "bf16"):
        weight.grad = None
        assert device.time_step(network, Precision(dtype), CPU)[0] > 0
        assert weight.grad is not None
    assert seen == [torch.float32, torch.bfloat16]
    assert weight.dtype == torch.float32


# Memory


def megabytes() -> float:
    """Memory of this process that is resident."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_memory_is_kept_within_and_given_back_by_the_last_to_leave():
    before = megabytes()
    with keep_memory():
        with keep_memory():
            tensors = [torch.ones(1 << 18) for _ in range(400)]  # of a megabyte each
            del tensors
        assert megabytes() > before + 300
    assert megabytes() < before + 100


def test_a_run_that_has_ended_gives_its_memory_back(monkeypatch):
    monkeypatch.setattr(augment, "PATCH", 224)
    model = new_model("scellseg", (8, 16, 32, 64))
    tiny.tune("contrastive", model, steps=1)  # what stays for good: code and tables
    before, during = megabytes(), []
    tiny.tune("contrastive", model, steps=2, callback=lambda _: during.append(megabytes()))
    assert max(during) > before + 150
    assert megabytes() < before + 50


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(device.platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: pytest.fail("mallopt is glibc's"))
    with keep_memory():
        pass

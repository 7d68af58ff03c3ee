"""How to compute fast on this machine, and what becomes of the memory.

Channels-last pays for some widths and processors only, and bfloat16 where there are instructions
for it, so a short measurement decides, once for a machine and a width.
"""

from __future__ import annotations

import ctypes
import json
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

import torch
from torch import nn

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.network import build_network
from scellseg_lib.progress import say


def default_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@dataclass(frozen=True)
class Precision:
    """Numeric type of the convolutions and layout of the tensors; part of a trial's identity."""

    dtype: str = "fp32"
    """"fp32" or "bf16" (autocast; weights stay float32)."""
    channels_last: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Context in which the network runs."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == "bf16")

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Move a network to the device in this layout; GPUs too are to repeat themselves.

        Batches stay as they are: their two planes take the layout of the weights in the first
        convolution. Channels-last before, BatchNorm of so few is slow.
        """
        torch.backends.cudnn.deterministic = True
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return network.to(device=device, memory_format=layout)  # type: ignore[call-overload]


# The choice of precision

CPU_INFO = Path("/proc/cpuinfo")
TURNS = 3
UNDISTURBED = 0.8
"""Share of a step in which its thread computes where no other program takes the processor from it:
0.94 and more was measured, and 0.1 to 0.5 beside other programs."""
DOUBTED_FOR = 600.0
"""Seconds for which a choice counts that was measured beside other programs."""

_doubted: dict[str, tuple[float, Precision]] = {}
"""Such choices, and when they were made; they are never written down."""


def choose_precision(device: torch.device, levels: tuple[int, ...]) -> Precision:
    """Return the fastest way to train a network of some widths here, measured where not yet known.

    What was measured beside busy programs serves for some minutes, in this process alone.
    """
    key = _machine_key(device, levels)
    if recalled := recall_precision(key):
        return recalled
    say("Measuring how this machine computes fastest: a few seconds, once.")
    seconds, undisturbed = measure(device, levels)
    fastest = min(seconds, key=lambda precision: seconds[precision])
    if not undisturbed:
        say("Other programs are busy: it will be measured again another time.")
        _doubted[key] = time.monotonic(), fastest
        return fastest
    known = {name: asdict(one) for name, one in _read_choices().items()} | {key: asdict(fastest)}
    with suppress(OSError), whole(_choices_file()) as scratch:  # else it is measured each time
        scratch.write_text(json.dumps(known, indent=2))
    return fastest


def recall_precision(key: str) -> Precision | None:
    """What was chosen earlier for a machine and a width; None where nothing was."""
    since, doubted = _doubted.get(key, (-DOUBTED_FOR, None))
    if doubted and time.monotonic() - since < DOUBTED_FOR:
        return doubted
    return _read_choices().get(key)


def _choices_file() -> Path:
    return paths.cache() / "device.json"


def _read_choices() -> dict[str, Precision]:
    """Choices that were written down; none where the file is absent or damaged."""
    try:
        read = json.loads(_choices_file().read_text())
        known = {key: Precision(**value) for key, value in read.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {key: one for key, one in known.items() if one.dtype in ("fp32", "bf16")}


def measure(device: torch.device, levels: tuple[int, ...]) -> tuple[dict[Precision, float], bool]:
    """Seconds of a small training step for each candidate, and whether nothing disturbed them.

    The candidates take turns and the fastest step of each counts, so that another program that is
    busy for a moment slows all of them or none. One that is busy all the time is told by these
    fastest steps: their thread has waited for the processor.
    """
    dtypes = ("fp32", "bf16") if has_bfloat16(device) else ("fp32",)
    networks = {
        precision: precision.place(build_network("scellseg", levels), device)
        for precision in (Precision(dtype, last) for dtype in dtypes for last in (False, True))
    }
    turns = [{p: time_step(n, p, device) for p, n in networks.items()} for _ in range(TURNS)]
    fastest = {precision: min(turn[precision] for turn in turns) for precision in networks}
    undisturbed = all(share >= UNDISTURBED for _, share in fastest.values())
    seconds = {precision: taken for precision, (taken, _) in fastest.items()}
    return seconds, undisturbed or device.type != "cpu"


def time_step(
    network: nn.Module, precision: Precision, device: torch.device
) -> tuple[float, float]:
    """Seconds of a step of 2 patches of 112 pixels, and the share in which its thread computed."""
    images = torch.zeros(2, 2, 112, 112, device=device)
    synchronise = getattr(torch, device.type).synchronize  # for the CPU, nothing
    synchronise()
    start, start_of_thread = time.perf_counter(), time.thread_time()
    with precision.autocast(device):
        maps = network(images).maps
    maps.float().square().mean().backward()
    synchronise()
    seconds = time.perf_counter() - start
    return seconds, (time.thread_time() - start_of_thread) / seconds


def has_bfloat16(device: torch.device) -> bool:
    """Whether there are instructions for bfloat16; emulated it is ten times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or any("bf16" in flag for flag in _processor()[1])


def _machine_key(device: torch.device, levels: tuple[int, ...]) -> str:
    """What the fastest way depends on; several machines may have one cache."""
    capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    parts = (device.type, machine(device), capability, torch.get_num_threads())
    return " ".join(map(str, (*parts, torch.__version__, levels)))


def machine(device: torch.device) -> str:
    """Name of the GPU, or of the processor and its instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, flags = _processor()
    able = sorted(flag for flag in flags if "bf16" in flag or "amx" in flag)
    return " ".join([platform.machine(), name, *able])


def _processor() -> tuple[str, list[str]]:
    """Name of the processor and its flags, which only Linux tells."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor(), []
    facts = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    flags = f"{facts.get('flags')} {facts.get('Features')}".split()  # of x86, of ARM
    return facts.get("model name", "").strip(), flags


# Memory

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
KEEPING = {M_TRIM_THRESHOLD: -1, M_TOP_PAD: 256 << 20, M_MMAP_MAX: 0}
USUAL = {
    M_TRIM_THRESHOLD: 64 << 20,
    M_TOP_PAD: 128 << 10,
    M_MMAP_THRESHOLD: 32 << 20,
    M_MMAP_MAX: 1 << 16,
}
"""Options of glibc's ``mallopt`` within `keep_memory`, and after it: what glibc would come to."""

_runs, _lock = 0, Lock()


@contextmanager
def keep_memory() -> Iterator[None]:
    """Within, the C library keeps memory that is freed; at the end of the last run all goes back.

    By default glibc unmaps each large tensor when it is freed and maps, page by page, the next:
    half of the time of a training step on a CPU. PyTorch's own pool does this on GPUs.
    """
    global _runs
    with _lock:
        _runs += 1
        _set_allocator(KEEPING)
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if not _runs:
                give_back_memory()


def give_back_memory() -> None:
    """Return to the system what is free, in the arenas of all threads."""
    _set_allocator(USUAL)
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _set_allocator(options: dict[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)

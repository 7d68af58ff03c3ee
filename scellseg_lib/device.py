"""The device, the numeric type that is fast on it, and what becomes of the memory."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch
from torch import nn

CPU_INFO = Path("/proc/cpuinfo")


def default_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@dataclass(frozen=True)
class Precision:
    """Numeric type of the convolutions and layout of the tensors; part of a trial's identity."""

    dtype: str = "fp32"  # "fp32" or "bf16" (autocast; weights stay float32)
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


def choose_precision(device: torch.device) -> Precision:
    """Return bfloat16, channels last, where the device has instructions for it, else float32.

    Emulated, bfloat16 is ten times slower than float32. Channels-last pays with it; without it, a
    training step at full width takes 1.5 times as long in this layout.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device.type != "cpu" or any("bf16" in flag for flag in _read_processor()[1])
    return Precision("bf16", channels_last=True) if able else Precision()


def machine(device: torch.device) -> str:
    """Name of the GPU, or of the processor and its instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, flags = _read_processor()
    able = sorted(flag for flag in flags if "bf16" in flag or "amx" in flag)
    return " ".join([platform.machine(), name, *able])


def _read_processor() -> tuple[str, list[str]]:
    """Name of the processor and its flags, which only Linux tells."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor(), []
    facts = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    flags = f"{facts.get('flags')} {facts.get('Features')}".split()  # of x86, of ARM
    return facts.get("model name", "").strip(), flags


# Memory

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_runs, _lock = 0, Lock()


@contextmanager
def keep_memory() -> Iterator[None]:
    """Within, the C library keeps memory that is freed; at the end of the last run all goes back.

    By default glibc unmaps each large tensor when it is freed and maps, page by page, the next:
    half of the time of a training step on a CPU. PyTorch's own pool does this on GPUs.
    """
    global _runs
    glibc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    with _lock:
        _runs += 1
        if glibc:
            glibc.mallopt(M_MMAP_MAX, 0)
            glibc.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if glibc and not _runs:
                glibc.mallopt(M_MMAP_MAX, 1 << 16)  # its default
                glibc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # what it comes to by itself
                glibc.mallopt(M_TRIM_THRESHOLD, 64 << 20)
                glibc.malloc_trim(0)

"""The device, the numeric type that is fast on it, and memory that is given back."""

import ctypes
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn


def default_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@dataclass(frozen=True)
class Precision:
    """Numeric type of the convolutions and layout of the tensors; part of a trial's identity."""

    dtype: str = "fp32"  # "fp32" or "bf16" (autocast; weights stay float32)
    channels_last: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Context in which the network runs."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == "bf16")

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Move a network to the device in this layout; a GPU computes the same every time."""
        # Batches keep theirs until the first convolution: BatchNorm of two planes is slow in it.
        torch.backends.cudnn.deterministic = True
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return network.to(device=device, memory_format=layout)  # type: ignore[call-overload]


def choose_precision(device: torch.device) -> Precision:
    """Return bfloat16, channels last, where the device has instructions for it, else float32."""
    # Emulated, it is ten times slower; without it, channels-last takes 1.5 times as long.
    facts = torch.cpu.get_capabilities()
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device.type != "cpu" or any(facts[name] for name in facts if "bf16" in name)
    return Precision("bf16", channels_last=True) if able else Precision()


def release_memory() -> None:
    """Give the memory that a run has freed, and the C library (glibc) keeps, back to the system."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def machine(device: torch.device) -> str:
    """Name of the GPU, or of the processor and its instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = torch.cpu.get_capabilities()
    able = sorted(name for name in facts if ("bf16" in name or "amx" in name) and facts[name])
    return " ".join([facts.get("architecture", ""), facts.get("cpu_name", ""), *able])

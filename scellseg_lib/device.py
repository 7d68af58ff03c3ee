"""How to compute fast on this machine: measured once, cached, never assumed.

bfloat16 is 3 times faster than float32 on processors with instructions for it and 10 times slower
on those without; channels-last pays for some widths only. So a short measurement decides.
"""

from __future__ import annotations

import ctypes
import json
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.network import build_network
from scellseg_lib.progress import say


@dataclass(frozen=True)
class Precision:
    """Numeric type of the convolutions and layout of the tensors; part of a trial's identity."""

    dtype: str = "fp32"
    """"fp32" or "bf16" (autocast; weights stay float32)."""
    channels_last: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Context in which the network runs."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == "bf16")

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of weights, and so of what they are convolved with."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Move a network to the device in this layout; GPUs too are to repeat themselves."""
        torch.backends.cudnn.deterministic = True
        return network.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def batch(self, images: Tensor, device: torch.device) -> Tensor:
        """Move a batch to the device.

        Its two planes stay as they are, the first convolutions bring the layout of the weights:
        channels-last, BatchNorm of so few takes an eighth of the downsampling pass.
        """
        return images.to(device)


DTYPES = ("fp32", "bf16")
CANDIDATES = tuple(
    Precision(dtype, channels_last) for dtype in DTYPES for channels_last in (False, True)
)
CPU_INFO = Path("/proc/cpuinfo")
EMULATED = 3.0
"""A convolution that is slower by this has no instructions for its type: it takes ten times as
long, and with them it takes less than in float32."""
TURNS = 5
T = TypeVar("T")


def default_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@cache
def keep_memory() -> None:
    """Let the C library keep the memory that it is given back (glibc on Linux, once a process).

    By default each large tensor is unmapped when it is freed and mapped, page by page, when the
    next is made: half of the time of a training step on a CPU here. PyTorch's own pool does this on
    GPUs.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-4, 0), (-1, -1), (-2, 256 << 20)):  # M_MMAP_MAX, TRIM, TOP_PAD
            mallopt(option, value)


def choose_precision(device: torch.device, levels: tuple[int, ...]) -> Precision:
    """Return the fastest way to train on this machine, from the cache or by measuring (some 10 s).

    A cache that is damaged or cannot be written to counts as none: it is measured each time.

    Parameters
    ----------
    device : torch.device
    levels : tuple of int
        Widths of the network, on which the answer depends.
    """
    keep_memory()
    file = paths.cache() / "precision.json"
    key = _machine_key(device, levels)
    if recalled := recall_precision(key):
        return recalled
    say("Measuring how this machine computes fastest: some 10 s, once.")
    seconds = measure(device, levels)
    fastest = min(seconds, key=lambda precision: seconds[precision])
    known = _known(file) | {key: fastest}
    with suppress(OSError), whole(file) as scratch:
        scratch.write_text(json.dumps({k: asdict(v) for k, v in known.items()}, indent=2))
    return fastest


def recall_precision(key: str) -> Precision | None:
    """What was chosen earlier for a machine and a width; None where nothing was."""
    return _known(paths.cache() / "precision.json").get(key)


def _known(file: Path) -> dict[str, Precision]:
    """What was measured earlier; nothing where the file is absent or damaged."""
    try:
        known = {key: Precision(**value) for key, value in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {key: precision for key, precision in known.items() if precision in CANDIDATES}


def measure(device: torch.device, levels: tuple[int, ...]) -> dict[Precision, float]:
    """Seconds of a small training step for each candidate that can pay.

    The candidates take turns and the fastest of each one's steps counts, so that another program
    that is busy for a moment slows all of them or none.
    """
    return _fastest_turns(
        {precision: _small_step(device, levels, precision) for precision in _able(device)}
    )


def _able(device: torch.device) -> list[Precision]:
    """Candidates without those whose type is emulated, in which a step would take a minute."""
    layer = nn.Conv2d(32, 32, 3, padding=1).to(device)
    images = torch.zeros(1, 32, 112, 112, device=device)
    taken = _fastest_turns(
        {dtype: partial(_step_seconds, layer, images, Precision(dtype)) for dtype in DTYPES}
    )
    return [p for p in CANDIDATES if taken[p.dtype] < EMULATED * taken["fp32"]]


def _small_step(
    device: torch.device, levels: tuple[int, ...], precision: Precision
) -> Callable[[], float]:
    """Return what runs a step of 2 patches of 112 pixels, and says how long it took."""
    network = precision.place(build_network("scellseg", levels), device)
    images = precision.batch(torch.zeros(2, 2, 112, 112), device)
    return partial(_step_seconds, network, images, precision)


def _fastest_turns(steps: dict[T, Callable[[], float]]) -> dict[T, float]:
    """Run steps in turn, and return the least seconds of each."""
    turns = [{name: step() for name, step in steps.items()} for _ in range(TURNS)]
    return {name: min(turn[name] for turn in turns) for name in steps}


def _step_seconds(network: nn.Module, images: Tensor, precision: Precision) -> float:
    _synchronise(images.device)
    start = time.perf_counter()
    with precision.autocast(images.device):
        output = network(images)
    maps = output if isinstance(output, Tensor) else output.maps
    maps.float().square().mean().backward()
    _synchronise(images.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    getattr(torch, device.type).synchronize()  # for the CPU, nothing


def _machine_key(device: torch.device, levels: tuple[int, ...]) -> str:
    capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    parts = (device.type, machine(device), capability, torch.get_num_threads())
    return " ".join(map(str, (*parts, torch.__version__, levels)))


def machine(device: torch.device) -> str:
    """Name of the GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    """Name of the processor's model and its instructions for bfloat16, as the caches are shared."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:  # no Linux
        return f"{platform.machine()} {platform.processor()}"
    facts = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    words = f"{facts.get('flags')} {facts.get('Features')}".split()  # of x86, of ARM
    able = sorted(word for word in words if "bf16" in word or "amx" in word)
    return " ".join([platform.machine(), facts.get("model name", "").strip(), *able])

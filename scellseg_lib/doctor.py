"""What this machine offers to the library, and whether it computes rightly here."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

import numba
import numpy as np
import torch

from scellseg_lib import device as precision
from scellseg_lib import paths
from scellseg_lib.datasets import manifest, synthetic, weights
from scellseg_lib.device import Precision
from scellseg_lib.finetuning import finetune
from scellseg_lib.flows import flows_to_masks, masks_to_flows
from scellseg_lib.metrics import average_precision
from scellseg_lib.model import new_model
from scellseg_lib.samples import Sample

PACKAGES = ("scellseg-notebooks", "torch", "numpy", "numba", "opencv-python-headless")
LEVELS = (16, 32, 64, 128)  # of the network in the self-test: half the paper's width
TOLERANCE = 0.1  # relative, from float32 on the CPU; bfloat16 keeps 8 bits


class Check(NamedTuple):
    """One part of the self-test."""

    name: str
    passed: bool
    detail: str


def facts() -> Iterator[tuple[str, str]]:
    """Yield what determines results and speed, as pairs of a name and a value."""
    device = precision.default_device()
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "packages", ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    yield "device", f"{device.type} ({kind})"
    yield "threads", f"{torch.get_num_threads()} for torch, {numba.get_num_threads()} for numba"
    chosen = precision.choose_precision(device, LEVELS)
    layout = "channels last" if chosen.channels_last else "channels first"
    yield "precision", f"{chosen.dtype}, {layout} (the fastest here, measured)"
    here = (
        name for name in manifest.list_manifests() if manifest.load_manifest(name).folder.is_dir()
    )
    yield "data", f"{paths.data()}: {', '.join(here) or 'no data sets'}"
    yield "packaged weights", ", ".join(file.stem for file in weights.packaged_files()) or "none"
    fetched = [name for name in weights.RELEASED if weights.released_file(name).is_file()]
    yield "authors' weights", ", ".join(fetched) or "not fetched (scellseg models fetch)"
    yield "cache", str(paths.cache()) + (", offline" if paths.offline() else "")


def self_test() -> Iterator[Check]:
    """Yield the outcome of each part: some five seconds on two cores.

    The first time, numba compiles (ten seconds more) and the speed is measured; both are cached.
    """
    device = precision.default_device()
    chosen = precision.choose_precision(device, LEVELS)
    image, masks = synthetic.make_image("Kc167", 0, (256, 256))
    yield _check_flows(masks)
    yield _check_network(device, chosen)
    yield _check_finetuning(Sample("synthetic", lambda: image, lambda: masks), device, chosen)


def _check_flows(masks: np.ndarray) -> Check:
    """Cells that go to flows come back from them."""
    logit = np.where(masks > 0, 5, -5).astype(np.float32)
    back = flows_to_masks(masks_to_flows(masks), logit)
    score = float(average_precision(masks, back, [0.5])[0])
    return Check("flows and back", score >= 0.9, f"AP@0.5 = {score:.2f} of {masks.max()} cells")


def _check_network(device: torch.device, chosen: Precision) -> Check:
    """The network's maps are those of float32 on the CPU."""
    network = new_model("scellseg", LEVELS).network.eval()
    images = torch.rand((1, 2, 224, 224), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = network(images).maps
        with chosen.autocast(device):
            fast = chosen.place(network, device)(chosen.batch(images, device)).maps.float().cpu()
    gap = float((fast - plain).norm() / plain.norm())
    return Check("network", gap < TOLERANCE, f"deviates by {gap:.1e} from float32 on the CPU")


def _check_finetuning(sample: Sample, device: torch.device, chosen: Precision) -> Check:
    """Two steps of fine-tuning stay finite; the second tells the speed."""
    times: list[float] = []
    tuned = finetune(
        new_model("scellseg", LEVELS),
        [sample],
        strategy="classic",
        steps=2,
        batch_size=2,
        precision=chosen,
        device=device,
        callback=lambda progress: times.append(time.perf_counter()),
    )
    finite = all(bool(torch.isfinite(p).all()) for p in tuned.network.parameters())
    return Check("fine-tuning", finite, f"{times[1] - times[0]:.1f} s a step of 2 patches")

"""The networks, drawn from the modules themselves (Extended Data Fig. 1)."""

from copy import deepcopy

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from scellseg_lib.network import (
    AttentionGate,
    Network,
    ResidualUnit,
    Tasker,
    UpsamplingUnit,
    count_parameters,
)

COLOURS = {
    "downsampling unit": "#0072B2",
    "upsampling unit": "#D55E00",
    "attention gate": "#009E73",
    "dense unit": "#E69F00",
    "Tasker": "#CC79A7",
}
KINDS = {
    ResidualUnit: "downsampling unit",
    UpsamplingUnit: "upsampling unit",
    AttentionGate: "attention gate",
    Tasker: "Tasker",
}


def list_parts(network: Network, side: int = 224) -> pd.DataFrame:
    """List the parts of a network in the order in which an image of ``side`` pixels passes them.

    One row a part. ``level`` 0 is the full size; ``side`` is that of the output, in pixels.
    """
    network = deepcopy(network).eval()
    names = {module: KINDS[type(module)] for module in network.modules() if type(module) in KINDS}
    names |= dict.fromkeys(network.extractor.up.dense, "dense unit")
    rows: list[dict[str, object]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        size, level = output.shape[-1], (side // output.shape[-1]).bit_length() - 1
        row = {"part": names[module], "level": level, "inputs": given[0].shape[1]}
        row |= {"outputs": output.shape[1], "side": size, "parameters": count_parameters(module)}
        rows.append(row)

    for module in names:
        module.register_forward_hook(note)
    with torch.inference_mode():
        network(torch.zeros(1, 2, side, side))
    return pd.DataFrame(rows)


def list_layers(module: nn.Module) -> pd.DataFrame:
    """List the layers of a unit that have parameters, with the shape of their weights."""
    rows = [
        (name, type(layer).__name__, " x ".join(map(str, weight.shape)), count_parameters(layer))
        for name, layer in module.named_modules()
        if isinstance(weight := getattr(layer, "weight", None), Tensor)
    ]
    return pd.DataFrame(rows, columns=["name", "layer", "weights", "parameters"])


def draw_architecture(axes: Axes, parts: pd.DataFrame) -> None:
    """Draw the parts of `list_parts`, deeper levels lower, with channels and parameters in each."""
    for x, row in enumerate(parts.to_dict("records")):
        box = FancyBboxPatch((x - 0.42, -row["level"] - 0.3), 0.84, 0.6, boxstyle="round,pad=0.02")
        box.set(facecolor=COLOURS[row["part"]], edgecolor="none", alpha=0.85)
        axes.add_patch(box)
        text = f"{row['inputs']}\n\u2192 {row['outputs']}\n{_shorten(row['parameters'])}"
        axes.text(x, -row["level"], text, ha="center", va="center", color="white", fontsize=5)
    sides = parts.groupby("level")["side"].first()
    axes.set_yticks(-sides.index.to_numpy(), [f"{side} x {side} px" for side in sides])
    axes.set(xlim=(-0.7, len(parts) - 0.3), ylim=(-sides.index.max() - 0.6, 0.6), xticks=[])
    axes.set_xlabel("order in which an image passes them; channels in and out, parameters")
    seen = dict.fromkeys(parts["part"])
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[part], alpha=0.85) for part in seen]
    axes.legend(handles, seen, loc="lower left", fontsize=6)


def _shorten(n: int) -> str:
    if n >= 1e6:
        return f"{n / 1e6:.2f} M"
    return f"{n / 1e3:.0f} k" if n >= 1e4 else f"{n:,}"

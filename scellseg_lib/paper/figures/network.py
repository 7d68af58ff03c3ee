"""The networks, drawn from the modules themselves (Extended Data Fig. 1)."""

from __future__ import annotations

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
from scellseg_lib.plots import STYLE

COLOURS = {
    "downsampling unit": "#0072B2",
    "upsampling unit": "#D55E00",
    "attention gate": "#009E73",
    "dense unit": "#E69F00",
    "Tasker": "#CC79A7",
}


def anatomy(network: Network, side: int = 224) -> pd.DataFrame:
    """List the parts of a network as one image of ``side`` pixels passes them.

    Returns
    -------
    DataFrame
        One row a part, in the order in which they are passed: ``part``, ``level`` (0 is the full
        size), ``inputs`` and ``outputs`` (channels), ``side`` (px, of the output), ``parameters``.
    """
    rows: list[dict[str, object]] = []

    def note(part: str) -> object:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            rows.append(
                {
                    "part": part,
                    "level": (side // output.shape[-1]).bit_length() - 1,
                    "inputs": given[0].shape[1],
                    "outputs": output.shape[1],
                    "side": output.shape[-1],
                    "parameters": count_parameters(module),
                }
            )

        return hook

    kinds = {
        ResidualUnit: "downsampling unit",
        UpsamplingUnit: "upsampling unit",
        AttentionGate: "attention gate",
        Tasker: "Tasker",
    }
    named = [(m, kinds[type(m)]) for m in network.modules() if type(m) in kinds]
    named += [(m, "dense unit") for m in network.extractor.up.dense]
    hooks = [module.register_forward_hook(note(part)) for module, part in named]  # type: ignore[arg-type]
    was_training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 2, side, side))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return pd.DataFrame(rows)


def details(module: nn.Module) -> pd.DataFrame:
    """List the layers of a unit.

    Returns
    -------
    DataFrame
        One row a layer that has parameters: its name in the unit, ``layer``, ``weights`` (shape)
        and ``parameters``.
    """
    rows = [
        {
            "name": name,
            "layer": type(layer).__name__,
            "weights": " x ".join(map(str, layer.weight.shape)),  # type: ignore[union-attr]
            "parameters": count_parameters(layer),
        }
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    return pd.DataFrame(rows)


def architecture(table: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Draw the parts of a network, deeper levels lower, with channels and parameters in each.

    Parameters
    ----------
    table : DataFrame
        Of `anatomy`.
    axes : Axes, optional
        None: those of a new figure.
    """
    with plt.style.context(STYLE):
        axes = axes or plt.figure(figsize=(7.2, 3.6), layout="constrained").subplots()
        for x, row in enumerate(table.to_dict("records")):
            box = FancyBboxPatch(
                (x - 0.42, -row["level"] - 0.3),
                0.84,
                0.6,
                boxstyle="round,pad=0.02",
                facecolor=COLOURS[row["part"]],
                edgecolor="none",
                alpha=0.85,
            )
            axes.add_patch(box)
            text = f"{row['inputs']}\n\u2192 {row['outputs']}\n{_thousands(row['parameters'])}"
            axes.text(x, -row["level"], text, ha="center", va="center", color="white", fontsize=5)
        sides = table.groupby("level")["side"].first()
        levels = sorted(sides.index)
        labels = [f"{sides[level]} x {sides[level]} px" for level in levels]
        axes.set_yticks([-level for level in levels], labels)
        axes.set(xlim=(-0.7, len(table) - 0.3), ylim=(-max(levels) - 0.6, 0.6), xticks=[])
        axes.set_xlabel("order in which an image passes them; channels in and out, parameters")
        seen = dict.fromkeys(table["part"])
        handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[part], alpha=0.85) for part in seen]
        axes.legend(handles, seen, loc="lower left", fontsize=6)
    return axes


def _thousands(n: int) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n / 1e3:.0f} k" if n >= 1e4 else f"{n:,}"

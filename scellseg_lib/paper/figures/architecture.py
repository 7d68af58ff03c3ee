"""The networks, drawn from the modules themselves (Extended Data Fig. 1)."""

from copy import deepcopy
from itertools import pairwise

import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from scellseg_lib.network import (
    AttentionGate,
    Network,
    ResidualUnit,
    Tasker,
    UpsamplingUnit,
    count_parameters,
)
from scellseg_lib.paper.figures import diagrams
from scellseg_lib.paper.figures.diagrams import DENSE, DOWN, GATE, STYLE, UP, draw_arrow, draw_box

KINDS = {ResidualUnit: DOWN, UpsamplingUnit: UP, AttentionGate: GATE, Tasker: diagrams.TASKER}


def list_parts(network: Network, side: int = 224) -> pd.DataFrame:
    """List the parts of a network in the order in which an image of ``side`` pixels passes them.

    One row a part. ``level`` 0 is the full size; ``side`` is that of the output, in pixels, and
    ``style`` the channels of the style that an upsampling unit is given.
    """
    network = deepcopy(network).eval()
    names = {module: KINDS[type(module)] for module in network.modules() if type(module) in KINDS}
    names |= dict.fromkeys(network.extractor.up.dense, DENSE)
    rows: list[dict[str, object]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        size, level = output.shape[-1], (side // output.shape[-1]).bit_length() - 1
        row = {"part": names[module], "level": level, "inputs": given[0].shape[1]}
        row |= {"outputs": output.shape[1], "side": size, "parameters": count_parameters(module)}
        rows.append(row | {"style": given[2].shape[1] if len(given) == 3 else 0})

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


def draw_network(axes: Axes, parts: pd.DataFrame, left: float) -> None:
    """Draw the parts of `list_parts` as a U that begins ``left`` mm from the left of a canvas."""
    columns = [kind for kind in diagrams.COLOURS if kind in {STYLE, *parts["part"]}]
    at, boxes = {kind: left + 7 + 17 * i for i, kind in enumerate(columns)}, {}
    bottom, styles = parts["level"].max(), parts.loc[parts["style"] > 0, "style"]
    for row in parts.to_dict("records"):
        kind, level, y = row["part"], row["level"], 22 * (bottom - row["level"]) + 21
        text = f"{row['inputs']} \u2192 {row['outputs']}\n{row['parameters']:,}"
        size = (13, 17 if row["style"] else 7)
        boxes[kind, level] = draw_box(axes, (at[kind], y), text, kind, size)
        if row["style"]:
            place = (at[STYLE], y + 6)
            chip = boxes[STYLE, level] = draw_box(axes, place, str(row["style"]), STYLE, (8, 4))
            draw_arrow(axes, chip, (at[UP] - 6.5, y + 6), kind="styles")
        if kind == DOWN:
            axes.text(at[DOWN] + 1, y - 6.3, f"{row['side']} px", fontsize=5.5)
    for level in range(bottom + 1):
        y, x = 22 * (bottom - level) + 21, at[DOWN] + 4
        passed = [boxes[k, level] for k in columns if k != STYLE and (k, level) in boxes]
        for one, other in pairwise(passed):
            draw_arrow(axes, one, other)
        if level == bottom or styles.nunique() > 1:
            draw_arrow(axes, (x, y + 3.5), (x, y + 6), boxes[STYLE, level], kind="styles")
        if DENSE in at:
            x, end = at[UP] - (11 if level == bottom else 8.5), at[DENSE] - 3
            draw_arrow(axes, (x, y), (x, y - 10), (end, y - 10), (end, y - 3.5))
        if level < bottom:
            draw_arrow(axes, boxes[DOWN, level], boxes[DOWN, level + 1], kind="pooling")
            draw_arrow(axes, boxes[STYLE, level + 1], boxes[STYLE, level], kind="styles")
            below = boxes.get((DENSE, level + 1), boxes[UP, level + 1])
            corners = [(at.get(kind, at[UP]), y - 12) for kind in (DENSE, GATE)]
            draw_arrow(axes, below, *corners, passed[1], kind="upsampling")

"""The networks once more, as plain function calls on the released key names.

Written from the description of the method alone, so that `scellseg_lib.network` and the renaming
of keys have something independent to agree with; BatchNorm uses the running statistics.
"""

import csv
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
KEYS = Path(__file__).parent / "data" / "released_keys.csv"
"""Keys and shapes of the tensors in the authors' files."""


def _bn(state: State, key: str, x: Tensor) -> Tensor:
    parts = (state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts, training=False, eps=1e-5)


def _conv(state: State, key: str, x: Tensor) -> Tensor:
    weight = state[f"{key}.weight"]
    return F.conv2d(x, weight, state[f"{key}.bias"], padding=weight.shape[-1] // 2)


def _brc(state: State, key: str, x: Tensor) -> Tensor:
    return _conv(state, f"{key}.2", F.relu(_bn(state, f"{key}.0", x)))


def _bc(state: State, key: str, x: Tensor) -> Tensor:
    return _conv(state, f"{key}.1", _bn(state, f"{key}.0", x))


def _cb(state: State, key: str, x: Tensor) -> Tensor:
    return _bn(state, f"{key}.1", _conv(state, f"{key}.0", x))


def _residual(state: State, key: str, x: Tensor) -> Tensor:
    inner = _brc(state, f"{key}.conv.conv_1", _brc(state, f"{key}.conv.conv_0", x))
    x = _bc(state, f"{key}.proj", x) + inner
    return x + _brc(state, f"{key}.conv.conv_3", _brc(state, f"{key}.conv.conv_2", x))


def _styled(state: State, key: str, x: Tensor, style: Tensor) -> Tensor:
    shift = F.linear(style, state[f"{key}.full.weight"], state[f"{key}.full.bias"])
    return _brc(state, f"{key}.conv", x + shift.reshape(*shift.shape, 1, 1))


def _up(state: State, key: str, x: Tensor, skip: Tensor | float, style: Tensor) -> Tensor:
    entered = _brc(state, f"{key}.conv.conv_0", x) + skip
    out = _bc(state, f"{key}.proj", x) + _styled(state, f"{key}.conv.conv_1", entered, style)
    inner = _styled(state, f"{key}.conv.conv_2", out, style)
    out = out + _styled(state, f"{key}.conv.conv_3", inner, style)
    if f"{key}.up_conv.0.weight" in state:  # dense unit
        out = F.relu(_cb(state, f"{key}.up_conv", torch.cat([x, out], 1)))
    return out


def _gate(state: State, level: int, x: Tensor, skip: Tensor) -> Tensor:
    x = F.relu(_cb(state, f"extractor.upsample.up_conv.up_conv_{level}", x))
    key = f"extractor.upsample.attn.attn_{level}"
    hidden = F.relu(_cb(state, f"{key}.W_g", x) + _cb(state, f"{key}.W_x", skip))
    return torch.cat([torch.sigmoid(_cb(state, f"{key}.psi", hidden)) * skip, x], 1)


def _embedding(features: Tensor) -> Tensor:
    mean = features.flatten(2).mean(2)
    return mean / mean.square().sum(1, keepdim=True).sqrt()


def forward(state: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 2, H, W) -> maps (B, 3, H, W) and the deepest style (B, 256)."""
    features: list[Tensor] = []
    for level in range(4):
        x = F.max_pool2d(x, 2) if level else x
        x = _residual(state, f"extractor.downsample.down.res_down_{level}", x)
        features.append(x)
    attention = any(".attn." in key for key in state)
    hierarchical = state["extractor.upsample.up.res_up_0.conv.conv_1.full.weight"].shape[1] > 256
    style = deepest = _embedding(features[3])
    x = _up(state, "extractor.upsample.up.res_up_3", features[3], features[3], style)
    for level in (2, 1, 0):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if hierarchical:
            style = torch.cat([style, _embedding(features[level])], 1)
        skip: Tensor | float = features[level]
        if attention:
            x, skip = _gate(state, level, x, features[level]), 0.0
        x = _up(state, f"extractor.upsample.up.res_up_{level}", x, skip, style)
    return _conv(state, "tasker.base_conv", F.relu(_bn(state, "tasker.base_bn", x))), deepest


def random_state(name: str, seed: int = 0) -> State:
    """Random state dict with the keys and shapes of the released "scellseg" or "cellpose"."""
    generator, state = torch.Generator().manual_seed(seed), {}
    with KEYS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["weights"] == name]
    for key, shape in ((row["key"], tuple(map(int, row["shape"].split()))) for row in rows):
        drawn = torch.randn(shape, generator=generator)
        if not shape:  # of batches that were seen
            state[key] = torch.tensor(7)
        elif len(shape) > 1:
            state[key] = drawn / drawn[0].numel() ** 0.5
        elif key.endswith("running_var"):
            state[key] = drawn.abs() + 0.5
        else:
            state[key] = 0.3 * drawn + key.endswith("weight")
    return state

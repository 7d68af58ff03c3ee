"""The networks once more, as plain function calls on the released key names.

Written from the description of the method alone, so that `scellseg_lib.network` and the renaming
of keys have something independent to agree with. Evaluation only: BatchNorm uses the running
statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def _bn(state: State, key: str, x: Tensor) -> Tensor:
    return F.batch_norm(
        x,
        state[f"{key}.running_mean"],
        state[f"{key}.running_var"],
        state[f"{key}.weight"],
        state[f"{key}.bias"],
        training=False,
        eps=1e-5,
    )


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
    maps = _conv(state, "tasker.base_conv", F.relu(_bn(state, "tasker.base_bn", x)))
    return maps, deepest


class _Drawn:
    """Random layers under the released key names."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self.random = torch.Generator().manual_seed(seed)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)

    def bn(self, key: str, channels: int) -> None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.state[f"{key}.{name}"] = self._normal(channels) * 0.3 + (name == "weight")
        self.state[f"{key}.running_var"] = self._normal(channels).abs() + 0.5
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def conv(self, key: str, inputs: int, outputs: int, *kernel: int) -> None:
        fan = inputs * (kernel[0] if kernel else 1) ** 2
        self.state[f"{key}.weight"] = self._normal(outputs, inputs, *kernel) / fan**0.5
        self.state[f"{key}.bias"] = self._normal(outputs) * 0.3

    def brc(self, key: str, inputs: int, outputs: int) -> None:
        self.bn(f"{key}.0", inputs)
        self.conv(f"{key}.2", inputs, outputs, 3, 3)

    def bc(self, key: str, inputs: int, outputs: int) -> None:
        self.bn(f"{key}.0", inputs)
        self.conv(f"{key}.1", inputs, outputs, 1, 1)

    def cb(self, key: str, inputs: int, outputs: int) -> None:
        self.conv(f"{key}.0", inputs, outputs, 1, 1)
        self.bn(f"{key}.1", outputs)


def random_state(name: str, seed: int = 0) -> State:
    """Random state dict with the keys and shapes of the released "scellseg" or "cellpose"."""
    drawn, scellseg = _Drawn(seed), name == "scellseg"
    widths = (32, 64, 128, 256)
    for level, (inputs, outputs) in enumerate(zip((2, *widths), widths, strict=False)):
        key = f"extractor.downsample.down.res_down_{level}"
        drawn.bc(f"{key}.proj", inputs, outputs)
        for unit in range(4):
            drawn.brc(f"{key}.conv.conv_{unit}", outputs if unit else inputs, outputs)
    for level, (outputs, inputs) in enumerate(zip(widths, (*widths[1:], 256), strict=True)):
        key = f"extractor.upsample.up.res_up_{level}"
        if scellseg and level < 3:
            drawn.cb(f"extractor.upsample.up_conv.up_conv_{level}", inputs, outputs)
            for part in ("W_g", "W_x"):
                drawn.cb(f"extractor.upsample.attn.attn_{level}.{part}", outputs, outputs // 2)
            drawn.cb(f"extractor.upsample.attn.attn_{level}.psi", outputs // 2, 1)
            inputs = 2 * outputs
        drawn.bc(f"{key}.proj", inputs, outputs)
        drawn.brc(f"{key}.conv.conv_0", inputs, outputs)
        style = sum(widths[level:]) if scellseg else 256
        for unit in (1, 2, 3):
            drawn.brc(f"{key}.conv.conv_{unit}.conv", outputs, outputs)
            drawn.conv(f"{key}.conv.conv_{unit}.full", style, outputs)
        if scellseg:
            drawn.cb(f"{key}.up_conv", inputs + outputs, outputs)
    drawn.bn("tasker.base_bn", 32)
    drawn.conv("tasker.base_conv", 32, 3, 1, 1)
    return drawn.state

"""The five networks of the paper (Extended Data Fig. 1), as an Extractor and a Tasker.

A residual downsampling pass, a style embedding, an upsampling pass that the style steers, and a
1 x 1 Tasker. Scellseg adds attention gates on the skips, dense units and a hierarchical style.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scellseg_lib import representation
from scellseg_lib.errors import ModelError

NetworkName = Literal["unet2", "unet3", "hover", "cellpose", "scellseg"]  # of `ARCHITECTURES`


class Architecture(NamedTuple):
    """One of the paper's models, with its name for people and the rate of its pre-training."""

    title: str
    representation: str
    attention: bool = False
    dense: bool = False
    hierarchical_style: bool = False
    learning_rate: float = 0.2


ARCHITECTURES: dict[str, Architecture] = {
    "scellseg": Architecture("Scellseg", "flow", True, True, True),
    "cellpose": Architecture("Cellpose", "flow"),
    "hover": Architecture("HoVer", "hover"),
    "unet3": Architecture("U-Net3", "unet3", learning_rate=0.002),
    "unet2": Architecture("U-Net2", "unet2", learning_rate=0.002),
}
"""The five models; nothing else in the library lists them."""


def find_architecture(name: str) -> Architecture:
    """Return the model of that name, or raise ModelError where there is none."""
    if name not in ARCHITECTURES:
        remedy = f"Choose one of {', '.join(ARCHITECTURES)}, or give a .safetensors file."
        raise ModelError(f"there is no model {name!r}", remedy=remedy)
    return ARCHITECTURES[name]


def _norm_relu_conv(inputs: int, outputs: int, side: int = 3) -> nn.Sequential:
    """BatchNorm, ReLU, convolution: the paper's `brc`."""
    convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), convolution)


def _conv_norm(inputs: int, outputs: int, *after: nn.Module) -> nn.Sequential:
    """1 x 1 convolution, BatchNorm, and what comes after it."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), *after)


class ResidualUnit(nn.Module):
    """Four convolutions with two residual sums; the unit of the downsampling pass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 1))
        widths = inputs, outputs, outputs, outputs
        self.convolutions = nn.ModuleList(_norm_relu_conv(width, outputs) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        first, second, third, fourth = self.convolutions
        x = self.projection(x) + second(first(x))
        return x + fourth(third(x))


class StyledConvolution(nn.Module):
    """`S(x) = brc(x + Linear(style))`: the style shifts every pixel of a channel alike."""

    def __init__(self, channels: int, style_channels: int) -> None:
        super().__init__()
        self.shift = nn.Linear(style_channels, channels)
        self.convolution = _norm_relu_conv(channels, channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, C, H, W), style (B, S) -> (B, C, H, W)."""
        return self.convolution(x + self.shift(style)[:, :, None, None])


class UpsamplingUnit(nn.Module):
    """Residual unit with three style injections; the skip, where given, is added."""

    def __init__(self, inputs: int, outputs: int, style_channels: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 1))
        self.entry = _norm_relu_conv(inputs, outputs)
        self.styled = nn.ModuleList(StyledConvolution(outputs, style_channels) for _ in range(3))

    def forward(self, x: Tensor, skip: Tensor | None, style: Tensor) -> Tensor:
        """x (B, inputs, H, W), skip (B, outputs, H, W) or None -> (B, outputs, H, W)."""
        first, second, third = self.styled
        entered = self.entry(x) if skip is None else self.entry(x) + skip
        x = self.projection(x) + first(entered, style)
        return x + third(second(x, style), style)


class AttentionGate(nn.Module):
    """Weighs all channels of a skip by one map, which the decoder's features decide with it."""

    def __init__(self, decoder_channels: int, skip_channels: int) -> None:
        super().__init__()
        hidden = skip_channels // 2
        self.reduce = _conv_norm(decoder_channels, skip_channels, nn.ReLU(inplace=True))
        self.from_decoder = _conv_norm(skip_channels, hidden)
        self.from_skip = _conv_norm(skip_channels, hidden)
        self.psi = _conv_norm(hidden, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x (B, D, H, W), skip (B, C, H, W) -> (B, 2C, H, W): gated skip, then reduced x."""
        x = self.reduce(x)
        psi = torch.sigmoid(self.psi(F.relu(self.from_decoder(x) + self.from_skip(skip))))
        return torch.cat((psi * skip, x), dim=1)


class DownsamplingPass(nn.Module):
    """Residual units, one a level, with 2 x 2 max-pooling between them."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        widths = zip((2, *levels), levels, strict=False)
        self.units = nn.ModuleList(ResidualUnit(*of_level) for of_level in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 2, H, W) -> features of each level, shallow first; level k is H/2^k x W/2^k."""
        features = [self.units[0](x)]
        for unit in self.units[1:]:
            features.append(unit(F.max_pool2d(features[-1], 2)))
        return features


class UpsamplingPass(nn.Module):
    """Upsampling units from deep to shallow, with the gates and dense units of Scellseg."""

    def __init__(self, levels: Sequence[int], parts: Architecture) -> None:
        super().__init__()
        deep_first = list(reversed(levels))
        self.hierarchical_style = parts.hierarchical_style
        self.units, self.gates, self.dense = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, outputs in enumerate(deep_first):
            inputs = deep_first[max(i - 1, 0)]
            if parts.attention and i:
                self.gates.append(AttentionGate(inputs, outputs))
                inputs = 2 * outputs
            style = sum(deep_first[: i + 1]) if parts.hierarchical_style else deep_first[0]
            self.units.append(UpsamplingUnit(inputs, outputs, style))
            if parts.dense:
                self.dense.append(_conv_norm(inputs + outputs, outputs, nn.ReLU(inplace=True)))

    def forward(self, features: list[Tensor], styles: list[Tensor]) -> Tensor:
        """Features and styles, shallow first -> (B, levels[0], H, W)."""
        skips, style = features[::-1], styles[-1]
        x = skips[0]
        for i, unit in enumerate(self.units):
            skip: Tensor | None = skips[i]
            if i:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                if self.hierarchical_style:
                    style = torch.cat((style, styles[-1 - i]), dim=1)
                if self.gates:
                    x, skip = self.gates[i - 1](x, skip), None
            out = unit(x, skip, style)
            x = self.dense[i](torch.cat((x, out), dim=1)) if self.dense else out
        return x


def style_embedding(features: Tensor) -> Tensor:
    """Global average of a feature map (B, C, H, W), L2-normalised -> (B, C); zeros stay zeros."""
    return F.normalize(features.mean(dim=(2, 3)), dim=1, eps=1e-8)


class Extractor(nn.Module):
    """Everything before the Tasker: both passes and the style between them."""

    def __init__(self, levels: Sequence[int], parts: Architecture) -> None:
        super().__init__()
        self.down = DownsamplingPass(levels)
        self.up = UpsamplingPass(levels, parts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, H, W) -> features (B, levels[0], H, W), deepest style (B, levels[-1])."""
        features = self.down(x)
        styles = [style_embedding(level) for level in features]
        return self.up(features, styles), styles[-1]


class Tasker(nn.Sequential):
    """BatchNorm, ReLU, 1 x 1 convolution to the representation's outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*_norm_relu_conv(inputs, outputs, 1))


class NetworkOutput(NamedTuple):
    """Maps (B, outputs, H, W), and the deepest style embedding (B, levels[-1]) of unit length."""

    maps: Tensor
    style: Tensor


class Network(nn.Module):
    """Extractor and Tasker; sides of the input must be multiples of ``stride``."""

    def __init__(self, levels: Sequence[int], parts: Architecture, outputs: int) -> None:
        super().__init__()
        self.extractor = Extractor(levels, parts)
        self.tasker = Tasker(levels[0], outputs)
        self.stride = 2 ** (len(levels) - 1)

    def forward(self, x: Tensor) -> NetworkOutput:
        """(B, 2, H, W) normalised images -> maps and style."""
        features, style = self.extractor(x)
        return NetworkOutput(self.tasker(features), style)

    def embed(self, x: Tensor, *, observe: bool = False) -> Tensor:
        """Style embedding (B, levels[-1]); the upsampling pass may ``observe`` x for statistics."""
        features = self.extractor.down(x)
        styles = [style_embedding(level) for level in features]
        if observe:
            with torch.no_grad():
                self.extractor.up(features, styles)
        return styles[-1]


def build_network(
    name: str,
    levels: Sequence[int] = (32, 64, 128, 256),
    *,
    attention: bool | None = None,
    dense: bool | None = None,
    hierarchical_style: bool | None = None,
    outputs: int | None = None,
) -> Network:
    """Build one of the paper's five networks, or an ablation of one.

    Parameters
    ----------
    name, levels
        One of `ARCHITECTURES`; channels of each level, shallow first. ModelError for odd ones.
    attention, dense, hierarchical_style, outputs
        Scellseg's additions (Extended Data Fig. 1), and the number of maps; None: the model's own.
    """
    parts = find_architecture(name)
    if len(levels) < 2 or any(width < 2 or width % 2 for width in levels):
        remedy = "Give at least two even widths, such as (32, 64, 128, 256)."
        raise ModelError(f"levels {tuple(levels)} do not make a network", remedy=remedy)
    asked = {"attention": attention, "dense": dense, "hierarchical_style": hierarchical_style}
    additions: Any = {name: one for name, one in asked.items() if one is not None}
    outputs = outputs or representation.get(parts.representation).n_outputs
    return Network(levels, parts._replace(**additions), outputs)


@contextmanager
def momentum(network: nn.Module, value: float | None) -> Iterator[None]:
    """Let BatchNorm's running statistics move by this share a batch; None: they are plain means."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = value
    yield
    for layer, former in zip(layers, usual, strict=True):
        layer.momentum = former


def count_parameters(network: nn.Module) -> int:
    """Count trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over all weights and statistics, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

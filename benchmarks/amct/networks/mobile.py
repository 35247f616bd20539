"""Classic networks of depthwise convolutions, at the scale of 28x28 grey images in 10 classes."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.amct.networks.blocks import Classifier, ConvNormActivation, depthwise


def mobilenet_v1() -> nn.Module:
    """Depthwise and 1x1 convolutions in turns: Howard et al., "MobileNets", 2017."""
    widths = (32, 64, 128, 128, 256, 256)
    strides = (1, 2, 1, 2, 1)
    blocks = [
        nn.Sequential(depthwise(before, stride), ConvNormActivation(before, width, 1))
        for (before, width), stride in zip(pairwise(widths), strides, strict=True)
    ]
    return nn.Sequential(ConvNormActivation(1, widths[0], 3, 2), *blocks, Classifier(widths[-1]))


class _Excitation(nn.Module):
    """Scale each channel by what two layers make of all channels' averages: Hu et al., "Squeeze-and-Excitation"."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        squeezed = self.activation(self.reduce(self.pool(features)))
        return features * torch.sigmoid(self.expand(squeezed))


class _InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise one, and a 1x1 that narrows, added to what they read where it fits."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module], excited: bool
    ) -> None:
        super().__init__()
        wide = 4 * in_channels
        self.layers = nn.Sequential(
            ConvNormActivation(in_channels, wide, 1, activation=activation),
            depthwise(wide, stride, activation),
            _Excitation(wide, in_channels // 2) if excited else nn.Identity(),
            ConvNormActivation(wide, out_channels, 1, activation=nn.Identity),
        )
        self.added = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, in, height, width) to (batch, out, height / stride, width / stride), rounded up."""
        hidden: Tensor = self.layers(features)
        return features + hidden if self.added else hidden


def _inverted_residuals(activation: type[nn.Module], excited: bool) -> nn.Module:
    widths = (32, 48, 48, 80, 80)
    strides = (2, 1, 2, 1)
    blocks = [
        _InvertedResidual(before, width, stride, activation, excited)
        for (before, width), stride in zip(pairwise(widths), strides, strict=True)
    ]
    stem = ConvNormActivation(1, widths[0], 3, 2, activation=activation)
    head = ConvNormActivation(widths[-1], 256, 1, activation=activation)
    return nn.Sequential(stem, *blocks, head, Classifier(256))


def mobilenet_v2() -> nn.Module:
    """Inverted residuals with linear ends: Sandler et al., "MobileNetV2", 2018."""
    return _inverted_residuals(nn.ReLU6, excited=False)


def efficientnet() -> nn.Module:
    """Inverted residuals with squeeze and excitation, SiLU: Tan and Le, "EfficientNet", 2019."""
    return _inverted_residuals(nn.SiLU, excited=True)


class _ShuffleUnit(nn.Module):
    """One half of the channels passes, the other goes through a bottleneck; then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = _shuffle_branch(half, half, 1)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        passed, changed = features.chunk(2, 1)
        shuffled: Tensor = self.shuffle(torch.cat([passed, self.branch(changed)], 1))
        return shuffled


class _ShuffleDown(nn.Module):
    """All channels go through both branches, of stride 2, and are shuffled."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.short = nn.Sequential(
            ConvNormActivation(in_channels, in_channels, 3, 2, in_channels, nn.Identity),
            ConvNormActivation(in_channels, half, 1),
        )
        self.branch = _shuffle_branch(in_channels, half, 2)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, in, height, width) to (batch, channels, height / 2, width / 2), rounded up."""
        shuffled: Tensor = self.shuffle(torch.cat([self.short(features), self.branch(features)], 1))
        return shuffled


def _shuffle_branch(in_channels: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        ConvNormActivation(in_channels, channels, 1),
        ConvNormActivation(channels, channels, 3, stride, channels, nn.Identity),
        ConvNormActivation(channels, channels, 1),
    )


def shufflenet() -> nn.Module:
    """Split, shuffled channels: Ma et al., "ShuffleNet V2", 2018."""
    return nn.Sequential(
        ConvNormActivation(1, 32, 3, 2),
        *(_ShuffleDown(32, 160), _ShuffleUnit(160), _ShuffleUnit(160)),
        *(_ShuffleDown(160, 320), _ShuffleUnit(320), _ShuffleUnit(320)),
        *(ConvNormActivation(320, 320, 1), Classifier(320)),
    )

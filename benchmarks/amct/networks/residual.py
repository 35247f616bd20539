"""Classic networks that add to, or keep, what came before, at the scale of 28x28 grey images in 10 classes."""

import torch
from gulliver.tasks.residual_network import ResidualNetwork
from torch import Tensor, nn

from benchmarks.amct.networks.blocks import CLASSES, Classifier, ConvNormActivation


def resnet() -> nn.Module:
    """Basic blocks: He et al., "Deep Residual Learning for Image Recognition", 2016."""
    return ResidualNetwork(widths=(32, 64, 128), blocks_per_stage=1, stem_stride=2, in_channels=1, classes=CLASSES)


class _WideBlock(nn.Module):
    """Norm and activation before each of two convolutions; a 1x1 adapts the residual where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, in, height, width) to (batch, out, height / stride, width / stride), rounded up."""
        active = torch.relu(self.norm1(features))
        hidden: Tensor = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return hidden + self.shortcut(active)


def wide_resnet() -> nn.Module:
    """Few and wide blocks with norms first: Zagoruyko and Komodakis, "Wide Residual Networks", 2016."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.MaxPool2d(2)),
        *(_WideBlock(32, 80, 1), _WideBlock(80, 128, 2), _WideBlock(128, 128, 1)),
        *(nn.BatchNorm2d(128), nn.ReLU(), Classifier(128)),
    )


class _DenseLayer(nn.Module):
    """A bottleneck and a 3x3 convolution, norms first, whose channels come behind those that they read."""

    def __init__(self, in_channels: int, bottleneck: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, bottleneck, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck)
        self.conv2 = nn.Conv2d(bottleneck, growth, 3, 1, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, in, height, width) to (batch, in + growth, height, width)."""
        hidden = self.conv1(torch.relu(self.norm1(features)))
        return torch.cat([features, self.conv2(torch.relu(self.norm2(hidden)))], 1)


def _dense_block(in_channels: int, layers: int, bottleneck: int, growth: int) -> nn.Module:
    return nn.Sequential(*(_DenseLayer(in_channels + index * growth, bottleneck, growth) for index in range(layers)))


def densenet() -> nn.Module:
    """Every layer reads all that came before: Huang et al., "Densely Connected Convolutional Networks", 2017."""
    return nn.Sequential(
        *(ConvNormActivation(1, 48, 3, 2), nn.MaxPool2d(2)),
        _dense_block(48, 4, 64, 32),
        *(nn.BatchNorm2d(176), nn.ReLU(), nn.Conv2d(176, 96, 1, bias=False), nn.AvgPool2d(2)),
        _dense_block(96, 4, 96, 48),
        *(nn.BatchNorm2d(288), nn.ReLU(), Classifier(288)),
    )


class _ConvNextBlock(nn.Module):
    """A 7x7 depthwise convolution, a layer norm, and two linear layers at each position, scaled and added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.activation = nn.GELU()
        self.reduce = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        hidden = self.norm(self.conv(features).permute(0, 2, 3, 1))
        hidden = self.scale * self.reduce(self.activation(self.expand(hidden)))
        return features + hidden.permute(0, 3, 1, 2)


class _ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of (batch, channels, height, width)."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the same shape."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """Residual blocks shaped like a transformer's: Liu et al., "A ConvNet for the 2020s", 2022."""
    return nn.Sequential(
        *(nn.Conv2d(1, 64, 4, 4), _ChannelNorm(64)),
        *(_ConvNextBlock(64), _ConvNextBlock(64)),
        *(_ChannelNorm(64), nn.Conv2d(64, 128, 2, 2)),
        *(_ConvNextBlock(128), _ConvNextBlock(128)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(128), nn.Linear(128, CLASSES)),
    )

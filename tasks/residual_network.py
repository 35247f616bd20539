"""A small residual network for image classification, written plainly so that torch.fx can trace it."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class ConvolutionNorm(nn.Module):
    """A convolution without bias, followed by batch normalization."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map shape (batch, in, height, width) to (batch, out, height / stride, width / stride), rounded up."""
        normalized: Tensor = self.norm(self.conv(features))
        return normalized


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to their input, which a 1x1 convolution adapts where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else ConvolutionNorm(in_channels, out_channels, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map shape (batch, in, height, width) to (batch, out, height / stride, width / stride), rounded up."""
        hidden = torch.relu(self.norm1(self.conv1(features)))
        return torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(features))


class ResidualNetwork(nn.Module):
    """A stem, one stage of basic blocks per width (each after the first halves the map), and a linear classifier."""

    def __init__(
        self, widths: Sequence[int], blocks_per_stage: int, stem_stride: int, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        self.stem = ConvolutionNorm(in_channels, widths[0], 3, stem_stride)
        first = _stage(widths[0], widths[0], blocks_per_stage, stride=1)
        others = [_stage(before, width, blocks_per_stage, stride=2) for before, width in pairwise(widths)]
        self.stages = nn.Sequential(first, *others)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape (batch, in_channels, height, width) to logits of shape (batch, classes)."""
        features = self.stages(torch.relu(self.stem(images)))
        logits: Tensor = self.classifier(torch.flatten(self.pool(features), 1))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

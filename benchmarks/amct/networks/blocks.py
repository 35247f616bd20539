"""What several of the classic networks are built of."""

import torch
from torch import Tensor, nn

CLASSES = 10


class ConvNormActivation(nn.Sequential):
    """A convolution without bias, a batch norm and an activation; the padding keeps the size but for the stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        padding = kernel_size // 2
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(out_channels), activation())


class Classifier(nn.Sequential):
    """Averages over positions and a linear layer: (batch, channels, height, width) to (batch, 10)."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class Joined(nn.Module):
    """The channels of several branches that read the same, one after the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to as many positions with the branches' channels."""
        return torch.cat([branch(features) for branch in self.branches], 1)


def depthwise(channels: int, stride: int, activation: type[nn.Module] = nn.ReLU) -> ConvNormActivation:
    """Return a 3x3 convolution of each channel by itself."""
    return ConvNormActivation(channels, channels, 3, stride, channels, activation)

import pytest
import torch
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.trace import trace
from torch import nn


class Plain(nn.Module):
    """A strided convolution with a batch norm, one without, and a classifier of the flattened map."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1)
        self.linear = nn.Linear(64 * 16, 10)

    def forward(self, images):
        features = torch.relu(self.conv2(torch.relu(self.norm1(self.conv1(images)))))
        return self.linear(torch.flatten(features, 1))


class Residual(nn.Module):
    """A stem, a block whose shortcut is an identity, and a classifier of the pooled map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.conv1 = nn.Conv2d(32, 48, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(48)
        self.conv2 = nn.Conv2d(48, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.shortcut = nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(32, 10)

    def forward(self, images):
        stem = torch.relu(self.stem(images))
        hidden = torch.relu(self.norm1(self.conv1(stem)))
        features = torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(stem))
        return self.linear(torch.flatten(self.pool(features), 1))


class Mixed(nn.Module):
    """Two branches that are concatenated, a depthwise and a grouped convolution, and a convolution as output."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 16, 3, padding="same", dilation=2)
        self.right = nn.Conv2d(3, 32, 1)
        self.join = nn.Conv2d(48, 32, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 16, 3, padding=1, groups=4)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, images):
        joined = torch.cat([self.left(images), self.right(images)], 1)
        thin = self.depthwise(torch.relu(self.join(torch.relu(joined))))
        return self.head(torch.relu(self.grouped(torch.relu(thin))))


def graph_of(network):
    return trace(network().eval(), (torch.zeros(1, 3, 8, 8),))


@pytest.fixture(scope="session")
def plain_network():
    torch.manual_seed(0)
    return Plain().eval()


@pytest.fixture(scope="session")
def plain():
    return graph_of(Plain)


@pytest.fixture(scope="session")
def residual():
    return graph_of(Residual)


@pytest.fixture(scope="session")
def mixed():
    return graph_of(Mixed)


@pytest.fixture(scope="session")
def cpu():
    """The CPU's capabilities: int8 layers, channels in multiples of 16, of 8 up to 32."""
    return Capabilities("bfloat16", dict.fromkeys(("conv1d", "conv2d", "linear"), ((8, 8),)), 16, 8, 32)

from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from gulliver.compressors.compress import read_original
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from torch import nn


class Convolutions(nn.Module):
    """Strided, dilated, depthwise and 1x1 convolutions with batch norms, then linear layers on the flattened map."""

    def __init__(self):
        super().__init__()
        self.strided = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.dilated = nn.Conv2d(16, 24, 3, padding=2, dilation=2)
        self.norm2 = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.norm3 = nn.BatchNorm2d(24)
        self.pointwise = nn.Conv2d(24, 16, 1)
        self.linear1 = nn.Linear(16 * 36, 32, bias=False)
        self.norm4 = nn.BatchNorm1d(32)
        self.linear2 = nn.Linear(32, 5)

    def forward(self, images):
        features = torch.relu(self.norm1(self.strided(images)))
        features = torch.relu(self.norm2(self.dilated(features)))
        features = torch.relu(self.norm3(self.depthwise(features)))
        flat = torch.flatten(torch.relu(self.pointwise(features)), 1)
        return self.linear2(torch.relu(self.norm4(self.linear1(flat))))


class Block(nn.Module):
    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, features):
        hidden = torch.relu(self.norm1(self.conv1(features)))
        return torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(features))


class Residual(nn.Module):
    """Two residual blocks: the first keeps its input, the second adapts it with a 1x1 convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block1, self.block2 = Block(16, 16, 1), Block(16, 32, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(32, 5)

    def forward(self, images):
        features = self.block2(self.block1(torch.relu(self.stem(images))))
        return self.linear(torch.flatten(self.pool(features), 1))


class Concatenation(nn.Module):
    """Two branches of one tensor, concatenated, with one batch norm behind them that cannot be folded."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left = nn.Conv2d(16, 8, 1)
        self.right = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.join = nn.Conv2d(32, 16, 1)
        self.linear = nn.Linear(16, 5)

    def forward(self, images):
        stem = torch.relu(self.stem(images))
        features = torch.relu(self.norm(torch.cat([self.left(stem), self.right(stem)], 1)))
        return self.linear(torch.relu(self.join(features)).mean((2, 3)))


NETWORKS = {cls.__name__.lower(): cls for cls in (Convolutions, Residual, Concatenation)}


@dataclass
class SmallTask:
    """What an engineer's own task gives: a network, an example, and calibration inputs."""

    name: str

    @cached_property
    def model(self):
        torch.manual_seed(0)
        network = NETWORKS[self.name]()
        for _ in range(3):  # statistics that differ from channel to channel
            network(2 * torch.randn(16, 3, 12, 12))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        return network.eval()

    @property
    def example_inputs(self):
        return (images(1, seed=1),)

    def calibration(self):
        return [(images(8, seed=2),), (images(8, seed=3),)]


def images(count, seed):
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread):
    """Compute with one thread in all of this room's tests."""


@pytest.fixture(scope="session")
def originals():
    """Return every small network with what is computed of it once, by the network's name."""
    return {name: read_original(SmallTask(name)) for name in NETWORKS}


@pytest.fixture(scope="session")
def images_of():
    """Return a function of a count and a seed that gives fresh images."""
    return images


class NetworkTask:
    """A task of a network, with inputs of its own seeds."""

    def __init__(self, network):
        torch.manual_seed(0)
        self.name, self.model = type(network).__name__, network
        for _ in range(2):
            network(torch.randn(16, 3, 12, 12))
        network.eval()
        self.example_inputs = (torch.zeros(1, 3, 12, 12),)

    def calibration(self):
        return [(torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(seed)),) for seed in (2, 3)]


@pytest.fixture(scope="session")
def network_task():
    """Return a function of a network that gives a task of it."""
    return NetworkTask


@pytest.fixture(scope="session")
def outputs():
    """Return a function of a network and its inputs that gives what it returns."""

    def call(network, *inputs, **named):
        with torch.inference_mode():
            return network(*inputs, **named)

    return call


@pytest.fixture(scope="session")
def precisions():
    """Return a function of an original and bits that gives the recipe with these in all layers."""

    def recipe(original, bits=(8, 8)):
        return Recipe({name: LayerRecipe(quantize=Quantize(*bits)) for name in original.graph.layers})

    return recipe

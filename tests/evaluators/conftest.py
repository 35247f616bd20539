import os

import pytest
import torch
from gulliver.compressors.compress import read_original
from gulliver.spaces.trace import trace
from gulliver.tasks.digits_cnn import DigitsCNN
from torch import nn


class Block(nn.Module):
    """A stem, a residual block with an identity as its shortcut, and a classifier of the pooled map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(16, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.shortcut = nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(16, 10)

    def forward(self, images):
        stem = torch.relu(self.stem(images))
        hidden = torch.relu(self.norm1(self.conv1(stem)))
        features = torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(stem))
        return self.linear(torch.flatten(self.pool(features), 1))


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread):
    """Compute with one thread in all of this room's tests."""


@pytest.fixture(scope="session")
def block_network():
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="session")
def block(block_network):
    """Return the graph of a residual block on 8x8 maps."""
    return trace(block_network, (torch.zeros(1, 16, 8, 8),))


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory):
    """Let the whole session of these tests cache in a folder of its own; the variable is restored at its end."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield os.environ["XDG_CACHE_HOME"]
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def digits(cache_home):
    """Return the digits task, trained once in this session."""
    task = DigitsCNN()
    assert not task.model.training
    return task


@pytest.fixture(scope="session")
def digits_original(digits):
    return read_original(digits)

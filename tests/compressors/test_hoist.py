import copy

import pytest
import torch
from gulliver.compressors.hoist import hoist
from gulliver.compressors.quantize import QuantizedActivation, quantize
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from torch import fx, nn
from torch.nn import functional as F


def grid_of(rounding):
    return rounding.grid


def rounding(highest=1.0):
    return QuantizedActivation(0.0, highest, 3)


class Network(nn.Module):
    """A layer, what comes behind it, and roundings of what that gives."""

    def __init__(self, behind, *roundings):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(2, 4, 1)
        self.other = nn.Conv2d(2, 3, 1)
        self.behind = behind
        self.rounded = nn.ModuleList(roundings or [rounding()])

    def forward(self, images):
        return self.behind(self, images)


def pooled(network, images):
    return network.rounded[0](F.max_pool2d(network.layer(images), 2)) * 2


def flattened(network, images):
    return network.rounded[0](torch.flatten(F.max_pool2d(network.layer(images), 2), 1)) * 2


def joined(network, images):
    return network.rounded[0](F.max_pool2d(torch.cat([network.layer(images), network.other(images)], 1), 2)) * 2


def averaged(network, images):
    return network.rounded[0](F.avg_pool2d(network.layer(images), 2)) * 2


def read_twice(network, images):
    features = network.layer(images)
    return network.rounded[0](F.max_pool2d(features, 2)) * features.mean()


def rounded_twice(network, images):
    features = network.layer(images)
    return network.rounded[1](features).mean() + network.rounded[0](F.max_pool2d(features, 3, 1, 1))


class Tracer(fx.Tracer):
    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, QuantizedActivation) or super().is_leaf_module(m, module_qualified_name)


def hoisted(network):
    """Return the network's calls before and after, whose results are compared to the last bit."""
    traced = fx.GraphModule(network, Tracer().trace(network))
    images = torch.randn(2, 2, 8, 8)
    before = copy.deepcopy(traced)
    hoist(traced, QuantizedActivation, grid_of)
    assert torch.equal(traced(images), before(images))
    assert not torch.equal(traced(images), torch.zeros(()))
    return [[node.name for node in it.graph.nodes] for it in (before, traced)]


@pytest.mark.parametrize(
    ("behind", "calls"),
    [
        (pooled, ["images", "layer", "rounded_0", "max_pool2d", "mul", "output"]),
        (flattened, ["images", "layer", "rounded_0", "max_pool2d", "flatten", "mul", "output"]),
        (joined, ["images", "layer", "other", "rounded_1", "rounded_2", "cat", "max_pool2d", "mul", "output"]),
    ],
)
def test_a_rounding_moves_before_what_selects_and_joins(behind, calls):
    assert hoisted(Network(behind))[1] == calls


@pytest.mark.parametrize("behind", [averaged, read_twice])
def test_a_rounding_stays_behind_what_computes_and_where_the_exact_values_are_read_too(behind):
    before, after = hoisted(Network(behind))
    assert after == before


@pytest.mark.parametrize(("highest", "roundings"), [(1.0, 1), (2.0, 2)])
def test_values_that_are_rounded_alike_already_are_rounded_once(highest, roundings):
    _, after = hoisted(Network(rounded_twice, rounding(), rounding(highest)))
    assert sum(name.startswith("rounded") for name in after) == roundings


def test_a_quantized_network_pools_integers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)).eval()
    recipe = Recipe(dict.fromkeys(("0", "3"), LayerRecipe(quantize=Quantize())))
    quantized = quantize(model, recipe, [(torch.randn(4, 2, 8, 8),)])
    names = [node.name for node in quantized.graph.nodes]
    assert names == ["input_1", "rounded_input_1", "_0", "_1", "rounded__2", "_2", "_3", "output"]


class Branches(nn.Module):
    """A layer and a pooling read the same tensor, and what the pooling gives is read by a layer too."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = (nn.Conv2d(2, 2, 1) for _ in range(3))

    def forward(self, images):
        features = torch.relu(self.stem(images))
        return self.left(features) + self.right(F.max_pool2d(features, 3, 1, 1))


@pytest.mark.parametrize("calibrator", ["min_max", "mse", "percentile"])
def test_a_pooling_reads_what_is_rounded_for_a_layer_whatever_the_calibrator(calibrator):
    torch.manual_seed(0)
    choice = LayerRecipe(quantize=Quantize(calibrator=calibrator))
    recipe = Recipe(dict.fromkeys(("stem", "left", "right"), choice))
    quantized = quantize(Branches().eval(), recipe, [(torch.rand(4, 2, 8, 8),)])
    assert sum(node.name.startswith("rounded") for node in quantized.graph.nodes) == 2

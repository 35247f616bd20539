import copy

import pytest
import torch
from gulliver.compressors.equalize import equalize
from gulliver.compressors.quantize import quantize
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from torch import fx, nn


def uneven(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                module.weight *= 10 ** (torch.rand(len(module.weight)) * 3 - 1.5).reshape(
                    -1, *[1] * (module.weight.dim() - 1)
                )
    return network.eval()


def ranges(first, second):
    read = second.weight if getattr(second, "groups", 1) > 1 else second.weight.transpose(0, 1)
    return first.weight.abs().flatten(1).amax(1), read.abs().flatten(1).amax(1)


class Call(nn.Module):
    """A function in place of a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, values):
        return self.function(values)


RELUS = [nn.ReLU(), Call(torch.relu), Call(nn.functional.relu), Call(lambda values: values.relu())]


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        *((nn.Sequential(nn.Conv2d(3, 8, 3), relu, nn.Conv2d(8, 4, 3)), (4, 3, 9, 9)) for relu in RELUS),
        (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=8)), (4, 3, 9, 9)),
        (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), (4, 3)),
    ],
)
def test_ranges_are_evened_out_and_outputs_stay(network, shape):
    network = uneven(network)
    before = copy.deepcopy(network)
    last = str(len(network) - 1)
    traced = equalize(fx.symbolic_trace(network), {last})
    inputs = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(traced(inputs), before(inputs), rtol=1e-4, atol=1e-4)
        written, read = ranges(traced.get_submodule("0"), traced.get_submodule(last))
    torch.testing.assert_close(written, read)
    assert torch.equal(network[0].weight, before[0].weight)


def test_channels_of_uneven_ranges_are_rounded_with_less_error_where_they_are_equalized():
    torch.manual_seed(0)
    network, spread = (
        nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)).eval(),
        10 ** torch.linspace(-1.5, 1.5, 8),
    )
    with torch.no_grad():
        network[0].weight.mul_(spread[:, None])
        network[0].bias.mul_(spread)
        network[2].weight.div_(spread)
    values = torch.randn(200, 3)

    def error(equalize):
        choices = {"0": LayerRecipe(), "2": LayerRecipe(quantize=Quantize(8, 8, equalize=equalize))}
        model = quantize(copy.deepcopy(network), Recipe(choices), [(values,)])
        with torch.no_grad():
            return (model(values) - network(values)).square().mean().item()

    # Without, the steps of the largest channel are a thousand times too coarse for the smallest.
    assert error(True) < 0.01 * error(False)


class Branching(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.first, self.between, self.second = nn.Conv2d(3, 4, 1), between, nn.Conv2d(4, 2, 1)

    def forward(self, images):
        features = self.first(images)
        return self.second(self.between(features)), features


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (Branching(nn.ReLU()), {"second"}),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(4, 2)), {"2"}),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 2, 1)), {"2"}),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2)), {"2"}),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)), {"0"}),
    ],
)
def test_layers_that_something_else_reads_or_stands_between_are_left_alone(network, names):
    before = copy.deepcopy(network.state_dict())
    traced = equalize(fx.symbolic_trace(uneven(network)), set())
    wanted = copy.deepcopy(traced.state_dict())
    after = equalize(traced, names).state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in after.items())
    assert before.keys() == after.keys()

import copy

import pytest
import torch
from gulliver.compressors.compress import compress
from gulliver.compressors.unstructured import sparsify_anywhere
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import channels_after
from torch import nn


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(200, 6), (64, 200)),
        (nn.Conv2d(8, 6, 3, padding=1), (8, 8, 6, 6)),
        (nn.Conv2d(8, 8, 3, 2, groups=8), (8, 8, 7, 7)),
        (nn.Conv1d(8, 6, 3, dilation=2), (16, 8, 12)),
    ],
)
def test_the_share_of_weights_is_zero_and_outputs_stay_nearer_than_by_magnitude(layer, shape, ratio):
    torch.manual_seed(0)
    layer.reset_parameters()
    network = nn.Sequential(copy.deepcopy(layer))
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1
    sparsify_anywhere(network, Recipe({"0": LayerRecipe(Sparsify(ratio, "unstructured"))}), [(inputs,)])
    weight = network[0].weight.detach()
    groups = getattr(layer, "groups", 1)
    assert (weight == 0).sum() == groups * round(ratio * weight.numel() / groups)
    with torch.no_grad():
        wanted, by_magnitude = layer(inputs), copy.deepcopy(layer)
        rows = layer.weight.reshape(groups, -1)
        lost = rows.abs().argsort(1)[:, : round(ratio * rows.shape[1])]
        by_magnitude.weight.copy_(rows.scatter(1, lost, 0.0).reshape(layer.weight.shape))
        error, other = ((it(inputs) - wanted).square().sum() for it in (network, by_magnitude))
    assert error < other if ratio else error <= 1e-6 * wanted.square().sum()


def test_layers_that_ask_for_something_else_are_left_as_they_are():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    before = copy.deepcopy(network)
    asked = {"0": Sparsify(0.5), "1": None, "2": Sparsify(0.5, "unstructured")}
    recipe = Recipe({name: LayerRecipe(it) for name, it in asked.items()})
    assert sparsify_anywhere(network, recipe, [(torch.randn(16, 8),)]) is network
    assert [torch.equal(now.weight, was.weight) for now, was in zip(network, before, strict=True)] == [
        True,
        True,
        False,
    ]


def test_no_channel_is_removed_and_zeros_outlast_rounding(originals):
    original = originals["residual"]
    choice = LayerRecipe(Sparsify(0.6, "unstructured"), None, Quantize(4, 8, rounding="gptq"))
    recipe = Recipe(dict.fromkeys(original.graph.layers, choice))
    untouched = Recipe(dict.fromkeys(original.graph.layers, LayerRecipe()))
    assert channels_after(original.graph, recipe) == channels_after(original.graph, untouched)
    model = compress(original, recipe)
    for name, layer in original.graph.layers.items():
        zeros = (model.get_submodule(f"{name}.layer").weight == 0).sum()
        assert zeros >= round(0.6 * layer.weight_count)

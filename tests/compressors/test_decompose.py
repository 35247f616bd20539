import pytest
import torch
from gulliver.compressors.decompose import decompose, split_layer
from gulliver.spaces.recipe import Decompose, LayerRecipe, Recipe
from gulliver.tasks.errors import InputError
from torch import nn

CONVOLUTIONS = [
    nn.Conv2d(6, 8, 3),
    nn.Conv2d(6, 8, 3, stride=2, padding=1),
    nn.Conv2d(6, 8, 3, stride=(1, 2), padding=(2, 0), bias=False),
    nn.Conv2d(6, 8, 3, padding=2, dilation=2),
    nn.Conv2d(6, 8, 3, padding="same", dilation=(1, 3)),
    nn.Conv2d(6, 8, 3, padding="valid"),
    nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"),
    nn.Conv2d(6, 8, 1),
    nn.Conv2d(6, 8, (3, 1), padding=(1, 0)),
    nn.Conv2d(6, 8, (1, 5), stride=2),
    nn.Conv2d(6, 8, (5, 3), padding=(2, 1)),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_a_convolution_of_full_rank_gives_what_the_convolution_gives(layer):
    images = torch.randn(2, 6, 13, 11, generator=torch.Generator().manual_seed(0))
    halves = split_layer("conv", layer, 10_000)
    with torch.no_grad():
        torch.testing.assert_close(halves(images), layer(images), rtol=0, atol=1e-5)
    height, width = layer.kernel_size
    assert [half.kernel_size for half in halves] == [(height, 1), (1, width)]
    assert halves[0].out_channels == min(6 * height, 8 * width)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_of_full_rank_gives_what_the_layer_gives(bias):
    layer = nn.Linear(12, 7, bias)
    values = torch.randn(3, 5, 12)
    halves = split_layer("linear", layer, 7)
    with torch.no_grad():
        torch.testing.assert_close(halves(values), layer(values), rtol=0, atol=1e-5)
    assert [(half.in_features, half.out_features) for half in halves] == [(12, 7), (7, 7)]
    assert [half.bias is not None for half in halves] == [False, bias]


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_truncated_linear_layer_misses_exactly_the_discarded_singular_values(rank):
    layer = nn.Linear(12, 9)
    first, second = split_layer("linear", layer, rank)
    error = torch.linalg.matrix_norm(layer.weight - second.weight @ first.weight)
    discarded = torch.linalg.svdvals(layer.weight)[rank:]
    assert error.item() == pytest.approx(discarded.square().sum().sqrt().item(), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_a_truncated_convolution_misses_exactly_the_discarded_singular_values(rank):
    layer = nn.Conv2d(5, 7, (3, 3))
    first, second = split_layer("conv", layer, rank)
    # w[o, i, y, x] = sum over r of second[o, r, 0, x] * first[r, i, y, 0]
    product = torch.einsum("orx,riy->oiyx", second.weight[:, :, 0], first.weight[..., 0])
    matrix = layer.weight.permute(0, 3, 1, 2).reshape(21, 15)
    discarded = torch.linalg.svdvals(matrix)[rank:]
    error = (layer.weight - product).square().sum().sqrt()
    assert error.item() == pytest.approx(discarded.square().sum().sqrt().item(), rel=1e-4)


def test_both_halves_carry_the_singular_values_alike():
    first, second = split_layer("linear", nn.Linear(12, 9), 4)
    torch.testing.assert_close(first.weight.norm(dim=1), second.weight.norm(dim=0))


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8), nn.Conv1d(4, 4, 3)])
def test_a_grouped_or_one_dimensional_convolution_is_refused_by_name(layer):
    network = nn.Sequential(layer)
    with pytest.raises(InputError, match=r"^0 cannot be decomposed: only a Linear or an ungrouped Conv2d can, but"):
        decompose(network, Recipe({"0": LayerRecipe(None, Decompose(2))}))


def test_only_layers_with_a_rank_are_replaced():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3)))
    kept = network[0]
    recipe = Recipe({"0": LayerRecipe(), "1.1": LayerRecipe(None, Decompose(5))})
    assert decompose(network, recipe) is network
    assert network[0] is kept
    assert [half.weight.shape for half in network[1][1]] == [(5, 8, 3, 1), (8, 5, 1, 3)]

import copy

import pytest
import torch
from gulliver.compressors.decompose import decompose, split_layer
from gulliver.spaces.parts import Part, parts_of
from gulliver.spaces.recipe import Decompose, LayerRecipe, Recipe
from gulliver.spaces.shapes import Channels
from gulliver.spaces.trace import trace
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


KINDS = ["channel_svd", "tucker2"]
SPLIT = [(layer, kind) for layer in [*CONVOLUTIONS, nn.Conv2d(2, 40, 3)] for kind in ("svd", *KINDS)]
SPLIT += [(nn.Conv1d(6, 8, 3, 2, 1, 2), kind) for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [*CONVOLUTIONS, nn.Conv1d(6, 8, 3, 2, 1, 2)], ids=str)
def test_every_kind_of_full_rank_gives_what_the_convolution_gives(layer, kind):
    images = torch.randn(2, 6, 13, 11, generator=torch.Generator().manual_seed(0))
    images = images if isinstance(layer, nn.Conv2d) else images[:, :, 0]
    parts = split_layer("conv", layer, 10_000, Decompose(10_000, kind))
    with torch.no_grad():
        torch.testing.assert_close(parts(images), layer(images), rtol=0, atol=1e-5)
    assert [part.bias is not None for part in parts] == [False] * (len(parts) - 1) + [layer.bias is not None]


@pytest.mark.parametrize("rank", [4, 10_000])
@pytest.mark.parametrize(("layer", "kind"), SPLIT, ids=str)
def test_parts_are_made_as_they_are_priced(layer, kind, rank):
    images = torch.zeros(2, layer.in_channels, 13, 11) if isinstance(layer, nn.Conv2d) else torch.zeros(2, 6, 11)
    whole = trace(nn.Sequential(copy.deepcopy(layer)).eval(), (images,)).layers["0"]
    split = Decompose(rank, kind)
    made = trace(split_layer("conv", layer, rank, split).eval(), (images,)).layers.values()
    assert parts_of(whole, Channels(layer.in_channels, layer.out_channels), split) == tuple(
        Part(it.in_channels, it.out_channels, it.kernel_size, it.stride, it.padding, it.dilation) for it in made
    )


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_channel_svd_misses_exactly_the_discarded_singular_values(rank):
    layer = nn.Conv2d(5, 7, 3)
    first, second = split_layer("conv", layer, rank, Decompose(rank, "channel_svd"))
    product = second.weight[:, :, 0, 0] @ first.weight.flatten(1)
    error = torch.linalg.matrix_norm(layer.weight.flatten(1) - product)
    discarded = torch.linalg.svdvals(layer.weight.flatten(1))[rank:]
    assert error.item() == pytest.approx(discarded.square().sum().sqrt().item(), rel=1e-4)


def test_tucker_takes_two_ranks_and_finds_the_factors_of_a_kernel_that_has_them():
    torch.manual_seed(0)
    layer = nn.Conv2d(10, 12, 3)
    with torch.no_grad():
        core, into, out = torch.randn(4, 3, 3, 3), torch.randn(10, 3), torch.randn(12, 4)
        layer.weight.copy_(torch.einsum("rsyx,is,or->oiyx", core, into, out))
    parts = split_layer("conv", layer, 4, Decompose(4, "tucker2", 3))
    assert [tuple(part.weight.shape) for part in parts] == [(3, 10, 1, 1), (4, 3, 3, 3), (12, 4, 1, 1)]
    images = torch.randn(2, 10, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(parts(images), layer(images), rtol=1e-3, atol=1e-3)


def test_the_error_of_tucker_is_within_what_the_higher_order_svd_promises():
    # De Lathauwer et al., "A multilinear singular value decomposition", 2000, property 10.
    layer = nn.Conv2d(10, 12, 3)
    first, core, last = split_layer("conv", layer, 5, Decompose(5, "tucker2", 4))
    product = torch.einsum("rsyx,si,or->oiyx", core.weight, first.weight[:, :, 0, 0], last.weight[:, :, 0, 0])
    outputs = torch.linalg.svdvals(layer.weight.flatten(1))[5:].square().sum()
    inputs = torch.linalg.svdvals(layer.weight.transpose(0, 1).flatten(1))[4:].square().sum()
    error = (layer.weight - product).square().sum()
    assert max(outputs, inputs) <= error <= outputs + inputs


def test_a_3x3_of_64_channels_at_rank_32_keeps_a_third_of_its_multiply_accumulates():
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)).eval()
    images = (torch.randn(1, 64, 14, 14),)
    before = trace(network, images).layers["0"].macs
    decompose(network, Recipe({"0": LayerRecipe(None, Decompose(32))}))
    after = trace(network, images).layers
    assert [tuple(part.weight.shape) for part in network[0]] == [(32, 64, 3, 1), (64, 32, 1, 3)]
    assert sum(layer.macs for layer in after.values()) * 3 == before


def uneven_inputs(rows, size):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, size, generator=generator) @ torch.diag(2.0 ** -torch.arange(size).float())


def test_a_data_aware_linear_layer_keeps_its_outputs_as_well_as_any_of_its_rank():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 9, bias=False))
    inputs = uneven_inputs(200, 12)
    with torch.no_grad():
        wanted = network(inputs)
    best = torch.linalg.svdvals(wanted)[3:].square().sum()
    recipe = Recipe({"0": LayerRecipe(None, Decompose(3, data_aware=True))})
    decompose(network, recipe, [(inputs[:100],), (inputs[100:],)])
    with torch.no_grad():
        error = (network(inputs) - wanted).square().sum()
    assert error.item() == pytest.approx(best.item(), rel=0.01)


@pytest.mark.parametrize("kind", ["svd", "channel_svd"])
def test_a_data_aware_convolution_keeps_its_outputs_better_than_its_weights_alone_allow(kind):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1)
    images = torch.randn(32, 8, 6, 6) * (2.0 ** -torch.arange(8)).reshape(1, 8, 1, 1)
    with torch.no_grad():
        wanted = layer(images)

    def error(data_aware):
        network = nn.Sequential(copy.deepcopy(layer))
        decompose(network, Recipe({"0": LayerRecipe(None, Decompose(4, kind, None, data_aware))}), [(images,)])
        with torch.no_grad():
            return (network(images) - wanted).square().sum().item()

    assert error(True) < 0.7 * error(False)


def test_data_aware_splits_read_the_network_before_any_layer_is_split():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
    inputs = uneven_inputs(50, 6)
    choice = LayerRecipe(None, Decompose(2, data_aware=True))
    alone = copy.deepcopy(network)
    decompose(alone, Recipe({"0": LayerRecipe(), "2": choice}), [(inputs,)])
    decompose(network, Recipe({"0": choice, "2": choice}), [(inputs,)])
    assert torch.equal(network[2][0].weight, alone[2][0].weight)

import copy

import pytest
import torch
from gulliver.compressors.sparsify import rank_channels, sparsify
from gulliver.spaces.recipe import LayerRecipe, Recipe, Sparsify
from gulliver.spaces.shapes import channels_after
from gulliver.tasks.errors import InputError
from torch import nn


def recipe_of(graph, ratio):
    prunable = {name for group in graph.channel_groups if not group.not_prunable for name in group.layers}
    return Recipe({name: LayerRecipe(Sparsify(ratio) if name in prunable else None) for name in graph.layers})


def silence(model, group, channels):
    """Make the group's channels zero everywhere they are computed, and unread everywhere they are read."""
    for coupling in group.couplings:
        module = model.get_submodule(coupling.module)
        indices = [index for channel in channels for index in coupling.indices[channel]]
        with torch.no_grad():
            if coupling.side == "out":
                module.weight[indices] = 0
                if module.bias is not None:
                    module.bias[indices] = 0
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                    module.running_mean[indices] = 0
            else:
                module.weight[:, indices] = 0


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("network", ["convolutions", "residual", "concatenation"])
def test_removing_channels_that_are_zero_changes_no_output(network, ratio, originals, images_of):
    graph = originals[network].graph
    model = copy.deepcopy(originals[network].task.model)
    generator = torch.Generator().manual_seed(1)
    for group in graph.channel_groups:
        if not group.not_prunable:
            count = round(group.channels * ratio)
            silence(model, group, torch.randperm(group.channels, generator=generator)[:count].tolist())
    ranking = rank_channels(model, originals[network].task.example_inputs)
    inputs = images_of(4, seed=9)
    with torch.no_grad():
        wanted = model(inputs)
        thinned = sparsify(copy.deepcopy(model), graph, recipe_of(graph, ratio), ranking)
        torch.testing.assert_close(thinned(inputs), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("network", ["convolutions", "residual", "concatenation"])
def test_removed_channels_are_gone_in_exactly_the_counts_that_shapes_says(network, ratio, originals, images_of):
    original = originals[network]
    recipe = recipe_of(original.graph, ratio)
    thinned = sparsify(copy.deepcopy(original.task.model), original.graph, recipe, original.ranking)
    for name, channels in channels_after(original.graph, recipe).items():
        layer = thinned.get_submodule(name)
        if isinstance(layer, nn.Linear):
            assert (layer.in_features, layer.out_features) == (channels.inputs, channels.outputs)
            assert layer.weight.shape == (channels.outputs, channels.inputs)
        else:
            assert (layer.in_channels, layer.out_channels) == (channels.inputs, channels.outputs)
            assert layer.weight.shape[:2] == (channels.outputs, channels.inputs // layer.groups)
    assert thinned(images_of(2, seed=0)).shape == (2, 5)


def test_a_residual_group_loses_the_same_channels_everywhere(originals):
    original = originals["residual"]
    kept = sorted(original.ranking["stem"][8:])
    thinned = sparsify(
        copy.deepcopy(original.task.model), original.graph, recipe_of(original.graph, 0.5), original.ranking
    )
    before = original.task.model
    assert torch.equal(thinned.stem.weight, before.stem.weight[kept])
    assert torch.equal(thinned.block1.norm2.running_var, before.block1.norm2.running_var[kept])
    assert torch.equal(thinned.block1.conv1.weight.sum(), before.block1.conv1.weight[_kept(original)][:, kept].sum())


def _kept(original):
    return sorted(original.ranking["block1.conv1"][8:])


def test_the_original_network_is_untouched(originals):
    original = originals["residual"]
    before = {name: value.clone() for name, value in original.task.model.state_dict().items()}
    sparsify(copy.deepcopy(original.task.model), original.graph, recipe_of(original.graph, 0.5), original.ranking)
    after = original.task.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("network", ["convolutions", "residual", "concatenation"])
def test_every_group_is_ranked_by_its_own_channels(network, originals):
    for group in originals[network].graph.channel_groups:
        assert sorted(originals[network].ranking[group.name]) == list(range(group.channels))


def test_channels_are_ranked_by_the_norm_of_their_weights():
    network = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 3, 1)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([4.0, 1, 3, 2])[:, None, None, None].expand_as(network[0].weight))
        network[1].weight.fill_(1)
        network[2].weight.copy_(torch.tensor([2.0, 3.0, 1.0, 4.0])[None, :, None, None].expand_as(network[2].weight))
    ranking = rank_channels(network, (torch.zeros(1, 2, 4, 4),))
    assert ranking["0"] == (1, 3, 2, 0)
    assert ranking["1"] == (2, 0, 1, 3)


def test_the_norm_is_that_of_squares():
    # Sums of magnitudes, squares and cubes order these in three ways: (3, 4.4, 4), (9, 9.68, 8) and (27, 21.3, 16).
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, 0.0], [2.2, 2.2], [2.0, 2.0]]))
        network[1].weight.zero_()
    assert rank_channels(network, (torch.zeros(1, 2),))["0"] == (2, 0, 1)


def test_tied_layers_with_different_ratios_are_refused(originals):
    original = originals["residual"]
    recipe = recipe_of(original.graph, 0.5)
    unequal = Recipe({**recipe.layers, "stem": LayerRecipe(Sparsify(0.25))})
    with pytest.raises(InputError, match=r"must have one ratio, but stem has ratio=0.25, block1.conv2 has ratio=0.5"):
        sparsify(copy.deepcopy(original.task.model), original.graph, unequal, original.ranking)


def test_channels_are_ranked_where_torch_pruning_loses_count_of_others():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 16, 1), nn.Linear(8, 24)
            self.wide, self.head = nn.Linear(16 * 16 + 24, 32), nn.Linear(32, 4)

        def forward(self, images, values):
            joined = torch.cat([self.conv(images).flatten(1), self.linear(values)], 1)
            return self.head(torch.relu(self.wide(joined)))

    model = Joined().eval()
    ranking = rank_channels(model, (torch.zeros(1, 3, 4, 4), torch.zeros(1, 8)))
    assert sorted(ranking["wide"]) == list(range(32))

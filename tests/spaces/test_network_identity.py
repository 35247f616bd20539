import copy

import pytest
import torch
from gulliver.spaces.network_identity import check_recipe, network_hash
from gulliver.spaces.recipe import FoundFor, LayerRecipe, Recipe, Sparsify
from gulliver.tasks.errors import InputError
from torch import nn


def whole(graph, **found_for):
    return Recipe({name: LayerRecipe() for name in graph.layers}, found_for=FoundFor(**found_for))


def test_equal_networks_have_equal_hashes(plain_network):
    identity = network_hash(plain_network)
    assert len(identity) == 16
    assert int(identity, 16) >= 0
    assert network_hash(copy.deepcopy(plain_network)) == identity
    assert network_hash(copy.deepcopy(plain_network).to(memory_format=torch.channels_last)) == identity


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.conv2.weight.data[3, 2, 1].add_(1e-6),
        lambda network: network.norm1.running_mean.add_(1),
        lambda network: network.linear.bias.data.neg_(),
        lambda network: network.double(),
        lambda network: network.add_module("tail", nn.Linear(1, 1)),
    ],
)
def test_any_change_of_weights_buffers_types_or_names_changes_the_hash(change, plain_network):
    changed = copy.deepcopy(plain_network)
    change(changed)
    assert network_hash(changed) != network_hash(plain_network)


def test_a_network_in_bfloat16_has_a_hash_of_its_own_weights(plain_network):
    rounded = copy.deepcopy(plain_network).bfloat16()
    identity = network_hash(rounded)
    assert network_hash(copy.deepcopy(rounded)) == identity
    rounded.conv2.weight.data[3, 2, 1].add_(0.5)
    assert network_hash(rounded) != identity


def test_a_recipe_of_this_network_or_of_no_named_one_passes(plain):
    check_recipe(whole(plain), plain, "f00d")
    check_recipe(whole(plain, network="f00d"), plain, "f00d")


def test_a_recipe_of_another_network_is_refused(plain):
    rule = r"^the recipe must be for this network \(f00d\), but was found for beef$"
    with pytest.raises(InputError, match=rule):
        check_recipe(whole(plain, network="beef"), plain, "f00d")


def test_layers_too_many_or_too_few_are_named(plain):
    extra = Recipe({**whole(plain).layers, "conv9": LayerRecipe()})
    with pytest.raises(InputError, match="names conv9, which is no layer of the network; layers are conv1, conv2, lin"):
        check_recipe(extra, plain, "f00d")
    lacking = Recipe({"conv1": LayerRecipe(), "linear": LayerRecipe()})
    with pytest.raises(InputError, match="must have an entry for every layer, but conv2 has none"):
        check_recipe(lacking, plain, "f00d")


def test_a_ratio_where_channels_must_stay_is_refused(plain):
    recipe = Recipe({**whole(plain).layers, "linear": LayerRecipe(Sparsify(0.5))})
    with pytest.raises(InputError, match=r"linear has ratio=0.5, but cannot lose channels"):
        check_recipe(recipe, plain, "f00d")

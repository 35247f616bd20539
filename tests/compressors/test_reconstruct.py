import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gulliver.compressors.compress import compress, thin
from gulliver.compressors.layer_inputs import calls_of
from gulliver.compressors.reconstruct import reconstruct
from gulliver.compressors.sparsify import rank_channels, removed_indices, sparsify
from gulliver.compressors.store import ENTRY_BYTES, Store
from gulliver.spaces.recipe import LayerRecipe, Recipe, Sparsify
from gulliver.spaces.trace import trace
from torch import nn


def thinned(network, recipe, calibration):
    graph = trace(network, calibration[0])
    ranking = rank_channels(network, calibration[0])
    model = sparsify(copy.deepcopy(network), graph, recipe, ranking)
    return reconstruct(model, network, graph, recipe, removed_indices(graph, recipe, ranking), calibration, Store(0))


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_solved_as_numpy_solves_least_squares(bias):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3, bias)).eval()
    calibration = [(torch.randn(40, 5),), (torch.randn(30, 5),)]
    recipe = Recipe({"0": LayerRecipe(Sparsify(0.5, reconstruct=True)), "2": LayerRecipe()})
    model = thinned(network, recipe, calibration)
    inputs = torch.cat([it for (it,) in calibration])
    with torch.no_grad():
        read, wanted = torch.relu(model[0](inputs)).numpy(), network(inputs).numpy()
        given = model(inputs).numpy()
    if bias:
        read = np.hstack([read, np.ones((len(read), 1))])
    best = read @ np.linalg.lstsq(read, wanted)[0]
    assert np.square(given - wanted).sum() == pytest.approx(np.square(best - wanted).sum(), rel=1e-2)


def test_a_removed_copy_of_a_kept_channel_is_made_good_exactly():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        network[0].weight[4:] = network[0].weight[:4]
        network[0].bias[4:] = network[0].bias[:4]
        network[2].weight[:, 4:] *= 0.5  # the copies are read less, so that they rank lowest
    inputs = torch.randn(16, 3, 9, 9)
    recipe = {name: LayerRecipe() for name in ("0", "2", "3")}
    plain = thinned(network, Recipe(recipe | {"0": LayerRecipe(Sparsify(0.5))}), [(inputs,)])
    solved = thinned(network, Recipe(recipe | {"0": LayerRecipe(Sparsify(0.5, reconstruct=True))}), [(inputs,)])
    with torch.no_grad():
        wanted = network(inputs)
        assert (plain(inputs) - wanted).abs().max() > 0.05
        torch.testing.assert_close(solved(inputs), wanted, rtol=0, atol=2e-3)


@pytest.mark.parametrize("layer", ["block1.conv2", "block2.conv2"])
def test_a_solved_layer_is_nearer_to_what_it_gave_on_inputs_it_has_not_seen(layer, originals, images_of):
    original = originals["residual"]
    wanted = layer_outputs(original.task.model, layer, images_of(64, seed=11))

    def distance(reconstructed):
        choice = Sparsify(0.25, reconstruct=reconstructed)
        names = original.graph.layers
        recipe = Recipe({name: LayerRecipe(choice if name.endswith("conv1") else None) for name in names})
        model = thinned(original.task.model, recipe, original.calibration)
        return (layer_outputs(model, layer, images_of(64, seed=11)) - wanted).square().mean()

    assert distance(True) < 0.8 * distance(False)


def layer_outputs(model, layer, inputs):
    ((_, outputs),) = calls_of(model, layer, [(inputs,)])
    return outputs


def test_only_the_readers_of_groups_that_ask_for_it_are_solved(originals):
    original = originals["residual"]
    half = {"block1.conv1": Sparsify(0.5, reconstruct=True), "block2.conv1": Sparsify(0.5)}
    recipe = Recipe({name: LayerRecipe(half.get(name)) for name in original.graph.layers})
    model = thin(original, recipe, original.calibration)
    kept = {name: sorted(original.ranking[name][len(original.ranking[name]) // 2 :]) for name in half}
    before = original.task.model
    assert torch.equal(model.block2.conv2.weight, before.block2.conv2.weight[:, kept["block2.conv1"]])
    assert not torch.equal(model.block1.conv2.weight, before.block1.conv2.weight[:, kept["block1.conv1"]])
    assert torch.equal(model.block1.conv1.weight, before.block1.conv1.weight[kept["block1.conv1"]])


def test_a_layer_whose_own_channels_are_removed_too_is_solved_for_those_that_stay(originals, images_of):
    original = originals["convolutions"]
    prunable = {name for it in original.graph.channel_groups if not it.not_prunable for name in it.layers}
    choice = Sparsify(0.5, reconstruct=True)
    recipe = Recipe({name: LayerRecipe(choice if name in prunable else None) for name in original.graph.layers})
    model = compress(original, recipe)
    assert model.get_submodule("dilated").weight.shape == (12, 8, 3, 3)
    assert model(images_of(2, seed=1)).isfinite().all()


def runs_of(network):
    """Return a list that grows with each run of the network, those of its copies aside, and what ends that."""
    runs = []
    handle = network.register_forward_hook(lambda it, *_: runs.append(it) if it is network else None)
    return runs, handle


def test_the_original_runs_once_for_all_recipes_with_the_same_inputs(originals):
    original = replace(originals["residual"])
    runs, handle = runs_of(original.task.model)
    halves = [
        {name: LayerRecipe(Sparsify(0.5, reconstruct=True)) for name in names}
        for names in (["block1.conv1", "block2.conv1"], ["block1.conv1"])
    ]
    both, first = (Recipe(dict.fromkeys(original.graph.layers, LayerRecipe()) | half) for half in halves)
    thin(original, both, original.calibration)
    assert len(runs) == 1
    again = thin(original, first, original.calibration)
    assert len(runs) == 1
    anew = thin(original, first, (*original.calibration,))
    handle.remove()
    assert all(map(torch.equal, again.parameters(), anew.parameters()))


@pytest.mark.parametrize(("calls_kept", "runs"), [(2, 1), (1, 2), (0, 2)])
def test_what_the_originals_layers_gave_is_kept_within_bounds(calls_kept, runs):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    inputs = torch.randn(64, 4)
    graph, ranking = trace(network, (inputs,)), rank_channels(network, (inputs,))
    half = LayerRecipe(Sparsify(0.5, reconstruct=True))
    recipe = Recipe({"0": half, "2": half, "4": LayerRecipe()})
    store = Store(calls_kept * (ENTRY_BYTES + inputs.shape[0] * 6 * 4))
    ran, _ = runs_of(network)
    for _ in range(2):
        model = sparsify(copy.deepcopy(network), graph, recipe, ranking)
        removed = removed_indices(graph, recipe, ranking)
        reconstruct(model, network, graph, recipe, removed, [(inputs,)], store)
    assert len(ran) == runs
    assert store.used_bytes <= store.memory_bytes


def test_a_layer_with_fewer_than_two_equations_an_unknown_keeps_its_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)).eval()
    recipe = Recipe({"0": LayerRecipe(Sparsify(0.5, reconstruct=True)), "2": LayerRecipe()})
    calibration = torch.randn(8, 5)
    kept = sorted(rank_channels(network, (calibration,))["0"][4:])
    # Four inputs remain: eight samples give two equations for each, seven do not.
    few, enough = (thinned(network, recipe, [(calibration[:count],)]) for count in (7, 8))
    assert torch.equal(few[2].weight, network[2].weight[:, kept])
    assert not torch.equal(enough[2].weight, network[2].weight[:, kept])


def test_a_layer_that_runs_twice_keeps_its_weights():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared = nn.Linear(4, 6), nn.Linear(6, 6)

        def forward(self, values):
            return self.shared(torch.relu(self.shared(torch.relu(self.first(values)))))

    torch.manual_seed(0)
    network = Twice().eval()
    recipe = Recipe({"first": LayerRecipe(Sparsify(0.5, reconstruct=True)), "shared": LayerRecipe()})
    inputs = torch.randn(64, 4)
    graph = trace(network, (inputs,))
    removed = {("shared", "in"): {0}}
    model = reconstruct(copy.deepcopy(network), network, graph, recipe, removed, [(inputs,)], Store(0))
    assert torch.equal(model.shared.weight, network.shared.weight)

from types import SimpleNamespace

import pytest
import torch
from gulliver.compressors.compress import compress
from gulliver.compressors.criteria import CRITERIA, group_sparsify
from gulliver.compressors.sparsify import rank_channels
from gulliver.spaces import recipe as recipes
from gulliver.spaces.recipe import LayerRecipe, Recipe, Sparsify
from gulliver.spaces.trace import trace
from gulliver.tasks.errors import InputError
from torch import nn

IMAGES = (torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)


def ranking_of(criterion, network, inputs, **said):
    example_inputs = tuple(it[:1] for it in inputs)
    task = SimpleNamespace(name="ranked", model=network, example_inputs=example_inputs, calibration=list, **said)
    return CRITERIA[criterion](task, trace(network, example_inputs), [inputs])


def test_every_criterion_that_a_recipe_may_name_is_known():
    assert tuple(CRITERIA) == recipes.CRITERIA


@pytest.mark.parametrize("criterion", list(CRITERIA))
@pytest.mark.parametrize("network", ["convolutions", "residual", "concatenation"])
def test_every_criterion_ranks_every_channel_of_every_group_once(network, criterion, originals):
    original = originals[network]
    ranking = CRITERIA[criterion](original.task, original.graph, original.calibration)
    for group in original.graph.channel_groups:
        assert sorted(ranking[group.name]) == list(range(group.channels))


def test_batch_norm_scales_rank_by_their_absolute_values():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([0.5, -2.0, 0.1, -0.3]))
    assert ranking_of("batch_norm_scale", network, IMAGES)["0"] == (2, 3, 0, 1)


def test_channels_without_a_batch_norm_are_ranked_by_magnitude():
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3)).eval()
    expected = rank_channels(network, tuple(it[:1] for it in IMAGES))
    assert ranking_of("batch_norm_scale", network, IMAGES)["0"] == expected["0"]


@pytest.fixture
def classifier():
    """A network whose hidden channel 0 is large and never active, and whose channel 1 adds alike to all classes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        network[0].weight[0] = 100
        network[0].bias[0] = -1e6
        network[2].weight[:, 0] = 100
        network[0].bias[1] = 50
        network[2].weight[:, 1] = 3
        network[0].bias[2:] = 2
    return network


def test_what_changes_no_output_is_least_important_however_large_its_weights(classifier):
    inputs = (torch.randn(64, 6),)
    assert ranking_of("magnitude", classifier, inputs)["0"][-1] == 0
    assert ranking_of("taylor", classifier, inputs)["0"][0] == 0
    assert ranking_of("fisher", classifier, inputs)["0"][0] == 0


def test_only_the_first_order_change_of_a_whole_channel_sees_that_all_classes_gain_alike(classifier):
    inputs = (torch.randn(64, 6),)
    assert set(ranking_of("taylor", classifier, inputs)["0"][:2]) == {0, 1}
    assert ranking_of("fisher", classifier, inputs)["0"][-1] == 1


def test_taylor_ranks_as_the_distance_to_the_original_that_each_removal_makes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        # Small enough for the second-order expansion, far enough from each other for the drawn classes' noise.
        network[2].weight.copy_(0.1 * torch.tensor([[3.0], [-1], [2]]) * 2.0 ** torch.tensor([2.0, -1, 1, 0, -2]))
        network[0].bias.fill_(3)
    inputs = torch.randn(512, 6)
    distances = []
    with torch.no_grad():
        wanted = network(inputs).log_softmax(-1)
        for channel in range(5):
            weight = network[2].weight[:, channel].clone()
            network[2].weight[:, channel] = 0
            given = network(inputs).log_softmax(-1)
            distances.append(nn.functional.kl_div(given, wanted, log_target=True, reduction="batchmean"))
            network[2].weight[:, channel] = weight
    by_hand = tuple(torch.stack(distances).argsort().tolist())
    assert ranking_of("taylor", network, (inputs,))["0"] == by_hand == (4, 1, 3, 2, 0)


@pytest.mark.parametrize("outputs", [1, 3])
def test_taylor_ranks_values_as_the_squared_error_that_each_removal_makes(outputs):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, outputs)).eval()
    weight = torch.tensor([[3.0], [-1], [2]]) * 2.0 ** torch.tensor([0.0, -1, 1, 0, -2])
    # All outputs gain alike from the first channel, which to classes would be nothing.
    weight[:, 0] = 8
    with torch.no_grad():
        network[2].weight.copy_(weight[:outputs])
        network[0].bias.fill_(3)
    inputs = torch.randn(512, 6)
    read = network[:2](inputs).detach()
    squared_errors = (read.square().mean(0) * weight[:outputs].square().mean(0)).argsort()
    assert ranking_of("taylor", network, (inputs,), class_dimension=None)["0"] == tuple(squared_errors.tolist())
    assert tuple(squared_errors.tolist()) == (4, 1, 3, 2, 0)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_the_network_is_left_without_gradients_and_equal_questions_get_equal_answers(criterion, originals):
    original = originals["residual"]
    ranks = [CRITERIA[criterion](original.task, original.graph, original.calibration) for _ in range(2)]
    assert ranks[0] == ranks[1]
    assert all(parameter.grad is None for parameter in original.task.model.parameters())


def test_a_recipe_removes_the_channels_that_its_criterion_ranks_lowest(originals):
    original = originals["residual"]
    choice = Sparsify(0.5, criterion="fisher")
    names = original.graph.layers
    recipe = Recipe({name: LayerRecipe(choice if name == "block1.conv1" else None) for name in names})
    ranking = CRITERIA["fisher"](original.task, original.graph, original.calibration)
    kept = sorted(ranking["block1.conv1"][8:])
    assert original.ranking_for(recipe)["block1.conv1"] == ranking["block1.conv1"]
    assert original.ranking_for(recipe)["stem"] == original.ranking["stem"]
    scales = (original.task.model.block1.norm1.weight / 1)[kept]
    model = compress(original, recipe)
    assert model.get_submodule("block1.conv1").weight.shape[0] == 8
    thinned = original.task.model.block1.conv1.weight[kept]
    # Folding a batch norm scales each filter; the direction of each stays.
    cosine = nn.functional.cosine_similarity(model.block1.conv1.weight.flatten(1), thinned.flatten(1))
    torch.testing.assert_close(cosine, scales.sign())


def test_tied_layers_with_different_criteria_are_refused(originals):
    graph = originals["residual"].graph
    group = graph.group_of("stem")
    layers = {name: LayerRecipe(Sparsify(0.5)) for name in graph.layers}
    layers["stem"] = LayerRecipe(Sparsify(0.5, criterion="taylor"))
    with pytest.raises(InputError, match=r"must have one criterion .*stem has criterion=taylor, reconstruct=False"):
        group_sparsify(group, Recipe(layers))

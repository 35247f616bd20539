import copy
from dataclasses import replace

import pytest
import torch
from gulliver.compressors import semi_structured
from gulliver.compressors.compress import compress
from gulliver.compressors.finetune import Recovery
from gulliver.compressors.second_order import halve_rows
from gulliver.compressors.semi_structured import sparsify_in_fours
from gulliver.compressors.store import Store
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import channels_after
from gulliver.tasks.errors import InputError
from torch import nn

FOURS = Sparsify(0.5, "2:4")


@pytest.mark.parametrize(
    ("make_layer", "shape"),
    [
        (lambda: nn.Linear(16, 5), (64, 16)),
        (lambda: nn.Conv2d(8, 6, 3, padding=1), (8, 8, 6, 6)),
        (lambda: nn.Conv2d(8, 6, 3, 2, groups=2), (8, 8, 7, 7)),
        (lambda: nn.Conv1d(8, 6, 3, dilation=2), (16, 8, 12)),
    ],
    ids=["linear", "conv2d", "grouped", "conv1d"],
)
def test_two_of_every_four_input_channels_are_zero_and_outputs_stay_near(make_layer, shape):
    # Weights are chosen one after the other, so that a single random layer may come out worse than by magnitude.
    errors = [errors_of_fours(make_layer, shape, seed) for seed in range(8)]
    assert sum(solved for solved, _ in errors) < 0.9 * sum(by_magnitude for _, by_magnitude in errors)


def errors_of_fours(make_layer, shape, seed):
    """Return the squared errors of a layer's outputs with two of every four inputs, solved and by magnitude."""
    torch.manual_seed(seed)
    layer, inputs = make_layer(), torch.randn(shape) + 1
    network = nn.Sequential(copy.deepcopy(layer))
    sparsify_in_fours(network, copy.deepcopy(network), Recipe({"0": LayerRecipe(FOURS)}), {}, [(inputs,)], Store(0))
    weight = network[0].weight.detach().flatten(2) if network[0].weight.dim() > 2 else network[0].weight[..., None]
    fours = weight.reshape(len(weight), -1, 4, weight.shape[-1])
    assert ((fours != 0).sum(2) == 2).all()
    with torch.no_grad():
        wanted, by_magnitude = layer(inputs), copy.deepcopy(layer)
        whole = layer.weight.reshape(len(weight), -1, 4, weight.shape[-1])
        threshold = whole.abs().topk(2, 2).values[:, :, -1:]
        by_magnitude.weight.copy_(whole.masked_fill(whole.abs() < threshold, 0).reshape(layer.weight.shape))
        return [float((it(inputs) - wanted).square().sum()) for it in (network, by_magnitude)]


def test_channels_that_do_not_come_in_fours_are_refused_by_name():
    network, recipe = nn.Sequential(nn.Linear(6, 4)), Recipe({"0": LayerRecipe(FOURS)})
    with pytest.raises(
        InputError, match=r"^0 cannot have kind='2:4': input channels must come in fours, but it reads 6$"
    ):
        sparsify_in_fours(network, network, recipe, {}, [(torch.ones(1, 6),)], Store(0))


def test_no_channel_is_removed_and_zeros_outlast_learning_and_rounding(originals):
    original = originals["residual"]
    names = original.graph.layers
    choice = {
        name: LayerRecipe(FOURS if name.endswith("conv2") else None, None, Quantize(4, 8, rounding="gptq"))
        for name in names
    }
    recipe = Recipe(choice)
    assert channels_after(original.graph, recipe) == channels_after(
        original.graph, Recipe(dict.fromkeys(names, LayerRecipe()))
    )
    model = compress(original, recipe, recovery=Recovery(steps=5))
    for name in ("block1.conv2", "block2.conv2"):
        weight = model.get_submodule(f"{name}.layer").weight
        assert ((weight.reshape(len(weight), -1, 4, 9) != 0).sum(2) <= 2).all()


def test_a_criterion_that_only_channels_have_leaves_a_layer_in_fours():
    network, inputs = nn.Sequential(nn.Linear(8, 4)), torch.randn(16, 8)
    recipe = Recipe({"0": LayerRecipe(Sparsify(0.5, "2:4", criterion="taylor", reconstruct=True))})
    sparsify_in_fours(network, copy.deepcopy(network), recipe, {}, [(inputs,)], Store(0))
    assert ((network[0].weight.reshape(4, 2, 4) != 0).sum(-1) == 2).all()


def test_input_channels_that_are_gone_have_no_part_in_what_is_made_good():
    # Of two groups of eight, each has lost its last four.
    torch.manual_seed(0)
    inputs, kept = torch.randn(8, 16, 5, 5), [0, 1, 2, 3, 8, 9, 10, 11]
    whole, thin = nn.Conv2d(16, 6, 3, groups=2), nn.Conv2d(8, 6, 3, groups=2)
    thin.weight.data = whole.weight.data[:, :4].clone()
    recipe = Recipe({"0": LayerRecipe(FOURS)})
    of_part, of_thin = (nn.Sequential(copy.deepcopy(thin)) for _ in range(2))
    lost = {("0", "in"): set(range(16)) - {*kept}}
    sparsify_in_fours(of_part, nn.Sequential(whole), recipe, lost, [(inputs,)], Store(0))
    sparsify_in_fours(of_thin, nn.Sequential(thin), recipe, {}, [(inputs[:, kept],)], Store(0))
    torch.testing.assert_close(of_part[0].weight, of_thin[0].weight)


def test_weights_are_halved_once_for_all_recipes_with_the_same_inputs(originals, monkeypatch):
    original = replace(originals["residual"])
    runs = []
    monkeypatch.setattr(semi_structured, "halve_rows", lambda *given: runs.append(1) or halve_rows(*given))
    first, second = (
        {name: LayerRecipe(FOURS) for name in it} for it in (["block1.conv1"], ["block1.conv1", "block2.conv2"])
    )
    untouched = dict.fromkeys(original.graph.layers, LayerRecipe())
    compress(original, Recipe(untouched | first))
    assert len(runs) == 1
    compress(original, Recipe(untouched | second))
    assert len(runs) == 2
    compress(original, Recipe(untouched | first), calibration=original.calibration[:1])
    assert len(runs) == 3

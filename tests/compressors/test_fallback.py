from dataclasses import replace

import pytest
import torch
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import compress
from gulliver.compressors.fallback import applicable
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.trace import trace
from gulliver.tasks.errors import InputError
from torch import nn

FOURS = Sparsify(0.5, "2:4")
HALF = Sparsify(0.5)


def read(network, shape=(1, 6, 8, 8)):
    network = network.eval()
    return network, trace(network, (torch.zeros(shape),))


@pytest.fixture(scope="module")
def mixed():
    """Return a network of a plain, a depthwise, a grouped and a 1 x 1 convolution and a linear layer, and its graph."""
    return read(
        nn.Sequential(
            *[nn.Conv2d(6, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU()],
            *[nn.Conv2d(12, 8, 1, groups=2), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(128, 5)],
        )
    )


def everywhere(graph, choice, **others):
    choices = {name.strip("_"): it for name, it in others.items()}
    return Recipe(dict.fromkeys(graph.layers, choice) | choices)


def left(recipe, model_and_graph):
    return applicable(recipe, *model_and_graph)


def test_a_recipe_that_every_layer_can_take_comes_back_as_it_is(mixed):
    recipe = everywhere(mixed[1], LayerRecipe(quantize=Quantize()))
    given, reasons = left(recipe, mixed)
    assert given is recipe
    assert reasons == {}


def test_channels_that_cannot_be_removed_stay_and_the_layer_keeps_its_other_slots(mixed):
    choice = LayerRecipe(HALF, None, Quantize())
    recipe, reasons = left(everywhere(mixed[1], choice), mixed)
    kept = LayerRecipe(None, None, Quantize())
    # What is before the grouped convolution feeds it, and what it gives is its own; the linear layer is the output.
    wanted = {"0": kept, "2": kept, "4": kept, "6": choice, "8": kept}
    assert dict(recipe.layers) == wanted
    assert reasons["8"] == "no channels are removed: of its group, its channels are the network's outputs"
    assert reasons["2"] == "no channels are removed: of its group, 4 is a grouped convolution"
    assert recipe.layers["8"].fallback == reasons["8"]


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("svd", {"2", "4"}), ("channel_svd", {"2", "4"}), ("tucker2", {"2", "4", "8"})],
)
def test_layers_that_cannot_be_split_stay_whole(kind, refused, mixed):
    recipe, reasons = left(everywhere(mixed[1], LayerRecipe(None, Decompose(3, kind), Quantize())), mixed)
    assert reasons.keys() == refused
    assert {name for name, choice in recipe.layers.items() if choice.decompose is None} == refused
    assert all(choice.quantize for choice in recipe.layers.values())
    assert reasons["2"].startswith("not decomposed: only ")


def test_input_channels_that_do_not_come_in_fours_stay_dense(mixed):
    recipe, reasons = left(everywhere(mixed[1], LayerRecipe(FOURS)), mixed)
    # They read 6, 1 (depthwise), 12 / 2, 8 and 128 channels.
    assert {name for name, choice in recipe.layers.items() if choice.sparsify} == {"6", "8"}
    assert reasons["4"] == "no weights are removed: input channels must come in fours, but it reads 6"
    assert reasons["2"].endswith("but it reads 1")


def test_input_channels_are_counted_after_removals():
    network = read(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), (1, 6))
    for kept, dense in ((8, False), (6, True)):
        recipe, reasons = left(Recipe({"0": LayerRecipe(Sparsify(1 - kept / 16)), "2": LayerRecipe(FOURS)}), network)
        assert (recipe.layers["2"].sparsify is None) is dense
        assert ("2" in reasons) is dense


@pytest.mark.parametrize(
    ("size", "rank", "quantized"),
    [(16, None, {"8"}), (3, None, set()), (16, 4, set()), (4, 4, {"8"}), (5, 9, {"8"})],
)
def test_weights_that_cannot_be_grouped_are_not_quantized(size, rank, quantized):
    network = read(nn.Sequential(nn.Conv2d(4, 4, 8), nn.Flatten(), nn.Linear(4, 80), nn.Linear(80, 5)), (1, 4, 8, 8))
    split = Decompose(rank) if rank else None
    recipe = Recipe(
        {"0": LayerRecipe(), "2": LayerRecipe(), "3": LayerRecipe(None, split, Quantize(4, 8, group_size=size))}
    )
    given, reasons = left(recipe, network)
    # A split of 80 x 5 has at most 5 channels between its halves, whatever its rank.
    assert ({"8"} if given.layers["3"].quantize else set()) == quantized
    assert bool(reasons) is not bool(quantized)


def test_convolutions_whose_weights_are_to_be_grouped_stay_in_floating_point(mixed):
    recipe, reasons = left(everywhere(mixed[1], LayerRecipe(quantize=Quantize(4, 8, group_size=4))), mixed)
    assert {name for name, choice in recipe.layers.items() if choice.quantize} == {"8"}
    wanted = "not quantized: weights cannot be in groups of 4: it is a conv2d layer that reads 8 inputs"
    assert reasons["6"] == recipe.layers["6"].fallback == wanted


def test_a_layer_with_no_neighbour_is_not_equalized_but_quantized(mixed):
    recipe, reasons = left(everywhere(mixed[1], LayerRecipe(quantize=Quantize(equalize=True))), mixed)
    # The first has none before it, the grouped one shares inputs, SiLU and flatten stand before the others.
    assert {name for name, choice in recipe.layers.items() if choice.quantize.equalize} == {"2"}
    assert reasons["6"] == "not equalized: no layer is alone before it, with only ReLUs between"
    split = everywhere(mixed[1], LayerRecipe(), _6=LayerRecipe(None, Decompose(3), Quantize(equalize=True)))
    assert left(split, mixed) == (split, {})


def test_a_criterion_without_scores_gives_way_to_magnitude_in_the_whole_group(originals):
    original = originals["residual"]
    choice = LayerRecipe(Sparsify(0.5, criterion="batch_norm_scale"))
    # The stem has no batch norm, but is tied to a layer that has one; alone it has none.
    layers = original.graph.group_of("stem").layers
    assert layers == ("stem", "block1.conv2")
    recipe = Recipe(dict.fromkeys(original.graph.layers, LayerRecipe()) | dict.fromkeys(layers, choice))
    assert original.applicable(recipe) == (recipe, {})
    network = read(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), (1, 6))
    asked = Sparsify(0.5, criterion="batch_norm_scale", reconstruct=True)
    given, reasons = left(Recipe({"0": LayerRecipe(asked), "2": LayerRecipe()}), network)
    assert given.layers["0"].sparsify == replace(asked, criterion="magnitude")
    assert reasons == {"0": "channels are ranked by magnitude, not batch_norm_scale: no batch norm scales them"}


def test_several_reasons_of_a_layer_are_all_told(mixed):
    choice = LayerRecipe(FOURS, None, Quantize(4, 8, group_size=4))
    recipe, reasons = left(everywhere(mixed[1], choice), mixed)
    assert reasons["2"].count(";") == 1
    assert recipe.layers["2"] == LayerRecipe()


@pytest.mark.parametrize(
    "choice",
    [
        LayerRecipe(HALF, Decompose(3, "tucker2"), Quantize(4, 8, equalize=True)),
        LayerRecipe(FOURS, None, Quantize(4, 8, group_size=8)),
        LayerRecipe(Sparsify(0.5, criterion="batch_norm_scale"), Decompose(3)),
    ],
    ids=["tucker2", "2:4", "svd"],
)
@pytest.mark.parametrize("name", ["convolutions", "residual", "concatenation"])
def test_one_choice_for_all_layers_never_ends_the_work(name, choice, originals, images_of):
    original = originals[name]
    recipe = Recipe(dict.fromkeys(original.graph.layers, choice))
    given, reasons = original.applicable(recipe)
    assert reasons
    inputs = images_of(4, seed=6)
    with torch.no_grad():
        wanted = compress(original, given)(inputs)
        assert wanted.isfinite().all()
        assert torch.equal(compress(original, recipe)(inputs), wanted)


def test_candidates_leave_out_what_compress_does(originals, images_of):
    original = originals["convolutions"]
    recipe = Recipe(dict.fromkeys(original.graph.layers, LayerRecipe(HALF, Decompose(4), Quantize())))
    candidates, inputs = Candidates(original), images_of(4, seed=6)
    assert candidates.refusal(recipe) is None
    with torch.no_grad():
        assert torch.equal(candidates.network(recipe)(inputs), compress(original, recipe)(inputs))


def test_tied_layers_that_differ_are_still_refused(originals):
    original = originals["residual"]
    layers = dict.fromkeys(original.graph.layers, LayerRecipe())
    with pytest.raises(InputError, match=r"^layers whose channels are tied must have one ratio, but "):
        original.applicable(Recipe(layers | {"stem": LayerRecipe(HALF)}))

import itertools
from dataclasses import replace

import pytest
from gulliver.spaces.choices import RecipeChoices
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import Channels, channels_after
from gulliver.spaces.space import Space
from gulliver.tasks.errors import InputError


def recipe_of(graph, layers):
    return Recipe({name: layers.get(name, LayerRecipe()) for name in graph.layers})


def test_a_recipes_choices_are_its_layers_slots(residual):
    layers = {"conv1": LayerRecipe(Sparsify(0.5), Decompose(8), Quantize(8, 8))}
    choices = RecipeChoices(residual, recipe_of(residual, layers))
    assert choices.quantize("conv1") == Quantize(8, 8)
    assert choices.decompose("conv1") == Decompose(8)
    assert choices.quantize("conv2") is choices.decompose("conv2") is None
    assert choices.channels("conv1") == Channels(32, 24)
    # The layer behind it loses what it read.
    assert choices.channels("conv2") == Channels(24, 32)
    assert choices.channels("linear") == Channels(32, 10)


def test_tied_layers_that_differ_are_refused_when_their_channels_are_asked_for(residual):
    choices = RecipeChoices(residual, recipe_of(residual, {"stem": LayerRecipe(Sparsify(0.5))}))
    assert choices.quantize("stem") is None
    with pytest.raises(InputError, match=r"must have one ratio, but stem has ratio=0\.5, conv2 has ratio=0\.0"):
        choices.channels("linear")


@pytest.mark.parametrize("fixture", ["plain", "residual", "mixed"])
def test_the_rungs_of_a_search_make_the_choices_of_the_recipe_that_they_decode_to(fixture, request, cpu):
    space = Space(request.getfixturevalue(fixture), replace(cpu, sparse_2_4=((8, 8),)))
    for first, step in itertools.product(range(2), range(1, 4)):
        rungs = {it.name: (first + step * index) % it.rungs for index, it in enumerate(space.dimensions)}
        recipe = space.decode(rungs)
        by_rungs, by_recipe = space.choices(rungs), RecipeChoices(space.graph, recipe)
        for layer in space.graph.layers:
            assert by_rungs.quantize(layer) == by_recipe.quantize(layer)
            assert by_rungs.decompose(layer) == by_recipe.decompose(layer)
            assert by_rungs.is_semi_structured(layer) == by_recipe.is_semi_structured(layer)
            assert by_rungs.channels(layer) == by_recipe.channels(layer) == channels_after(space.graph, recipe)[layer]
            assert by_rungs.outputs(layer) == by_recipe.outputs(layer) == by_recipe.channels(layer).outputs

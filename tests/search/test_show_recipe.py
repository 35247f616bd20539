from gulliver.search.show_recipe import show_recipe
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify


def test_a_line_says_what_happens_to_a_layer_kinds_and_calibrators_where_they_are_not_the_usual_ones():
    layers = {
        "conv1": LayerRecipe(Sparsify(0.5), Decompose(16), Quantize(4, 8)),
        "conv2": LayerRecipe(None, Decompose(8, "tucker2"), Quantize(8, 8, "mse")),
        "linear": LayerRecipe(fallback="the search chose bfloat16"),
    }
    recipe = Recipe(layers)
    assert show_recipe(recipe).splitlines() == [
        f"recipe {recipe.key}",
        "",
        "layer    removed       rank   weights    inputs  fallback",
        "conv1        50%         16      int4      int8",
        "conv2          -  tucker2 8      int8  int8 mse",
        "linear         -          -     float     float  the search chose bfloat16",
    ]

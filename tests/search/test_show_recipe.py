import re

import pytest
from gulliver.search.show_recipe import show_recipe
from gulliver.spaces.recipe import Decompose, Finetune, FoundFor, LayerRecipe, Quantize, Recipe, Sparsify


def test_a_line_says_what_happens_to_a_layer_and_why_it_stays_in_floating_point():
    layers = {
        "conv1": LayerRecipe(Sparsify(0.5), Decompose(16), Quantize(4, 8)),
        "conv2": LayerRecipe(None, Decompose(8, "tucker2"), Quantize(8, 8, "mse")),
        "linear": LayerRecipe(fallback="the search chose bfloat16"),
    }
    recipe = Recipe(layers)
    assert show_recipe(recipe).splitlines() == [
        f"recipe {recipe.key}",
        "",
        "layer   sparsity       rank   weights    inputs  fallback",
        "conv1        50%         16      int4      int8",
        "conv2          -  tucker2 8      int8  int8 mse",
        "linear         -          -     float     float  the search chose bfloat16",
    ]


def test_above_the_layers_stands_what_the_recipe_was_found_for():
    found_for = FoundFor("f00d", "digits", "cpu", 0, {"torch": "2.13"}, {"trial": 7}, {"latency_ms": 1.23456789}, {})
    recipe = Recipe({"layer": LayerRecipe()}, Finetune(2, optimizer="sgd"), found_for)
    assert show_recipe(recipe).splitlines()[1:-3] == [
        "  network    f00d",
        "  task       digits",
        "  target     cpu",
        "  seed       0",
        "  settings   trial 7",
        "  predicted  latency_ms 1.23457",
        "  versions   torch 2.13",
        "  finetune   epochs 2, learning_rate 0.15, temperature 4, batches_per_epoch None, optimizer sgd, "
        "quantization_aware False, feature_weight 0, patience None",
    ]


@pytest.mark.parametrize(
    ("choice", "cells"),
    [
        (LayerRecipe(Sparsify(0.5, "2:4")), ["2:4 50%", "-", "float", "float"]),
        (
            LayerRecipe(Sparsify(0.3, criterion="taylor", reconstruct=True)),
            ["30% taylor reconstruct", "-", "float", "float"],
        ),
        (LayerRecipe(None, Decompose(8, "tucker2", in_rank=4)), ["-", "tucker2 8 in_rank=4", "float", "float"]),
        (LayerRecipe(None, Decompose(8, data_aware=True)), ["-", "8 data_aware", "float", "float"]),
        (
            LayerRecipe(quantize=Quantize(4, 8, group_size=32, rounding="gptq")),
            ["-", "-", "int4 group_size=32 gptq", "float"],
        ),
        (
            LayerRecipe(quantize=Quantize(8, 8, "mse", symmetric=False, weight_scales="mse", equalize=True)),
            ["-", "-", "int8 mse equalize", "int8 mse not symmetric"],
        ),
        (
            LayerRecipe(quantize=Quantize(correct_bias=True, smooth=0.5)),
            ["-", "-", "int8 correct_bias smooth=0.5", "int8"],
        ),
    ],
)
def test_kinds_and_settings_are_named_where_they_are_not_the_usual_ones(choice, cells):
    line = show_recipe(Recipe({"layer": choice})).splitlines()[-1]
    assert re.split(" {2,}", line) == ["layer", *cells]

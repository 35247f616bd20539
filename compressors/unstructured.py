"""Unstructured sparsity: a share of the weights is zero, wherever they are, the others making good what that costs."""

from collections.abc import Sequence

import torch
from gulliver.compressors.layer_inputs import input_products, weight_matrix
from gulliver.compressors.second_order import zero_rows
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.protocol import Inputs
from torch import nn


def sparsify_anywhere(model: nn.Module, recipe: Recipe, calibration: Sequence[Inputs]) -> nn.Module:
    """Zero in place the recipe's share of the weights of its layers, in each group of a convolution alike.

    Shapes stay: it is of use to kernels that skip zeros, and to files that are packed.
    """
    for name, choice in recipe.layers.items():
        if choice.sparsify is not None and choice.sparsify.kind == "unstructured":
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
            products = input_products(model, name, calibration)
            pairs = zip(weight_matrix(layer), products, strict=True)
            zeroed = torch.stack([zero_rows(*pair, choice.sparsify.ratio) for pair in pairs])
            with torch.no_grad():
                layer.weight.copy_(zeroed.reshape(layer.weight.shape))
    return model

"""2:4 sparsity: two of every four neighbouring weights are zero, which sparse matrix units skip."""

from collections.abc import Sequence

import torch
from gulliver.compressors.layer_inputs import CompressibleLayer, input_products, weight_matrix
from gulliver.compressors.second_order import halve_rows
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn

_NEIGHBOURS = 4


def sparsify_in_fours(model: nn.Module, recipe: Recipe, calibration: Sequence[Inputs]) -> nn.Module:
    """Zero in place two of every four weights of the recipe's layers, the others making good what that costs.

    Neighbours are input channels at one place of the kernel, in the order that matrix units read them.
    Raises InputError where a layer's input channels do not come in fours.
    """
    for name, choice in recipe.layers.items():
        if choice.sparsify is not None and choice.sparsify.kind == "2:4":
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
            if (reason := why_not_in_fours(layer.weight.shape[1])) is not None:
                raise InputError(f"{name} cannot have kind='2:4': {reason}")
            _halve(layer, input_products(model, name, calibration))
    return model


def why_not_in_fours(inputs: int) -> str | None:
    """Return why a layer each of whose outputs reads so many input channels cannot be 2:4, None where it can."""
    return f"input channels must come in fours, but it reads {inputs}" if inputs % _NEIGHBOURS else None


def _halve(layer: CompressibleLayer, products: Tensor) -> None:
    size = layer.weight[0].numel()
    order = torch.arange(size).reshape(layer.weight.shape[1], -1).T.flatten()
    halved = torch.empty_like(weight_matrix(layer))
    for group, rows in enumerate(weight_matrix(layer)):
        halved[group, :, order] = halve_rows(rows[:, order], products[group][order][:, order])
    with torch.no_grad():
        layer.weight.copy_(halved.reshape(layer.weight.shape))

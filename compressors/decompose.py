"""Tensor decomposition: split a layer into two thinner ones by truncated singular value decomposition."""

from dataclasses import dataclass
from typing import Any

import torch
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.errors import InputError
from torch import Tensor, nn


def decompose(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Replace in place every layer that has a rank by its two halves; return the model.

    Raises InputError, which names the layer, where a grouped convolution is to be split.
    """
    for name, choice in recipe.layers.items():
        if choice.decompose is not None:
            parent, _, child = name.rpartition(".")
            halves = split_layer(name, model.get_submodule(name), choice.decompose.rank)
            setattr(model.get_submodule(parent), child, halves)
    return model


@dataclass(frozen=True, eq=False)
class SingularValues:
    """The singular value decomposition of a layer's weights as a matrix: (m, k), (k,) and (k, n)."""

    left: Tensor
    values: Tensor
    right: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return (m, r) and (r, n) whose product is the best approximation of the matrix of rank r."""
        root = self.values[:rank].sqrt()
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]


def split_layer(name: str, layer: nn.Module, rank: int, singular: SingularValues | None = None) -> nn.Sequential:
    """Return the layer as two layers with at most `rank` channels between them.

    A kh x kw convolution becomes kh x 1 and 1 x kw (Jaderberg et al., "Speeding up Convolutional Neural
    Networks with Low Rank Expansions", 2014, scheme 2), a linear layer two linear layers (SVD). `singular` is the
    layer's `singular_values` where they are known; raises InputError as that does.
    """
    left, right = (singular or singular_values(name, layer)).factors(rank)
    if isinstance(layer, nn.Linear):
        return _split_linear(layer, left, right)
    assert isinstance(layer, nn.Conv2d)
    return _split_convolution(layer, left, right)


def singular_values(name: str, layer: nn.Module) -> SingularValues:
    """Return what is common to all ranks; raises InputError, which names the layer, for a grouped convolution."""
    if isinstance(layer, nn.Linear):
        matrix = layer.weight.detach()
    elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
        outputs, inputs, height, width = layer.weight.shape
        matrix = layer.weight.detach().permute(0, 3, 1, 2).reshape(outputs * width, inputs * height)
    else:
        raise InputError(f"{name} cannot be decomposed: only a Linear or an ungrouped Conv2d can, but it is {layer}")
    return SingularValues(*torch.linalg.svd(matrix, full_matrices=False))


def _split_linear(layer: nn.Linear, left: Tensor, right: Tensor) -> nn.Sequential:
    first = nn.Linear(layer.in_features, right.shape[0], bias=False)
    second = nn.Linear(right.shape[0], layer.out_features, bias=layer.bias is not None)
    return _with_weights(first, right, second, left, layer.bias)


def _split_convolution(layer: nn.Conv2d, left: Tensor, right: Tensor) -> nn.Sequential:
    outputs, inputs, height, width = layer.weight.shape
    channels = right.shape[0]
    vertical = nn.Conv2d(inputs, channels, (height, 1), bias=False, **_window(layer, 0))
    horizontal = nn.Conv2d(channels, outputs, (1, width), bias=layer.bias is not None, **_window(layer, 1))
    vertical_weight = right.reshape(channels, inputs, height, 1)
    horizontal_weight = left.reshape(outputs, 1, width, channels).permute(0, 3, 1, 2)
    return _with_weights(vertical, vertical_weight, horizontal, horizontal_weight, layer.bias)


def _window(layer: nn.Conv2d, dimension: int) -> dict[str, Any]:
    """Return stride, padding and dilation along one dimension, none along the other."""
    padding = layer.padding
    window: dict[str, Any] = {"padding_mode": layer.padding_mode, "padding": padding}
    if not isinstance(padding, str):
        window["padding"] = _along(dimension, padding[dimension], 0)
    window["stride"] = _along(dimension, layer.stride[dimension], 1)
    window["dilation"] = _along(dimension, layer.dilation[dimension], 1)
    return window


def _along(dimension: int, value: int, other: int) -> tuple[int, int]:
    return (value, other) if dimension == 0 else (other, value)


def _with_weights(
    first: nn.Linear | nn.Conv2d,
    first_weight: Tensor,
    second: nn.Linear | nn.Conv2d,
    second_weight: Tensor,
    bias: Tensor | None,
) -> nn.Sequential:
    with torch.no_grad():
        first.weight.copy_(first_weight)
        second.weight.copy_(second_weight)
        if bias is not None and second.bias is not None:
            second.bias.copy_(bias)
    return nn.Sequential(first, second)

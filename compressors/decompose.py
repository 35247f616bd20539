"""Tensor decomposition: split a layer into thinner ones that give nearly what it gave."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gulliver.compressors.layer_inputs import CompressibleLayer, input_products
from gulliver.spaces.recipe import Decompose, Recipe
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn

# A small share of the mean square of all inputs, so that an input that is always zero has a root to divide by.
_RIDGE = 1e-6


def decompose(model: nn.Module, recipe: Recipe, calibration: Sequence[Inputs] = ()) -> nn.Module:
    """Replace in place every layer that has a rank by its parts; return the model.

    Raises InputError, which names the layer, where it cannot be split so.
    """
    chosen = {name: choice.decompose for name, choice in recipe.layers.items() if choice.decompose is not None}
    products = {name: _products(model, name, calibration) for name, choice in chosen.items() if choice.data_aware}
    for name, choice in chosen.items():
        parent, _, child = name.rpartition(".")
        parts = split_layer(name, model.get_submodule(name), choice.rank, choice, products.get(name))
        setattr(model.get_submodule(parent), child, parts)
    return model


@dataclass(frozen=True, eq=False)
class SingularValues:
    """The singular value decomposition of a matrix: (m, k), (k,) and (k, n)."""

    left: Tensor
    values: Tensor
    right: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return (m, r) and (r, n) whose product is the best approximation of the matrix of rank r."""
        root = self.values[:rank].sqrt()
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]


def singular_values(name: str, layer: nn.Module) -> SingularValues:
    """Return what splits of the kind "svd" have in common whatever their rank; raises InputError as `split_layer`."""
    _check(name, layer, "svd")
    return _decomposed(layer.weight.detach() if isinstance(layer, nn.Linear) else _spatial_matrix(layer))


def split_by(singular: SingularValues, layer: nn.Module, rank: int) -> nn.Sequential:
    """Return what `split_layer` does by spatial SVD, from the layer's `singular_values`."""
    left, right = singular.factors(rank)
    return _split_linear(layer, left, right) if isinstance(layer, nn.Linear) else _split_convolution(layer, left, right)


def split_layer(
    name: str, layer: nn.Module, rank: int, choice: Decompose | None = None, products: Tensor | None = None
) -> nn.Sequential:
    """Return the layer as thinner layers with at most `rank` channels between them; without a choice, by spatial SVD.

    `products` (inputs, inputs) are the summed products of what the layer reads: where they are given, the error
    of the outputs is made small instead of that of the weights.
    """
    choice = Decompose(rank) if choice is None else choice
    _check(name, layer, choice.kind)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    if isinstance(layer, nn.Linear):
        return _split_linear(layer, *_factors(layer.weight.detach(), rank, products))
    return _KINDS[choice.kind](layer, choice, products)


def why_not_split(layer: nn.Module, kind: str) -> str | None:
    """Return why a layer cannot be split into this kind of parts, None where it can."""
    convolutions = (nn.Conv2d,) if kind == "svd" else (nn.Conv1d, nn.Conv2d)
    ungrouped = isinstance(layer, convolutions) and layer.groups == 1
    if ungrouped or (isinstance(layer, nn.Linear) and kind != "tucker2"):
        return None
    wanted = " or ".join(["a Linear"] * (kind != "tucker2") + [f"an ungrouped {_names(convolutions)}"])
    return f"only {wanted} can, but it is {layer}"


def _check(name: str, layer: nn.Module, kind: str) -> None:
    reason = why_not_split(layer, kind)
    if reason is not None:
        raise InputError(f"{name} cannot be decomposed: {reason}")


def _names(types: tuple[type[nn.Module], ...]) -> str:
    return " or ".join(it.__name__ for it in types)


def _products(model: nn.Module, name: str, calibration: Sequence[Inputs]) -> Tensor:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    return input_products(model, name, calibration)[0]


def _split_linear(layer: nn.Linear, left: Tensor, right: Tensor) -> nn.Sequential:
    first = nn.Linear(layer.in_features, right.shape[0], bias=False)
    second = nn.Linear(right.shape[0], layer.out_features, bias=layer.bias is not None)
    return _with_weights([(first, right), (second, left)], layer.bias)


def _spatial_matrix(layer: Any) -> Tensor:
    """Return (outputs * width, inputs * height): the weights as the product of the two halves gives them."""
    outputs, inputs, height, width = layer.weight.shape
    matrix: Tensor = layer.weight.detach().permute(0, 3, 1, 2).reshape(outputs * width, inputs * height)
    return matrix


def _split_spatially(layer: Any, choice: Decompose, products: Tensor | None) -> nn.Sequential:
    columns = None if products is None else _of_columns(products, layer)
    return _split_convolution(layer, *_factors(_spatial_matrix(layer), choice.rank, columns))


def _split_convolution(layer: Any, left: Tensor, right: Tensor) -> nn.Sequential:
    """Split a kh x kw convolution into kh x 1 and 1 x kw.

    Source: Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank Expansions", 2014, scheme 2.
    """
    outputs, inputs, height, width = layer.weight.shape
    channels = right.shape[0]
    vertical = nn.Conv2d(inputs, channels, (height, 1), bias=False, **_window(layer, 0))
    horizontal = nn.Conv2d(channels, outputs, (1, width), bias=layer.bias is not None, **_window(layer, 1))
    vertical_weight = right.reshape(channels, inputs, height, 1)
    horizontal_weight = left.reshape(outputs, 1, width, channels).permute(0, 3, 1, 2)
    return _with_weights([(vertical, vertical_weight), (horizontal, horizontal_weight)], layer.bias)


def _split_channels(layer: Any, choice: Decompose, products: Tensor | None) -> nn.Sequential:
    """Split a convolution into one of the same kernel with `rank` outputs, and a 1 x 1.

    Source: Zhang et al., "Accelerating Very Deep Convolutional Networks", 2016, section 3.1.
    """
    left, right = _factors(layer.weight.detach().flatten(1), choice.rank, products)
    rank, one = right.shape[0], [1] * (layer.weight.dim() - 2)
    wide = _convolution(layer, layer.in_channels, rank, whole=True)
    narrow = _convolution(layer, rank, layer.out_channels, whole=False, bias=layer.bias is not None)
    weights = right.reshape(rank, *layer.weight.shape[1:]), left.reshape(*left.shape, *one)
    return _with_weights([(wide, weights[0]), (narrow, weights[1])], layer.bias)


def _split_by_tucker(layer: Any, choice: Decompose, products: Tensor | None) -> nn.Sequential:
    """Split a convolution into a 1 x 1 that thins its inputs, a core of the same kernel, and a 1 x 1.

    Source: Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
    ICLR 2016, equation 2; the factors are those of the higher-order SVD.
    """
    weight = layer.weight.detach()
    outputs = _leading(weight.flatten(1), choice.rank)
    inputs = _leading(weight.transpose(0, 1).flatten(1), choice.in_rank or choice.rank)
    core = torch.einsum("oi...,or,is->rs...", weight, outputs, inputs)
    one = [1] * (weight.dim() - 2)
    thin = _convolution(layer, layer.in_channels, inputs.shape[1], whole=False)
    middle = _convolution(layer, inputs.shape[1], outputs.shape[1], whole=True)
    widen = _convolution(layer, outputs.shape[1], layer.out_channels, whole=False, bias=layer.bias is not None)
    first, last = inputs.T.reshape(-1, len(inputs), *one), outputs.reshape(*outputs.shape, *one)
    return _with_weights([(thin, first), (middle, core), (widen, last)], layer.bias)


_KINDS: Mapping[str, Callable[[Any, Decompose, Tensor | None], nn.Sequential]] = {
    "svd": _split_spatially,
    "channel_svd": _split_channels,
    "tucker2": _split_by_tucker,
}


def _factors(matrix: Tensor, rank: int, products: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (m, r) and (r, n) whose product is the best approximation of the (m, n) matrix of rank r.

    With products X @ X.T of what it is multiplied by, that of matrix @ X: the SVD of matrix @ root, the root of
    the products taken back from the right factor.
    """
    root, inverse = (None, None) if products is None else _roots(products)
    left, thin = _decomposed(matrix if root is None else matrix @ root).factors(rank)
    return left, thin if inverse is None else thin @ inverse


def _decomposed(matrix: Tensor) -> SingularValues:
    return SingularValues(*torch.linalg.svd(matrix, full_matrices=False))


def _roots(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of the products and its inverse."""
    mean = products.diagonal().mean().clamp_min(1e-12)
    values, vectors = torch.linalg.eigh(products / mean + _RIDGE * torch.eye(len(products), dtype=products.dtype))
    root = values.clamp_min(_RIDGE).sqrt()
    return ((vectors * root) @ vectors.T).float(), ((vectors / root) @ vectors.T).float()


def _of_columns(products: Tensor, layer: nn.Conv2d) -> Tensor:
    """Return (inputs * height, inputs * height): the products within one column of the kernel, summed over columns."""
    _, inputs, height, width = layer.weight.shape
    split = products.reshape(inputs * height, width, inputs * height, width)
    summed: Tensor = torch.einsum("axbx->ab", split)
    return summed


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """Return (m, r): the first left singular vectors."""
    left: Tensor = torch.linalg.svd(matrix, full_matrices=False)[0]
    return left[:, :rank]


def _convolution(layer: Any, inputs: int, outputs: int, whole: bool, bias: bool = False) -> Any:
    """Return a convolution of the layer's kernel, stride, padding and dilation, or a 1 x 1."""
    if not whole:
        return type(layer)(inputs, outputs, 1, bias=bias)
    window = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "padding_mode")}
    return type(layer)(inputs, outputs, layer.kernel_size, bias=bias, **window)


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


def _with_weights(parts: Sequence[tuple[CompressibleLayer, Tensor]], bias: Tensor | None) -> nn.Sequential:
    """Return the parts in a row with their weights; the last has the bias."""
    with torch.no_grad():
        for part, weight in parts:
            part.weight.copy_(weight)
        last = parts[-1][0]
        if bias is not None and last.bias is not None:
            last.bias.copy_(bias)
    return nn.Sequential(*(part for part, _ in parts))

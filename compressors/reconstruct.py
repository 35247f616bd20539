"""Reconstruction: after channels are removed, the layers that read the others learn to give what they gave.

Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, equation 5: linear least
squares of each layer's outputs in the original network on its inputs in the thinned one.
"""

from collections.abc import Collection, Iterable, Mapping

import torch
from gulliver.compressors.criteria import group_sparsify
from gulliver.compressors.layer_inputs import CompressibleLayer, calls_of, outputs_as_rows, patches, weight_matrix
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn

# Share of the inputs' mean square that draws the weights to those that were kept.
_RIDGE = 1e-3


def reconstruct(
    model: nn.Module,
    original: nn.Module,
    graph: LayerGraph,
    recipe: Recipe,
    removed: Mapping[tuple[str, str], Collection[int]],
    calibration: Iterable[Inputs],
) -> nn.Module:
    """Solve in place, in order of execution, the layers that read channels which the recipe removes and reconstructs.

    `removed` gives the indices that each (layer, side) of the model has lost to the original.
    """
    chosen = {
        coupling.module
        for group in graph.channel_groups
        if group_sparsify(group, recipe).reconstruct
        for coupling in group.couplings
        if removed.get((coupling.module, "in"))
    }
    for name in graph.layers:
        if name in chosen:
            gone = removed.get((name, "out"), ())
            kept = [index for index in range(graph.layers[name].out_channels) if index not in gone]
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
            _solve(layer, *_normal_equations(model, original, name, layer, kept, calibration))
    return model


def _normal_equations(
    model: nn.Module,
    original: nn.Module,
    name: str,
    layer: CompressibleLayer,
    kept: list[int],
    calibration: Iterable[Inputs],
) -> tuple[Tensor, Tensor]:
    """Return (inputs, inputs) and (inputs, outputs): the products of what is read with itself and with what is wanted.

    A last input that is always one stands for the bias, where the layer has one.
    """
    size = layer.weight[0].numel() + (layer.bias is not None)
    squares = torch.zeros(size, size, dtype=torch.float64)
    products = torch.zeros(size, len(kept), dtype=torch.float64)
    pairs = zip(calls_of(model, name, calibration), calls_of(original, name, calibration), strict=True)
    for (values, _), (_, outputs) in pairs:
        read = patches(layer, values)[0]
        if layer.bias is not None:
            read = torch.cat([read, torch.ones(len(read), 1)], 1)
        wanted = outputs_as_rows(layer, outputs)[:, kept]
        squares += read.T @ read
        products += read.T @ wanted
    return squares, products


def _solve(layer: CompressibleLayer, squares: Tensor, products: Tensor) -> None:
    weights = weight_matrix(layer)[0]
    if layer.bias is not None:
        weights = torch.cat([weights, layer.bias.detach()[:, None]], 1)
    ridge = _RIDGE * squares.diagonal().mean()
    # An input that is always zero needs the ridge even where all are.
    stable = squares + ridge.clamp_min(1e-12) * torch.eye(len(squares), dtype=squares.dtype)
    solved = torch.linalg.solve(stable, products + ridge * weights.T.double()).T.float()
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias.copy_(solved[:, -1])
            solved = solved[:, :-1]
        layer.weight.copy_(solved.reshape(layer.weight.shape))

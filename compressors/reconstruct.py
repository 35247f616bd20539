"""Reconstruction: after channels are removed, the layers that read the others learn to give what they gave.

Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, equation 5: linear least
squares of each layer's outputs in the original network on its inputs in the thinned one, at a sample of its positions.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from gulliver.compressors.criteria import group_sparsify
from gulliver.compressors.layer_inputs import CompressibleLayer, outputs_as_rows, patches, weight_matrix
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn

# Share of the inputs' mean square that draws the weights to those that were kept.
_RIDGE = 1e-3
# Equations for each unknown, and the least number of samples that they are spread over.
_EQUATIONS = 32
_SAMPLES = 128

Removed = Mapping[tuple[str, str], Collection[int]]


def reconstruct(
    model: nn.Module,
    original: nn.Module,
    graph: LayerGraph,
    recipe: Recipe,
    removed: Removed,
    calibration: Iterable[Inputs],
) -> nn.Module:
    """Solve in place, in order of execution, the layers that read channels which the recipe removes and reconstructs.

    `removed` gives the indices that each (layer, side) of the model has lost to the original. Calibration inputs of
    another shape than the first are not used. A layer that runs more than once keeps its weights.
    """
    chosen = _readers(graph, recipe, removed)
    if not chosen:
        return model
    inputs = _joined(calibration)
    wanted = _outputs(original, chosen, inputs)

    def solve(name: str, layer: CompressibleLayer, values: Tensor) -> None:
        if len(wanted[name]) == 1:
            kept = [at for at in range(graph.layers[name].out_channels) if at not in removed.get((name, "out"), ())]
            _solve(layer, *_equations(layer, values, wanted[name].pop(), kept))

    # Solved just before it runs, a layer's own outputs are those that the next one is solved for.
    with torch.no_grad(), _before_each(model, chosen, solve):
        model(*inputs)
    return model


def _readers(graph: LayerGraph, recipe: Recipe, removed: Removed) -> set[str]:
    """Return the layers whose inputs lose channels of a group that is to be reconstructed."""
    return {
        coupling.module
        for group in graph.channel_groups
        if group_sparsify(group, recipe).reconstruct
        for coupling in group.couplings
        if coupling.module in graph.layers and removed.get((coupling.module, "in"))
    }


def _joined(calibration: Iterable[Inputs]) -> Inputs:
    batches = [*calibration]
    shapes = [tuple(tensor.shape[1:] for tensor in inputs) for inputs in batches]
    alike = [inputs for inputs, shape in zip(batches, shapes, strict=True) if shape == shapes[0]]
    return tuple(torch.cat(tensors) for tensors in zip(*alike, strict=True))


def _outputs(original: nn.Module, names: Collection[str], inputs: Inputs) -> dict[str, list[Tensor]]:
    """Return what every call of each layer gives."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    layers = {original.get_submodule(name): name for name in names}

    def keep(layer: nn.Module, _: Any, outputs: Tensor) -> None:
        found[layers[layer]].append(outputs)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            original(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _before_each(model: nn.Module, names: Collection[str], act: Any) -> Iterator[None]:
    """Call `act` with the name, the layer and its input before each of these layers runs."""
    layers = {model.get_submodule(name): name for name in names}

    def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        act(layers[layer], layer, inputs[0])

    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _equations(layer: CompressibleLayer, values: Tensor, outputs: Tensor, kept: list[int]) -> tuple[Tensor, Tensor]:
    """Return (inputs, inputs) and (inputs, outputs): the products of what is read with itself and with what is wanted.

    A last input that is always one stands for the bias, where the layer has one.
    """
    unknowns = layer.weight[0].numel() + (layer.bias is not None)
    positions = len(outputs_as_rows(layer, outputs[:1]))
    needed = max(_SAMPLES, -(-_EQUATIONS * unknowns // positions))
    samples = slice(None, None, max(1, len(values) // needed))
    read, wanted = patches(layer, values[samples])[0], outputs_as_rows(layer, outputs[samples])[:, kept]
    rows = slice(None, None, max(1, len(read) // (_EQUATIONS * unknowns)))
    read, wanted = read[rows], wanted[rows]
    if layer.bias is not None:
        read = torch.cat([read, torch.ones(len(read), 1)], 1)
    return (read.T @ read).double(), (read.T @ wanted).double()


def _solve(layer: CompressibleLayer, squares: Tensor, products: Tensor) -> None:
    weights = weight_matrix(layer)[0]
    if layer.bias is not None:
        weights = torch.cat([weights, layer.bias.detach()[:, None]], 1)
    ridge = _RIDGE * squares.diagonal().mean()
    # An input that is always zero needs the ridge even where all are.
    stable = squares + ridge.clamp_min(1e-12) * torch.eye(len(squares), dtype=squares.dtype)
    solved = torch.linalg.solve(stable, products + ridge * weights.T.double()).T.float()
    if layer.bias is not None:
        layer.bias.copy_(solved[:, -1])
        solved = solved[:, :-1]
    layer.weight.copy_(solved.reshape(layer.weight.shape))

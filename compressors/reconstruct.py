"""Reconstruction: after channels are removed, the layers that read the others learn to give what they gave.

Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, equation 5: linear least
squares of each layer's outputs in the original network on its inputs in the thinned one, at a sample of its positions.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from gulliver.compressors.criteria import group_sparsify
from gulliver.compressors.layer_inputs import CompressibleLayer, outputs_as_rows, patches, weight_matrix
from gulliver.compressors.store import Store
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.protocol import Inputs
from torch import Tensor, nn

# Share of the inputs' mean square that draws the weights to those that were kept.
_RIDGE = 1e-3
# Equations for each unknown: so many are enough, with fewer than these a layer is not solved.
_EQUATIONS = 32
_LEAST_EQUATIONS = 2
# The least number of samples that the equations are spread over, and the most that are run.
_LEAST_SAMPLES = 128
_MOST_SAMPLES = 512

Removed = Mapping[tuple[str, str], Collection[int]]


@dataclass(frozen=True)
class _Wanted:
    """Some output positions of a layer in the original network, (rows, outputs), and which these are."""

    samples: slice
    rows: slice
    outputs: Tensor


def reconstruct(
    model: nn.Module,
    original: nn.Module,
    graph: LayerGraph,
    recipe: Recipe,
    removed: Removed,
    calibration: Iterable[Inputs],
    wanted: Store,
) -> nn.Module:
    """Solve in place, in order of execution, the layers that read channels which the recipe removes and reconstructs.

    `removed` gives the indices that each (layer, side) of the model has lost to the original. Calibration inputs of
    another shape than the first are not used. A layer that runs more than once or has too few equations stays as it is.
    `wanted` keeps what the original's layers give for other recipes with these calibration inputs.
    """
    chosen = _readers(graph, recipe, removed)
    if not chosen:
        return model
    inputs = _joined(calibration)
    left = _wanted(original, chosen, inputs, wanted)

    def solve(name: str, layer: CompressibleLayer, values: Tensor) -> None:
        if len(left[name]) == 1:
            kept = [at for at in range(graph.layers[name].out_channels) if at not in removed.get((name, "out"), ())]
            _solve(layer, values, left[name].pop(), kept)

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
    return tuple(torch.cat(tensors)[:_MOST_SAMPLES] for tensors in zip(*alike, strict=True))


def _wanted(original: nn.Module, names: Collection[str], inputs: Inputs, store: Store) -> dict[str, list[_Wanted]]:
    """Return what every call of each layer gives; the original runs where some of it is not in the store."""
    wanted = {name: [*store[name]] for name in names if name in store}
    missing = [name for name in names if name not in wanted]
    found = _run(original, missing, inputs) if missing else {}
    for name in missing:
        wanted[name] = found.get(name, [])
        store.put(name, tuple(wanted[name]))
    return wanted


def _run(original: nn.Module, names: Collection[str], inputs: Inputs) -> dict[str, list[_Wanted]]:
    found: dict[str, list[_Wanted]] = defaultdict(list)
    layers = {original.get_submodule(name): name for name in names}

    def keep(layer: Any, _: Any, outputs: Tensor) -> None:
        found[layers[layer]].append(_sampled(layer, outputs))

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            original(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _sampled(layer: CompressibleLayer, outputs: Tensor) -> _Wanted:
    """Return evenly spread positions of evenly spread samples, as many as the layer's unknowns need."""
    needed = _EQUATIONS * (layer.weight[0].numel() + 1)
    positions = len(outputs_as_rows(layer, outputs[:1]))
    samples = slice(None, None, max(1, len(outputs) // max(_LEAST_SAMPLES, -(-needed // positions))))
    values = outputs_as_rows(layer, outputs[samples])
    rows = slice(None, None, max(1, len(values) // needed))
    # A copy, because the outputs of all layers together may take more memory than there is.
    return _Wanted(samples, rows, values[rows].clone())


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


def _solve(layer: CompressibleLayer, values: Tensor, wanted: _Wanted, kept: list[int]) -> None:
    """Set the layer's weights and bias to give `wanted.outputs[:, kept]` on these values, as nearly as they can."""
    weights, read = weight_matrix(layer)[0], patches(layer, values[wanted.samples])[0][wanted.rows]
    if layer.bias is not None:
        # A last input that is always one stands for the bias.
        weights = torch.cat([weights, layer.bias.detach()[:, None]], 1)
        read = torch.cat([read, torch.ones(len(read), 1)], 1)
    if len(read) < _LEAST_EQUATIONS * read.shape[1]:
        return
    squares, products = (read.T @ read).double(), (read.T @ wanted.outputs[:, kept]).double()
    ridge = _RIDGE * squares.diagonal().mean()
    # An input that is always zero needs the ridge even where all are.
    stable = squares + ridge.clamp_min(1e-12) * torch.eye(len(squares), dtype=squares.dtype)
    solved = torch.linalg.solve(stable, products + ridge * weights.T.double()).T.float()
    if layer.bias is not None:
        layer.bias.copy_(solved[:, -1])
        solved = solved[:, :-1]
    layer.weight.copy_(solved.reshape(layer.weight.shape))

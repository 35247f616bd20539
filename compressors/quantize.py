"""Quantization as it is exported: weights and activations pass through fake quantization.

Weights are on levels of their own per output channel, per group of a row or all together; activations are per tensor,
signed or shifted only where they fall below zero. Source: Krishnamoorthi, "Quantizing deep convolutional networks for
efficient inference: A whitepaper", 2018.
"""

import copy
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from gulliver.compressors.adaround import learn_rows
from gulliver.compressors.batch_norm import fold_batch_norms
from gulliver.compressors.calibrators import Grid, calibrated_range, fit_grid
from gulliver.compressors.correct_bias import correct_biases
from gulliver.compressors.equalize import equalize
from gulliver.compressors.hoist import hoist, selected_from
from gulliver.compressors.layer_inputs import calls_of, product_sums, weight_matrix
from gulliver.compressors.observe import observe_extremes, observe_histograms
from gulliver.compressors.second_order import round_rows
from gulliver.compressors.smooth import smooth
from gulliver.compressors.weight_scales import RowLevels, fit_rows
from gulliver.spaces.recipe import Quantize, Recipe
from gulliver.spaces.trace import symbolic_trace
from gulliver.tasks.errors import InputError
from torch import Tensor, fx, nn
from torch.nn import functional as F

ADDITIONS = (operator.add, operator.iadd, torch.add, "add")
IDENTITIES = (nn.Identity, nn.Dropout)


class QuantizedActivation(nn.Module):
    """Round a tensor to the integers between two levels, at one scale; what it is given it gives back, rounded."""

    def __init__(self, lowest: float, highest: float, bits: int, symmetric: bool = True) -> None:
        super().__init__()
        grid = fit_grid(lowest, highest, bits, symmetric)
        self.scale, self.zero_point = grid.scale, grid.zero_point
        self.lowest_level, self.highest_level = grid.lowest_level, grid.highest_level

    @property
    def grid(self) -> Grid:
        """The levels and what they stand for."""
        return Grid(self.scale, self.zero_point, self.lowest_level, self.highest_level)

    def forward(self, values: Tensor) -> Tensor:
        """Return the tensor of the same shape, rounded and clipped."""
        return self.grid(values)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weights are rounded, each output channel at its own scale.

    With a `group_size`, each such number of a row's weights has a scale of its own: `scales` has (outputs * groups,).
    Not `per_channel`, all of them are equal.
    """

    scales: Tensor
    zero_points: Tensor

    def __init__(self, layer: nn.Conv1d | nn.Conv2d | nn.Linear, choice: Quantize) -> None:
        super().__init__()
        self.layer = layer
        self.group_size, self.per_channel = choice.group_size, choice.per_channel
        rows = self.rows(layer.weight.detach())
        together = rows.flatten(1) if choice.per_channel else rows.reshape(1, -1)
        levels = fit_rows(together, choice.weight_bits, choice.weight_scales, choice.symmetric_weights)
        self.lowest_level, self.highest_level = levels.lowest_level, levels.highest_level
        self.register_buffer("scales", levels.scales.expand(len(rows)).clone())
        self.register_buffer("zero_points", levels.zero_points.expand(len(rows)).clone())

    @property
    def levels(self) -> RowLevels:
        """The levels of the rows and what they stand for."""
        return RowLevels(self.scales, self.zero_points, self.lowest_level, self.highest_level)

    def forward(self, values: Tensor) -> Tensor:
        """Return what the layer returns with its weights rounded."""
        return self.run(values, _rounded(self.rows(self.layer.weight), self.levels))

    def run(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return what the layer returns with these rows as its weights."""
        if self.group_size is not None:
            # In two steps: OpenVINO 2026.4 takes the scales for those of inputs where one step may look like it.
            rows = rows.reshape(self.layer.weight.shape[0], -1, self.group_size).flatten(1)
        return call_layer(self.layer, values, rows, self.layer.bias)

    def rows(self, weight: Tensor) -> Tensor:
        """Return the weights with one row for each scale."""
        return weight if self.group_size is None else weight.reshape(-1, self.group_size)


def rounded_weight(weight: Tensor, weight_bits: int) -> Tensor:
    """Return the weights as a `QuantizedLayer` rounds them that is given no more than these bits."""
    return _rounded(weight, fit_rows(weight.flatten(1), weight_bits))


def call_layer(layer: nn.Conv1d | nn.Conv2d | nn.Linear, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what the layer returns with this weight and bias in place of its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(values, weight, bias)
    result: Tensor = layer._conv_forward(values, weight, bias)
    return result


def _rounded(rows: Tensor, levels: RowLevels) -> Tensor:
    bounds = levels.lowest_level, levels.highest_level
    return torch.fake_quantize_per_channel_affine(rows, levels.scales, levels.zero_points, 0, *bounds)


def quantize(model: nn.Module, recipe: Recipe, calibration: Iterable[tuple[Tensor, ...]]) -> fx.GraphModule:
    """Return the network with batch norms folded and the recipe's layers and their inputs quantized.

    A tensor that feeds several quantized layers is rounded once, for the first of those with the most activation bits,
    and a residual addition takes the rounded tensor where there is one, so that it need not be kept in two forms.
    What only selects or joins values comes behind the rounding (hoist.py).
    Raises InputError where weights cannot be grouped as the recipe says.
    """
    traced = _without_identities(fold_batch_norms(symbolic_trace(model)))
    choices = {name: choice.quantize for name, choice in recipe.layers.items() if choice.quantize}
    chosen = {node: choice for node in traced.graph.nodes if (choice := _choice_of(node, choices, traced))}
    if not chosen:
        return traced
    calibration = tuple(calibration)
    equalize(traced, {str(node.target) for node, choice in chosen.items() if choice.equalize})
    strengths = {str(node.target): choice.smooth for node, choice in chosen.items() if choice.smooth is not None}
    smooth(traced, strengths, calibration)
    corrected = [str(node.target) for node, choice in chosen.items() if choice.correct_bias]
    exact = copy.deepcopy(traced) if corrected else traced
    _round_inputs(traced, chosen, calibration)
    for node, choice in chosen.items():
        _quantize_layer(traced, str(node.target), choice)
    hoist(traced, QuantizedActivation, lambda rounding: rounding.grid)
    _round_in_order(traced, {str(node.target): choice for node, choice in chosen.items()}, calibration)
    correct_biases(traced, exact, list(dict.fromkeys(corrected)), calibration)
    return traced


def _without_identities(traced: fx.GraphModule) -> fx.GraphModule:
    """Take out what does nothing, or an addition would not see that what it adds is rounded."""
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), IDENTITIES):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _choice_of(node: fx.Node, choices: dict[str, Quantize], traced: fx.GraphModule) -> Quantize | None:
    """Return the choice for the node's layer, or for the layer that the node's layer is a half of."""
    if node.op != "call_module":
        return None
    name = str(node.target)
    if not isinstance(traced.get_submodule(name), nn.Conv1d | nn.Conv2d | nn.Linear):
        return None
    return choices.get(name) or choices.get(name.rpartition(".")[0])


def _round_inputs(
    traced: fx.GraphModule, chosen: Mapping[fx.Node, Quantize], calibration: Sequence[tuple[Tensor, ...]]
) -> None:
    readers: dict[fx.Node, Quantize] = {}
    for node, choice in chosen.items():
        source = node.args[0]
        assert isinstance(source, fx.Node)
        # Weights in groups are run on floating-point inputs.
        if choice.group_size is None and choice.activation_bits > _bits(readers.get(source)):
            readers[source] = choice
    extremes = observe_extremes(traced, set(readers), calibration)
    beyond = {source: extremes[source] for source, choice in readers.items() if choice.calibrator != "min_max"}
    histograms = observe_histograms(traced, beyond, calibration) if beyond else {}
    ranges = dict(extremes)
    for source, histogram in histograms.items():
        ranges[source] = calibrated_range(histogram, readers[source])
    for source in beyond:
        # On one grid, the largest values need no rounding beside that of all values.
        selected = selected_from(source, traced)
        if selected in beyond and readers[selected] == readers[source]:
            ranges[source] = ranges[selected]
    rounded = {source: _insert_rounding(traced, source, *ranges[source], readers[source]) for source in readers}
    _reroute(traced, {node for node, choice in chosen.items() if choice.group_size is None}, rounded)


def _bits(choice: Quantize | None) -> int:
    return choice.activation_bits if choice else 0


def _insert_rounding(
    traced: fx.GraphModule, source: fx.Node, lowest: float, highest: float, choice: Quantize
) -> fx.Node:
    name = f"rounded_{source.name}"
    traced.add_submodule(name, QuantizedActivation(lowest, highest, choice.activation_bits, choice.symmetric))
    with traced.graph.inserting_after(source):
        return traced.graph.call_module(name, (source,))


def _reroute(traced: fx.GraphModule, quantized: set[fx.Node], rounded: dict[fx.Node, fx.Node]) -> None:
    for node in traced.graph.nodes:
        if node in quantized or node.target in ADDITIONS:
            node.args = tuple(rounded.get(argument, argument) for argument in node.args)


def _quantize_layer(traced: fx.GraphModule, name: str, choice: Quantize) -> None:
    layer = traced.get_submodule(name)
    if isinstance(layer, QuantizedLayer):
        return
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    if choice.group_size is not None:
        _check_groups(name, layer, choice.group_size)
    # What is corrected must not reach the network that was given.
    layer = copy.deepcopy(layer) if choice.correct_bias or choice.rounding != "nearest" else layer
    parent, _, child = name.rpartition(".")
    setattr(traced.get_submodule(parent), child, QuantizedLayer(layer, choice))


def _round_in_order(
    traced: fx.GraphModule, choices: Mapping[str, Quantize], calibration: Sequence[tuple[Tensor, ...]]
) -> None:
    """Round the weights of the layers that ask for it by what they read behind the layers that are rounded already."""
    for name, choice in choices.items():
        if choice.rounding != "nearest":
            quantized = traced.get_submodule(name)
            assert isinstance(quantized, QuantizedLayer)
            layer = quantized.layer
            products = product_sums(layer, (values for values, _ in calls_of(traced, name, calibration)))
            rows = weight_matrix(layer)
            rounded = ROUNDINGS[choice.rounding](rows, products, _of_each_weight(quantized.levels, rows))
            layer.weight = nn.Parameter(rounded.reshape(layer.weight.shape))


def _of_each_weight(levels: RowLevels, rows: Tensor) -> RowLevels:
    """Return the levels with scales and zero points of the rows' own shape, (groups, outputs, inputs)."""

    def spread(values: Tensor) -> Tensor:
        values = values.reshape(*rows.shape[:2], -1)
        return values.repeat_interleave(rows.shape[2] // values.shape[2], 2)

    return replace(levels, scales=spread(levels.scales), zero_points=spread(levels.zero_points))


def _compensated(rows: Tensor, products: Tensor, levels: RowLevels) -> Tensor:
    scales = zip(levels.scales, levels.zero_points, strict=True)
    each = [replace(levels, scales=of_group, zero_points=zero_points) for of_group, zero_points in scales]
    return torch.stack([round_rows(*group) for group in zip(rows, products, each, strict=True)])


# From rows (groups, outputs, inputs), the products (groups, inputs, inputs) of inputs, and levels that have scales of
# the rows' shape, to rounded rows.
ROUNDINGS: Mapping[str, Callable[[Tensor, Tensor, RowLevels], Tensor]] = {
    "gptq": _compensated,
    "adaround": learn_rows,
}


def _check_groups(name: str, layer: nn.Module, group_size: int) -> None:
    if not isinstance(layer, nn.Linear) or layer.in_features % group_size:
        raise InputError(
            f"`group_size` must divide the inputs of a Linear layer, but {name} is {layer} with group_size={group_size}"
        )

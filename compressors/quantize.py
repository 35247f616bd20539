"""Quantization as it is exported: weights and activations pass through fake quantization.

Weights are symmetric per output channel, activations per tensor, signed only where they fall below zero; the
scheme is that of Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper",
2018.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from gulliver.compressors.batch_norm import fold_batch_norms
from gulliver.spaces.recipe import Quantize, Recipe
from gulliver.spaces.trace import symbolic_trace
from torch import Tensor, fx, nn
from torch.nn import functional as F

ADDITIONS = (operator.add, operator.iadd, torch.add, "add")
IDENTITIES = (nn.Identity, nn.Dropout)
_SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True)
class Levels:
    """The integers between two levels, at one scale."""

    lowest: int
    highest: int
    scale: float

    def __call__(self, values: Tensor) -> Tensor:
        """Return the tensor of the same shape, rounded and clipped."""
        return torch.fake_quantize_per_tensor_affine(values, self.scale, 0, self.lowest, self.highest)


def levels_of(lowest: float, highest: float, bits: int) -> Levels:
    """Return the levels of so many bits that hold the range."""
    signed = lowest < 0
    # All levels, -128 too: OpenVINO moves 255 signed levels to another grid of 256, and gives other results.
    lowest_level = -(2 ** (bits - 1)) if signed else 0
    highest_level = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    below = lowest / lowest_level if signed else 0.0
    return Levels(lowest_level, highest_level, max(highest / highest_level, below, _SMALLEST_SCALE))


class QuantizedActivation(nn.Module):
    """Round a tensor to the integers between two levels, at one scale; what it is given it gives back, rounded."""

    def __init__(self, lowest: float, highest: float, bits: int) -> None:
        super().__init__()
        levels = levels_of(lowest, highest, bits)
        self.lowest_level, self.highest_level, self.scale = levels.lowest, levels.highest, levels.scale

    def forward(self, values: Tensor) -> Tensor:
        """Return the tensor of the same shape, rounded and clipped."""
        return Levels(self.lowest_level, self.highest_level, self.scale)(values)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weights are rounded, each output channel at its own scale."""

    scales: Tensor
    zero_points: Tensor

    def __init__(self, layer: nn.Conv1d | nn.Conv2d | nn.Linear, weight_bits: int) -> None:
        super().__init__()
        self.layer = layer
        self.highest_level = 2 ** (weight_bits - 1) - 1
        scales, zero_points = weight_scales(layer.weight.detach(), weight_bits)
        self.register_buffer("scales", scales)
        self.register_buffer("zero_points", zero_points)

    def forward(self, values: Tensor) -> Tensor:
        """Return what the layer returns with its weights rounded."""
        weight = torch.fake_quantize_per_channel_affine(
            self.layer.weight, self.scales, self.zero_points, 0, -self.highest_level, self.highest_level
        )
        return call_layer(self.layer, values, weight, self.layer.bias)


def weight_scales(weight: Tensor, weight_bits: int) -> tuple[Tensor, Tensor]:
    """Return the scale of each output channel's weights, and the zeros that are their zero points."""
    reach = weight.abs().flatten(1).amax(1)
    scales = (reach / (2 ** (weight_bits - 1) - 1)).clamp_min(_SMALLEST_SCALE)
    return scales, torch.zeros(len(weight), dtype=torch.int32)


def rounded_weight(weight: Tensor, weight_bits: int) -> Tensor:
    """Return the weights as a `QuantizedLayer` rounds them."""
    highest_level = 2 ** (weight_bits - 1) - 1
    scales, zero_points = weight_scales(weight, weight_bits)
    return torch.fake_quantize_per_channel_affine(weight, scales, zero_points, 0, -highest_level, highest_level)


def call_layer(layer: nn.Conv1d | nn.Conv2d | nn.Linear, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what the layer returns with this weight and bias in place of its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(values, weight, bias)
    result: Tensor = layer._conv_forward(values, weight, bias)
    return result


def quantize(model: nn.Module, recipe: Recipe, calibration: Iterable[tuple[Tensor, ...]]) -> fx.GraphModule:
    """Return the network with batch norms folded and the recipe's layers and their inputs quantized.

    A tensor that feeds several quantized layers is rounded once, and a residual addition takes the rounded
    tensor where there is one, so that it need not be kept in two forms. Activation ranges are the extremes
    seen on the calibration inputs.
    """
    traced = _without_identities(fold_batch_norms(symbolic_trace(model)))
    choices = {name: choice.quantize for name, choice in recipe.layers.items() if choice.quantize}
    chosen = {node: choice for node in traced.graph.nodes if (choice := _choice_of(node, choices, traced))}
    if not chosen:
        return traced
    bits: dict[fx.Node, int] = {}
    for node, choice in chosen.items():
        source = node.args[0]
        bits[source] = max(choice.activation_bits, bits.get(source, 0))
    ranges = _observe(traced, set(bits), calibration)
    rounded = {source: _insert_rounding(traced, source, *ranges[source], bits[source]) for source in bits}
    _reroute(traced, set(chosen), rounded)
    for node, choice in chosen.items():
        _quantize_layer(traced, str(node.target), choice.weight_bits)
    traced.recompile()
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


def _observe(
    traced: fx.GraphModule, sources: set[fx.Node], calibration: Iterable[tuple[Tensor, ...]]
) -> dict[fx.Node, tuple[float, float]]:
    observer = _Observer(traced, sources)
    with torch.no_grad():
        for inputs in calibration:
            observer.run(*inputs)
    return observer.ranges


class _Observer(fx.Interpreter):
    """Run the network and keep the extremes of some of its tensors."""

    def __init__(self, traced: fx.GraphModule, sources: set[fx.Node]) -> None:
        super().__init__(traced)
        self.ranges: dict[fx.Node, tuple[float, float]] = {}
        self._sources = sources

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._sources:
            lowest, highest = (bound.item() for bound in torch.aminmax(result))
            seen = self.ranges.get(n, (lowest, highest))
            self.ranges[n] = (min(lowest, seen[0]), max(highest, seen[1]))
        return result


def _insert_rounding(traced: fx.GraphModule, source: fx.Node, lowest: float, highest: float, bits: int) -> fx.Node:
    name = f"rounded_{source.name}"
    traced.add_submodule(name, QuantizedActivation(lowest, highest, bits))
    with traced.graph.inserting_after(source):
        return traced.graph.call_module(name, (source,))


def _reroute(traced: fx.GraphModule, quantized: set[fx.Node], rounded: dict[fx.Node, fx.Node]) -> None:
    for node in traced.graph.nodes:
        if node in quantized or node.target in ADDITIONS:
            node.args = tuple(rounded.get(argument, argument) for argument in node.args)


def _quantize_layer(traced: fx.GraphModule, name: str, weight_bits: int) -> None:
    layer = traced.get_submodule(name)
    if isinstance(layer, QuantizedLayer):
        return
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    parent, _, child = name.rpartition(".")
    setattr(traced.get_submodule(parent), child, QuantizedLayer(layer, weight_bits))

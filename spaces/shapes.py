"""Channel counts after a recipe: what sparsity keeps, and what a rank is worth."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt

from gulliver.spaces.layer_graph import ChannelGroup, Coupling, Layer, LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.errors import InputError

_INPUTS, _OUTPUTS = 0, 1
# Of so many weights in a row, 2:4 sparsity zeroes two.
_NEIGHBOURS = 4


@dataclass(frozen=True)
class Channels:
    """A layer's channel counts after the recipe's removals."""

    inputs: int
    outputs: int


def all_channels(layer: Layer) -> Channels:
    """Return the layer's channel counts before removals."""
    return Channels(layer.in_channels, layer.out_channels)


def removed_channels(channels: int, ratio: float) -> int:
    """Return how many of `channels` a ratio removes; at least one stays."""
    return min(round(channels * ratio), channels - 1)


def group_ratio(group: ChannelGroup, recipe: Recipe) -> float:
    """Return the ratio that all layers of the group share; raises InputError where they differ."""
    ratios = {name: _ratio(recipe, name) for name in group.layers}
    if len(set(ratios.values())) > 1:
        listed = ", ".join(f"{name} has ratio={ratio}" for name, ratio in ratios.items())
        raise InputError(f"layers whose channels are tied must have one ratio, but {listed}")
    ratio = next(iter(ratios.values()))
    if ratio > 0 and group.not_prunable:
        raise InputError(f"{group.name} has ratio={ratio}, but cannot lose channels: {group.not_prunable}")
    return ratio


def channels_after(graph: LayerGraph, recipe: Recipe) -> dict[str, Channels]:
    """Return every layer's channel counts after the recipe; raises InputError as `group_ratio` does."""
    ratios = {group.name: group_ratio(group, recipe) for group in graph.channel_groups}
    return {name: channels_of(graph, name, lambda group: ratios[group.name]) for name in graph.layers}


def channels_of(graph: LayerGraph, name: str, ratio_of: Callable[[ChannelGroup], float]) -> Channels:
    """Return one layer's channel counts where each group that it is a part of loses the share `ratio_of` it."""
    return Channels(*(_left(graph, name, ratio_of, side) for side in (_INPUTS, _OUTPUTS)))


def outputs_of(graph: LayerGraph, name: str, ratio_of: Callable[[ChannelGroup], float]) -> int:
    """Return one layer's output channels as `channels_of` does, only those groups asked that they are a part of."""
    return _left(graph, name, ratio_of, _OUTPUTS)


def _left(graph: LayerGraph, name: str, ratio_of: Callable[[ChannelGroup], float], side: int) -> int:
    layer = graph.layers[name]
    left = (layer.in_channels, layer.out_channels)[side]
    for group, coupling in graph.couplings.get(name, ()):
        if side in _sides(layer, coupling):
            indices_per_channel = len(coupling.indices[0]) if coupling.indices else 0
            left -= removed_channels(group.channels, ratio_of(group)) * indices_per_channel
    return left


def inputs_per_group(layer: Layer, channels: Channels) -> int:
    """Return the input channels that each output reads; a depthwise convolution has as many groups as channels."""
    return 1 if layer.groups == layer.in_channels > 1 else channels.inputs // layer.groups


def why_not_in_fours(inputs: int) -> str | None:
    """Return why a layer each of whose outputs reads so many input channels cannot be 2:4, None where it can."""
    return f"input channels must come in fours, but it reads {inputs}" if inputs % _NEIGHBOURS else None


def break_even_rank(layer: Layer, channels: Channels, kind: str = "svd") -> float:
    """Return the rank at which the thinner layers of this kind cost as many multiply-accumulates as the layer.

    A kh x kw convolution costs I*O*kh*kw a pixel, its two halves rank * (I*kh + O*kw); a linear layer has kh = kw = 1.
    By "channel_svd" they cost rank * (I*kh*kw + O). "tucker2" costs rank * (I*p + rank*kh*kw + O), with p pixels read
    for each one that is given, and thins nothing from the smaller of I and O on.
    """
    height, width = (*layer.kernel_size, 1, 1)[:2]
    inputs, outputs, kernel = channels.inputs, channels.outputs, height * width
    whole = inputs * outputs * kernel
    if kind == "channel_svd":
        return whole / (inputs * kernel + outputs)
    if kind == "tucker2":
        outside = inputs * prod(layer.input_shape[2:]) / prod(layer.output_shape[2:]) + outputs
        return min((sqrt(outside**2 + 4 * kernel * whole) - outside) / (2 * kernel), inputs, outputs)
    return whole / (inputs * height + outputs * width)


def _sides(layer: Layer, coupling: Coupling) -> tuple[int, ...]:
    """Return which counts shrink, inputs or outputs; a depthwise convolution's are the same channels."""
    if layer.groups == layer.in_channels == layer.out_channels > 1:
        return _INPUTS, _OUTPUTS
    return (_OUTPUTS if coupling.side == "out" else _INPUTS,)


def _ratio(recipe: Recipe, name: str) -> float:
    choice = recipe.layers.get(name)
    sparsify = choice.sparsify if choice else None
    return sparsify.ratio if sparsify and sparsify.kind == "channel" else 0.0

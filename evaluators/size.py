"""Size of a candidate: the bytes of its weights as they are stored."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from gulliver.spaces.layer_graph import Layer, LayerGraph
from gulliver.spaces.recipe import LayerRecipe, Recipe
from gulliver.spaces.shapes import Channels, channels_after, inputs_per_group

_FLOAT_BYTES = 2
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Size:
    """The bytes of all weights, scales and biases after the recipe, floats being stored in 16 bits."""

    graph: LayerGraph
    name: str = "size_bytes"
    direction: Literal["minimize", "maximize"] = "minimize"

    def __call__(self, recipe: Recipe) -> float:
        """Return the modelled bytes of the exported network's weights."""
        return float(sum(self.by_layer(recipe).values()))

    def by_layer(self, recipe: Recipe) -> dict[str, int]:
        """Return the modelled bytes of each layer's weights."""
        channels = channels_after(self.graph, recipe)
        layers = self.graph.layers
        return {name: _layer_bytes(layers[name], channels[name], recipe.layers[name]) for name in layers}


def _layer_bytes(layer: Layer, channels: Channels, choice: LayerRecipe) -> int:
    weights, scales = _counts(layer, channels, choice)
    if choice.quantize is not None and choice.quantize.group_size is not None:
        scales = weights // choice.quantize.group_size
    if choice.quantize is None:
        return _FLOAT_BYTES * (weights + channels.outputs)
    packed_bits = 4 if choice.quantize.weight_bits <= 4 else 8
    return weights * packed_bits // 8 + _SCALE_BYTES * scales + _FLOAT_BYTES * channels.outputs


def _counts(layer: Layer, channels: Channels, choice: LayerRecipe) -> tuple[int, int]:
    """Return the number of weights and of weight scales, all parts of a split layer counted."""
    height, width = (*layer.kernel_size, 1, 1)[:2]
    if choice.decompose is None:
        return channels.outputs * inputs_per_group(layer, channels) * prod(layer.kernel_size), channels.outputs
    rank = choice.decompose.rank
    if choice.decompose.kind == "channel_svd":
        return rank * (channels.inputs * height * width + channels.outputs), rank + channels.outputs
    if choice.decompose.kind == "tucker2":
        in_rank = choice.decompose.in_rank or rank
        core = in_rank * rank * height * width
        return channels.inputs * in_rank + core + rank * channels.outputs, in_rank + rank + channels.outputs
    return rank * (channels.inputs * height + channels.outputs * width), rank + channels.outputs

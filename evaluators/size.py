"""Size of a candidate: the bytes of its weights as OpenVINO stores them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from gulliver.spaces.layer_graph import Layer, LayerGraph
from gulliver.spaces.parts import parts_of
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe
from gulliver.spaces.shapes import Channels, channels_after, inputs_per_group

_HALF_BYTES = 2
_FLOAT_BYTES = 4
_SHAPE_BYTES = 8


@dataclass(frozen=True)
class Size:
    """The bytes of an exported network's weights file (.bin): weights, scales, biases and ranges.

    Floating-point weights of layers and embeddings take 16 bits, scales and ranges 32; biases, and other weights that
    no layer has, take 32 where any layer is quantized, else 16.
    """

    graph: LayerGraph
    name: str = "size_bytes"
    direction: Literal["minimize", "maximize"] = "minimize"

    def __call__(self, recipe: Recipe) -> float:
        """Return the modelled bytes of the exported network's weights."""
        embeddings = _HALF_BYTES * (self.graph.embedding_weight_count + self._untied_weight_count(recipe))
        others = _bytes_beside_weights(recipe) * self.graph.other_weight_count
        return float(sum(self.by_layer(recipe).values()) + embeddings + others)

    def by_layer(self, recipe: Recipe) -> dict[str, int]:
        """Return the modelled bytes of each layer's weights."""
        channels = channels_after(self.graph, recipe)
        bias_bytes = _bytes_beside_weights(recipe)
        return {
            name: _layer_bytes(layer, _parts(layer, channels[name], recipe.layers[name].decompose), bias_bytes, choice)
            for name, layer in self.graph.layers.items()
            for choice in [recipe.layers[name].quantize]
        }

    def _untied_weight_count(self, recipe: Recipe) -> int:
        """Return the number of embeddings' weights that are stored beside those of a layer that had the same."""
        changed = (name for name in self.graph.tied_to_embeddings if recipe.layers[name] != LayerRecipe())
        return sum(self.graph.layers[name].weight_count for name in changed)


@dataclass(frozen=True)
class _Part:
    """A layer, or one of the thinner ones that it is split into."""

    weights: int
    outputs: int


def _layer_bytes(layer: Layer, parts: Sequence[_Part], bias_bytes: int, choice: Quantize | None) -> int:
    """Return the bytes of all parts of a layer, the last of which has the layer's bias."""
    biased = parts if choice and choice.correct_bias else parts[-1:]
    has_bias = layer.has_bias or layer.batch_norm is not None or (choice is not None and choice.correct_bias)
    biases = bias_bytes * has_bias * sum(part.outputs for part in biased)
    if choice is None:
        return biases + _HALF_BYTES * sum(part.weights for part in parts)
    bits = 4 if choice.weight_bits <= 4 else 8
    integers = sum(-(-part.weights * bits // 8) for part in parts)
    if choice.group_size is not None:
        numbers = 1 if choice.symmetric_weights else 2
        return biases + integers + numbers * _FLOAT_BYTES * sum(part.weights // choice.group_size for part in parts)
    scales = sum(part.outputs for part in parts)
    # Inputs have the upper end of a range; between parts they fall below zero, and have a lower one too.
    ends = 2 * len(parts) - 1
    return biases + integers + _FLOAT_BYTES * (scales + ends) + _shape_bytes(layer)


def _bytes_beside_weights(recipe: Recipe) -> int:
    """Return the bytes of a bias, and of a weight that no layer has."""
    return _FLOAT_BYTES if any(it.quantize for it in recipe.layers.values()) else _HALF_BYTES


def _shape_bytes(layer: Layer) -> int:
    """Return the bytes of the shape that a grouped convolution's integers are brought into: groups and all else."""
    return _SHAPE_BYTES * (len(layer.kernel_size) + 3) if layer.groups > 1 else 0


def _parts(layer: Layer, channels: Channels, split: Decompose | None) -> tuple[_Part, ...]:
    """Return the parts of a layer, one if it is not split."""
    if split is None:
        weights = channels.outputs * inputs_per_group(layer, channels) * prod(layer.kernel_size)
        return (_Part(weights, channels.outputs),)
    return tuple(_Part(part.weight_count, part.outputs) for part in parts_of(layer, channels, split))

"""What happens to one layer, asked for one choice at a time, so that a price can tell which choices it depends on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Decompose, Quantize, Recipe
from gulliver.spaces.shapes import Channels, channels_after


class Choices(Protocol):
    """Every layer's choice, whether a recipe or the rungs of a search make it."""

    def quantize(self, layer: str) -> Quantize | None:
        """Return the widths that the layer runs in, None where it stays in floating point."""

    def decompose(self, layer: str) -> Decompose | None:
        """Return how the layer is split, None where it stays whole."""

    def is_semi_structured(self, layer: str) -> bool:
        """Say whether two of every four of the layer's weights are zero."""

    def channels(self, layer: str) -> Channels:
        """Return the layer's channel counts after removals."""

    def outputs(self, layer: str) -> int:
        """Return the layer's output channels after removals, whatever its inputs lose."""


@dataclass(frozen=True)
class RecipeChoices:
    """The choices of a recipe for a network."""

    graph: LayerGraph
    recipe: Recipe

    def quantize(self, layer: str) -> Quantize | None:
        """Return the widths that the layer runs in, None where it stays in floating point."""
        return self.recipe.layers[layer].quantize

    def decompose(self, layer: str) -> Decompose | None:
        """Return how the layer is split, None where it stays whole."""
        return self.recipe.layers[layer].decompose

    def is_semi_structured(self, layer: str) -> bool:
        """Say whether two of every four of the layer's weights are zero."""
        return self.recipe.layers[layer].is_semi_structured

    def channels(self, layer: str) -> Channels:
        """Return the layer's channel counts after removals; raises InputError where tied layers differ."""
        return self._channels[layer]

    def outputs(self, layer: str) -> int:
        """Return the layer's output channels after removals; raises InputError as `channels` does."""
        return self._channels[layer].outputs

    @cached_property
    def _channels(self) -> dict[str, Channels]:
        return channels_after(self.graph, self.recipe)

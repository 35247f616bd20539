"""Plain recipes: they say ratios, ranks with their kinds and bits with their calibrators, and nothing else."""

from collections.abc import Mapping
from typing import Any

from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify

# What plain choices say; whatever else they have, now or later, is at its default.
_SAID: Mapping[type[Any], dict[str, Any]] = {
    LayerRecipe: {"sparsify": None, "decompose": None, "quantize": None, "fallback": None},
    Sparsify: {"ratio": 0.0},
    Decompose: {"rank": 1, "kind": "svd"},
    Quantize: {"weight_bits": 8, "activation_bits": 8, "calibrator": "min_max"},
}
_BARE = {kind: vars(kind(**said)) for kind, said in _SAID.items()}


def why_not_plain(recipe: Recipe) -> str | None:
    """Return the first choice that says more than plain ones do, None where all else is at its default."""
    for name, layer in recipe.layers.items():
        for choice in (layer, layer.sparsify, layer.decompose, layer.quantize):
            if choice is not None and vars(choice) | _SAID[type(choice)] != _BARE[type(choice)]:
                return f"{name} asks for more than a ratio, a rank of a kind and bits with a calibrator: {choice}"
    return None

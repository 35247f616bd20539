"""The layers that keep a recipe from its budget."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from gulliver.evaluators.size import Size
from gulliver.search.scoring import Scoring
from gulliver.spaces.recipe import LayerRecipe, Recipe

_COUNT = 3


def binding_layers(recipe: Recipe, missed: str, scoring: Scoring) -> dict[str, float]:
    """Return the layers that bind where the recipe misses this entry of the budget, with what each holds, most first.

    For `max_drop` it is the accuracy that a group of layers wins back where it alone is left as it was, for
    `max_latency_ms` and `max_size_bytes` the share of the time and of the bytes that are left in a layer.
    """
    holds = {"max_drop": _accuracy_won, "max_latency_ms": _time_share, "max_size_bytes": _size_share}[missed]
    held = holds(replace(recipe, finetune=None), scoring)
    return dict(sorted(held.items(), key=lambda item: -item[1])[:_COUNT])


def _accuracy_won(recipe: Recipe, scoring: Scoring) -> dict[str, float]:
    full = replace(scoring, incumbents=None)
    before = full.score(recipe).accuracy_search
    won: dict[str, float] = {}
    for name, layers in _owners(scoring).items():
        if any(recipe.layers[layer] != LayerRecipe() for layer in layers):
            relaxed = dict(recipe.layers) | {layer: LayerRecipe() for layer in layers}
            won[name] = full.score(Recipe(relaxed)).accuracy_search - before
    return won


def _owners(scoring: Scoring) -> dict[str, tuple[str, ...]]:
    """Return the layers that choose alike, those in no group by themselves."""
    graph = scoring.original.graph
    groups = {group.name: tuple(group.layers) for group in graph.channel_groups}
    return groups | {name: (name,) for name in graph.layers if graph.group_of(name) is None}


def _time_share(recipe: Recipe, scoring: Scoring) -> dict[str, float]:
    seconds: defaultdict[str, float] = defaultdict(float)
    for call in scoring.target.lower(scoring.original.graph, recipe):
        seconds[call.owner] += scoring.latency.seconds(call)
    return _shares(seconds)


def _size_share(recipe: Recipe, scoring: Scoring) -> dict[str, float]:
    return _shares(Size(scoring.original.graph).by_layer(recipe))


def _shares(held: Mapping[str, float]) -> dict[str, float]:
    return {name: value / sum(held.values()) for name, value in held.items()}

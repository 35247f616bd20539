"""Fallback: what a method cannot do to a layer is left out of the recipe, for a reason that is written down.

A value that is wrong on any layer is an error of whoever typed it; a method that this one layer cannot take is not, or
one layer of a hundred would end the work on all of them.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from gulliver.compressors.batch_norm import fold_batch_norms
from gulliver.compressors.criteria import group_sparsify, why_no_scores
from gulliver.compressors.decompose import why_not_split
from gulliver.compressors.equalize import equalizable
from gulliver.compressors.smooth import smoothings
from gulliver.spaces.layer_graph import ChannelGroup, LayerGraph
from gulliver.spaces.recipe import LayerRecipe, Recipe
from gulliver.spaces.shapes import channels_after, group_ratio, inputs_per_group, why_not_in_fours
from gulliver.spaces.trace import symbolic_trace
from torch import nn

Reasons = dict[str, str]
# The layer, what its choice becomes, and why.
_Change = tuple[str, LayerRecipe, str]
_Rule = Callable[[Recipe, nn.Module, LayerGraph], Iterator[_Change]]


def applicable(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> tuple[Recipe, Reasons]:
    """Return the recipe without what its layers cannot take, and by layer what is left out and why.

    The reasons are in the layers' `fallback` too. Raises InputError where layers whose channels are tied differ.
    """
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for rule in _RULES:
        changes = list(rule(recipe, model, graph))
        if changes:
            recipe = _with(recipe, {name: choice for name, choice, _ in changes})
        for name, _, reason in changes:
            reasons[name].append(reason)
    words = {name: "; ".join(reasons[name]) for name in recipe.layers if name in reasons}
    return (_explained(recipe, words) if words else recipe), words


def _explained(recipe: Recipe, words: Reasons) -> Recipe:
    texts = {name: "; ".join(filter(None, (recipe.layers[name].fallback, words[name]))) for name in words}
    layers = {name: replace(recipe.layers[name], fallback=text) for name, text in texts.items()}
    return _with(recipe, layers)


def _with(recipe: Recipe, layers: Mapping[str, LayerRecipe]) -> Recipe:
    return replace(recipe, layers={**recipe.layers, **layers})


def _without_channels(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> Iterator[_Change]:
    for name, choice in recipe.layers.items():
        sparsify = choice.sparsify
        if sparsify is not None and sparsify.kind == "channel" and sparsify.ratio > 0:
            reason = _why_channels_stay(graph.group_of(name))
            if reason is not None:
                yield name, replace(choice, sparsify=None), f"no channels are removed: {reason}"


def _why_channels_stay(group: ChannelGroup | None) -> str | None:
    if group is None:
        return "what reads them is not known"
    return None if group.not_prunable is None else f"of its group, {group.not_prunable}"


def _without_criterion(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> Iterator[_Change]:
    for group, names in _thinned_groups(recipe, graph):
        criterion = group_sparsify(group, recipe).criterion
        reason = why_no_scores(criterion, group, model)
        for name in names if reason is not None else ():
            choice = recipe.layers[name]
            assert choice.sparsify is not None
            ranked = replace(choice.sparsify, criterion="magnitude")
            yield name, replace(choice, sparsify=ranked), f"channels are ranked by magnitude, not {criterion}: {reason}"


def _without_reconstruction(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> Iterator[_Change]:
    for group, names in _thinned_groups(recipe, graph):
        if group_sparsify(group, recipe).reconstruct and all(it.side == "out" for it in group.couplings):
            for name in names:
                choice = recipe.layers[name]
                assert choice.sparsify is not None
                sparsify = replace(choice.sparsify, reconstruct=False)
                yield name, replace(choice, sparsify=sparsify), "nothing is reconstructed: no layer reads its channels"


def _thinned_groups(recipe: Recipe, graph: LayerGraph) -> Iterator[tuple[ChannelGroup, list[str]]]:
    """Yield each group that loses channels, and its layers whose choices say so."""
    for group in graph.channel_groups:
        if group_ratio(group, recipe) > 0:
            yield group, [name for name in group.layers if recipe.layers[name].sparsify is not None]


def _without_fours(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> Iterator[_Change]:
    channels = channels_after(graph, recipe)
    for name, choice in recipe.layers.items():
        if choice.is_semi_structured:
            reason = why_not_in_fours(inputs_per_group(graph.layers[name], channels[name]))
            if reason is not None:
                yield name, replace(choice, sparsify=None), f"no weights are removed: {reason}"


def _without_split(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> Iterator[_Change]:
    for name, choice in recipe.layers.items():
        if choice.decompose is not None:
            reason = why_not_split(model.get_submodule(name), choice.decompose.kind)
            if reason is not None:
                yield name, replace(choice, decompose=None), f"not decomposed: {reason}"


def _without_groups(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> Iterator[_Change]:
    channels = channels_after(graph, recipe)
    for name, choice in recipe.layers.items():
        size = choice.quantize.group_size if choice.quantize else None
        if size is None:
            continue
        reads = [channels[name].inputs]
        if choice.decompose is not None:
            reads.append(min(choice.decompose.rank, channels[name].inputs, channels[name].outputs))
        if graph.layers[name].kind != "linear" or any(count % size for count in reads):
            reason = f"weights cannot be in groups of {size}: it is a {graph.layers[name].kind} layer that reads"
            yield (
                name,
                replace(choice, quantize=None),
                f"not quantized: {reason} {' and '.join(map(str, reads))} inputs",
            )


def _without_equalization(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> Iterator[_Change]:
    # Of the halves of a split layer, the second can always be equalized with the first.
    asking = {name for name, it in recipe.layers.items() if it.quantize and it.quantize.equalize and not it.decompose}
    if not asking:
        return
    traced = fold_batch_norms(symbolic_trace(copy.deepcopy(model).eval()))
    for name in sorted(asking - equalizable(traced)):
        choice = recipe.layers[name]
        assert choice.quantize is not None
        reason = "not equalized: no layer is alone before it, with only ReLUs between"
        yield name, replace(choice, quantize=replace(choice.quantize, equalize=False)), reason


def _without_smoothing(recipe: Recipe, model: nn.Module, graph: LayerGraph) -> Iterator[_Change]:
    quantized = {name: it.quantize for name, it in recipe.layers.items() if it.quantize and not it.decompose}
    strengths = {name: it.smooth for name, it in quantized.items() if it.smooth is not None}
    if not strengths:
        return
    traced = fold_batch_norms(symbolic_trace(copy.deepcopy(model).eval()))
    smoothed = {name for it in smoothings(traced, strengths) for name in it.readers}
    for name in strengths:
        if name not in smoothed:
            choice = replace(recipe.layers[name], quantize=replace(quantized[name], smooth=None))
            yield name, choice, "not smoothed: no LayerNorm or layer feeds linear layers of this strength alone"


_RULES: tuple[_Rule, ...] = (
    _without_channels,
    _without_criterion,
    _without_reconstruction,
    _without_fours,
    _without_split,
    _without_groups,
    _without_equalization,
    _without_smoothing,
)

"""Channel sparsity: remove the least important channels of each group of tied channels, for real."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch_pruning
from gulliver.spaces.channel_groups import Dependent, dependent_groups
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.removal_trial import remove_channels
from gulliver.spaces.shapes import group_ratio, removed_channels
from torch import Tensor, nn

Ranking = Mapping[str, tuple[int, ...]]


def rank_channels(model: nn.Module, example_inputs: tuple[Tensor, ...], dependent: Dependent | None = None) -> Ranking:
    """Return each group's channels, least important first, by the L2 norm of all weights tied to a channel.

    `dependent` groups that are known are not found anew.
    Source: Fang et al., "DepGraph", CVPR 2023, section 3.3 (group-level importance).
    """
    names = {module: name for name, module in model.named_modules()}
    rankings: dict[str, tuple[int, ...]] = {}
    groups, _ = dependent or dependent_groups(model, example_inputs)
    for group in groups:
        scores = _scores(group)
        if scores is not None:
            order = tuple(torch.argsort(scores, stable=True).tolist())
            # A module that only reads the group's channels has a group, and a ranking, of its own.
            members = [it.dep.target.module for it in group.items if it.dep.handler.__name__ != "prune_in_channels"]
            rankings |= {names[module]: order for module in members if module in names}
    return rankings


def _scores(group: Any) -> Tensor | None:
    """Return shape (channels,): the importance of a group's channels, None where torch-pruning has none for it."""
    try:
        scores: Tensor | None = torch_pruning.importance.GroupMagnitudeImportance(p=2)(group)
    except IndexError:
        # It counts channels that a module has not, so that the group can lose none (spaces/removal_trial.py).
        return None
    return scores


def removed_indices(graph: LayerGraph, recipe: Recipe, ranking: Ranking) -> dict[tuple[str, str], set[int]]:
    """Return the indices that every (module, side) loses to the recipe, "out" or "in" being the side."""
    # All of a module's indices at once: behind a concatenation, one group's removals would shift another's indices.
    removed: dict[tuple[str, str], set[int]] = defaultdict(set)
    for group in graph.channel_groups:
        count = removed_channels(group.channels, group_ratio(group, recipe))
        for channel in ranking[group.name][:count] if count else ():
            for coupling in group.couplings:
                removed[coupling.module, coupling.side].update(coupling.indices[channel])
    return removed


def sparsify(model: nn.Module, graph: LayerGraph, recipe: Recipe, ranking: Ranking) -> nn.Module:
    """Remove in place the channels that the recipe gives up, everywhere they reach; return the model."""
    for (name, side), indices in removed_indices(graph, recipe, ranking).items():
        remove_channels(model.get_submodule(name), side, sorted(indices))
    return model

"""Try out on the network itself which groups can lose channels: a forward method may count on how many there are."""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from gulliver.spaces.layer_graph import ChannelGroup
from gulliver.tasks.errors import named
from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.pruner.function import PrunerBox

# Targets like channel counts in multiples of it; heads and norms of so many groups bear them.
_LIKED_MULTIPLE = 8


def try_removals(
    model: nn.Module, example_inputs: tuple[Tensor, ...], groups: Sequence[ChannelGroup]
) -> tuple[ChannelGroup, ...]:
    """Return the groups, those not prunable that the network does not run without some channels of, and why."""
    removable = [group for group in groups if not group.not_prunable]
    if _why_not_run(model, example_inputs, removable) is None:
        return tuple(groups)
    kept: list[ChannelGroup] = []
    reasons: dict[str, str] = {}
    for group in removable:
        reason = _why_not_run(model, example_inputs, [*kept, group])
        if reason is None:
            kept.append(group)
        else:
            reasons[group.name] = f"the network does not run without some of them ({reason})"
    return tuple(replace(it, not_prunable=it.not_prunable or reasons.get(it.name)) for it in groups)


def remove_channels(module: nn.Module, side: str, indices: list[int]) -> None:
    """Remove in place these output ("out") or input ("in") channels of one module."""
    pruner = PrunerBox[ops.module2type(module)]
    prune = pruner.prune_out_channels if side == "out" else pruner.prune_in_channels
    prune(module, indices)


def _why_not_run(model: nn.Module, inputs: tuple[Tensor, ...], groups: Sequence[ChannelGroup]) -> str | None:
    """Return what goes wrong in the network with fewer channels in these groups, None where nothing does."""
    thinned = copy.deepcopy(model).eval()
    removed: dict[tuple[str, str], set[int]] = defaultdict(set)
    for group in groups:
        for coupling in group.couplings:
            removed[coupling.module, coupling.side].update(*coupling.indices[_left(group.channels) :])
    try:
        for (name, side), indices in removed.items():
            remove_channels(thinned.get_submodule(name), side, sorted(indices))
        with torch.no_grad():
            thinned(*inputs)
    except Exception as error:  # a forward method may raise anything
        return named(error)
    return None


def _left(channels: int) -> int:
    """Return the most channels that are fewer and that a target may like, or half of a few."""
    return (channels - 1) // _LIKED_MULTIPLE * _LIKED_MULTIPLE or channels // 2

"""Find the channels that must be removed together, with torch-pruning's dependency graph.

Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch_pruning
from gulliver.spaces.layer_graph import ChannelGroup, Coupling
from gulliver.tasks.errors import named
from torch import Tensor, nn
from torch_pruning import ops

# torch-pruning's groups, or none and what it stumbled on.
Dependent = tuple[list[Any], str]
_LAYER_TYPES = (ops.OPTYPE.CONV, ops.OPTYPE.DEPTHWISE_CONV, ops.OPTYPE.LINEAR)


def find_channel_groups(
    model: nn.Module, dependent: Dependent, layers: Collection[str], fixed: Mapping[str, str]
) -> tuple[ChannelGroup, ...]:
    """Return every group of tied output channels of the layers, in order of the model's modules.

    `dependent` is what `dependent_groups` found in the model.
    Groups that hold a layer that is `fixed`, for the reason that it maps to, are not prunable, nor are those that hold
    a convolution or a linear module that is none of the layers.
    """
    names = {module: name for name, module in model.named_modules()}
    groups, problem = dependent
    if problem:
        return tuple(_untied(name, model, problem) for name in layers)
    found = (_channel_group(group, names, layers, fixed) for group in groups)
    order = {name: position for position, name in enumerate(names.values())}
    return tuple(sorted((group for group in found if group), key=lambda group: order[group.name]))


def dependent_groups(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Dependent:
    """Return torch-pruning's groups, or none and what it stumbled on; a deep network's take tens of seconds."""
    try:
        with torch.enable_grad():
            graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs, verbose=False)
        return list(graph.get_all_groups()), ""
    except Exception as error:  # its own mistakes have no base class in common
        return [], named(error)


def _untied(name: str, model: nn.Module, problem: str) -> ChannelGroup:
    """Return the group of one layer of which it is not known what reads its channels."""
    layer: Any = model.get_submodule(name)
    reason = f"torch-pruning cannot follow the network's channels ({problem})"
    return ChannelGroup(name, len(layer.weight), (name,), (), reason)


def _channel_group(
    group: Any, names: dict[nn.Module, str], layers: Collection[str], fixed: Mapping[str, str]
) -> ChannelGroup | None:
    """Return the group of these tied channels, None where they are output channels of none of the layers."""
    order = list(names.values())
    channels = len(group[0].idxs)
    couplings = tuple(_coupling(item, names, channels) for item in group.items if item.dep.target.module in names)
    tied = {coupling.module for coupling in couplings if coupling.side == "out" and coupling.module in layers}
    if not tied:
        return None
    ordered = tuple(sorted(tied, key=order.index))
    reason = next((fixed[name] for name in ordered if name in fixed), _not_prunable(group, names, layers))
    if reason is None and not all(map(_is_even, couplings)):
        reason = "torch-pruning cannot follow them to those who read them"
    return ChannelGroup(ordered[0], channels, ordered, couplings, reason)


def _coupling(item: Any, names: dict[nn.Module, str], channels: int) -> Coupling:
    indices: dict[int, list[int]] = defaultdict(list)
    for index, root_index in zip(item.idxs, item.root_idxs, strict=True):
        indices[root_index].append(index)
    side = "in" if item.dep.handler.__name__ == "prune_in_channels" else "out"
    module = names[item.dep.target.module]
    return Coupling(module, side, tuple(tuple(indices[channel]) for channel in range(channels)))


def _is_even(coupling: Coupling) -> bool:
    """Say whether as many of the module's indices go with one channel as with any other."""
    return len({len(indices) for indices in coupling.indices}) == 1 and len(coupling.indices[0]) > 0


def _not_prunable(group: Any, names: dict[nn.Module, str], layers: Collection[str]) -> str | None:
    """Return the reason why channels of this group cannot be removed, if there is one."""
    for item in group.items:
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return "its channels are tied to a bare parameter"
        if item.dep.target.type in _LAYER_TYPES and names[module] not in layers:
            return f"{names[module]} is a {type(module).__name__}, which is not compressed"
        if isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups != module.out_channels:
            return f"{names[module]} is a grouped convolution"
    return None

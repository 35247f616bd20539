"""Where a rounding stands: before what only selects and joins values, not behind it, so that integers go through.

The largest of some rounded values is the largest one rounded, and a concatenation or a flattening changes none: the
network gives the same to the last bit, but its layers can write integers, and what follows moves fewer bytes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

_SELECTIONS: tuple[Callable[..., Any] | str | type[nn.Module], ...] = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.functional.max_pool1d,
    nn.functional.max_pool2d,
    torch.max_pool1d,
    torch.max_pool2d,
    nn.Flatten,
    torch.flatten,
    "flatten",
)
_CONCATENATIONS = (torch.cat, torch.concat)


def hoist(traced: fx.GraphModule, rounding: type[nn.Module], grid_of: Callable[[Any], object]) -> fx.GraphModule:
    """Move in place every module of the `rounding` type as far up as it gives the same; return the network.

    Where what it would round is rounded already on an equal grid, that is what is read.
    """
    while any(_move(node, traced, rounding, grid_of) for node in _calls(traced, rounding)):
        pass
    traced.recompile()
    return traced


def selected_from(node: fx.Node, traced: fx.GraphModule) -> fx.Node | None:
    """Return what the node selects values from or flattens, None where it does something else."""
    module = _module_of(node, traced)
    called = node.target if module is None else type(module)
    return node.all_input_nodes[0] if called in _SELECTIONS else None


def _calls(traced: fx.GraphModule, rounding: type[nn.Module]) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if isinstance(_module_of(node, traced), rounding)]


def _module_of(node: fx.Node, traced: fx.GraphModule) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _move(node: fx.Node, traced: fx.GraphModule, rounding: type[nn.Module], grid_of: Callable[[Any], object]) -> bool:
    """Move one rounding by one step; say whether it moved."""
    source = node.all_input_nodes[0]
    if list(source.users) != [node] or not source.args:
        return False
    if selected_from(source, traced) is not None:
        return _before_selection(node, source, _equal(node, source, traced, rounding, grid_of))
    return source.target in _CONCATENATIONS and _before_concatenation(node, source)


def _equal(
    node: fx.Node,
    selection: fx.Node,
    traced: fx.GraphModule,
    rounding: type[nn.Module],
    grid_of: Callable[[Any], object],
) -> fx.Node | None:
    """Return the rounding of what the selection reads that is equal to this one, if there is one."""
    wanted = grid_of(_module_of(node, traced))
    readers = [it for it in selection.all_input_nodes[0].users if isinstance(_module_of(it, traced), rounding)]
    return next((it for it in readers if grid_of(_module_of(it, traced)) == wanted), None)


def _before_selection(node: fx.Node, selection: fx.Node, equal: fx.Node | None) -> bool:
    values = selection.all_input_nodes[0]
    if equal is None and list(values.users) != [selection]:
        # The values would have to be kept both as they are and rounded.
        return False
    node.replace_all_uses_with(selection)
    if equal is None:
        selection.prepend(node)
        node.args = (values,)
        selection.replace_input_with(values, node)
    else:
        node.graph.erase_node(node)
        selection.replace_input_with(values, equal)
    return True


def _before_concatenation(node: fx.Node, concatenation: fx.Node) -> bool:
    parts = concatenation.all_input_nodes
    if any(list(part.users) != [concatenation] for part in parts):
        return False
    for part in parts:
        with node.graph.inserting_before(concatenation):
            rounded = node.graph.call_module(str(node.target), (part,))
        concatenation.replace_input_with(part, rounded)
    node.replace_all_uses_with(concatenation)
    node.graph.erase_node(node)
    return True

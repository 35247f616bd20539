"""What a network must be like for its candidates to be put together from parts; any other goes through `compress`."""

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

from gulliver.compressors.batch_norm import BATCH_NORMS
from gulliver.compressors.quantize import ADDITIONS, IDENTITIES
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.trace import symbolic_trace
from torch import fx, nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
Rule = Callable[[fx.Node, fx.GraphModule], str | None]


def find_refusal(traced: fx.GraphModule, graph: LayerGraph, thinned: nn.Module) -> str | None:
    """Return why the network's candidates cannot be put together from parts, or None where they can.

    `thinned` is the network with channels removed wherever they can be.
    """
    reasons = (_broken_rules(traced), _channels_elsewhere(traced, graph), _other_calls(traced, thinned))
    return next(chain.from_iterable(reasons), None)


def module_of(node: fx.Node, traced: fx.GraphModule) -> nn.Module | None:
    """Return the module that the node calls, None where it calls none."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def folds(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Say whether the node is a batch norm that is folded into the layer before it."""
    if not isinstance(module_of(node, traced), BATCH_NORMS):
        return False
    source = node.all_input_nodes[0]
    return isinstance(module_of(source, traced), LAYERS) and len(source.users) == 1


def _broken_rules(traced: fx.GraphModule) -> Iterator[str]:
    rules: tuple[Rule, ...] = (_plain_input, _exact_kind, _own_statistics, _one_fold, _in_place)
    for node in traced.graph.nodes:
        yield from (f"{node.name} {reason}" for rule in rules if (reason := rule(node, traced)))
    calls = Counter(str(node.target) for node in traced.graph.nodes if _is_weighted(node, traced))
    yield from (f"{name} is called {count} times" for name, count in calls.items() if count > 1)


def _channels_elsewhere(traced: fx.GraphModule, graph: LayerGraph) -> Iterator[str]:
    """Yield where channels that may be removed are not those of a module that is called as one."""
    groups = (group for group in graph.channel_groups if not group.not_prunable)
    losing = list(dict.fromkeys(coupling.module for group in groups for coupling in group.couplings))
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    yield from (f"{name} is not called as one module" for name in losing if name not in called)
    for node in traced.graph.nodes:
        owner = str(node.target).rpartition(".")[0]
        if node.op == "get_attr" and (owner in losing or owner in graph.layers):
            yield f"{node.target} is read beside its module"


def _other_calls(traced: fx.GraphModule, thinned: nn.Module) -> Iterator[str]:
    """Yield a reason where a forward method looks at channel counts, so that the calls are others without some."""
    before, after = ([_call(node) for node in it.graph.nodes] for it in (traced, symbolic_trace(thinned)))
    if before != after:
        yield "its calls depend on how many channels its layers have"


def _call(node: fx.Node) -> tuple[str, str, str, str]:
    return node.op, str(node.target), repr(node.args), repr(node.kwargs)


def _is_weighted(node: fx.Node, traced: fx.GraphModule) -> bool:
    return isinstance(module_of(node, traced), (*LAYERS, *BATCH_NORMS))


def _plain_input(node: fx.Node, traced: fx.GraphModule) -> str | None:
    return "takes any number of inputs" if node.op == "placeholder" and str(node.target).startswith("*") else None


def _exact_kind(node: fx.Node, traced: fx.GraphModule) -> str | None:
    module = module_of(node, traced)
    if not isinstance(module, (*LAYERS, *BATCH_NORMS)):
        return None
    if type(module) not in (*LAYERS, *BATCH_NORMS):
        return f"is a {type(module).__name__}, which may do more than the layer that it derives from"
    hooked = module._forward_hooks or module._forward_pre_hooks
    return "has hooks" if hooked else None


def _own_statistics(node: fx.Node, traced: fx.GraphModule) -> str | None:
    module = module_of(node, traced)
    tracks = not isinstance(module, BATCH_NORMS) or module.running_mean is not None
    return None if tracks else "keeps no statistics"


def _one_fold(node: fx.Node, traced: fx.GraphModule) -> str | None:
    if not isinstance(module_of(node, traced), BATCH_NORMS):
        return None
    source = node.all_input_nodes[0]
    return "is folded into what is itself folded" if folds(source, traced) and len(source.users) == 1 else None


def _in_place(node: fx.Node, traced: fx.GraphModule) -> str | None:
    """Refuse writes that are seen elsewhere; the others can be done out of place, so that what is stored stays."""
    allowed = node.target is operator.iadd or _has_in_place_flag(node, traced)
    if not allowed:
        return "writes in place" if _writes(node) else None
    source = node.args[0]
    fresh = isinstance(source, fx.Node) and (_is_weighted(source, traced) or source.target in ADDITIONS)
    if fresh and isinstance(source, fx.Node) and len(source.users) == 1:
        return None
    return "writes in place what is read elsewhere"


def _has_in_place_flag(node: fx.Node, traced: fx.GraphModule) -> bool:
    module = module_of(node, traced)
    in_place = getattr(module, "inplace", False) or node.kwargs.get("inplace")
    return bool(in_place) and not isinstance(module, IDENTITIES)


def _writes(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_method":
        return name.endswith("_")
    if node.op != "call_function":
        return False
    operators = ("setitem", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")
    return name.endswith("_") or name in operators or "out" in node.kwargs

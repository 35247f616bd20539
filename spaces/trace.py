"""Read a network's layers and operations by symbolic tracing (torch.fx; docs/decisions/0001)."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from gulliver.spaces.channel_groups import Dependent, dependent_groups, find_channel_groups
from gulliver.spaces.layer_graph import Layer, LayerGraph, Operation
from gulliver.spaces.removal_trial import try_removals
from gulliver.tasks.errors import InputError, one_line
from torch import Tensor, fx, nn

LAYER_KINDS: dict[type[nn.Module], str] = {nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Linear: "linear"}

_MODULE_KINDS: dict[type[nn.Module], str] = LAYER_KINDS | {
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.ReLU: "relu",
    nn.ReLU6: "activation",
    nn.SiLU: "activation",
    nn.GELU: "activation",
    nn.Hardswish: "activation",
    nn.MaxPool1d: "pool",
    nn.MaxPool2d: "pool",
    nn.AvgPool2d: "pool",
    nn.AdaptiveAvgPool2d: "pool",
    nn.Flatten: "flatten",
    nn.Dropout: "identity",
    nn.Identity: "identity",
}
_FUNCTION_KINDS: dict[Callable[..., Any] | str, str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    torch.relu: "relu",
    nn.functional.relu: "relu",
    nn.functional.silu: "activation",
    torch.flatten: "flatten",
    torch.cat: "concat",
    operator.getitem: "slice",
    nn.functional.adaptive_avg_pool2d: "pool",
    nn.functional.max_pool1d: "pool",
    nn.functional.max_pool2d: "pool",
    torch.max_pool1d: "pool",
    torch.max_pool2d: "pool",
    nn.functional.avg_pool2d: "pool",
    "flatten": "flatten",
    "relu": "relu",
    "mean": "pool",
    "add": "add",
}

# What moves channels to other places than those that torch-pruning keeps count of.
_SHUFFLES: tuple[Callable[..., Any] | type[nn.Module], ...] = (
    nn.ChannelShuffle,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.functional.channel_shuffle,
    nn.functional.pixel_shuffle,
    nn.functional.pixel_unshuffle,
    torch.channel_shuffle,
    torch.pixel_shuffle,
    torch.pixel_unshuffle,
)
_RESHAPES = ("view", "reshape", "unflatten", torch.reshape, torch.unflatten, nn.Unflatten)
_IMAGE_DIMENSIONS = 4

# What an operation computes, where others that depend on it must know.
_COMPUTES: dict[Callable[..., Any] | str | type[nn.Module], str] = {
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.functional.silu: "silu",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    "mul": "mul",
    nn.MaxPool1d: "max",
    nn.MaxPool2d: "max",
    nn.functional.max_pool1d: "max",
    nn.functional.max_pool2d: "max",
    torch.max_pool1d: "max",
    torch.max_pool2d: "max",
}


def symbolic_trace(model: nn.Module) -> fx.GraphModule:
    """Return the traced network; raises InputError where its control flow depends on data."""
    try:
        return fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise InputError(f"the network cannot be traced by torch.fx: {one_line(error)}") from error


def trace(model: nn.Module, example_inputs: tuple[Tensor, ...], dependent: Dependent | None = None) -> LayerGraph:
    """Return the network's layers, operations and channel groups; `dependent` groups that are known are not found anew.

    Raises InputError where it has no layer, or gives a module of a known kind its input by name.
    """
    traced = symbolic_trace(model)
    shapes = _Shapes(traced)
    with torch.no_grad():
        shapes.run(*example_inputs)
    modules = dict(traced.named_modules())
    _check_inputs(traced, modules)
    steps = (node for node in traced.graph.nodes if node.op not in ("output", "get_attr"))
    nodes = [node for node in steps if _kind(node, modules) != "identity"]
    operations = tuple(_operation(node, modules, shapes.of) for node in nodes)
    layers = {
        str(node.target): _layer(node, modules, shapes.of)
        for node in nodes
        if _kind(node, modules) in LAYER_KINDS.values()
    }
    if not layers:
        raise InputError("the network must have at least one Conv1d, Conv2d or Linear layer, but has none")
    outputs = (node for node in traced.graph.nodes if node.op == "output")
    shuffles = (node for node in traced.graph.nodes if _is_shuffle(node, modules, shapes.of))
    fixed = dict.fromkeys(_layers_behind(shuffles, modules), "its channels are shuffled")
    fixed |= dict.fromkeys(_layers_behind(outputs, modules), "its channels are the network's outputs")
    groups = find_channel_groups(model, dependent or dependent_groups(model, example_inputs), layers, fixed)
    tied = try_removals(model, example_inputs, groups)
    return LayerGraph(
        layers,
        operations,
        tied,
        _enclosed(nodes, modules),
        *_other_weight_counts(traced, layers),
        tuple(name for name in layers if traced.get_submodule(name).weight in _embedded(traced)),
    )


def _embedded(traced: fx.GraphModule) -> set[Any]:
    return {it.weight for it in traced.modules() if isinstance(it, nn.Embedding)}


def _other_weight_counts(traced: fx.GraphModule, layers: Mapping[str, Layer]) -> tuple[int, int]:
    """Return the numbers of embeddings' weights, and of others that no layer uses, nor a batch norm that one folds."""
    owners = [it for name, layer in layers.items() for it in (name, layer.batch_norm) if it is not None]
    known = {weight for name in owners for weight in traced.get_submodule(name).parameters()}
    embedded = _embedded(traced) - known
    others = [weight.numel() for weight in traced.parameters() if weight not in known | embedded]
    return sum(weight.numel() for weight in embedded), sum(others)


def _check_inputs(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> None:
    # Hooks and rewritten graphs read the first argument.
    for node in traced.graph.nodes:
        if node.op == "call_module" and type(modules[str(node.target)]) in _MODULE_KINDS and not node.args:
            raise InputError(f"modules must be given their inputs by position, but {node.target} is given it by name")


class _Shapes(fx.Interpreter):
    """Run the network once and keep every tensor's shape."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.of: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.of[n] = tuple(result.shape) if isinstance(result, Tensor) else ()
        return result


def _enclosed(nodes: Iterable[fx.Node], modules: dict[str, nn.Module]) -> dict[str, int]:
    """Return by name the called modules that are no layers, but hold some, and how many."""
    called = dict.fromkeys(str(node.target) for node in nodes if node.op == "call_module")
    held = {name: sum(isinstance(it, tuple(LAYER_KINDS)) for it in modules[name].modules()) for name in called}
    return {name: count for name, count in held.items() if count and not isinstance(modules[name], tuple(LAYER_KINDS))}


def _layers_behind(nodes: Iterable[fx.Node], modules: dict[str, nn.Module]) -> Iterator[str]:
    """Yield the layers whose channels reach one of the nodes without another layer between."""
    reached = list(nodes)
    for node in reached:
        if _kind(node, modules) in LAYER_KINDS.values():
            yield str(node.target)
        else:
            reached.extend(source for source in node.all_input_nodes if source not in reached)


def _is_shuffle(node: fx.Node, modules: dict[str, nn.Module], shapes: dict[fx.Node, tuple[int, ...]]) -> bool:
    """Say whether the node shuffles channels, or gives them two dimensions, as a shuffle that is written out does."""
    called = type(modules[str(node.target)]) if node.op == "call_module" else node.target
    if called in _SHUFFLES:
        return True
    split = called in _RESHAPES and len(shapes[node]) > _IMAGE_DIMENSIONS
    return split and len(shapes[node.all_input_nodes[0]]) == _IMAGE_DIMENSIONS


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "call_module":
        return _MODULE_KINDS.get(type(modules[str(node.target)]), "other")
    return _FUNCTION_KINDS.get(node.target, "other")


def _operation(node: fx.Node, modules: dict[str, nn.Module], shapes: dict[fx.Node, tuple[int, ...]]) -> Operation:
    kind = _kind(node, modules)
    sources = (_through_identities(source, modules) for source in node.all_input_nodes)
    inputs = tuple(source.name for source in sources if source.op != "get_attr")
    layer = str(node.target) if kind in LAYER_KINDS.values() else None
    called = type(modules[str(node.target)]) if node.op == "call_module" else node.target
    return Operation(node.name, kind, inputs, shapes[node], layer, _COMPUTES.get(called, ""))


def _through_identities(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    while _kind(node, modules) == "identity":
        node = node.all_input_nodes[0]
    return node


def _layer(node: fx.Node, modules: dict[str, nn.Module], shapes: dict[fx.Node, tuple[int, ...]]) -> Layer:
    name = str(node.target)
    module: Any = modules[name]
    is_linear = isinstance(module, nn.Linear)
    return Layer(
        name=name,
        kind=LAYER_KINDS[type(module)],
        in_channels=module.in_features if is_linear else module.in_channels,
        out_channels=module.out_features if is_linear else module.out_channels,
        **_window(module),
        has_bias=module.bias is not None,
        input_shape=shapes[node.all_input_nodes[0]],
        output_shape=shapes[node],
        batch_norm=_batch_norm_of(node, modules),
    )


def _batch_norm_of(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """Return the name of the batch norm that alone reads the layer, None where there is none."""
    names = [str(user.target) for user in node.users if _kind(user, modules) == "batch_norm"]
    return names[0] if len(node.users) == 1 and names else None


def _window(module: nn.Module) -> dict[str, Any]:
    """Return the layer's kernel size, stride, padding, dilation and groups: all empty and one in a linear layer."""
    if isinstance(module, nn.Linear):
        return {**dict.fromkeys(("kernel_size", "stride", "padding", "dilation"), ()), "groups": 1}
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    window = {key: getattr(module, key) for key in ("kernel_size", "stride", "dilation", "groups")}
    return {**window, "padding": _padding(module)}


def _padding(module: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    """Return the padding of each dimension, "same" and "valid" spelled out as numbers."""
    if isinstance(module.padding, str):
        total = module._reversed_padding_repeated_twice
        return tuple(reversed(total[::2]))
    return tuple(module.padding)

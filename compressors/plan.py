"""The calls of a network in order of execution, read once for all recipes, with a place for every rounding."""

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from gulliver.compressors.batch_norm import BATCH_NORMS
from gulliver.compressors.plan_rules import LAYERS, find_refusal, folds, module_of
from gulliver.compressors.quantize import ADDITIONS, IDENTITIES
from gulliver.compressors.sparsify import Ranking, sparsify
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import LayerRecipe, Recipe, Sparsify
from gulliver.spaces.trace import symbolic_trace
from torch import fx, nn

Values = list[Any]
Call = Callable[[Values], Any]
Kind = Literal["input", "layer", "batch_norm", "rounding", "module", "function", "output"]


@dataclass(frozen=True)
class Read:
    """A place in a call's arguments where the value of the step at `position` goes."""

    position: int


@dataclass(frozen=True)
class Step:
    """One call: it reads the values of the steps at `sources`; those at `frees` are read by no step after it.

    `module` is the name of the module that is called; `folded_into` is the position of the layer that a batch norm
    is folded into. `function` is what is called where no recipe changes it.
    """

    kind: Kind
    name: str
    sources: tuple[int, ...]
    module: str = ""
    folded_into: int | None = None
    function: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    frees: tuple[int, ...] = ()

    def bind(self, function: Callable[..., Any]) -> Call:
        """Return the call of the function with the step's arguments, taken from the values of all steps."""
        if len(self.args) == 1 and isinstance(self.args[0], Read) and not self.kwargs:
            position = self.args[0].position
            return lambda values: function(values[position])
        args, kwargs = self.args, self.kwargs or {}
        return lambda values: function(*_fill(args, values), **_fill(kwargs, values))


@dataclass(frozen=True)
class Plan:
    """A network's steps, and copies of its modules by name.

    A rounding comes right after each step that a layer reads. `groups_of` are the positions of the channel groups
    that a module loses channels with. `refusal` is the reason why the steps are not all that `compress` would do,
    where there is one.
    """

    steps: tuple[Step, ...]
    modules: Mapping[str, nn.Module]
    groups_of: Mapping[str, tuple[int, ...]]
    refusal: str | None = None

    def positions(self, kind: Kind) -> tuple[int, ...]:
        """Return the positions of the steps of one kind."""
        return self._positions.get(kind, ())

    @cached_property
    def norm_behind(self) -> Mapping[int, int]:
        """Return the position of the batch norm that is folded into the layer at a position."""
        return {step.folded_into: at for at, step in enumerate(self.steps) if step.folded_into is not None}

    @cached_property
    def _positions(self) -> Mapping[Kind, tuple[int, ...]]:
        kinds = {step.kind for step in self.steps}
        return {kind: tuple(at for at, step in enumerate(self.steps) if step.kind == kind) for kind in kinds}


def read_plan(model: nn.Module, graph: LayerGraph, ranking: Ranking) -> Plan:
    """Return the network's plan; one that is refused has no steps."""
    traced = symbolic_trace(copy.deepcopy(model).eval())
    thinned = sparsify(copy.deepcopy(model).eval(), graph, _half_of_all_channels(graph), ranking)
    refusal = find_refusal(traced, graph, thinned)
    if refusal:
        return Plan((), {}, {}, refusal)
    modules = dict(traced.named_modules())
    for module in modules.values():
        if hasattr(module, "inplace"):
            module.inplace = False
    touching: dict[str, list[int]] = {name: [] for name in modules}
    for position, group in enumerate(graph.channel_groups):
        for name in {coupling.module for coupling in group.couplings}:
            touching[name].append(position)
    groups_of = {name: tuple(positions) for name, positions in touching.items()}
    return Plan(_with_frees(_Reader(traced).steps), modules, groups_of)


class _Reader:
    """Walk the traced calls and keep where the value of each is found, as it is and rounded."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.steps: list[Step] = []
        self._traced = traced
        self._position: dict[fx.Node, int] = {}
        self._rounded: dict[fx.Node, int] = {}
        self._layers = [node for node in traced.graph.nodes if isinstance(module_of(node, traced), LAYERS)]
        self._read_by_layers = {self._origin(node.all_input_nodes[0]) for node in self._layers}
        for node in traced.graph.nodes:
            self._read(node)

    def _read(self, node: fx.Node) -> None:
        origin = self._origin(node)
        if origin is not node:
            self._position[node] = self._position[origin]
            self._rounded[node] = self._rounded[origin]
            return
        self._position[node] = self._rounded[node] = len(self.steps)
        self.steps.append(self._step(node))
        if node in self._read_by_layers:
            self._rounded[node] = len(self.steps)
            self.steps.append(Step("rounding", f"rounded_{node.name}", (self._position[node],)))

    def _origin(self, node: fx.Node) -> fx.Node:
        """Return what the node passes on, where it does nothing else."""
        while isinstance(module_of(node, self._traced), IDENTITIES):
            node = node.all_input_nodes[0]
        return node

    def _step(self, node: fx.Node) -> Step:
        module = module_of(node, self._traced)
        target = str(node.target)
        if node.op == "placeholder":
            return Step("input", target, (), args=node.args)
        if isinstance(module, LAYERS):
            return Step("layer", node.name, (self._rounded[node.all_input_nodes[0]],), target)
        if isinstance(module, BATCH_NORMS):
            source = self._position[node.all_input_nodes[0]]
            return Step("batch_norm", node.name, (source,), target, source if folds(node, self._traced) else None)
        args, kwargs = self._arguments(node)
        sources = tuple(it.position for it in _reads((args, kwargs)))
        if module is not None:
            return Step("module", node.name, sources, target, None, module, args, kwargs)
        if node.op == "output":
            return Step("output", node.name, sources, "", None, _identity, args)
        return Step("function", node.name, sources, "", None, self._function(node), args, kwargs)

    def _arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = self._template(node.args), self._template(node.kwargs)
        if node.target in ADDITIONS:
            # A residual addition takes the rounded tensor where there is one, as in `quantize`.
            args = tuple(Read(self._rounded[it]) if isinstance(it, fx.Node) else it for it in node.args)
        return args, {name: False if name == "inplace" else value for name, value in kwargs.items()}

    def _template(self, value: Any) -> Any:
        def read(node: fx.Node) -> Any:
            return Read(self._position[node])

        return fx.node.map_arg(value, read)

    def _function(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "get_attr":
            tensor = operator.attrgetter(str(node.target))(self._traced)
            return lambda: tensor
        if node.op == "call_method":
            name = str(node.target)
            return lambda owner, *args, **kwargs: getattr(owner, name)(*args, **kwargs)
        assert callable(node.target)
        return operator.add if node.target is operator.iadd else node.target


def _half_of_all_channels(graph: LayerGraph) -> Recipe:
    losing = {name for group in graph.channel_groups if not group.not_prunable for name in group.layers}
    return Recipe({name: LayerRecipe(Sparsify(0.5) if name in losing else None) for name in graph.layers})


def _identity(value: Any) -> Any:
    return value


def _fill(template: Any, values: Values) -> Any:
    """Return the arguments with the values of the steps in their places."""
    if isinstance(template, Read):
        return values[template.position]
    if isinstance(template, tuple | list):
        return type(template)([_fill(item, values) for item in template])
    if isinstance(template, Mapping):
        return {key: _fill(item, values) for key, item in template.items()}
    if isinstance(template, slice):
        return slice(*(_fill(bound, values) for bound in (template.start, template.stop, template.step)))
    return template


def _reads(template: Any) -> list[Read]:
    """Return the places of a template in their order."""
    if isinstance(template, Read):
        return [template]
    if isinstance(template, slice):
        template = (template.start, template.stop, template.step)
    if isinstance(template, Mapping):
        template = tuple(template.values())
    return [read for item in template for read in _reads(item)] if isinstance(template, tuple | list) else []


def _with_frees(steps: list[Step]) -> tuple[Step, ...]:
    last: dict[int, int] = {}
    for position, step in enumerate(steps):
        # A layer that is not quantized reads what comes before the rounding.
        also = (step.sources[0] - 1,) if step.kind == "layer" else ()
        last |= dict.fromkeys((*step.sources, *also), position)
    frees: dict[int, list[int]] = {position: [] for position in range(len(steps))}
    for position, reader in last.items():
        frees[reader].append(position)
    return tuple(replace(step, frees=tuple(frees[position])) for position, step in enumerate(steps))

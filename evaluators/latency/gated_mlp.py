"""Gated MLPs in a network, and whether each runs as one fused kernel or as several.

A gated MLP is down(silu(gate(x)) * up(x)). Where all three of its layers are int8, whole, dense and without a bias it
runs as one call of the fused kernel (fused_mlp/reference.py); one layer in floating point, split by a rank, 2:4 or with
a bias, and all of them run by themselves and what lies between them goes through memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gulliver.evaluators.latency.kernel import ComputeKernel, GatedMlpKernel, KernelCall, MemoryKernel
from gulliver.evaluators.latency.target import OperationLowering
from gulliver.spaces.choices import Choices
from gulliver.spaces.layer_graph import LayerGraph, Operation

# From the gate to the last layer: silu, product, down.
_LONGEST_WAY = 3


@dataclass(frozen=True)
class GatedMlpLayers:
    """The operations of one gated MLP, in order of execution."""

    gate: Operation
    up: Operation
    silu: Operation
    product: Operation
    down: Operation

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Return what the fused kernel replaces."""
        return self.gate, self.up, self.silu, self.product, self.down

    @property
    def layers(self) -> tuple[str, str, str]:
        """Return the names of the gate, up and down layers."""
        assert self.gate.layer is not None
        assert self.up.layer is not None
        assert self.down.layer is not None
        return self.gate.layer, self.up.layer, self.down.layer


def find_gated_mlps(graph: LayerGraph) -> tuple[GatedMlpLayers, ...]:
    """Return the network's gated MLPs whose inner tensors nothing else reads."""
    found = (_gated_mlp(graph, operation) for operation in graph.operations)
    return tuple(it for it in found if it)


def gated_mlp_of(graph: LayerGraph, operation: Operation) -> GatedMlpLayers | None:
    """Return the gated MLP that the operation is a part of, if any."""
    way = [operation]
    while len(way) <= _LONGEST_WAY and len(users := graph.users[way[-1].name]) == 1:
        way.append(users[0])
    found = (_gated_mlp(graph, it) for it in way)
    return next((it for it in found if it and operation in it.operations), None)


def _gated_mlp(graph: LayerGraph, down: Operation) -> GatedMlpLayers | None:
    """Return the gated MLP whose last layer this is, if its inner tensors are read by nothing else."""
    found = _form(graph, down) if down.kind == "linear" else None
    inner = found.operations[:-1] if found else ()
    return found if all(len(graph.users[it.name]) == 1 for it in inner) else None


def _form(graph: LayerGraph, down: Operation) -> GatedMlpLayers | None:
    by_name = graph.by_name
    product = by_name[down.inputs[0]]
    if product.function != "mul" or len(product.inputs) != 2:
        return None
    first, second = (by_name[name] for name in product.inputs)
    silu, up = (first, second) if first.function == "silu" else (second, first)
    if silu.function != "silu" or up.kind != "linear":
        return None
    gate = by_name[silu.inputs[0]]
    alike = gate.kind == "linear" and gate.inputs == up.inputs and gate.name != up.name
    return GatedMlpLayers(gate, up, silu, product, down) if alike else None


@dataclass(frozen=True)
class GatedMlpFusion:
    """The kernel calls of a network's operations, those of gated MLPs fused where they can be.

    `plain` gives the calls of an operation with nothing of a gated MLP fused; `refusal` is why a target fuses none.
    """

    graph: LayerGraph
    choices: Choices
    plain: OperationLowering
    refusal: str = ""

    def calls(self, operation: Operation) -> Iterator[KernelCall]:
        """Yield what runs for one operation: the fused kernel runs for the gate, and nothing for the rest."""
        mlp = gated_mlp_of(self.graph, operation)
        if mlp is None:
            yield from self.plain.calls(operation)
        elif reason := self.why_not_fused(mlp):
            note = f"the gated MLP is not fused: {reason}"
            yield from (replace(call, note=_joined(call.note, note)) for call in self.plain.calls(operation))
        elif operation == mlp.gate:
            yield from self._fused(mlp)

    def why_not_fused(self, mlp: GatedMlpLayers) -> str:
        """Return what keeps the gated MLP from being one kernel, naming the first layer that does, or nothing."""
        if self.refusal:
            return self.refusal
        for layer in mlp.layers:
            if self.graph.layers[layer].has_bias:
                return f"{layer} has a bias"
            quantize = self.choices.quantize(layer)
            if quantize is None:
                return f"{layer} stays in floating point"
            if quantize.widths != (8, 8):
                return f"{layer} is not in int8"
            if (split := self.choices.decompose(layer)) is not None:
                return f"rank {split.rank} splits {layer}"
            if self.choices.is_semi_structured(layer):
                return f"{layer} is 2:4"
        return ""

    def _fused(self, mlp: GatedMlpLayers) -> Iterator[KernelCall]:
        gate, down = (self._matmul(operation) for operation in (mlp.gate, mlp.down))
        gate_layer, up_layer, down_layer = mlp.layers
        kernel = GatedMlpKernel((gate.batch,), gate.in_channels, gate.out_channels, down.out_channels)
        yield KernelCall(kernel, gate_layer, (up_layer, "silu", "mul", down_layer))
        if down.output_precision == "int8":
            moved = down.batch * down.out_channels * (2 + 1)
            yield KernelCall(MemoryKernel("convert", moved), down_layer, (), "the fused kernel's result is float16")

    def _matmul(self, operation: Operation) -> ComputeKernel:
        """Return the layer's own kernel, from which the fused one takes its shapes."""
        return next(it.kernel for it in self.plain.calls(operation) if isinstance(it.kernel, ComputeKernel))


def _joined(note: str, reason: str) -> str:
    return f"{note}; {reason}" if note else reason

"""Lowering: a recipe on a network becomes the list of kernel calls that the target runs.

What fuses was read from OpenVINO 2026.4's execution graphs on this kind of CPU: a batch norm and an activation
always fuse into the layer before them; a residual addition fuses into a floating-point convolution but stays a
pass of its own behind an int8 one; a tensor that is needed both rounded and in floating point costs a conversion.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from gulliver.evaluators.latency.kernel import BYTES_PER_ELEMENT, ComputeKernel, KernelCall, MemoryKernel
from gulliver.spaces.layer_graph import Layer, LayerGraph, Operation
from gulliver.spaces.recipe import LayerRecipe, Recipe
from gulliver.spaces.shapes import Channels, channels_after

_LAYER_KINDS = ("conv1d", "conv2d", "linear")
_FUSED_KINDS = ("relu", "activation")
_PASS_KINDS = ("add", "pool", "concat", "other", *_FUSED_KINDS)
_INT8 = "int8"


def lower(graph: LayerGraph, recipe: Recipe, batch: int, float_type: str) -> tuple[KernelCall, ...]:
    """Return the kernel calls of the recipe's network at this batch size, in order of execution."""
    lowering = _Lowering(graph, recipe, batch, float_type)
    return tuple(call for operation in graph.operations for call in lowering.calls(operation))


@dataclass(frozen=True)
class _Lowering:
    graph: LayerGraph
    recipe: Recipe
    batch: int
    float_type: str

    def calls(self, operation: Operation) -> Iterator[KernelCall]:
        """Yield what runs for one traced operation: nothing if another operation absorbs it."""
        if operation.kind in _LAYER_KINDS:
            yield from self._layer_calls(operation)
        elif operation.kind == "input" and operation.name in self._rounded:
            yield self._memory_call("round", operation, _INT8, "the network's input is rounded")
        elif operation.kind in _PASS_KINDS and operation.name not in self._absorbed:
            note = "an int8 convolution absorbs no addition" if operation.kind == "add" else ""
            yield self._memory_call(operation.kind, operation, self._rounded_output(operation), note)

    def _layer_calls(self, operation: Operation) -> Iterator[KernelCall]:
        assert operation.layer is not None
        layer, choice = self.graph.layers[operation.layer], self.recipe.layers[operation.layer]
        fused, last = self._fused_into(operation)
        converts = self._converts(layer, choice, last)
        output = _INT8 if last.name in self._rounded and not converts else self.float_type
        for index, kernel in enumerate(kernels := self._kernels(layer, choice, output)):
            yield KernelCall(kernel, layer.name, fused if index == len(kernels) - 1 else ())
        if "add" in fused:
            yield self._residual_read(operation, last)
        if converts:
            yield self._memory_call("convert", last, _INT8, converts)

    def _converts(self, layer: Layer, choice: LayerRecipe, last: Operation) -> str:
        """Return why the layer's result is rounded by a kernel of its own, or nothing if it is not."""
        if last.name not in self._rounded or last.name in self._rounded_by_addition:
            return ""
        if choice.quantize is None:
            return f"{layer.name} runs in {self.float_type} and feeds an int8 layer"
        if last.name in self._needed_in_float:
            return f"the output of {layer.name} is needed both in int8 and in {self.float_type}"
        return ""

    def _kernels(self, layer: Layer, choice: LayerRecipe, output: str) -> list[ComputeKernel]:
        channels = self._channels[layer.name]
        precision = _INT8 if choice.quantize else self.float_type
        whole = _kernel(layer, channels, self.batch, precision, output)
        if choice.decompose is None:
            return [whole]
        return list(_halves(whole, choice.decompose.rank, precision))

    def _fused_into(self, operation: Operation) -> tuple[tuple[str, ...], Operation]:
        """Return what is fused into a layer, and the operation whose result the layer then gives."""
        fused: list[str] = []
        last = operation
        while (follower := self._only_user(last)) and self._fuses(follower, operation, fused):
            fused.append(follower.kind)
            last = follower
        return tuple(fused), last

    def _fuses(self, follower: Operation, operation: Operation, fused: list[str]) -> bool:
        if follower.kind == "batch_norm":
            return not fused
        if follower.kind in _FUSED_KINDS:
            return follower.kind not in fused
        return follower.kind == "add" and "add" not in fused and self._absorber.get(follower.name) == operation.name

    def _memory_call(self, kind: str, operation: Operation, output: str, note: str = "") -> KernelCall:
        read = sum(self._bytes(source, operation) for source in operation.inputs)
        if kind in ("convert", "round"):
            read = self._elements(operation.name) * BYTES_PER_ELEMENT[self.float_type]
        written = self._elements(operation.name) * BYTES_PER_ELEMENT[output]
        return KernelCall(MemoryKernel(kind, read + written), operation.name, (), note)

    def _residual_read(self, operation: Operation, last: Operation) -> KernelCall:
        size = self._elements(last.name) * BYTES_PER_ELEMENT[self.float_type]
        kernel = MemoryKernel("fused_add", size)
        return KernelCall(kernel, operation.name, (), "the residual is read by the convolution")

    def _bytes(self, name: str, reader: Operation) -> int:
        # Of the passes, additions alone take a rounded tensor (compressors/quantize.py); the rest read it as it was.
        rounded = name in self._rounded and reader.kind == "add"
        return self._elements(name) * BYTES_PER_ELEMENT[_INT8 if rounded else self.float_type]

    def _rounded_output(self, operation: Operation) -> str:
        follower = self._only_user(operation)
        last = follower if follower and follower.kind in _FUSED_KINDS else operation
        return _INT8 if last.name in self._rounded else self.float_type

    def _elements(self, name: str) -> int:
        return prod(self._shapes[name])

    def _only_user(self, operation: Operation) -> Operation | None:
        users = self._users[operation.name]
        return users[0] if len(users) == 1 else None

    def _quantized(self, operation: Operation) -> bool:
        return operation.layer is not None and self.recipe.layers[operation.layer].quantize is not None

    @cached_property
    def _operations(self) -> dict[str, Operation]:
        return {operation.name: operation for operation in self.graph.operations}

    @cached_property
    def _users(self) -> dict[str, list[Operation]]:
        users: dict[str, list[Operation]] = {name: [] for name in self._operations}
        for operation in self.graph.operations:
            for source in operation.inputs:
                users[source].append(operation)
        return users

    @cached_property
    def _channels(self) -> dict[str, Channels]:
        return channels_after(self.graph, self.recipe)

    @cached_property
    def _rounded(self) -> frozenset[str]:
        """Tensors that a quantized layer reads."""
        return frozenset(source for it in self.graph.operations if self._quantized(it) for source in it.inputs)

    @cached_property
    def _needed_in_float(self) -> frozenset[str]:
        """Rounded tensors that something other than a quantized layer or an addition reads too."""
        return frozenset(
            name
            for name in self._rounded
            for user in self._users[name]
            if user.kind != "add" and not self._quantized(user)
        )

    @cached_property
    def _rounded_by_addition(self) -> frozenset[str]:
        """Tensors whose rounding is part of the pass that adds the residual."""
        unfused = [it for it in self.graph.operations if it.kind == "add" and it.name not in self._absorbed]
        followers = [self._only_user(it) for it in unfused]
        return frozenset([it.name for it in unfused] + [it.name for it in followers if it and it.kind in _FUSED_KINDS])

    @cached_property
    def _absorber(self) -> dict[str, str]:
        """For each addition, the floating-point convolution that computes it with its own result."""
        absorbers: dict[str, str] = {}
        for operation in self.graph.operations:
            if operation.kind == "add":
                candidates = [self._producer(source) for source in operation.inputs]
                floats = [it for it in candidates if it is not None and not self._quantized(it)]
                if floats:
                    absorbers[operation.name] = max(floats, key=self.graph.operations.index).name
        return absorbers

    def _producer(self, name: str) -> Operation | None:
        """Return the convolution whose result this is, if nothing but a batch norm lies between."""
        operation = self._operations[name]
        while operation.kind == "batch_norm" and len(self._users[operation.name]) == 1:
            operation = self._operations[operation.inputs[0]]
        is_convolution = operation.kind in ("conv1d", "conv2d")
        return operation if is_convolution and len(self._users[operation.name]) == 1 else None

    @cached_property
    def _absorbed(self) -> frozenset[str]:
        """Additions and activations that are part of another kernel."""
        names = set(self._absorber)
        for operation in self.graph.operations:
            if operation.kind in _FUSED_KINDS:
                source = self._operations[operation.inputs[0]]
                if source.kind in (*_LAYER_KINDS, "batch_norm", "add") and len(self._users[source.name]) == 1:
                    names.add(operation.name)
        return frozenset(names)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape at this batch size and after the recipe's removals."""
        shapes: dict[str, tuple[int, ...]] = {}
        for operation in self.graph.operations:
            shapes[operation.name] = (self.batch, *self._tail(operation, shapes))
        return shapes

    def _tail(self, operation: Operation, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        tail = operation.shape[1:]
        if not tail or not operation.inputs:
            return tail
        if operation.layer is not None:
            outputs = self._channels[operation.layer].outputs
            return (*tail[:-1], outputs) if operation.kind == "linear" else (outputs, *tail[1:])
        sources = [shapes[source] for source in operation.inputs]
        if operation.kind == "flatten":
            return (prod(sources[0][1:]),)
        if operation.kind == "concat":
            return (sum(source[1] for source in sources), *tail[1:])
        return (sources[0][1], *tail[1:]) if len(sources[0]) > 1 else tail


def _kernel(layer: Layer, channels: Channels, batch: int, precision: str, output: str) -> ComputeKernel:
    if layer.kind == "linear":
        rows = batch * prod(layer.output_shape[1:-1])
        return ComputeKernel(
            "linear", rows, channels.inputs, channels.outputs, (), (), (), (), (), 1, precision, output
        )
    depthwise = layer.groups == layer.in_channels > 1
    return ComputeKernel(
        kind=layer.kind,
        batch=batch,
        in_channels=channels.inputs,
        out_channels=channels.outputs,
        input_size=layer.input_shape[2:],
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=channels.inputs if depthwise else layer.groups,
        precision=precision,
        output_precision=output,
    )


def _halves(whole: ComputeKernel, rank: int, precision: str) -> tuple[ComputeKernel, ComputeKernel]:
    """Return the two kernels that a layer of this rank runs as (compressors/decompose.py)."""
    if whole.kind == "linear":
        first = replace(whole, out_channels=rank, output_precision=precision)
        return first, replace(whole, in_channels=rank)
    first = replace(
        whole,
        out_channels=rank,
        kernel_size=(whole.kernel_size[0], 1),
        stride=(whole.stride[0], 1),
        padding=(whole.padding[0], 0),
        dilation=(whole.dilation[0], 1),
        output_precision=precision,
    )
    second = replace(
        whole,
        in_channels=rank,
        input_size=first.output_size,
        kernel_size=(1, whole.kernel_size[1]),
        stride=(1, whole.stride[1]),
        padding=(0, whole.padding[1]),
        dilation=(1, whole.dilation[1]),
    )
    return first, second

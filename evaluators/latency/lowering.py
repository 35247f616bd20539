"""Lowering: a recipe on a network becomes the list of kernel calls that the target runs.

What fuses was read from OpenVINO 2026.4's execution graphs on this kind of CPU: a batch norm and an activation
always fuse into the layer before them; a residual addition fuses into a floating-point convolution but stays a
pass of its own behind an int8 one; a tensor that is needed both rounded and in floating point costs a conversion.
A rounding comes before what only selects or joins values (compressors/hoist.py), which then moves integers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from gulliver.evaluators.latency.kernel import BYTES_PER_ELEMENT, ComputeKernel, KernelCall, MemoryKernel
from gulliver.evaluators.latency.layer_kernels import kernels_of_parts, layer_kernel, told_apart
from gulliver.evaluators.latency.target import OperationLowering
from gulliver.evaluators.latency.tensor_shapes import TensorShapes
from gulliver.spaces.choices import Choices
from gulliver.spaces.layer_graph import Layer, LayerGraph, Operation
from gulliver.spaces.parts import parts_of
from gulliver.spaces.recipe import Quantize

_LAYER_KINDS = ("conv1d", "conv2d", "linear")
_FUSED_KINDS = ("relu", "activation")
_KEEP_SIGNS = ("add", "pool", "concat", "flatten")
_PASS_KINDS = ("add", "batch_norm", "pool", "concat", "other", *_FUSED_KINDS)
_INT8 = "int8"
_INT8_BITS = 8

PrecisionOf = Callable[[Quantize | None, str], str]


def int8_or_float(quantize: Quantize | None, float_type: str) -> str:
    """Return the precision of a layer where everything whose inputs are rounded runs in int8."""
    return _INT8 if _rounds_inputs(quantize) else float_type


def _rounds_inputs(quantize: Quantize | None) -> bool:
    return quantize is not None and quantize.widths[1] <= _INT8_BITS


def all_calls(graph: LayerGraph, lowering: OperationLowering) -> tuple[KernelCall, ...]:
    """Return the kernel calls of all operations of the network, in order of execution."""
    return tuple(call for operation in graph.operations for call in lowering.calls(operation))


@dataclass(frozen=True)
class Lowering:
    """A network's choices as kernel calls: of each operation, which asks only for the choices that matter to it.

    `precision_of` names the precision of a layer's kernel by its widths. With `tells_kernels_apart`, as where they are
    timed, kernels say whether they read values below zero, are bare, add a residual, or round what they give in
    floating point; else an addition is priced by what it reads. Kernels of 2:4 layers skip zeros in the precisions of
    `sparse_2_4`. An operation without a tensor as its result, as a split or a size, costs nothing.
    """

    graph: LayerGraph
    choices: Choices
    batch: int
    float_type: str
    precision_of: PrecisionOf = int8_or_float
    tells_kernels_apart: bool = False
    sparse_2_4: tuple[str, ...] = ()

    @cached_property
    def _tensors(self) -> TensorShapes:
        return TensorShapes(self.graph, self.choices, self.batch)

    def calls(self, operation: Operation) -> Iterator[KernelCall]:
        """Yield what runs for one traced operation: nothing if another operation absorbs it."""
        if operation.kind in _LAYER_KINDS:
            yield from self._layer_calls(operation)
        elif operation.kind == "input" and self._is_rounded(operation.name):
            yield self._memory_call("round", operation, _INT8, "the network's input is rounded")
        elif operation.kind == "slice" and operation.shape:
            yield self._memory_call("slice", operation, self.float_type)
            if self._is_rounded(operation.name):
                yield self._memory_call("round", operation, _INT8, "a copy rounds nothing")
        elif operation.kind in _PASS_KINDS and operation.shape and not self._is_absorbed(operation):
            yield self._memory_call(
                operation.kind, operation, self._rounded_output(operation), self._why_a_pass(operation)
            )

    def _why_a_pass(self, operation: Operation) -> str:
        """Return why an addition is none of a convolution's, where it could have been."""
        producers = [*filter(None, map(self._producer, operation.inputs))] if operation.kind == "add" else []
        if not producers:
            return ""
        is_int8 = all(map(self._is_int8, producers))
        return "an int8 convolution absorbs no addition" if is_int8 else "no convolution absorbs a rounded addend"

    def _layer_calls(self, operation: Operation) -> Iterator[KernelCall]:
        assert operation.layer is not None
        layer = self.graph.layers[operation.layer]
        fused, last = self._fused_into(operation)
        converts = self._converts(layer, last)
        output = _INT8 if self._rounds(layer, last, converts) else self.float_type
        kernels = self._kernels(layer, output)
        if self.tells_kernels_apart:
            signed = self._reads_int8(layer.name) and not self._is_non_negative(operation.inputs[0])
            kernels = list(told_apart(kernels, signed, "add" in fused))
        note = self._why_dense(layer, kernels[0])
        for index, kernel in enumerate(kernels):
            yield KernelCall(kernel, layer.name, fused if index == len(kernels) - 1 else (), note)
        if "add" in fused and not self.tells_kernels_apart:
            yield self._residual_read(operation, last)
        if converts:
            yield self._memory_call("convert", last, _INT8, converts)

    def _rounds(self, layer: Layer, last: Operation, converts: str) -> bool:
        """Say whether the layer's kernel rounds its result."""
        if not converts:
            return self._is_rounded(last.name)
        return self.tells_kernels_apart and not self._reads_int8(layer.name) and not self._is_needed_in_float(last.name)

    def _converts(self, layer: Layer, last: Operation) -> str:
        """Return why the layer's result is rounded by a kernel of its own, or nothing if it is not."""
        if not self._is_rounded(last.name) or self._is_rounded_by_addition(last):
            return ""
        if not self._reads_int8(layer.name):
            return f"{layer.name} runs in {self.float_type} and feeds an int8 layer"
        if self._is_needed_in_float(last.name):
            return f"the output of {layer.name} is needed both in int8 and in {self.float_type}"
        return ""

    def _is_non_negative(self, name: str) -> bool:
        """Say whether the tensor has nothing below zero, whatever the inputs are."""
        operation = self.graph.by_name[name]
        if operation.kind == "relu" or operation.function == "relu6":
            return True
        return operation.kind in _KEEP_SIGNS and all(map(self._is_non_negative, operation.inputs))

    def _kernels(self, layer: Layer, output: str) -> list[ComputeKernel]:
        precision = self.precision_of(self.choices.quantize(layer.name), self.float_type)
        channels = self.choices.channels(layer.name)
        counted = layer.output_shape[:-1] if layer.kind == "linear" else layer.output_shape[:1]
        whole = layer_kernel(layer, channels, self._tensors.at_batch(prod(counted)), precision, output)
        split = self.choices.decompose(layer.name)
        if split is None:
            return [replace(whole, skips_zeros=self._skips_zeros(layer, precision))]
        between = _INT8 if self._reads_int8(layer.name) else self.float_type
        return list(kernels_of_parts(whole, parts_of(layer, channels, split), between))

    def _skips_zeros(self, layer: Layer, precision: str) -> bool:
        return precision in self.sparse_2_4 and self.choices.is_semi_structured(layer.name)

    def _why_dense(self, layer: Layer, kernel: ComputeKernel) -> str:
        """Return why the zeros of a 2:4 layer are multiplied, or nothing where it is none or they are skipped."""
        if kernel.skips_zeros or not self.choices.is_semi_structured(layer.name):
            return ""
        return f"the target skips no zeros in {kernel.precision}"

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
        return follower.kind == "add" and "add" not in fused and self._absorber(follower) == operation

    def _memory_call(self, kind: str, operation: Operation, output: str, note: str = "") -> KernelCall:
        read = sum(self._bytes(it, operation) for it in operation.inputs if self.graph.by_name[it].shape)
        if kind in ("convert", "round", "slice"):
            read = self._tensors.elements(operation.name) * BYTES_PER_ELEMENT[self.float_type]
        written = self._tensors.elements(operation.name) * BYTES_PER_ELEMENT[output]
        return KernelCall(MemoryKernel(kind, read + written), operation.name, (), note)

    def _residual_read(self, operation: Operation, last: Operation) -> KernelCall:
        size = self._tensors.elements(last.name) * BYTES_PER_ELEMENT[self.float_type]
        kernel = MemoryKernel("fused_add", size)
        return KernelCall(kernel, operation.name, (), "the residual is read by the convolution")

    def _bytes(self, name: str, reader: Operation) -> int:
        # Of the other passes, additions alone take a rounded tensor (compressors/quantize.py).
        rounded = (reader.kind == "add" or self._moves_rounded(reader)) and self._is_rounded(name)
        return self._tensors.elements(name) * BYTES_PER_ELEMENT[_INT8 if rounded else self.float_type]

    def _rounded_output(self, operation: Operation) -> str:
        follower = self._only_user(operation)
        last = follower if follower and follower.kind in _FUSED_KINDS else operation
        return _INT8 if self._is_rounded(last.name) else self.float_type

    def _only_user(self, operation: Operation) -> Operation | None:
        users = self.graph.users[operation.name]
        return users[0] if len(users) == 1 else None

    def _is_int8(self, operation: Operation) -> bool:
        return operation.layer is not None and self._reads_int8(operation.layer)

    def _reads_int8(self, layer: str) -> bool:
        """Say whether the layer's inputs are rounded: where its weights alone are quantized, they are not."""
        return _rounds_inputs(self.choices.quantize(layer))

    def _is_rounded(self, name: str) -> bool:
        """Say whether an int8 layer reads the tensor, or what moves it to one."""
        return any(map(self._reads_rounded, self.graph.users[name]))

    def _reads_rounded(self, user: Operation) -> bool:
        return self._is_int8(user) or self._moves_rounded(user)

    def _moves_rounded(self, operation: Operation) -> bool:
        """Say whether the operation only selects or joins values, and stands behind their rounding (hoist.py)."""
        if not (operation.kind in ("flatten", "concat") or (operation.kind == "pool" and operation.function == "max")):
            return False
        readers = self.graph.users[operation.name]
        unshared = all(self.graph.users[name] == (operation,) for name in operation.inputs)
        return bool(readers) and unshared and all(map(self._reads_rounded, readers))

    def _is_needed_in_float(self, name: str) -> bool:
        """Say whether something reads the tensor as it was; additions take it rounded too."""
        return any(user.kind != "add" and not self._reads_rounded(user) for user in self.graph.users[name])

    def _is_rounded_by_addition(self, operation: Operation) -> bool:
        """Say whether the result is rounded in the pass that adds the residual."""
        addition = operation
        if operation.kind in _FUSED_KINDS:
            addition = self.graph.by_name[operation.inputs[0]]
        unshared = addition is operation or len(self.graph.users[addition.name]) == 1
        return addition.kind == "add" and unshared and self._absorber(addition) is None

    def _absorber(self, addition: Operation) -> Operation | None:
        """Return the floating-point convolution that computes the addition with its own result, the last of them.

        None does where another addend is rounded.
        """
        if any(map(self._is_rounded, addition.inputs)):
            return None
        producers = (self._producer(source) for source in addition.inputs)
        floats = [it for it in producers if it is not None and not self._is_int8(it)]
        return max(floats, key=lambda it: self.graph.positions[it.name]) if floats else None

    def _producer(self, name: str) -> Operation | None:
        """Return the convolution whose result this is, if nothing but a batch norm lies between."""
        operation = self.graph.by_name[name]
        while operation.kind == "batch_norm" and self._only_user(operation):
            operation = self.graph.by_name[operation.inputs[0]]
        is_convolution = operation.kind in ("conv1d", "conv2d")
        return operation if is_convolution and self._only_user(operation) else None

    def _is_absorbed(self, operation: Operation) -> bool:
        """Say whether an addition, a batch norm or an activation is part of another kernel."""
        if operation.kind == "add":
            return self._absorber(operation) is not None
        if operation.kind not in ("batch_norm", *_FUSED_KINDS):
            return False
        source = self.graph.by_name[operation.inputs[0]]
        absorbing = _LAYER_KINDS if operation.kind == "batch_norm" else (*_LAYER_KINDS, "batch_norm", "add")
        return source.kind in absorbing and self._only_user(source) is not None

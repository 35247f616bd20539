"""Export to ONNX: roundings are pairs of QuantizeLinear and DequantizeLinear, weights are stored as integers."""

import copy
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gulliver.compressors.export import of_batch
from gulliver.compressors.quantize import QuantizedActivation, QuantizedLayer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx.symbolic_helper import parse_args

# Integers of 4 and 16 bits came with this version of the operators.
OPSET = 21
# The newest that torch writes; between the two no operator that it writes computes anything else.
_TORCH_OPSET = 20
_INT4 = -8, 7


def to_onnx(model: nn.Module, example_inputs: tuple[Tensor, ...], batch: int) -> Any:
    """Return the network as an `onnx.ModelProto` of this batch size; what stays in floating point is float32.

    Weights of at most 4 bits are stored as INT4, others as INT8, each with a scale for each row that has one.
    """
    import onnx

    inputs = tuple(of_batch(tensor, batch) for tensor in example_inputs)
    buffer: Any = BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), _adaptive_pooling():
        # Deprecated in torch 2.13, but its other exporter needs a further package (onnxscript).
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(_exportable(model), inputs, buffer, dynamo=False, opset_version=_TORCH_OPSET)
    exported = onnx.load_from_string(buffer.getvalue())
    exported.opset_import[0].version = OPSET
    _pack_weights(exported)
    onnx.checker.check_model(exported, full_check=True)
    return exported


def save_onnx(exported: Any, path: Path) -> int:
    """Write the network to `path` (.onnx), and return the file's bytes."""
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(exported, path)
    return path.stat().st_size


def _exportable(model: nn.Module) -> nn.Module:
    """Return a copy of the network whose roundings are exported as ONNX has them."""
    exportable = copy.deepcopy(model)
    for name, module in list(exportable.named_modules()):
        if isinstance(module, QuantizedActivation):
            exportable.set_submodule(name, _Activation(module))
        elif isinstance(module, QuantizedLayer):
            exportable.set_submodule(name, _Layer(module))
    return exportable


class _Activation(nn.Module):
    """A QuantizedActivation in the narrowest integers that hold its levels."""

    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: QuantizedActivation) -> None:
        super().__init__()
        lowest, highest, zero_point = quantizer.lowest_level, quantizer.highest_level, quantizer.zero_point
        # Numbers that are not 8 bits wide are clipped first: to quantize saturates at the ends of the type alone.
        self.clips = highest - lowest < torch.iinfo(torch.uint8).max or highest > torch.iinfo(torch.uint8).max
        bounds = (lowest - zero_point) * quantizer.scale, (highest - zero_point) * quantizer.scale
        if highest > torch.iinfo(torch.uint8).max or lowest < torch.iinfo(torch.int8).min:
            kind, zero_point = torch.int16, zero_point - (lowest - torch.iinfo(torch.int16).min)
        else:
            kind = torch.int8 if lowest < 0 else torch.uint8
        for name, value in zip(("low", "high"), bounds, strict=True):
            self.register_buffer(name, torch.tensor(value))
        self.register_buffer("scale", torch.tensor(quantizer.scale))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=kind))

    def forward(self, values: Tensor) -> Tensor:
        """Return the tensor of the same shape, rounded and clipped."""
        if self.clips:
            values = values.clamp(self.low, self.high)
        levels = _Quantize.apply(values, self.scale, self.zero_point)  # type: ignore[no-untyped-call]
        rounded: Tensor = _Dequantize.apply(levels, self.scale, self.zero_point)  # type: ignore[no-untyped-call]
        return rounded


class _Layer(nn.Module):
    """A QuantizedLayer with its weights as integers."""

    levels: Tensor
    scales: Tensor
    zero_points: Tensor

    def __init__(self, quantized: QuantizedLayer) -> None:
        super().__init__()
        self.quantized = quantized
        rows = quantized.rows(quantized.layer.weight.detach())
        self.register_buffer("levels", quantized.levels.along(rows).levels(rows).to(torch.int8))
        self.register_buffer("scales", quantized.scales.clone())
        self.register_buffer("zero_points", quantized.zero_points.to(torch.int8))

    def forward(self, values: Tensor) -> Tensor:
        """Return what the layer returns with its weights rounded."""
        rows = _DequantizeRows.apply(self.levels, self.scales, self.zero_points)  # type: ignore[no-untyped-call]
        return self.quantized.run(values, rows)


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        bounds = torch.iinfo(zero_point.dtype)
        return (values / scale + zero_point).round().clamp(bounds.min, bounds.max).to(zero_point.dtype)

    @staticmethod
    def symbolic(g: Any, values: Any, scale: Any, zero_point: Any) -> Any:
        return g.op("QuantizeLinear", values, scale, zero_point)


class _Dequantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, levels: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return (levels.float() - zero_point) * scale

    @staticmethod
    def symbolic(g: Any, levels: Any, scale: Any, zero_point: Any) -> Any:
        return _of_shape(g.op("DequantizeLinear", levels, scale, zero_point), scale, levels)


class _DequantizeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, levels: Tensor, scales: Tensor, zero_points: Tensor) -> Tensor:
        shape = (-1, *[1] * (levels.dim() - 1))
        return (levels.float() - zero_points.reshape(shape)) * scales.reshape(shape)

    @staticmethod
    def symbolic(g: Any, levels: Any, scales: Any, zero_points: Any) -> Any:
        return _of_shape(g.op("DequantizeLinear", levels, scales, zero_points, axis_i=0), scales, levels)


def _of_shape(result: Any, scales: Any, levels: Any) -> Any:
    """Return the result with its shape, which torch does not infer but asks for where a convolution reads it."""
    result.setType(scales.type().with_sizes(levels.type().sizes()))
    return result


@contextmanager
def _adaptive_pooling() -> Iterator[None]:
    """Let torch export, while the context lasts, adaptive average pooling to sizes that do not divide the input's."""
    name, registry = "aten::adaptive_avg_pool2d", importlib.import_module("torch.onnx")
    registry.register_custom_op_symbolic(name, _pool, _TORCH_OPSET)
    try:
        yield
    finally:
        registry.unregister_custom_op_symbolic(name, _TORCH_OPSET)


@parse_args("v", "is")
def _pool(g: Any, values: Any, output: list[int]) -> Any:
    if output == [1, 1]:
        return g.op("GlobalAveragePool", values)
    rows, columns = (_averages(*sizes) for sizes in zip(values.type().sizes()[-2:], output, strict=True))
    pooled = g.op("MatMul", g.op("Constant", value_t=rows), values)
    return g.op("MatMul", pooled, g.op("Constant", value_t=columns.T.contiguous()))


def _averages(size: int, output: int) -> Tensor:
    """Return (output, size): the matrix that pools so many values."""
    return F.adaptive_avg_pool1d(torch.eye(size), output).T.contiguous()


def _pack_weights(exported: Any) -> None:
    """Store in place the weights that fit in 4 bits in as many, and their zero points in the type of the weights."""
    stored = {tensor.name: tensor for tensor in exported.graph.initializer}
    readers = [node for node in exported.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    # torch stores equal tensors once, and one may be the zero points of weights of two types.
    names = {node.output[0]: node.input[0] for node in exported.graph.node if node.op_type == "Identity"}
    zero_points = {node.input[0]: stored[names.get(node.input[2], node.input[2])] for node in readers}
    packed = {name: _pack(stored[name], zeros) for name, zeros in zero_points.items()}
    exported.graph.initializer.extend(packed.values())
    for node in readers:
        node.input[2] = packed[node.input[0]].name
    _remove_unread(exported.graph)


def _remove_unread(graph: Any) -> None:
    """Remove in place the other names of tensors, and the tensors, that nothing reads any more."""
    read = {name for node in graph.node for name in node.input} | {it.name for it in graph.output}
    for node in [it for it in graph.node if it.op_type == "Identity" and it.output[0] not in read]:
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input} | {it.name for it in graph.output}
    for tensor in [it for it in graph.initializer if it.name not in read]:
        graph.initializer.remove(tensor)


def _pack(weights: Any, zero_points: Any) -> Any:
    """Store the weights in place in the narrowest type that holds them; return the zero points of their rows."""
    from onnx import TensorProto, helper, numpy_helper

    levels, zeros = numpy_helper.to_array(weights), numpy_helper.to_array(zero_points)
    small = _INT4[0] <= min(levels.min(), zeros.min()) and max(levels.max(), zeros.max()) <= _INT4[1]
    kind, stored = (TensorProto.INT4, _nibbles) if small else (TensorProto.INT8, _bytes)
    weights.CopyFrom(helper.make_tensor(weights.name, kind, levels.shape, stored(levels), raw=True))
    return helper.make_tensor(f"{weights.name}_zero_points", kind, zeros.shape, stored(zeros), raw=True)


def _bytes(levels: NDArray[np.int8]) -> bytes:
    return levels.tobytes()


def _nibbles(levels: NDArray[np.int8]) -> bytes:
    """Return two integers in each byte, the earlier one in its lower half."""
    pairs = np.pad(levels.flatten(), (0, levels.size % 2)).reshape(-1, 2).view(np.uint8) & 0xF
    return (pairs[:, 0] | pairs[:, 1] << 4).tobytes()

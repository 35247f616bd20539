"""Export to OpenVINO IR: weights stored in their integer width, removed channels gone, split layers split."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# A depthwise convolution's weights are reshaped first, an embedding's are gathered.
_WEIGHT_READERS = ("Convolution", "GroupConvolution", "MatMul", "Reshape", "Gather")
# As many are multiplied in one kernel with those of the next layer.
_FEW_ROWS = 8
# Hardly more than the least that 16 bits hold.
_NEXT_TO_NOTHING = 1e-7


def to_openvino(model: nn.Module, example_inputs: tuple[Tensor, ...], batch: int) -> Any:
    """Return the network as an `openvino.Model` of this batch size, its quantized weights packed.

    Unless it is compiled with another DYNAMIC_QUANTIZATION_GROUP_SIZE, it rounds nothing that was not rounded before.
    """
    import openvino
    from openvino._offline_transformations import compress_quantize_weights_transformation

    logging.getLogger("nncf").setLevel(logging.ERROR)
    inputs = tuple(of_batch(tensor, batch) for tensor in example_inputs)
    with torch.no_grad(), warnings.catch_warnings():
        # Deprecated in torch 2.13, but what openvino.convert_model itself traces a module with.
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(model, inputs, check_trace=False)  # type: ignore[no-untyped-call]
        converted = openvino.convert_model(traced, example_input=inputs, input=[tuple(it.shape) for it in inputs])
    compress_quantize_weights_transformation(converted)
    _add_missing_biases(converted)
    # By default a matrix product with packed weights and floating-point inputs rounds these to 8 bits as it runs.
    converted.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    return converted


def save_openvino(converted: Any, path: Path, half: bool = True) -> int:
    """Write `path` (.xml) and its weights (.bin); return the bytes of the weights.

    Floating-point weights are stored in 16 bits where `half`, as the target's bf16 runs them anyway.
    """
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    if half:
        _halve_weights(converted)
    openvino.save_model(converted, path, compress_to_fp16=half)
    return path.with_suffix(".bin").stat().st_size


def _add_missing_biases(converted: Any) -> None:
    """Give some products a bias next to nothing, in place, where theirs is the same everywhere.

    OpenVINO 2026.4 makes one kernel of several small products with packed weights in a row, which writes beyond its
    memory for 4, 6 or 8 rows, and one of the three products of a SwiGLU, which divides by zero on one thread.
    Biases that differ from column to column keep it from both.
    """
    from openvino import opset13

    for product in converted.get_ordered_ops():
        if (_is_small_packed_product(product) or _is_gate(product)) and not _is_biased(product):
            readers = product.output(0).get_target_inputs()
            shape = product.output(0).get_partial_shape()
            bias = np.full([1] * (len(shape) - 1) + [shape[-1].get_length()], _NEXT_TO_NOTHING, np.float32)
            bias[..., 1::2] *= -1
            biased = opset13.add(product, opset13.constant(bias))
            for reader in readers:
                reader.replace_source_output(biased.output(0))


def _is_gate(node: Any) -> bool:
    """Say whether the node is a product that a SiLU reads."""
    readers = node.output(0).get_target_inputs() if node.get_type_name() == "MatMul" else ()
    silu = any(it.get_node().get_type_name() == "Swish" for it in readers)
    return silu and bool(node.output(0).get_partial_shape()[-1].is_static)


def _is_small_packed_product(node: Any) -> bool:
    """Say whether the node multiplies a matrix of few rows by weights that are integers times their scales."""
    if node.get_type_name() != "MatMul":
        return False
    shape, weights = node.output(0).get_partial_shape(), node.input_value(1).get_node()
    is_small = shape.is_static and len(shape) == 2 and shape[0].get_length() <= _FEW_ROWS
    return bool(is_small and weights.get_type_name() == "Multiply")


def _is_biased(product: Any) -> bool:
    """Say whether not all that is added to the columns of the product is the same."""
    readers = [it.get_node() for it in product.output(0).get_target_inputs()]
    added = [it for it in readers if it.get_type_name() == "Add"]
    constants = [it.get_node() for add in added for it in add.input_values() if it.get_node() != product]
    return any(it.get_type_name() == "Constant" and np.ptp(it.data) > 0 for it in constants)


def _halve_weights(converted: Any) -> None:
    """Store floating-point weights in 16 bits, in place: saving leaves them as they are if any layer is quantized."""
    from openvino import opset13

    for constant in converted.get_ordered_ops():
        readers = constant.output(0).get_target_inputs() if constant.get_type_name() == "Constant" else ()
        floating = bool(readers) and constant.get_element_type().get_type_name() == "f32"
        weights = floating and all(it.get_node().get_type_name() in _WEIGHT_READERS for it in readers)
        if weights and np.abs(constant.data).max() <= np.finfo(np.float16).max:
            halved = opset13.convert(opset13.constant(constant.data.astype(np.float16)), "f32")
            for reader in readers:
                reader.replace_source_output(halved.output(0))


def of_batch(tensor: Tensor, batch: int) -> Tensor:
    """Return the tensor with its samples repeated, or left out, to be of this batch size."""
    repeats = -(-batch // tensor.shape[0])
    return tensor.repeat(repeats, *([1] * (tensor.dim() - 1)))[:batch]

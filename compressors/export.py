"""Export to OpenVINO IR: weights stored in their integer width, removed channels gone, split layers split."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# A depthwise convolution's weights are reshaped first.
_WEIGHT_READERS = ("Convolution", "GroupConvolution", "MatMul", "Reshape")


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

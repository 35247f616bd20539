"""The kernels of one layer: whole or split, and what else their time depends on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.spaces.layer_graph import Layer
from gulliver.spaces.parts import Part
from gulliver.spaces.shapes import Channels


def layer_kernel(layer: Layer, channels: Channels, batch: int, precision: str, output: str) -> ComputeKernel:
    """Return the layer's kernel; the batch of a linear layer is its rows."""
    if layer.kind == "linear":
        return ComputeKernel(
            "linear", batch, channels.inputs, channels.outputs, (), (), (), (), (), 1, precision, output
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


def kernels_of_parts(whole: ComputeKernel, parts: Sequence[Part], between: str) -> Iterator[ComputeKernel]:
    """Yield the kernels that a split layer runs as; what they hand to each other is `between`."""
    size = whole.input_size
    for index, part in enumerate(parts):
        kernel = replace(
            whole,
            in_channels=part.inputs,
            out_channels=part.outputs,
            input_size=size,
            kernel_size=part.kernel_size,
            stride=part.stride,
            padding=part.padding,
            dilation=part.dilation,
            output_precision=whole.output_precision if index == len(parts) - 1 else between,
        )
        size = kernel.output_size
        yield kernel


def told_apart(kernels: Sequence[ComputeKernel], signed: bool, adds: bool) -> Iterator[ComputeKernel]:
    """Yield a layer's kernels with what else their time depends on; `signed` is of its inputs."""
    for index, kernel in enumerate(kernels):
        reads_signed = signed if index == 0 else kernels[index - 1].output_precision == "int8"
        is_last = index == len(kernels) - 1
        bare = not is_last and kernel.output_precision == kernel.precision
        yield replace(kernel, signed_input=reads_signed, bare=bare, adds=adds and is_last)

"""A network's kernels as a modelled chip runs them: convolutions as implicit matrix multiplications.

A convolution multiplies (batch * output positions, channels * window) by (channels * window, output channels), but
reads its input once, not once for every place of the window; channels are padded to 32 bytes, as in CANN's NC1HWC0
layout, on every chip. A depthwise convolution has nothing to multiply by a matrix and runs on the vector unit.
"""

from dataclasses import replace
from math import ceil, prod

from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.chip_rules import PRECISION_OF_BITS
from gulliver.evaluators.latency.kernel import ComputeKernel, GatedMlpKernel, Kernel, MemoryKernel
from gulliver.evaluators.latency.kernel_stages import AnyKernel, Stage, StagedKernel, stages
from gulliver.evaluators.latency.published_kernel import BITS, ELEMENTWISE, FUSED, PublishedKernel
from gulliver.spaces.recipe import Quantize
from gulliver.tasks.errors import InputError

_ATOM_BYTES = 32
# (activation type, weight type) of each precision that a layer may run in.
_TYPES = {
    "float32": ("float32", "float32"),
    "float16": ("float16", "float16"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "float8": ("float8", "float8"),
    "int8": ("int8", "int8"),
    "int4": ("int4", "int4"),
    "w4a8": ("int8", "int4"),
    "w8": ("float16", "int8"),
    "w4": ("float16", "int4"),
}
# Kernels whose launch was fitted stand for those of networks.
_ASCEND_OPERATIONS = {"int8": "quant_matmul", "w8": "weight_quant_batch_matmul", "w4": "weight_quant_batch_matmul"}


def precision_of(quantize: Quantize | None, float_type: str) -> str:
    """Return the precision of a layer with these widths; raises InputError for widths that no kernel has."""
    if quantize is None:
        return float_type
    widths = quantize.widths
    if widths not in PRECISION_OF_BITS:
        raise InputError(f"no kernel has {widths[0]}-bit weights with {widths[1]}-bit activations")
    return PRECISION_OF_BITS[widths]


def chip_kernel(chip: str, kernel: Kernel) -> AnyKernel:
    """Return the kernel that the chip runs; raises InputError for a precision that is not modelled."""
    if isinstance(kernel, MemoryKernel):
        return _memory_pass(chip, kernel)
    if isinstance(kernel, GatedMlpKernel):
        return _gated_mlp(chip, kernel)
    if kernel.precision not in _TYPES:
        raise InputError(f"no kernel is modelled in {kernel.precision}; modelled are {', '.join(_TYPES)}")
    if kernel.groups == kernel.in_channels > 1:
        return _depthwise(chip, kernel)
    dense = _linear(chip, kernel) if kernel.kind == "linear" else _convolution(chip, kernel)
    return _in_fours(chip, kernel, dense) if kernel.skips_zeros else dense


def _in_fours(chip: str, kernel: ComputeKernel, dense: PublishedKernel | StagedKernel) -> StagedKernel:
    """Return the kernel with 2:4 weights; raises InputError where the chip has none in its precision."""
    known = read_chip(chip).sparse_2_4
    if kernel.precision not in known:
        listed = ", ".join(known) or "no precision"
        raise InputError(f"{read_chip(chip).name} skips zeros in {listed}, but not in {kernel.precision}")
    return StagedKernel(chip, dense.operation, dense.family, tuple(stage.in_fours for stage in stages(dense)))


def _operation(chip: str, precision: str) -> str:
    if read_chip(chip).fit.startswith("nvidia"):
        return "gemm"
    return _ASCEND_OPERATIONS.get(precision, "quant_matmul" if precision.startswith(("int", "w")) else "grouped_matmul")


def _linear(chip: str, kernel: ComputeKernel) -> PublishedKernel:
    return _matmul(chip, kernel, (kernel.batch,), kernel.out_channels, kernel.in_channels)


def _matmul(chip: str, kernel: ComputeKernel, group_rows: tuple[int, ...], n: int, k: int) -> PublishedKernel:
    activation, weight = _TYPES[kernel.precision]
    notes = f'{{"output_dtype": "{kernel.output_precision}"}}'
    operation = _operation(chip, kernel.precision)
    return PublishedKernel(chip, operation, activation, weight, group_rows, sum(group_rows), n, k, notes)


def _convolution(chip: str, kernel: ComputeKernel) -> StagedKernel:
    """Return the implicit multiplication, one group of rows for each group of channels."""
    width = BITS[_TYPES[kernel.precision][0]] / 8
    atom = int(_ATOM_BYTES / width)
    inputs = ceil(kernel.in_channels / kernel.groups / atom) * atom
    rows = kernel.batch * prod(kernel.output_size)
    outputs = max(1, kernel.out_channels // kernel.groups)
    matmul = _matmul(chip, kernel, (rows,) * kernel.groups, outputs, inputs * prod(kernel.kernel_size))
    stage = stages(matmul)[0]
    read = kernel.batch * inputs * kernel.groups * prod(kernel.input_size) * width
    gathered = stage.rows * stage.k * width
    stage = replace(stage, memory_bytes=stage.memory_bytes - gathered + read, aligned=True, layouts=("nz", "nz"))
    return StagedKernel(chip, matmul.operation, matmul.family, (stage,))


def _depthwise(chip: str, kernel: ComputeKernel) -> StagedKernel:
    """Return one pass of the vector unit: a multiplication and an addition for each multiply-accumulate."""
    written = kernel.batch * kernel.out_channels * prod(kernel.output_size) * BITS[kernel.output_precision] / 8
    read = kernel.batch * kernel.in_channels * prod(kernel.input_size) * BITS[_TYPES[kernel.precision][0]] / 8
    return _vector_pass(chip, read + written, 2.0 * kernel.macs)


def _memory_pass(chip: str, kernel: MemoryKernel) -> StagedKernel:
    # One float16 operation for each two bytes, which are an element or two.
    return _vector_pass(chip, float(kernel.bytes_moved), kernel.bytes_moved / 2)


def _vector_pass(chip: str, memory_bytes: float, operations: float) -> StagedKernel:
    stage = Stage((1,), 1, 0, memory_bytes, vector_operations=operations)
    return StagedKernel(chip, ELEMENTWISE, f"{ELEMENTWISE}-float", (stage,))


def _gated_mlp(chip: str, kernel: GatedMlpKernel) -> StagedKernel:
    """Return the fused kernel; raises InputError where the chip has none."""
    if "mlp" not in read_chip(chip).fusions:
        raise InputError(f"{read_chip(chip).name} has no kernel that fuses a gated MLP")
    rows, operation = kernel.group_rows, FUSED[int(len(kernel.group_rows) > 1)]

    def half(k: int) -> PublishedKernel:
        return PublishedKernel(chip, operation, "int8", "int8", rows, sum(rows), 2 * kernel.hidden_channels, k)

    first, last = half(kernel.in_channels), half(kernel.out_channels)
    return StagedKernel(chip, operation, first.family, (*stages(first)[:2], *stages(last)[2:]))

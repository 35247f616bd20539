"""What a kernel does, stage by stage: multiplications, passes over vectors, and the bytes that each must move."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.published_kernel import BITS, ELEMENTWISE, EXPERTS, FUSED, FUSED_HALF, PublishedKernel
from gulliver.tasks.errors import InputError

_SCALE_BYTES = 4
# An accumulator of four bytes is written and read again.
_SPILL_BYTES = 8.0
_MATRIX_PRECISION = {"float32": "float32", "float16": "float16", "bfloat16": "float16", "float8": "float8"}


@dataclass(frozen=True)
class Stage:
    """One pass of a kernel; `k` is 0 where nothing is multiplied.

    `row_factor` is how often each row goes through the matrix unit, `memory_bytes` what memory must deliver and take
    at least once, `spill_bytes` what L2 moves for each result on its way to the vector unit, `vector_elements` the
    elements that unit works on and `vector_rows` the rows it reduces.
    """

    group_rows: tuple[int, ...]
    n: int
    k: int
    memory_bytes: float
    precision: str = "float16"
    row_factor: int = 1
    activation_bytes: float = 0.0
    weight_bytes: float = 0.0
    spill_bytes: float = 0.0
    vector_elements: float = 0.0
    vector_rows: int = 0
    aligned: bool = True
    tile: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        """Return the rows of all groups."""
        return sum(self.group_rows)

    @property
    def macs(self) -> float:
        """Return the multiply-accumulates."""
        return float(prod((self.rows, self.n, self.k, self.row_factor)))


def stages(kernel: PublishedKernel) -> tuple[Stage, ...]:
    """Return the kernel's stages in order; raises InputError where its chip cannot run its precisions."""
    if kernel.operation == ELEMENTWISE:
        return (_swiglu_quant(kernel),)
    if kernel.operation == FUSED_HALF:
        return (_first_half(kernel),)
    if kernel.operation in FUSED:
        return _matmul_swiglu(kernel), _row_quant(kernel), _second_half(kernel)
    if kernel.operation == EXPERTS:
        return tuple(_experts(kernel))
    return (_matmul(kernel, kernel.n, kernel.k, BITS[kernel.output] / 8),)


def conversion_bytes(kernel: PublishedKernel) -> float:
    """Return the bytes that the kernel's weight-layout conversion reads and writes: 0 where it has none."""
    weights = len(kernel.group_rows) * kernel.n * kernel.k * BITS[kernel.weight] / 8
    return 2.0 * weights if kernel.converts_weights else 0.0


def _keeps_weights_in_l2(kernel: PublishedKernel) -> bool:
    """Return whether the layout conversion leaves both forms of the weights in L2 for the kernel after it."""
    return 0 < conversion_bytes(kernel) <= read_chip(kernel.chip).l2_bytes


def _matmul(kernel: PublishedKernel, n: int, k: int, output_bytes: float) -> Stage:
    """Return a multiplication whose weights are read once for every group that has rows."""
    precision, row_factor = _matrix_precision(kernel)
    activation_bytes, weight_bytes = BITS[kernel.activation] / 8, BITS[kernel.weight] / 8
    rows, used = sum(kernel.group_rows), sum(count > 0 for count in kernel.group_rows)
    weights = 0.0 if _keeps_weights_in_l2(kernel) else used * n * k * weight_bytes
    moved = weights + used * n * _SCALE_BYTES + rows * k * activation_bytes + rows * n * output_bytes
    results = _dequantized_by_vectors(kernel, rows * n)
    return Stage(
        kernel.group_rows,
        n,
        k,
        moved,
        precision=precision,
        row_factor=row_factor,
        activation_bytes=activation_bytes,
        weight_bytes=weight_bytes,
        spill_bytes=_SPILL_BYTES * (results > 0) * read_chip(kernel.chip).spills_accumulators,
        vector_elements=results,
        aligned=kernel.aligned,
        tile=kernel.tile,
    )


def _dequantized_by_vectors(kernel: PublishedKernel, elements: int) -> float:
    """Return the results that pass through the vector unit: per-channel float16 scales need none on the way out."""
    plain = kernel.output in ("float16", "int32") and "pertoken" not in kernel.notes
    return 0.0 if kernel.scheme in ("float", "w8", "w4") or plain else float(elements)


def _first_half(kernel: PublishedKernel) -> Stage:
    """Return matmul, dequant, SwiGLU and quantization in one: its halves leave as float32 and come back as int8."""
    stage = _matmul(kernel, kernel.n, kernel.k, 0.0)
    half = stage.rows * kernel.n / 2
    stage = replace(stage, spill_bytes=_SPILL_BYTES * read_chip(kernel.chip).spills_accumulators)
    return _with_vectors(stage, half * (2 * 4 + 1), 3.0 * stage.rows * kernel.n, stage.rows)


def _matmul_swiglu(kernel: PublishedKernel) -> Stage:
    """Return matmul, dequant and SwiGLU, whose float32 halves wait in memory for the scale of their rows."""
    stage = _first_half(kernel)
    read_again = stage.rows * kernel.n / 2 * (4 + 1)
    elements = 2.0 * stage.rows * kernel.n
    return replace(stage, memory_bytes=stage.memory_bytes - read_again, vector_elements=elements, vector_rows=0)


def _row_quant(kernel: PublishedKernel) -> Stage:
    rows = sum(kernel.group_rows)
    elements = rows * kernel.n / 2
    return Stage((rows,), kernel.n // 2, 0, elements * (4 + 1), vector_elements=2 * elements, vector_rows=rows)


def _second_half(kernel: PublishedKernel) -> Stage:
    stage = _matmul(kernel, kernel.k, kernel.n // 2, 2.0)
    stage = replace(stage, spill_bytes=_SPILL_BYTES * read_chip(kernel.chip).spills_accumulators)
    return _with_vectors(stage, 0.0, float(stage.rows * kernel.k), 0)


def _experts(kernel: PublishedKernel) -> Iterator[Stage]:
    """Yield both multiplications of routed experts, then what the tokens of all cards cost before and after them."""
    width = BITS[kernel.activation] / 8
    first = _matmul(kernel, kernel.n, kernel.k, 2.0)
    yield _with_vectors(first, first.rows * kernel.n * (2.0 + width / 2), float(first.rows * kernel.n), 0)
    yield _matmul(kernel, kernel.k, kernel.n // 2, 2.0)
    moved = (kernel.m + 2 * first.rows) * kernel.k * (width + 2)
    yield Stage((kernel.m,), kernel.k, 0, moved, vector_elements=float(kernel.m * kernel.k), vector_rows=kernel.m)


def _swiglu_quant(kernel: PublishedKernel) -> Stage:
    """Return the pass that reads (m, n), makes (m, n / 2) of it and quantizes that row by row."""
    read = kernel.m * kernel.n * BITS[kernel.activation] / 8
    weight = 3.0 if kernel.activation == "int32" else 2.0
    return Stage(
        (kernel.m,),
        kernel.n,
        0,
        read + kernel.m * kernel.n / 2,
        vector_elements=weight * kernel.m * kernel.n,
        vector_rows=kernel.m,
    )


def _with_vectors(stage: Stage, memory_bytes: float, elements: float, rows: int) -> Stage:
    return replace(stage, memory_bytes=stage.memory_bytes + memory_bytes, vector_elements=elements, vector_rows=rows)


def _matrix_precision(kernel: PublishedKernel) -> tuple[str, int]:
    """Return the matrix unit's precision and how often each row goes through it."""
    chip = read_chip(kernel.chip)
    if kernel.scheme in ("float", "w8", "w4"):
        precision, factor = _MATRIX_PRECISION.get(kernel.activation, ""), 1
    elif kernel.scheme == "w4a8":
        precision, factor = ("int4", 2) if chip.splits_int8_activations else ("int8", 1)
    else:
        precision, factor = kernel.scheme, 1
    alike = kernel.scheme in ("w8", "w4", "w4a8") or kernel.weight == kernel.activation
    if not precision or not alike:
        raise InputError(f"no matrix unit multiplies {kernel.activation} by {kernel.weight}")
    chip.macs_per_cycle(precision)
    return precision, factor

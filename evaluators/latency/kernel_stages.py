"""What a kernel does, stage by stage: multiplications, passes over vectors, and the bytes that each must move."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.published_kernel import (
    ALIGNMENT,
    BITS,
    ELEMENTWISE,
    EXPERTS,
    FUSED,
    FUSED_HALF,
    PublishedKernel,
)
from gulliver.tasks.errors import InputError

_SCALE_BYTES = 4
_PLACE_BYTES = 2 / 8
# An accumulator of four bytes is written and read again.
_SPILL_BYTES = 8.0
# Operations of the vector unit on float16 lanes; in float32 one counts twice, as half the lanes are there.
# Dequantization: convert, scale by column, scale by row, convert. SwiGLU, for each of its two inputs: half of negate,
# exp, add, divide, multiply. Quantization, for each output: absolute, maximum, multiply, convert, and once in float16.
_DEQUANT, _SWIGLU, _QUANT, _CONVERT = 8.0, 5.0, 9.0, 2.0
# Weights that are widened: convert and scale; bfloat16 has no arithmetic of its own, so in float32 (CANN, Cast).
_WIDEN = {"float16": 2.0, "bfloat16": 4.0, "float32": 4.0}
# What activations of few rows are split into, and how many: float16 and bfloat16 take two int8, or three int4.
_DECOMPOSED = {"w8": ("int8", 2), "w4": ("int4", 3)}
_MATRIX_PRECISION = {"float32": "float32", "float16": "float16", "bfloat16": "float16", "float8": "float8"}


@dataclass(frozen=True)
class Stage:
    """One pass of a kernel; `k` is 0 where nothing is multiplied.

    `row_factor` is how often each row goes through the matrix unit, `memory_bytes` what memory must deliver and take
    at least once, `spill_bytes` what L2 moves for each result on its way to the vector unit, `vector_operations` the
    vector unit's in float16. `in_turn` is where that waits for the matrix unit, `hands_weights_over` where the matrix
    unit waits for weights from it. `widening_operations` are those in float16 that multiprocessors repeat for each tile
    of rows, as they keep no widened weights. `layouts` are those of activations and weights in memory: nz, rows or
    columns. `density` is the share of the weights that the matrix unit multiplies.
    """

    group_rows: tuple[int, ...]
    n: int
    k: int
    memory_bytes: float
    precision: str = "float16"
    row_factor: int = 1
    activation_bytes: float = 0.0
    weight_bytes: float = 0.0
    output_bytes: float = 0.0
    layouts: tuple[str, str] = ("nz", "nz")
    spill_bytes: float = 0.0
    density: float = 1.0
    in_turn: bool = False
    hands_weights_over: bool = False
    vector_operations: float = 0.0
    widening_operations: float = 0.0
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
        return self.density * prod((self.rows, self.n, self.k, self.row_factor))

    @property
    def in_fours(self) -> "Stage":
        """Return the multiplication with two of every four weights skipped: two bits say where each that stays was.

        Source: CANN's Ascend C, LoadDataWithSparse; NVIDIA's A100 white paper, which stores them alike.
        """
        weight_bytes = self.weight_bytes / 2 + _PLACE_BYTES / 2
        weights = sum(rows > 0 for rows in self.group_rows) * self.n * self.k
        saved = weights * (self.weight_bytes - weight_bytes)
        return replace(self, density=0.5, weight_bytes=weight_bytes, memory_bytes=self.memory_bytes - saved)


@dataclass(frozen=True)
class StagedKernel:
    """A kernel of a network, whose stages say all that a price depends on; `family` is whose efficiencies it takes."""

    chip: str
    operation: str
    family: str
    stages: tuple[Stage, ...]
    converts_weights: bool = False


AnyKernel = PublishedKernel | StagedKernel


def stages(kernel: AnyKernel) -> tuple[Stage, ...]:
    """Return the kernel's stages in order; raises InputError where its chip cannot run its precisions.

    Where it may run in other ways too, these are those of the plain one.
    """
    if isinstance(kernel, StagedKernel):
        return kernel.stages
    if kernel.operation == ELEMENTWISE:
        return (_swiglu_quant(kernel),)
    if kernel.operation == FUSED_HALF:
        return _matmul_swiglu(kernel), _row_quant(kernel)
    if kernel.operation in FUSED:
        return _matmul_swiglu(kernel), _row_quant(kernel), _second_half(kernel)
    if kernel.operation == EXPERTS:
        return tuple(_experts(kernel))
    return (_matmul(kernel, kernel.n, kernel.k, BITS[kernel.output] / 8),)


def ways(kernel: AnyKernel) -> tuple[tuple[Stage, ...], ...]:
    """Return the stages of each way to run the kernel, the plain one first; raises InputError where `stages` does."""
    plain = stages(kernel)
    if isinstance(kernel, PublishedKernel) and _may_decompose(kernel):
        return plain, tuple(_decomposed(kernel, plain[0]))
    return (plain,)


def conversion_bytes(kernel: AnyKernel) -> float:
    """Return the bytes that the kernel's weight-layout conversion reads and writes: 0 where it has none."""
    if isinstance(kernel, StagedKernel):
        return 0.0
    weights = len(kernel.group_rows) * kernel.n * kernel.k * BITS[kernel.weight] / 8
    return 2.0 * weights if kernel.converts_weights else 0.0


def _keeps_weights_in_l2(kernel: PublishedKernel) -> bool:
    """Return whether the layout conversion leaves both forms of the weights in L2 for the kernel after it."""
    return 0 < conversion_bytes(kernel) <= read_chip(kernel.chip).l2_bytes


def _matmul(kernel: PublishedKernel, n: int, k: int, output_bytes: float, fused_operations: float = 0.0) -> Stage:
    """Return a multiplication whose weights are read once for every group that has rows.

    `fused_operations` are those of the vector unit on each result, where a fused kernel gives it tile after tile.
    """
    precision, row_factor = _matrix_precision(kernel)
    activation_bytes, weight_bytes = BITS[kernel.activation] / 8, BITS[kernel.weight] / 8
    rows, used = sum(kernel.group_rows), sum(count > 0 for count in kernel.group_rows)
    weights = 0.0 if _keeps_weights_in_l2(kernel) else used * n * k * weight_bytes
    moved = weights + used * n * _SCALE_BYTES + rows * k * activation_bytes + rows * n * output_bytes
    chip = read_chip(kernel.chip)
    apart = chip.spills_accumulators
    operations = (fused_operations or _dequant_operations(kernel)) * rows * n
    widen = n * k * _WIDEN[kernel.activation] if kernel.scheme in ("w8", "w4") else 0.0
    return Stage(
        kernel.group_rows,
        n,
        k,
        moved,
        precision=precision,
        row_factor=row_factor,
        activation_bytes=activation_bytes,
        weight_bytes=weight_bytes,
        output_bytes=output_bytes,
        layouts=("rows", kernel.weight_layout),
        spill_bytes=_SPILL_BYTES * (operations > 0) * apart,
        vector_operations=operations + (0.0 if chip.multiprocessors else used * widen),
        widening_operations=widen if chip.multiprocessors else 0.0,
        in_turn=apart and operations > 0 and fused_operations == 0,
        hands_weights_over=widen > 0 and apart,
        aligned=n % ALIGNMENT == 0 and k % ALIGNMENT == 0,
        tile=kernel.tile,
    )


def _may_decompose(kernel: PublishedKernel) -> bool:
    few = sum(kernel.group_rows) <= read_chip(kernel.chip).few_rows
    return few and kernel.scheme in _DECOMPOSED and kernel.n % 32 == 0 and kernel.k % 32 == 0


def _decomposed(kernel: PublishedKernel, matmul: Stage) -> Iterator[Stage]:
    """Yield the stages of a weight-only kernel of few rows: activations become integers, which multiply the weights.

    That is the multi-scale decomposition of CANN's weight_quant_batch_matmul_v2 (its msd tiling, of up to 64 rows).
    """
    precision, parts = _DECOMPOSED[kernel.scheme]
    elements = float(matmul.rows * kernel.k)
    # In float32, which counts twice.
    operations = 2 * parts * _QUANT * elements
    yield Stage(
        (matmul.rows,), kernel.k, 0, elements * (2 + parts), vector_operations=operations, vector_rows=matmul.rows
    )
    yield replace(
        matmul,
        precision=precision,
        row_factor=parts,
        spill_bytes=parts * _SPILL_BYTES,
        vector_operations=parts * _DEQUANT * matmul.rows * kernel.n,
        in_turn=True,
        hands_weights_over=False,
    )


def _dequant_operations(kernel: PublishedKernel) -> float:
    """Return the work on a result that passes through the vector unit: per-channel scales need none."""
    # CATLASS's quantized matmuls dequantize by rows too, of which only the source of their published times tells.
    by_rows = "pertoken" in kernel.notes or kernel.operation == "catlass_quant_matmul"
    plain = kernel.output in ("float16", "int32", "int8") and not by_rows
    return 0.0 if kernel.scheme in ("float", "w8", "w4") or plain else _DEQUANT


def _matmul_swiglu(kernel: PublishedKernel) -> Stage:
    """Return matmul, dequant and SwiGLU, whose float32 halves wait in memory for the scale of their rows."""
    return _matmul(kernel, kernel.n, kernel.k, 4.0 / 2, _DEQUANT - _CONVERT + _SWIGLU)


def _row_quant(kernel: PublishedKernel) -> Stage:
    rows = sum(kernel.group_rows)
    elements = rows * kernel.n / 2
    return Stage((rows,), kernel.n // 2, 0, elements * (4 + 1), vector_operations=_QUANT * elements, vector_rows=rows)


def _second_half(kernel: PublishedKernel) -> Stage:
    return _matmul(kernel, kernel.k, kernel.n // 2, 2.0, _DEQUANT)


def _experts(kernel: PublishedKernel) -> Iterator[Stage]:
    """Yield both multiplications of routed experts, then what the tokens of all cards cost before and after them."""
    width = BITS[kernel.activation] / 8
    yield _matmul(kernel, kernel.n, kernel.k, 2.0 + 2.0 + width / 2, _CONVERT + _SWIGLU)
    yield _matmul(kernel, kernel.k, kernel.n // 2, 2.0)
    moved = (kernel.m + 2 * sum(kernel.group_rows)) * kernel.k * (width + 2)
    operations = _CONVERT * kernel.m * kernel.k
    yield Stage((kernel.m,), kernel.k, 0, moved, vector_operations=operations, vector_rows=kernel.m)


def _swiglu_quant(kernel: PublishedKernel) -> Stage:
    """Return the pass that reads (m, n), makes (m, n / 2) of it and quantizes that row by row."""
    elements = kernel.m * kernel.n
    before = _DEQUANT - _CONVERT if kernel.activation == "int32" else _CONVERT
    return Stage(
        (kernel.m,),
        kernel.n,
        0,
        elements * BITS[kernel.activation] / 8 + elements / 2,
        vector_operations=(before + _SWIGLU + _QUANT / 2) * elements,
        vector_rows=kernel.m,
    )


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

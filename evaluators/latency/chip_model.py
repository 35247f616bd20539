"""The price of a kernel: units that overlap, each at a fitted share of its stated rate.

For every stage, the matrix unit, the vector unit, memory and L2 work at the same time, and the slower they are alike
the less they hide each other: seconds = (matrix^p + vector^p + memory^p + load^p)^(1/p), for the best tile. Where
matrix and vector cores are apart and a kernel is not one of the fused ones, the vector unit starts on a tile when the
matrix unit is done with it, and its seconds are added. Memory also takes a while for each piece of a row that is not
loaded yet. Results of the last tiles leave when nothing is left to hide them. A kernel takes its launch, its stages,
and a barrier between two of them; where it may run in several ways, it takes the fastest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gulliver.evaluators.latency.chip import Chip, read_chip
from gulliver.evaluators.latency.chip_work import Floats, Work, work
from gulliver.evaluators.latency.kernel_stages import AnyKernel, Stage, ways
from gulliver.evaluators.latency.published_kernel import EXPERTS, FUSED, FUSED_HALF
from numpy.typing import NDArray

# Routed experts are a sequence of kernels (TensorRT-LLM): permute, multiply, activate, multiply, combine.
_EXPERT_KERNELS = 5
BOUNDS = ("matrix unit", "vector unit", "memory", "launch")


@dataclass(frozen=True)
class Efficiencies:
    """What was fitted for one kind of chip.

    Efficiencies are shares of the chip's stated rates; factors are per family of kernels and multiply them, those of
    the matrix unit and of memory up to 1; `rows` is the number of measured times behind it, and the errors are of the
    fit itself.
    """

    matrix_efficiency: float
    memory_efficiency: float
    load_efficiency: float
    vector_efficiency: float
    conversion_efficiency: float
    tile_s: float
    row_s: float
    matrix_start_s: float
    block_s: float
    piece_s: float
    barrier_s: float
    overlap: float
    unaligned_factor: float
    launch_s: float
    launch_factor: Mapping[str, float]
    matrix_factor: Mapping[str, float]
    memory_factor: Mapping[str, float]
    load_factor: Mapping[str, float]
    rows: int = 0
    mean_error: float = float("nan")
    worst_error: float = float("nan")


@dataclass(frozen=True)
class Prices:
    """Seconds of each kernel, and what bounds it: one of `BOUNDS`."""

    seconds: Floats
    bound_by: tuple[str, ...]


def price(kernels: Sequence[AnyKernel], fit: Efficiencies, done: Work | None = None) -> Prices:
    """Return the modelled prices of kernels; raises InputError where a chip cannot run one."""
    done = done or work(kernels)
    parts = unit_seconds(kernels, fit, done)
    stage_s = _stage_seconds(parts, fit.overlap, done.in_turn) + done.many_rows * fit.matrix_start_s
    stage_s = stage_s + done.drain_s / fit.memory_efficiency
    best = stage_s.argmin(1)
    barriers_s = (np.bincount(done.way, minlength=len(done.kernel)) - 1) * fit.barrier_s
    fastest = _fastest(_of_ways(done, stage_s, best) + barriers_s, done.kernel)
    total, matrix, vector, memory, load = (_of_ways(done, part, best)[fastest] for part in (stage_s, *parts))
    conversion_s = done.conversion_s / fit.conversion_efficiency
    fixed_s = launch_seconds(kernels, fit) + barriers_s[fastest]
    bound = np.argmax([matrix, vector, np.maximum(memory, load) + conversion_s, fixed_s], 0)
    return Prices(total + conversion_s + fixed_s, tuple(BOUNDS[index] for index in bound))


def _of_ways(done: Work, part: Floats, best: NDArray[np.int64]) -> Floats:
    """Return the sums (ways,) of a part of the stages (stages, candidates), each of its best candidate (stages,)."""
    chosen = np.take_along_axis(part, best[:, None], 1)[:, 0]
    return np.asarray(np.bincount(done.way, chosen, len(done.kernel)), dtype=np.float64)


def _fastest(way_s: Floats, kernel: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each kernel's fastest way (kernels,), of those that `kernel` (ways,) says are its own."""
    order = np.lexsort((way_s, kernel))
    return order[np.unique(kernel[order], return_index=True)[1]]


def unit_seconds(kernels: Sequence[AnyKernel], fit: Efficiencies, done: Work) -> tuple[Floats, ...]:
    """Return the seconds (stages, candidates) of the matrix unit, the vector unit, memory and L2."""
    families, kernel = [it.family for it in kernels], done.kernel[done.way]
    matrix_factor = of_families(families, fit.matrix_factor)[kernel][:, None]
    memory_factor = of_families(families, fit.memory_factor)[kernel][:, None]
    load_factor = of_families(families, fit.load_factor)[kernel][:, None]
    slow = np.where(done.aligned, 1.0, fit.unaligned_factor)
    # Neither beats the rate that the chip's maker states.
    matrix_share = np.minimum(fit.matrix_efficiency * matrix_factor, 1.0)
    memory_share = np.minimum(fit.memory_efficiency * memory_factor, 1.0)
    matrix = done.matrix_s / matrix_share + done.tiles * fit.tile_s + done.blocks * fit.block_s
    # The same warps widen weights and multiply them.
    matrix = matrix + done.widening_s / fit.vector_efficiency
    vector = done.vector_s / fit.vector_efficiency + done.vector_rows * fit.row_s
    memory = (done.memory_s / memory_share + done.pieces * fit.piece_s) * slow
    load = done.load_s * slow / (fit.load_efficiency * load_factor)
    return tuple(np.broadcast_to(part, matrix.shape) for part in (matrix, vector, memory, load))


def launch_seconds(kernels: Sequence[AnyKernel], fit: Efficiencies) -> Floats:
    """Return each kernel's fixed seconds."""
    launches = np.array([_EXPERT_KERNELS if it.operation == EXPERTS else 1 + it.converts_weights for it in kernels])
    return launches * fit.launch_s * of_families([it.family for it in kernels], fit.launch_factor)


def roofline(kernels: Sequence[AnyKernel]) -> Floats:
    """Return the plain roofline's seconds: the larger of arithmetic and memory at stated rates, stage after stage.

    Of several ways to run a kernel, it is the fastest one's.
    """
    return np.array([min(_roofline(read_chip(kernel.chip), way) for way in ways(kernel)) for kernel in kernels])


def _roofline(chip: Chip, way: Sequence[Stage]) -> float:
    seconds = 0.0
    for stage in way:
        rate = chip.matrix_cores * chip.macs_per_cycle(stage.precision) * chip.clock_hz
        seconds += max(stage.macs / rate, stage.memory_bytes / chip.memory_bandwidth_bytes_per_s)
    return seconds


def _stage_seconds(parts: tuple[Floats, ...], overlap: float, in_turn: NDArray[np.bool_]) -> Floats:
    """Return a stage's seconds; where the units work in turn, the vector unit's come after the others'."""
    matrix, vector, memory, load = parts
    hidden = _combine((matrix, np.where(in_turn, 0.0, vector), memory, load), overlap)
    return np.asarray(hidden + np.where(in_turn, vector, 0.0))


def _combine(parts: Sequence[Floats], overlap: float) -> Floats:
    # The largest is taken out so that no power under- or overflows.
    largest = np.maximum.reduce(list(parts))
    scale = np.where(largest > 0, largest, 1.0)
    return np.asarray(largest * sum((part / scale) ** overlap for part in parts) ** (1 / overlap))


def of_families(families: Sequence[str], values: Mapping[str, float]) -> Floats:
    """Return each family's value (families,): its own, or that of the same operation in other precisions, or 1."""
    of_operation = {_operation(family): value for family, value in values.items()}
    # The whole fused MLP has no published time; its first half has.
    of_operation |= dict.fromkeys(FUSED, of_operation.get(FUSED_HALF, 1.0))
    return np.array([values.get(family, of_operation.get(_operation(family), 1.0)) for family in families])


def _operation(family: str) -> str:
    return family.partition("-")[0]

"""What the GPU kernels of the fused MLP are compiled to, which needs no GPU: python -m benchmarks.fused_mlp_compiled.

Compiles every schedule for compute capabilities 8.0, 8.9 and 9.0 and each format that they multiply, and counts
registers, the stack that spilled registers take, shared memory, and what feeds which matrix instruction. The last
rows have weight1 stored as the reference takes it. Nothing is run or timed.
Writes benchmarks/results/fused_mlp_compiled.csv.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
import triton
from gulliver.fused_mlp.formats import E4M3, FIRST_E4M3_CAPABILITY, INT8, NumberFormat
from gulliver.fused_mlp.schedules import (
    FEW_ROWS,
    H200,
    MANY_ROWS,
    SOME_ROWS,
    Gpu,
    Schedule,
    candidate_schedules,
)

from benchmarks.gpu.compiled import compile_call, instructions, resources
from benchmarks.gpu.table import describe
from benchmarks.record import write_table

# CUDA C++ Programming Guide, technical specifications by compute capability: shared memory of a program.
GPUS = (Gpu((8, 0), 108, 163 * 1024), Gpu((8, 9), 142, 99 * 1024), H200)
# Rows of a group, and the schedules for them.
SCHEDULES = {16: FEW_ROWS, 64: SOME_ROWS, 4096: MANY_ROWS}
MATMULS = ("matmul_dequantize_swiglu", "matmul_dequantize")


@dataclass(frozen=True)
class Row:
    """One matmul, compiled: for what, whether the schedule is a candidate there, and what it needs."""

    capability: str
    dtype: str
    schedule: str
    candidate: bool
    weight1: str
    kernel: str
    matrix_instruction: str
    copies_to_shared_memory: int
    single_byte_stores_to_shared_memory: int
    registers: int
    stack_bytes: int
    shared_memory_bytes: int


def compile_rows(gpu: Gpu, number_format: NumberFormat, schedule: Schedule, contiguous: bool = True) -> Iterator[Row]:
    """Yield a row for both matmuls of a schedule."""
    candidates = {candidate for rows in SCHEDULES for candidate in candidate_schedules(rows, number_format.dtype, gpu)}
    kernels = compile_call(number_format.dtype, gpu.capability, schedule, contiguous)
    for name in MATMULS:
        words, needed = instructions(kernels[name]), resources(kernels[name])
        yield Row(
            capability=".".join(map(str, gpu.capability)),
            dtype=str(number_format.dtype).removeprefix("torch."),
            schedule=describe(schedule),
            candidate=schedule in candidates,
            weight1="K1 innermost" if contiguous else "N1 innermost",
            kernel=name,
            matrix_instruction=next(word for word in words if word.startswith(("wgmma.mma_async", "mma.sync"))),
            copies_to_shared_memory=words["cp.async.cg.shared.global"],
            single_byte_stores_to_shared_memory=words["st.shared.b8"],
            registers=needed.registers,
            stack_bytes=needed.stack_bytes,
            shared_memory_bytes=needed.shared_memory_bytes,
        )


def all_rows() -> Iterator[Row]:
    """Yield what every schedule becomes on each kind of GPU."""
    schedules = [schedule for group in SCHEDULES.values() for schedule in group]
    for gpu, number_format in product(GPUS, (INT8, E4M3)):
        if number_format == INT8 or gpu.capability >= FIRST_E4M3_CAPABILITY:
            for schedule in schedules:
                yield from compile_rows(gpu, number_format, schedule)
    yield from compile_rows(H200, INT8, MANY_ROWS[0], contiguous=False)


def main() -> None:
    """Compile everything and write the table."""
    write_table("fused_mlp_compiled", list(all_rows()), {"torch": torch.__version__, "triton": triton.__version__})


if __name__ == "__main__":
    main()

"""How the Triton kernels cut the fused MLP into programs, by the rows that a group has.

Nothing here was tuned on a GPU: the sizes follow from shared memory, registers and bytes, as
docs/decisions/0013-fused-mlp-on-gpus.md says, and `benchmarks/fused_mlp.py` picks among `candidate_schedules` on the
card at hand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from gulliver.fused_mlp.formats import E4M3

FLOAT32_BYTES = 4
WARP_THREADS = 32


@dataclass(frozen=True)
class Gpu:
    """What a schedule must fit: compute capability, multiprocessors, and the shared memory a program may have."""

    capability: tuple[int, int]
    multiprocessors: int
    shared_memory_bytes: int


# NVIDIA H100 Tensor Core GPU Architecture, 2022: 228 KiB a multiprocessor, of which a program gets 227.
H200 = Gpu((9, 0), 132, 227 * 1024)


@dataclass(frozen=True)
class TileSizes:
    """What one program of a kernel computes: rows x columns of the result, `inner` of the sum at a time.

    `warps` of 32 threads compute it; `stages` steps of the sum are in shared memory or on their way to it.
    """

    rows: int
    columns: int
    inner: int
    warps: int = 4
    stages: int = 4


@dataclass(frozen=True)
class Schedule:
    """The tiles of both matmuls, and where h is quantized.

    With `quantize_on_load` every program of the second matmul quantizes the rows of h that it loads, else a kernel
    of its own does once for all. `row_tiles_together` row tiles are computed before the next columns are begun.
    """

    first: TileSizes
    second: TileSizes
    quantize_on_load: bool = False
    row_tiles_together: int = 8

    @property
    def shared_memory_bytes(self) -> int:
        """The most shared memory that a program of either matmul needs; the first multiplies by act and by gate."""
        first, second = self.first, self.second
        row_bytes = FLOAT32_BYTES if self.quantize_on_load else 1
        return max(
            first.stages * first.inner * (first.rows + 2 * first.columns),
            second.stages * second.inner * (second.rows * row_bytes + second.columns),
        )

    @property
    def sums_per_thread(self) -> int:
        """The most sums that a thread of either matmul keeps in its registers."""
        first, second = self.first, self.second
        return max(
            2 * first.rows * first.columns // (WARP_THREADS * first.warps),
            second.rows * second.columns // (WARP_THREADS * second.warps),
        )


# From Hopper's 9.0 on, operands stay in shared memory; before, and on the 12.0 of consumers, they need registers too.
LARGE_TILE_CAPABILITIES = (9, 10)

# Up to 16 rows a group, memory alone matters: narrow columns make enough programs to ask for all its bandwidth.
# Not for E4M3: Hopper multiplies fewer than 64 rows of it in float16, after converting each weight.
FEW_ROWS = (
    Schedule(TileSizes(16, 64, 128), TileSizes(16, 128, 128)),
    Schedule(TileSizes(16, 32, 256), TileSizes(16, 64, 128), quantize_on_load=True),
    Schedule(TileSizes(16, 16, 256), TileSizes(16, 32, 128), quantize_on_load=True),
    Schedule(TileSizes(16, 16, 256), TileSizes(16, 32, 256)),
)
# Hopper's matrix instructions take 64 rows. Every program reads all rows again, from L2: wide columns read less.
SOME_ROWS = (
    Schedule(TileSizes(64, 64, 128), TileSizes(64, 128, 128)),
    Schedule(TileSizes(64, 32, 256, stages=3), TileSizes(64, 64, 256)),
    Schedule(TileSizes(64, 32, 128), TileSizes(64, 64, 128)),
    Schedule(TileSizes(64, 16, 128), TileSizes(64, 32, 128)),
    Schedule(TileSizes(64, 16, 256), TileSizes(64, 32, 256)),
)
# Sums of 256 columns fill the registers of 8 warps; half the tile leaves room for two programs at once.
MANY_ROWS = (
    Schedule(TileSizes(128, 128, 128, warps=8), TileSizes(128, 256, 128, warps=8)),
    Schedule(TileSizes(128, 128, 128, warps=8, stages=3), TileSizes(128, 256, 128, warps=8, stages=3)),
    Schedule(TileSizes(128, 64, 128, stages=3), TileSizes(128, 128, 128, stages=3)),
    Schedule(TileSizes(128, 64, 128, warps=8), TileSizes(128, 128, 128, warps=8)),
    Schedule(TileSizes(128, 64, 128, warps=8, stages=3), TileSizes(128, 128, 128, warps=8, stages=3)),
    Schedule(TileSizes(64, 64, 128, stages=3), TileSizes(64, 128, 128, stages=3)),
)


def candidate_schedules(rows_per_group: int, dtype: torch.dtype, gpu: Gpu) -> tuple[Schedule, ...]:
    """Return the schedules worth timing for groups of so many rows, widest columns first; all fit the GPU."""
    schedules: Sequence[Schedule] = SOME_ROWS if rows_per_group <= 64 else MANY_ROWS
    if rows_per_group <= 16 and dtype != E4M3.dtype:
        schedules = FEW_ROWS
    most_sums = most_sums_per_thread(dtype, gpu)
    return tuple(
        schedule
        for schedule in schedules
        if schedule.shared_memory_bytes <= gpu.shared_memory_bytes and schedule.sums_per_thread <= most_sums
    )


def most_sums_per_thread(dtype: torch.dtype, gpu: Gpu) -> int:
    """Return how many sums a thread can hold beside all else in its 255 registers, as the compiler shows.

    The tensor cores' part of a sum of E4M3 products is kept apart from the whole.
    """
    return 128 if dtype != E4M3.dtype and gpu.capability[0] in LARGE_TILE_CAPABILITIES else 64


def default_schedule(rows: int, groups: int, columns: int, dtype: torch.dtype, gpu: Gpu) -> Schedule:
    """Return the candidate with the widest columns that keeps all multiprocessors busy in the first matmul.

    `columns` are those of h. Rows are taken to be spread evenly, as the host does not know group_list.
    """
    candidates = candidate_schedules(math.ceil(rows / groups), dtype, gpu)
    used_groups = min(rows, groups)

    def is_busy(schedule: Schedule) -> bool:
        row_tiles = math.ceil(rows / used_groups / schedule.first.rows) * used_groups
        return row_tiles * math.ceil(columns / schedule.first.columns) >= gpu.multiprocessors

    return next(filter(is_busy, candidates), candidates[-1])


def most_row_tiles(rows: int, groups: int, tile_rows: int) -> int:
    """Return the most row tiles that any group_list makes of so many rows, those of the tail included.

    The tail counts as a group. Each group rounds up once; each tile has a row.
    """
    used_groups = min(rows, groups + 1)
    return min(rows, (rows + used_groups * (tile_rows - 1)) // tile_rows)

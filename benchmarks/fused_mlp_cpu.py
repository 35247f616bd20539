"""How close the fused MLP on one CPU thread comes to the floors of the processor.

python -m benchmarks.fused_mlp_cpu measures m = 64 rows in G = 1, 2, 4 and 8 equal groups, K1 = 7168, N1 = 4096,
N2 = 7168, on one thread. The times are CPU times, medians over rounds in which every implementation and both floors
take turns, with the weights colder than the caches. The compute floor is the int8 products over the rate of the
fastest kernel's instruction on registers, the streaming floor the time to read the packed weights once. Writes
benchmarks/results/fused_mlp_cpu.csv; rows of other machines stay.
"""

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from gulliver.fused_mlp.arguments import RowGroup
from gulliver.fused_mlp.cpu import (
    KERNELS,
    Kernel,
    PackedWeights,
    compile_library,
    fastest_kernel,
    fused_mlp,
    pack_weights,
)
from gulliver.fused_mlp.reference import quantize_rows, swiglu
from torch import Tensor

from benchmarks.gpu.problem import Problem
from benchmarks.record import first_line, write_table

ROWS, K1, N1, N2 = 64, 7168, 4096, 7168
GROUP_COUNTS = (1, 2, 4, 8)
ROUNDS = 15
DOT_PRODUCTS = 1_000_000
# 16 instructions a round, each 64 products and 64 sums, or 4, each 16 x 16 x 64.
OPERATIONS_A_ROUND = {"vnni.c": 16 * 64 * 2, "amx.c": 4 * 16 * 16 * 64 * 2}

FLOORS = """
#include <immintrin.h>
#ifdef __AMX_INT8__
int dot_products(long count) {
    struct { unsigned char palette, zeros[15]; unsigned short row_bytes[16]; unsigned char rows[16]; } config = {1};
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
    for (long n = 0; n < count; n++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return 0;
}
#else
int dot_products(long count) {
    __m512i sums[16];
    const __m512i inputs = _mm512_set1_epi32((int)count), weights = _mm512_set1_epi32(3);
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) sums[i] = _mm512_set1_epi32(i);
    for (long n = 0; n < count; n++) {
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], inputs, weights);
        __asm__ volatile("" ::: "memory");
    }
    _Pragma("GCC unroll 16") for (int i = 1; i < 16; i++) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    return _mm512_reduce_add_epi32(sums[0]);
}
#endif
long read_bytes(const char *bytes, long count) {
    __m512i sums[4] = {0};
    for (long n = 0; n + 256 <= count; n += 256)
        _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
            sums[i] = _mm512_add_epi64(sums[i], _mm512_loadu_si512(bytes + n + 64 * i));
    return _mm512_reduce_add_epi64(
        _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3])));
}
"""


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    groups: int
    implementation: str
    cpu_ms: float
    times_larger_floor: float
    compute_floor_ms: float
    streaming_floor_ms: float
    int8_gop_per_s: float
    read_gb_per_s: float
    rounds: int


def make_problem(groups: int) -> Problem:
    """Random int8 values, with scales that keep act near 1."""
    random = torch.Generator().manual_seed(groups)

    def int8(*shape: int) -> Tensor:
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)

    return Problem(
        x1=int8(ROWS, K1),
        weight1=int8(groups, K1, N1),
        scale1=torch.full((groups, N1), 1 / (74 * K1**0.5)),
        per_token_scale1=torch.full((ROWS,), 1 / 74),
        weight2=int8(groups, N2, N1 // 2),
        per_channel_scale2=torch.full((groups, N2), 1 / (74 * (N1 // 2) ** 0.5)),
        group_list=torch.arange(1, groups + 1) * (ROWS // groups),
    )


def unfused_float(problem: Problem, dtype: torch.dtype) -> Callable[[], object]:
    """The same gated MLP of dequantized weights, in floating point."""
    weight1 = [(w * s).to(dtype) for w, s in zip(problem.weight1, problem.scale1, strict=True)]
    weight2 = [(w * s[:, None]).to(dtype) for w, s in zip(problem.weight2, problem.per_channel_scale2, strict=True)]
    x = (problem.x1 * problem.per_token_scale1[:, None]).to(dtype)

    def run() -> list[Tensor]:
        return [F.linear(swiglu(x[p.rows] @ weight1[p.group]), weight2[p.group]) for p in problem.parts]

    return run


def unfused_int_mm(problem: Problem) -> Callable[[], object]:
    """torch's own int8 matmul, with each step after it a pass over memory."""

    def run_part(part: RowGroup) -> Tensor:
        acc1 = torch._int_mm(problem.x1[part.rows], problem.weight1[part.group])
        y1 = acc1.float() * problem.scale1[part.group] * problem.per_token_scale1[part.rows, None]
        q, s2 = quantize_rows(swiglu(y1))
        acc2 = torch._int_mm(q, problem.weight2[part.group].T)
        return (acc2.float() * problem.per_channel_scale2[part.group] * s2[:, None]).half()

    return lambda: [run_part(part) for part in problem.parts]


def unfused_onednn(problem: Problem) -> Callable[[], object]:
    """oneDNN's prepacked int8 matmul, which wants unsigned inputs: shifted by 128, its zero point."""
    rows = ROWS // len(problem.parts)
    packed1 = [torch.ops.onednn.qlinear_prepack(w.T.contiguous(), [rows, K1]) for w in problem.weight1]
    packed2 = [torch.ops.onednn.qlinear_prepack(w, [rows, N1 // 2]) for w in problem.weight2]

    def linear(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
        zero_points = torch.zeros(len(scale), dtype=torch.int64)
        shifted = x.view(torch.uint8) ^ 128
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            shifted, 1.0, 128, packed, scale, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return result

    def run_part(part: RowGroup) -> Tensor:
        y1 = linear(problem.x1[part.rows], packed1[part.group], problem.scale1[part.group])
        q, s2 = quantize_rows(swiglu(y1 * problem.per_token_scale1[part.rows, None]))
        y2 = linear(q, packed2[part.group], problem.per_channel_scale2[part.group])
        return (y2 * s2[:, None]).half()

    return lambda: [run_part(part) for part in problem.parts]


def floors(packed: PackedWeights) -> dict[str, Callable[[], object]]:
    """What the processor cannot do faster: the arithmetic alone, and reading the packed weights alone."""
    library = compile_library(FLOORS, packed.first.kernel.flags)
    library.dot_products.argtypes = [ctypes.c_long]
    library.read_bytes.argtypes = [ctypes.c_void_p, ctypes.c_long]
    both = (packed.first.panels, packed.second.panels)
    return {
        "dot products": lambda: library.dot_products(DOT_PRODUCTS),
        "read weights": lambda: [library.read_bytes(panels.data_ptr(), panels.numel()) for panels in both],
    }


def median_ms(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Take turns, so that a slow moment of the machine falls on all; the first round only warms up.

    Each round has another order, as what runs before, and for how long, changes what the next finds in the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    random = Random(0)
    for _ in range(ROUNDS + 1):
        for name in random.sample([*runs], len(runs)):
            start = time.process_time()
            runs[name]()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def pack(problem: Problem, kernel: Kernel) -> PackedWeights:
    """The problem's weights as a kernel reads them."""
    return pack_weights(problem.weight1, problem.scale1, problem.weight2, problem.per_channel_scale2, kernel)


def run_fused(problem: Problem, packed: PackedWeights) -> Callable[[], object]:
    """The fused MLP on packed weights."""
    return lambda: fused_mlp(problem.x1, packed, problem.per_token_scale1, problem.group_list)


def make_implementations(problem: Problem, packings: list[PackedWeights]) -> dict[str, Callable[[], object]]:
    """What is compared, by the name it has in the table."""
    return {
        **{f"fused, {packed.first.kernel.instructions}": run_fused(problem, packed) for packed in packings},
        "unfused, oneDNN prepacked int8": unfused_onednn(problem),
        "unfused, torch._int_mm": unfused_int_mm(problem),
        "unfused, bfloat16": unfused_float(problem, torch.bfloat16),
        "unfused, float32": unfused_float(problem, torch.float32),
    }


def measure(groups: int) -> list[Result]:
    """Measure every implementation and both floors for one number of groups."""
    problem = make_problem(groups)
    fastest = fastest_kernel()
    packings = [pack(problem, kernel) for kernel in KERNELS[KERNELS.index(fastest) :]]
    packed = packings[0]
    implementations = make_implementations(problem, packings)
    times_ms = median_ms({**implementations, **floors(packed)})
    operations = 2 * ROWS * (K1 * N1 + N1 // 2 * N2)
    operations_a_ms = OPERATIONS_A_ROUND[fastest.source] * DOT_PRODUCTS / times_ms["dot products"]
    compute_ms, streaming_ms = operations / operations_a_ms, times_ms["read weights"]
    weight_bytes = packed.first.panels.numel() + packed.second.panels.numel()
    return [
        Result(
            groups=groups,
            implementation=name,
            cpu_ms=round(times_ms[name], 2),
            times_larger_floor=round(times_ms[name] / max(compute_ms, streaming_ms), 2),
            compute_floor_ms=round(compute_ms, 2),
            streaming_floor_ms=round(streaming_ms, 2),
            int8_gop_per_s=round(operations_a_ms / 1e6),
            read_gb_per_s=round(weight_bytes / streaming_ms / 1e6, 1),
            rounds=ROUNDS,
        )
        for name in implementations
    ]


def main() -> None:
    """Measure on one thread and write the table."""
    torch.set_num_threads(1)
    results = [result for groups in GROUP_COUNTS for result in measure(groups)]
    versions = {"torch": torch.__version__, "compiler": first_line("cc", "--version")}
    write_table("fused_mlp_cpu", results, versions, key=("machine",))


if __name__ == "__main__":
    main()

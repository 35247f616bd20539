"""MmDeqSwigluQuantMmDeq for GPUs in two or three Triton kernels, of int8 or E4M3.

So far they ran only in Triton's interpreter on a CPU, and compiled for compute capabilities 8.0, 8.9 and 9.0:
nothing was run or timed on a GPU. The first kernel multiplies, dequantizes and applies SwiGLU, so that no sums reach
memory; the last multiplies and dequantizes. In between, the largest magnitude of a whole row must be known, so h is
quantized by the last as it loads it, or by a kernel of its own. h is float32: in 16 bits its rounding would move q
by a step wherever it lies near a tie. Importing this needs Triton (the `gpu` extra).
"""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from operator import itemgetter

import torch
import triton
import triton.testing
from gulliver.fused_mlp.arguments import check_arguments
from gulliver.fused_mlp.formats import check_capability
from gulliver.fused_mlp.schedules import (
    H200,
    Gpu,
    Schedule,
    TileSizes,
    candidate_schedules,
    default_schedule,
    most_row_tiles,
)
from gulliver.fused_mlp.triton_kernels import matmul_dequantize, matmul_dequantize_swiglu, quantize_rows
from torch import Tensor

MOST_COLUMNS_AT_ONCE = 4096


def fused_mlp(
    x1: Tensor,
    weight1: Tensor,
    scale1: Tensor,
    per_token_scale1: Tensor,
    weight2: Tensor,
    per_channel_scale2: Tensor,
    group_list: Tensor,
    *,
    schedule: Schedule | None = None,
    check_groups: bool = True,
) -> Tensor:
    """Return what `reference.fused_mlp` returns, float16 (m, N2), from the same shapes and dtypes on the current GPU.

    It differs where float32 rounds differently: h by a few units in the last place, hence q by one step where h
    lies that close to a tie. Sums of float8_e4m3fn are float32, added up in the tensor cores' order. The weights may
    have any strides, but only those of `inner_contiguous` reach the fast matrix instructions of Hopper.
    Raises ValueError under the rules of `reference.fused_mlp`, and for float8_e4m3fn before compute capability 8.9.
    Checking group_list waits for the GPU: without `check_groups` nothing does, and a wrong one gives wrong rows.
    """
    check_arguments(
        x1, weight1, scale1, per_token_scale1, weight2, per_channel_scale2, group_list, check_groups=check_groups
    )
    m, k2 = x1.shape[0], weight2.shape[2]
    gpu = _gpu(x1.device)
    check_capability(x1.dtype, gpu.capability)
    if not m:
        return torch.empty(0, weight2.shape[1], dtype=torch.float16, device=x1.device)
    schedule = schedule or default_schedule(m, len(group_list), k2, x1.dtype, gpu)
    h, row_max_bits = _first(x1, weight1, scale1, per_token_scale1, group_list, schedule)
    rows, row_scale = (h, row_max_bits) if schedule.quantize_on_load else _quantized(h, x1.dtype, group_list)
    return _second(rows, row_scale, weight2, per_channel_scale2, group_list, schedule)


def inner_contiguous(weight1: Tensor) -> Tensor:
    """Return weight1 (G, K1, N1) stored with K1 innermost, once for many calls; weight2 is as it comes."""
    return weight1.transpose(1, 2).contiguous().transpose(1, 2)


def _median_ms(run: Callable[[], object]) -> float:
    median: float = triton.testing.do_bench(run, return_mode="median")
    return median


def time_schedules(
    x1: Tensor,
    weight1: Tensor,
    scale1: Tensor,
    per_token_scale1: Tensor,
    weight2: Tensor,
    per_channel_scale2: Tensor,
    group_list: Tensor,
    *,
    milliseconds: Callable[[Callable[[], object]], float] = _median_ms,
) -> dict[Schedule, float]:
    """Return the milliseconds of `fused_mlp` with each candidate schedule, fastest first, on the current GPU.

    Candidates that do not fit the GPU after all are left out. Of few rows, the default `milliseconds` times Python's
    launches, so give one that replays CUDA graphs. Raises ValueError under the rules of `fused_mlp`.
    """
    tensors = (x1, weight1, scale1, per_token_scale1, weight2, per_channel_scale2, group_list)
    check_arguments(*tensors)
    rows_per_group = math.ceil(x1.shape[0] / len(group_list))
    times_ms: dict[Schedule, float] = {}
    for schedule in candidate_schedules(rows_per_group, x1.dtype, _gpu(x1.device)):
        run = partial(fused_mlp, *tensors, schedule=schedule, check_groups=False)
        with suppress(triton.runtime.errors.OutOfResources):
            times_ms[schedule] = milliseconds(run)
    return dict(sorted(times_ms.items(), key=itemgetter(1)))


@cache
def _gpu(device: torch.device) -> Gpu:
    # The interpreter has no limits: there, schedules are those of the GPU that the kernels are written for.
    if device.type != "cuda":
        return H200
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    capability = torch.cuda.get_device_capability(index)
    return Gpu(capability, properties["multiprocessor_count"], properties["max_shared_mem"])


def _first(
    x1: Tensor, weight1: Tensor, scale1: Tensor, per_token_scale1: Tensor, group_list: Tensor, schedule: Schedule
) -> tuple[Tensor, Tensor]:
    """Return h, float32 (m, K2), and the bits of its row maxima, int32 (column tiles, m), empty if not needed."""
    (m, k1), k2, tiles = x1.shape, scale1.shape[1] // 2, schedule.first
    column_tiles = triton.cdiv(k2, tiles.columns)
    row_tiles = most_row_tiles(m, len(group_list), tiles.rows)
    h = torch.empty(m, k2, dtype=torch.float32, device=x1.device)
    maxima_shape = (column_tiles if schedule.quantize_on_load else 0, m)
    row_max_bits = torch.empty(maxima_shape, dtype=torch.int32, device=x1.device)
    matmul_dequantize_swiglu[(row_tiles * column_tiles,)](
        x1.contiguous(), weight1, scale1.contiguous(), per_token_scale1.contiguous(), group_list.contiguous(), h,
        row_max_bits, m, k1, k2, len(group_list), row_tiles, k2 * weight1.stride(2), *weight1.stride(),
        store_row_max=schedule.quantize_on_load, **_options(tiles, group_list, schedule),
    )  # fmt: skip
    return h, row_max_bits


def _quantized(h: Tensor, dtype: torch.dtype, group_list: Tensor) -> tuple[Tensor, Tensor]:
    """Return q (m, K2) and s2, float32 (m), without the rows of the tail, which nothing reads."""
    m, k2 = h.shape
    q = torch.empty(m, k2, dtype=dtype, device=h.device)
    s2 = torch.empty(m, dtype=torch.float32, device=h.device)
    columns = min(triton.next_power_of_2(k2), MOST_COLUMNS_AT_ONCE)
    quantize_rows[(m,)](
        h, q, s2, group_list.contiguous(), len(group_list), k2, column_count=columns, enable_fp_fusion=False
    )
    return q, s2


def _second(
    rows: Tensor,
    row_scale: Tensor,
    weight2: Tensor,
    per_channel_scale2: Tensor,
    group_list: Tensor,
    schedule: Schedule,
) -> Tensor:
    """Return the output from q and s2, or from h and the bits of its row maxima."""
    (m, k2), n2, tiles = rows.shape, weight2.shape[1], schedule.second
    row_tiles = most_row_tiles(m, len(group_list), tiles.rows)
    row_max_tiles = row_scale.shape[0] if schedule.quantize_on_load else 0
    out = torch.empty(m, n2, dtype=torch.float16, device=rows.device)
    matmul_dequantize[(row_tiles * triton.cdiv(n2, tiles.columns),)](
        rows, row_scale, weight2, per_channel_scale2.contiguous(), group_list.contiguous(), out,
        m, n2, k2, len(group_list), row_tiles, *weight2.stride(),
        row_max_tiles=row_max_tiles, row_max_slots=triton.next_power_of_2(max(row_max_tiles, 1)),
        **_options(tiles, group_list, schedule),
    )  # fmt: skip
    return out


def _options(tiles: TileSizes, group_list: Tensor, schedule: Schedule) -> dict[str, int]:
    return {
        "group_slots": triton.next_power_of_2(len(group_list) + 1),
        "row_count": tiles.rows,
        "column_count": tiles.columns,
        "inner_count": tiles.inner,
        "row_tiles_together": schedule.row_tiles_together,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
        # A fused multiply-add would round where the reference does not, and break the rounding to integers.
        "enable_fp_fusion": False,
    }

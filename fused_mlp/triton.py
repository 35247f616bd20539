"""MmDeqSwigluQuantMmDeq for GPUs in two Triton kernels.

So far they ran only in Triton's interpreter on a CPU, and compiled for compute capabilities 8.0 and 9.0: nothing
was run or timed on a GPU. Kernel 1 multiplies, dequantizes and applies SwiGLU, so that no int32 tensor reaches
memory; kernel 2 quantizes rows of h as it loads them, multiplies and dequantizes. In between, the largest magnitude
of a whole row must be known, which is why they are two. Importing this needs Triton (the `gpu` extra).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from gulliver.fused_mlp.arguments import check_arguments, row_groups
from gulliver.fused_mlp.reference import INT8_MAX, SMALLEST_ROW_MAX
from torch import Tensor

# Adding and subtracting it rounds a float32 below 2^22 to an integer, half to even. Triton has no such function
# that works both on a GPU and in the interpreter.
ROUND_TO_INTEGER = tl.constexpr(1.5 * 2**23)
LARGEST_Q = tl.constexpr(INT8_MAX)
SMALLEST_MAX = tl.constexpr(SMALLEST_ROW_MAX)


@dataclass(frozen=True)
class TileSizes:
    """How much one program of a kernel computes: rows x columns of the result, `inner` of the sum at a time."""

    rows: int = 64
    columns: int = 128
    inner: int = 128


def fused_mlp(
    x1: Tensor,
    weight1: Tensor,
    scale1: Tensor,
    per_token_scale1: Tensor,
    weight2: Tensor,
    per_channel_scale2: Tensor,
    group_list: Tensor,
    *,
    tiles: TileSizes = TileSizes(),
) -> Tensor:
    """Return what `reference.fused_mlp` returns, float16 (m, N2), from the same shapes and dtypes on a GPU.

    It differs where float32 rounds differently: h by a few units in the last place, hence q by one step where h
    lies that close to a tie. Raises ValueError under the rules of `reference.fused_mlp`. The weights may have any
    strides. Checking group_list waits for the GPU.
    """
    check_arguments(x1, weight1, scale1, per_token_scale1, weight2, per_channel_scale2, group_list)
    (m, k1), k2, n2 = x1.shape, weight2.shape[2], weight2.shape[1]
    out = torch.zeros(m, n2, dtype=torch.float16, device=x1.device)
    row_tiles = _row_tiles(group_list, tiles.rows)
    if not len(row_tiles):
        return out
    h = torch.empty(m, k2, dtype=torch.float32, device=x1.device)
    row_max_bits = torch.zeros(m, dtype=torch.int32, device=x1.device)
    # A fused multiply-add would round where the reference does not, and break the rounding to integers.
    options = {
        "row_count": tiles.rows,
        "column_count": tiles.columns,
        "inner_count": tiles.inner,
        "enable_fp_fusion": False,
    }
    _matmul_dequantize_swiglu[(len(row_tiles), triton.cdiv(k2, tiles.columns))](
        x1.contiguous(), weight1, scale1.contiguous(), per_token_scale1.contiguous(), row_tiles, h, row_max_bits,
        k1, k2, k2 * weight1.stride(2), *weight1.stride(), **options,
    )  # fmt: skip
    _quantize_matmul_dequantize[(len(row_tiles), triton.cdiv(n2, tiles.columns))](
        h, row_max_bits, weight2, per_channel_scale2.contiguous(), row_tiles, out,
        n2, k2, *weight2.stride(), **options,
    )  # fmt: skip
    return out


def _row_tiles(group_list: Tensor, row_count: int) -> Tensor:
    """Return int32 (tiles, 3): the group, first row and end row of every row tile, none across two groups."""
    rows = [
        (part.group, first_row, min(first_row + row_count, part.end_row))
        for part in row_groups(group_list)
        for first_row in range(part.first_row, part.end_row, row_count)
    ]
    return torch.tensor(rows, dtype=torch.int32, device=group_list.device)


@triton.jit  # type: ignore[untyped-decorator]
def _matmul_dequantize_swiglu(
    x1_pointer: tl.tensor, weight1_pointer: tl.tensor, scale1_pointer: tl.tensor,
    per_token_scale1_pointer: tl.tensor, row_tiles_pointer: tl.tensor, h_pointer: tl.tensor,
    row_max_bits_pointer: tl.tensor, k1: tl.tensor, k2: tl.tensor, gate_offset: tl.tensor,
    group_stride: tl.tensor, inner_stride: tl.tensor, column_stride: tl.tensor,
    row_count: tl.constexpr, column_count: tl.constexpr, inner_count: tl.constexpr,
) -> None:  # fmt: skip
    """Write one tile of h, float32, and raise the bits of its rows' largest magnitudes."""
    row_tile = row_tiles_pointer + 3 * tl.program_id(0)
    group = tl.load(row_tile).to(tl.int64)
    rows = tl.load(row_tile + 1).to(tl.int64) + tl.arange(0, row_count)
    columns = (tl.program_id(1) * column_count + tl.arange(0, column_count)).to(tl.int64)
    inner = tl.arange(0, inner_count)
    in_rows, in_columns = rows < tl.load(row_tile + 2), columns < k2
    x1_tile = x1_pointer + rows[:, None] * k1 + inner[None, :]
    weight1_group = weight1_pointer + group * group_stride
    act_tile = weight1_group + inner[:, None] * inner_stride + columns[None, :] * column_stride
    act_sum = tl.zeros((row_count, column_count), tl.int32)
    gate_sum = tl.zeros((row_count, column_count), tl.int32)
    for start in range(0, k1, inner_count):
        in_inner = inner < k1 - start
        in_weight = in_inner[:, None] & in_columns[None, :]
        x1_part = tl.load(x1_tile, mask=in_rows[:, None] & in_inner[None, :], other=0)
        act_sum = tl.dot(x1_part, tl.load(act_tile, mask=in_weight, other=0), act_sum, out_dtype=tl.int32)
        gate_part = tl.load(act_tile + gate_offset, mask=in_weight, other=0)
        gate_sum = tl.dot(x1_part, gate_part, gate_sum, out_dtype=tl.int32)
        x1_tile += inner_count
        act_tile += inner_count * inner_stride
    row_scale = tl.load(per_token_scale1_pointer + rows, mask=in_rows, other=0.0)[:, None]
    scale1_tile = scale1_pointer + group * 2 * k2 + columns
    act = act_sum.to(tl.float32) * tl.load(scale1_tile, mask=in_columns, other=0.0)[None, :] * row_scale
    gate = gate_sum.to(tl.float32) * tl.load(scale1_tile + k2, mask=in_columns, other=0.0)[None, :] * row_scale
    h = act * tl.sigmoid(act) * gate
    tl.store(h_pointer + rows[:, None] * k2 + columns[None, :], h, mask=in_rows[:, None] & in_columns[None, :])
    # As integers, the bits of non-negative floats keep their order and NaN is the largest: it is never lost.
    magnitude_bits = tl.where(in_columns[None, :], tl.abs(h), 0.0).to(tl.int32, bitcast=True)
    tl.atomic_max(row_max_bits_pointer + rows, tl.max(magnitude_bits, axis=1), mask=in_rows)


@triton.jit  # type: ignore[untyped-decorator]
def _quantize_matmul_dequantize(
    h_pointer: tl.tensor, row_max_bits_pointer: tl.tensor, weight2_pointer: tl.tensor,
    per_channel_scale2_pointer: tl.tensor, row_tiles_pointer: tl.tensor, out_pointer: tl.tensor,
    n2: tl.tensor, k2: tl.tensor,
    group_stride: tl.tensor, column_stride: tl.tensor, inner_stride: tl.tensor,
    row_count: tl.constexpr, column_count: tl.constexpr, inner_count: tl.constexpr,
) -> None:  # fmt: skip
    """Write one tile of the output, float16."""
    row_tile = row_tiles_pointer + 3 * tl.program_id(0)
    group = tl.load(row_tile).to(tl.int64)
    rows = tl.load(row_tile + 1).to(tl.int64) + tl.arange(0, row_count)
    columns = (tl.program_id(1) * column_count + tl.arange(0, column_count)).to(tl.int64)
    inner = tl.arange(0, inner_count)
    in_rows, in_columns = rows < tl.load(row_tile + 2), columns < n2
    row_max = tl.load(row_max_bits_pointer + rows, mask=in_rows, other=0).to(tl.float32, bitcast=True)
    quantizable = (row_max >= SMALLEST_MAX) & (row_max < float("inf"))
    largest = tl.full((row_count,), LARGEST_Q, tl.float32)
    multiplier = tl.where(quantizable, tl.div_rn(largest, tl.where(quantizable, row_max, 1.0)), 0.0)
    s2 = tl.where(row_max < SMALLEST_MAX, 0.0, tl.div_rn(row_max, largest))
    h_tile = h_pointer + rows[:, None] * k2 + inner[None, :]
    weight2_group = weight2_pointer + group * group_stride
    weight_tile = weight2_group + inner[:, None] * inner_stride + columns[None, :] * column_stride
    acc = tl.zeros((row_count, column_count), tl.int32)
    for start in range(0, k2, inner_count):
        in_inner = inner < k2 - start
        h = tl.load(h_tile, mask=in_rows[:, None] & in_inner[None, :], other=0.0)
        steps = (h * multiplier[:, None] + ROUND_TO_INTEGER) - ROUND_TO_INTEGER
        q = tl.where(steps == steps, steps, 0.0).to(tl.int8)
        weight_part = tl.load(weight_tile, mask=in_inner[:, None] & in_columns[None, :], other=0)
        acc = tl.dot(q, weight_part, acc, out_dtype=tl.int32)
        h_tile += inner_count
        weight_tile += inner_count * inner_stride
    scale = tl.load(per_channel_scale2_pointer + group * n2 + columns, mask=in_columns, other=0.0)
    out = acc.to(tl.float32) * scale[None, :] * s2[:, None]
    out_tile = out_pointer + rows[:, None] * n2 + columns[None, :]
    tl.store(out_tile, out.to(tl.float16), mask=in_rows[:, None] & in_columns[None, :])

"""The Triton kernels of the fused MLP, which `triton.fused_mlp` launches."""

import triton
import triton.language as tl
from gulliver.fused_mlp.formats import E4M3, INT8

INT8_LARGEST = tl.constexpr(INT8.largest)
INT8_SMALLEST_MAX = tl.constexpr(INT8.smallest_row_max)
E4M3_LARGEST = tl.constexpr(E4M3.largest)
E4M3_SMALLEST_MAX = tl.constexpr(E4M3.smallest_row_max)
# Adding and subtracting it rounds a float32 below 2^22 to a multiple of 1, half to even. Triton has no such function
# that works both on a GPU and in the interpreter.
ROUND_TO_INTEGER = tl.constexpr(1.5 * 2**23)
# The same for multiples of 2^-9, the spacing of E4M3 below 2^-6.
ROUND_TO_SUBNORMAL = tl.constexpr(1.5 * 2**14)
SMALLEST_NORMAL = tl.constexpr(2.0**-6)
# The tensor cores of Hopper keep 14 bits of a sum of E4M3 products: DeepSeek-V3 Technical Report, section 3.3.2,
# adds them up in float32 after every 128.
E4M3_PARTIAL_SUM = tl.constexpr(128)


@triton.jit  # type: ignore[untyped-decorator]
def place(row_tiles: tl.tensor, column_tiles: tl.tensor, row_tiles_together: tl.constexpr) -> tl.tensor:
    """Return the row tile and the column tile of this program.

    Programs that run together share `row_tiles_together` row tiles and few column tiles, so that both stay in L2.
    """
    program = tl.program_id(0)
    band = program // (row_tiles_together * column_tiles)
    first_row_tile = band * row_tiles_together
    height = tl.minimum(row_tiles - first_row_tile, row_tiles_together)
    place_in_band = program % (row_tiles_together * column_tiles)
    return first_row_tile + place_in_band % height, place_in_band // height


@triton.jit  # type: ignore[untyped-decorator]
def row_range(
    row_tile: tl.tensor, group_list_pointer: tl.tensor, group_count: tl.tensor, m: tl.tensor,
    row_count: tl.constexpr, group_slots: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return group, first row and end row of a row tile; none crosses groups, and the tail is group `group_count`.

    Every program searches group_list, so that the host need not know it. A tile after the last has no rows and a
    group beyond the tail's. `group_slots`, a power of 2, exceeds `group_count`. Counts are clamped to m rows.
    """
    slots = tl.arange(0, group_slots)
    ends = tl.load(group_list_pointer + slots, mask=slots < group_count, other=m)
    follows = (slots > 0) & (slots <= group_count)
    starts = tl.load(group_list_pointer + slots - 1, mask=follows, other=m)
    starts = tl.where(slots == 0, 0, starts)
    ends, starts = tl.minimum(tl.maximum(ends, 0), m), tl.minimum(tl.maximum(starts, 0), m)
    tiles = (tl.maximum(ends - starts, 0) + row_count - 1) // row_count
    end_tiles = tl.cumsum(tiles, 0)
    group = tl.sum((end_tiles <= row_tile).to(tl.int64))
    is_group = slots == group
    first_row = tl.sum(tl.where(is_group, starts + (row_tile - (end_tiles - tiles)) * row_count, 0))
    return group, first_row, tl.sum(tl.where(is_group, ends, 0))


@triton.jit  # type: ignore[untyped-decorator]
def multiply_add(left: tl.tensor, right: tl.tensor, total: tl.tensor, inner_count: tl.constexpr) -> tl.tensor:
    """Return total + left @ right: int32 of int8 operands, float32 of E4M3."""
    if left.dtype == tl.int8:
        return tl.dot(left, right, total, out_dtype=tl.int32)
    else:
        partial_sum: tl.constexpr = inner_count if inner_count < E4M3_PARTIAL_SUM else E4M3_PARTIAL_SUM
        return tl.dot(left, right, total, out_dtype=tl.float32, max_num_imprecise_acc=partial_sum)


@triton.jit  # type: ignore[untyped-decorator]
def magnitude_bits(h: tl.tensor) -> tl.tensor:
    """Return the bits of |h|. As integers they keep the order, and NaN is the largest: a maximum never loses it."""
    return tl.abs(h).to(tl.int32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def quantization(row_max: tl.tensor, is_int8: tl.constexpr) -> tl.tensor:
    """Return what `quantize` multiplies rows of these maxima with, and s2; a row that is not finite gets 0."""
    largest_step: tl.constexpr = INT8_LARGEST if is_int8 else E4M3_LARGEST
    smallest_max: tl.constexpr = INT8_SMALLEST_MAX if is_int8 else E4M3_SMALLEST_MAX
    quantizable = (row_max >= smallest_max) & (row_max < float("inf"))
    largest = tl.zeros_like(row_max) + largest_step
    multiplier = tl.where(quantizable, tl.div_rn(largest, tl.where(quantizable, row_max, 1.0)), 0.0)
    return multiplier, tl.where(row_max < smallest_max, 0.0, tl.div_rn(row_max, largest))


@triton.jit  # type: ignore[untyped-decorator]
def quantize(h: tl.tensor, multiplier: tl.tensor, is_int8: tl.constexpr) -> tl.tensor:
    """Return h * multiplier rounded half to even to int8 or E4M3, neither of which it exceeds; NaN becomes 0."""
    steps = h * multiplier
    steps = tl.where(steps == steps, steps, 0.0)
    if is_int8:
        return ((steps + ROUND_TO_INTEGER) - ROUND_TO_INTEGER).to(tl.int8)
    else:
        # Rounded before it is converted, as the interpreter's conversion is right only where nothing is rounded.
        bits = steps.to(tl.int32, bitcast=True)
        rounded_bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
        subnormal = (steps + ROUND_TO_SUBNORMAL) - ROUND_TO_SUBNORMAL
        normal = rounded_bits.to(tl.float32, bitcast=True)
        return tl.where(tl.abs(steps) < SMALLEST_NORMAL, subnormal, normal).to(tl.float8e4nv)


@triton.jit(do_not_specialize=["m", "row_tiles"])  # type: ignore[untyped-decorator]
def matmul_dequantize_swiglu(
    x1_pointer: tl.tensor, weight1_pointer: tl.tensor, scale1_pointer: tl.tensor,
    per_token_scale1_pointer: tl.tensor, group_list_pointer: tl.tensor, h_pointer: tl.tensor,
    row_max_bits_pointer: tl.tensor, m: tl.tensor, k1: tl.tensor, k2: tl.tensor, group_count: tl.tensor,
    row_tiles: tl.tensor, gate_offset: tl.tensor, group_stride: tl.tensor, inner_stride: tl.tensor,
    column_stride: tl.tensor, group_slots: tl.constexpr, store_row_max: tl.constexpr, row_count: tl.constexpr,
    column_count: tl.constexpr, inner_count: tl.constexpr, row_tiles_together: tl.constexpr,
) -> None:  # fmt: skip
    """Write one tile of h, float32, and the bits of its rows' largest magnitudes, int32 (column tiles, m)."""
    row_tile, column_tile = place(row_tiles, tl.cdiv(k2, column_count), row_tiles_together)
    group, first_row, end_row = row_range(row_tile, group_list_pointer, group_count, m, row_count, group_slots)
    if group >= group_count:
        return
    rows = first_row + tl.arange(0, row_count)
    columns = (column_tile * column_count + tl.arange(0, column_count)).to(tl.int64)
    inner = tl.arange(0, inner_count)
    in_rows, in_columns = rows < end_row, columns < k2
    x1_tile = x1_pointer + rows[:, None] * k1 + inner[None, :]
    weight1_group = weight1_pointer + group * group_stride
    act_tile = weight1_group + inner[:, None] * inner_stride + columns[None, :] * column_stride
    sum_type: tl.constexpr = tl.int32 if x1_pointer.dtype.element_ty == tl.int8 else tl.float32
    act_sum = tl.zeros((row_count, column_count), sum_type)
    gate_sum = tl.zeros((row_count, column_count), sum_type)
    for start in range(0, k1, inner_count):
        in_inner = inner < k1 - start
        in_weight = in_inner[:, None] & in_columns[None, :]
        x1_part = tl.load(x1_tile, mask=in_rows[:, None] & in_inner[None, :], other=0.0)
        act_part = tl.load(act_tile, mask=in_weight, other=0.0)
        gate_part = tl.load(act_tile + gate_offset, mask=in_weight, other=0.0)
        act_sum = multiply_add(x1_part, act_part, act_sum, inner_count)
        gate_sum = multiply_add(x1_part, gate_part, gate_sum, inner_count)
        x1_tile += inner_count
        act_tile += inner_count * inner_stride
    row_scale = tl.load(per_token_scale1_pointer + rows, mask=in_rows, other=0.0)[:, None]
    scale1_tile = scale1_pointer + group * 2 * k2 + columns
    act = act_sum.to(tl.float32) * tl.load(scale1_tile, mask=in_columns, other=0.0)[None, :] * row_scale
    gate = gate_sum.to(tl.float32) * tl.load(scale1_tile + k2, mask=in_columns, other=0.0)[None, :] * row_scale
    h = act * tl.sigmoid(act) * gate
    tl.store(h_pointer + rows[:, None] * k2 + columns[None, :], h, mask=in_rows[:, None] & in_columns[None, :])
    if store_row_max:
        bits = tl.where(in_columns[None, :], magnitude_bits(h), 0)
        tl.store(row_max_bits_pointer + column_tile.to(tl.int64) * m + rows, tl.max(bits, axis=1), mask=in_rows)


@triton.jit  # type: ignore[untyped-decorator]
def quantize_rows(
    h_pointer: tl.tensor, q_pointer: tl.tensor, s2_pointer: tl.tensor, group_list_pointer: tl.tensor,
    group_count: tl.tensor, k2: tl.tensor, column_count: tl.constexpr,
) -> None:  # fmt: skip
    """Write q and s2 of one row of h, unless it is of the tail. It is read twice, the second time from a cache."""
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(group_list_pointer + group_count - 1):
        return
    columns = tl.arange(0, column_count)
    bits = tl.zeros((column_count,), tl.int32)
    for start in range(0, k2, column_count):
        h = tl.load(h_pointer + row * k2 + start + columns, mask=columns < k2 - start, other=0.0)
        bits = tl.maximum(bits, magnitude_bits(h))
    is_int8: tl.constexpr = q_pointer.dtype.element_ty == tl.int8
    multiplier, s2 = quantization(tl.max(bits, axis=0).to(tl.float32, bitcast=True), is_int8)
    tl.store(s2_pointer + row, s2)
    for start in range(0, k2, column_count):
        h = tl.load(h_pointer + row * k2 + start + columns, mask=columns < k2 - start, other=0.0)
        q = quantize(h, multiplier, is_int8)
        tl.store(q_pointer + row * k2 + start + columns, q, mask=columns < k2 - start)


@triton.jit(do_not_specialize=["m", "row_tiles"])  # type: ignore[untyped-decorator]
def matmul_dequantize(
    rows_pointer: tl.tensor, row_scale_pointer: tl.tensor, weight2_pointer: tl.tensor,
    per_channel_scale2_pointer: tl.tensor, group_list_pointer: tl.tensor, out_pointer: tl.tensor,
    m: tl.tensor, n2: tl.tensor, k2: tl.tensor, group_count: tl.tensor, row_tiles: tl.tensor,
    group_stride: tl.tensor, column_stride: tl.tensor, inner_stride: tl.tensor, group_slots: tl.constexpr,
    row_max_tiles: tl.constexpr, row_max_slots: tl.constexpr, row_count: tl.constexpr, column_count: tl.constexpr,
    inner_count: tl.constexpr, row_tiles_together: tl.constexpr,
) -> None:  # fmt: skip
    """Write one tile of the output, float16, from q and s2, or with `row_max_tiles` from h and its rows' maxima.

    Rows of the tail are zeros. `row_max_slots` is a power of 2 and at least `row_max_tiles`.
    """
    row_tile, column_tile = place(row_tiles, tl.cdiv(n2, column_count), row_tiles_together)
    group, first_row, end_row = row_range(row_tile, group_list_pointer, group_count, m, row_count, group_slots)
    rows = first_row + tl.arange(0, row_count)
    columns = (column_tile * column_count + tl.arange(0, column_count)).to(tl.int64)
    inner = tl.arange(0, inner_count)
    in_rows, in_columns = rows < end_row, columns < n2
    out_tile = out_pointer + rows[:, None] * n2 + columns[None, :]
    in_out = in_rows[:, None] & in_columns[None, :]
    if group >= group_count:
        tl.store(out_tile, tl.zeros((row_count, column_count), tl.float16), mask=in_out)
        return
    is_int8: tl.constexpr = weight2_pointer.dtype.element_ty == tl.int8
    if row_max_tiles:
        tiles = tl.arange(0, row_max_slots)
        bits_tile = row_scale_pointer + tiles[:, None].to(tl.int64) * m + rows[None, :]
        bits = tl.load(bits_tile, mask=(tiles[:, None] < row_max_tiles) & in_rows[None, :], other=0.0)
        multiplier, s2 = quantization(tl.max(bits, axis=0).to(tl.float32, bitcast=True), is_int8)
    else:
        s2 = tl.load(row_scale_pointer + rows, mask=in_rows, other=0.0)
    rows_tile = rows_pointer + rows[:, None] * k2 + inner[None, :]
    weight2_group = weight2_pointer + group * group_stride
    weight_tile = weight2_group + inner[:, None] * inner_stride + columns[None, :] * column_stride
    total = tl.zeros((row_count, column_count), tl.int32 if is_int8 else tl.float32)
    for start in range(0, k2, inner_count):
        in_inner = inner < k2 - start
        q = tl.load(rows_tile, mask=in_rows[:, None] & in_inner[None, :], other=0.0)
        if row_max_tiles:
            q = quantize(q, multiplier[:, None], is_int8)
        weight_part = tl.load(weight_tile, mask=in_inner[:, None] & in_columns[None, :], other=0.0)
        total = multiply_add(q, weight_part, total, inner_count)
        rows_tile += inner_count
        weight_tile += inner_count * inner_stride
    scale = tl.load(per_channel_scale2_pointer + group * n2 + columns, mask=in_columns, other=0.0)
    tl.store(out_tile, (total.to(tl.float32) * scale[None, :] * s2[:, None]).to(tl.float16), mask=in_out)

"""MmDeqSwigluQuantMmDeq in plain torch: slow, exact, the truth that the fast versions are tested against."""

import torch
from gulliver.fused_mlp.arguments import check_arguments, row_groups
from gulliver.fused_mlp.formats import FORMATS, INT8, NumberFormat
from torch import Tensor

TILES = (128, 256)


def fused_mlp(
    x1: Tensor,
    weight1: Tensor,
    scale1: Tensor,
    per_token_scale1: Tensor,
    weight2: Tensor,
    per_channel_scale2: Tensor,
    group_list: Tensor,
    *,
    tile: int | None = None,
) -> Tensor:
    """Return the quantized gated MLP of each group's rows, float16 (m, N2).

    x1 int8 (m, K1); weight1 int8 (G, K1, N1); scale1 float32 (G, N1); per_token_scale1 float32 (m);
    weight2 int8 (G, N2, N1/2); per_channel_scale2 float32 (G, N2); group_list int64 (G), cumulative counts of
    rows. With `tile`, weight1 and scale1 are those that `interleave` returned. Rows from group_list[-1] on
    are zeros here; the vendor leaves them undefined. A row of h whose largest magnitude is below 2^-119
    counts as a row of zeros: q = 0 and s2 = 0, where the vendor yields NaN. A row of h that is not finite
    yields NaN. Raises ValueError, naming the argument, for any shape, dtype, device, group_list or tile that
    breaks these rules.

    x1 and both weights may be float8_e4m3fn instead, which the vendor's kernel does not know. Then the sums are
    the float32 nearest to the exact ones, h is quantized to 448 steps instead of 127, each rounded to the nearest
    E4M3 (none exceeds 448, where it would saturate), and the rows that count as zero are those below 2^-117.
    Source: hicann/ascend-transformer-boost, src/kernels/mixkernels/gmm_deq_swiglu_quant_gmm_deq.
    """
    check_arguments(x1, weight1, scale1, per_token_scale1, weight2, per_channel_scale2, group_list)
    if tile is not None:
        _check_tile("weight1", scale1.shape[-1], tile)
    out = torch.zeros(x1.shape[0], weight2.shape[1], dtype=torch.float16, device=x1.device)
    for part in row_groups(group_list):
        acc1 = exact_matmul(x1[part.rows], weight1[part.group])
        h = swiglu(acc1.float() * scale1[part.group] * per_token_scale1[part.rows, None], tile)
        q, s2 = quantize_rows(h, FORMATS[x1.dtype])
        acc2 = exact_matmul(q, weight2[part.group].T)
        out[part.rows] = (acc2.float() * per_channel_scale2[part.group] * s2[:, None]).half()
    return out


def unfused_mlp(
    x1: Tensor,
    weight1: Tensor,
    scale1: Tensor,
    per_token_scale1: Tensor,
    weight2: Tensor,
    per_channel_scale2: Tensor,
    group_list: Tensor,
) -> Tensor:
    """Return what `fused_mlp` returns, bit for bit, through six steps that each write their whole result."""
    check_arguments(x1, weight1, scale1, per_token_scale1, weight2, per_channel_scale2, group_list)
    acc1 = grouped_matmul(x1, weight1, group_list)
    y1 = dequantize(acc1, scale1, per_token_scale1, group_list)
    h = swiglu(y1)
    q, s2 = quantize_rows(h, FORMATS[x1.dtype])
    acc2 = grouped_matmul(q, weight2.transpose(1, 2), group_list)
    return dequantize(acc2, per_channel_scale2, s2, group_list).half()


def exact_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right of (m, K) and (K, n), exactly: int8 as int32 (m, n), float8_e4m3fn rounded to float32 once.

    It goes through float64, whose sums are exact up to 2^53 steps in any order: that holds for every shape, on any
    device and in any BLAS. torch has no int32 matmul on GPUs, and torch._int_mm is private and refuses small
    and odd shapes there.
    """
    return (left.double() @ right.double()).to(FORMATS[left.dtype].sum_dtype)


def grouped_matmul(left: Tensor, weight: Tensor, group_list: Tensor) -> Tensor:
    """Return left[rows of g] @ weight[g] for every g, (m, K) and (G, K, n), as `exact_matmul` does, (m, n)."""
    acc = torch.zeros(left.shape[0], weight.shape[2], dtype=FORMATS[left.dtype].sum_dtype, device=left.device)
    for part in row_groups(group_list):
        acc[part.rows] = exact_matmul(left[part.rows], weight[part.group])
    return acc


def dequantize(acc: Tensor, channel_scale: Tensor, row_scale: Tensor, group_list: Tensor) -> Tensor:
    """Return acc * channel_scale[g] * row_scale, sums (m, n), float32 (G, n) and (m), as float32 (m, n)."""
    y = torch.zeros(acc.shape, dtype=torch.float32, device=acc.device)
    for part in row_groups(group_list):
        y[part.rows] = acc[part.rows].float() * channel_scale[part.group] * row_scale[part.rows, None]
    return y


def swiglu(y: Tensor, tile: int | None = None) -> Tensor:
    """Return silu(act) * gate of y (m, n), float32 (m, n/2): act is the first half of y or of each tile."""
    width = tile or y.shape[-1]
    act, gate = y.view(*y.shape[:-1], y.shape[-1] // width, width).chunk(2, dim=-1)
    # In place, as memory for new results costs more than the arithmetic.
    return torch.sigmoid(act).mul_(act).mul_(gate).flatten(-2)


def quantize_rows(h: Tensor, number_format: NumberFormat = INT8) -> tuple[Tensor, Tensor]:
    """Return q (m, n) in the format and s2, float32 (m), with h close to q * s2: symmetric, half to even."""
    row_max = h.abs().amax(dim=-1)
    quantizable = (row_max >= number_format.smallest_row_max) & row_max.isfinite()
    # Not largest / row_max, which torch rounds twice: it multiplies by the reciprocal.
    multiplier = torch.where(quantizable, torch.full_like(row_max, number_format.largest) / row_max, 0.0)
    steps = (h * multiplier[:, None]).nan_to_num(nan=0.0)
    q = (steps if number_format.dtype.is_floating_point else steps.round()).to(number_format.dtype)
    return q, torch.where(row_max < number_format.smallest_row_max, 0.0, row_max / number_format.largest)


def interleave(columns: Tensor, tile: int) -> Tensor:
    """Return weight1 or scale1 (..., n) with every tile/2 act columns followed by the gate columns they meet.

    The vendor does this offline, so that one tile of matmul 1 holds all that SwiGLU needs. Raises ValueError
    unless tile is 128 or 256 and divides n.
    """
    _check_tile("columns", columns.shape[-1], tile)
    return _swap_blocks(columns, 2, columns.shape[-1] // tile, tile // 2)


def deinterleave(columns: Tensor, tile: int) -> Tensor:
    """Undo `interleave` with the same tile, and raise ValueError under the same rules."""
    _check_tile("columns", columns.shape[-1], tile)
    return _swap_blocks(columns, columns.shape[-1] // tile, 2, tile // 2)


def _swap_blocks(columns: Tensor, outer: int, inner: int, width: int) -> Tensor:
    """Order columns stored as (outer, inner, width) blocks by (inner, outer, width)."""
    return columns.reshape(*columns.shape[:-1], outer, inner, width).swapaxes(-3, -2).reshape(columns.shape)


def _check_tile(name: str, column_count: int, tile: int) -> None:
    if tile not in TILES:
        raise ValueError(f"tile must be one of {TILES}, but it is {tile}")
    if column_count % tile:
        raise ValueError(f"{name} must have a multiple of tile = {tile} columns, but it has {column_count}")

"""The rules that the arguments of every implementation must follow, and the row groups they describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from gulliver.fused_mlp.formats import FORMATS, INT8
from torch import Tensor

# The sum of K products of two int8 values is at most K * 128 * 128, which must stay below 2^31. Those of E4M3 are
# multiples of 2^-18 up to 448 * 448, whose sums float64 holds up to K = 171196.
MAX_INNER_SIZE = 2**31 // (128 * 128) - 1


@dataclass(frozen=True)
class RowGroup:
    """The rows of x1, from first_row up to but not including end_row, that meet the weights of one group."""

    group: int
    first_row: int
    end_row: int

    @property
    def rows(self) -> slice:
        """The slice that takes these rows out of a tensor."""
        return slice(self.first_row, self.end_row)


def row_groups(group_list: Tensor) -> list[RowGroup]:
    """Return the groups of a cumulative group_list (int64, (G)) that have rows, in order."""
    ends = [int(end) for end in group_list.tolist()]
    bounds = enumerate(pairwise([0, *ends]))
    return [RowGroup(group, first, end) for group, (first, end) in bounds if end > first]


def check_arguments(
    x1: Tensor,
    weight1: Tensor,
    scale1: Tensor,
    per_token_scale1: Tensor,
    weight2: Tensor,
    per_channel_scale2: Tensor,
    group_list: Tensor,
    *,
    check_groups: bool = True,
) -> None:
    """Raise ValueError, with argument, rule and value, unless all seven follow the rules of `fused_mlp`.

    Without `check_groups` the counts in group_list are not read: on a GPU, reading them waits for it.
    """
    check_weights(weight1, scale1, weight2, per_channel_scale2, dtypes=tuple(FORMATS))
    check_rows(
        x1, per_token_scale1, group_list, weight1.shape[0], weight1.shape[1], weight1.device,
        dtype=weight1.dtype, check_groups=check_groups,
    )  # fmt: skip


def check_weights(
    weight1: Tensor,
    scale1: Tensor,
    weight2: Tensor,
    per_channel_scale2: Tensor,
    *,
    dtypes: Sequence[torch.dtype] = (INT8.dtype,),
) -> None:
    """Raise ValueError unless weights are of one of `dtypes`, scales float32, and G, N1 and N2 the same in all."""
    _check_dtype("weight1", weight1, *dtypes)
    _check_dtype("weight2", weight2, weight1.dtype)
    _check_dimensions("weight1", weight1, 3)
    _check_dimensions("weight2", weight2, 3)
    group_count, _, n1 = weight1.shape
    if n1 % 2:
        raise ValueError(f"weight1 must have an even N1, half of it act and half gate, but N1 is {n1}")
    _check_inner_size("weight1", "K1", weight1.shape[1])
    _check_inner_size("weight2", "K2", weight2.shape[2])
    _check_shape("weight2", weight2, (group_count, weight2.shape[1], n1 // 2), "(G, N2, N1/2)")
    _check_scale("scale1", scale1, (group_count, n1), "(G, N1)")
    _check_scale("per_channel_scale2", per_channel_scale2, (group_count, weight2.shape[1]), "(G, N2)")
    others = {"scale1": scale1, "weight2": weight2, "per_channel_scale2": per_channel_scale2}
    _check_devices(others, weight1.device)


def check_rows(
    x1: Tensor,
    per_token_scale1: Tensor,
    group_list: Tensor,
    group_count: int,
    k1: int,
    device: torch.device,
    *,
    dtype: torch.dtype = INT8.dtype,
    check_groups: bool = True,
) -> None:
    """Raise ValueError unless the rows fit weights of `group_count` groups with K1 inputs of `dtype` on `device`."""
    _check_dtype("x1", x1, dtype)
    if x1.ndim != 2:
        raise ValueError(f"x1 must have 2 dimensions, but it is {tuple(x1.shape)}")
    _check_shape("x1", x1, (x1.shape[0], k1), "(m, K1)")
    _check_scale("per_token_scale1", per_token_scale1, (x1.shape[0],), "(m)")
    _check_dtype("group_list", group_list, torch.int64)
    _check_shape("group_list", group_list, (group_count,), "(G)")
    _check_devices({"x1": x1, "per_token_scale1": per_token_scale1, "group_list": group_list}, device)
    if check_groups:
        _check_cumulative(group_list.tolist(), x1.shape[0])


def _check_cumulative(ends: Sequence[int], row_count: int) -> None:
    if ends[0] < 0:
        raise ValueError(f"group_list must not be negative, but it is {ends}")
    if any(end < previous for previous, end in pairwise(ends)):
        raise ValueError(f"group_list must not decrease: it counts rows cumulatively, but it is {ends}")
    if ends[-1] > row_count:
        raise ValueError(f"group_list must end at or before the {row_count} rows of x1, but it is {ends}")


def _check_dimensions(name: str, tensor: Tensor, dimensions: int) -> None:
    if tensor.ndim != dimensions or 0 in tensor.shape:
        raise ValueError(f"{name} must have {dimensions} dimensions, none of them 0, but it is {tuple(tensor.shape)}")


def _check_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, but it is a {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(map(str, dtypes))}, but it is {tensor.dtype}")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], symbols: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {symbols} = {shape}, but it is {tuple(tensor.shape)}")


def _check_scale(name: str, scale: Tensor, shape: tuple[int, ...], symbols: str) -> None:
    _check_dtype(name, scale, torch.float32)
    _check_shape(name, scale, shape, symbols)


def _check_devices(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise ValueError(f"{name} must be on weight1's device, {device}, but it is on {tensor.device}")


def _check_inner_size(name: str, symbol: str, size: int) -> None:
    if size > MAX_INNER_SIZE:
        raise ValueError(f"{name} must have {symbol} at most {MAX_INNER_SIZE}, or sums overflow, but it is {size}")

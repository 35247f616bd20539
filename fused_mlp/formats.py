"""The 8-bit number formats that the operands of both matmuls may have, one for all of them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NumberFormat:
    """An 8-bit format, the dtype of its sums, and the bounds between which a row of h can be quantized to it.

    A row maximum below `smallest_row_max` would take largest / row_max or row_max / largest out of the normal
    range of float32.
    """

    dtype: torch.dtype
    sum_dtype: torch.dtype
    largest: float
    smallest_row_max: float


INT8 = NumberFormat(torch.int8, torch.int32, 127.0, 2.0**-119)
# 4 bits of exponent, 3 of mantissa, no infinities: Micikevicius et al., FP8 Formats for Deep Learning, 2022.
E4M3 = NumberFormat(torch.float8_e4m3fn, torch.float32, 448.0, 2.0**-117)
FORMATS = {number_format.dtype: number_format for number_format in (INT8, E4M3)}

# GPUs before it have no matrix instruction for E4M3.
FIRST_E4M3_CAPABILITY = (8, 9)


def check_capability(dtype: torch.dtype, capability: tuple[int, int]) -> None:
    """Raise ValueError unless a GPU of this compute capability multiplies matrices of `dtype`."""
    if dtype == E4M3.dtype and capability < FIRST_E4M3_CAPABILITY:
        has, needed = (".".join(map(str, numbers)) for numbers in (capability, FIRST_E4M3_CAPABILITY))
        raise ValueError(f"weight1 may be {dtype} from compute capability {needed} on, but this GPU has {has}")

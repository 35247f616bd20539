"""The tensors of one shape: random values of the precision, with scales that keep act near 1."""

from dataclasses import dataclass

import torch
from gulliver.fused_mlp.arguments import RowGroup, row_groups
from torch import Tensor

from benchmarks.gpu.shapes import K1, N1, N2, Shape

DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
# The standard deviation of uniform int8, which E4M3 values get too.
TYPICAL_VALUE = 74


@dataclass(frozen=True)
class Problem:
    """One call of the fused MLP, weights in the layout that what is measured takes."""

    x1: Tensor
    weight1: Tensor
    scale1: Tensor
    per_token_scale1: Tensor
    weight2: Tensor
    per_channel_scale2: Tensor
    group_list: Tensor

    @property
    def parts(self) -> list[RowGroup]:
        """The rows of each group that has any."""
        return row_groups(self.group_list)


def make_problem(shape: Shape, device: str, sizes: tuple[int, int, int] = (K1, N1, N2), seed: int = 0) -> Problem:
    """Draw the tensors of a shape, K1, N1 and N2 as in `sizes`; both weights have their inner size contiguous."""
    random = torch.Generator(device).manual_seed(seed)
    groups, (k1, n1, n2) = len(shape.group_rows), sizes

    def values(*size: int) -> Tensor:
        if shape.precision == "int8":
            return torch.randint(-128, 128, size, dtype=torch.int8, device=device, generator=random)
        normal = torch.randn(size, dtype=torch.bfloat16, device=device, generator=random)
        return (TYPICAL_VALUE * normal).clamp(-448, 448).to(torch.float8_e4m3fn)

    def scales(typical: float, *size: int) -> Tensor:
        return (0.5 + torch.rand(size, device=device, generator=random)) * typical

    return Problem(
        x1=values(shape.rows, k1),
        weight1=values(groups, n1, k1).transpose(1, 2),
        scale1=scales(1 / (TYPICAL_VALUE * k1**0.5), groups, n1),
        per_token_scale1=scales(1 / TYPICAL_VALUE, shape.rows),
        weight2=values(groups, n2, n1 // 2),
        per_channel_scale2=scales(1 / (TYPICAL_VALUE * (n1 // 2) ** 0.5), groups, n2),
        group_list=torch.tensor(shape.group_rows, device=device).cumsum(0),
    )


def relative_error(result: Tensor, truth: Tensor) -> float:
    """Return the norm of the difference over the norm of the truth, both of whole tensors, NaN if any is."""
    difference = (result.double() - truth.double()).norm()
    return (difference / truth.double().norm()).item()

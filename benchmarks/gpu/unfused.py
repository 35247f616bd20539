"""What torch offers without the fused kernel: its 8-bit matmuls, with passes over memory between them.

Each of these knows the rows of every group beforehand, which in a network would cost a wait for the GPU.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from gulliver.fused_mlp.arguments import RowGroup
from gulliver.fused_mlp.formats import E4M3
from gulliver.fused_mlp.reference import quantize_rows, swiglu
from torch import Tensor

from benchmarks.gpu.problem import Problem

# torch._int_mm refuses fewer than 17 rows on a GPU.
LEAST_ROWS = 32
Mlp = Callable[..., Tensor]
Calls = Mapping[str, Callable[[], Tensor]]


def int8_mlp(
    x1: Tensor, weight1: Tensor, scale1: Tensor, token_scale: Tensor, weight2: Tensor, scale2: Tensor
) -> Tensor:
    """Return one group's output by torch._int_mm, int32 sums going through memory."""
    y1 = torch._int_mm(x1, weight1).float() * scale1 * token_scale[:, None]
    q, s2 = quantize_rows(swiglu(y1))
    return (torch._int_mm(q, weight2.T).float() * scale2 * s2[:, None]).half()


def fp8_mlp(
    x1: Tensor, weight1: Tensor, scale1: Tensor, token_scale: Tensor, weight2: Tensor, scale2: Tensor
) -> Tensor:
    """Return one group's output by torch._scaled_mm, which dequantizes too, but to bfloat16."""
    y1 = torch._scaled_mm(x1, weight1, token_scale[:, None], scale1[None], out_dtype=torch.bfloat16)
    q, s2 = quantize_rows(swiglu(y1.float()), E4M3)
    return torch._scaled_mm(q, weight2.T, s2[:, None], scale2[None], out_dtype=torch.bfloat16).half()


def grouped_fp8_mlp(
    x1: Tensor, weight1: Tensor, scale1: Tensor, token_scale: Tensor, weight2: Tensor, scale2: Tensor, ends: Tensor
) -> Tensor:
    """Return the output of all groups by torch._scaled_grouped_mm, which Hopper alone has."""
    y1 = torch._scaled_grouped_mm(x1, weight1, token_scale, scale1, offs=ends, out_dtype=torch.bfloat16)
    q, s2 = quantize_rows(swiglu(y1.float()), E4M3)
    return torch._scaled_grouped_mm(q, weight2.transpose(1, 2), s2, scale2, offs=ends, out_dtype=torch.bfloat16).half()


def by_groups(problem: Problem, mlp: Mlp) -> Callable[[], Tensor]:
    """Return a call that runs `mlp` on one group after the other, filled up with rows of zeros."""
    counts = [it.end_row - it.first_row for it in problem.parts]
    tensors = [group_tensors(problem, it) for it in problem.parts]

    def run() -> Tensor:
        return torch.cat([mlp(*group)[:count] for group, count in zip(tensors, counts, strict=True)])

    return run


def group_tensors(problem: Problem, part: RowGroup) -> tuple[Tensor, ...]:
    """Return what `int8_mlp` takes for one group, with as many rows as torch wants."""
    filling = max(0, LEAST_ROWS - (part.end_row - part.first_row))
    # F.pad knows no E4M3, whose zero is the same byte.
    x1 = F.pad(problem.x1[part.rows].view(torch.int8), (0, 0, 0, filling)).view(problem.x1.dtype)
    weights1 = (problem.weight1[part.group], problem.scale1[part.group])
    weights2 = (problem.weight2[part.group], problem.per_channel_scale2[part.group])
    return (x1, *weights1, F.pad(problem.per_token_scale1[part.rows], (0, filling)), *weights2)


def at_once(problem: Problem, mlp: Mlp) -> Callable[[], Tensor]:
    """Return a call that runs `mlp` on all groups."""
    weights1, weights2 = (problem.weight1, problem.scale1), (problem.weight2, problem.per_channel_scale2)
    tensors = (problem.x1, *weights1, problem.per_token_scale1, *weights2, problem.group_list.int())
    return lambda: mlp(*tensors)


def unfused_calls(problem: Problem, suffix: str = "", compiler: Callable[[Mlp], Mlp] | None = None) -> Calls:
    """Return what the fused kernel is compared with, eager or through a compiler, by the name it has in the table."""
    made = compiler or (lambda mlp: mlp)
    if problem.x1.dtype == torch.int8:
        return {f"unfused, torch._int_mm{suffix}": by_groups(problem, made(int8_mlp))}
    calls = {f"unfused, torch._scaled_mm{suffix}": by_groups(problem, made(fp8_mlp))}
    if len(problem.group_list) > 1:
        calls[f"unfused, torch._scaled_grouped_mm{suffix}"] = at_once(problem, made(grouped_fp8_mlp))
    return calls

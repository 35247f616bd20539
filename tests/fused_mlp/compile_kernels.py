"""Compiles the kernels that one call would launch, as for a GPU that is not there, and prints what came out as JSON.

A process of its own, as the tests run where Triton interprets: python compile_kernels.py DTYPE,CAPABILITY ...
"""

import json
import sys
from collections import Counter
from functools import partial
from typing import Any

import torch
import triton
from gulliver.fused_mlp.schedules import Schedule, TileSizes
from gulliver.fused_mlp.triton import fused_mlp, inner_contiguous
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

# The smallest tiles that reach Hopper's own instructions: they compile soonest.
SCHEDULE = Schedule(TileSizes(64, 16, 128), TileSizes(64, 32, 128))
GROUPS, ROWS, K1, K2, N2 = 2, 64, 256, 128, 256


class AbsentGpu:
    """What Triton asks a driver for before it launches."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        # Triton keeps what it compiled by device.
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def facts(dtype: torch.dtype, capability: int) -> dict[str, Any]:
    """What the tests ask of each kernel that a call compiles: its instructions, counted, and its shared memory."""
    triton.runtime.driver.set_active(AbsentGpu(capability))
    made = {}

    def compile_only(kernel: JITFunction, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        compiled = kernel.warmup(*arguments, grid=grid, **options)
        words = Counter(word for line in compiled.asm["ptx"].splitlines() for word in line.split()[:1])
        made[kernel.__name__] = {"instructions": words, "shared_memory_bytes": compiled.metadata.shared}

    JITFunction.__getitem__ = lambda kernel, grid: partial(compile_only, kernel, grid)
    fused_mlp(
        x1=torch.empty(ROWS, K1, dtype=dtype),
        weight1=inner_contiguous(torch.empty(GROUPS, K1, 2 * K2, dtype=dtype)),
        scale1=torch.empty(GROUPS, 2 * K2),
        per_token_scale1=torch.empty(ROWS),
        weight2=torch.empty(GROUPS, N2, K2, dtype=dtype),
        per_channel_scale2=torch.empty(GROUPS, N2),
        group_list=torch.tensor([ROWS // 2, ROWS]),
        schedule=SCHEDULE,
    )
    return {"kernels": made, "allowed_bytes": SCHEDULE.shared_memory_bytes}


if __name__ == "__main__":
    asked = [argument.split(",") for argument in sys.argv[1:]]
    sys.stdout.write(json.dumps([facts(getattr(torch, dtype), int(capability)) for dtype, capability in asked]))

"""Kernels compiled for a GPU that is not there: everything that a launch does up to the launch.

Triton must not be in its interpreter's mode.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from gulliver.fused_mlp.schedules import Schedule
from gulliver.fused_mlp.triton import fused_mlp, inner_contiguous
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

GROUPS, ROWS, K1, K2, N2 = 2, 64, 256, 128, 256
DISASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class AbsentGpu:
    """What Triton asks a driver for before it launches."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = 10 * capability[0] + capability[1]

    def get_current_device(self) -> int:
        """Return a device for each capability: Triton keeps what it compiled by device."""
        return self.capability

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """Return what to compile for."""
        return GPUTarget("cuda", self.capability, 32)


@dataclass(frozen=True)
class Resources:
    """What the assembler gave a thread, and the shared memory of a program; a stack holds spilled registers."""

    registers: int
    stack_bytes: int
    shared_memory_bytes: int


def compile_call(
    dtype: torch.dtype, capability: tuple[int, int], schedule: Schedule, contiguous: bool = True
) -> Mapping[str, Any]:
    """Return the compiled kernels of one call of `fused_mlp`, by name, for aligned shapes.

    Without `contiguous`, weight1 is stored as the reference takes it, with its columns innermost.
    """
    triton.runtime.driver.set_active(AbsentGpu(capability))
    made: dict[str, Any] = {}

    def compile_only(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        made[kernel.__name__] = kernel.warmup(*arguments, grid=grid, **options)

    JITFunction.__getitem__ = lambda kernel, grid: partial(compile_only, kernel, grid)
    weight1 = torch.empty(GROUPS, K1, 2 * K2, dtype=dtype)
    fused_mlp(
        x1=torch.empty(ROWS, K1, dtype=dtype),
        weight1=inner_contiguous(weight1) if contiguous else weight1,
        scale1=torch.empty(GROUPS, 2 * K2),
        per_token_scale1=torch.empty(ROWS),
        weight2=torch.empty(GROUPS, N2, K2, dtype=dtype),
        per_channel_scale2=torch.empty(GROUPS, N2),
        group_list=torch.tensor([ROWS // 2, ROWS]),
        schedule=schedule,
    )
    return made


def instructions(kernel: Any) -> Counter[str]:
    """Return how often each instruction stands in the PTX of a compiled kernel."""
    return Counter(word for line in kernel.asm["ptx"].splitlines() for word in line.split()[:1])


def resources(kernel: Any) -> Resources:
    """Return what a compiled kernel needs, as the disassembler that Triton brings along reads it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        command = [str(DISASSEMBLER), "-res-usage", file.name]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(REG|STACK):(\d+)", answer))
    return Resources(int(usage["REG"]), int(usage["STACK"]), kernel.metadata.shared)

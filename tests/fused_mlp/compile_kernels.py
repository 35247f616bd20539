"""Compiles the kernels that calls would launch, and prints what came out as JSON.

A process of its own, as the tests run where Triton interprets: python compile_kernels.py DTYPE,MAJOR,MINOR ...
"""

import json
import sys
from typing import Any

import torch
from gulliver.fused_mlp.schedules import Schedule, TileSizes

from benchmarks.gpu.compiled import compile_call, instructions

# The smallest tiles that reach Hopper's own instructions: they compile soonest.
SCHEDULE = Schedule(TileSizes(64, 16, 128), TileSizes(64, 32, 128))


def facts(dtype: str, major: str, minor: str) -> dict[str, Any]:
    """What the tests ask of each kernel that a call compiles: its instructions, counted, and its shared memory."""
    kernels = compile_call(getattr(torch, dtype), (int(major), int(minor)), SCHEDULE)
    made = {
        name: {"instructions": instructions(kernel), "shared_memory_bytes": kernel.metadata.shared}
        for name, kernel in kernels.items()
    }
    return {"kernels": made, "allowed_bytes": SCHEDULE.shared_memory_bytes}


if __name__ == "__main__":
    sys.stdout.write(json.dumps([facts(*argument.split(",")) for argument in sys.argv[1:]]))

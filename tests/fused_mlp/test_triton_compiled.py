import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("compile_kernels.py")
ROOT = SCRIPT.parents[2]
INT8_ON_HOPPER, E4M3_ON_HOPPER, INT8_ON_AMPERE = "int8,9,0", "float8_e4m3fn,9,0", "int8,8,0"
MATMULS = ("matmul_dequantize_swiglu", "matmul_dequantize")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came out for each dtype and GPU; one process compiles all."""
    pytest.importorskip("triton.backends.nvidia.compiler", reason="Triton has no compiler for NVIDIA's GPUs here")
    cache = tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    asked = (INT8_ON_HOPPER, E4M3_ON_HOPPER, INT8_ON_AMPERE)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *asked], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, json.loads(done.stdout), strict=True))


def count(kernel: Any, *parts: str) -> int:
    return sum(number for name, number in kernel["instructions"].items() if all(part in name for part in parts))


@pytest.mark.parametrize(("asked", "types"), [(INT8_ON_HOPPER, ".s32.s8.s8"), (E4M3_ON_HOPPER, ".f32.e4m3.e4m3")])
@pytest.mark.parametrize("matmul", MATMULS)
def test_hopper_multiplies_8_bit_operands_from_shared_memory(
    compiled: dict[str, Any], asked: str, types: str, matmul: str
) -> None:
    kernel = compiled[asked]["kernels"][matmul]
    assert count(kernel, "wgmma.mma_async", types) > 0
    # Operands go to shared memory 16 bytes at a time, past the registers, which store no single bytes there.
    assert count(kernel, "cp.async.cg.shared.global") > 0
    assert count(kernel, "st.shared.b8") == 0


@pytest.mark.parametrize("matmul", MATMULS)
def test_ampere_multiplies_int8(compiled: dict[str, Any], matmul: str) -> None:
    assert count(compiled[INT8_ON_AMPERE]["kernels"][matmul], "mma.sync", ".s32.s8.s8.s32") > 0


def test_no_kernel_takes_more_shared_memory_than_its_schedule_says(compiled: dict[str, Any]) -> None:
    for facts in compiled.values():
        assert len(facts["kernels"]) == 3
        assert all(kernel["shared_memory_bytes"] <= facts["allowed_bytes"] for kernel in facts["kernels"].values())

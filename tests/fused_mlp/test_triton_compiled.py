import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("compile_kernels.py")
ON_HOPPER = {
    "matmul_dequantize_swiglu,int8,90": ".s32.s8.s8",
    "matmul_dequantize_swiglu,e4m3,90": ".f32.e4m3.e4m3",
    "matmul_dequantize,int8,90": ".s32.s8.s8",
}
ON_AMPERE = "matmul_dequantize_swiglu,int8,80"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came out of each kernel; one process compiles all."""
    pytest.importorskip("triton.backends.nvidia.compiler", reason="Triton has no compiler for NVIDIA's GPUs here")
    cache = tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    asked = [*ON_HOPPER, ON_AMPERE]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *asked], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, json.loads(done.stdout), strict=True))


def count(facts: Any, *parts: str) -> int:
    return sum(number for name, number in facts["instructions"].items() if all(part in name for part in parts))


@pytest.mark.parametrize(("asked", "types"), ON_HOPPER.items())
def test_hopper_multiplies_8_bit_operands_from_shared_memory(compiled: dict[str, Any], asked: str, types: str) -> None:
    facts = compiled[asked]
    assert count(facts, "wgmma.mma_async", types) > 0
    # Operands go to shared memory 16 bytes at a time, past the registers, which store no single bytes there.
    assert count(facts, "cp.async.cg.shared.global") > 0
    assert count(facts, "st.shared.b8") == 0
    assert facts["shared_memory_bytes"] <= facts["allowed"]


def test_ampere_multiplies_int8(compiled: dict[str, Any]) -> None:
    assert count(compiled[ON_AMPERE], "mma.sync", ".s32.s8.s8.s32") > 0
    assert compiled[ON_AMPERE]["shared_memory_bytes"] <= compiled[ON_AMPERE]["allowed"]

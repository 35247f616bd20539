"""Compiles kernels for a compute capability, which needs no GPU, and prints what came out as JSON.

A process of its own, as the tests run where Triton interprets: python compile_kernels.py KERNEL,OPERAND,CAPABILITY ...
"""

import json
import sys
from collections import Counter

import triton
from gulliver.fused_mlp import triton_kernels
from gulliver.fused_mlp.schedules import SOME_ROWS, Schedule, TileSizes
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

OPERANDS = {"int8": "*i8", "e4m3": "*fp8e4nv"}
POINTERS = {
    "x1_pointer": "operand",
    "rows_pointer": "operand",
    "weight1_pointer": "operand",
    "weight2_pointer": "operand",
    "group_list_pointer": "*i64",
    "row_max_bits_pointer": "*i32",
    "out_pointer": "*fp16",
}
# With a stride of 1 known and the others multiples of 16, as those of aligned shapes are, loads are 16 bytes wide.
CONSTANTS = {
    "group_slots": 16,
    "store_row_max": False,
    "inner_stride": 1,
    "row_max_tiles": 0,
    "row_max_slots": 1,
    "row_tiles_together": 8,
}
ANY_INTEGERS = ("m", "row_tiles", "group_count")


def compiled(kernel: str, operand: str, tiles: TileSizes, capability: int) -> triton.compiler.CompiledKernel:
    """Return one of `triton_kernels`, compiled for weights whose inner size is contiguous."""
    function = getattr(triton_kernels, kernel)
    sizes = {"row_count": tiles.rows, "column_count": tiles.columns, "inner_count": tiles.inner}
    constants = {name: value for name, value in (CONSTANTS | sizes).items() if name in function.arg_names}

    def type_of(name: str) -> str:
        if name in constants:
            return "constexpr"
        if not name.endswith("_pointer"):
            return "i32"
        return OPERANDS[operand] if POINTERS.get(name) == "operand" else POINTERS.get(name, "*fp32")

    signature = {name: type_of(name) for name in function.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(signature)
        if name not in constants and name not in ANY_INTEGERS
    }
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=function, signature=signature, constexprs=places, attrs=aligned)
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def facts(kernel: str, operand: str, capability: int, schedule: Schedule) -> dict[str, object]:
    """What the tests ask of a compiled kernel: its instructions, counted, and its shared memory."""
    tiles = schedule.first if kernel == "matmul_dequantize_swiglu" else schedule.second
    made = compiled(kernel, operand, tiles, capability)
    words = Counter(word for line in made.asm["ptx"].splitlines() for word in line.split()[:1])
    return {"instructions": words, "shared_memory_bytes": made.metadata.shared, "allowed": schedule.shared_memory_bytes}


if __name__ == "__main__":
    asked = [argument.split(",") for argument in sys.argv[1:]]
    # The smallest tiles that reach Hopper's own instructions: they compile soonest.
    made = [facts(kernel, operand, int(capability), SOME_ROWS[-1]) for kernel, operand, capability in asked]
    sys.stdout.write(json.dumps(made))

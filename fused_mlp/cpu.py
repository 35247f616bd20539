"""MmDeqSwigluQuantMmDeq for x86 processors with AMX-INT8 or AVX512-VNNI: packed weights, a C matmul, one thread.

Both matmuls dequantize their sums as they store them, quantization is one pass over each row; SwiGLU is torch's.
The C code beats oneDNN's prepacked int8 matmul, most where a group has few rows: docs/decisions/0005 has the numbers.
It is compiled once a process, on first use, with the C compiler that it finds.
"""

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from gulliver.fused_mlp.arguments import check_rows, check_weights, row_groups
from gulliver.fused_mlp.formats import INT8
from gulliver.fused_mlp.reference import swiglu
from torch import Tensor

COMPILERS = ("cc", "gcc", "clang")
COMPILER_FLAGS = ("-O3", "-mavx512f", "-mavx512bw", "-mavx512vl", "-shared", "-fPIC", "-x", "c")


@dataclass(frozen=True)
class Kernel:
    """A matmul in C: the instructions that it is of, its source, and how it wants a weight to be packed.

    Columns come in panels, and four values of a column follow each other; `weight_shift` makes them unsigned.
    """

    instructions: str
    source: str
    flags: tuple[str, ...]
    panel_columns: int
    inner_multiple: int
    weight_shift: int = 0


AMX = Kernel("AMX-INT8", "amx.c", ("-mamx-tile", "-mamx-int8"), panel_columns=32, inner_multiple=64)
VNNI = Kernel("AVX512-VNNI", "vnni.c", ("-mavx512vnni",), panel_columns=48, inner_multiple=4, weight_shift=128)
# The fastest comes first.
KERNELS = (AMX, VNNI)


@dataclass(frozen=True)
class PackedMatrices:
    """One weight of every group in the kernel's panels, uint8 (G, panels, K / 4, columns, 4), and its scales."""

    kernel: Kernel
    panels: Tensor
    channel_scale: Tensor
    inner_size: int

    @property
    def group_count(self) -> int:
        """The number of groups, G."""
        return self.panels.shape[0]

    @property
    def column_count(self) -> int:
        """The number of columns of the result, without those that fill the last panel."""
        return self.channel_scale.shape[1]


@dataclass(frozen=True)
class PackedWeights:
    """Both weights of the fused MLP, as `pack_weights` made them."""

    first: PackedMatrices
    second: PackedMatrices


def pack_weights(
    weight1: Tensor, scale1: Tensor, weight2: Tensor, per_channel_scale2: Tensor, kernel: Kernel | None = None
) -> PackedWeights:
    """Return the weights in the order in which `fused_mlp` reads them, once for many calls.

    weight1 int8 (G, K1, N1); scale1 float32 (G, N1); weight2 int8 (G, N2, N1/2); per_channel_scale2 float32 (G, N2);
    `kernel` is the fastest one of this processor if it is None. Raises ValueError under the rules of
    `reference.fused_mlp`, or unless they are on the CPU, and RuntimeError without the kernel's instructions or a C
    compiler.
    """
    check_weights(weight1, scale1, weight2, per_channel_scale2)
    if weight1.device.type != "cpu":
        raise ValueError(f"weight1 must be on the device cpu, but it is on {weight1.device}")
    kernel = kernel or fastest_kernel()
    _library(kernel)
    return PackedWeights(
        PackedMatrices(kernel, _pack(weight1, kernel), scale1.contiguous(), weight1.shape[1]),
        PackedMatrices(kernel, _pack(weight2.mT, kernel), per_channel_scale2.contiguous(), weight2.shape[2]),
    )


def fastest_kernel() -> Kernel:
    """Return the first kernel that this processor and its C compiler know; RuntimeError where they know none."""
    refusals = []
    for kernel in KERNELS:
        try:
            _library(kernel)
        except RuntimeError as error:
            refusals.append(str(error))
        else:
            return kernel
    raise RuntimeError("; ".join(refusals))


def fused_mlp(x1: Tensor, packed: PackedWeights, per_token_scale1: Tensor, group_list: Tensor) -> Tensor:
    """Return what `reference.fused_mlp` returns, float16 (m, N2), bit for bit.

    x1 int8 (m, K1); per_token_scale1 float32 (m); group_list int64 (G), cumulative; all on the CPU. Raises
    ValueError under the rules of `reference.fused_mlp`.
    """
    first, second = packed.first, packed.second
    check_rows(x1, per_token_scale1, group_list, first.group_count, first.inner_size, first.panels.device)
    out = torch.zeros(x1.shape[0], second.column_count, dtype=torch.float16)
    end_row = int(group_list[-1])
    y1 = _grouped_matmul_dequantize(x1[:end_row], first, per_token_scale1[:end_row], group_list)
    q, s2 = _quantize_rows(swiglu(y1), first.kernel)
    out[:end_row] = _grouped_matmul_dequantize(q, second, s2, group_list)
    return out


def _grouped_matmul_dequantize(x: Tensor, weight: PackedMatrices, row_scale: Tensor, group_list: Tensor) -> Tensor:
    """Return x @ weight * channel_scale * row_scale for the rows of every group, float32 (m, n).

    x int8 (m, K), m = group_list[-1]; row_scale float32 (m). The sums are exact int32, rounded to float32 once.
    """
    library, column_count = _library(weight.kernel), weight.column_count
    x, row_scale = F.pad(x, (0, -x.shape[1] % weight.kernel.inner_multiple)).contiguous(), row_scale.contiguous()
    out = torch.empty(x.shape[0], column_count, dtype=torch.float32)
    scratch = torch.empty(library.scratch_bytes(*x.shape), dtype=torch.uint8)
    for part in row_groups(group_list):
        tensors = (
            x[part.rows],
            weight.panels[part.group],
            weight.channel_scale[part.group],
            row_scale[part.rows],
            scratch,
            out[part.rows],
        )
        library.matmul_dequantize(*map(_pointer, tensors), len(tensors[0]), x.shape[1], column_count)
    return out


def _quantize_rows(h: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Return what `reference.quantize_rows` returns, int8 (m, n) and float32 (m), from float32 (m, n)."""
    h = h.contiguous()
    q, s2 = torch.empty(h.shape, dtype=torch.int8), torch.empty(h.shape[0], dtype=torch.float32)
    _library(kernel).quantize_rows(*map(_pointer, (h, q, s2)), INT8.smallest_row_max, *h.shape)
    return q, s2


def compile_library(source: str, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return C source compiled for AVX512 and loaded; RuntimeError if there is no compiler or it refuses."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError(f"the fused MLP on a CPU needs a C compiler, one of {COMPILERS}, on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        command = [compiler, *COMPILER_FLAGS, *flags, "-o", str(library), "-"]
        result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)  # noqa: S603
        if result.returncode:
            raise RuntimeError(f"{compiler} could not compile the fused MLP: {result.stderr}")
        return ctypes.CDLL(str(library))


@cache
def _library(kernel: Kernel) -> ctypes.CDLL:
    source = "".join(Path(__file__).with_name(name).read_text() for name in ("rows.c", kernel.source))
    library = compile_library(source, kernel.flags)
    if not library.supported():
        raise RuntimeError(f"the fused MLP on a CPU needs {kernel.instructions}, which this processor does not have")
    library.scratch_bytes.argtypes, library.scratch_bytes.restype = 2 * [ctypes.c_long], ctypes.c_long
    library.matmul_dequantize.argtypes = (*6 * [ctypes.c_void_p], *3 * [ctypes.c_long])
    library.quantize_rows.argtypes = (*3 * [ctypes.c_void_p], ctypes.c_float, *2 * [ctypes.c_long])
    library.matmul_dequantize.restype = library.quantize_rows.restype = None
    return library


def _pack(weight: Tensor, kernel: Kernel) -> Tensor:
    """Return int8 (G, K, n) as uint8 (G, panels, K / 4, columns, 4), both padded to the kernel's, a group at a time."""
    return torch.stack([_pack_group(group_weight, kernel) for group_weight in weight])


def _pack_group(weight: Tensor, kernel: Kernel) -> Tensor:
    inner_size, column_count = weight.shape
    padded = F.pad(weight, (0, -column_count % kernel.panel_columns, 0, -inner_size % kernel.inner_multiple))
    shifted = padded.contiguous().view(torch.uint8) ^ kernel.weight_shift
    return shifted.view(-1, 4, shifted.shape[1] // kernel.panel_columns, kernel.panel_columns).permute(2, 0, 3, 1)


def _pointer(tensor: Tensor) -> int:
    return tensor.data_ptr()

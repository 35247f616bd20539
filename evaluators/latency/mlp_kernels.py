"""The kernels that a gated MLP runs as: one where everything is fused, several where something breaks the fusion."""

from collections.abc import Iterator
from dataclasses import dataclass

from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.published_kernel import ELEMENTWISE, FUSED, PublishedKernel
from gulliver.tasks.errors import InputError

_PRECISIONS = ("int8", "float16")
_INT32_OUTPUT = '{"output_dtype": "int32"}'
_ROW_SCALES = "pertoken"


@dataclass(frozen=True)
class GatedMlp:
    """The MLP of each group: (rows, k) by (k, n), SwiGLU to (rows, n / 2), by (n / 2, k); `ranks` replace a matmul."""

    group_rows: tuple[int, ...]
    n: int
    k: int
    precisions: tuple[str, str] = ("int8", "int8")
    ranks: tuple[int | None, int | None] = (None, None)

    def __post_init__(self) -> None:
        if any(precision not in _PRECISIONS for precision in self.precisions):
            raise InputError(f"precisions must be of {', '.join(_PRECISIONS)}, but are {self.precisions}")


def mlp_kernels(chip: str, mlp: GatedMlp) -> tuple[PublishedKernel, ...]:
    """Return the MLP's kernels on the chip, in order.

    The one fused kernel needs both matmuls in int8 and whole: a float16 matmul or a rank in either breaks it for both.
    """
    whole = mlp.precisions == ("int8", "int8") and mlp.ranks == (None, None)
    if whole and "mlp" in read_chip(chip).fusions:
        rows = sum(mlp.group_rows)
        operation = FUSED[int(len(mlp.group_rows) > 1)]
        return (PublishedKernel(chip, operation, "int8", "int8", mlp.group_rows, rows, mlp.n, mlp.k),)
    return unfused_mlp_kernels(chip, mlp)


def unfused_mlp_kernels(chip: str, mlp: GatedMlp) -> tuple[PublishedKernel, ...]:
    """Return the MLP's kernels with nothing fused: matmuls, and a pass for dequant, SwiGLU and quantization."""
    first, second = mlp.precisions
    rows = sum(mlp.group_rows)
    middle = ("int32", "float32") if first == "int8" else ("float16", "float16")
    swiglu = PublishedKernel(chip, ELEMENTWISE, *middle, (rows,), rows, mlp.n, 0)
    before = _matmuls(chip, mlp, first, mlp.n, mlp.k, mlp.ranks[0], _INT32_OUTPUT)
    return *before, swiglu, *_matmuls(chip, mlp, second, mlp.k, mlp.n // 2, mlp.ranks[1], _ROW_SCALES)


def _matmuls(
    chip: str, mlp: GatedMlp, precision: str, n: int, k: int, rank: int | None, notes: str
) -> Iterator[PublishedKernel]:
    operation = "quant_matmul" if precision == "int8" else "grouped_matmul"
    notes = notes if precision == "int8" else ""
    rows = sum(mlp.group_rows)
    shapes = [(n, k)] if rank is None else [(rank, k), (n, rank)]
    for width, depth in shapes:
        yield PublishedKernel(chip, operation, precision, precision, mlp.group_rows, rows, width, depth, notes)

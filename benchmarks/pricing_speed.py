"""How long it takes to price 10,000 recipes of a 60-block model: python -m benchmarks.pricing_speed.

A block is an attention of two linear layers and a gated MLP, of 256 tokens and a width that differs from block to
block. Its attention has 6 choices and its MLP 48: a precision or a rank for each matmul, and a share of the hidden
width. With the files of chips and fits read before, every kernel of every choice is priced and then 10,000 random
recipes are, in the time that is given. Writes benchmarks/results/pricing_speed.csv.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
from gulliver.evaluators.factors import total
from gulliver.evaluators.latency.chip_target import ChipTarget, choice_factors
from gulliver.evaluators.latency.kernel import ComputeKernel, GatedMlpKernel, KernelCall, MemoryKernel

from benchmarks.record import write_table

BLOCKS, RECIPES, TOKENS = 60, 10_000, 256
CHIPS = ("ascend_910b2", "nvidia_h200")
PRECISIONS = ("int8", "float16", "w8")
HIDDEN_SHARES = (1.0, 0.75, 0.5)
Calls = list[KernelCall]


def linear(rows: int, inputs: int, outputs: int, precision: str) -> ComputeKernel:
    """A linear layer that gives float16."""
    return ComputeKernel("linear", rows, inputs, outputs, (), (), (), (), (), 1, precision, "float16")


def matmul(whole: ComputeKernel, rank: int | None) -> list[ComputeKernel]:
    """The layer, or the two that a rank makes of it."""
    return [whole] if rank is None else [replace(whole, out_channels=rank), replace(whole, in_channels=rank)]


def attention_choices(width: int) -> Iterator[Calls]:
    """Yield the calls of both projections for each choice."""
    for precision, rank in itertools.product(PRECISIONS, (None, width // 4)):
        layers = (linear(TOKENS, width, 3 * width, precision), linear(TOKENS, width, width, precision))
        yield [KernelCall(kernel, "attention") for layer in layers for kernel in matmul(layer, rank)]


def mlp_choices(width: int, fused: bool) -> Iterator[Calls]:
    """Yield the calls of the gated MLP for each choice, the fused kernel where it can be."""
    forms = [(precision, None) for precision in PRECISIONS] + [("int8", width // 4)]
    for share, first, last in itertools.product(HIDDEN_SHARES, forms, forms):
        hidden = int(4 * width * share)
        if fused and first == last == ("int8", None):
            yield [KernelCall(GatedMlpKernel((TOKENS,), width, hidden, width), "mlp")]
            continue
        layers = [(linear(TOKENS, width, hidden, first[0]), first[1])] * 2 + [
            (linear(TOKENS, hidden, width, last[0]), last[1])
        ]
        kernels = [kernel for layer, rank in layers for kernel in matmul(layer, rank)]
        swiglu = MemoryKernel("swiglu", TOKENS * hidden * (2 + 2 + 1))
        yield [KernelCall(kernel, "mlp") for kernel in (*kernels, swiglu)]


@dataclass(frozen=True)
class Row:
    """What was priced on a chip, and the seconds that it took."""

    chip: str
    blocks: int
    recipes: int
    distinct_kernels: int
    seconds: float
    mean_latency_ms: float


def measure(chip: str) -> Row:
    """Return what was priced on the chip, and the seconds that it took."""
    target = ChipTarget(chip)
    widths = [1024 + 64 * block for block in range(BLOCKS)]
    variables = [
        choices
        for width in widths
        for choices in (list(attention_choices(width)), list(mlp_choices(width, chip == "ascend_910b2")))
    ]
    random = np.random.default_rng(0)
    recipes = np.stack([random.integers(len(choices), size=RECIPES) for choices in variables], 1)
    start = time.perf_counter()
    latencies_ms = total(choice_factors(target.latency, variables), recipes)
    seconds = time.perf_counter() - start
    kernels = {call.kernel for choices in variables for calls in choices for call in calls}
    mean_latency_ms = round(float(latencies_ms.mean()), 3)
    return Row(chip, BLOCKS, RECIPES, len(kernels), round(seconds, 3), mean_latency_ms)


def main() -> None:
    """Write the table."""
    measure(CHIPS[0])  # the fits and the chips' files are read once
    write_table("pricing_speed", [measure(chip) for chip in CHIPS], {"numpy": version("numpy")})


if __name__ == "__main__":
    main()

"""Several cards: what a kernel takes when its work is split between them, and what they then tell each other.

A ring of c cards exchanges (c - 1) / c of the bytes in an all-gather or all-to-all, and twice that in an all-reduce
(Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009); a link's latency is
not counted. Every plan takes as long as its busiest card, and then communicates:

    tensor   every weight matrix is split: a layer's outputs are gathered, a gated MLP's partial sums reduced
    expert   each card has some of the groups of a gated MLP; tokens are sent to it in int8, and back in float16
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from gulliver.evaluators.latency.chip import Chip
from gulliver.evaluators.latency.kernel import ComputeKernel, GatedMlpKernel, Kernel
from gulliver.evaluators.latency.published_kernel import ALIGNMENT

_FLOAT16_BYTES = 2


@dataclass(frozen=True)
class Plan:
    """One way to split a kernel: the kernels that the cards run at the same time, and the seconds of communication."""

    name: str
    kernels: tuple[Kernel, ...]
    communication_s: float = 0.0

    def seconds(self, kernel_s: Callable[[Kernel], float]) -> float:
        """Return the seconds of the busiest card and of communication."""
        return max(kernel_s(kernel) for kernel in self.kernels) + self.communication_s


def plans(kernel: Kernel, chip: Chip, cards: int) -> tuple[Plan, ...]:
    """Return the ways to run a kernel on the cards; the first is that each card does all of it."""
    whole = Plan("whole", (kernel,))
    if cards == 1 or chip.link_bandwidth_bytes_per_s == 0:
        return (whole,)
    if isinstance(kernel, GatedMlpKernel):
        tensor = _tensor_parallel(kernel, chip, cards)
        return (whole, tensor, _expert_parallel(kernel, chip, cards)) if len(kernel.group_rows) > 1 else (whole, tensor)
    if isinstance(kernel, ComputeKernel) and kernel.kind == "linear":
        return whole, _split_outputs(kernel, chip, cards)
    return (whole,)


def exchange_s(total_bytes: float, chip: Chip, cards: int) -> float:
    """Return the seconds of an all-gather or all-to-all of so many bytes, on a ring of the chip's links."""
    return (cards - 1) / cards * total_bytes / chip.link_bandwidth_bytes_per_s


def _part(channels: int, cards: int) -> int:
    """Return the channels of the busiest card: whole alignments are dealt where the channels are of such."""
    step = ALIGNMENT if channels % ALIGNMENT == 0 else 1
    return ceil(channels / step / cards) * step


def _split_outputs(kernel: ComputeKernel, chip: Chip, cards: int) -> Plan:
    part = replace(kernel, out_channels=_part(kernel.out_channels, cards))
    gathered = kernel.batch * kernel.out_channels * (1 if kernel.output_precision == "int8" else _FLOAT16_BYTES)
    return Plan("tensor", (part,), exchange_s(gathered, chip, cards))


def _tensor_parallel(kernel: GatedMlpKernel, chip: Chip, cards: int) -> Plan:
    part = replace(kernel, hidden_channels=_part(kernel.hidden_channels, cards))
    reduced = sum(kernel.group_rows) * kernel.out_channels * _FLOAT16_BYTES
    return Plan("tensor", (part,), 2 * exchange_s(reduced, chip, cards))


def _expert_parallel(kernel: GatedMlpKernel, chip: Chip, cards: int) -> Plan:
    """Return the plan where consecutive groups share a card, as many on each."""
    size = ceil(len(kernel.group_rows) / cards)
    parts = [kernel.group_rows[start : start + size] for start in range(0, len(kernel.group_rows), size)]
    row_bytes = kernel.in_channels + kernel.out_channels * _FLOAT16_BYTES
    exchanged = sum(kernel.group_rows) * row_bytes
    kernels = tuple(replace(kernel, group_rows=rows) for rows in parts)
    # Each card sends and receives its share of all bytes over a link of its own.
    return Plan("expert", kernels, exchange_s(exchanged, chip, cards) / cards)

"""What the fused MLP is measured on, and how much work and traffic that is: no GPU is needed here."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

K1, N1, N2 = 7168, 4096, 7168
ROWS = (16, 64, 1024, 4096, 8192)
GROUPS = (1, 8)
PRECISIONS = ("int8", "fp8")
SCALE_BYTES, OUTPUT_BYTES = 4, 2


@dataclass(frozen=True)
class Shape:
    """One call: its rows, how many go to each group, and how they were spread."""

    precision: str
    routing: str
    group_rows: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The rows of all groups."""
        return sum(self.group_rows)

    @property
    def operations(self) -> int:
        """The multiplications and additions of both matmuls."""
        return 2 * self.rows * (K1 * N1 + N1 // 2 * N2)

    @property
    def least_bytes(self) -> int:
        """What must pass through memory once: weights and scales of groups with rows, inputs and outputs, not h."""
        a_group = K1 * N1 + N1 // 2 * N2 + SCALE_BYTES * (N1 + N2)
        a_row = K1 + SCALE_BYTES + OUTPUT_BYTES * N2
        return sum(rows > 0 for rows in self.group_rows) * a_group + self.rows * a_row


def even_rows(rows: int, groups: int) -> tuple[int, ...]:
    """Spread rows evenly; the first groups get what is left over."""
    return tuple(rows // groups + (group < rows % groups) for group in range(groups))


def skewed_rows(rows: int, groups: int) -> tuple[int, ...]:
    """Spread rows by Zipf's law, group g getting 1/g of the first's; what rounding down leaves goes to the first."""
    shares = [1 / (group + 1) for group in range(groups)]
    counts = [int(rows * share / sum(shares)) for share in shares]
    return (counts[0] + rows - sum(counts), *counts[1:])


def shapes(precisions: Iterable[str], rows: Iterable[int], groups: Iterable[int]) -> Iterator[Shape]:
    """Yield every shape to measure: even routing, and skewed where there is more than one group."""
    for precision, row_count, group_count in product(precisions, rows, groups):
        yield Shape(precision, "even", even_rows(row_count, group_count))
        if group_count > 1:
            yield Shape(precision, "skewed", skewed_rows(row_count, group_count))

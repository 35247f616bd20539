"""The table of measured kernel times, kept beside the identity of the machine that they were measured on."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.evaluators.latency.kernel_benchmark import REFERENCE
from gulliver.evaluators.latency.plausible_times import implausible
from gulliver.tasks.cache import write_atomically
from tqdm import tqdm

TimeKernels = Callable[[Sequence[ComputeKernel]], dict[ComputeKernel, float]]
# How often times that cannot be right are measured again.
_DOUBTS = 2
# A large network has tens of thousands of kernels: so many are timed at once, and the table is saved every few times.
_PORTION = 240
_SAVED_EVERY = 5
_COLUMNS = [item.name for item in fields(ComputeKernel)]


@dataclass
class KernelTable:
    """Seconds of every kernel that was ever needed on this machine; a missing one is measured, once."""

    path: Path
    time_kernels: TimeKernels
    _seconds: dict[ComputeKernel, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            self._seconds = _read(self.path)

    def __len__(self) -> int:
        return len(self._seconds)

    def missing(self, kernels: Iterable[ComputeKernel]) -> list[ComputeKernel]:
        """Return the distinct kernels that have no time yet, sorted."""
        return sorted(set(kernels) - self._seconds.keys())

    def require(self, kernels: Iterable[ComputeKernel]) -> None:
        """Measure and store what is missing of these kernels; what ends this early loses what is measured just then.

        Times that cannot be right are measured again, twice at most, and the least is kept, be it plausible or not.
        """
        missing = self.missing(kernels)
        if missing:
            try:
                self._measure(missing)
                self._doubt(missing)
            finally:
                _write(self.path, self._seconds)

    def forget(self, kernels: Iterable[ComputeKernel]) -> None:
        """Delete the times of these kernels, but for the reference, which later times are compared with."""
        for kernel in {*kernels} - {REFERENCE}:
            self._seconds.pop(kernel, None)
        _write(self.path, self._seconds)

    def _measure(self, kernels: list[ComputeKernel]) -> None:
        for number, portion in enumerate(_portions(kernels), 1):
            self._seconds |= self._timed(portion)
            if number % _SAVED_EVERY == 0:
                _write(self.path, self._seconds)

    def _doubt(self, kernels: list[ComputeKernel]) -> None:
        for _ in range(_DOUBTS):
            if not (doubtful := sorted({*implausible(self._seconds)} & {*kernels})):
                break
            again = self._timed(doubtful)
            self._seconds |= {kernel: min(again[kernel], self._seconds[kernel]) for kernel in doubtful}

    def _timed(self, kernels: Sequence[ComputeKernel]) -> dict[ComputeKernel, float]:
        timed = self.time_kernels(kernels)
        drift = self._drift(timed)
        return {kernel: seconds * drift for kernel, seconds in timed.items()}

    def _drift(self, timed: dict[ComputeKernel, float]) -> float:
        """Return by how much the machine is faster now than when the table was begun."""
        return (
            self._seconds[REFERENCE] / timed[REFERENCE] if {REFERENCE} <= self._seconds.keys() & timed.keys() else 1.0
        )

    def seconds(self, kernel: ComputeKernel) -> float:
        """Return the kernel's time, measuring it if it is new."""
        if kernel not in self._seconds:
            self.require([kernel])
        return self._seconds[kernel]


def _portions(kernels: list[ComputeKernel]) -> Iterator[list[ComputeKernel]]:
    """Yield the kernels in portions, and show how many of them are done where there are several."""
    with tqdm(None, "kernel times", len(kernels), unit="kernel", disable=len(kernels) <= _PORTION) as bar:
        for start in range(0, len(kernels), _PORTION):
            portion = kernels[start : start + _PORTION]
            yield portion
            bar.update(len(portion))


def _read(path: Path) -> dict[ComputeKernel, float]:
    with path.open(newline="") as file:
        return {_kernel(row): float(row["seconds"]) for row in csv.DictReader(file)}


def _kernel(row: dict[str, str]) -> ComputeKernel:
    text = ("kind", "precision", "output_precision")
    # Columns that are younger than the table are at their defaults.
    known = [key for key in _COLUMNS if key in row]
    values: dict[str, Any] = {key: row[key] if key in text else _frozen(json.loads(row[key])) for key in known}
    return ComputeKernel(**values)


def _frozen(value: int | list[int]) -> int | tuple[int, ...]:
    return tuple(value) if isinstance(value, list) else value


def _write(path: Path, seconds: dict[ComputeKernel, float]) -> None:
    rows = [_row(kernel) | {"seconds": seconds[kernel]} for kernel in sorted(seconds)]
    write_atomically(path, lambda temporary: _write_rows(temporary, rows))


def _row(kernel: ComputeKernel) -> dict[str, object]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in asdict(kernel).items()}


def _write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, "seconds"])
        writer.writeheader()
        writer.writerows(rows)

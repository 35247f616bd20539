"""The lines of the fused MLP's table: times, and what share of the card's limits they reach."""

from dataclasses import dataclass

from gulliver.fused_mlp.schedules import Schedule, TileSizes

from benchmarks.gpu.card import Ceilings
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.timing import Times


@dataclass(frozen=True)
class Row:
    """One line: who computed which shape, how fast, how near to the limits, and how exactly.

    Shares of memory bandwidth count the least bytes, of the peak all operations; empty where it failed or the data
    sheet of the card is not in conf/chip.
    """

    precision: str
    rows: int
    groups: int
    routing: str
    implementation: str
    median_ms: float | None
    p10_ms: float | None
    p90_ms: float | None
    repetitions: int | None
    tera_operations_per_s: float | None
    terabytes_per_s: float | None
    share_of_measured_peak: float | None
    share_of_measured_bandwidth: float | None
    share_of_sheet_peak: float | None
    share_of_sheet_bandwidth: float | None
    measured_tera_operations_per_s: float
    measured_terabytes_per_s: float
    relative_error: float | None
    schedule: str
    failure: str


@dataclass(frozen=True)
class Measurement:
    """What one implementation gave: times and error, or why it failed."""

    implementation: str
    times: Times | None = None
    relative_error: float | None = None
    schedule: Schedule | None = None
    failure: str = ""


def make_row(shape: Shape, measurement: Measurement, measured: Ceilings, sheet: Ceilings | None) -> Row:
    """Return the line of one implementation."""
    times = measurement.times
    rates = None if times is None else achieved(shape, times.median_ms)
    return Row(
        precision=shape.precision,
        rows=shape.rows,
        groups=len(shape.group_rows),
        routing=shape.routing,
        implementation=measurement.implementation,
        median_ms=times and round(times.median_ms, 5),
        p10_ms=times and round(times.p10_ms, 5),
        p90_ms=times and round(times.p90_ms, 5),
        repetitions=times and times.repetitions,
        tera_operations_per_s=rates and round(rates.operations_per_s / 1e12, 2),
        terabytes_per_s=rates and round(rates.bytes_per_s / 1e12, 3),
        share_of_measured_peak=share(rates, measured, "operations_per_s"),
        share_of_measured_bandwidth=share(rates, measured, "bytes_per_s"),
        share_of_sheet_peak=share(rates, sheet, "operations_per_s"),
        share_of_sheet_bandwidth=share(rates, sheet, "bytes_per_s"),
        measured_tera_operations_per_s=round(measured.operations_per_s / 1e12, 1),
        measured_terabytes_per_s=round(measured.bytes_per_s / 1e12, 3),
        relative_error=None if measurement.relative_error is None else float(f"{measurement.relative_error:.2g}"),
        schedule="" if measurement.schedule is None else describe(measurement.schedule),
        failure=measurement.failure,
    )


def achieved(shape: Shape, median_ms: float) -> Ceilings:
    """Return the rates at which a shape's operations and least bytes went by."""
    return Ceilings(1e3 * shape.operations / median_ms, 1e3 * shape.least_bytes / median_ms)


def share(rates: Ceilings | None, limits: Ceilings | None, rate: str) -> float | None:
    """Return which part of a limit was reached, where both are known and the card has it."""
    if rates is None or limits is None or not getattr(limits, rate):
        return None
    return round(getattr(rates, rate) / getattr(limits, rate), 4)


def describe(schedule: Schedule) -> str:
    """Return a schedule as the table has it: rows x columns x inner size, warps and stages of both matmuls."""

    def tiles(sizes: TileSizes) -> str:
        return f"{sizes.rows}x{sizes.columns}x{sizes.inner} {sizes.warps}w {sizes.stages}s"

    quantized = "quantized on load" if schedule.quantize_on_load else "quantized apart"
    return f"{tiles(schedule.first)} + {tiles(schedule.second)}, {quantized}"

"""Predict the times of a table of kernels, and say how far they are from the times that the table knows."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gulliver.evaluators.latency.chip_fit import published_kernels
from gulliver.evaluators.latency.chip_prediction import Prediction, predict
from gulliver.evaluators.latency.kernel_stages import stages
from gulliver.evaluators.latency.prediction_error import PredictionError, prediction_error
from gulliver.evaluators.latency.published_kernel import COLUMNS, PublishedKernel, read_kernel
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.errors import InputError

_OPTIONAL = ("notes", "source")
_ADDED = ("predicted_us", "bound_by", "mode")
Row = dict[str, Any]
Pair = tuple[float, float]


@dataclass(frozen=True)
class TableLine:
    """One line of the table, with its kernel, or with what is wrong with it."""

    number: int
    row: Row
    kernel: PublishedKernel | None
    problem: str = ""


def predict_kernels(table: Path, out: Path, mode: str, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Write the table with a prediction a row, and a scatter beside it where the table knows times.

    Raises InputError where the table cannot be read or lacks columns, or where `out` cannot be written; a bad row is
    named through `warn` and kept without a prediction.
    """
    header, lines = read_table(table)
    for line in lines:
        if line.problem:
            warn(f"{table.name}, line {line.number}: {line.problem}")
    good = [line.kernel for line in lines if line.kernel]
    found = iter(predict(good, mode))
    predictions = [next(found) if line.kernel else None for line in lines]
    columns = [*header, *(column for column in _ADDED if column not in header)]
    try:
        write_atomically(out, lambda path: _write(path, columns, lines, predictions))
        _report(out, lines, predictions, say)
    except OSError as error:
        raise InputError(f"out={out} cannot be written: {error}") from error


def read_table(path: Path, own_chip: str = "") -> tuple[list[str], list[TableLine]]:
    """Return the table's header and lines; raises InputError where it is missing, empty, or lacks columns.

    `own_chip` is the file of a chip that rows may be of, beside the known ones.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = _header(path, reader.fieldnames)
            lines = [_line(reader.line_num, row, header, own_chip) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"kernels={path} cannot be read as a table: {error}") from error
    if not lines:
        raise InputError(f"kernels={path} must have a row under its header, but has none")
    return header, lines


def _header(path: Path, names: Sequence[str] | None) -> list[str]:
    if not names:
        raise InputError(f"kernels={path} must have a header, but is empty")
    missing = [column for column in COLUMNS if column not in names and column not in _OPTIONAL]
    if missing:
        columns = f"column{'s' * (len(missing) > 1)} {', '.join(missing)}"
        raise InputError(f"kernels={path} must have the {columns}, but its header is {', '.join(names)}")
    if len(set(names)) < len(names):
        raise InputError(f"kernels={path} must name each column once, but its header is {', '.join(names)}")
    return list(names)


def _line(number: int, row: Row, header: Sequence[str], own_chip: str) -> TableLine:
    try:
        if None in row or None in row.values():
            raise InputError(f"must have {len(header)} fields, like the header, but has more or fewer")
        kernel = read_kernel(row, own_chip)
        stages(kernel)
    except InputError as error:
        return TableLine(number, {key: value for key, value in row.items() if key in header}, None, str(error))
    return TableLine(number, row, kernel)


def _write(
    path: Path, columns: Sequence[str], lines: Sequence[TableLine], predictions: Sequence[Prediction | None]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for line, prediction in zip(lines, predictions, strict=True):
            writer.writerow(line.row | _cells(prediction))


def _cells(prediction: Prediction | None) -> Row:
    if prediction is None:
        return dict.fromkeys(_ADDED, "")
    values = (f"{1e6 * prediction.seconds:.3f}", prediction.bound_by, prediction.mode)
    return dict(zip(_ADDED, values, strict=True))


def _report(
    out: Path, lines: Sequence[TableLine], predictions: Sequence[Prediction | None], say: Callable[[str], None]
) -> None:
    """Say the errors by hardware and kernel, and draw them."""
    pairs = _pairs(lines, predictions)
    for text in error_table(pairs):
        say(text)
    say(f"{sum(it is not None for it in predictions)} of {len(lines)} rows predicted: {out}")
    if fitted := len({line.kernel for line in lines} & set(published_kernels())):
        say(f"{fitted} of them are published times that the model was fitted to; their errors are not held out")
    if pairs:
        plot = out.with_suffix(".png")
        write_atomically(plot, lambda path: draw_scatter(path, pairs))
        say(f"predicted against measured: {plot}")


def _pairs(lines: Sequence[TableLine], predictions: Sequence[Prediction | None]) -> dict[tuple[str, str], list[Pair]]:
    """Return (predicted, measured) microseconds by hardware and kernel, of the rows that have both."""
    pairs: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for line, prediction in zip(lines, predictions, strict=True):
        if prediction and line.kernel and line.kernel.time_us:
            key = (line.row["hardware"].strip(), line.row["op"].strip())
            pairs[key].append((1e6 * prediction.seconds, line.kernel.time_us))
    return dict(pairs)


def error_table(pairs: dict[tuple[str, str], list[Pair]]) -> Iterator[str]:
    """Yield the lines of a table of errors: one for each hardware and kernel, one for all kernels of a hardware."""
    if not pairs:
        return
    yield f"{'hardware':24} {'kernel':30} {'rows':>5} {'mean':>7} {'median':>7} {'worst':>7}  rank correlation"
    for hardware in sorted({hardware for hardware, _ in pairs}):
        mine = {kernel: values for (name, kernel), values in sorted(pairs.items()) if name == hardware}
        everything = [pair for values in mine.values() for pair in values]
        for kernel, values in (*mine.items(), *([("all", everything)] if len(mine) > 1 else [])):
            yield _error_line(hardware, kernel, prediction_error(*zip(*values, strict=True)))


def _error_line(hardware: str, kernel: str, error: PredictionError) -> str:
    shares = " ".join(f"{100 * share:6.1f}%" for share in (error.mean, error.median, error.worst))
    rank = "-" if error.rank_correlation is None else f"{error.rank_correlation:.3f}"
    return f"{hardware:24} {kernel:30} {error.count:5} {shares}  {rank}"


def draw_scatter(path: Path, pairs: dict[tuple[str, str], list[Pair]]) -> None:
    """Draw predicted against measured times, both on logarithmic axes, a colour a hardware."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="measured, us", ylabel="predicted, us")
    for hardware in sorted({hardware for hardware, _ in pairs}):
        mine = [pair for (name, _), values in pairs.items() if name == hardware for pair in values]
        predicted, measured = zip(*mine, strict=True)
        axes.scatter(measured, predicted, s=16, label=hardware)
    times = [time for values in pairs.values() for pair in values for time in pair]
    ends = (min(times), max(times))
    axes.plot(ends, ends, color="gray", linewidth=0.8, label="equal")
    axes.legend()
    figure.savefig(path, format="png", dpi=120)

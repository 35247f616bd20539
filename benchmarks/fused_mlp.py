"""How close the fused MLP comes to the limits of the GPU at hand: python -m benchmarks.fused_mlp.

Needs a CUDA GPU, Triton and nvidia-smi; without them it says so in one line and exits with status 2. For K1 = 7168,
N1 = 4096, N2 = 7168 and each of `--precisions`, `--rows` and `--groups` (even routing and, with several groups,
skewed) the kernel is checked against the reference on the GPU, then timed with the fastest of its candidate schedules,
which is printed, with the default one, and against torch's unfused 8-bit matmuls, eager and compiled. Each call is a
CUDA graph between two events, with L2 flushed before; all take turns. The limits are torch's matmul of
8192 x 8192 x 8192 and a copy of 2 GiB in the same run, and the data sheet. Bytes are counted once and without h.
Writes benchmarks/results/fused_mlp.csv with card, driver, clocks and commit.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from gulliver.fused_mlp import reference
from gulliver.fused_mlp.formats import check_capability
from torch import Tensor

from benchmarks.gpu.card import Ceilings, card_state, data_sheet, measured_ceilings
from benchmarks.gpu.problem import DTYPES, Problem, make_problem, relative_error
from benchmarks.gpu.shapes import GROUPS, PRECISIONS, ROWS, Shape, shapes
from benchmarks.gpu.table import Measurement, Row, describe, make_row
from benchmarks.gpu.timing import capture, time_in_turns
from benchmarks.gpu.unfused import unfused_calls
from benchmarks.record import write_table

FUSED = "fused, Triton"
# Of the norm of the output, four times an estimate; a wrong tile is off by far more. int8: h that lies within 5e-7 of
# itself of a tie goes either way, one value in 16,000 by a step of 127. fp8: sums are 14 bits wide between additions
# in float32, which moves h by 2^-12 of itself, so 3 values in 1000 become their neighbour, 1/11 away.
LARGEST_ERROR = {"int8": 1e-3, "fp8": 2e-2}
CANNOT_RUN = 2


@dataclass(frozen=True)
class Call:
    """One implementation on one shape, and the schedule if it is the fused one."""

    implementation: str
    run: Callable[[], Tensor]
    schedule: Any = None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what is asked for; argparse exits with status 2 on anything else."""
    parser = argparse.ArgumentParser(description="Measure the fused MLP on the GPU at hand.")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--rows", nargs="+", type=positive, default=ROWS, help="rows of a call")
    parser.add_argument("--groups", nargs="+", type=positive, default=GROUPS, help="experts")
    parser.add_argument("--repetitions", type=partial(positive, least=2), default=100, help="timed calls of each")
    return parser.parse_args(arguments)


def positive(text: str, least: int = 1) -> int:
    """Return the integer that is written, at least `least`."""
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, but is {number}")
    return number


def what_is_missing() -> str | None:
    """Return why nothing can be measured here, or None."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU here, and nothing else is measured"
    if find_spec("triton") is None:
        return "Triton is not installed: pip install -e '.[gpu]'"
    if which("nvidia-smi") is None:
        return "nvidia-smi is not on the PATH, so clocks and driver cannot be recorded"
    return None


def why_left_out(precision: str, capability: tuple[int, int]) -> str | None:
    """Return why a GPU of this compute capability cannot run a precision, or None."""
    try:
        check_capability(DTYPES[precision], capability)
    except ValueError as error:
        return str(error)
    return None


def tensors(problem: Problem) -> dict[str, Tensor]:
    """Return the arguments of the fused MLP by name, without copies."""
    return {it.name: getattr(problem, it.name) for it in fields(problem)}


def fused_calls(problem: Problem, repetitions: int) -> list[Call]:
    """Return the kernel with the fastest of its candidates, which is printed, and with the default schedule."""
    from gulliver.fused_mlp import triton

    def milliseconds(run: Callable[[], object]) -> float:
        return time_in_turns({"it": capture(run)}, repetitions)["it"].median_ms

    times_ms = triton.time_schedules(**tensors(problem), milliseconds=milliseconds)
    winner = next(iter(times_ms))
    print(f"  fastest of {len(times_ms)} schedules: {describe(winner)}, {times_ms[winner]:.4f} ms")
    run = partial(triton.fused_mlp, **tensors(problem), check_groups=False)
    return [Call(FUSED, partial(run, schedule=winner), winner), Call(f"{FUSED}, default schedule", run)]


def measure(shape: Shape, repetitions: int) -> list[Measurement]:
    """Check, then time every implementation on one shape; raises ValueError where the fused one is wrong."""
    print(f"{shape.precision}, {shape.rows} rows in {len(shape.group_rows)} groups, {shape.routing}")
    # Else what was compiled for the last shape would be general, and slower.
    torch._dynamo.reset()
    problem = make_problem(shape, "cuda")
    truth = reference.fused_mlp(**tensors(problem))
    unfused = {**unfused_calls(problem), **unfused_calls(problem, ", torch.compile", torch.compile)}
    calls = [*fused_calls(problem, repetitions), *(Call(name, run) for name, run in unfused.items())]
    prepared = {call.implementation: prepare(call, truth) for call in calls}
    for name, (measurement, _) in prepared.items():
        if name.startswith(FUSED):
            check_error(shape.precision, measurement)
    replays = {name: replay for name, (_, replay) in prepared.items() if replay is not None}
    times = time_in_turns(replays, repetitions)
    return [replace(measurement, times=times.get(name)) for name, (measurement, _) in prepared.items()]


def prepare(call: Call, truth: Tensor) -> tuple[Measurement, Callable[[], None] | None]:
    """Return the error of one call and its graph, or why it has none: a rival that fails is a line of the table."""
    # The allocator hands freed memory out again: a result that is not written in full would be NaN.
    torch.full_like(truth, torch.nan)
    try:
        error = relative_error(call.run(), truth)
        return Measurement(call.implementation, None, error, call.schedule), capture(call.run)
    except RuntimeError as failure:
        if call.implementation.startswith(FUSED):
            raise
        reason = (str(failure) or type(failure).__name__).partition("\n")[0].partition(". ")[0]
        print(f"  {call.implementation} failed: {reason}")
        return Measurement(call.implementation, failure=reason), None


def check_error(precision: str, measurement: Measurement) -> None:
    """Raise ValueError unless the relative error is within LARGEST_ERROR; NaN is not."""
    error, largest = measurement.relative_error, LARGEST_ERROR[precision]
    if error is None or not error <= largest:
        raise ValueError(
            f"{measurement.implementation} must be within {largest} of the reference, but is off by {error}"
        )


def ceilings_of(precision: str, repetitions: int) -> Ceilings:
    """Measure the card's limits for one precision."""
    return measured_ceilings(precision, lambda run: time_in_turns({"it": run}, repetitions)["it"].median_ms)


def measure_all(options: argparse.Namespace, card: str) -> list[Row]:
    """Measure every shape that is asked for in every precision that the card has."""
    capability = torch.cuda.get_device_capability()
    rows = []
    for precision in options.precisions:
        if reason := why_left_out(precision, capability):
            print(f"{precision} is left out: {reason}")
            continue
        measured, sheet = ceilings_of(precision, options.repetitions), data_sheet(card, precision)
        for shape in shapes([precision], options.rows, options.groups):
            found = measure(shape, options.repetitions)
            rows.extend(make_row(shape, measurement, measured, sheet) for measurement in found)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the table, and return the exit status."""
    options = parse(arguments)
    if reason := what_is_missing():
        print(f"benchmarks.fused_mlp: {reason}", file=sys.stderr)
        return CANNOT_RUN
    import triton

    before = card_state()
    rows = measure_all(options, before.card)
    if not rows:
        print("benchmarks.fused_mlp: the card has none of the precisions that are asked for", file=sys.stderr)
        return CANNOT_RUN
    # Read while the card is still warm: the clocks at which it ran.
    versions = {key: str(value) for key, value in asdict(card_state()).items()}
    write_table("fused_mlp", rows, {"torch": torch.__version__, "triton": triton.__version__, **versions})
    return 0


if __name__ == "__main__":
    sys.exit(main())

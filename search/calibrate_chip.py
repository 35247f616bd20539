"""Calibrate a chip's model with a user's own profile of it."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.chip_fit import fit_efficiencies, fit_of, own_fit_path, read_fit, write_fit
from gulliver.evaluators.latency.chip_model import Efficiencies, price
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.published_kernel import PublishedKernel
from gulliver.search.predict_kernels import Pair, TableLine, error_table, read_table
from gulliver.tasks.errors import InputError

Say = Callable[[str], None]
# Fewer times than this do not tell the parameters of a chip apart.
_FEW = 24


def calibrate_chip(target: ChipTarget, table: Path, out: Path | None, say: Say, warn: Say) -> Efficiencies:
    """Return the chip's parameters as fitted to the times of the table, and store them.

    They go to `out`, or to the cache, where the target finds them by itself. Rows that cannot be used are named
    through `warn`. Raises InputError where the table has no time of this chip, or `out` cannot be written.
    """
    _, lines = read_table(table, target.chip if target.chip != target.name else "")
    kernels = [line.kernel for line in lines if not _say_why_not(line, target, table, warn) and line.kernel]
    if not kernels:
        raise InputError(f"kernels={table} must have a row of {target.name} with its time_us, but has none")
    before = fit_of(target.chip, target.fit)
    # Not near `before`, which may be a fit to the very same times.
    fit = fit_efficiencies(kernels, read_fit(read_chip(target.chip).fit))
    path = out or own_fit_path(target.chip)
    try:
        write_fit(path, fit, f"{len(kernels)} times of {target.name} in {table.name} by `gulliver calibrate`")
    except OSError as error:
        raise InputError(f"out={path} cannot be written: {error}") from error
    _report(kernels, target, before, fit, say)
    say(f"the fit of {target.name}: {path}" + (f"   (target.fit={path} uses it)" if out else ""))
    return fit


def _say_why_not(line: TableLine, target: ChipTarget, table: Path, warn: Say) -> bool:
    """Say whether the line cannot be fitted to, and warn why."""
    problem = line.problem
    if line.kernel and line.kernel.chip != target.chip:
        problem = f"is a time of {line.row['hardware']}, not of {target.name}"
    elif line.kernel and line.kernel.time_us is None:
        problem = "has no time_us"
    if problem:
        warn(f"{table.name}, line {line.number}: {problem}")
    return bool(problem)


def _report(
    kernels: Sequence[PublishedKernel], target: ChipTarget, before: Efficiencies, fit: Efficiencies, say: Say
) -> None:
    """Say how far the fit is off its own times, kernel by kernel, and how far what was known before is."""
    for label, used in (("before", before), ("fitted", fit)):
        pairs: dict[tuple[str, str], list[Pair]] = defaultdict(list)
        for kernel, seconds in zip(kernels, price(kernels, used).seconds.tolist(), strict=True):
            pairs[f"{target.name}, {label}", kernel.operation].append((1e6 * seconds, kernel.time_us or 0.0))
        for text in error_table(dict(pairs)):
            say(text)
    say(f"{fit.rows} times, mean error {fit.mean_error:.1%}, worst {fit.worst_error:.1%}; none of them is held out")
    if fit.rows < _FEW:
        say(f"fewer than {_FEW} times: what they do not determine stays near the stored fit")

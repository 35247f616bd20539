"""How well kernel times of chips are predicted from half of the published ones: python -m benchmarks.latency_model.

Shapes (groups, m, n, k) are dealt at random to two halves, kernel by kernel and chip by chip; none is in both halves.
The model is fitted on one half and predicts the other, for five splits. Compared are the model, the model corrected
by the nearest shapes of the fitted half, and a plain roofline at stated rates. "Aligned" are kernels whose n and k are
multiples of 16. Rows that include a weight-layout conversion kernel are counted on their own: they are not the time of
the named kernel alone. Writes benchmarks/results/latency_model.csv; with `--fit` it instead fits every chip to all of
its times and writes conf/chip_fit/.
"""

import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from gulliver.evaluators.latency.chip_fit import fit_name, fit_together, published_kernels, write_fit
from gulliver.evaluators.latency.chip_model import roofline
from gulliver.evaluators.latency.chip_prediction import predict
from gulliver.evaluators.latency.prediction_error import prediction_error
from gulliver.evaluators.latency.published_kernel import ELEMENTWISE, FUSED_HALF, PublishedKernel

from benchmarks.record import ROOT, write_table

_SOURCE = "the published times in evaluators/latency/data/kernel_times.csv by benchmarks/latency_model.py"
SEEDS = (0, 1, 2, 3, 4)
Shape = tuple[int, int, int, int]
# Every kernel of the other half with its predicted microseconds by method, of all splits.
Predicted = list[tuple[PublishedKernel, dict[str, float]]]


def is_matmul(kernel: PublishedKernel) -> bool:
    """Whether it multiplies, fused or not, and does nothing but what its name says."""
    return kernel.operation != ELEMENTWISE and not kernel.converts_weights


def is_weight_only(kernel: PublishedKernel) -> bool:
    """Whether its weights are quantized and its activations are not."""
    return is_matmul(kernel) and kernel.scheme in ("w8", "w4")


SUBSETS: dict[str, Callable[[PublishedKernel], bool]] = {
    "matmul and fused, aligned": lambda it: is_matmul(it) and it.aligned,
    "matmul and fused": is_matmul,
    "  of these: neither fused nor weight-only, aligned": lambda it: (
        is_matmul(it) and it.aligned and it.operation != FUSED_HALF and not is_weight_only(it)
    ),
    "  of these: fused": lambda it: is_matmul(it) and it.operation == FUSED_HALF,
    "  of these: weight-only": is_weight_only,
    "fused, with layout conversion": lambda it: it.converts_weights,
    "elementwise": lambda it: it.operation == ELEMENTWISE,
    "all": lambda it: True,
}


@dataclass(frozen=True)
class Result:
    """One line of the table: errors over all splits, the rank correlation averaged over them."""

    hardware: str
    kernels: str
    method: str
    predictions: int
    mean_error_percent: float
    median_error_percent: float
    worst_error_percent: float
    rank_correlation: float | None
    splits: int


def halves(kernels: Sequence[PublishedKernel], seed: int) -> dict[Shape, int]:
    """Return the half, 0 or 1, of every shape; a shape that two kernels or chips share keeps its half."""
    random = np.random.default_rng(seed)
    strata: dict[tuple[str, str], set[Shape]] = defaultdict(set)
    for kernel in kernels:
        strata[kernel.chip, kernel.family].add(kernel.shape)
    half: dict[Shape, int] = {}
    for key in sorted(strata):
        fresh = sorted(strata[key] - half.keys())
        first = int(random.integers(2))
        half |= {fresh[at]: (first + place) % 2 for place, at in enumerate(random.permutation(len(fresh)))}
    return half


def predict_other_half(kernels: Sequence[PublishedKernel], seed: int) -> Predicted:
    """Fit all kinds of chips on half 0 and return half 1 with its predictions."""
    half = halves(kernels, seed)
    known = [kernel for kernel in kernels if half[kernel.shape] == 0]
    asked = [kernel for kernel in kernels if half[kernel.shape] == 1]
    names = {fit_name(kernel) for kernel in kernels}
    fits = fit_together({name: [it for it in known if fit_name(it) == name] for name in sorted(names)})
    columns = {
        "model": [it.seconds for it in predict(asked, "model", fits)],
        "nearest": [it.seconds for it in predict(asked, "nearest", fits, known)],
        "roofline": roofline(asked).tolist(),
    }
    return [(it, {name: 1e6 * columns[name][at] for name in columns}) for at, it in enumerate(asked)]


def results(kernels: Sequence[PublishedKernel]) -> Iterator[Result]:
    """Yield the table's lines."""
    splits = [predict_other_half(kernels, seed) for seed in SEEDS]
    for hardware in [*sorted({kernel.chip for kernel in kernels}), "all"]:
        for name, belongs in SUBSETS.items():
            mine = [[it for it in split if belongs(it[0]) and hardware in (it[0].chip, "all")] for split in splits]
            for method in ("model", "nearest", "roofline"):
                if any(mine):
                    yield summarize(hardware, name, method, mine)


def summarize(hardware: str, name: str, method: str, splits: Sequence[Predicted]) -> Result:
    """Return the line of one hardware, one kind of kernels and one method."""
    pairs = [[(of[method], it.time_us or 0.0) for it, of in split] for split in splits if split]
    correlations = [prediction_error(*zip(*split, strict=True)).rank_correlation for split in pairs]
    ranked = [correlation for correlation in correlations if correlation is not None]
    error = prediction_error(*zip(*itertools.chain(*pairs), strict=True))
    return Result(
        hardware=hardware,
        kernels=name,
        method=method,
        predictions=error.count,
        mean_error_percent=round(100 * error.mean, 1),
        median_error_percent=round(100 * error.median, 1),
        worst_error_percent=round(100 * error.worst, 1),
        rank_correlation=round(float(np.mean(ranked)), 3) if ranked else None,
        splits=len(splits),
    )


def fit_all(kernels: Sequence[PublishedKernel]) -> None:
    """Fit all kinds of chips together to all of their times and store the fits."""
    names = sorted({fit_name(kernel) for kernel in kernels})
    fits = fit_together({name: [kernel for kernel in kernels if fit_name(kernel) == name] for name in names})
    for name, fit in fits.items():
        write_fit(ROOT / "conf" / "chip_fit" / f"{name}.yaml", fit, _SOURCE)
        print(f"{name:16} {fit.rows:4} rows, mean error {100 * fit.mean_error:.1f}%")


def main() -> None:
    """Write the stored fits, or the table of errors."""
    kernels = published_kernels()
    if sys.argv[1:] == ["--fit"]:
        fit_all(kernels)
        return
    write_table("latency_model", list(results(kernels)), {"numpy": version("numpy"), "scipy": version("scipy")})


if __name__ == "__main__":
    main()

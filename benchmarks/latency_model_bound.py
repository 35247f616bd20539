"""What no latency model can reach on the published times: python -m benchmarks.latency_model_bound.

Two bounds, by chip. Kernels of one family, of which one has no fewer groups, rows, columns and depth than the other and
still takes less time, contradict each other for every model in which more work takes no less time: the least mean
error of such a model follows from a linear program. And times that lie close together are ranked by luck: the rank
correlation is that of predictions that miss by a given scatter, on the other halves of benchmarks/latency_model.py.
Prints, writes nothing.
"""

from collections.abc import Sequence

import numpy as np
from gulliver.evaluators.latency.chip_fit import published_kernels
from gulliver.evaluators.latency.prediction_error import rank_correlation
from gulliver.evaluators.latency.published_kernel import PublishedKernel
from scipy.optimize import linprog

from benchmarks.latency_model import SEEDS, SUBSETS, halves

_SCATTERS = (0.02, 0.05, 0.10)
_DRAWS = 200


def least_error(kernels: Sequence[PublishedKernel]) -> float:
    """Return the least mean error, as a share of the measured times, of times that do not fall with more work."""
    measured_us = np.array([kernel.time_us or np.nan for kernel in kernels])
    count = len(kernels)
    inverse, one = np.diag(1 / measured_us), np.eye(count)
    rows = [np.hstack([inverse, -one]), np.hstack([-inverse, -one])]
    limits = [np.ones(count), -np.ones(count)]
    for small, large in ((i, j) for i in range(count) for j in range(count) if _is_less(kernels[i], kernels[j])):
        rows.append(np.hstack([one[small] - one[large], np.zeros(count)])[None])
        limits.append(np.zeros(1))
    cost = np.hstack([np.zeros(count), np.ones(count)])
    return float(linprog(cost, np.vstack(rows), np.concatenate(limits)).fun / count)


def _is_less(first: PublishedKernel, second: PublishedKernel) -> bool:
    no_more = all(one <= other for one, other in zip(first.shape, second.shape, strict=True))
    return first is not second and first.family == second.family and no_more


def likely_rank_correlation(
    kernels: Sequence[PublishedKernel], half: dict[tuple[int, ...], int], scatter: float
) -> float:
    """Return the mean rank correlation of predictions that miss the other half's times by this scatter."""
    measured_us = np.array([kernel.time_us or np.nan for kernel in kernels if half[kernel.shape] == 1])
    missed = np.exp(scatter * np.random.default_rng(0).standard_normal((_DRAWS, len(measured_us))))
    return float(np.mean([rank_correlation(measured_us * factors, measured_us) or 0.0 for factors in missed]))


def main() -> None:
    """Print both bounds by chip and kind of kernels."""
    kernels = published_kernels()
    splits = [halves(kernels, seed) for seed in SEEDS]
    for chip in sorted({kernel.chip for kernel in kernels}):
        for subset in ("matmul and fused, aligned", "matmul and fused"):
            mine = [kernel for kernel in kernels if kernel.chip == chip and SUBSETS[subset](kernel)]
            ranks = [
                np.mean([likely_rank_correlation(mine, dict(half), scatter) for half in splits])
                for scatter in _SCATTERS
            ]
            print(chip, subset, f"{100 * least_error(mine):.1f}%", *(f"{rank:.3f}" for rank in ranks), sep="\t")


if __name__ == "__main__":
    main()

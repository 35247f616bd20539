"""The second stage of a prediction: what the model missed on the nearest measured shapes, it misses here too."""

from collections.abc import Callable, Sequence

import numpy as np
from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.chip_work import Floats
from gulliver.evaluators.latency.published_kernel import PublishedKernel
from numpy.typing import NDArray

# A neighbour at this distance counts as much as the model's own word; 1 is a factor of e in one dimension.
_REACH = 0.7


def nearest_ratio(
    kernels: Sequence[PublishedKernel], measured: Sequence[PublishedKernel], modelled_s: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the factor (kernels,) on each modelled time, and where there was a neighbour to take it from.

    `measured` have times and `modelled_s` (measured,) are their modelled seconds. Neighbours are of the same family on
    the same kind of chip; a measured kernel of the very same shape and precisions is never one. The ratios of
    measured to modelled time are averaged as logarithms, with weights that fall with the square of the distance in
    log-shape space.
    """
    if not kernels or not measured:
        return np.ones(len(kernels)), np.zeros(len(kernels), dtype=bool)
    missed = np.log(np.array([1e-6 * (kernel.time_us or np.nan) for kernel in measured]) / modelled_s)
    near = _identities(kernels, _family)[:, None] == _identities(measured, _family)[None]
    same = _identities(kernels, _itself)[:, None] == _identities(measured, _itself)[None]
    distance = np.linalg.norm(_places(kernels)[:, None] - _places(measured)[None], axis=2)
    weights = np.where(near & ~same, np.exp(-distance / _REACH) / (distance**2 + 0.01), 0.0)
    # The model's own word: a miss of 0 at the distance of `_REACH`.
    own = np.exp(-1) / _REACH**2
    return np.exp(weights @ missed / (weights.sum(1) + own)), (near & ~same).any(1)


def _places(kernels: Sequence[PublishedKernel]) -> Floats:
    """Return each kernel's place in log-shape space: groups, rows, n and k."""
    shapes = [(len(it.group_rows), sum(it.group_rows) + 1, it.n, it.k + 1) for it in kernels]
    return np.asarray(np.log(np.array(shapes, dtype=float)))


def _family(kernel: PublishedKernel) -> str:
    return f"{read_chip(kernel.chip).fit} {kernel.family}"


def _itself(kernel: PublishedKernel) -> str:
    return f"{_family(kernel)} {kernel.chip} {kernel.activation} {kernel.weight} {kernel.shape}"


def _identities(kernels: Sequence[PublishedKernel], name: Callable[[PublishedKernel], str]) -> NDArray[np.str_]:
    return np.array([name(kernel) for kernel in kernels])

"""Which kernel times cannot be right: more work of the same kind would have taken less time."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from gulliver.evaluators.latency.kernel import ComputeKernel

# Kernels of odd channel counts do take longer than some larger ones, but hardly by more.
_SLOWER = 1.5


def implausible(seconds: Mapping[ComputeKernel, float]) -> list[ComputeKernel]:
    """Return the kernels that took 1.5 times as long as one of the same shape with as many channels or more, sorted."""
    alike: dict[ComputeKernel, list[ComputeKernel]] = defaultdict(list)
    for kernel in seconds:
        # Where there are groups, other channels are other work in each.
        alike[replace(kernel, in_channels=0, out_channels=0) if kernel.groups == 1 else kernel].append(kernel)
    return sorted(kernel for kernels in alike.values() for kernel in _slow(kernels, seconds))


def _slow(kernels: list[ComputeKernel], seconds: Mapping[ComputeKernel, float]) -> list[ComputeKernel]:
    channels = np.array([(it.in_channels, it.out_channels) for it in kernels])
    times = np.array([seconds[it] for it in kernels])
    is_larger = (channels[None] >= channels[:, None]).all(-1)
    least_of_larger = np.where(is_larger, times, np.inf).min(1)
    return [it for it, is_slow in zip(kernels, times > _SLOWER * least_of_larger, strict=True) if is_slow]

"""The latency model of a machine whose kernels are timed, and how it is fitted to whole networks.

The model: seconds = sum over precisions of scale * kernel seconds + bytes of memory passes / bandwidth + bytes of
weights / bandwidth + seconds a node + seconds a network. A node is a kernel or a pass. Its few coefficients are fitted,
none below zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from gulliver.evaluators.latency.kernel import ComputeKernel, Kernel, KernelCall, Price
from gulliver.evaluators.latency.kernel_table import KernelTable
from scipy.optimize import lsq_linear

# Errors of fits are 2 to 7% (docs/decisions/0003).
_GOOD_FIT = 0.08
_ADVICE = "other processes may have run beside; `gulliver calibrate again=true` measures anew"
# What the scales of int8 and of floating-point kernels may be (docs/decisions/0003).
_SCALES = ((0.5, 2.0), (0.5, 2.0))
# What every inference costs beside its operators, at most (0 to 160 us were fitted), or such a share of the fastest
# network, whose inputs may be large. More of it would hide how much compressing saves.
_MOST_SECONDS_PER_NETWORK, _MOST_OF_A_NETWORK = 2e-4, 0.1
# Weights that do not stay in the nearest caches come from the farther ones, at 20 GB/s at least (docs/decisions/0003).
_MOST_SECONDS_PER_WEIGHT_BYTE = 5e-11
# What lies between two nodes at most: 0 to 5 us were fitted, 5 to 15 us to networks that took turns of one inference.
_MOST_SECONDS_PER_NODE = 2e-5


@dataclass(frozen=True)
class Coefficients:
    """What the kernel table's times are multiplied by and what is added to them; the errors are of the fit itself.

    The untouched network's latency beside the networks of the fit tells later how the machine's speed has changed.
    """

    int8_scale: float
    float_scale: float
    seconds_per_byte: float
    seconds_per_weight_byte: float
    seconds_per_node: float
    seconds_per_network: float
    networks: float
    mean_error: float
    untouched_ms: float | None = None


@dataclass(frozen=True)
class CpuLatencyModel:
    """Kernel times measured on this machine, with the fitted cost of what lies between the kernels."""

    table: KernelTable
    coefficients: Coefficients

    @property
    def basis(self) -> str:
        """Return how many kernel times there are, how well they fit whole networks, and what to do where badly."""
        fitted = self.coefficients
        networks = f"fitted to {fitted.networks:.0f} measured networks with a mean error of {fitted.mean_error:.1%}"
        poor = "" if fitted.mean_error <= _GOOD_FIT else f" (more than {_GOOD_FIT:.0%}: {_ADVICE})"
        return f"{len(self.table)} kernel times, {networks}{poor}"

    @property
    def untouched_ms(self) -> float | None:
        """Return the latency of the untouched network when the model was fitted to this machine."""
        return self.coefficients.untouched_ms

    def price(self, call: KernelCall) -> Price:
        """Return the call's price; what bounds a kernel that was timed is not known."""
        is_timed = isinstance(call.kernel, ComputeKernel)
        return Price(self.seconds(call), "" if is_timed else "memory", "kernel times" if is_timed else "fitted")

    def seconds(self, call: KernelCall) -> float:
        """Return the modelled seconds of one call; a kernel that is not in the table is measured."""
        kernel, fitted = call.kernel, self.coefficients
        between = fitted.seconds_per_node
        if isinstance(kernel, ComputeKernel):
            scale = fitted.int8_scale if kernel.precision == "int8" else fitted.float_scale
            weights = fitted.seconds_per_weight_byte * kernel.weight_bytes
            return between + scale * self.table.seconds(kernel) + weights
        return between + fitted.seconds_per_byte * kernel.bytes_moved

    def total_ms(self, calls: Sequence[KernelCall]) -> float:
        """Return the modelled milliseconds of one inference."""
        return 1e3 * (self.coefficients.seconds_per_network + sum(self.seconds(call) for call in calls))

    def require(self, kernels: Sequence[Kernel]) -> None:
        """Measure the kernels that are not in the table, so that a drift of the machine's speed meets all alike."""
        self.table.require(kernel for kernel in kernels if isinstance(kernel, ComputeKernel))


def fit(lowered: Sequence[Sequence[KernelCall]], measured: Sequence[float], table: KernelTable) -> Coefficients:
    """Return the coefficients of the least mean squared relative error, none of them negative, nor a scale far from 1.

    Kernels take about as long in a network as alone, and an inference about as long as its kernels: were these free, a
    wrong kernel time could make all others cost nothing.
    """
    features = np.array([list(_features(calls, table)) for calls in lowered])
    wanted = np.array(measured)
    shares = features / wanted[:, None]
    # A kernel table's microseconds and a tensor's bytes are brought to one size, as the solver wants them.
    sizes = np.where(shares.any(axis=0), shares.max(axis=0), 1.0)
    per_network_s = max(_MOST_SECONDS_PER_NETWORK, _MOST_OF_A_NETWORK * wanted.min())
    most = (np.inf, _MOST_SECONDS_PER_WEIGHT_BYTE, _MOST_SECONDS_PER_NODE, per_network_s)
    bounds = np.array([*_SCALES, *((0.0, it) for it in most)]).T
    found = lsq_linear(shares / sizes, np.ones(len(wanted)), bounds * sizes, method="bvls").x / sizes
    # The solver may miss a bound by its last digits.
    weights = np.clip(found, *bounds)
    error = float(np.abs(features @ weights / wanted - 1).mean())
    between = ("seconds_per_byte", "seconds_per_weight_byte", "seconds_per_node", "seconds_per_network")
    names = ("int8_scale", "float_scale", *between)
    fitted = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return Coefficients(**fitted, networks=len(wanted), mean_error=error)


def _features(calls: Sequence[KernelCall], table: KernelTable) -> Iterator[float]:
    compute = [call.kernel for call in calls if isinstance(call.kernel, ComputeKernel)]
    memory = [call.kernel for call in calls if not isinstance(call.kernel, ComputeKernel)]
    yield sum(table.seconds(kernel) for kernel in compute if kernel.precision == "int8")
    yield sum(table.seconds(kernel) for kernel in compute if kernel.precision != "int8")
    yield sum(kernel.bytes_moved for kernel in memory)
    yield sum(kernel.weight_bytes for kernel in compute)
    yield len(calls)
    yield 1.0

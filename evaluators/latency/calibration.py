"""Calibrate this machine's latency model: kernel times, and what boundaries and unfused passes cost.

The model: seconds = sum over precisions of scale * kernel seconds + bytes of memory passes / bandwidth + bytes of
weights / bandwidth + seconds a node + seconds a network. A node is a kernel or a pass. Its few coefficients are fitted,
none below zero, to whole networks of mixed recipes measured on this machine.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
from gulliver.compressors.compress import Original, compress
from gulliver.compressors.export import of_batch, to_openvino
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import ComputeKernel, Kernel, KernelCall, Price
from gulliver.evaluators.latency.kernel_benchmark import time_kernels
from gulliver.evaluators.latency.kernel_table import KernelTable
from gulliver.evaluators.latency.machine import this_machine
from gulliver.evaluators.latency.measurement import compile_openvino, measure
from gulliver.evaluators.latency.price_tables import call_tables
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space, untouched
from gulliver.tasks.cache import cache_dir, write_atomically
from scipy.optimize import lsq_linear

_REPETITIONS = 40
_SEED = 0
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
# How fast a shared machine runs floats beside integers changes from hour to hour (docs/decisions/0003).
_OLD_SECONDS = 1800.0
# Named by how kernels are timed: those of before were of colder ones.
_FOLDER = "hot_kernel_times"


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


def kernel_table(target: CpuOpenvino) -> KernelTable:
    """Return the cached table of kernel times of this machine."""
    path = cache_dir() / _FOLDER / f"{target.name}-{this_machine().key}-{target.threads}-threads.csv"
    return KernelTable(path, lambda kernels: time_kernels(kernels, target.threads, target.kernel_repetitions))


def calibrate(target: CpuOpenvino, original: Original, recipes: Sequence[Recipe]) -> CpuLatencyModel:
    """Return the latency model of the network on this machine, from the cache or fitted to the recipes' networks."""
    table = kernel_table(target)
    path = _coefficients_path(target, original)
    if (kept := _read(path)) is not None:
        return CpuLatencyModel(table, kept)
    lowered = [target.lower(original.graph, recipe) for recipe in recipes]
    table.require(_compute_kernels(call for calls in lowered for call in calls))
    measured = measure_recipes(target, original, recipes)
    untouched_ms = 1e3 * measured[recipes.index(untouched(original.graph))]
    coefficients = replace(fit(lowered, measured, table), untouched_ms=untouched_ms)
    _write(path, coefficients)
    return CpuLatencyModel(table, coefficients)


def measure_recipes(target: CpuOpenvino, original: Original, recipes: Sequence[Recipe]) -> list[float]:
    """Return the measured seconds of each recipe's exported network; its weights are not fine-tuned."""
    sample = original.calibration[:1]
    compiled = {}
    for index, recipe in enumerate(recipes):
        model = compress(original, recipe, calibration=sample)
        exported = to_openvino(model, original.task.example_inputs, target.batch)
        compiled[str(index)] = compile_openvino(exported, target.float_type, target.threads)
    inputs = tuple(of_batch(tensor, target.batch) for tensor in sample[0])
    timings = measure(compiled, inputs, _REPETITIONS)
    return [1e-3 * timings[str(index)].median_ms for index in range(len(recipes))]


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


def _read(path: Path) -> Coefficients | None:
    """Return what was fitted; None where nothing was, or something else by an earlier version."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    return Coefficients(**kept) if kept.keys() == {it.name for it in fields(Coefficients)} else None


def _write(path: Path, coefficients: Coefficients) -> None:
    text = json.dumps(asdict(coefficients), indent=2)
    write_atomically(path, lambda temporary: temporary.write_text(text))


def _coefficients_path(target: CpuOpenvino, original: Original) -> Path:
    inputs = "-".join("x".join(map(str, tensor.shape[1:])) for tensor in original.task.example_inputs)
    conditions = f"{inputs}-batch-{target.batch}-{target.threads}-threads-{target.float_type}"
    return cache_dir() / _FOLDER / f"{target.name}-{this_machine().key}-{original.network}-{conditions}.json"


def calibrate_calls(
    target: CpuOpenvino, original: Original, space: Space, calls: Sequence[KernelCall]
) -> CpuLatencyModel:
    """Return the latency model, fitted to recipes of all that the target can run, with the calls' kernels measured."""
    random = Random(_SEED)  # noqa: S311 - draws of recipes, no secrets
    # A fit is kept for the network's next search, which may offer what this one's options leave out.
    space = Space(space.graph, space.capabilities)
    recipes = [*_uniform_recipes(space), *(random_recipe(space, random) for _ in range(target.calibration_networks))]
    # All at once, so that a drift of the machine's speed meets all kernels alike.
    kernel_table(target).require(_compute_kernels(calls))
    return calibrate(target, original, recipes)


def _uniform_recipes(space: Space) -> list[Recipe]:
    """Return the recipes that treat all layers alike: in floating point and int8, with half the channels, low ranks."""
    choices = product((0.0, 0.5), (0, len(space.options.ranks)), (False, True))
    return [space.uniform(ratio, rank_rung, quantized) for ratio, rank_rung, quantized in choices]


def random_recipe(space: Space, random: Random) -> Recipe:
    """Return a recipe whose every choice is drawn with equal chances."""
    return space.decode({dimension.name: random.randrange(dimension.rungs) for dimension in space.dimensions})


def space_calls(space: Space, target: CpuOpenvino) -> list[KernelCall]:
    """Return the kernel calls of all recipes of the space."""
    return [call for table in call_tables(space, target) for calls in table.values() for call in calls]


def _compute_kernels(calls: Iterable[KernelCall]) -> Iterator[ComputeKernel]:
    return (call.kernel for call in calls if isinstance(call.kernel, ComputeKernel))


def calibrate_search(
    target: CpuOpenvino, original: Original, space: Space, calls: Sequence[KernelCall], fit_file: Path
) -> CpuLatencyModel:
    """Return the latency model that a search began with, which `fit_file` keeps, or a recent one where it begins now.

    Other searches of the same network may be fitted anew before this one goes on.
    """
    if (kept := _read(fit_file)) is not None:
        model = CpuLatencyModel(kernel_table(target), kept)
        model.require([call.kernel for call in calls])
        return model
    forget_old_fit(target, original)
    model = calibrate_calls(target, original, space, calls)
    _write(fit_file, model.coefficients)
    return model


def forget(target: CpuOpenvino, original: Original, space: Space) -> None:
    """Delete what was measured on this machine for this network and for the kernels of the space's recipes."""
    _coefficients_path(target, original).unlink(missing_ok=True)
    kernel_table(target).forget(_compute_kernels(space_calls(space, target)))


def forget_old_fit(target: CpuOpenvino, original: Original) -> None:
    """Delete the fit to this network where it is half an hour old; kernel times stay."""
    path = _coefficients_path(target, original)
    # Another process may delete it at the same time.
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _OLD_SECONDS:
            path.unlink()

"""Calibrate this machine's latency model: kernel times, and what boundaries and unfused passes cost.

It is fitted to whole networks of mixed recipes, measured on this machine, and kept in the cache.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from itertools import product
from math import prod
from pathlib import Path
from random import Random
from typing import Any

from gulliver.compressors.compress import Original, compress
from gulliver.compressors.export import of_batch, to_openvino
from gulliver.evaluators.latency.cpu_latency_model import Coefficients, CpuLatencyModel, fit
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import BYTES_PER_ELEMENT, ComputeKernel, KernelCall
from gulliver.evaluators.latency.kernel_benchmark import time_kernels
from gulliver.evaluators.latency.kernel_table import KernelTable
from gulliver.evaluators.latency.machine import this_machine
from gulliver.evaluators.latency.measurement import compile_openvino, measure
from gulliver.evaluators.latency.price_tables import call_tables, calls_of
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space, untouched
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.cache import cache_dir, write_atomically
from tqdm import tqdm

_REPETITIONS = 40
_SEED = 0
# How fast a shared machine runs floats beside integers changes from hour to hour (docs/decisions/0003).
_OLD_SECONDS = 1800.0
# Named by how kernels are timed: those of before were of colder ones.
_FOLDER = "hot_kernel_times"
# For networks that are measured in turns.
_MEMORY_BYTES = 2 << 30


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
    """Return the measured seconds of each recipe's exported network; its weights are not fine-tuned.

    All take turns; where they would need too much memory together, so many as fit at a time do with the first one, by
    which the others' times are set right.
    """
    inputs = tuple(of_batch(tensor, target.batch) for tensor in original.calibration[0])
    others, size = recipes[1:], max(_held_at_once(target, original.graph) - 1, 1)
    with tqdm(None, "calibration networks", len(recipes), unit="network", leave=False) as bar:
        first = _compiled(target, original, recipes[0], bar)

        def in_turns(some: Sequence[Recipe]) -> list[float]:
            compiled = {str(index): _compiled(target, original, recipe, bar) for index, recipe in enumerate(some, 1)}
            timings = measure({"0": first} | compiled, inputs, _REPETITIONS)
            return [1e-3 * timings[str(index)].median_ms for index in range(len(some) + 1)]

        rounds = [in_turns(others[start : start + size]) for start in range(0, max(len(others), 1), size)]
    alone = rounds[0][0]
    return [alone, *(seconds * alone / reference for reference, *some in rounds for seconds in some)]


def _compiled(target: CpuOpenvino, original: Original, recipe: Recipe, bar: Any) -> Any:
    model = compress(original, recipe, calibration=original.calibration[:1])
    exported = to_openvino(model, original.task.example_inputs, target.batch)
    compiled = compile_openvino(exported, target.float_type, target.threads)
    bar.update()
    return compiled


def _held_at_once(target: CpuOpenvino, graph: LayerGraph) -> int:
    """Return how many networks like the untouched one have room in memory, with their weights and largest tensors."""
    layers = graph.layers.values()
    example = next(it for it in graph.operations if it.kind == "input").shape[0]
    tensors = max(prod(it.input_shape) + prod(it.output_shape) for it in layers) * target.batch // example
    size = BYTES_PER_ELEMENT["float32"] * (sum(it.weight_count for it in layers) + tensors)
    return _MEMORY_BYTES // size


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
    # A fit is kept for the network's next search, which may offer what this one's options leave out; layers are not
    # solved anew, which would change weights only.
    space = Space(space.graph, space.capabilities, SpaceOptions(reconstruct=False))
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
    return calls_of(call_tables(space, target))


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

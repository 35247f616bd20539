"""Samplers on a space whose every recipe was scored: python -m benchmarks.search.exhaustive_truth.

The space and the accuracies are those of digits_truth.py (82,944 assignments of digits_cnn, scored on the search
split). Latencies are a tariff of whole kernels as the CPU target lowers them: this CPU has no 3-bit kernels, and on so
small a network its measured times differ by little. The sensitivity pass is counted: the direct one as an evaluation
for each choice and pair, though it looks at fewer samples; the gradient's as many as could be scored in its time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import ceil
from random import Random
from statistics import median

import numpy as np
import optuna
import torch
from gulliver.compressors.compress import Original, read_original
from gulliver.evaluators.accuracy import Accuracy
from gulliver.evaluators.factors import Costs, Rungs
from gulliver.evaluators.latency.calibration import random_recipe
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import ComputeKernel, Kernel, KernelCall
from gulliver.evaluators.latency.lowering import Lowering
from gulliver.evaluators.latency.price_tables import call_tables, price
from gulliver.evaluators.taylor import TaylorLoss
from gulliver.search.guide import Guide
from gulliver.search.make_guide import make_guide
from gulliver.search.pairs import pairs_that_matter
from gulliver.search.problem import Problem
from gulliver.search.sensitivity import SensitivitySettings, measure_sensitivities
from gulliver.search.settings import SearchSettings
from gulliver.spaces.choices import Choices
from gulliver.spaces.layer_graph import LayerGraph, Operation
from gulliver.spaces.space import Space

from benchmarks.record import write_table
from benchmarks.search.digits_truth import StoredDigitsCNN, Truth, read_truth, truth_space
from benchmarks.search.front_gap import SAMPLERS, Case, Row, exact_solve_rows, rows

TURNS = 20
EVALUATIONS = (10, 15, 20, 30, 40, 50, 60, 80, 100, 150)
SEEDS = 10
# Multiply-accumulates a second, bytes a second, seconds a kernel: round numbers of one core, 3 bits as if packed in 4.
MACS_PER_S = {"bfloat16": 200e9, 8: 400e9, 3: 800e9}
BYTES_PER_S = 20e9
LAUNCH_S = 1e-6


@dataclass(frozen=True)
class TariffLowering:
    """The CPU target's lowering, each kernel's precision said in the bits of its weights."""

    plain: Lowering
    choices: Choices

    def calls(self, operation: Operation) -> Iterator[KernelCall]:
        """Yield the operation's kernel calls."""
        for call in self.plain.calls(operation):
            quantize = self.choices.quantize(call.owner) if isinstance(call.kernel, ComputeKernel) else None
            if quantize is not None and isinstance(call.kernel, ComputeKernel):
                yield replace(call, kernel=replace(call.kernel, precision=f"int{quantize.weight_bits}"))
            else:
                yield call


@dataclass(frozen=True)
class TariffTarget(CpuOpenvino):
    """The CPU target with kernels of fewer bits; its prices are a tariff."""

    def lowering(self, graph: LayerGraph, choices: Choices) -> TariffLowering:  # type: ignore[override]
        """Return the lowering of a network with these choices."""
        return TariffLowering(super().lowering(graph, choices), choices)

    def require(self, kernels: Sequence[Kernel]) -> None:
        """Do nothing: every kernel has a price."""

    def seconds(self, call: KernelCall) -> float:
        """Return what a call costs."""
        kernel = call.kernel
        if not isinstance(kernel, ComputeKernel):
            return LAUNCH_S + getattr(kernel, "bytes_moved", 0) / BYTES_PER_S
        rate = MACS_PER_S["bfloat16" if kernel.precision == "bfloat16" else int(kernel.precision.removeprefix("int"))]
        return LAUNCH_S + kernel.macs / rate

    def total_ms(self, calls: tuple[KernelCall, ...]) -> float:
        """Return what a network's calls cost."""
        return 1e3 * sum(self.seconds(call) for call in calls)


def scores(truth: Truth, space: Space, rungs: Rungs) -> Costs:
    """Return shape (recipes,): the true accuracies on the search split."""
    position = {dimension.name: index for index, dimension in enumerate(space.dimensions)}
    counts = truth.counts["search"][tuple(rungs[:, position[name]] for name in truth.names)]
    return np.asarray(counts / truth.samples["search"])


def all_rungs(problem: Problem) -> Rungs:
    """Return shape (recipes, variables): every assignment."""
    return np.indices(problem.sizes).reshape(len(problem.sizes), -1).T


def guide_of(original: Original, space: Space, settings: SensitivitySettings, original_score: float) -> Guide:
    """Return the guide that a search would make."""
    sensitivities = measure_sensitivities(original, space, settings, settings.method)
    prices = price(space, call_tables(space, TariffTarget()), TariffTarget())
    guide = make_guide(space, sensitivities, prices, SearchSettings(), original_score)
    return replace(guide, lowest_score=original_score / 2)


def true_front(guide: Guide, truth: Truth, space: Space) -> list[tuple[float, float]]:
    """Return latency and score of every recipe that none beats."""
    everything = all_rungs(guide.problem)
    latencies_ms, accuracies = guide.problem.latency_ms_of(everything), scores(truth, space, everything)
    order = np.lexsort((-accuracies, latencies_ms))
    rises = np.diff(np.maximum.accumulate(accuracies[order]), prepend=-1.0) > 0
    members = order[rises]
    return list(zip(latencies_ms[members].tolist(), accuracies[members].tolist(), strict=True))


def make_case(original: Original, truth: Truth, settings: SensitivitySettings, spent: int) -> Case:
    """Return the case, what the sensitivity pass cost included."""
    space = truth_space(original.graph)
    untouched = np.zeros((1, len(space.dimensions)), dtype=np.intp)
    guide = guide_of(original, space, settings, float(scores(truth, space, untouched)[0]))
    best = true_front(guide, truth, space)
    name = f"digits_cnn, {settings.method} losses, {settings.pairs} pairs"
    return Case(name, guide, lambda rungs: scores(truth, space, rungs), best, spent)


def gradient_evaluations(original: Original, space: Space, settings: SensitivitySettings) -> int:
    """Return how many recipes could have been scored in the CPU time that the pass took, rounded up.

    Both take turns; medians.
    """
    ends = {it.name: it.rungs - 1 for it in space.dimensions}
    alone = [space.decode({it.name: rung}) for it in space.dimensions for rung in range(1, it.rungs)]
    pairs = [space.decode({a: ends[a], b: ends[b]}) for a, b in [*pairs_that_matter(space)][: settings.pairs]]
    draw, accuracy = Random(0), Accuracy(original)
    passes, scorings = [], []
    for _ in range(TURNS):
        passes.append(_cpu_seconds(lambda: [*TaylorLoss(original, settings.samples).losses(alone + pairs)]))
        scored = random_recipe(space, draw)
        scorings.append(_cpu_seconds(lambda scored=scored: accuracy(scored)))
    return ceil(median(passes) / median(scorings))


def _cpu_seconds(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def main() -> None:
    """Run all samplers and write benchmarks/results/exhaustive_truth.csv."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    original, truth = read_original(StoredDigitsCNN()), read_truth()
    assert truth.facts["network"] == original.network, "the truth is of another network"
    space = truth_space(original.graph)
    choices = sum(it.rungs - 1 for it in space.dimensions)
    gradient = SensitivitySettings("gradient", pairs=24)
    made: list[Row] = []
    for settings, spent in (
        (SensitivitySettings("direct", pairs=0), choices),
        (SensitivitySettings("direct", pairs=12), choices + 12),
        (gradient, gradient_evaluations(original, space, gradient)),
    ):
        case = make_case(original, truth, settings, spent)
        made += rows(case, "solve", EVALUATIONS, True, SEEDS) + exact_solve_rows(case, EVALUATIONS, True)
    for sampler in sorted(SAMPLERS.keys() - {"solve"}):
        made += rows(case, sampler, EVALUATIONS, True, SEEDS)
    write_table("exhaustive_truth", made, {name: version(name) for name in ("optuna", "torch", "numpy")})


if __name__ == "__main__":
    main()

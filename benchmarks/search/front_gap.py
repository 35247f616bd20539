"""How much of the way to the best front each sampler has gone, on problems whose best front is known.

The gap closed is (hypervolume - that of the untouched network alone) / (that of the best front - the same), counted
from the slowest latency and a lowest score. Every sampler begins with the untouched network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import optuna
from gulliver.evaluators.factors import Costs, Rungs
from gulliver.search.guide import Guide
from gulliver.search.hypervolume import hypervolume
from gulliver.search.proposer import Proposer
from gulliver.search.solve import pareto
from gulliver.search.solving_sampler import SolvingSampler


@dataclass(frozen=True)
class Case:
    """A problem of known truth: scores of rungs, the best front's points (latency, score), and what a search is given.

    `sensitivity_evaluations` is what the guide cost, in evaluations of a recipe.
    """

    name: str
    guide: Guide
    scores: Callable[[Rungs], Costs]
    best: Sequence[tuple[float, float]]
    sensitivity_evaluations: int

    def gap(self, rungs: Rungs) -> float:
        """Return the share of the gap that recipes of shape (recipes, variables) close."""
        latencies_ms = self.guide.problem.latency_ms_of(rungs)
        points = list(zip(latencies_ms.tolist(), self.scores(rungs).tolist(), strict=True))
        begin = self._volume([(self.guide.highest_latency_ms, self.guide.original_score)])
        return (self._volume(points) - begin) / (self._volume(self.best) - begin)

    def _volume(self, points: Sequence[tuple[float, float]]) -> float:
        reference = self.guide.highest_latency_ms * (1 + 1e-9), self.guide.lowest_score
        return hypervolume(list(points), reference)


@dataclass(frozen=True)
class Row:
    """The gap closed after so many evaluations, the sensitivity pass counted in where `counted` says so."""

    case: str
    sampler: str
    evaluations: int
    counted: bool
    seeds: int
    median: float
    lower_quartile: float
    upper_quartile: float


def solving(case: Case, seed: int) -> Callable[[int], optuna.samplers.BaseSampler]:
    """Return Gulliver's sampler for each trial, as a search makes it."""
    proposer = Proposer(case.guide)
    return lambda trial: SolvingSampler(proposer, seed * 100_000 + trial)


def optunas(make: Callable[..., optuna.samplers.BaseSampler], case: Case, seed: int) -> Callable[[int], object]:
    """Return one of Optuna's samplers, the same for all trials."""
    sampler = make(seed=seed)
    return lambda trial: sampler


SAMPLERS: Mapping[str, Callable[[Case, int], Callable[[int], object]]] = {
    "solve": solving,
    "tpe": partial(optunas, partial(optuna.samplers.TPESampler, multivariate=True)),
    "nsga2": partial(optunas, optuna.samplers.NSGAIISampler),
    "gp": partial(optunas, partial(optuna.samplers.GPSampler, deterministic_objective=True)),
    "random": partial(optunas, optuna.samplers.RandomSampler),
}


def run(case: Case, sampler: str, trials: int, seed: int) -> Rungs:
    """Return shape (trials, variables): what the sampler tried, in order."""
    problem = case.guide.problem
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.enqueue_trial(dict.fromkeys(problem.names, 0))
    make = SAMPLERS[sampler](case, seed)
    for number in range(trials):
        study.sampler = make(number)  # type: ignore[assignment]
        trial = study.ask()
        sizes = zip(problem.names, problem.sizes, strict=True)
        rungs = np.array([[trial.suggest_int(name, 0, size - 1) for name, size in sizes]])
        study.tell(trial, [float(case.scores(rungs)[0]), float(problem.latency_ms_of(rungs)[0])])
    return np.array([[it.params[name] for name in problem.names] for it in study.trials])


def exact_solve_rows(case: Case, evaluations: Sequence[int], counted: bool) -> list[Row]:
    """Return the rows of the first exact solve alone: a ladder of as many steps as evaluations are left."""
    rows = []
    for count in evaluations:
        left = count - counted * case.sensitivity_evaluations - 1
        ladder = pareto(case.guide.problem, max(left, 2)) if left > 0 else ()
        tried = [[0] * len(case.guide.problem.names), *(it.rungs for it in ladder[:left])]
        gap = case.gap(np.array(tried))
        rows.append(Row(case.name, "exact solve alone", count, counted, 1, gap, gap, gap))
    return rows


def rows(case: Case, sampler: str, evaluations: Sequence[int], counted: bool, seeds: int) -> list[Row]:
    """Return one row for each number of evaluations, over the seeds."""
    spent = case.sensitivity_evaluations * (counted and sampler == "solve")
    tried = [run(case, sampler, max(evaluations) - spent, seed) for seed in range(seeds)]
    made = []
    for count in evaluations:
        gaps = [case.gap(it[: max(count - spent, 1)]) for it in tried]
        low, middle, high = np.percentile(gaps, (25, 50, 75)).round(4).tolist()
        made.append(Row(case.name, sampler, count, counted, seeds, middle, low, high))
    return made

"""What a solver finds for one budget, and how much better anything else could be."""

from dataclasses import dataclass

from gulliver.evaluators.factors import Rungs
from gulliver.search.problem import Problem


@dataclass(frozen=True)
class Assignment:
    """A rung for every variable, within the budget, and a loss that no assignment within the budget is under."""

    rungs: tuple[int, ...]
    lower_bound: float


def best_within(problem: Problem, rungs: Rungs, budget_ms: float) -> Rungs:
    """Return shape (1, variables), the one of least loss within the budget of (n, variables), or (0, variables)."""
    within = rungs[problem.latency_ms_of(rungs) <= budget_ms]
    return within[problem.loss_of(within).argsort(kind="stable")[:1]]

"""The Lagrangian dual of least loss within a latency: a price of a millisecond, a lower bound, a first assignment.

Everett (1963); the price is found by the secant search of Handler and Zang (1980) for constrained shortest paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gulliver.evaluators.factors import Costs, Rungs
from gulliver.search.elimination import Step, least_cost
from gulliver.search.problem import Problem
from numpy.typing import NDArray

# A secant search ends when no assignment is this much cheaper, relative to the costs' size, than its two ends.
TOLERANCE = 1e-12
# Each round puts an assignment of the convex hull between two others, so it ends; a dozen rounds are usual.
MAX_ROUNDS = 100


@dataclass(frozen=True, eq=False)
class Dual:
    """For each budget: loss per millisecond, a loss that no assignment in the budget beats, and an assignment in it.

    Shapes (budgets,), (budgets,) and (budgets, variables).
    """

    loss_per_ms: Costs
    lower_bound: Costs
    rungs: Rungs


@dataclass(frozen=True, eq=False)
class _Points:
    """Assignments with what they cost."""

    rungs: Rungs
    loss: Costs
    latency_ms: Costs

    def take(self, other: "_Points", where: NDArray[np.bool_]) -> "_Points":
        return _Points(
            np.where(where[:, None], other.rungs, self.rungs),
            np.where(where, other.loss, self.loss),
            np.where(where, other.latency_ms, self.latency_ms),
        )

    def cost(self, loss_per_ms: Costs) -> Costs:
        return self.loss + loss_per_ms * self.latency_ms


def solve_dual(problem: Problem, steps: Sequence[Step], budgets_ms: Costs) -> Dual:
    """Solve the dual of every budget at once; each must be at least the least latency of all assignments."""

    def points(loss_weights: Costs, latency_weights: Costs) -> _Points:
        rungs = least_cost(steps, loss_weights, latency_weights)
        return _Points(rungs, problem.loss_of(rungs), problem.latency_ms_of(rungs))

    ones, zeros = np.ones_like(budgets_ms), np.zeros_like(budgets_ms)
    # The ends of each search: one assignment within the budget, one beyond it (or the best of all, if it is within).
    slow = points(ones, zeros)
    fast = points(zeros, ones).take(slow, slow.latency_ms <= budgets_ms)
    for _ in range(MAX_ROUNDS):
        price = _price(fast, slow)
        middle = points(ones, price)
        scale = np.abs(fast.loss) + price * np.abs(fast.latency_ms)
        better = middle.cost(price) < fast.cost(price) - TOLERANCE * scale
        if not better.any():
            break
        within = middle.latency_ms <= budgets_ms
        fast, slow = fast.take(middle, better & within), slow.take(middle, better & ~within)
    bound = np.minimum(middle.cost(price), fast.cost(price)) - price * np.where(price > 0, budgets_ms, 0.0)
    return Dual(price, np.minimum(bound, fast.loss), fast.rungs)


def _price(fast: _Points, slow: _Points) -> Costs:
    """Return the loss per millisecond at which both ends cost the same; 0 where both are the best of all."""
    saved_ms = slow.latency_ms - fast.latency_ms
    return np.maximum(fast.loss - slow.loss, 0.0) / np.where(saved_ms > 0, saved_ms, np.inf)

"""Least loss within a latency by dynamic programming over the states of a problem's active variables.

A label is a partial assignment: the state it reached, its loss and its latency. Every decision extends each label by
every rung and drops those that cannot matter: another label of the same state is no worse in both (Kellerer, Pferschy
and Pisinger, Knapsack Problems, 2004, chapter 3), the fastest completion exceeds the budget, or the Lagrangian bound of
the best completion is not under the best loss found so far (Dumitrescu and Boland, 2003). Latencies are exact sums,
never rounded to buckets, so that nothing returned exceeds its budget.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from gulliver.evaluators.factors import Costs, Rungs
from gulliver.search.assignment import Assignment, best_within
from gulliver.search.elimination import Step, completion_costs, least_cost, make_steps
from gulliver.search.lagrangian import solve_dual
from gulliver.search.problem import Problem
from numpy.typing import NDArray

# Labels kept after a decision, those of the least bounds. As long as none is left out the result is exact; else the
# next width is tried, with the best loss of the last, unless what was left out could save at most RELATIVE_GAP of it.
WIDTHS = (400, 4_000, 40_000)
RELATIVE_GAP = 1e-4
# Cells of a step times budgets that are looked at together, which bounds the memory.
CELLS_AT_ONCE = 2**23
# By how much sums in another order may differ, relative to the sum of the largest magnitudes.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class _Bounds:
    """One budget, its price of a millisecond, and after each step the least cost of completing every state."""

    budget_ms: float
    loss_per_ms: float
    cost: tuple[Costs, ...]
    latency_ms: tuple[Costs, ...]


@dataclass(frozen=True, eq=False)
class _Labels:
    """Partial assignments: the states they reached, what they cost, and the cells that extended which labels before."""

    state: NDArray[np.intp]
    loss: Costs
    latency_ms: Costs
    parent: NDArray[np.intp]
    rung: NDArray[np.intp]


def dynamic_program(
    problem: Problem, budgets_ms: Sequence[float], order: Sequence[int]
) -> tuple[Assignment | None, ...]:
    """Return the assignment of least loss within each budget, or None where even the fastest exceeds it.

    One that is not proven to be the best within RELATIVE_GAP has a lower bound that says so.
    """
    steps = make_steps(problem, order)
    fastest = least_cost(steps, np.zeros(1), np.ones(1))
    possible = sorted({budget for budget in budgets_ms if problem.latency_ms_of(fastest)[0] <= budget})
    found: dict[float, Assignment] = {}
    best = fastest
    at_once = max(1, CELLS_AT_ONCE // max(len(step.loss) for step in steps))
    blocks = (np.array(possible[start : start + at_once]) for start in range(0, len(possible), at_once))
    for bounds, rungs, dual_bound in chain.from_iterable(_duals(problem, steps, block) for block in blocks):
        # What is within the last budget is within this one, which is larger.
        best, lower_bound = _improve(problem, steps, bounds, np.concatenate((best, rungs)), dual_bound)
        found[bounds.budget_ms] = Assignment(tuple(best[0].tolist()), lower_bound)
    return tuple(found.get(budget) for budget in budgets_ms)


def _duals(problem: Problem, steps: Sequence[Step], budgets_ms: Costs) -> Iterator[tuple[_Bounds, Rungs, float]]:
    """Yield for each budget its bounds, a first assignment, and the lower bound."""
    dual = solve_dual(problem, steps, budgets_ms)
    costs = completion_costs(steps, np.ones_like(budgets_ms), dual.loss_per_ms)[1:]
    latencies = tuple(after[0] for after in completion_costs(steps, np.zeros(1), np.ones(1))[1:])
    for at, budget in enumerate(budgets_ms):
        bounds = _Bounds(float(budget), float(dual.loss_per_ms[at]), tuple(after[at] for after in costs), latencies)
        yield bounds, dual.rungs[at : at + 1], float(dual.lower_bound[at])


def _improve(
    problem: Problem, steps: Sequence[Step], bounds: _Bounds, known: Rungs, lower_bound: float
) -> tuple[Rungs, float]:
    """Return shape (1, variables), the best assignment after passes of growing width, and the lower bound."""
    best = best_within(problem, known, bounds.budget_ms)
    loss = float(problem.loss_of(best)[0])
    for width in WIDTHS:
        history, least_left_out = _label(steps, bounds, loss, width)
        lower_bound = max(lower_bound, min(loss, least_left_out, *history[-1].loss))
        best = best_within(problem, np.concatenate((best, _trace(steps, history))), bounds.budget_ms)
        loss = float(problem.loss_of(best)[0])
        if loss - lower_bound <= RELATIVE_GAP * abs(loss):
            break
    return best, min(lower_bound, loss)


def _label(steps: Sequence[Step], bounds: _Bounds, best_loss: float, width: int) -> tuple[list[_Labels], float]:
    """Return the labels after every step, and the least bound of those left out because of the width."""
    slack = ROUNDING * sum(float(np.abs(step.latency_ms).max()) for step in steps)
    start = np.zeros(1, dtype=np.intp)
    labels, history, least_left_out = _Labels(start, np.zeros(1), np.zeros(1), start, start), list[_Labels](), np.inf
    for step, cost, latency in zip(steps, bounds.cost, bounds.latency_ms, strict=True):
        labels = _extend(labels, step)
        bound = labels.loss + cost[labels.state]
        if bounds.loss_per_ms:
            bound += bounds.loss_per_ms * (labels.latency_ms - bounds.budget_ms)
        fits = labels.latency_ms + latency[labels.state] <= bounds.budget_ms + slack
        kept = np.flatnonzero(fits & (bound < best_loss))
        if len(kept) > width:
            ranked = np.argpartition(bound[kept], width)
            least_left_out = min(least_left_out, float(bound[kept[ranked[width]]]))
            kept = kept[ranked[:width]]
        labels = _undominated(_at(labels, kept))
        history.append(labels)
    return history, least_left_out


def _extend(labels: _Labels, step: Step) -> _Labels:
    """Extend every label by every rung."""
    cells = (step.rungs * labels.state[:, None] + np.arange(step.rungs)).ravel()
    parent, rung = np.divmod(np.arange(len(cells)), step.rungs)
    return _Labels(
        state=step.next_state[cells],
        loss=labels.loss[parent] + step.loss[cells],
        latency_ms=labels.latency_ms[parent] + step.latency_ms[cells],
        parent=parent,
        rung=rung,
    )


def _undominated(labels: _Labels) -> _Labels:
    """Keep the labels for which no other of the same state has as little loss and latency; of equals, one."""
    labels = _at(labels, np.lexsort((labels.loss, labels.latency_ms, labels.state)))
    count = len(labels.state)
    rank = np.empty(count, dtype=np.intp)
    rank[np.argsort(labels.loss, kind="stable")] = np.arange(count)
    # A later state's keys are all under an earlier one's, so that one running minimum serves all states.
    key = rank - count * labels.state
    undominated = np.ones(count, dtype=np.bool_)
    undominated[1:] = key[1:] < np.minimum.accumulate(key)[:-1]
    return _at(labels, np.flatnonzero(undominated))


def _trace(steps: Sequence[Step], history: Sequence[_Labels]) -> Rungs:
    """Return shape (labels after the last step, variables): the rungs that led to each."""
    at = np.arange(len(history[-1].state))
    rungs = np.zeros((len(at), len(steps)), dtype=np.intp)
    for step, labels in zip(reversed(steps), reversed(history), strict=True):
        rungs[:, step.variable] = labels.rung[at]
        at = labels.parent[at]
    return rungs


def _at(labels: _Labels, chosen: NDArray[np.intp]) -> _Labels:
    return _Labels(
        state=labels.state[chosen],
        loss=labels.loss[chosen],
        latency_ms=labels.latency_ms[chosen],
        parent=labels.parent[chosen],
        rung=labels.rung[chosen],
    )

"""Deciding a problem's variables one after another, with as few as possible of them active at a time.

A variable is active from its decision until all that it shares a table with are decided (bucket elimination along a
linear order: Dechter, 1999). In a chain one is active at a time, in a residual network the few that join a block.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from gulliver.evaluators.factors import Costs, Factor, Rungs
from gulliver.search.joint_table import joint_table
from gulliver.search.problem import Problem
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Step:
    """The decision of one variable: its rung, given a state of the variables active before.

    `loss`, `latency_ms` and `next_state` are of shape (cells,), where cell = state before * rungs + rung: what the
    decision adds, and the state of the variables active after it, of which there are `states`.
    """

    variable: int
    rungs: int
    states: int
    loss: Costs
    latency_ms: Costs
    next_state: NDArray[np.intp]


def elimination_order(problem: Problem) -> tuple[int, ...]:
    """Return the better of the given order and a greedy one that keeps the active variables' states few."""
    given = tuple(range(len(problem.sizes)))
    return min(
        given, _greedy_order(problem), key=lambda order: (frontier_size(problem, order), step_cells(problem, order))
    )


def frontier_size(problem: Problem, order: Sequence[int]) -> int:
    """Return the most cells of any step: rungs of the active variables, multiplied by those of the decided one."""
    return max(_product(problem, scope) for scope, _ in _scopes(problem, order))


def step_cells(problem: Problem, order: Sequence[int]) -> int:
    """Return the cells of all steps, to which the work of a solution is proportional."""
    return sum(_product(problem, scope) for scope, _ in _scopes(problem, order))


def make_steps(problem: Problem, order: Sequence[int]) -> tuple[Step, ...]:
    """Return the steps in order; each table is added where the last of its variables is decided."""
    place = {variable: at for at, variable in enumerate(order)}
    loss, latency = _by_last(problem.loss, place), _by_last(problem.latency_ms, place)
    return tuple(
        Step(
            variable=scope[-1],
            rungs=problem.sizes[scope[-1]],
            states=_product(problem, after),
            loss=joint_table(loss[at], scope, problem.sizes).ravel(),
            latency_ms=joint_table(latency[at], scope, problem.sizes).ravel(),
            next_state=_next_state(scope, after, problem),
        )
        for at, (scope, after) in enumerate(_scopes(problem, order))
    )


def completion_costs(steps: Sequence[Step], loss_weights: Costs, latency_weights: Costs) -> tuple[Costs, ...]:
    """Return, before the first step and after each, the least weighted cost of all later steps: (weights, states)."""
    after = np.zeros((len(loss_weights), 1))
    costs = [after]
    for step in reversed(steps):
        cells = np.multiply.outer(loss_weights, step.loss) + np.multiply.outer(latency_weights, step.latency_ms)
        cells += after[:, step.next_state]
        after = cells.reshape(len(cells), -1, step.rungs).min(axis=2)
        costs.append(after)
    return tuple(reversed(costs))


def least_cost(steps: Sequence[Step], loss_weights: Costs, latency_weights: Costs) -> Rungs:
    """Return shape (weights, variables): the rungs of the least weighted sum of loss and latency (min-sum)."""
    completions = completion_costs(steps, loss_weights, latency_weights)
    rows = np.arange(len(loss_weights))
    rungs = np.zeros((len(rows), len(steps)), dtype=np.intp)
    state = np.zeros(len(rows), dtype=np.intp)
    for step, after in zip(steps, completions[1:], strict=True):
        cells = step.rungs * state[:, None] + np.arange(step.rungs)
        costs = loss_weights[:, None] * step.loss[cells] + latency_weights[:, None] * step.latency_ms[cells]
        chosen = (costs + after[rows[:, None], step.next_state[cells]]).argmin(axis=1)
        rungs[:, step.variable] = chosen
        state = step.next_state[cells[rows, chosen]]
    return rungs


def _neighbours(problem: Problem) -> list[set[int]]:
    near: list[set[int]] = [set() for _ in problem.sizes]
    for factor in (*problem.loss, *problem.latency_ms):
        for variable in factor.variables:
            near[variable].update(factor.variables)
    return [others - {variable} for variable, others in enumerate(near)]


def _greedy_order(problem: Problem) -> tuple[int, ...]:
    """Finish again and again the variable that, with all that it shares a table with, makes the fewest cells."""
    near, order, decided, active = _neighbours(problem), list[int](), set[int](), set[int]()

    def missing(variable: int) -> set[int]:
        return (near[variable] | {variable}) - decided

    def growth(variable: int) -> tuple[int, int]:
        return _product(problem, active | missing(variable)), variable

    while len(order) < len(near):
        reached = active | set[int]().union(*(near[it] for it in active)) - decided
        chosen = min(reached or set(range(len(near))) - decided, key=growth)
        # The finished variable last, so that it is active in one step only.
        order += sorted(missing(chosen), key=lambda variable: (variable == chosen, variable))
        active = {it for it in active | missing(chosen) if not near[it] <= decided | missing(chosen)}
        decided.update(order)
    return tuple(order)


def _scopes(problem: Problem, order: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the active variables with the decided one last, and those of them that stay active."""
    near, decided, active = _neighbours(problem), set[int](), tuple[int, ...]()
    for variable in order:
        decided.add(variable)
        scope = (*active, variable)
        active = tuple(it for it in scope if not near[it] <= decided)
        yield scope, active


def _product(problem: Problem, variables: Sequence[int] | set[int]) -> int:
    return math.prod(problem.sizes[variable] for variable in variables)


def _by_last(factors: Sequence[Factor], place: dict[int, int]) -> list[list[Factor]]:
    steps: list[list[Factor]] = [[] for _ in place]
    for factor in factors:
        steps[max((place[variable] for variable in factor.variables), default=0)].append(factor)
    return steps


def _next_state(scope: tuple[int, ...], after: tuple[int, ...], problem: Problem) -> NDArray[np.intp]:
    shape = [problem.sizes[variable] for variable in scope]
    kept = [size if variable in after else 1 for variable, size in zip(scope, shape, strict=True)]
    states = np.arange(_product(problem, after), dtype=np.intp).reshape(kept)
    return np.broadcast_to(states, shape).ravel()

"""The recipes of least predicted loss for a whole ladder of latencies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gulliver.search.assignment import Assignment
from gulliver.search.dead_ends import Kept, without_dead_ends
from gulliver.search.dynamic_program import dynamic_program
from gulliver.search.elimination import elimination_order, step_cells
from gulliver.search.integer_program import integer_program
from gulliver.search.problem import Problem
from gulliver.tasks.errors import InputError

# Cells of all steps up to which dynamic programming is used: some seconds a budget for the most.
MAX_CELLS = 2**24


@dataclass(frozen=True)
class Solution:
    """The rung of every variable, and what the problem's tables say that they cost."""

    rungs: tuple[int, ...]
    loss: float
    latency_ms: float


def solve(problem: Problem, budgets_ms: Sequence[float]) -> tuple[Solution | None, ...]:
    """Return for each budget the assignment of least loss that takes no longer, None where none is that fast.

    Both solvers stop at a relative gap (RELATIVE_GAP of each) and at a limit of work, so a hard problem's solution may
    be short of the least loss; it never exceeds its budget. Raises InputError where a table does not fit its variables.
    """
    return tuple(it if it is None else _solution(problem, it.rungs) for it in assign(problem, budgets_ms))


def assign(problem: Problem, budgets_ms: Sequence[float]) -> tuple[Assignment | None, ...]:
    """Return what `solve` does, with a lower bound of the loss instead of the costs."""
    _check(problem)
    problem, kept = without_dead_ends(problem)
    order = elimination_order(problem)
    if step_cells(problem, order) <= MAX_CELLS:
        found = dynamic_program(problem, budgets_ms, order)
    else:
        found = integer_program(problem, budgets_ms)
    return tuple(it and Assignment(_of_all_rungs(it.rungs, kept), it.lower_bound) for it in found)


def ladder(problem: Problem, count: int) -> tuple[float, ...]:
    """Return rising budgets, each the same factor above the last: the least latency to that of the least loss."""
    if count < 2:
        raise InputError(f"`count >= 2` must hold for a ladder of budgets, but count={count}")
    # The same solver, with the roles of loss and latency swapped.
    swapped = Problem(problem.names, problem.sizes, loss=problem.latency_ms, latency_ms=problem.loss)
    fastest, best = _found(swapped, np.inf), _found(problem, np.inf)
    (fastest_best,) = solve(swapped, [best.loss])
    slowest_ms = best.latency_ms if fastest_best is None else fastest_best.loss
    if fastest.loss <= 0:
        raise InputError(f"every latency must be above 0, but that of rungs {fastest.rungs} is {fastest.loss} ms")
    budgets = np.geomspace(fastest.loss, slowest_ms, count)
    # The ends as they are summed from the tables, so that rounding leaves them possible.
    budgets[[0, -1]] = fastest.loss, slowest_ms
    return tuple(budgets.tolist())


def pareto(problem: Problem, count: int) -> tuple[Solution, ...]:
    """Return the distinct solutions of a ladder of budgets, by rising latency, of which none beats another."""
    found = [it for it in solve(problem, ladder(problem, count)) if it is not None]
    front: list[Solution] = []
    for solution in sorted(found, key=lambda it: (it.latency_ms, it.loss)):
        if not front or solution.loss < front[-1].loss:
            front.append(solution)
    return tuple(front)


def _found(problem: Problem, budget_ms: float) -> Solution:
    (solution,) = solve(problem, [budget_ms])
    if solution is None:
        raise InputError(
            f"a ladder's ends must be found, but no assignment was within {budget_ms} in the solver's time"
        )
    return solution


def _of_all_rungs(rungs: Sequence[int], kept: Kept) -> tuple[int, ...]:
    return tuple(int(left[rung]) for rung, left in zip(rungs, kept, strict=True))


def _solution(problem: Problem, rungs: tuple[int, ...]) -> Solution:
    row = np.array([rungs])
    return Solution(rungs, float(problem.loss_of(row)[0]), float(problem.latency_ms_of(row)[0]))


def _check(problem: Problem) -> None:
    if not problem.sizes or min(problem.sizes) < 1:
        raise InputError(f"a problem must have variables, each of at least one rung, but its sizes are {problem.sizes}")
    for factor in (*problem.loss, *problem.latency_ms):
        sizes = tuple(problem.sizes[variable] for variable in factor.variables)
        names = [problem.names[variable] for variable in factor.variables]
        if factor.table.shape != sizes:
            raise InputError(f"a table over {names} must have shape {sizes}, but has {factor.table.shape}")
        if not np.isfinite(factor.table).all():
            raise InputError(f"a table's entries must be finite, but those over {names} are not")

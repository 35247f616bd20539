"""Least loss within a latency as a mixed-integer program, for problems whose tables tie too many variables together.

Each variable has one binary a rung, of which one is 1. Each table over several variables has one continuous indicator
a cell, whose sums over all other axes are the binaries of each variable (the local polytope: Wainwright and Jordan,
Graphical Models, Exponential Families, and Variational Inference, 2008, section 4.1). HiGHS solves it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gulliver.evaluators.factors import Costs, Factor, Rungs
from gulliver.search.assignment import Assignment, best_within
from gulliver.search.coordinate_descent import descents
from gulliver.search.joint_table import joint_table
from gulliver.search.problem import Problem

# Of one budget. At the limit the best assignment found so far is used, with the bound proven so far.
TIME_LIMIT_S = 60.0
RELATIVE_GAP = 1e-6
# HiGHS lets a row be off by 1e-6: a budget that is exceeded is tightened by twice what it is exceeded by, this often.
TIGHTENINGS = 3

Scope = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Program:
    """What every column costs, and the equations between the columns; the first are the rungs of all variables."""

    problem: Problem
    loss: Costs
    latency_ms: Costs
    equations: Any
    right_sides: Costs


def integer_program(
    problem: Problem, budgets_ms: Sequence[float], time_limit_s: float = TIME_LIMIT_S
) -> tuple[Assignment | None, ...]:
    """Return an assignment of least loss within each budget, or None where none was found that is as fast.

    One that is not proven to be the best within RELATIVE_GAP has a lower bound that says so. Where HiGHS finds not even
    the fastest assignment, it is not asked for others, and those of `descents` are all there is.
    """
    program = _make_program(problem)
    fastest, _ = _minimize(program, program.latency_ms, math.inf, time_limit_s)
    known = np.concatenate((fastest, descents(problem)))
    found: dict[float, Assignment] = {}
    for budget in sorted(set(budgets_ms)):
        rungs, lower_bound = _least_loss(program, budget, time_limit_s) if len(fastest) else (fastest, -math.inf)
        known = np.concatenate((known, rungs))
        for best in best_within(problem, known, budget):
            loss = float(problem.loss_of(best[None])[0])
            found[budget] = Assignment(tuple(best.tolist()), min(lower_bound, loss))
    return tuple(found.get(budget) for budget in budgets_ms)


def _least_loss(program: _Program, budget_ms: float, time_limit_s: float) -> tuple[Rungs, float]:
    """Return (0 or 1, variables), an assignment that exceeds the budget by rounding at most, and a lower bound."""
    limit_ms = budget_ms
    rungs, lower_bound = _minimize(program, program.loss, limit_ms, time_limit_s)
    for _ in range(TIGHTENINGS):
        excess_ms = program.problem.latency_ms_of(rungs) - budget_ms
        if not (excess_ms > 0).any():
            break
        limit_ms -= 2 * float(excess_ms[0])
        rungs, _ = _minimize(program, program.loss, limit_ms, time_limit_s)
    return rungs, lower_bound


def _minimize(program: _Program, costs: Costs, limit_ms: float, time_limit_s: float) -> tuple[Rungs, float]:
    """Return (0 or 1, variables), the assignment found of least cost within the limit, and a lower bound of costs."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes = program.problem.sizes
    constraints = [LinearConstraint(program.equations, program.right_sides, program.right_sides)]
    if math.isfinite(limit_ms):
        constraints.append(LinearConstraint(program.latency_ms[None], -math.inf, limit_ms))
    result = milp(
        costs,
        integrality=np.arange(len(costs)) < sum(sizes),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": time_limit_s, "mip_rel_gap": RELATIVE_GAP},
    )
    bound = -math.inf if result.mip_dual_bound is None else float(result.mip_dual_bound)
    if result.x is None:
        return np.zeros((0, len(sizes)), dtype=np.intp), bound
    binaries = np.split(result.x[: sum(sizes)], np.cumsum(sizes)[:-1])
    return np.array([[rung.argmax() for rung in binaries]], dtype=np.intp), bound


def _make_program(problem: Problem) -> _Program:
    scopes = _scopes(problem)
    joint = scopes[len(problem.sizes) :]
    equations, right_sides = _equations(problem.sizes, joint)
    return _Program(
        problem=problem,
        loss=_column_costs(problem.loss, scopes, problem.sizes),
        latency_ms=_column_costs(problem.latency_ms, scopes, problem.sizes),
        equations=equations,
        right_sides=right_sides,
    )


def _scopes(problem: Problem) -> list[Scope]:
    """Return every single variable, then the sets of several that a table is over, without those within others."""
    joint = {tuple(sorted(factor.variables)) for factor in (*problem.loss, *problem.latency_ms)}
    several = [scope for scope in joint if len(scope) > 1 and not any(set(scope) < set(other) for other in joint)]
    return [(variable,) for variable in range(len(problem.sizes))] + sorted(several)


def _column_costs(factors: Sequence[Factor], scopes: Sequence[Scope], sizes: Sequence[int]) -> Costs:
    members: list[list[Factor]] = [[] for _ in scopes]
    for factor in factors:
        members[next(at for at, scope in enumerate(scopes) if set(factor.variables) <= set(scope))].append(factor)
    return np.concatenate([joint_table(of, scope, sizes).ravel() for of, scope in zip(members, scopes, strict=True)])


def _equations(sizes: Sequence[int], joint: Sequence[Scope]) -> tuple[Any, Costs]:
    """Return the sparse left sides and the right sides: rungs sum to 1, cells of one rung sum to the rung's binary."""
    from scipy.sparse import block_diag, csr_array, eye_array, hstack, vstack

    total = sum(sizes)
    rung_sums = block_diag([np.ones((1, size)) for size in sizes], format="csr")
    picks, sums = [csr_array((0, total))], [csr_array((0, 0))]
    starts = np.concatenate(([0], np.cumsum(sizes)))
    for scope in joint:
        shape = [sizes[variable] for variable in scope]
        rung_of_cell = np.indices(shape).reshape(len(scope), 1, -1)
        has_rung = [np.arange(size)[:, None] == of for size, of in zip(shape, rung_of_cell, strict=True)]
        sums.append(csr_array(np.concatenate(has_rung)))
        picks += [eye_array(total, format="csr")[starts[variable] : starts[variable + 1]] for variable in scope]
    cells = block_diag(sums, format="csr").astype(float)
    left = vstack([rung_sums, vstack(picks)])
    right = vstack([csr_array((len(sizes), cells.shape[1])), -cells])
    right_sides = np.concatenate((np.ones(len(sizes)), np.zeros(cells.shape[0])))
    return hstack([left, right], format="csc"), right_sides

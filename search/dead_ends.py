"""Dead ends: rungs that no best assignment needs, left out before a problem is solved.

A rung is one where another of its variable costs no more, in loss and in latency alike, whatever the other variables
are at, as are most calibrators of a layer, which run the same kernels. Source: Goldstein, "Efficient
rotamer elimination applied to protein side-chains and related spin glasses", Biophysical Journal 1994, equation 2.
"""

from collections.abc import Sequence

import numpy as np
from gulliver.evaluators.factors import Costs, Factor
from gulliver.search.problem import Problem
from numpy.typing import NDArray

Kept = tuple[NDArray[np.intp], ...]


def without_dead_ends(problem: Problem) -> tuple[Problem, Kept]:
    """Return the problem without the rungs that are dead ends, and which rungs of each variable are left."""
    kept: Kept = tuple(np.arange(size) for size in problem.sizes)
    while True:
        alive = _alive(problem)
        if all(len(it) == size for it, size in zip(alive, problem.sizes, strict=True)):
            return problem, kept
        # With fewer rungs of others to differ by, more may be dead ends.
        problem, kept = _of_rungs(problem, alive), tuple(map(np.take, kept, alive))


def _alive(problem: Problem) -> Kept:
    loss, latency_ms = _least_gains(problem.loss, problem.sizes), _least_gains(problem.latency_ms, problem.sizes)
    return tuple(_undominated((first >= 0) & (second >= 0)) for first, second in zip(loss, latency_ms, strict=True))


def _least_gains(factors: Sequence[Factor], sizes: Sequence[int]) -> list[Costs]:
    """Return for every variable shape (rungs, rungs): what the first rung saves at least against the second."""
    gains = [np.zeros((size, size)) for size in sizes]
    for factor in factors:
        for axis, variable in enumerate(factor.variables):
            rows = np.moveaxis(factor.table, axis, 0).reshape(sizes[variable], -1)
            gains[variable] += (rows[None] - rows[:, None]).min(axis=2)
    return gains


def _undominated(dominates: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the rungs that no other one dominates; of equals, the first."""
    alive = np.ones(len(dominates), dtype=np.bool_)
    for rung in reversed(range(len(dominates))):
        others = alive & (np.arange(len(alive)) != rung)
        alive[rung] = not dominates[others, rung].any()
    return np.flatnonzero(alive)


def _of_rungs(problem: Problem, alive: Kept) -> Problem:
    def cut(factor: Factor) -> Factor:
        return Factor(factor.variables, np.asarray(factor.table[np.ix_(*(alive[it] for it in factor.variables))]))

    sizes = tuple(len(rungs) for rungs in alive)
    return Problem(problem.names, sizes, tuple(map(cut, problem.loss)), tuple(map(cut, problem.latency_ms)))

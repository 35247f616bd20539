"""Good assignments of a problem that is too large to be solved: no single variable at another rung is better.

Variable after variable takes the rung that costs the least beside the others (iterated conditional modes: Besag, "On
the statistical analysis of dirty pictures", 1986), at many prices of a millisecond at once.
"""

import numpy as np
from gulliver.evaluators.factors import Costs, Rungs
from gulliver.search.problem import Problem

# Prices of a millisecond, as multiples of what loss and latency differ by over the rungs.
_PRICES = np.geomspace(1e-4, 1e4, 65)
_MOST_SWEEPS = 50


def descents(problem: Problem) -> Rungs:
    """Return shape (assignments, variables): where descents end, from all variables at one rung, at each price."""
    starts = _uniform(problem)
    loss_weights, latency_weights = _weights(problem, starts)
    prices = len(loss_weights)
    weights = np.tile(loss_weights, len(starts)), np.tile(latency_weights, len(starts))
    rungs = np.repeat(starts, prices, axis=0)
    for _ in range(_MOST_SWEEPS):
        before = rungs.copy()
        for variable in range(len(problem.sizes)):
            rungs[:, variable] = _best_rungs(problem, rungs, variable, *weights)
        if (rungs == before).all():
            break
    return np.unique(np.concatenate([starts, rungs]), axis=0)


def _uniform(problem: Problem) -> Rungs:
    """Return every variable at rung 0, at rung 1 or its last, and so on."""
    sizes = np.array(problem.sizes, dtype=np.intp)
    return np.minimum(np.arange(sizes.max())[:, None], sizes - 1)


def _weights(problem: Problem, starts: Rungs) -> tuple[Costs, Costs]:
    """Return the weights of loss and of latency at all prices; first loss alone, last latency alone."""
    loss, latency_ms = (float(np.ptp(costs)) for costs in (problem.loss_of(starts), problem.latency_ms_of(starts)))
    # In units of what they differ by, so that a problem with the two exchanged has the same descents.
    weights = np.sqrt(_PRICES)
    return np.array([1.0, *1 / weights, 0.0]) / (loss or 1.0), np.array([0.0, *weights, 1.0]) / (latency_ms or 1.0)


def _best_rungs(
    problem: Problem, rungs: Rungs, variable: int, loss_weights: Costs, latency_weights: Costs
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return shape (assignments,): the variable's cheapest rung beside the others', the present one if none is less."""
    size = problem.sizes[variable]
    tried = np.repeat(rungs, size, axis=0)
    tried[:, variable] = np.tile(np.arange(size), len(rungs))
    loss, latency_ms = (costs.reshape(-1, size) for costs in (problem.loss_of(tried), problem.latency_ms_of(tried)))
    costs = loss_weights[:, None] * loss + latency_weights[:, None] * latency_ms
    present = np.take_along_axis(costs, rungs[:, variable, None], axis=1)[:, 0]
    return np.where(costs.min(axis=1) < present, costs.argmin(axis=1), rungs[:, variable])

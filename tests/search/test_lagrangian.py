import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.elimination import make_steps
from gulliver.search.lagrangian import solve_dual
from gulliver.search.problem import Problem


def test_the_dual_of_one_variable_is_the_convex_hull_of_its_rungs():
    # (1 ms, 4), (2 ms, 3.5), (3 ms, 0): the hull goes straight from the first to the last, past the second.
    problem = Problem(
        ("one",), (3,), (Factor((0,), np.array([4.0, 3.5, 0.0])),), (Factor((0,), np.array([1.0, 2.0, 3.0])),)
    )
    dual = solve_dual(problem, make_steps(problem, (0,)), np.array([1.0, 2.0, 2.5, 3.0, np.inf]))
    assert dual.lower_bound == pytest.approx([4.0, 2.0, 1.0, 0.0, 0.0])
    assert dual.loss_per_ms[1:] == pytest.approx([2.0, 2.0, 0.0, 0.0])
    assert dual.rungs[:, 0].tolist() == [0, 0, 0, 2, 2]


def test_bound_and_assignment_enclose_the_least_loss(solved):
    possible = [at for at, least in enumerate(solved.least_losses) if np.isfinite(least)]
    budgets = np.array(solved.budgets_ms)[possible]
    least = np.array(solved.least_losses)[possible]
    dual = solve_dual(solved.problem, make_steps(solved.problem, range(6)), budgets)
    assert (solved.problem.latency_ms_of(dual.rungs) <= budgets).all()
    assert (dual.lower_bound <= least + 1e-9).all()
    assert (least <= solved.problem.loss_of(dual.rungs) + 1e-9).all()

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.coordinate_descent import descents
from gulliver.search.dynamic_program import dynamic_program
from gulliver.search.elimination import elimination_order
from gulliver.search.problem import Problem


def chain(variables, rungs, seed):
    """Rungs that lose more save more, each variable by amounts of its own, and neighbours that differ cost time."""
    random = np.random.default_rng(seed)
    steps = np.arange(rungs)
    loss = tuple(Factor((at,), random.lognormal() * steps**2) for at in range(variables))
    saving = tuple(Factor((at,), random.lognormal() * (rungs - steps)) for at in range(variables))
    between = tuple(Factor((at, at + 1), 0.1 * np.abs(np.subtract.outer(steps, steps))) for at in range(variables - 1))
    return Problem(tuple(map(str, range(variables))), (rungs,) * variables, loss, saving + between)


def test_without_ties_between_variables_descents_end_at_the_lower_convex_hull():
    # Of one variable: rung 1 lies above the line between 0 and 2, and no price makes it the cheapest.
    problem = Problem(
        ("a",), (4,), (Factor((0,), np.array([0.0, 3.0, 4.0, 9.0])),), (Factor((0,), np.array([4.0, 3.0, 2.0, 1.0])),)
    )
    assert descents(problem).tolist() == [[0], [1], [2], [3]]
    several = Problem(
        ("a", "b"),
        (4, 4),
        *(tuple(Factor((at,), it.table) for at in (0, 1)) for (it,) in (problem.loss, problem.latency_ms)),
    )
    found = descents(several)
    assert {(0, 0), (2, 2), (3, 3)} <= set(map(tuple, found.tolist()))
    assert not {(0, 1), (1, 0), (1, 2), (2, 1), (1, 3), (3, 1)} & set(map(tuple, found.tolist()))


@pytest.mark.parametrize("seed", range(3))
def test_both_ends_are_those_of_the_exact_solution(seed):
    problem = chain(20, 4, seed)
    found = descents(problem)
    order = elimination_order(problem)
    fastest = dynamic_program(Problem(problem.names, problem.sizes, problem.latency_ms, problem.loss), [np.inf], order)
    assert problem.loss_of(found).min() == 0
    assert problem.latency_ms_of(found).min() == pytest.approx(problem.latency_ms_of(np.array([fastest[0].rungs]))[0])


@pytest.mark.parametrize("seed", range(3))
def test_between_them_they_lose_little_more_than_the_exact_solutions_at_the_same_latency(seed):
    problem = chain(20, 4, seed)
    found = descents(problem)
    exact = dynamic_program(problem, problem.latency_ms_of(found).tolist(), elimination_order(problem))
    least = problem.loss_of(np.array([it.rungs for it in exact]))
    ends_in_descents = problem.loss_of(found) <= 1.1 * least + 1e-9
    assert ends_in_descents.mean() > 0.9


def test_exchanging_loss_and_latency_changes_nothing():
    problem = chain(8, 3, 0)
    exchanged = Problem(problem.names, problem.sizes, problem.latency_ms, problem.loss)
    assert descents(exchanged).tolist() == descents(problem).tolist()


def test_costs_that_are_all_alike_end_where_they_start():
    flat = (Factor((0,), np.ones(3)),)
    assert descents(Problem(("a",), (3,), flat, flat)).tolist() == [[0], [1], [2]]

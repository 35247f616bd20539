import itertools

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search import solve as module
from gulliver.search.problem import Problem
from gulliver.search.solve import Solution, ladder, pareto, solve
from gulliver.tasks.errors import InputError


def one_variable(losses, latencies):
    return Problem(("one",), (len(losses),), (Factor((0,), np.array(losses)),), (Factor((0,), np.array(latencies)),))


def test_one_variable_takes_its_best_rung_within_each_budget():
    problem = one_variable([0.0, 0.5, 2.0], [3.0, 2.0, 1.0])
    assert solve(problem, [2.5, 0.9, 1.0, 3.0]) == (
        Solution((1,), 0.5, 2.0),
        None,
        Solution((2,), 2.0, 1.0),
        Solution((0,), 0.0, 3.0),
    )


def test_a_single_rung_leaves_nothing_to_choose():
    assert solve(one_variable([-0.3], [2.0]), [1.9, 2.0]) == (None, Solution((0,), -0.3, 2.0))


def test_a_boundary_that_costs_more_than_it_saves_is_not_crossed():
    # Alone, each layer saves 1 ms for 0.1; a change of rung between them costs 2 ms.
    loss = (Factor((0,), np.array([0.0, 0.1])), Factor((1,), np.array([0.0, 0.1])))
    latency = (
        Factor((0,), np.array([5.0, 4.0])),
        Factor((1,), np.array([5.0, 4.0])),
        Factor((0, 1), np.array([[0.0, 2.0], [2.0, 0.0]])),
    )
    problem = Problem(("a", "b"), (2, 2), loss, latency)
    assert solve(problem, [9.5]) == (Solution((1, 1), 0.2, 8.0),)


def test_a_wide_frontier_is_left_to_the_integer_program(solved, monkeypatch):
    monkeypatch.setattr(module, "dynamic_program", None)
    monkeypatch.setattr(module, "MAX_CELLS", 0)
    found = solve(solved.problem, solved.budgets_ms[:3])
    assert [it.loss for it in found] == pytest.approx(solved.least_losses[:3], abs=1e-5)


def test_a_ladder_climbs_evenly_from_the_least_latency_to_that_of_the_least_loss():
    # Rungs 0 and 1 lose as little; the faster of them ends the ladder.
    assert ladder(one_variable([0.0, 0.0, 2.0], [9.0, 4.0, 1.0]), 3) == pytest.approx((1.0, 2.0, 4.0))


def test_every_budget_of_a_ladder_has_a_solution_and_more_time_never_loses_more(solved):
    budgets = ladder(solved.problem, 7)
    assert list(budgets) == sorted(budgets)
    assert budgets[0] == pytest.approx(solved.budgets_ms[4], abs=1e-12)
    found = solve(solved.problem, budgets)
    losses = [it.loss for it in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(solved.least_losses[5], abs=1e-12)
    assert all(it.latency_ms <= budget for it, budget in zip(found, budgets, strict=True))


def test_a_ladder_ends_at_the_best_recipes_own_latency_where_no_faster_one_as_good_is_found(solved, monkeypatch):
    exact = ladder(solved.problem, 5)

    def unable_to_go_back(problem, budgets_ms):
        return (None,) if np.isfinite(budgets_ms[0]) else solve(problem, budgets_ms)

    monkeypatch.setattr(module, "solve", unable_to_go_back)
    assert ladder(solved.problem, 5) == pytest.approx(exact)


def test_no_solution_of_a_front_beats_another(solved):
    front = pareto(solved.problem, 12)
    assert all(a.latency_ms < b.latency_ms and a.loss > b.loss for a, b in itertools.pairwise(front))
    assert front[-1].loss == pytest.approx(solved.least_losses[5], abs=1e-12)
    rows = np.array([it.rungs for it in front])
    assert [it.loss for it in front] == solved.problem.loss_of(rows).tolist()
    assert [it.latency_ms for it in front] == solved.problem.latency_ms_of(rows).tolist()


def test_budgets_between_the_same_two_rungs_are_one_solution_of_the_front():
    front = pareto(one_variable([0.0, 2.0], [100.0, 1.0]), 20)
    assert [it.rungs for it in front] == [(1,), (0,)]


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Problem((), (), (), ()), "must have variables"),
        (Problem(("a",), (3,), (Factor((0,), np.zeros(2)),), ()), r"\['a'\] must have shape \(3,\), but has \(2,\)"),
        (one_variable([0.0, np.inf], [1.0, 1.0]), "but those over .'one'. are not"),
    ],
)
def test_a_problem_that_cannot_be_solved_is_refused(problem, message):
    with pytest.raises(InputError, match=message):
        solve(problem, [1.0])


def test_a_ladder_needs_two_ends_and_positive_latencies():
    with pytest.raises(InputError, match="count=1"):
        ladder(one_variable([0.0], [1.0]), 1)
    with pytest.raises(InputError, match="must be above 0"):
        ladder(one_variable([0.0, 1.0], [1.0, 0.0]), 2)

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search import integer_program as module
from gulliver.search.coordinate_descent import descents
from gulliver.search.dynamic_program import dynamic_program
from gulliver.search.elimination import elimination_order
from gulliver.search.integer_program import integer_program
from gulliver.search.problem import Problem


def test_every_budget_gets_the_least_loss_of_all_assignments(solved):
    found = integer_program(solved.problem, solved.budgets_ms)
    for assignment, budget, least in zip(found, solved.budgets_ms, solved.least_losses, strict=True):
        assert (assignment is None) == np.isinf(least)
        if assignment is not None:
            rungs = np.array([assignment.rungs])
            assert solved.problem.latency_ms_of(rungs)[0] <= budget
            assert solved.problem.loss_of(rungs)[0] == pytest.approx(least, abs=1e-5)
            assert assignment.lower_bound == pytest.approx(least, abs=1e-5)


@pytest.fixture
def ring():
    """Twenty variables of four rungs, each tied to the next one and the last to the first."""
    random = np.random.default_rng(5)
    pairs = [(at, at + 1) for at in range(19)] + [(0, 19)]
    loss = [Factor((at,), random.lognormal(0, 1) * np.arange(4.0)) for at in range(20)]
    loss += [Factor(pair, random.uniform(-1, 1, (4, 4))) for pair in pairs]
    latency = [Factor((at,), random.uniform(1, 2) * np.arange(5.0, 1.0, -1.0)) for at in range(20)]
    latency += [Factor(pair, random.uniform(0, 1, (4, 4))) for pair in pairs]
    return Problem(tuple(map(str, range(20))), (4,) * 20, tuple(loss), tuple(latency))


def test_it_agrees_with_the_dynamic_program_where_all_assignments_are_too_many(ring):
    budgets = (90.0, 120.0)
    integer = [it.rungs for it in integer_program(ring, budgets)]
    dynamic = [it.rungs for it in dynamic_program(ring, budgets, elimination_order(ring))]
    assert ring.loss_of(np.array(integer)) == pytest.approx(ring.loss_of(np.array(dynamic)), rel=2e-6)


def test_without_time_nothing_is_proven(ring):
    (found,) = integer_program(ring, [90.0], time_limit_s=0.0)
    assert ring.latency_ms_of(np.array([found.rungs]))[0] <= 90.0
    assert found.lower_bound < ring.loss_of(np.array([found.rungs]))[0] - 1e-3


def test_a_table_over_no_variables_is_a_constant():
    constant = Factor((), np.array(5.0))
    single = (Factor((0,), np.array([1.0, 2.0])), Factor((1,), np.array([2.0, 1.0])))
    problem = Problem(("a", "b"), (2, 2), (*single, constant), (*single, constant))
    (found,) = integer_program(problem, [7.5])
    assert found.rungs == (0, 1)
    assert found.lower_bound == pytest.approx(7.0)


def test_where_a_budget_is_exceeded_by_rounding_another_is_asked_for_that_is_tighter_by_twice_as_much(monkeypatch):
    problem = Problem(("a",), (2,), (Factor((0,), np.array([0.0, 1.0])),), (Factor((0,), np.array([2.0, 1.0])),))
    asked = []

    def exceed(program, costs, limit_ms, time_limit_s):
        asked.append(limit_ms)
        return np.array([[int(limit_ms < 1.8)]]), 0.0

    monkeypatch.setattr(module, "_minimize", exceed)
    # What takes 2 ms exceeds it by 0.1 ms.
    (found,) = integer_program(problem, [1.9])
    assert asked == pytest.approx([np.inf, 1.9, 1.7])
    assert found.rungs == (1,)


def test_where_highs_finds_nothing_in_time_the_descents_are_what_is_found(solved, monkeypatch):
    asked = []

    def find_nothing(program, costs, limit_ms, time_limit_s):
        asked.append(limit_ms)
        return np.zeros((0, len(solved.problem.sizes)), dtype=np.intp), -np.inf

    monkeypatch.setattr(module, "_minimize", find_nothing)
    found = integer_program(solved.problem, solved.budgets_ms)
    known = descents(solved.problem)
    losses, latencies_ms = solved.problem.loss_of(known), solved.problem.latency_ms_of(known)
    assert asked == [np.inf]
    for assignment, budget in zip(found, solved.budgets_ms, strict=True):
        within = losses[latencies_ms <= budget]
        assert (assignment is None) == (not len(within))
        if assignment is not None:
            assert solved.problem.loss_of(np.array([assignment.rungs]))[0] == within.min()
            assert assignment.lower_bound == -np.inf

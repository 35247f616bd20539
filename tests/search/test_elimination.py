import itertools

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.elimination import (
    completion_costs,
    elimination_order,
    frontier_size,
    least_cost,
    make_steps,
    step_cells,
)
from gulliver.search.problem import Problem


def tied(sizes, scopes):
    """Only which variables are tied matters, not what their tables hold."""
    tables = tuple(Factor(scope, np.zeros([sizes[at] for at in scope])) for scope in scopes)
    return Problem(tuple(map(str, sizes)), sizes, tables, ())


def test_a_chain_in_any_order_has_two_variables_in_a_step():
    problem = tied((3, 4, 5, 6), [(0, 2), (2, 1), (3, 1)])
    assert frontier_size(problem, (0, 2, 1, 3)) == 4 * 6
    assert frontier_size(problem, (0, 1, 2, 3)) == 3 * 4 * 5
    assert frontier_size(problem, elimination_order(problem)) == 4 * 6


def test_the_cells_of_all_steps_are_added_up():
    problem = tied((3, 4, 5, 6), [(0, 2), (2, 1), (3, 1)])
    assert step_cells(problem, (0, 2, 1, 3)) == 3 + 3 * 5 + 5 * 4 + 4 * 6


def test_a_variable_tied_to_all_others_stays_active_while_they_pass():
    problem = tied((2,) * 9 + (5,), [(at, 9) for at in range(9)])
    assert frontier_size(problem, range(10)) == 2**9 * 5
    assert frontier_size(problem, elimination_order(problem)) == 2 * 5


def test_a_grid_is_swept_along_its_short_side():
    # 3 rows, 8 columns, numbered by rows: the better sweep is by columns, with 3 variables active.
    ties = [(8 * row + column, 8 * row + column + 1) for row in range(3) for column in range(7)]
    ties += [(8 * row + column, 8 * row + column + 8) for row in range(2) for column in range(8)]
    assert frontier_size(tied((2,) * 24, ties), elimination_order(tied((2,) * 24, ties))) == 2**4


def test_what_every_assignment_costs_is_a_part_of_all_completions():
    problem = Problem(("a", "b"), (2, 3), (), (Factor((), np.array(2.0)), Factor((1,), np.array([3.0, 1.0, 2.0]))))
    costs = completion_costs(make_steps(problem, (0, 1)), np.zeros(1), np.ones(1))
    assert [it.tolist() for it in costs] == [[[2.0 + 1.0]], [[1.0]], [[0.0]]]


def test_an_order_has_every_variable_once(solved):
    assert sorted(elimination_order(solved.problem)) == list(range(6))


def test_the_least_cost_is_that_of_all_assignments(solved):
    problem, weights = solved.problem, (np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.7]))
    steps = make_steps(problem, elimination_order(problem))
    rungs = np.array(list(itertools.product(*map(range, problem.sizes))))
    costs = np.outer(weights[0], problem.loss_of(rungs)) + np.outer(weights[1], problem.latency_ms_of(rungs))
    found = least_cost(steps, *weights)
    by_tables = weights[0] * problem.loss_of(found) + weights[1] * problem.latency_ms_of(found)
    assert by_tables == pytest.approx(costs.min(axis=1), abs=1e-12)
    assert completion_costs(steps, *weights)[0][:, 0] == pytest.approx(costs.min(axis=1), abs=1e-12)

import itertools

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.dead_ends import without_dead_ends
from gulliver.search.problem import Problem
from gulliver.search.solve import solve


def factor(variables, table):
    return Factor(variables, np.array(table, dtype=float))


def kept_of(sizes, loss, latency_ms):
    problem = Problem(tuple(map(str, sizes)), sizes, tuple(loss), tuple(latency_ms))
    reduced, kept = without_dead_ends(problem)
    assert reduced.sizes == tuple(map(len, kept))
    return [it.tolist() for it in kept]


def test_a_rung_stays_where_it_is_better_in_one_of_both_costs():
    # Rung 1 is slower than 2 and loses more; 0 loses least and 2 is fastest.
    assert kept_of((3,), [factor((0,), [0.0, 0.4, 0.3])], [factor((0,), [3.0, 2.0, 1.0])]) == [[0, 2]]


def test_of_equal_rungs_the_first_stays():
    assert kept_of((4,), [factor((0,), [1.0, 0.5, 1.0, 0.5])], [factor((0,), [2.0, 3.0, 2.0, 3.0])]) == [[0, 1]]


@pytest.mark.parametrize(("boundary", "kept"), [(0.1, [[0], [0, 1]]), (0.11, [[0, 1], [0, 1]])])
def test_what_a_rung_saves_alone_must_be_more_than_what_others_can_make_of_it(boundary, kept):
    # Rung 1 of the first loses 0.1 more alone, and `boundary` less where the second is at rung 1.
    loss = [factor((0,), [0.0, 0.1]), factor((1,), [0.0, 1.0]), factor((0, 1), [[0.0, 0.0], [0.0, -boundary]])]
    assert kept_of((2, 2), loss, [factor((0,), [1.0, 1.0]), factor((1,), [2.0, 1.0])]) == kept


def test_what_is_a_dead_end_without_another_one_is_found_too():
    # The second's rung 1 is slower and loses more than its rung 0; only with it does the first's rung 1 save anything.
    loss = [factor((0,), [0.0, 0.1]), factor((1,), [0.0, 5.0]), factor((0, 1), [[0.0, 0.0], [0.0, -1.0]])]
    assert kept_of((2, 2), loss, [factor((0,), [1.0, 1.0]), factor((1,), [1.0, 2.0])]) == [[0], [0]]


def test_a_cost_of_the_network_itself_stays():
    problem = Problem(("a",), (2,), (factor((0,), [0.0, 1.0]),), (factor((), 3.0), factor((0,), [1.0, 1.0])))
    reduced, _ = without_dead_ends(problem)
    assert reduced.latency_ms_of(np.zeros((1, 1), dtype=int)).tolist() == [4.0]


def test_the_least_loss_within_every_latency_is_as_before(solved):
    problem = solved.problem
    reduced, kept = without_dead_ends(problem)
    every = np.array(list(itertools.product(*map(range, reduced.sizes))))
    losses, latencies = reduced.loss_of(every), reduced.latency_ms_of(every)
    least = [float(losses[latencies <= budget].min(initial=np.inf)) for budget in solved.budgets_ms]
    assert least == pytest.approx(solved.least_losses)
    full = np.stack([left[rungs] for left, rungs in zip(kept, every.T, strict=True)], axis=1)
    np.testing.assert_allclose(problem.loss_of(full), losses)
    np.testing.assert_allclose(problem.latency_ms_of(full), latencies)


@pytest.mark.parametrize("order", [(0.0, 0.2, 0.1), (0.2, 0.0, 0.1)])
def test_rungs_that_take_as_long_and_lose_more_make_no_problem_harder(order, solved):
    problem = solved.problem
    sizes = tuple(len(order) * size for size in problem.sizes)

    def repeated(it):
        table = it.table
        for axis in range(table.ndim):
            table = table.repeat(len(order), axis)
        return Factor(it.variables, table)

    more = [Factor((at,), np.tile(order, size)) for at, size in enumerate(problem.sizes)]
    loss, latency_ms = (tuple(map(repeated, it)) for it in (problem.loss, problem.latency_ms))
    larger = Problem(problem.names, sizes, (*loss, *more), latency_ms)
    assert without_dead_ends(larger)[0].sizes == without_dead_ends(problem)[0].sizes
    found = solve(larger, solved.budgets_ms)
    assert [it.loss if it else np.inf for it in found] == pytest.approx(solved.least_losses)

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search import dynamic_program as module
from gulliver.search.dynamic_program import dynamic_program
from gulliver.search.elimination import elimination_order
from gulliver.search.problem import Problem


def check(solved, found):
    for assignment, budget, least in zip(found, solved.budgets_ms, solved.least_losses, strict=True):
        assert (assignment is None) == np.isinf(least)
        if assignment is not None:
            rungs = np.array([assignment.rungs])
            assert solved.problem.latency_ms_of(rungs)[0] <= budget
            assert solved.problem.loss_of(rungs)[0] == pytest.approx(least, abs=1e-12)
            assert assignment.lower_bound == pytest.approx(least, abs=1e-9)


def test_every_budget_gets_the_least_loss_of_all_assignments(solved):
    check(solved, dynamic_program(solved.problem, solved.budgets_ms, elimination_order(solved.problem)))


def test_any_order_gives_the_same(solved):
    check(solved, dynamic_program(solved.problem, solved.budgets_ms, (3, 0, 5, 1, 4, 2)))


def test_budgets_solved_one_at_a_time_are_solved_alike(solved, monkeypatch):
    order = elimination_order(solved.problem)
    together = dynamic_program(solved.problem, solved.budgets_ms, order)
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 1)
    assert dynamic_program(solved.problem, solved.budgets_ms, order) == together


@pytest.fixture
def knapsack():
    """Thirty variables whose savings and losses are nearly proportional: hard, because all mixes are nearly alike."""
    random = np.random.default_rng(0)
    saved = random.uniform(1, 2, (30, 1)) * np.arange(4)
    losses = saved * random.uniform(0.95, 1.05, saved.shape)
    loss = tuple(Factor((at,), table) for at, table in enumerate(losses))
    latency = tuple(Factor((at,), 7 - table) for at, table in enumerate(saved))
    return Problem(tuple(map(str, range(30))), (4,) * 30, loss, latency)


def test_a_narrow_pass_says_by_how_much_it_may_be_wrong(knapsack, monkeypatch):
    budgets = (130.0, 160.0, 190.0)
    exact = [it.lower_bound for it in dynamic_program(knapsack, budgets, range(30))]
    monkeypatch.setattr(module, "WIDTHS", (3,))
    narrow = dynamic_program(knapsack, budgets, range(30))
    losses = [float(knapsack.loss_of(np.array([it.rungs]))[0]) for it in narrow]
    assert all(it.lower_bound <= best + 1e-9 for it, best in zip(narrow, exact, strict=True))
    assert all(best <= loss + 1e-9 for best, loss in zip(exact, losses, strict=True))
    assert any(it.lower_bound < loss - 1e-6 for it, loss in zip(narrow, losses, strict=True))


def test_passes_are_widened_until_an_assignment_is_proven_to_be_the_best(knapsack, monkeypatch):
    passes, label = [], module._label

    def noted(steps, bounds, best_loss, width):
        passes.append((bounds.budget_ms, width))
        return label(steps, bounds, best_loss, width)

    monkeypatch.setattr(module, "_label", noted)
    found = dynamic_program(knapsack, (130.0, 160.0, 190.0), range(30))
    losses = knapsack.loss_of(np.array([it.rungs for it in found]))
    assert [it.lower_bound for it in found] == pytest.approx(losses.tolist())
    # A bound that is of no help, or a gap that is not looked at, takes 40,000 labels for each.
    assert passes == [(130.0, 400), (160.0, 400), (160.0, 4000), (190.0, 400), (190.0, 4000)]


def test_layers_that_are_all_alike_are_no_harder():
    # 40 equal layers: of 3 rungs each, every mix of as many of each rung costs the same.
    loss = tuple(Factor((at,), np.array([0.0, 1.0, 3.0])) for at in range(40))
    latency = tuple(Factor((at,), np.array([4.0, 3.0, 2.0])) for at in range(40))
    problem = Problem(tuple(map(str, range(40))), (3,) * 40, loss, latency)
    # 47 ms to save: 40 layers save 1 ms for 1 each, 7 of them another for 2 more.
    (found,) = dynamic_program(problem, [113.0], range(40))
    assert problem.loss_of(np.array([found.rungs]))[0] == 40 + 7 * 2

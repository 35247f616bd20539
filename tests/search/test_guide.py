import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.guide import Guide, as_rungs
from gulliver.search.problem import Problem

LOSS = (
    Factor((0,), np.array([0.0, 0.1, 0.4])),
    Factor((1,), np.array([0.0, 0.2])),
    Factor((2,), np.array([0.0, 0.3])),
    Factor((0, 1), np.array([[0.0, 0.0], [0.0, 0.01], [0.0, 0.02]])),
    Factor((2, 0), np.array([[0.0, 0.0, 0.0], [0.0, 0.05, 0.07]])),
    Factor((0,), np.array([0.0, 1.0, 2.0])),
)
LATENCY = tuple(Factor((it,), np.array([2.0, 1.0, 0.5][:size])) for it, size in enumerate((3, 2, 2)))
NAMES = ("precision/a", "sparsity/a", "precision/b")


@pytest.fixture
def guide():
    return Guide(Problem(NAMES, (3, 2, 2), LOSS, LATENCY), (0, 0, 1), 1.0, 0.5, 6.0)


def test_losses_are_added_up_by_the_methods_that_cause_them(guide):
    assert guide.methods == ("precision", "sparsity", "precision")
    rungs = np.array([[0, 0, 0], [2, 1, 1]])
    found = {methods: losses.tolist() for methods, losses in guide.losses_by_method(rungs)}
    assert found == {
        ("precision",): [0.0, pytest.approx(0.4 + 0.3 + 0.07 + 2.0)],
        ("precision", "sparsity"): [0.0, 0.02],
        ("sparsity",): [0.0, 0.2],
    }
    assert sum(it[1] for it in found.values()) == pytest.approx(guide.problem.loss_of(rungs)[1])


def test_each_rungs_own_loss_leaves_pairs_out(guide):
    assert [it.tolist() for it in guide.rung_losses] == [[0.0, 1.1, 2.4], [0.0, 0.2], [0.0, 0.3]]
    assert LOSS[0].table.tolist() == [0.0, 0.1, 0.4], "a table of the problem was changed"


def test_each_recipe_is_priced_once(guide, monkeypatch):
    asked = []
    price = Problem.latency_ms_of
    monkeypatch.setattr(Problem, "latency_ms_of", lambda problem, rungs: asked.append(rungs) or price(problem, rungs))
    slow, fast = [0, 0, 0], [2, 1, 1]
    assert guide.latencies_ms_of(np.array([slow]), [b"slow"]).tolist() == [6.0]
    assert guide.latencies_ms_of(np.array([fast, slow]), [b"fast", b"slow"]).tolist() == [2.5, 6.0]
    assert [it.tolist() for it in asked] == [[slow], [fast]]


def test_a_variable_without_a_slash_is_of_no_method():
    guide = Guide(Problem(("a", "b"), (2, 2), (), LATENCY[1:]), (0, 1), 1.0, 0.5, 4.0)
    assert guide.methods == ("", "")


def test_the_ladder_climbs_from_the_fastest_recipe_to_the_one_that_loses_least(guide):
    rungs = as_rungs(guide.ladder)
    assert rungs.dtype == np.intp
    assert (rungs[0].tolist(), rungs[-1].tolist()) == ([2, 1, 1], [0, 0, 0])
    assert (np.diff([it.latency_ms for it in guide.ladder]) > 0).all()
    assert (np.diff([it.loss for it in guide.ladder]) < 0).all()

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor, TableSum, total

PAIR = Factor((2, 0), np.array([[1.0, 2.0], [10.0, 20.0]]))
SINGLE = Factor((1,), np.array([0.5, 0.25]))


def test_the_total_adds_every_table_at_its_own_variables():
    rungs = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 1]])
    assert total([PAIR, SINGLE], rungs).tolist() == [1.5, 20.5, 10.25]


def test_a_recipe_costs_the_same_to_the_last_digit_alone_and_among_others():
    random = np.random.default_rng(0)
    tables = TableSum([Factor((at, at + 1), random.normal(size=(3, 3))) for at in range(40)])
    # So many that they are looked up in blocks, the last one of a single recipe.
    rungs = random.integers(0, 3, (2005, 41))
    alone = [tables.at(row[None])[0] for row in rungs]
    assert alone == tables.at(rungs).tolist() == tables.at(np.asfortranarray(rungs)).tolist()
    for few in (2, 3, 8, 50, 100):
        assert alone[:few] == tables.at(rungs[:few]).tolist() == tables.at(np.asfortranarray(rungs[:few])).tolist()


def test_no_factors_cost_nothing():
    assert total([], np.zeros((2, 1), int)).tolist() == [0.0, 0.0]


def test_a_factor_over_no_variable_is_a_constant():
    assert total([Factor((), np.array(3.0))], np.zeros((2, 1), int)).tolist() == [3.0, 3.0]


def test_a_table_must_have_an_axis_for_each_variable():
    with pytest.raises(ValueError, match="a table of 1 axes cannot be over 2 variables"):
        Factor((0, 1), np.zeros(2))

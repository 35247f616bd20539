from dataclasses import replace

import pytest
from gulliver.search.finalists import (
    Exported,
    Finalist,
    Measured,
    best_finalist,
    fastest_within,
    likely_drop,
    with_finetuning,
    within_budget,
)
from gulliver.search.settings import Budget, FinalistSettings
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe
from gulliver.tasks.errors import InputError


def measured(accuracy_test, latency_ms, size_bytes=1000):
    return Measured(accuracy_test, accuracy_test, latency_ms, latency_ms, latency_ms, size_bytes)


def finalist(accuracy_test, latency_ms, size_bytes=1000, drop=1.0):
    return Finalist(None, latency_ms, measured(accuracy_test, latency_ms, size_bytes), None, drop)


def test_the_best_is_the_fastest_that_promised_on_the_search_split_to_keep_the_budget():
    fast, middle, slow = finalist(0.908, 1.0), finalist(0.905, 2.0, drop=0.01), finalist(0.91, 3.0, drop=0.01)
    assert best_finalist([slow, middle, fast], measured(0.91, 9.0), Budget(max_drop=0.01)) == (middle, True)


def test_a_promise_that_the_test_split_does_not_bear_out_is_said_and_no_other_finalist_is_taken():
    fast, slow = finalist(0.89, 1.0, drop=0.01), finalist(0.91, 3.0, drop=0.01)
    assert best_finalist([fast, slow], measured(0.91, 9.0), Budget(max_drop=0.01)) == (fast, False)


def test_without_a_promising_one_that_which_is_likely_to_lose_the_least_is_handed_over():
    fast, slow = finalist(0.89, 1.0, drop=0.03), finalist(0.88, 3.0, drop=0.02)
    assert best_finalist([fast, slow], measured(0.91, 9.0), Budget(max_drop=0.01)) == (slow, False)


def test_a_finalist_whose_score_is_no_number_is_not_the_closest():
    broken, poor = finalist(float("nan"), 1.0, drop=float("nan")), finalist(0.5, 3.0, drop=0.4)
    assert best_finalist([broken, poor], measured(0.91, 9.0), Budget()) == (poor, False)


def test_of_those_that_are_all_too_large_the_most_accurate_is_handed_over():
    poor, good = finalist(0.89, 1.0, drop=float("inf")), finalist(0.9, 3.0, drop=float("inf"))
    assert best_finalist([poor, good], measured(0.91, 9.0), Budget(max_size_bytes=1)) == (good, False)


def test_without_a_single_finalist_there_is_nothing_to_hand_over():
    with pytest.raises(InputError, match="a candidate must have a score that is a number, but all of them failed"):
        best_finalist([], measured(0.91, 9.0), Budget())


@pytest.mark.parametrize("budget", [Budget(max_latency_ms=1.5), Budget(max_size_bytes=999)])
def test_latency_and_size_are_part_of_the_budget(budget):
    assert not within_budget(measured(0.91, 2.0), measured(0.91, 9.0), budget)
    assert within_budget(measured(0.91, 1.5, 999), measured(0.91, 9.0), budget)


def test_what_loses_just_the_budget_keeps_it():
    # In floating point 0.9192 - 0.9092 is more than 0.01.
    assert within_budget(measured(0.9092, 1.0), measured(0.9192, 9.0), Budget(max_drop=0.01))
    assert not within_budget(measured(0.9091, 1.0), measured(0.9192, 9.0), Budget(max_drop=0.01))


def exported(accuracy_search, standard_error=0.0, size_bytes=1000):
    return Exported("model.xml", accuracy_search, 0.0, size_bytes, "bfloat16", standard_error)


def test_a_likely_drop_has_a_standard_error_to_spare_and_is_infinite_for_what_is_too_large():
    original, budget = exported(0.92), Budget(max_drop=0.01)
    assert likely_drop(exported(0.913, standard_error=0.0029), original, budget) == pytest.approx(0.0099)
    assert likely_drop(exported(0.913, standard_error=0.0031), original, budget) == pytest.approx(0.0101)
    assert likely_drop(exported(0.92), original, Budget(max_size_bytes=999)) == float("inf")


def test_a_likely_drop_is_the_expected_one_where_the_task_tells():
    lucky = replace(exported(0.92, standard_error=0.002), expected_drop=0.005)
    assert likely_drop(lucky, exported(0.92), Budget()) == pytest.approx(0.007)


def test_the_fastest_within_a_drop_is_none_where_no_finalist_is_likely_to_lose_so_little():
    fast, slow = finalist(0.90, 1.0, drop=0.02), finalist(0.91, 3.0, drop=0.005)
    assert [fastest_within([slow, fast], it) for it in (0.001, 0.01, 0.03)] == [None, slow, fast]


def test_the_prediction_error_is_negative_where_the_prediction_was_too_low():
    assert Finalist(None, 1.8, measured(0.9, 2.0), None, 0.0).prediction_error == pytest.approx(-0.1)


def test_only_a_thinned_network_is_fine_tuned():
    settings = FinalistSettings()
    assert with_finetuning(Recipe({"a": LayerRecipe(quantize=Quantize())}), settings).finetune is None
    assert with_finetuning(Recipe({"a": LayerRecipe(decompose=Decompose(8))}), settings).finetune == settings.finetune

import pytest
from gulliver.search.finalists import (
    Exported,
    Finalist,
    Measured,
    best_finalist,
    choose_finalists,
    promises,
    with_finetuning,
    within_budget,
)
from gulliver.search.journal import Scores
from gulliver.search.settings import Budget, FinalistSettings
from gulliver.search.study import Candidate
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe
from gulliver.tasks.errors import InputError


def members(count):
    return [
        Candidate(index, None, Scores(0.5 + 0.01 * index, float(index), 1.0), 0.0, "test") for index in range(count)
    ]


def tried(count, passes, settings):
    order = []

    def made(candidate):
        order.append(candidate.trial)
        return passes(candidate.trial)

    choose_finalists(members(count), settings, made)
    return order


def test_the_front_is_halved_between_the_fastest_that_passes_and_the_slowest_that_fails():
    # Recipes from number 5 on keep the budget: 7 passes, 3 fails, 5 passes, 4 fails.
    assert tried(15, lambda trial: trial >= 5, FinalistSettings(count=4)) == [7, 3, 5, 4]


def test_with_everything_passing_the_fastest_recipe_is_reached():
    assert tried(8, lambda trial: True, FinalistSettings(count=3)) == [3, 1, 0]


def test_with_everything_failing_the_slowest_recipe_is_reached():
    assert tried(8, lambda trial: False, FinalistSettings(count=4)) == [3, 5, 6, 7]


def test_no_more_finalists_are_made_than_the_front_has():
    assert sorted(tried(2, lambda trial: True, FinalistSettings(count=4))) == [0, 1]


def measured(accuracy_test, latency_ms, size_bytes=1000):
    return Measured(accuracy_test, accuracy_test, latency_ms, latency_ms, latency_ms, size_bytes)


def finalist(accuracy_test, latency_ms, size_bytes=1000, promising=False):
    return Finalist(None, latency_ms, measured(accuracy_test, latency_ms, size_bytes), None, promising)


def test_the_best_is_the_fastest_that_promised_on_the_search_split_to_keep_the_budget():
    fast, middle, slow = finalist(0.908, 1.0), finalist(0.905, 2.0, promising=True), finalist(0.91, 3.0, promising=True)
    assert best_finalist([slow, middle, fast], measured(0.91, 9.0), Budget(max_drop=0.01)) == (middle, True)


def test_a_promise_that_the_test_split_does_not_bear_out_is_said_and_no_other_finalist_is_taken():
    fast, slow = finalist(0.89, 1.0, promising=True), finalist(0.91, 3.0, promising=True)
    assert best_finalist([fast, slow], measured(0.91, 9.0), Budget(max_drop=0.01)) == (fast, False)


def test_without_a_promising_one_the_closest_is_handed_over():
    fast, slow = finalist(0.85, 1.0), finalist(0.89, 3.0)
    assert best_finalist([fast, slow], measured(0.91, 9.0), Budget(max_drop=0.01)) == (slow, False)


def test_a_finalist_whose_score_is_no_number_is_not_the_closest():
    broken, poor = finalist(float("nan"), 1.0), finalist(0.5, 3.0)
    assert best_finalist([broken, poor], measured(0.91, 9.0), Budget()) == (poor, False)


def test_without_a_single_finalist_there_is_nothing_to_hand_over():
    with pytest.raises(InputError, match="a candidate must have a score that is a number, but all of them failed"):
        best_finalist([], measured(0.91, 9.0), Budget())


@pytest.mark.parametrize("budget", [Budget(max_latency_ms=1.5), Budget(max_size_bytes=999)])
def test_latency_and_size_are_part_of_the_budget(budget):
    assert not within_budget(measured(0.91, 2.0), measured(0.91, 9.0), budget)
    assert within_budget(measured(0.91, 1.5, 999), measured(0.91, 9.0), budget)


def exported(accuracy_search, standard_error=0.0, size_bytes=1000):
    return Exported("model.xml", accuracy_search, 0.0, size_bytes, "bfloat16", standard_error)


def test_a_finalist_promises_to_keep_the_budget_only_with_a_standard_error_to_spare():
    original, budget = exported(0.92), Budget(max_drop=0.01)
    assert promises(exported(0.913, standard_error=0.0029), original, budget)
    assert not promises(exported(0.913, standard_error=0.0031), original, budget)
    assert not promises(exported(0.92), original, Budget(max_size_bytes=999))


def test_the_prediction_error_is_negative_where_the_prediction_was_too_low():
    assert Finalist(None, 1.8, measured(0.9, 2.0), None, True).prediction_error == pytest.approx(-0.1)


def test_only_a_thinned_network_is_fine_tuned():
    settings = FinalistSettings()
    assert with_finetuning(Recipe({"a": LayerRecipe(quantize=Quantize())}), settings).finetune is None
    assert with_finetuning(Recipe({"a": LayerRecipe(decompose=Decompose(8))}), settings).finetune == settings.finetune

import math

import pytest
from gulliver.search.explain import (
    Explanation,
    Known,
    Relaxation,
    explain,
    explanation_lines,
    modelled_costs,
    most_missed,
    smallest_relaxation,
)
from gulliver.search.journal import Scores
from gulliver.search.settings import Budget
from gulliver.search.study import Candidate

BUDGET = Budget(max_drop=0.01, max_latency_ms=2.5)
ACCURATE = Known("accurate", 0.004, 3.1234, 9000, "measured")
FAST = Known("fast", 0.021, 2.4, 5000, "measured")
POOR = Known("poor", 0.05, 4.0, 9000, "modelled")


def test_the_smallest_relative_relaxation_of_one_entry_helps_most():
    # 3.1234 / 2.5 is 25% more, 0.021 / 0.01 is 110% more; the poor recipe would need both.
    assert smallest_relaxation([FAST, ACCURATE, POOR], BUDGET) == Relaxation("max_latency_ms", 2.5, 3.1234, ACCURATE)
    assert smallest_relaxation([FAST, POOR], BUDGET) == Relaxation("max_drop", 0.01, 0.021, FAST)
    assert smallest_relaxation([POOR], BUDGET) is None


def test_a_limit_of_nothing_is_relaxed_last():
    budget = Budget(max_drop=0.0, max_latency_ms=2.5)
    slow = Known("slow", 0.0, 25.0, 9000, "measured")
    assert smallest_relaxation([FAST, slow], budget).known is slow
    assert smallest_relaxation([FAST], budget).relative == math.inf


def test_a_candidates_latency_is_what_it_would_be_on_the_machine_as_it_is_now():
    candidate = Candidate(7, None, Scores(0.88, latency_ms=2.0, size_bytes=9000), 0.0, "trade")
    found = modelled_costs("it", candidate, original_accuracy=0.9, drift=1.25)
    assert found == Known("it", pytest.approx(0.02), 2.5, 9000, "modelled, before any fine-tuning")


def test_sizes_are_relaxed_too():
    found = smallest_relaxation([FAST], Budget(max_drop=0.05, max_size_bytes=4000))
    assert (found.entry, found.relative) == ("max_size_bytes", pytest.approx(0.25))


def test_the_least_latency_at_the_accuracy_bar_is_that_of_the_fastest_recipe_there():
    slower = Known("slower", 0.0, 5.0, 9000, "measured")
    found = explain([FAST, slower, ACCURATE], FAST, BUDGET)
    assert found.fastest_at_bar is ACCURATE
    assert explain([FAST, POOR], FAST, BUDGET).fastest_at_bar is None


def test_the_entry_that_is_missed_by_the_largest_share_binds():
    assert most_missed(FAST, BUDGET) == "max_drop"
    assert most_missed(ACCURATE, BUDGET) == "max_latency_ms"
    # 0.05 / 0.01 against 4.0 / 2.5.
    assert most_missed(POOR, BUDGET) == "max_drop"


def test_what_a_recipe_has_that_is_no_number_is_missed():
    assert most_missed(Known("broken", 0.0, math.nan, 1.0, "modelled"), BUDGET) == "max_latency_ms"


def test_no_relaxation_lets_in_a_recipe_that_has_what_is_no_number():
    broken = Known("broken", math.nan, 2.0, 9000, "measured")
    found = explain([broken, FAST], broken, BUDGET)
    assert (found.missed, found.fastest_at_bar) == ("max_drop", None)
    assert found.relaxation == Relaxation("max_drop", 0.01, 0.021, FAST)
    lines = explanation_lines(explain([broken], broken, BUDGET), {})
    assert lines[0].endswith("broken, chosen on the search split, loses nan at 2.00 ms and 9 KB.")
    assert lines[-1] == "No relaxation of one entry alone brings a known recipe within the budget."


def test_the_explanation_in_words_rounds_a_relaxed_entry_up():
    found = explain([FAST, ACCURATE, POOR], FAST, BUDGET)
    assert explanation_lines(found, {"conv1": 0.0125, "conv2": 0.004}) == [
        "The budget is not met on the test split: fast, chosen on the search split, loses 0.0210 at 2.40 ms and 5 KB.",
        "Least latency at the accuracy bar: accurate loses 0.0040 at 3.12 ms and 9 KB (measured).",
        "What binds: conv1 (0.0125), conv2 (0.004), by the accuracy that each wins back where it is left alone.",
        "What helps most: budget.max_latency_ms=3.13 instead of 2.5 (accurate, measured).",
    ]


def test_where_nothing_helps_alone_that_is_said():
    lines = explanation_lines(Explanation(POOR, "max_drop", None, None), {})
    assert lines[1:] == [
        "No recipe that was tried meets the accuracy bar.",
        "No relaxation of one entry alone brings a known recipe within the budget.",
    ]

from math import inf, nan

import pytest
from gulliver.search.choose_finalists import Finished, Front, aimed_latency_ms, bracket, choose_finalists
from gulliver.search.journal import Scores
from gulliver.search.settings import FinalistSettings
from gulliver.search.study import Candidate
from gulliver.spaces.recipe import LayerRecipe, Recipe, Sparsify

BAR = 0.01


def candidate(latency_ms, drop):
    """A candidate whose recipe is its own, so that its key is."""
    recipe = Recipe({"layer": LayerRecipe(sparsify=Sparsify(ratio=1 / (1 + latency_ms)))})
    return Candidate(int(10 * latency_ms), recipe, Scores(0.9 - drop, float(latency_ms), 1.0), 0.0, "test")


def falling(latencies_ms=range(1, 17)):
    """A front on which a recipe of twice the latency loses a quarter: 0.16 at 1 ms, 0.04 at 2 ms."""
    return Front(tuple(candidate(it, 0.16 / it**2) for it in latencies_ms), 0.9)


def finished(latency_ms, trial_drop, likely_drop):
    return Finished(candidate(latency_ms, trial_drop), trial_drop, likely_drop)


def tried(front, likely_drop, settings, at_latency=lambda latency_ms: None, max_drop=BAR):
    order = []

    def finish(candidate):
        order.append(candidate.scores.latency_ms)
        return likely_drop(candidate)

    chosen = choose_finalists(front, settings, max_drop, finish, at_latency)
    assert [it.scores.latency_ms for it in chosen] == sorted(order)
    return order


def test_the_first_may_lose_twice_the_bar_before_fine_tuning():
    # 0.16 / 8 is twice the bar.
    assert aimed_latency_ms(falling(), [], BAR, 2 * BAR) == pytest.approx(8**0.5)


def test_without_fine_tuning_the_first_may_lose_just_the_bar():
    # 0.16 / 16 is the bar, at 4 ms.
    assert tried(falling(), lambda it: 0.9 - it.scores.accuracy_search, FinalistSettings(1, finetune=None)) == [4]


def test_after_one_that_passes_the_next_loses_as_much_more_as_the_power_says():
    # Half of the bar was lost: 2 ** (1 / 0.7) = 2.69 times the drop of 4 ms is that of 4 / sqrt(2.69) = 2.44 ms.
    aim = aimed_latency_ms(falling(), [finished(4, 0.01, 0.005)], BAR, 2 * BAR)
    assert aim == pytest.approx(4 / 2 ** (0.5 / 0.7))


def test_after_one_that_fails_the_next_is_slower_though_never_by_more_than_a_quarter_of_its_drop():
    front = falling()
    assert aimed_latency_ms(front, [finished(2, 0.04, 0.02)], BAR, 1.0) == pytest.approx(2 * 2 ** (0.5 / 0.7))
    assert aimed_latency_ms(front, [finished(2, 0.04, 0.5)], BAR, 1.0) == pytest.approx(4.0)
    assert aimed_latency_ms(front, [finished(2, 0.04, inf)], BAR, 1.0) == pytest.approx(4.0)


def test_between_one_that_passes_and_one_that_fails_the_bar_is_interpolated_on_logarithmic_scales():
    # The bar is the geometric mean of the drops, so that the aim is that of the latencies: sqrt(2 * 8) = 4.
    aim = aimed_latency_ms(falling(), [finished(8, 0.01, 0.005), finished(2, 0.04, 0.02)], BAR, 1.0)
    assert aim == pytest.approx(4.0)


@pytest.mark.parametrize(("passed", "failed", "share"), [(0.0099, 0.02, 0.2), (0.002, 0.0101, 0.8), (0.01, inf, 0.5)])
def test_a_bracket_never_ends_where_it_was(passed, failed, share):
    aim = aimed_latency_ms(falling(), [finished(8, 0.01, passed), finished(2, 0.04, failed)], BAR, 1.0)
    assert aim == pytest.approx(8 * (2 / 8) ** share)


def test_for_a_bar_of_nothing_a_bracket_is_halved_and_its_ends_are_looked_for():
    front = falling()
    assert aimed_latency_ms(front, [finished(8, 0.01, 0.0), finished(2, 0.04, 0.02)], 0.0, 0.0) == pytest.approx(4.0)
    assert aimed_latency_ms(front, [], 0.0, 0.0) == pytest.approx(16.0)
    assert aimed_latency_ms(front, [finished(2, 0.04, 0.02)], 0.0, 0.0) == pytest.approx(4.0)
    assert aimed_latency_ms(front, [finished(4, 0.01, -0.001)], 0.0, 0.0) == pytest.approx(2.0)


def test_a_slower_recipe_that_had_bad_luck_is_no_end_of_the_bracket_and_no_number_is_too_much():
    unlucky, passed, failed = finished(5, 0.01, 0.02), finished(4, 0.01, 0.005), finished(2, 0.04, nan)
    assert bracket([unlucky, passed, failed], BAR) == (passed, failed)
    assert bracket([unlucky], BAR) == (None, unlucky)
    assert bracket([], BAR) == (None, None)


def test_a_recipe_is_asked_for_where_the_front_has_none():
    def at_latency(latency_ms):
        return candidate(latency_ms, 0.16 / latency_ms**2)

    assert tried(falling((1, 2)), lambda it: 0.0, FinalistSettings(count=3), at_latency) == [2, 1, 0.9]


def test_where_nothing_is_a_tenth_faster_one_is_asked_for_halfway_there():
    def at_latency(latency_ms):
        return candidate(latency_ms, 0.16 / latency_ms**2) if latency_ms > 0.9 else None

    order = tried(falling((1, 2)), lambda it: 0.0, FinalistSettings(count=3), at_latency)
    assert order == [2, 1, pytest.approx(0.9**0.5)]


def test_where_what_is_asked_for_disappoints_one_to_either_side_is_asked_for():
    asked = []

    def good_below_three(latency_ms):
        asked.append(latency_ms)
        return candidate(latency_ms, 0.16 / latency_ms**2 if latency_ms < 3 else 0.9)

    # 2 ms fail, 8 ms pass, and the bar is the geometric mean of what they lost.
    def likely_drop(made):
        return {2: 0.02, 8: 0.005}.get(made.scores.latency_ms, BAR)

    order = tried(falling((2, 8)), likely_drop, FinalistSettings(3, finetune=None), good_below_three)
    assert order == [2, 8, pytest.approx(8**0.5)]
    assert asked[-3:] == pytest.approx([4.0, 32**0.5, 8**0.5])


@pytest.mark.parametrize(("lost_by_a_slower_one", "made"), [(0.05, [2, 4]), (0.07, [2, 8])])
def test_beyond_one_that_failed_a_slower_one_need_not_have_lost_less_as_a_trial(lost_by_a_slower_one, made):
    # 2 ms lost 4 points as a trial and fail; half as much again, 6 points, is luck with the samples.
    order = tried(
        falling((2, 8)),
        lambda it: {2: inf}.get(it.scores.latency_ms, 0.0),
        FinalistSettings(2, finetune=None),
        lambda latency_ms: candidate(latency_ms, lost_by_a_slower_one),
        max_drop=0.04,
    )
    assert order == pytest.approx(made)


def test_what_is_asked_for_is_no_finalist_where_the_front_is_as_good():
    poor = candidate(3.0, 0.16)
    assert tried(falling((2, 5)), lambda it: 0.0, FinalistSettings(1), lambda latency_ms: poor) == [2]


def test_what_a_finalist_was_made_of_already_is_not_made_again():
    same = candidate(3.0, 0.011)
    order = tried(falling((1, 4, 16)), lambda it: 0.005, FinalistSettings(2), lambda latency_ms: same)
    assert order[0] == 3.0
    assert order[1] in (1, 4)


def test_a_recipe_that_joins_the_front_takes_the_place_of_those_that_it_beats():
    better = candidate(3.5, 0.16 / 4.5**2)
    assert [it.scores.latency_ms for it in falling((2, 3, 4, 5)).adding(better).members] == [2, 3, 3.5, 5]


def test_for_another_drop_the_aim_is_that_of_all_finalists_before():
    # What is left is a quarter: within 1 point from 2 ms on, within 4 from 1 ms on.
    front = falling((1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 8))
    order = tried(
        front, lambda it: (0.9 - it.scores.accuracy_search) / 4, FinalistSettings(count=3, other_drops=(0.04,))
    )
    assert min(it for it in order if 0.04 / it**2 <= BAR) == 2
    assert min(order[2:]) == 1


@pytest.mark.parametrize("other_drops", [(), (0.04,)])
def test_one_finalist_is_made_for_three_quarters_of_the_smallest_drop(other_drops):
    # 2 ms lose 2 points, 3 ms 0.89; within three quarters of a point is what takes 4 ms or more.
    settings = FinalistSettings(3, other_drops=other_drops)
    order = tried(falling(), lambda it: (0.9 - it.scores.accuracy_search) * 0.5, settings)
    assert order[:2] == [2, 3]
    assert [it for it in order if it > 3] == [4]


def test_what_a_settled_bar_leaves_over_goes_to_the_one_that_is_widest_open():
    # A bar of nothing is settled at once: all but the untouched recipe, which is the slowest, lose something.
    front = falling(range(1, 17)).adding(candidate(20, 0.0))
    order = tried(
        front, lambda it: 0.9 - it.scores.accuracy_search, FinalistSettings(3, other_drops=(0.01,)), max_drop=0.0
    )
    assert order[0] == 20
    assert order[1] == 16
    # Five are left for a bar that 4 ms keeps and 3 ms does not.
    assert len(order) == 6
    assert 4 in order
    assert {3, 2} & set(order)


@pytest.mark.parametrize(("lost_by_3_ms", "made"), [(1.4, [4, 3, 2.5, 2]), (1.6, [4, 3])])
def test_what_is_left_over_looks_beyond_a_finalist_that_failed_by_little(lost_by_3_ms, made):
    lost = {4: 0.9, 3: lost_by_3_ms, 2.5: 0.95, 2: 3.0}
    front, settings = falling((1, 2, 2.5, 3, 4)), FinalistSettings(5, finetune=None)
    order = tried(front, lambda it: lost[it.scores.latency_ms] * BAR, settings)
    assert order == made


def test_no_more_finalists_are_made_than_the_front_has():
    settings = FinalistSettings(3, finetune=None, other_drops=(0.005,))
    assert sorted(tried(falling((1, 2, 4)), lambda it: 0.0, settings)) == [1, 2, 4]


def test_with_everything_failing_the_slowest_recipe_is_reached():
    assert 16 in tried(falling(), lambda it: 1.0, FinalistSettings(count=4))


def test_with_everything_passing_the_fastest_recipe_is_reached():
    assert 1 in tried(falling(), lambda it: 0.0, FinalistSettings(count=3))

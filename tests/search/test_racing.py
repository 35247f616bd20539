"""The bound on every order of small splits, and races whose outcome is known beforehand."""

import math
from itertools import permutations

import numpy as np
import pytest
from gulliver.search.incumbents import Incumbents
from gulliver.search.journal import Scores
from gulliver.search.racing import Rival, log_evidence, race, slice_ends
from gulliver.search.settings import Race
from gulliver.tasks.errors import InputError


def test_slices_double_until_the_split_ends():
    assert list(slice_ends(2000, 250)) == [250, 500, 1000, 2000]
    assert list(slice_ends(1100, 250)) == [250, 500, 1000, 1100]
    assert list(slice_ends(250, 250)) == [250]
    assert list(slice_ends(10, 250)) == [10]


def test_the_evidence_is_the_capital_computed_by_hand():
    # Bets b = 0.05, 0.10 ... 0.95 have the means E[b] = 0.5 and E[b^2] = 0.325. The first loss pays 1 + b. The three
    # samples left must then have a mean of 1/3, so the second pays 1 + b * (1/3 + 1) / (1 - 1/3) = 1 + 2b.
    assert log_evidence(np.array([-1.0]), 4, 0.0, 1.0) == pytest.approx(math.log(1.5))
    assert log_evidence(np.array([-1.0, -1.0]), 4, 0.0, 1.0) == pytest.approx(math.log(1 + 3 * 0.5 + 2 * 0.325))


def test_a_mean_that_the_samples_left_cannot_reach_is_certain_to_be_missed():
    assert log_evidence(np.array([-1.0, -1.0, -1.0]), 4, 0.0, 1.0) == math.inf
    assert log_evidence(np.array([-1.0, -1.0, 1.0]), 4, 0.0, 1.0) < math.inf


@pytest.mark.parametrize(
    "population", [[-1] * 3 + [0] * 3 + [1] * 3, [4.0] + [-0.5] * 8, [-4.0] + [0.5] * 8, [-1, 0, 0, 0, 0, 0, 0, 1]]
)
def test_over_every_order_of_a_split_the_evidence_deceives_no_more_often_than_it_says(population):
    orders = np.array(sorted(set(permutations(population[:8]))))
    mean, highest = np.mean(population[:8]), max(population[:8])
    evidence = np.array([log_evidence(order[:7], 8, mean, highest) for order in orders])
    for error in (0.5, 0.2, 0.1, 0.05):
        assert (evidence >= -math.log(error)).mean() <= error


def paired(generator, size, wins, losses):
    """Return a rival's and a candidate's right answers: the candidate alone is right `wins` times, wrong `losses`."""
    rival = np.ones(size)
    rival[:wins] = 0
    candidate = np.ones(size)
    candidate[wins : wins + losses] = 0
    order = generator.permutation(size)
    return rival[order], candidate[order]


def dropped_share(wins, losses, repetitions=200, size=800):
    generator = np.random.default_rng(0)
    dropped = 0
    for _ in range(repetitions):
        rival, candidate = paired(generator, size, wins, losses)
        raced = race(
            lambda start, stop, it=candidate: it[start:stop], Rival(rival, rival.mean()), Race(first_slice=100)
        )
        dropped += raced.dropped
    return dropped / repetitions


@pytest.mark.parametrize("discordant", [4, 20, 80])
def test_a_candidate_as_good_as_its_rival_is_dropped_no_more_often_than_the_confidence_allows(discordant):
    assert dropped_share(discordant, discordant) <= 0.05


def test_a_candidate_that_is_much_worse_is_dropped():
    assert dropped_share(20, 100) >= 0.95


@pytest.mark.parametrize(("highest_score", "most"), [(0.985, 0.05), (None, 0.35)])
def test_rare_large_gains_deceive_the_bound_only_where_nobody_said_how_high_a_score_can_be(highest_score, most):
    # Fifteen of 1000 samples lift the mean that all others pull down a little; the first slice of 100 has none of
    # them in (1 - 0.1) ** 15 = 0.21 of the orders, and looks hopeless then.
    generator = np.random.default_rng(0)
    population = np.full(1000, -0.015)
    population[:15] = 0.985
    assert population.mean() == pytest.approx(0.0)
    settings, rival = Race(first_slice=100, highest_score=highest_score), Rival(np.zeros(1000), 0.0)
    misled = 0
    for _ in range(200):
        order = generator.permutation(population)
        misled += race(lambda start, stop, it=order: it[start:stop], rival, settings).dropped
    assert misled / 200 <= most
    assert highest_score is not None or misled / 200 > 0.15


def test_a_score_above_the_highest_one_is_refused_with_both():
    with pytest.raises(InputError, match=r"`score <= trial.race.highest_score=0.5` must hold, but one is 1.0"):
        race(lambda start, stop: np.ones(stop - start), Rival(np.zeros(9), 0.0), Race(highest_score=0.5))


def test_a_dropped_candidate_has_the_estimate_of_the_paired_difference():
    rival = np.tile([1.0, 1.0, 1.0, 0.0], 100)
    rival[:100] = 1.0
    raced = race(lambda start, stop: np.zeros(stop - start), Rival(rival, rival.mean()), Race(first_slice=100))
    assert raced.dropped
    assert len(raced.scores) == 100
    assert raced.mean == pytest.approx(rival.mean() - 1.0)


def test_a_survivor_has_its_full_score():
    scores = np.tile([1.0, 0.0, 1.0], 200)
    raced = race(lambda start, stop: scores[start:stop], Rival(scores, scores.mean()), Race(first_slice=100))
    assert (raced.mean, len(raced.scores), raced.dropped) == (pytest.approx(2 / 3), 600, False)


def test_a_score_that_is_not_a_number_ends_the_race_without_a_mean():
    asked = []

    def score_slice(start, stop):
        asked.append(stop)
        return np.full(stop - start, np.nan)

    raced = race(score_slice, Rival(np.ones(1000), 0.5), Race(first_slice=100))
    assert math.isnan(raced.mean)
    assert not raced.dropped
    assert asked == [100]


class Journal(dict):
    """Stands for a journal: scores by key, nothing on the disk."""


def networks(size=800):
    """Return right answers of shape (12, size), slower networks first: harder samples fail more networks."""
    generator = np.random.default_rng(1)
    difficulty = generator.random(size)
    accuracies = [0.92, 0.91, 0.915, 0.90, 0.88, 0.905, 0.89, 0.85, 0.80, 0.87, 0.70, 0.60]
    noise = 0.05 * generator.standard_normal((12, size))
    return np.array(
        [difficulty + it < np.quantile(difficulty + it, p) for it, p in zip(noise, accuracies, strict=True)]
    )


def searched(answers, order, folder, settings):
    """Return which network wins, the fastest that loses at most 0.02, and how many samples were scored."""
    journal = Journal()
    incumbents = Incumbents(journal, folder)
    answers = answers[:, order].astype(float)
    bar = Rival(answers[0], answers[0].mean() - 0.02)
    for index in np.random.default_rng(2).permutation(12):
        rival = incumbents.rival({"latency_ms": float(-index)}, bar) if settings else None
        wanted = settings or Race(first_slice=answers.shape[1])
        raced = race(lambda start, stop, it=answers[index]: it[start:stop], rival or bar, wanted)
        incumbents.keep(str(index), raced, rival)
        journal[str(index)] = Scores(raced.mean, float(-index), 1.0, 0.0, len(raced.scores), raced.dropped)
    full = [int(key) for key, it in journal.items() if not it.dropped and it.accuracy_search >= bar.least_mean]
    return max(full), sum(it.samples for it in journal.values())


def test_the_winner_of_a_raced_search_changes_no_more_often_than_the_confidence_allows(tmp_path):
    answers, generator = networks(), np.random.default_rng(3)
    truth, everything = searched(answers, np.arange(800), tmp_path, None)
    outcomes = [searched(answers, generator.permutation(800), tmp_path, Race(first_slice=100)) for _ in range(60)]
    assert everything == 12 * 800
    assert np.mean([winner != truth for winner, _ in outcomes]) <= 0.05
    assert np.mean([samples for _, samples in outcomes]) < 0.7 * everything

import numpy as np
import pytest
from gulliver.search.hypervolume import hypervolume
from gulliver.search.improvement import expected_improvement
from scipy.stats import norm

LOWEST, SLOWEST_MS = 0.5, 10.0
FRONT = np.array([[7.0, 0.85], [2.0, 0.6], [4.0, 0.8], [5.0, 0.7], [3.0, 0.4]])


def area(points):
    return hypervolume([tuple(it) for it in points], (SLOWEST_MS, LOWEST))


def improvement(mean, deviation, latency_ms, front=FRONT):
    given = (np.array([it]) for it in (mean, deviation, latency_ms))
    return float(expected_improvement(*given, front, LOWEST, SLOWEST_MS)[0])


@pytest.mark.parametrize("latency_ms", [1.0, 2.0, 3.5, 4.0, 6.0, 9.9])
@pytest.mark.parametrize(("mean", "deviation"), [(0.7, 0.1), (0.9, 0.02), (0.4, 0.05)])
def test_it_is_the_growth_of_the_hypervolume_averaged_over_the_normal_distribution(mean, deviation, latency_ms):
    scores = np.linspace(mean - 8 * deviation, mean + 8 * deviation, 2001)
    growths = [area([*FRONT, (latency_ms, score)]) - area(FRONT) for score in scores]
    integral = np.trapezoid(growths * norm.pdf(scores, mean, deviation), scores)
    # The trapezoids are off by (step / deviation)^2 / 12 = 5e-6 of the greatest growth, 8 ms times the deviation.
    assert improvement(mean, deviation, latency_ms) == pytest.approx(integral, rel=1e-4, abs=1e-5)


def test_many_candidates_are_judged_each_by_itself():
    means, deviations, latencies = np.array([0.7, 0.9]), np.array([0.1, 0.02]), np.array([3.0, 9.0])
    together = expected_improvement(means, deviations, latencies, FRONT, LOWEST, SLOWEST_MS)
    assert together.tolist() == pytest.approx([improvement(0.7, 0.1, 3.0), improvement(0.9, 0.02, 9.0)])


@pytest.mark.parametrize(("latency_ms", "score"), [(1.0, 0.65), (3.0, 0.9), (6.0, 0.75), (6.0, 0.8), (1.0, 0.2)])
def test_a_score_that_is_certain_adds_what_the_hypervolume_does(latency_ms, score):
    growth = area([*FRONT, (latency_ms, score)]) - area(FRONT)
    assert improvement(score, 1e-9, latency_ms) == pytest.approx(growth, abs=1e-7)


def test_an_empty_front_is_improved_from_the_reference_on():
    # 10 - 4 ms times the expected excess of a normal variable over its own mean, deviation / sqrt(2 pi).
    wanted = 6.0 * 0.1 / np.sqrt(2 * np.pi)
    assert improvement(LOWEST, 0.1, 4.0, front=np.empty((0, 2))) == pytest.approx(wanted)


def test_a_candidate_slower_than_the_reference_adds_nothing():
    assert improvement(0.99, 0.1, SLOWEST_MS) == improvement(0.99, 0.1, 11.0) == 0.0


def test_points_outside_the_reference_count_for_nothing():
    outside = np.array([*FRONT, (12.0, 0.99), (1.0, 0.3), (1.5, -np.inf)])
    assert improvement(0.8, 0.1, 1.0, front=outside) == pytest.approx(improvement(0.8, 0.1, 1.0))


def test_points_that_others_beat_count_for_nothing():
    beaten = np.array([*FRONT, (4.0, 0.8), (4.0, 0.1), (9.0, 0.85), (8.0, 0.6)])
    for latency_ms in (1.0, 4.0, 8.5):
        assert improvement(0.8, 0.1, latency_ms, front=beaten) == pytest.approx(improvement(0.8, 0.1, latency_ms))


def test_a_candidate_that_cannot_enter_the_front_adds_next_to_nothing_and_never_less():
    assert 0.0 <= improvement(0.0, 0.01, 5.0) < 1e-12


def test_a_less_certain_candidate_of_the_same_mean_promises_more():
    promised = [improvement(0.7, deviation, 3.0) for deviation in (0.01, 0.05, 0.2)]
    assert promised == sorted(promised)

from types import SimpleNamespace

import numpy as np
import pytest
from gulliver.search.finalists import MODELLED, Measured
from gulliver.search.journal import Scores
from gulliver.search.metrics import Progress, best_metrics, progress_of
from gulliver.search.study import Candidate, front
from gulliver.spaces.recipe import LayerRecipe, Recipe

OBJECTIVES = ("accuracy_search", "latency_ms")


def candidate(trial, accuracy, latency_ms, violation=0.0):
    return Candidate(trial, Recipe({"layer": LayerRecipe()}), Scores(accuracy, latency_ms, 100.0), violation, "test")


def random_trials(count, seed, feasible):
    """Return trials of few different scores, so that some are equal, each feasible with this chance."""
    random = np.random.default_rng(seed)
    scores = random.integers(1, 8, (count, 2)) / 8
    violations = np.where(random.random(count) < feasible, 0.0, 0.1)
    return [candidate(at, *row, violations[at]) for at, row in enumerate(scores.tolist())]


@pytest.mark.parametrize("feasible", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_that_grows_trial_by_trial_is_that_of_all_trials(seed, feasible):
    progress, trials = Progress(OBJECTIVES), random_trials(40, seed, feasible)
    for at, trial in enumerate(trials, 1):
        progress = progress.after(trial)
        assert list(progress.members) == front(trials[:at], OBJECTIVES)


def test_the_area_is_in_shares_of_the_slowest_trial_even_off_the_front():
    progress = progress_of([candidate(0, 0.8, 2.0), candidate(1, 0.7, 4.0)], OBJECTIVES)
    # From 2 / 4 of the slowest to 4 / 4, and from half of 0.9 to 0.8.
    assert progress.hypervolume(baseline_accuracy=0.9) == pytest.approx(0.5 * (0.8 - 0.45))
    metrics = progress.metrics(baseline_accuracy=0.9)
    assert (metrics["front_size"], metrics["fastest_latency_ms"]) == (1, 2.0)


def test_where_scores_are_negative_the_area_begins_half_as_much_below_the_original():
    progress = progress_of([candidate(0, -2.5, 2.0), candidate(1, -2.8, 4.0)], OBJECTIVES)
    # From 2 / 4 of the slowest to 4 / 4, and from -2 - 2 / 2 to -2.5.
    assert progress.hypervolume(baseline_accuracy=-2.0) == pytest.approx(0.5 * (3.0 - 2.5))


def test_a_trial_without_a_score_changes_nothing():
    progress = progress_of([candidate(0, 0.8, 2.0)], OBJECTIVES)
    assert progress.after(candidate(1, float("nan"), 9.0)) == progress


def result_of(best, originals, prediction_error=0.02):
    return SimpleNamespace(
        best=SimpleNamespace(measured=best, prediction_error=prediction_error),
        how=best.how,
        originals=originals,
        summary={"rank_correlation": {"direct": 0.9, "gradient": None}, "samples_saved": 0.25},
    )


def test_the_best_is_told_beside_the_originals_and_the_predictions():
    originals = {
        f"OpenVINO {name}": Measured(0.92, 0.91, ms, ms, ms, 4000) for name, ms in (("fp32", 4.0), ("bf16", 1.0))
    }
    assert best_metrics(result_of(Measured(0.91, 0.9, 0.5, 0.4, 0.6, 1000), originals)) == {
        "best_accuracy_search": 0.91,
        "best_accuracy_test": 0.9,
        "best_latency_ms": 0.5,
        "best_latency_p10_ms": 0.4,
        "best_latency_p90_ms": 0.6,
        "best_size_bytes": 1000.0,
        "speedup_over_fp32": 8.0,
        "speedup_over_bf16": 2.0,
        "prediction_error": 0.02,
        "rank_correlation_direct": 0.9,
        "samples_saved": 0.25,
    }


def test_what_is_modelled_is_called_so_and_has_no_error():
    original, best = (Measured(0.9, 0.9, ms, None, None, 1000, how=MODELLED) for ms in (4.0, 0.5))
    metrics = best_metrics(result_of(best, {"original in float16": original}))
    assert metrics["best_modelled_latency_ms"] == 0.5
    assert metrics["modelled_speedup_over_float16"] == 8.0
    assert not metrics.keys() & {"best_latency_ms", "prediction_error"}

import numpy as np
import pytest
from gulliver.search.incumbents import Incumbents, samples_saved
from gulliver.search.journal import Journal, Scores
from gulliver.search.racing import Raced, Rival

BAR = Rival(np.array([1.0, 1.0, 1.0, 0.0]), 0.5)


@pytest.fixture
def incumbents(tmp_path):
    return Incumbents(Journal(tmp_path / "scores.jsonl"), tmp_path / "samples")


def scored(incumbents, key, scores, latency_ms, rival=BAR, dropped=False):
    raced = Raced(float(np.mean(scores)), np.array(scores), dropped)
    incumbents.keep(key, raced, rival)
    incumbents.journal.add(key, Scores(raced.mean, latency_ms, 1.0, 0.0, len(scores), dropped))


def test_the_first_candidate_is_scored_in_full(incumbents):
    assert incumbents.rival({"latency_ms": 1.0}, BAR) is None


def test_the_rival_is_the_most_accurate_incumbent_that_costs_no_more(incumbents):
    scored(incumbents, "slow", [1.0, 1.0, 1.0, 1.0], 5.0)
    scored(incumbents, "fast", [1.0, 0.0, 1.0, 1.0], 2.0)
    scored(incumbents, "faster", [1.0, 1.0, 1.0, 0.0], 1.0)
    scored(incumbents, "fastest", [1.0, 0.0, 1.0, 0.9], 0.5)
    rival = incumbents.rival({"latency_ms": 2.0}, BAR)
    assert (rival.scores.tolist(), rival.least_mean) == ([1.0, 0.0, 1.0, 1.0], 0.75)
    assert incumbents.rival({"latency_ms": 5.0}, BAR).least_mean == 1.0
    assert incumbents.rival({"latency_ms": 0.6}, BAR).least_mean == pytest.approx(0.725)


def test_below_the_bar_the_bar_itself_asks_the_most(incumbents):
    scored(incumbents, "poor", [1.0, 0.0, 0.0, 0.0], 1.0)
    assert incumbents.rival({"latency_ms": 2.0}, BAR) is BAR
    assert incumbents.rival({"latency_ms": 0.5}, BAR) is BAR


def test_without_accuracy_among_the_objectives_only_the_bar_is_raced_against(incumbents):
    scored(incumbents, "good", [1.0, 1.0, 1.0, 1.0], 1.0)
    assert incumbents.rival({"latency_ms": 2.0}, BAR, by_accuracy=False) is BAR


def test_a_dropped_candidate_is_nobodys_rival(incumbents):
    scored(incumbents, "good", [1.0, 0.0, 1.0, 1.0], 1.0)
    scored(incumbents, "dropped", [1.0, 1.0], 1.0, dropped=True)
    assert incumbents.rival({"latency_ms": 2.0}, BAR).least_mean == 0.75


def test_what_its_rival_beats_on_everything_needs_no_file(incumbents):
    scored(incumbents, "good", [1.0, 1.0, 1.0, 1.0], 1.0)
    scored(incumbents, "worse", [1.0, 0.0, 1.0, 1.0], 2.0, rival=incumbents.rival({"latency_ms": 2.0}, BAR))
    assert [it.name for it in incumbents.folder.iterdir()] == ["good.npy"]


def test_the_scores_of_a_recipe_that_a_killed_search_had_not_recorded_are_not_used(incumbents):
    incumbents.keep("lost", Raced(1.0, np.ones(4), dropped=False), BAR)
    assert incumbents.rival({"latency_ms": 9.0}, BAR) is None


def test_the_share_of_samples_saved_is_of_what_full_scores_would_take(incumbents):
    assert samples_saved(incumbents.journal) == 0.0
    scored(incumbents, "full", [1.0] * 4, 1.0)
    scored(incumbents, "dropped", [1.0], 1.0, dropped=True)
    scored(incumbents, "failed", [float("nan")], 1.0)
    assert samples_saved(incumbents.journal) == 1 - 5 / 8

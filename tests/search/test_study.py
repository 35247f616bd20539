import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from gulliver.search.incumbents import Incumbents
from gulliver.search.journal import Journal, Scores
from gulliver.search.racing import Rival, race
from gulliver.search.samplers import Nsga2, Random, Solve, Tpe
from gulliver.search.settings import OBJECTIVES, Race, SearchSettings
from gulliver.search.study import Candidate, front, open_study, seeds
from optuna.trial import TrialState


class Killed(BaseException):
    """Stands for kill -9: nothing that catches errors catches it."""


def settings(trials=14, sampler=None, **others):
    return SearchSettings(trials=trials, batch=3, seed=7, sampler=sampler or Tpe(startup_trials=8), **others)


def study_in(folder, space, price, wanted, guide=None):
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "scores.jsonl")

    def constraints(scores):
        return {"max_drop": 0.5 - scores.accuracy_search}

    return open_study(folder / "study.log", space, wanted, journal, price, constraints, guide)


def run(folder, space, price, wanted, guide=None, told=lambda candidate: None):
    study = study_in(folder, space, price, wanted, guide if wanted.sampler.guided else None)
    study.run(told)
    return study


def outcome(study):
    return [(it.trial, it.recipe.key, it.scores.latency_ms, it.proposed_by) for it in study.candidates()]


@pytest.mark.parametrize("sampler", [Tpe(startup_trials=8), Nsga2(population=6), Random(), Solve()])
def test_the_same_seed_gives_the_same_trials(tmp_path, space, price, guide, sampler):
    first = run(tmp_path / "first", space, price, settings(sampler=sampler), guide)
    second = run(tmp_path / "second", space, price, settings(sampler=sampler), guide)
    assert outcome(first) == outcome(second)
    assert len(outcome(first)) == 14


def test_a_recipe_is_tried_out_as_one_more_trial_and_only_once(tmp_path, space, price, guide):
    study = run(tmp_path, space, price, settings(sampler=Solve()), guide)
    rungs = {it.name: (it.rungs - 1) * (at % 2) for at, it in enumerate(space.dimensions)}
    tried = study.try_out(rungs, "a test")
    assert (tried.trial, tried.proposed_by, tried.recipe.key) == (14, "a test", space.decode(rungs).key)
    assert study.try_out(rungs, "another test") == tried
    read = study_in(tmp_path, space, price, settings(sampler=Solve()), guide)
    assert read.candidates()[14:] == [tried]
    read.run(lambda candidate: pytest.fail("no place is left for a trial"))


def test_another_seed_gives_other_trials(tmp_path, space, price):
    first = run(tmp_path / "first", space, price, settings())
    other = SearchSettings(trials=14, batch=3, seed=8, sampler=Tpe(startup_trials=8))
    assert outcome(first) != outcome(run(tmp_path / "second", space, price, other))


@pytest.mark.parametrize("killed_at", [1, 4, 8, 12])
@pytest.mark.parametrize("sampler", [Tpe(startup_trials=8), Nsga2(population=6), Solve()])
def test_a_search_killed_while_scoring_ends_as_one_that_was_not(tmp_path, space, price, guide, sampler, killed_at):
    straight = run(tmp_path / "straight", space, price, settings(sampler=sampler), guide)
    scored = []

    def dying(recipe):
        if len(scored) == killed_at:
            raise Killed
        scored.append(recipe.key)
        return price(recipe)

    with pytest.raises(Killed):
        run(tmp_path / "killed", space, dying, settings(sampler=sampler), guide)

    def scoring(recipe):
        scored.append(recipe.key)
        return price(recipe)

    resumed = run(tmp_path / "killed", space, scoring, settings(sampler=sampler), guide)
    assert outcome(resumed) == outcome(straight)
    assert len(scored) == len(set(scored)), "a recipe was scored twice"


@pytest.mark.parametrize("sampler", [Tpe(startup_trials=8), Solve()])
def test_a_search_killed_between_two_parameters_ends_as_one_that_was_not(
    tmp_path, space, price, guide, sampler, monkeypatch
):
    straight = run(tmp_path / "straight", space, price, settings(sampler=sampler), guide)
    suggested = []
    suggest = optuna.Trial.suggest_int

    def dying(trial, name, low, high):
        suggested.append(name)
        if len(suggested) == 11 * len(space.dimensions) + 3:
            raise Killed
        return suggest(trial, name, low, high)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "suggest_int", dying)
        with pytest.raises(Killed):
            run(tmp_path / "killed", space, price, settings(sampler=sampler), guide)
    assert outcome(run(tmp_path / "killed", space, price, settings(sampler=sampler), guide)) == outcome(straight)


def test_a_score_that_optuna_was_never_told_is_not_computed_again(tmp_path, space, price, monkeypatch):
    scored = []

    def scoring(recipe):
        scored.append(recipe.key)
        return price(recipe)

    def failing(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", failing)
        with pytest.raises(Killed):
            run(tmp_path / "run", space, scoring, settings())
    assert len(scored) == 1
    run(tmp_path / "run", space, scoring, settings())
    assert scored.count(scored[0]) == 1


def test_a_search_can_be_given_more_trials(tmp_path, space, price):
    straight = run(tmp_path / "straight", space, price, settings(trials=15))
    run(tmp_path / "grown", space, price, settings(trials=9))
    assert outcome(run(tmp_path / "grown", space, price, settings(trials=15))) == outcome(straight)


def test_the_first_trials_are_the_untouched_and_the_uniform_recipes(tmp_path, space, price):
    expected = [(name, recipe.key) for name, recipe in seeds(space)]
    candidates = run(tmp_path / "run", space, price, settings()).candidates()
    assert [(it.proposed_by, it.recipe.key) for it in candidates[: len(expected)]] == expected
    assert {it.proposed_by for it in candidates[len(expected) :]} == {"tpe"}


def test_a_guided_search_says_of_every_trial_who_proposed_it_when_it_is_told_and_afterwards(
    tmp_path, space, price, guide
):
    told = []
    study = run(tmp_path / "run", space, price, settings(sampler=Solve()), guide, told.append)
    names = [it.proposed_by for it in study.candidates()]
    assert [it.proposed_by for it in told] == names
    assert names[:6] == ["untouched", "uniform int8", *["exact solve"] * 4]
    assert "solve" not in names, "the sampler's name stands where nobody is named"
    assert len(told) == 14
    # Rungs, because a rank that saves nothing on thinned channels decodes to another's recipe.
    assert len({tuple(it.params.values()) for it in study.optuna_study.trials}) == 14


def test_a_guided_search_goes_on_after_a_score_that_is_not_a_number(tmp_path, space, price, guide):
    scored = []

    def scoring(recipe):
        scored.append(recipe.key)
        return Scores(math.nan, 1.0, 1.0) if len(scored) in (4, 9) else price(recipe)

    study = run(tmp_path / "run", space, scoring, settings(sampler=Solve()), guide)
    states = [it.state for it in study.optuna_study.trials]
    assert (len(states), states.count(TrialState.FAIL)) == (14, 2)


def test_a_candidate_whose_score_is_not_a_number_fails_with_its_recipe_and_the_search_goes_on(tmp_path, space, price):
    def scoring(recipe):
        return Scores(math.nan, 1.0, 1.0) if recipe.key == space.uniform().key else price(recipe)

    study = run(tmp_path / "run", space, scoring, settings())
    failed = study.optuna_study.get_trials(states=(TrialState.FAIL,))
    assert [space.suggest(trial).key for trial in failed] == [space.uniform().key]
    assert len(study.candidates()) == 13


def test_constraints_are_told_to_optuna(tmp_path, space, price):
    study = run(tmp_path / "run", space, price, settings())
    trial = study.optuna_study.trials[0]
    assert trial.system_attrs["constraints:max_drop"] == pytest.approx(
        0.5 - study.candidates()[0].scores.accuracy_search
    )


def test_three_objectives_are_searched_together(tmp_path, space, price):
    wanted = settings(objectives=("accuracy_search", "latency_ms", "size_bytes"))
    study = run(tmp_path / "run", space, price, wanted)
    assert len(study.optuna_study.best_trials[0].values) == 3


def candidate(trial, accuracy, latency_ms, violation=0.0):
    return Candidate(trial, None, Scores(accuracy, latency_ms, 1.0), violation, "test")


def test_the_front_holds_what_no_other_candidate_beats_fastest_first():
    slow, fast, beaten, twin = (
        candidate(0, 0.9, 5.0),
        candidate(1, 0.8, 2.0),
        candidate(2, 0.79, 3.0),
        candidate(3, 0.8, 2.0),
    )
    assert [it.trial for it in front([slow, fast, beaten, twin], ("accuracy_search", "latency_ms"))] == [1, 0]


@pytest.mark.parametrize("objectives", [("accuracy_search", "latency_ms"), tuple(OBJECTIVES)])
def test_the_front_of_many_candidates_is_what_comparing_every_two_finds(objectives):
    random = np.random.default_rng(0)
    # What is more accurate is slower, roughly, and many share a score.
    scores = (random.integers(0, 40, (300, 1)) + random.integers(0, 4, (300, 3))).astype(float).tolist()
    candidates = [Candidate(trial, None, Scores(*it), 0.0, "test") for trial, it in enumerate(scores)]
    costs = [(-accuracy, latency_ms, size_bytes) for accuracy, latency_ms, size_bytes in scores]
    costs = [it[: len(objectives)] for it in costs]
    unbeaten = [
        trial
        for trial, cost in enumerate(costs)
        if cost not in costs[:trial]
        and not any(other != cost and all(a <= b for a, b in zip(other, cost, strict=True)) for other in costs)
    ]
    assert sorted(it.trial for it in front(candidates, objectives)) == unbeaten
    assert 10 < len(unbeaten) < 300


def test_the_front_leaves_out_infeasible_candidates_unless_all_are():
    good, bad = candidate(0, 0.9, 5.0), candidate(1, 0.5, 2.0, violation=0.3)
    assert [it.trial for it in front([good, bad], ("accuracy_search", "latency_ms"))] == [0]
    assert [it.trial for it in front([bad], ("accuracy_search", "latency_ms"))] == [1]


class Raced:
    """Scores samples as the price says, and races: harder samples fail cheaper recipes."""

    def __init__(self, folder, price):
        self.incumbents = Incumbents(Journal(folder / "scores.jsonl"), folder / "samples")
        self.price, self.difficulty = price, np.random.default_rng(0).random(400)

    def __call__(self, recipe):
        priced = self.price(recipe)
        answers = (self.difficulty < priced.accuracy_search).astype(float)
        bar = Rival(np.ones(400), 0.5)
        rival = self.incumbents.rival({"latency_ms": priced.latency_ms}, bar)
        settings = Race(first_slice=400 if rival is None else 50)
        raced = race(lambda start, stop: answers[start:stop], rival or bar, settings)
        self.incumbents.keep(recipe.key, raced, rival)
        return replace(priced, accuracy_search=raced.mean, samples=len(raced.scores), dropped=raced.dropped)


def run_raced(folder, space, price, wanted, guide):
    folder.mkdir(exist_ok=True)
    raced = Raced(folder, price)
    journal = raced.incumbents.journal
    guide = guide if wanted.sampler.guided else None
    study = open_study(
        folder / "study.log", space, wanted, journal, raced, lambda it: {"bar": 0.5 - it.accuracy_search}, guide
    )
    study.run(lambda candidate: None)
    return study


@pytest.mark.parametrize("sampler", [Random(), Solve()])
def test_a_raced_search_that_is_killed_races_against_the_same_incumbents(tmp_path, space, price, guide, sampler):
    wanted = settings(trials=12, sampler=sampler)
    straight = run_raced(tmp_path / "straight", space, price, wanted, guide)
    scored = []

    def dying(recipe):
        if len(scored) == 7:
            raise Killed
        scored.append(recipe.key)
        return price(recipe)

    with pytest.raises(Killed):
        run_raced(tmp_path / "killed", space, dying, wanted, guide)
    resumed = run_raced(tmp_path / "killed", space, price, wanted, guide)
    assert [it.scores for it in resumed.candidates()] == [it.scores for it in straight.candidates()]
    assert any(it.scores.dropped for it in straight.candidates())
    assert not any(it.scores.dropped for it in front(straight.candidates(), ("accuracy_search", "latency_ms")))


def test_a_candidate_that_was_dropped_in_a_race_is_never_on_the_front():
    good, dropped = candidate(0, 0.9, 5.0), candidate(1, 0.95, 2.0)
    dropped = replace(dropped, scores=replace(dropped.scores, dropped=True))
    assert [it.trial for it in front([good, dropped], ("accuracy_search", "latency_ms"))] == [0]
    assert front([dropped], ("accuracy_search", "latency_ms")) == []

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.finalists import Exported
from gulliver.search.journal import Journal
from gulliver.search.make_finalists import SOLVED_BETWEEN, FinalistMaker
from gulliver.search.samplers import Random, Solve
from gulliver.search.settings import Budget, FinalistSettings, SearchSettings
from gulliver.search.study import open_study

TRIALS = 6
MAX_DROP = 0.00575


class Killed(BaseException):
    """Stands for kill -9: nothing that catches errors catches it."""


@dataclass
class QuarteringBench:
    """A bench in which fine-tuning leaves a quarter of what `price` says is lost; dies before so many exports."""

    price: object
    dies_at: int = 99
    made: list = field(default_factory=list)

    def export(self, name, recipe, watch):
        assert watch == ("watch", recipe.key)
        if len(self.made) == self.dies_at:
            raise Killed
        self.made.append(name)
        return Exported(None, 1 - (1 - self.price(recipe).accuracy_search) / 4, 0.0, 10, "bfloat16", 0.0)


def searched(folder, space, price, guide, sampler):
    """Return a finished study with its settings."""
    folder.mkdir(exist_ok=True)
    settings = SearchSettings(
        trials=TRIALS,
        seed=7,
        sampler=sampler or Solve(),
        budget=Budget(max_drop=MAX_DROP),
        finalists=FinalistSettings(count=4, other_drops=(0.015,)),
    )

    def constraints(scores):
        return {"max_drop": 0.5 - scores.accuracy_search}

    known = guide if settings.sampler.guided else None
    journal = Journal(folder / "scores.jsonl")
    study = open_study(folder / "study.log", space, settings, journal, price, constraints, known)
    study.run(lambda candidate: None)
    return study, settings


def watch(recipe):
    return "watch", recipe.key


def finalists(folder, space, price, guide, bench, sampler=None):
    study, settings = searched(folder, space, price, guide, sampler)
    told, said = [], []
    original = Exported(None, 1.0, 0.0, 1000, "bfloat16", 0.0)
    made = FinalistMaker(bench, study, original, settings, 1.0, told.append, watch, said.append).make()
    return made, study, told


def test_where_the_front_has_a_gap_a_recipe_is_solved_for_and_tried_as_one_more_trial(tmp_path, space, price, guide):
    made, study, told = finalists(tmp_path, space, price, guide, QuarteringBench(price))
    extra = study.candidates()[TRIALS:]
    assert {it.proposed_by for it in extra} == {SOLVED_BETWEEN}
    assert [it.trial for it in extra] == sorted({it.trial for it in told})
    assert {it.recipe.key for it in extra} & made.keys()


def knowing(guide, space, price):
    """Return a guide whose tables say what `price` says of each choice alone, which is all that it adds up."""
    names = [it.name for it in space.dimensions]

    def alone(name, rung):
        return price(space.decode(dict.fromkeys(names, 0) | {name: rung}))

    scores = [[alone(it.name, rung) for rung in range(it.rungs)] for it in space.dimensions]
    loss = tuple(Factor((at,), np.array([1 - it.accuracy_search for it in of])) for at, of in enumerate(scores))
    latency = tuple(
        Factor((at,), np.array([10 / len(names) + it.latency_ms - 10 for it in of])) for at, of in enumerate(scores)
    )
    return replace(guide, problem=replace(guide.problem, loss=loss, latency_ms=latency))


def test_what_was_solved_for_comes_nearer_to_the_budget_than_the_trials(tmp_path, space, price, guide):
    made, study, _ = finalists(tmp_path, space, price, knowing(guide, space, price), QuarteringBench(price))
    within = [it for it in study.candidates() if 1 - it.scores.accuracy_search <= 4 * MAX_DROP]
    fastest = min(within, key=lambda it: it.scores.latency_ms)
    assert fastest.proposed_by == SOLVED_BETWEEN
    assert fastest.recipe.key in made


def test_without_a_guide_finalists_are_trials(tmp_path, space, price, guide):
    made, study, told = finalists(tmp_path, space, price, guide, QuarteringBench(price), Random())
    assert (len(study.candidates()), told) == (TRIALS, [])
    assert made.keys() <= {it.recipe.key for it in study.candidates()}


@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_killed_between_two_finalists_a_search_makes_the_same_ones(tmp_path, space, price, guide, dies_at):
    straight, study, _ = finalists(tmp_path / "straight", space, price, guide, QuarteringBench(price))
    with pytest.raises(Killed):
        finalists(tmp_path / "killed", space, price, guide, QuarteringBench(price, dies_at))
    resumed, again, _ = finalists(tmp_path / "killed", space, price, guide, QuarteringBench(price))
    assert [*resumed] == [*straight]
    assert [it.recipe.key for it in again.candidates()] == [it.recipe.key for it in study.candidates()]

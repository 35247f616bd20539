from dataclasses import replace

import numpy as np
import optuna
import pytest
from gulliver.evaluators.factors import Factor
from gulliver.search.guide import Guide
from gulliver.search.hypervolume import hypervolume
from gulliver.search.problem import Problem
from gulliver.search.proposer import EXACT_SOLVE, Proposer
from gulliver.search.solving_sampler import PROPOSED_BY, SolvingSampler, history_of
from optuna.trial import TrialState

from benchmarks.search.chain_problem import chain_problem

LOWEST, SLOWEST_MS = 0.5, 10.0


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


class Search:
    """A chain's truth as a study of two objectives."""

    def __init__(self, chain, sampler):
        self.chain, self.problem = chain, chain.known
        self.study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def ask(self):
        trial = self.study.ask()
        for name, size in zip(self.problem.names, self.problem.sizes, strict=True):
            trial.suggest_int(name, 0, size - 1)
        return trial

    def tell(self, trial):
        rungs = np.array([[trial.params[name] for name in self.problem.names]])
        self.study.tell(trial, [float(self.chain.accuracy(rungs)[0]), float(self.problem.latency_ms_of(rungs)[0])])

    def run(self, trials):
        for _ in range(trials):
            self.tell(self.ask())
        return self

    @property
    def rungs(self):
        """The recipes of all trials that have one."""
        whole = [it.params for it in self.study.trials if len(it.params) == len(self.problem.names)]
        return [tuple(it[name] for name in self.problem.names) for it in whole]

    @property
    def hypervolume(self):
        points = [(latency_ms, accuracy) for accuracy, latency_ms in (it.values for it in self.study.trials)]
        return hypervolume(points, (SLOWEST_MS, LOWEST))


def guide_of(problem, highest_latency_ms=SLOWEST_MS):
    return Guide(problem, tuple(range(len(problem.sizes))), 1.0, LOWEST, highest_latency_ms)


def solving(chain, seed=0):
    return Search(chain, SolvingSampler(Proposer(guide_of(chain.known)), seed))


@pytest.fixture(scope="module")
def chain():
    return chain_problem(8, 4, seed=0)


def test_the_same_seed_gives_the_same_trials(chain):
    first, second = (solving(chain, 0).run(10).rungs for _ in range(2))
    assert first == second


def test_no_recipe_is_tried_twice_and_everyone_says_who_proposed_it(chain):
    search = solving(chain).run(16)
    assert len(set(search.rungs)) == 16
    proposers = [it.user_attrs[PROPOSED_BY] for it in search.study.trials]
    assert proposers[:4] == [EXACT_SOLVE] * 4
    assert all(proposers)


def test_a_trial_knows_who_proposed_it_before_it_is_told(chain):
    assert solving(chain).ask().user_attrs[PROPOSED_BY] == EXACT_SOLVE


def test_trials_of_a_batch_are_different_and_apart(chain):
    search = solving(chain).run(8)
    batch = [search.ask() for _ in range(4)]
    rungs = [tuple(it.params[name] for name in search.problem.names) for it in batch]
    assert len({*rungs, *search.rungs[:8]}) == 12
    for trial in batch:
        search.tell(trial)
    search.run(2)


def test_recipes_that_were_queued_are_tried_as_they_are(chain):
    search = solving(chain)
    queued = dict.fromkeys(search.problem.names, 3)
    search.study.enqueue_trial(queued)
    search.run(2)
    assert search.study.trials[0].params == queued
    assert PROPOSED_BY not in search.study.trials[0].user_attrs


def test_a_failed_trial_and_one_that_failed_before_it_was_proposed_are_no_hindrance(chain):
    search = solving(chain).run(5)
    search.study.tell(search.ask(), state=TrialState.FAIL)
    search.study.tell(search.study.ask(), state=TrialState.FAIL)
    half = search.study.ask()
    half.suggest_int(search.problem.names[0], 0, 3)
    search.study.tell(half, state=TrialState.FAIL)
    search.run(4)
    states = [it.state for it in search.study.trials]
    assert states.count(TrialState.FAIL) == 3
    assert len(set(search.rungs)) == len(search.rungs) == 10


@pytest.mark.parametrize("score_index", [0, 1])
def test_a_history_holds_the_objective_that_is_the_score_where_a_trial_has_one(chain, score_index):
    search = solving(chain)
    told, failed, asked = search.ask(), search.ask(), search.ask()
    search.study.tell(told, [0.8, 3.5])
    search.study.tell(failed, state=TrialState.FAIL)
    search.study.ask()
    history = history_of(search.study.trials, replace(guide_of(chain.known), score_index=score_index))
    assert history.rungs.tolist() == [
        [it.params[name] for name in search.problem.names] for it in (told, failed, asked)
    ]
    assert history.scores.tolist() == pytest.approx([(0.8, 3.5)[score_index], -np.inf, np.nan], nan_ok=True)


def test_scores_that_are_not_numbers_are_no_hindrance(chain):
    search = solving(chain).run(5)
    with pytest.warns(UserWarning, match="nan"):
        search.study.tell(search.ask(), [float("nan"), 1.0], skip_if_finished=False)
    search.run(2)


def test_scores_that_are_all_the_same_are_no_hindrance(chain):
    search = solving(chain)
    for _ in range(12):
        trial = search.ask()
        search.study.tell(trial, [0.9, 5.0])
    assert len(set(search.rungs)) == 12


def test_a_single_variable_is_tried_at_every_rung_and_then_again():
    tables = [(Factor((0,), np.array(costs)),) for costs in ([0.0, 0.1, 0.5], [3.0, 2.0, 1.0])]
    problem = Problem(("precision/only",), (3,), *tables)
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=SolvingSampler(Proposer(guide_of(problem, 3.0)), 0)
    )
    tried = []
    for _ in range(5):
        trial = study.ask()
        tried.append(trial.suggest_int("precision/only", 0, 2))
        study.tell(trial, [1.0 - 0.2 * tried[-1], 3.0 - tried[-1]])
    assert sorted(tried[:3]) == [0, 1, 2]
    assert set(tried[3:]) <= {0, 1, 2}


def test_a_parameter_that_is_not_of_the_problem_is_drawn_at_random(chain):
    trial = solving(chain).study.ask()
    assert 0.0 <= trial.suggest_float("learning_rate", 0.0, 1.0) <= 1.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forty_trials_reach_further_than_those_of_random_search_and_of_nsga_ii(seed):
    chain = chain_problem(12, 4, seed)
    others = optuna.samplers.RandomSampler(seed), optuna.samplers.NSGAIISampler(population_size=10, seed=seed)
    reached = solving(chain, seed).run(40).hypervolume
    assert reached > max(Search(chain, sampler).run(40).hypervolume for sampler in others)

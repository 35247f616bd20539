"""Gulliver's own Optuna sampler: exact solves of the predicted problem, then local moves guided by the trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import optuna
from gulliver.search.guide import Guide
from gulliver.search.history import History
from gulliver.search.proposer import EXACT_SOLVE, Proposer
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

PROPOSED_BY = "proposed_by"


@dataclass(frozen=True)
class _Finished:
    """What was tried in a study's first trials as far as all of them are finished, which changes no more.

    `exact` of them are from the ladder of the first exact solve.
    """

    trials: int
    history: History
    exact: int


# Of every study, and every problem and objective that it is searched for.
_finished: WeakKeyDictionary[optuna.Study, dict[tuple[tuple[str, ...], int], _Finished]] = WeakKeyDictionary()


class SolvingSampler(optuna.samplers.BaseSampler):
    """Proposes whole recipes; the same trials and the same seed give the same proposal.

    Trials of the same batch that have no score yet are taken to score as predicted, so that a batch spreads out.
    """

    def __init__(self, proposer: Proposer, seed: int) -> None:
        self._proposer = proposer
        self._seed = seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every variable of the problem with its rungs."""
        problem = self._proposer.guide.problem
        return {name: IntDistribution(0, size - 1) for name, size in zip(problem.names, problem.sizes, strict=True)}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposed rung of every variable, and note on the trial who proposed it."""
        guide = self._proposer.guide
        history, exact_before = _tried(study.get_trials(deepcopy=False)[: trial.number], study, guide)
        rungs, name = self._proposer.propose(history, exact_before, np.random.default_rng(self._seed))
        study._storage.set_trial_user_attr(trial._trial_id, PROPOSED_BY, name)
        # Optuna gives the storage's attributes to a trial only once, before this call.
        trial.set_user_attr(PROPOSED_BY, name)
        return dict(zip(guide.problem.names, rungs.tolist(), strict=True))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value for a parameter that is not of the problem."""
        independent = optuna.samplers.RandomSampler(self._seed)
        return independent.sample_independent(study, trial, param_name, param_distribution)


def _tried(trials: Sequence[FrozenTrial], study: optuna.Study, guide: Guide) -> tuple[History, int]:
    """Return what was tried in these first trials of a study, and in how many of them a step of the first ladder."""
    known = _finished.setdefault(study, {})
    place = guide.problem.names, guide.score_index
    first = known.get(place, _Finished(0, history_of((), guide), 0))
    new = list(takewhile(lambda it: it.state.is_finished(), trials[first.trials :]))
    if new:
        history = first.history.followed_by(history_of(new, guide))
        first = known[place] = _Finished(first.trials + len(new), history, first.exact + _exact(new, guide))
    rest = trials[first.trials :]
    return first.history.followed_by(history_of(rest, guide)), first.exact + _exact(rest, guide)


def _exact(trials: Sequence[FrozenTrial], guide: Guide) -> int:
    return sum(it.user_attrs.get(PROPOSED_BY) == EXACT_SOLVE for it in _proposed(trials, guide))


def history_of(trials: Sequence[FrozenTrial], guide: Guide) -> History:
    """Return what was tried and how it scored: NaN for trials that have no score yet, -inf for those that failed."""
    names, proposed = guide.problem.names, _proposed(trials, guide)
    rungs = np.array([[it.params[name] for name in names] for it in proposed], dtype=np.intp)
    scores = np.array([_score(it, guide.score_index) for it in proposed], dtype=float)
    return History(rungs.reshape(len(proposed), len(names)), scores)


def _proposed(trials: Sequence[FrozenTrial], guide: Guide) -> list[FrozenTrial]:
    """Return the trials that have all rungs: one that failed before it was proposed has none, or a part of them."""
    return [it for it in trials if len(it.params) >= len(guide.problem.names)]


def _score(trial: FrozenTrial, index: int) -> float:
    if trial.state == TrialState.COMPLETE:
        return float(trial.values[index])
    return float("-inf" if trial.state.is_finished() else "nan")

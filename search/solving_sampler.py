"""Gulliver's own Optuna sampler: exact solves of the predicted problem, then local moves guided by the trials."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import optuna
from gulliver.evaluators.factors import Rungs
from gulliver.search.guide import Guide
from gulliver.search.proposer import EXACT_SOLVE, History, Proposer
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

PROPOSED_BY = "proposed_by"
# The rungs of trials by number, of every study and problem that is searched: a trial keeps its parameters.
_rows: WeakKeyDictionary[optuna.Study, dict[tuple[str, ...], dict[int, Rungs]]] = WeakKeyDictionary()


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
        if "fixed_params" in trial.system_attrs:
            return {}
        # A trial that failed before it was proposed has no rungs, or a part of them.
        trials = study.get_trials(deepcopy=False)
        earlier = [it for it in trials if it.number < trial.number and len(it.params) >= len(search_space)]
        exact_before = sum(it.user_attrs.get(PROPOSED_BY) == EXACT_SOLVE for it in earlier)
        random = np.random.default_rng(self._seed)
        guide = self._proposer.guide
        history = history_of(earlier, guide, _rows.setdefault(study, {}).setdefault(guide.problem.names, {}))
        rungs, name = self._proposer.propose(history, exact_before, random)
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


def history_of(trials: Sequence[FrozenTrial], guide: Guide, rows: dict[int, Rungs] | None = None) -> History:
    """Return what was tried and how it scored: NaN for trials that have no score yet, -inf for those that failed.

    `rows` keeps the rungs of trials by number, which are not looked up again.
    """
    names, rows = guide.problem.names, {} if rows is None else rows
    for trial in trials:
        if trial.number not in rows:
            rows[trial.number] = np.array([trial.params[name] for name in names], dtype=np.intp)
    rungs = np.array([rows[it.number] for it in trials], dtype=np.intp).reshape(len(trials), len(names))
    return History(rungs, np.array([_score(it, guide.score_index) for it in trials], dtype=float))


def _score(trial: FrozenTrial, index: int) -> float:
    if trial.state == TrialState.COMPLETE:
        return float(trial.values[index])
    return float("-inf" if trial.state.is_finished() else "nan")

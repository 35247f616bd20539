"""Score a recipe: every objective, and how far each constraint is missed."""

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import Original
from gulliver.evaluators.accuracy import Accuracy, sample_scores, score, split_size
from gulliver.evaluators.latency.target import LatencyModel, Target
from gulliver.evaluators.size import Size
from gulliver.search.incumbents import Incumbents
from gulliver.search.journal import Scores
from gulliver.search.racing import Floats, Raced, Rival, race
from gulliver.search.settings import SearchSettings
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import untouched
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import MetricTask, ScoredTask
from torch import nn


@dataclass(frozen=True)
class Scoring:
    """What a recipe of one network is scored with on one target; `incumbents` is None where nothing is raced."""

    original: Original
    target: Target
    latency: LatencyModel
    settings: SearchSettings
    incumbents: Incumbents | None = None

    def score(self, recipe: Recipe) -> Scores:
        """Return the recipe's simulated accuracy and modelled latency and size."""
        start = time.monotonic()
        latency_ms, size_bytes = self.latency_ms(recipe), Size(self.original.graph)(recipe)
        raced = self._race(recipe, Scores(float("nan"), latency_ms, size_bytes))
        seconds = time.monotonic() - start
        return Scores(raced.mean, latency_ms, size_bytes, seconds, len(raced.scores), raced.dropped)

    def latency_ms(self, recipe: Recipe) -> float:
        """Return the recipe's modelled latency."""
        return self.latency.total_ms(self.target.lower(self.original.graph, recipe))

    @property
    def baseline_accuracy(self) -> float:
        """The untouched network's accuracy on the samples that candidates are scored on.

        Raises InputError where it is not a finite number: nothing could be compared with it.
        """
        if not np.isfinite(self._baseline.mean):
            task = self.original.task.name
            raise InputError(f"the score of {task}'s own network must be a finite number, but is {self._baseline.mean}")
        return self._baseline.mean

    def constraints(self, scores: Scores) -> dict[str, float]:
        """Return by how much each constraint is missed, zero or less where it is met."""
        budget = self.settings.budget
        missed = {"max_drop": self._least_accuracy - scores.accuracy_search}
        if budget.max_latency_ms is not None:
            missed["max_latency_ms"] = scores.latency_ms / budget.max_latency_ms - 1
        if budget.max_size_bytes is not None:
            missed["max_size_bytes"] = scores.size_bytes / budget.max_size_bytes - 1
        return missed

    @property
    def _least_accuracy(self) -> float:
        """The accuracy below which a candidate is infeasible."""
        return self.baseline_accuracy - self.settings.largest_drop

    @cached_property
    def _accuracy(self) -> Accuracy:
        trial = self.settings.trial
        candidates = Candidates(self.original, trial.memory_bytes)
        return Accuracy(self.original, trial.finetune, trial.samples, candidates=candidates)

    @cached_property
    def _untouched(self) -> Recipe:
        return untouched(self.original.graph)

    @cached_property
    def _baseline(self) -> Raced:
        return self._score_in_full(self._accuracy.network(self._untouched))

    def _race(self, recipe: Recipe, scores: Scores) -> Raced:
        """Return the recipe's accuracy, raced against the incumbents where the settings and the task allow it."""
        settings, incumbents = self.settings.trial.race, self.incumbents
        if settings is None or incumbents is None or isinstance(self.original.task, MetricTask):
            return self._in_full(recipe)
        rival = self._rival(incumbents, scores)
        if rival is None:
            raced = self._in_full(recipe)
        else:
            network = self._accuracy.network(recipe)
            raced = race(lambda start, stop: self._scores(network, start, stop), rival, settings)
        incumbents.keep(recipe.key, raced, rival)
        return raced

    def _rival(self, incumbents: Incumbents, scores: Scores) -> Rival | None:
        """Return whom a recipe of these other costs is raced against."""
        budget, objectives = self.settings.budget, self.settings.objectives
        bar = Rival(self._baseline.scores, self._least_accuracy)
        limited = {"latency_ms": budget.max_latency_ms, "size_bytes": budget.max_size_bytes}
        costs = {name: getattr(scores, name) for name in limited if name in objectives or limited[name] is not None}
        return incumbents.rival(costs, bar, by_accuracy="accuracy_search" in objectives)

    def _in_full(self, recipe: Recipe) -> Raced:
        """Return the recipe's scores; those of the untouched network, which all are compared with, are known."""
        return self._baseline if recipe == self._untouched else self._score_in_full(self._accuracy.network(recipe))

    def _score_in_full(self, network: nn.Module) -> Raced:
        task = self.original.task
        if isinstance(task, MetricTask):
            return Raced(score(task, network, "search"), np.empty(0), dropped=False)
        assert isinstance(task, ScoredTask)
        scores = self._scores(network, 0, split_size(task, "search", self.settings.trial.samples))
        return Raced(float(scores.mean()), scores, dropped=False)

    def _scores(self, network: nn.Module, start: int, stop: int) -> Floats:
        scores = sample_scores(self.original.task, network, "search", start, stop)
        assert scores is not None
        return np.asarray(scores.numpy(force=True))

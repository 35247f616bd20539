"""Score a recipe: every objective, and how far each constraint is missed."""

import time
from dataclasses import dataclass
from functools import cached_property

from gulliver.compressors.compress import Original
from gulliver.evaluators.accuracy import Accuracy
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.target import LatencyModel
from gulliver.evaluators.size import Size
from gulliver.search.journal import Scores
from gulliver.search.settings import SearchSettings
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import untouched


@dataclass(frozen=True)
class Scoring:
    """What a recipe of one network is scored with on one target."""

    original: Original
    target: CpuOpenvino
    latency: LatencyModel
    settings: SearchSettings

    def score(self, recipe: Recipe) -> Scores:
        """Return the recipe's simulated accuracy and modelled latency and size."""
        start = time.monotonic()
        accuracy = self._accuracy(recipe)
        size_bytes = Size(self.original.graph)(recipe)
        return Scores(accuracy, self.latency_ms(recipe), size_bytes, time.monotonic() - start)

    def latency_ms(self, recipe: Recipe) -> float:
        """Return the recipe's modelled latency."""
        return self.latency.total_ms(self.target.lower(self.original.graph, recipe))

    @cached_property
    def baseline_accuracy(self) -> float:
        """The untouched network's accuracy on the samples that candidates are scored on."""
        return self._accuracy(untouched(self.original.graph))

    def _accuracy(self, recipe: Recipe) -> float:
        trial = self.settings.trial
        return Accuracy(self.original, trial.finetune, trial.samples)(recipe)

    def constraints(self, scores: Scores) -> dict[str, float]:
        """Return by how much each constraint is missed, zero or less where it is met."""
        budget, finalists = self.settings.budget, self.settings.finalists
        recoverable = finalists.recoverable_drop if finalists.finetune else 0.0
        missed = {"max_drop": self.baseline_accuracy - scores.accuracy_search - budget.max_drop - recoverable}
        if budget.max_latency_ms is not None:
            missed["max_latency_ms"] = scores.latency_ms / budget.max_latency_ms - 1
        if budget.max_size_bytes is not None:
            missed["max_size_bytes"] = scores.size_bytes / budget.max_size_bytes - 1
        return missed

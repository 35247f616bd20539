"""Accuracy of a candidate: the task's own score of the network that would be exported."""

from dataclasses import dataclass
from typing import Literal

import torch
from gulliver.compressors.compress import Original, compress
from gulliver.compressors.finetune import Recovery
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import MetricTask, ScoredTask, Split, Task
from torch import nn


@dataclass(frozen=True)
class Accuracy:
    """The simulated network's score on the search split, in the task's own units."""

    original: Original
    recovery: Recovery | None = None
    name: str = "accuracy_search"
    direction: Literal["minimize", "maximize"] = "maximize"

    def __call__(self, recipe: Recipe) -> float:
        """Return the score of the recipe's network; NaN where its scores are not numbers."""
        return score(self.original.task, compress(self.original, recipe, recovery=self.recovery), "search")


def score(task: Task, model: nn.Module, split: Split) -> float:
    """Return the model's mean score, or metric, on the whole split; raises InputError for an empty split."""
    with torch.inference_mode():
        if isinstance(task, MetricTask):
            return float(task.metric(model, split))
        assert isinstance(task, ScoredTask)
        size = task.size(split)
        if size < 1:
            raise InputError(f"the {split} split of task {task.name} must have a sample, but has {size}")
        return float(task.scores(model, split, 0, size).double().mean())

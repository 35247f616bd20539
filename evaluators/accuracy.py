"""Accuracy of a candidate: the task's own score of the network that would be exported."""

from dataclasses import dataclass
from typing import Literal

import torch
from gulliver.compressors.candidates import Candidates
from gulliver.compressors.compress import Original, compress, is_thinned
from gulliver.compressors.finetune import Recovery
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import ExpectingTask, MetricTask, ScoredTask, Split, Task
from torch import Tensor, nn


@dataclass(frozen=True)
class Accuracy:
    """The simulated network's score on the search split, in the task's own units.

    `candidates`, of the same original, make the networks of recipes that are not recovered: equal ones, sooner, in
    the memory that they were given.
    """

    original: Original
    recovery: Recovery | None = None
    samples: int | None = None
    name: str = "accuracy_search"
    direction: Literal["minimize", "maximize"] = "maximize"
    candidates: Candidates | None = None

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates.original is not self.original:
            raise InputError("the candidates must be of the original that is scored, but are of another")

    def __call__(self, recipe: Recipe) -> float:
        """Return the score of the recipe's network; NaN where its scores are not numbers."""
        return score(self.original.task, self.network(recipe), "search", self.samples)

    def network(self, recipe: Recipe) -> nn.Module:
        """Return the recipe's simulated network, which is scored whole or slice by slice."""
        recovers = self.recovery is not None and self.recovery.steps > 0 and is_thinned(recipe)
        if self.candidates is None or recovers:
            return compress(self.original, recipe, recovery=self.recovery)
        return self.candidates.network(recipe)


def check_task(task: Task) -> None:
    """Raise InputError where the task can be scored in neither way."""
    if not isinstance(task, ScoredTask | MetricTask):
        raise InputError(f"the task {task.name} must have `size` and `scores`, or `metric`, to be scored by")


def sample_scores(task: Task, model: nn.Module, split: Split, start: int = 0, stop: int | None = None) -> Tensor | None:
    """Return shape (stop - start,): the model's scores of these samples, of all where `stop` is None.

    None where the metric is no mean. Raises InputError for an empty split.
    """
    if isinstance(task, MetricTask):
        return None
    assert isinstance(task, ScoredTask)
    with torch.inference_mode():
        return task.scores(model, split, start, split_size(task, split) if stop is None else stop).double()


def expected_scores(task: Task, model: nn.Module, split: Split) -> Tensor | None:
    """Return shape (samples,): the model's scores on the split, the luck of labels aside; None where no one can tell.

    Raises InputError for an empty split.
    """
    if not isinstance(task, ExpectingTask):
        return None
    with torch.inference_mode():
        return task.expected_scores(model, split, 0, split_size(task, split)).double()


def split_size(task: ScoredTask, split: Split, samples: int | None = None) -> int:
    """Return how many of the split's samples are scored: the first `samples`, or all where that is None.

    Raises InputError for an empty split.
    """
    size = task.size(split)
    if size < 1:
        raise InputError(f"the {split} split of task {task.name} must have a sample, but has {size}")
    return min(size, samples or size)


def paired_standard_error(scores: Tensor | None, others: Tensor | None) -> float:
    """Return the standard error of the mean difference of two networks' scores of the same samples, 0 if unknown."""
    if scores is None or others is None or len(scores) < 2:
        return 0.0
    return float((scores - others).std() / len(scores) ** 0.5)


def score(task: Task, model: nn.Module, split: Split, samples: int | None = None) -> float:
    """Return the model's mean score on the split's first samples, on all of them where `samples` is None.

    A metric that is no mean is always that of the whole split. Raises InputError for an empty split.
    """
    with torch.inference_mode():
        if isinstance(task, MetricTask):
            return float(task.metric(model, split))
        assert isinstance(task, ScoredTask)
        return float(task.scores(model, split, 0, split_size(task, split, samples)).double().mean())

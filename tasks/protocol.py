"""What a task is: a trained model, its calibration inputs and its scored evaluation data."""

from collections.abc import Iterable
from typing import Literal, Protocol, get_args, runtime_checkable

from torch import Tensor, nn

Split = Literal["search", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Inputs = tuple[Tensor, ...]


class Task(Protocol):
    """A trained model with what is needed to compress and to judge it."""

    @property
    def name(self) -> str:
        """Return the name that recipes and reports carry."""

    @property
    def model(self) -> nn.Module:
        """Return the trained model in evaluation mode; nobody changes it in place."""

    @property
    def example_inputs(self) -> Inputs:
        """Return one tuple of positional inputs, the batch first, from which shapes are traced."""

    def calibration(self) -> Iterable[Inputs]:
        """Return the same few input batches each time; none is from the search or the test split."""


@runtime_checkable
class ScoredTask(Task, Protocol):
    """A task whose metric is a mean of one score per sample, higher being better.

    A split's samples are in random order: racing judges a network by the first of them.
    """

    def size(self, split: Split) -> int:
        """Return the number of samples in the split."""

    def scores(self, model: nn.Module, split: Split, start: int, stop: int) -> Tensor:
        """Return shape (stop - start,): the score of each of those samples."""


@runtime_checkable
class ExpectingTask(ScoredTask, Protocol):
    """A scored task whose original network also tells what scores are to be expected, the luck of labels aside.

    What a network loses of them on one split is much nearer to what it will lose on another than what it loses of its
    scores: where the original happened to be right more often than it was sure of being, all others lose that luck.
    """

    def expected_scores(self, model: nn.Module, split: Split, start: int, stop: int) -> Tensor:
        """Return shape (stop - start,): each sample's score if the original's calibrated confidence drew its label."""


@runtime_checkable
class MetricTask(Task, Protocol):
    """A task whose metric is one number of the whole split, higher being better; it is not raced."""

    def metric(self, model: nn.Module, split: Split) -> float:
        """Return the metric of the model on the split."""


@runtime_checkable
class DistillingTask(Task, Protocol):
    """A task that says what its model's outputs are, for how far others are from them.

    Other tasks' outputs are taken for logits along the last of two or three dimensions where it is longer than 1, else
    for values.
    """

    @property
    def class_dimension(self) -> int | None:
        """Return the dimension of the outputs along which there is a logit for each class, None for values."""


@runtime_checkable
class TrainingTask(Task, Protocol):
    """A task with unlabelled training inputs, on which finalists learn from the original network."""

    def training(self, epoch: int) -> Iterable[Inputs]:
        """Return the epoch's batches: shuffled by the epoch's number alone, so that a run can be repeated.

        There is one at least, each time anew, and of no epoch are more taken than epoch 0 has.
        """

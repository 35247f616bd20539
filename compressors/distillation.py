"""Distillation: a network learns to give the outputs of another, and to tell inputs apart as it does.

Sources: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; for features, Tung and Mori,
"Similarity-Preserving Knowledge Distillation", ICCV 2019, which needs no equal numbers of channels.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from gulliver.compressors.layer_inputs import CompressibleLayer
from gulliver.tasks.protocol import DistillingTask, Inputs, Task
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Lesson:
    """What the student is to give for some inputs: the outputs, and what the last layer reads, if asked for."""

    inputs: Inputs
    outputs: Tensor
    features: Tensor | None = None


@dataclass(frozen=True)
class Distance:
    """How far a student is from a lesson of the task; in bfloat16 where `half`."""

    task: Task
    temperature: float
    half: bool = True
    features_layer: str | None = None
    feature_weight: float = 0.0

    def __call__(self, student: nn.Module, lesson: Lesson) -> Tensor:
        """Return the divergence of the outputs, and the weighted difference of the features' similarities."""
        inputs = (_channels_last(tensor) for tensor in lesson.inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half), reading(student, self.features_layer) as read:
            given = student(*inputs)
        distance = self._of_outputs(given, lesson.outputs)
        if lesson.features is None:
            return distance
        return distance + self.feature_weight * similarity_difference(read[0], lesson.features)

    def _of_outputs(self, given: Tensor, wanted: Tensor) -> Tensor:
        classes = class_dimension(self.task, wanted)
        return (
            relative_error(given, wanted) if classes is None else divergence(given, wanted, self.temperature, classes)
        )


def class_dimension(task: Task, outputs: Tensor) -> int | None:
    """Return which dimension of the task's outputs holds a logit for each class, None where they are values."""
    if isinstance(task, DistillingTask):
        return task.class_dimension
    return outputs.dim() - 1 if outputs.dim() in (2, 3) and outputs.shape[-1] > 1 else None


def divergence(given: Tensor, wanted: Tensor, temperature: float, classes: int) -> Tensor:
    """Return the mean Kullback-Leibler divergence of outputs softened along `classes`, as its gradients ask for."""
    target, softened = (F.log_softmax(it.float() / temperature, classes) for it in (wanted, given))
    nats = F.kl_div(softened, target, reduction="none", log_target=True).sum(classes)
    return nats.mean() * temperature**2


def relative_error(given: Tensor, wanted: Tensor) -> Tensor:
    """Return log(1 + e), e being the mean squared error of outputs relative to the variance of those that are wanted.

    It is e where that is small, and its gradients stay within bounds where outputs are far from those wanted.
    """
    error = (given.float() - wanted.float()).square().mean() / variance(wanted)
    return torch.log1p(error)


def variance(outputs: Tensor) -> Tensor:
    """Return the variance of outputs that are values, never 0: what errors are relative to."""
    return outputs.float().var(correction=0).clamp_min(1e-12)


def similarity_difference(given: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared difference of how alike all pairs of samples are in both features (equation 4)."""
    return (_similarities(given) - _similarities(wanted)).square().mean()


def last_layer(model: nn.Module) -> str:
    """Return the name of the last convolution or linear layer."""
    layers: list[str] = [name for name, module in model.named_modules() if isinstance(module, CompressibleLayer)]
    return layers[-1]


@contextmanager
def reading(model: nn.Module, layer: str | None) -> Iterator[list[Tensor]]:
    """Give a list that fills, while the context lasts, with what the layer reads; with nothing where it is None."""
    read: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        read.append(inputs[0])

    handles = [] if layer is None else [model.get_submodule(layer).register_forward_pre_hook(keep)]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def mean_distance(student: nn.Module, lessons: Iterable[Lesson], distance: Distance) -> float:
    """Return the student's mean distance over lessons, in evaluation mode and without learning."""
    training = student.training
    student.eval()
    with torch.no_grad():
        losses = [distance(student, lesson).item() for lesson in lessons]
    student.train(training)
    return sum(losses) / len(losses)


def _similarities(features: Tensor) -> Tensor:
    rows = features.float().flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

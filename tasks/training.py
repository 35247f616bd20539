"""Training of an image classifier on a CPU, the same weights each time on one machine and thread count."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gulliver.tasks.labelled_images import LabelledImages, Normalization
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class TrainingSettings:
    """Nesterov SGD under a one-cycle learning rate: all that decides the weights besides the data and the network."""

    seed: int
    epochs: int
    batch_size: int
    max_learning_rate: float
    rising_share: float
    weight_decay: float
    label_smoothing: float
    random_flip: bool
    bfloat16: bool


def shuffled_batches(
    data: LabelledImages, batch_size: int, random_flip: bool, generator: torch.Generator
) -> Iterator[LabelledImages]:
    """Yield every sample once in random order, each image mirrored with probability 1/2 if `random_flip`."""
    order = torch.randperm(len(data), generator=generator)
    for start in range(0, len(data), batch_size):
        batch = data[order[start : start + batch_size]]
        if random_flip:
            mirrored = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
            batch = LabelledImages(torch.where(mirrored, batch.images.flip(3), batch.images), batch.labels)
        yield batch


def train_classifier(
    network: nn.Module,
    data: LabelledImages,
    normalization: Normalization,
    settings: TrainingSettings,
    description: str,
) -> None:
    """Train the network in place, with a progress bar on stderr; the global random state is neither read nor set."""
    _set_memory_format(network.train(), torch.channels_last)
    # The schedule moves the momentum against the learning rate, from 0.95 to 0.85 and back.
    optimizer = torch.optim.SGD(network.parameters(), momentum=0.95, weight_decay=settings.weight_decay, nesterov=True)
    steps = settings.epochs * math.ceil(len(data) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.max_learning_rate, total_steps=steps, pct_start=settings.rising_share
    )
    for batch in tqdm(_all_batches(data, settings), description, total=steps, unit="batch"):
        optimizer.zero_grad()
        torch.autograd.backward(_loss(network, normalization(batch.images), batch.labels, settings))
        optimizer.step()
        schedule.step()
    _set_memory_format(network.eval(), torch.contiguous_format)


def _set_memory_format(network: nn.Module, memory_format: torch.memory_format) -> None:
    network.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's overloads leave it out


def _all_batches(data: LabelledImages, settings: TrainingSettings) -> Iterator[LabelledImages]:
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        yield from shuffled_batches(data, settings.batch_size, settings.random_flip, generator)


def _loss(network: nn.Module, images: Tensor, labels: Tensor, settings: TrainingSettings) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    return F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)

"""What every adapter shares: the job that it is given as arguments, and the models that it hands over.

An adapter writes OpenVINO IR of a static batch into the job's folder, a file a model, named for what it is.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.compressors.finetune import finetune
from gulliver.evaluators.accuracy import score
from gulliver.spaces.recipe import Finetune
from gulliver.tasks.fashion_resnet import FashionResNet
from gulliver.tasks.fashion_wide_resnet import FashionWideResNet
from gulliver.tasks.image_classification import ImageClassification
from gulliver.tasks.protocol import Inputs, Split
from torch import Tensor, nn

NETWORKS: dict[str, type[ImageClassification]] = {it.name: it for it in (FashionResNet, FashionWideResNet)}
BATCH = 32
# The search split's samples that a tool may score each of its hundreds of candidates on.
CANDIDATE_SAMPLES = 2000
# Beyond any number of epochs, so that no two seeds share an order.
EPOCHS_A_SEED = 1000


@dataclass(frozen=True)
class SeededTask:
    """A task with the seed's order of calibration and of training; its network and its data are the same for all."""

    task: ImageClassification
    seed: int

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def model(self) -> nn.Module:
        """The trained network, the same for every seed."""
        return self.task.model

    @property
    def example_inputs(self) -> Inputs:
        """One normalised image."""
        return self.task.example_inputs

    def calibration(self) -> Iterator[Inputs]:
        """Yield the task's calibration inputs in the seed's order, in batches of four of BATCH."""
        images = torch.cat([images for (images,) in self.task.calibration()])
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        yield from ((piece,) for piece in images[order].split(4 * BATCH))

    def training(self, epoch: int) -> Iterator[Inputs]:
        """Return the task's batches of an epoch that is this seed's alone."""
        return self.task.training(EPOCHS_A_SEED * self.seed + epoch)

    def size(self, split: Split) -> int:
        """The number of samples in the split."""
        return self.task.size(split)

    def scores(self, model: nn.Module, split: Split, start: int, stop: int) -> Tensor:
        """The task's own scores."""
        return self.task.scores(model, split, start, stop)

    def expected_scores(self, model: nn.Module, split: Split, start: int, stop: int) -> Tensor:
        """The task's own expectation."""
        return self.task.expected_scores(model, split, start, stop)


@dataclass(frozen=True)
class Job:
    """One network and seed for one tool: what fine-tuning may cost, what the step before made, where results go.

    `trials` and `finalists` are Gulliver's own.
    """

    task: SeededTask
    finetune: Finetune
    given: Path
    out: Path
    trials: int
    finalists: int

    def recover(self, model: nn.Module) -> nn.Module:
        """Fine-tune what a tool thinned, by the code and the budget of Gulliver's own finalists."""
        return finetune(model, self.task, self.finetune)

    def save(self, name: str, model: nn.Module) -> None:
        """Export a torch module."""
        save_openvino(to_openvino(model, self.task.example_inputs, BATCH), self.out / f"{name}.xml", half=False)

    def candidate_score(self, model: nn.Module) -> float:
        """Return the accuracy on some of the search split, in evaluation mode."""
        return score(self.task, model.eval(), "search", CANDIDATE_SAMPLES)


def read_job() -> Job:
    """Return the job of the command line; torch is set to one thread, and its random state to the seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--given", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("--seed", "--epochs", "--batches", "--trials", "--finalists"):
        parser.add_argument(name, type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    task = SeededTask(NETWORKS[given.network](), given.seed)
    finetuning = Finetune(given.epochs, batches_per_epoch=given.batches)
    return Job(task, finetuning, given.given, given.out, given.trials, given.finalists)

"""What fine-tuning wins back, by optimizer: python -m benchmarks.amct.finetuning.

The same share of channels leaves every group of a network, the layers that read them are reconstructed, and the network
learns from the original for two epochs of 172 batches. Drops are on the search split, whose standard error is about
0.15 points; the divergence of the outputs, on 40 batches of training inputs that were not learned from in this order,
tells optimizers apart better. Writes benchmarks/results/amct_finetuning.csv; takes about eight minutes on one core.
"""

import copy
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import torch
from gulliver.compressors.compress import read_original, thin
from gulliver.compressors.finetune import finetune
from gulliver.evaluators.accuracy import score
from gulliver.evaluators.divergence import kl_divergence, mean_divergence
from gulliver.spaces.recipe import Finetune, Sparsify
from gulliver.tasks.fashion_resnet import FashionResNet
from gulliver.tasks.image_classification import ImageClassification
from torch import nn

from benchmarks.amct.classic_tasks import ClassicNetwork
from benchmarks.amct.criteria import recipe_of
from benchmarks.record import write_table

RATIOS = (0.25, 0.5, 0.75)
BATCHES = 172
SETTINGS = {
    "sgd": Finetune(2, batches_per_epoch=BATCHES, optimizer="sgd"),
    "sgd, twice the rate": Finetune(2, 0.3, batches_per_epoch=BATCHES, optimizer="sgd"),
    "muon": Finetune(2, batches_per_epoch=BATCHES),
}
HELD_EPOCH, HELD_BATCHES = 1000, 40


@dataclass(frozen=True)
class Result:
    """What a network without this share of its channels loses before and after fine-tuning."""

    network: str
    ratio: float
    optimizer: str
    drop_before_points: float
    drop_points: float
    divergence_before: float
    divergence: float
    cpu_seconds: float


@dataclass(frozen=True)
class Ruler:
    """Measures a network beside the task's own."""

    task: ImageClassification

    def drop_points(self, model: nn.Module) -> float:
        """Return the accuracy lost on the search split."""
        return round(100 * (score(self.task, self.task.model, "search") - score(self.task, model, "search")), 2)

    def divergence(self, model: nn.Module) -> float:
        """Return the mean divergence from the original's outputs."""
        batches = list(itertools.islice(self.task.training(HELD_EPOCH), HELD_BATCHES))
        with torch.inference_mode():
            outputs = [self.task.model(*it) for it in batches]
        return round(mean_divergence(model, batches, outputs, kl_divergence), 5)


def results(task: ImageClassification) -> Iterator[Result]:
    """Measure every share of channels and optimizer on one network."""
    original, ruler = read_original(task), Ruler(task)
    for ratio in RATIOS:
        recipe = recipe_of(original, "all", Sparsify(ratio, reconstruct=True))
        thinned = thin(original, recipe, original.calibration)
        before = ruler.drop_points(thinned), ruler.divergence(thinned)
        for name, settings in SETTINGS.items():
            start = time.process_time()
            model = finetune(copy.deepcopy(thinned), task, settings)
            seconds = round(time.process_time() - start, 1)
            after = ruler.drop_points(model), ruler.divergence(model)
            yield Result(task.name, ratio, name, before[0], after[0], before[1], after[1], seconds)


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    tasks = (FashionResNet(), ClassicNetwork("alexnet"))
    rows = [row for task in tasks for row in results(task)]
    write_table("amct_finetuning", rows, {"torch": version("torch")})


if __name__ == "__main__":
    main()

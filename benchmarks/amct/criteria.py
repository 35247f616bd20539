"""What channel sparsity costs without any training, by criterion and by repair: python -m benchmarks.amct.criteria.

The same share of channels leaves every group of fashion_resnet, or only the groups inside blocks, whose channels no
residual addition ties. Accuracy is that of the floating-point network on the first 2000 images of the search split:
as it is left, with batch norms estimated again, with the next layers reconstructed, and with both in this order.
Writes benchmarks/results/amct_criteria.csv; takes about ten minutes on one core.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import torch
from gulliver.compressors.batch_norm import reestimate_batch_norms
from gulliver.compressors.compress import Original, read_original
from gulliver.compressors.criteria import CRITERIA
from gulliver.compressors.reconstruct import reconstruct
from gulliver.compressors.sparsify import removed_indices, sparsify
from gulliver.evaluators.accuracy import score
from gulliver.spaces.recipe import LayerRecipe, Recipe, Sparsify
from gulliver.tasks.fashion_resnet import FashionResNet
from torch import nn

from benchmarks.record import write_table

SEARCH_SAMPLES = 2000
RATIOS = (0.25, 0.5)
GROUPS = ("all", "inside blocks")
REPAIRS = ("none", "batch norms", "reconstruction", "reconstruction, batch norms")


@dataclass(frozen=True)
class Result:
    """The accuracy that is left where this share of channels leaves these groups."""

    groups: str
    ratio: float
    criterion: str
    repair: str
    accuracy: float


def recipe_of(original: Original, groups: str, choice: Sparsify) -> Recipe:
    """Give the choice to the layers of every prunable group, or of those of a single layer."""
    chosen = {
        name
        for group in original.graph.channel_groups
        if not group.not_prunable and (groups == "all" or len(group.layers) == 1)
        for name in group.layers
    }
    return Recipe({name: LayerRecipe(choice if name in chosen else None) for name in original.graph.layers})


def repaired(original: Original, recipe: Recipe, repair: str) -> nn.Module:
    """Remove the recipe's channels and repair what is left."""
    ranking = original.ranking_for(recipe)
    model = sparsify(copy.deepcopy(original.task.model), original.graph, recipe, ranking)
    if "reconstruction" in repair:
        removed = removed_indices(original.graph, recipe, ranking)
        wanted = original.wanted_for(original.calibration)
        reconstruct(model, original.task.model, original.graph, recipe, removed, original.calibration, wanted)
    if "batch norms" in repair:
        reestimate_batch_norms(model, original.calibration)
    return model


def results() -> Iterator[Result]:
    """Measure the original network, then every criterion and repair."""
    task = FashionResNet(search_samples=SEARCH_SAMPLES)
    original = read_original(task)
    yield Result("none", 0.0, "", "none", round(score(task, task.model, "search"), 4))
    for groups, ratio, criterion, repair in itertools.product(GROUPS, RATIOS, CRITERIA, REPAIRS):
        choice = Sparsify(ratio, criterion=criterion, reconstruct=True)
        model = repaired(original, recipe_of(original, groups, choice), repair)
        yield Result(groups, ratio, criterion, repair, round(score(task, model, "search"), 4))


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    write_table("amct_criteria", list(results()), {name: version(name) for name in ("torch", "torch-pruning")})


if __name__ == "__main__":
    main()

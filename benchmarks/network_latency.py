"""How well the latency of whole networks is predicted on this CPU: python -m benchmarks.network_latency.

Recipes are drawn at random from the space of each network (bits, channels, ranks, fallback), others than the model is
fitted to. All networks of a row run in turns, one inference of each, in one process with one thread; latencies are
medians of CPU time. `mean_error` is that of predictions scaled by how the untouched network runs now, as a search
scales its own; `mean_error_unscaled` that of what the model says. Kernel times and fits come from the cache where they
are there. Writes benchmarks/results/network_latency.csv.
"""

from dataclasses import dataclass
from importlib.metadata import version
from random import Random

import torch
from gulliver.compressors.compress import Original, read_original
from gulliver.evaluators.latency.calibration import calibrate_space, measure_recipes, random_recipe
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.prediction_error import prediction_error
from gulliver.spaces.space import Space, untouched
from gulliver.tasks.fashion_resnet import FashionResNet
from gulliver.tasks.fashion_wide_resnet import FashionWideResNet

from benchmarks.record import write_table

TASKS = (FashionResNet, FashionWideResNet)
BATCHES = (1, 32)
RECIPES = 100
# Not the calibration's seed, which is 0.
SEED = 1


@dataclass(frozen=True)
class Result:
    """One network at one batch size: errors as shares of the measured latency."""

    network: str
    batch: int
    recipes: int
    fastest_ms: float
    slowest_ms: float
    mean_error: float
    median_error: float
    worst_error: float
    rank_correlation: float | None
    mean_error_unscaled: float


def main() -> None:
    """Measure every network at every batch size and write the table."""
    torch.set_num_threads(1)
    originals = [read_original(make()) for make in TASKS]
    rows = [compare(original, CpuOpenvino(batch=batch)) for original in originals for batch in BATCHES]
    write_table("network_latency", rows, {name: version(name) for name in ("torch", "openvino")})


def compare(original: Original, target: CpuOpenvino) -> Result:
    """Return how far predictions of random recipes are from their measured latencies."""
    space = Space(original.graph, target.capabilities)
    model = calibrate_space(target, original, space)
    random = Random(SEED)
    recipes = [untouched(original.graph), *(random_recipe(space, random) for _ in range(RECIPES))]
    predicted = [model.total_ms(target.lower(original.graph, recipe)) for recipe in recipes]
    measured = [1e3 * seconds for seconds in measure_recipes(target, original, recipes)]
    scale = measured[0] / predicted[0]
    error = prediction_error([scale * it for it in predicted[1:]], measured[1:])
    unscaled = prediction_error(predicted[1:], measured[1:])
    return Result(
        original.task.name,
        target.batch,
        error.count,
        *(round(it, 4) for it in (min(measured), max(measured), error.mean, error.median, error.worst)),
        error.rank_correlation and round(error.rank_correlation, 4),
        round(unscaled.mean, 4),
    )


if __name__ == "__main__":
    main()

"""How well the latency of whole networks is predicted on this CPU: python -m benchmarks.network_latency.

Recipes are drawn at random from the space of each network (bits, channels, ranks, fallback), others than the model is
fitted to. They and the untouched network run in turns, in one process with one thread, as the finalists of a search do;
latencies are medians of CPU time. `mean_error` is that of predictions scaled by how much slower the untouched network
runs beside them than it did when the model was fitted, as a search scales its own; `mean_error_unscaled` that of what
the model says. The model is fitted in the minutes before; kernel times come from the cache where they are there. Writes
benchmarks/results/network_latency.csv, where rows of other networks, batches and machines stay.
"""

import argparse
from dataclasses import dataclass
from importlib.metadata import version
from random import Random

import torch
from gulliver.compressors.compress import Original, read_original
from gulliver.evaluators.latency.calibration import forget_old_fit, measure_recipes, random_recipe
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.prediction_error import prediction_error
from gulliver.spaces.space import Space, untouched
from gulliver.tasks.fashion_resnet import FashionResNet
from gulliver.tasks.fashion_wide_resnet import FashionWideResNet

from benchmarks.record import write_table

TASKS = {"fashion_resnet": FashionResNet, "fashion_wide_resnet": FashionWideResNet}
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
    """Measure the networks at the batch sizes and write the table."""
    given = _arguments()
    torch.set_num_threads(1)
    originals = [read_original(TASKS[name]()) for name in given.networks]
    rows = [compare(original, CpuOpenvino(batch=batch)) for original in originals for batch in given.batches]
    versions = {name: version(name) for name in ("torch", "openvino")}
    write_table("network_latency", rows, versions, key=("network", "batch", "machine"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="images of one inference")
    return parser.parse_args()


def compare(original: Original, target: CpuOpenvino) -> Result:
    """Return how far predictions of random recipes are from their measured latencies."""
    space = Space(original.graph, target.capabilities)
    # Of these minutes, as a search's is.
    forget_old_fit(target, original)
    model = target.latency_model(original, space)
    random = Random(SEED)
    recipes = [random_recipe(space, random) for _ in range(RECIPES)]
    predicted = [model.total_ms(target.lower(original.graph, it)) for it in recipes]
    first, *measured = (1e3 * it for it in measure_recipes(target, original, [untouched(original.graph), *recipes]))
    drift = first / (model.untouched_ms or first)
    error = prediction_error([drift * it for it in predicted], measured)
    unscaled = prediction_error(predicted, measured)
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

"""Weights and activations of few bits, after training and in training: python -m benchmarks.amct.quantization_aware.

All layers of fashion_resnet have 4-bit activations, and weights of 4 or 2 bits. Accuracy is that of the simulated
network, to which the exported one is equal (tests/compressors/test_conformance.py), on the whole search and test
splits. This CPU has no 4-bit convolution, so nothing is said of latency. Writes
benchmarks/results/amct_quantization_aware.csv; takes a quarter of an hour on one core.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version

import torch
from gulliver.compressors.compress import compress, read_original
from gulliver.evaluators.accuracy import score
from gulliver.spaces.recipe import Finetune, LayerRecipe, Quantize, Recipe
from gulliver.tasks.fashion_resnet import FashionResNet

from benchmarks.record import write_table

PLAIN = Quantize(4, 4)
BEST = replace(PLAIN, calibrator="mse", weight_scales="mse")
TWO_BITS = replace(BEST, weight_bits=2)
LEARNING = Finetune(epochs=2, learning_rate=0.15, batches_per_epoch=172, quantization_aware=True)


@dataclass(frozen=True)
class Result:
    """How long a network took to make, and its accuracy on both splits."""

    network: str
    seconds: float
    accuracy_search: float
    accuracy_test: float


def recipes_of(layers: Iterable[str]) -> dict[str, Recipe]:
    """Return the recipes that treat all layers alike, by what the table calls them."""

    def all_layers(choice: Quantize, finetune: Finetune | None = None) -> Recipe:
        return Recipe(dict.fromkeys(layers, LayerRecipe(quantize=choice)), finetune)

    return {
        "original": Recipe(dict.fromkeys(layers, LayerRecipe())),
        "min-max": all_layers(PLAIN),
        "zero points": all_layers(replace(PLAIN, symmetric=False)),
        "least squared error": all_layers(BEST),
        "least squared error, corrected biases": all_layers(replace(BEST, correct_bias=True)),
        "equalized, least squared error, corrected biases": all_layers(replace(BEST, correct_bias=True, equalize=True)),
        "rounded in order (GPTQ), least squared error": all_layers(replace(BEST, rounding="gptq")),
        "learned steps, from min-max": all_layers(PLAIN, LEARNING),
        "learned steps, from least squared error": all_layers(BEST, LEARNING),
        "2-bit weights, least squared error": all_layers(TWO_BITS),
        "2-bit weights, rounded in order (GPTQ)": all_layers(replace(TWO_BITS, rounding="gptq")),
        "2-bit weights, learned steps": all_layers(TWO_BITS, LEARNING),
    }


def results() -> Iterator[Result]:
    """Make and score every network."""
    task = FashionResNet()
    original = read_original(task)
    for name, recipe in recipes_of(tuple(original.graph.layers)).items():
        start = time.monotonic()
        model = compress(original, recipe)
        seconds = round(time.monotonic() - start, 1)
        yield Result(name, seconds, *(round(score(task, model, split), 4) for split in ("search", "test")))


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    write_table("amct_quantization_aware", list(results()), {"torch": version("torch")})


if __name__ == "__main__":
    main()

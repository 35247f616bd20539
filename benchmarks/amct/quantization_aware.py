"""Weights and activations of few bits, after training and in training: python benchmarks/amct/quantization_aware.py.

All layers of fashion_resnet have 4-bit activations, and weights of 4 or 2 bits. Accuracy is that of the simulated
network, to which the exported one is equal (tests/compressors/test_conformance.py), on the whole search and test
splits. This CPU has no 4-bit convolution, so nothing is said of latency. Writes
benchmarks/results/amct_quantization_aware.csv; takes a quarter of an hour on one core.
"""

import time
from dataclasses import replace

import torch
from gulliver.compressors.compress import compress, read_original
from gulliver.evaluators.accuracy import score
from gulliver.spaces.recipe import Finetune, LayerRecipe, Quantize, Recipe
from gulliver.spaces.space import untouched
from gulliver.tasks.fashion_resnet import FashionResNet
from record import write_rows

PLAIN = Quantize(4, 4)
BEST = replace(PLAIN, calibrator="mse", weight_scales="mse")
TWO_BITS = replace(BEST, weight_bits=2)
LEARNING = Finetune(epochs=2, learning_rate=0.15, batches_per_epoch=172, quantization_aware=True)


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    task = FashionResNet()
    original = read_original(task)
    every = original.graph.layers

    def all_layers(choice: Quantize, finetune: Finetune | None = None) -> Recipe:
        return Recipe(dict.fromkeys(every, LayerRecipe(quantize=choice)), finetune)

    recipes = {
        "original": untouched(original.graph),
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
    rows = []
    for name, recipe in recipes.items():
        start = time.monotonic()
        model = compress(original, recipe)
        row = {"network": name, "seconds": round(time.monotonic() - start, 1)}
        row |= {f"accuracy_{split}": round(score(task, model, split), 4) for split in ("search", "test")}
        print(*row.values(), sep="\t", flush=True)
        rows.append(row)
    write_rows("amct_quantization_aware", rows)


if __name__ == "__main__":
    main()

"""A small real space, and scores that cost nothing, for tests of the search itself."""

import pytest
import torch
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.journal import Scores
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from gulliver.spaces.trace import trace
from gulliver.tasks.residual_network import ResidualNetwork


@pytest.fixture(scope="session")
def space():
    network = ResidualNetwork(widths=(16, 32), blocks_per_stage=1, stem_stride=1, in_channels=1, classes=10).eval()
    return Space(trace(network, (torch.zeros(1, 1, 8, 8),)), CpuOpenvino().capabilities)


@pytest.fixture(scope="session")
def price():
    """Every removed share and every quantized layer saves time and costs accuracy, by amounts of its own."""

    def scores(recipe: Recipe) -> Scores:
        saved, lost = 0.0, 0.0
        for index, choice in enumerate(recipe.layers.values()):
            removed = choice.sparsify.ratio if choice.sparsify else 0.0
            saved += removed + 0.5 * (choice.quantize is not None) + 0.2 * (choice.decompose is not None)
            lost += removed**2 * (1 + index % 3) + 0.01 * (choice.quantize is not None)
        return Scores(accuracy_search=1 - lost / 20, latency_ms=10 - saved, size_bytes=1000 - 10 * saved)

    return scores

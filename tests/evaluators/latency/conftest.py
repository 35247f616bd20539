import pytest
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.spaces.recipe import LayerRecipe, Recipe


def _lowered(graph, float_type="bfloat16", default=None, **choices):
    recipe = Recipe({name: choices.get(name, default or LayerRecipe()) for name in graph.layers})
    return CpuOpenvino(batch=2, float_type=float_type).lower(graph, recipe)


@pytest.fixture(scope="session")
def lowered():
    """Return what gives the kernel calls of a graph at batch 2: layers run as they are named, or as the default."""
    return _lowered

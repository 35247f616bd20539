from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from gulliver.evaluators.latency.kernel import KernelCall, MemoryKernel
from gulliver.search.binding_layers import binding_layers
from gulliver.spaces.recipe import Finetune, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.space import untouched

INT8, FLOAT = LayerRecipe(quantize=Quantize()), LayerRecipe(fallback="the search chose float32")
HALF = LayerRecipe(Sparsify(0.5))


@dataclass(frozen=True)
class Scored:
    """As much of a scoring as tells what binds."""

    original: Any
    accuracy: Callable[[Recipe], float] | None = None
    target: Any = None
    latency: Any = None
    incumbents: str | None = "raced against"

    def score(self, recipe):
        assert self.incumbents is None
        return SimpleNamespace(accuracy_search=self.accuracy(recipe))


def recipe_of(space, **choices):
    by_name = {name.replace("__", "."): choice for name, choice in choices.items()}
    return Recipe({name: by_name.get(name, FLOAT) for name in space.graph.layers}, Finetune(1))


def test_the_layers_bind_whose_groups_win_back_the_most_accuracy_where_they_alone_are_left_as_they_were(space):
    asked = []

    def accuracy(recipe):
        asked.append(recipe)
        lost = 0.02 * sum(choice.sparsify is not None for choice in recipe.layers.values())
        return 0.9 - lost - 0.01 * (recipe.layers["classifier"].quantize is not None)

    assert space.graph.group_of("stem.conv").layers == ("stem.conv", "stages.0.0.conv2")
    recipe = recipe_of(space, stem__conv=HALF, stages__0__0__conv2=HALF, stages__0__0__conv1=HALF, classifier=INT8)
    found = binding_layers(recipe, "max_drop", Scored(SimpleNamespace(graph=space.graph), accuracy))
    # Two tied layers lose 2 points each; a layer in floating point has nothing to win back.
    assert found == pytest.approx({"stem.conv": 0.04, "stages.0.0.conv1": 0.02, "classifier": 0.01})
    assert list(found) == ["stem.conv", "stages.0.0.conv1", "classifier"]
    assert len(asked) == 4
    assert all(it.finetune is None for it in asked)


def test_three_layers_bind_by_the_share_of_the_time_that_is_left_in_each(space):
    asked = untouched(space.graph)
    milliseconds = {"stem.conv": (1, 2), "classifier": (1,), "relu": (2,), "pool": (4,)}
    calls = [KernelCall(MemoryKernel("pass", it), owner) for owner, times in milliseconds.items() for it in times]
    target = SimpleNamespace(lower=lambda graph, recipe: calls if (graph, recipe) == (space.graph, asked) else [])
    latency = SimpleNamespace(seconds=lambda call: 1e-3 * call.kernel.bytes_moved)
    scored = Scored(SimpleNamespace(graph=space.graph), target=target, latency=latency)
    found = binding_layers(asked, "max_latency_ms", scored)
    assert list(found.items()) == [
        ("pool", pytest.approx(0.4)),
        ("stem.conv", pytest.approx(0.3)),
        ("relu", pytest.approx(0.2)),
    ]


def test_three_layers_bind_by_the_share_of_the_bytes_that_are_left_in_each(space):
    found = binding_layers(untouched(space.graph), "max_size_bytes", Scored(SimpleNamespace(graph=space.graph)))
    # Of 19,408 weights and 154 biases, all of 16 bits; the third is as large as the one behind it.
    assert list(found.items()) == [
        ("stages.1.0.conv2", pytest.approx((9 * 32 * 32 + 32) / 19_562)),
        ("stages.1.0.conv1", pytest.approx((9 * 16 * 32 + 32) / 19_562)),
        ("stages.0.0.conv1", pytest.approx((9 * 16 * 16 + 16) / 19_562)),
    ]

from collections import Counter
from itertools import product

import pytest
import torch
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.gated_mlp import find_gated_mlps
from gulliver.evaluators.latency.kernel import ComputeKernel, GatedMlpKernel, MemoryKernel
from gulliver.spaces.recipe import IN_FOURS, Decompose, LayerRecipe, Quantize, Recipe
from gulliver.spaces.space import untouched
from gulliver.spaces.trace import trace
from gulliver.tasks.moe_block import MoeBlock
from torch import nn
from torch.nn import functional as F

LAYERS = ("gate", "up", "down")
INT8 = LayerRecipe(quantize=Quantize())


class Gated(nn.Module):
    def __init__(self, width=64, hidden=128):
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens):
        return self.down(F.silu(self.gate(tokens)) * self.up(tokens))


class Swapped(Gated):
    def __init__(self):
        super().__init__()
        self.silu = nn.SiLU()

    def forward(self, tokens):
        return self.down(torch.mul(self.up(tokens), self.silu(self.gate(tokens))))


class Ungated(Gated):
    def forward(self, tokens):
        return self.down(F.silu(self.gate(tokens)))


class Gelu(Gated):
    def forward(self, tokens):
        return self.down(F.gelu(self.gate(tokens)) * self.up(tokens))


class SwappedGelu(Gated):
    def forward(self, tokens):
        return self.down(self.up(tokens) * F.gelu(self.gate(tokens)))


class Sum(Gated):
    def forward(self, tokens):
        return self.down(F.silu(self.gate(tokens)) + self.up(tokens))


class ReadElsewhere(Gated):
    def forward(self, tokens):
        inner = F.silu(self.gate(tokens)) * self.up(tokens)
        return self.down(inner) + inner[:, :64]


def graph_of(network):
    return trace(network.eval(), (torch.zeros(4, 64),))


def lowered(target, **changes):
    return ChipTarget(target, batch=16).lower(graph_of(Gated()), Recipe(dict.fromkeys(LAYERS, INT8) | changes))


@pytest.mark.parametrize("network", [Gated(), Swapped()])
def test_a_gated_mlp_is_found_whichever_factor_comes_first(network):
    (mlp,) = find_gated_mlps(graph_of(network))
    assert mlp.layers == LAYERS


@pytest.mark.parametrize("network", [Ungated(), Gelu(), SwappedGelu(), Sum(), ReadElsewhere()])
def test_what_the_kernel_does_not_compute_is_not_one(network):
    assert find_gated_mlps(graph_of(network)) == ()


def test_three_int8_layers_become_one_call():
    rounded, fused = lowered("ascend_910b2")
    assert isinstance(rounded.kernel, MemoryKernel)
    assert fused.kernel == GatedMlpKernel((16,), 64, 128, 64)
    assert (fused.owner, fused.fused) == ("gate", ("up", "silu", "mul", "down"))


def test_what_the_fused_kernel_gives_is_converted_for_an_int8_layer_behind_it():
    graph = graph_of(nn.Sequential(Gated(), nn.Linear(64, 8, bias=False)))
    calls = ChipTarget("ascend_910b2", batch=16).lower(graph, Recipe(dict.fromkeys(graph.layers, INT8)))
    _, fused, convert, last = (it.kernel for it in calls)
    assert isinstance(fused, GatedMlpKernel)
    # Read as float16, written as int8.
    assert convert == MemoryKernel("convert", 16 * 64 * (2 + 1))
    assert (last.precision, last.in_channels) == ("int8", 64)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (LayerRecipe(), "stays in floating point"),
        (LayerRecipe(quantize=Quantize(4, 8)), "is not in int8"),
        (LayerRecipe(quantize=Quantize(8, 8, group_size=16)), "is not in int8"),
        (LayerRecipe(quantize=Quantize(), decompose=Decompose(8)), "rank 8 splits"),
        (LayerRecipe(IN_FOURS, quantize=Quantize()), "is 2:4"),
    ],
)
def test_one_layer_that_differs_breaks_the_fusion_and_every_call_says_why(layer, choice, reason):
    calls = lowered("ascend_910b2", **{layer: choice})
    mine = [call for call in calls if call.owner in LAYERS]
    matmuls = Counter(call.owner for call in mine if isinstance(call.kernel, ComputeKernel))
    assert matmuls == Counter(dict.fromkeys(LAYERS, 1)) + Counter({layer: 1} if choice.decompose else {})
    assert all("not fused" in call.note and reason in call.note and layer in call.note for call in mine)
    assert any(isinstance(call.kernel, MemoryKernel) and "not fused" in call.note for call in calls)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_with_a_bias_breaks_the_fusion_as_the_kernel_adds_none(layer):
    network = Gated()
    setattr(network, layer, nn.Linear(*reversed(getattr(network, layer).weight.shape)))
    calls = ChipTarget("ascend_910b2", batch=16).lower(graph_of(network), Recipe(dict.fromkeys(LAYERS, INT8)))
    assert [call.owner for call in calls if isinstance(call.kernel, ComputeKernel)] == [*LAYERS]
    assert all(f"not fused: {layer} has a bias" in call.note for call in calls if call.owner in LAYERS)


def test_a_chip_without_the_kernel_runs_the_parts():
    assert sum(isinstance(call.kernel, ComputeKernel) for call in lowered("ascend_310p3")) == 3


@pytest.mark.parametrize("changed", LAYERS)
def test_a_partial_fallback_is_slower_than_none(changed):
    network = Gated(7168, 2048)
    graph = trace(network.eval(), (torch.zeros(1, 7168),))
    target = ChipTarget("ascend_910b2", batch=64)
    model = target.latency
    whole, partial = (
        model.total_ms(target.lower(graph, Recipe(dict.fromkeys(LAYERS, INT8) | change)))
        for change in ({}, {changed: LayerRecipe()})
    )
    assert partial > 1.2 * whole


@pytest.mark.parametrize("tokens", [1, 16, 64])
def test_with_few_tokens_a_partial_fallback_is_no_faster_than_a_whole_one(tokens):
    graph = trace(Gated(1792, 512).eval(), (torch.zeros(1, 1792),))
    target = ChipTarget("ascend_910b2", batch=tokens)
    times = {
        choices: target.latency.total_ms(target.lower(graph, Recipe(dict(zip(LAYERS, choices, strict=True)))))
        for choices in product((INT8, LayerRecipe()), repeat=3)
    }
    fused, whole = times.pop((INT8,) * 3), times.pop((LayerRecipe(),) * 3)
    assert fused < 0.9 * whole
    assert min(times.values()) > 0.99 * whole


def test_no_partial_fallback_of_a_routed_expert_is_faster_than_a_whole_one():
    task = MoeBlock()
    graph, target = trace(task.model, task.example_inputs), ChipTarget("ascend_910b2")
    model, before = target.latency, untouched(graph)
    for mlp in find_gated_mlps(graph):
        times = {}
        for choices in product((INT8, LayerRecipe()), repeat=3):
            recipe = Recipe(dict(before.layers) | dict(zip(mlp.layers, choices, strict=True)))
            times[choices] = model.total_ms(target.lower(graph, recipe))
        fused, whole = times.pop((INT8,) * 3), times.pop((LayerRecipe(),) * 3)
        assert fused < whole < min(times.values())

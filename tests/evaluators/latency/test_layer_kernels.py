"""Expectations by hand at batch 2."""

from dataclasses import replace
from random import Random

import torch
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.spaces.recipe import DECOMPOSITIONS, Decompose, LayerRecipe, Recipe, Sparsify
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from torch import nn


def test_the_64_by_64_example_cuts_a_third_and_two_thirds(lowered):
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)).eval()
    graph = trace(network, (torch.zeros(1, 64, 8, 8),))

    def macs(split):
        return sum(call.kernel.macs for call in lowered(graph, default=LayerRecipe(None, split)))

    # 64*64*9 = 36864 a pixel; 32 * (64*3 + 64*3); 32 * (64*9 + 64); 64*32 + 32*32*9 + 32*64.
    assert [macs(it) / (2 * 64) for it in (None, *(Decompose(32, kind) for kind in DECOMPOSITIONS))] == [
        36864,
        12288,
        20480,
        13312,
    ]


def test_a_strided_tucker_reads_every_pixel_and_computes_its_core_where_it_gives_one(lowered):
    network = nn.Sequential(nn.Conv2d(64, 64, 3, stride=2, padding=1)).eval()
    graph = trace(network, (torch.zeros(1, 64, 8, 8),))
    thin, core, widen = (it.kernel for it in lowered(graph, default=LayerRecipe(None, Decompose(16, "tucker2"))))
    assert [thin.macs, core.macs, widen.macs] == [2 * 64 * 64 * 16, 2 * 16 * 16 * 16 * 9, 2 * 16 * 16 * 64]
    assert (thin.output_size, core.output_size, widen.output_size) == ((8, 8), (4, 4), (4, 4))


def test_a_one_dimensional_layer_is_split_by_its_channels(lowered):
    graph = trace(nn.Sequential(nn.Conv1d(16, 32, 5, 2, 2)).eval(), (torch.zeros(1, 16, 20),))
    first, second = (it.kernel for it in lowered(graph, default=LayerRecipe(None, Decompose(4, "channel_svd"))))
    assert (first.kernel_size, first.stride, first.padding, first.output_size) == ((5,), (2,), (2,), (10,))
    assert (second.kind, second.kernel_size, second.input_size, second.macs) == ("conv1d", (1,), (10,), 2 * 10 * 4 * 32)


def test_the_halves_of_a_strided_layer_share_its_stride_and_dilation(lowered):
    network = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2), nn.Linear(4, 6)).eval()
    graph = trace(network, (torch.zeros(1, 4, 8, 8),))
    first, second, *halves = (call.kernel for call in lowered(graph, default=LayerRecipe(None, Decompose(3))))
    assert (first.stride, first.padding, first.dilation, first.output_size) == ((2, 1), (2, 0), (2, 1), (4, 8))
    assert (second.input_size, second.stride, second.padding, second.dilation) == ((4, 8), (1, 2), (0, 2), (1, 2))
    assert second.output_size == (4, 4)
    # The linear layer's rows are all but the last dimension: 2 * 8 * 4.
    assert [(it.kind, it.batch, it.in_channels, it.out_channels) for it in halves] == [
        ("linear", 64, 4, 3),
        ("linear", 64, 3, 6),
    ]


def test_a_thinned_depthwise_convolution_has_as_many_groups_as_channels(lowered):
    layers = [nn.Conv2d(4, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 4, 1)]
    graph = trace(nn.Sequential(*layers).eval(), (torch.zeros(1, 4, 8, 8),))
    half = {"0": LayerRecipe(Sparsify(0.5)), "1": LayerRecipe(Sparsify(0.5))}
    calls = lowered(graph, **half)
    depthwise = calls[1].kernel
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (8, 8, 8)
    assert depthwise.macs == 2 * 8 * 64 * 9


def macs_of(graph, recipe, layer):
    kernels = (call.kernel for call in CpuOpenvino(batch=2).lower(graph, recipe) if call.owner == layer)
    return sum(kernel.macs for kernel in kernels if isinstance(kernel, ComputeKernel))


def test_every_split_that_a_search_is_offered_saves_multiply_accumulates(block):
    space = Space(block, CpuOpenvino().capabilities, SpaceOptions(ranks=(0.9, 0.5), decompositions=DECOMPOSITIONS))
    random, compared = Random(0), set()
    for _ in range(100):
        recipe = space.decode({it.name: random.randrange(it.rungs) for it in space.dimensions})
        for name, choice in recipe.layers.items():
            if choice.decompose:
                whole = Recipe({**recipe.layers, name: replace(choice, decompose=None)})
                assert macs_of(block, recipe, name) < macs_of(block, whole, name)
                compared.add((name, choice.decompose))
    assert {split.kind for _, split in compared} == set(DECOMPOSITIONS)

"""Expectations by hand for a residual block at batch 2: a map of 16 channels has 2048 elements, one of 32 has 4096."""

import pytest
import torch
from gulliver.evaluators.latency.kernel import ComputeKernel, MemoryKernel
from gulliver.evaluators.latency.lowering import Lowering, all_calls
from gulliver.spaces.choices import RecipeChoices
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.trace import trace
from torch import nn

INT8 = LayerRecipe(quantize=Quantize())


def convolution(inputs, outputs, precision, output, kernel=(3, 3), padding=(1, 1), groups=1, size=(8, 8), **facts):
    shape = (size, kernel, (1, 1), padding, (1, 1), groups)
    return ComputeKernel("conv2d", 2, inputs, outputs, *shape, precision, output, **facts)


def signed(inputs, outputs, output, **facts):
    """Return an int8 convolution whose inputs may be below zero."""
    return convolution(inputs, outputs, "int8", output, signed_input=True, **facts)


def linear(precision, output):
    return ComputeKernel("linear", 2, 16, 10, (), (), (), (), (), 1, precision, output)


def facts(calls):
    """Return of every call what runs, for whom, and what is fused into it; a pass by its kind and bytes."""
    return [(call.kernel, call.owner, call.fused) for call in calls]


def test_in_bfloat16_all_but_the_pooling_fuses(block, lowered):
    assert facts(lowered(block)) == [
        (convolution(16, 16, "bfloat16", "bfloat16"), "stem", ("relu",)),
        (convolution(16, 32, "bfloat16", "bfloat16"), "conv1", ("batch_norm", "relu")),
        (convolution(32, 16, "bfloat16", "bfloat16", adds=True), "conv2", ("batch_norm", "add", "relu")),
        (MemoryKernel("pool", 2048 * 2 + 32 * 2), "pool", ()),
        (linear("bfloat16", "bfloat16"), "linear", ()),
    ]


def test_in_int8_the_input_is_rounded_and_the_addition_is_a_pass(block, lowered):
    calls = lowered(block, default=INT8)
    assert facts(calls) == [
        (MemoryKernel("round", 2048 * 2 + 2048), "images", ()),
        (signed(16, 16, "int8"), "stem", ("relu",)),
        (convolution(16, 32, "int8", "int8"), "conv1", ("batch_norm", "relu")),
        (convolution(32, 16, "int8", "bfloat16"), "conv2", ("batch_norm",)),
        (MemoryKernel("add", 2048 * 2 + 2048 + 2048 * 2), "add", ()),
        (MemoryKernel("pool", 2048 * 2 + 32), "pool", ()),
        (linear("int8", "bfloat16"), "linear", ()),
    ]
    assert calls[0].note == "the network's input is rounded"
    assert calls[4].note == "an int8 convolution absorbs no addition"


def test_one_int8_layer_among_floats_costs_a_conversion_and_the_addition_reads_what_was_rounded(block, lowered):
    calls = lowered(block, conv1=INT8)
    assert facts(calls) == [
        (convolution(16, 16, "bfloat16", "int8"), "stem", ("relu",)),
        (MemoryKernel("convert", 2048 * 2 + 2048), "relu", ()),
        (convolution(16, 32, "int8", "bfloat16"), "conv1", ("batch_norm", "relu")),
        (convolution(32, 16, "bfloat16", "bfloat16"), "conv2", ("batch_norm",)),
        (MemoryKernel("add", 2048 * 2 + 2048 + 2048 * 2), "add", ()),
        (MemoryKernel("pool", 2048 * 2 + 32 * 2), "pool", ()),
        (linear("bfloat16", "bfloat16"), "linear", ()),
    ]
    assert calls[1].note == "stem runs in bfloat16 and feeds an int8 layer"
    assert calls[4].note == "no convolution absorbs a rounded addend"


def test_an_int8_layer_before_an_addition_keeps_it_a_pass(block, lowered):
    calls = lowered(block, conv2=INT8)
    assert facts(calls)[1:5] == [
        (convolution(16, 32, "bfloat16", "int8"), "conv1", ("batch_norm", "relu")),
        (MemoryKernel("convert", 4096 * 2 + 4096), "relu_1", ()),
        (convolution(32, 16, "int8", "bfloat16"), "conv2", ("batch_norm",)),
        (MemoryKernel("add", 3 * 2048 * 2), "add", ()),
    ]


def test_where_kernels_are_not_told_apart_an_addition_is_priced_by_what_it_reads(block):
    choices = RecipeChoices(block, Recipe({name: LayerRecipe() for name in block.layers} | {"linear": INT8}))
    calls = all_calls(block, Lowering(block, choices, batch=2, float_type="bfloat16"))
    assert facts(calls)[2:] == [
        (convolution(32, 16, "bfloat16", "bfloat16"), "conv2", ("batch_norm", "add", "relu")),
        (MemoryKernel("fused_add", 2048 * 2), "conv2", ()),
        (MemoryKernel("pool", 2048 * 2 + 32), "pool", ()),
        (linear("int8", "bfloat16"), "linear", ()),
    ]
    assert calls[3].note == "the residual is read by the convolution"


def test_in_float32_passes_move_four_bytes_an_element(block, lowered):
    kernels = [call.kernel for call in lowered(block, "float32", conv2=INT8)]
    assert MemoryKernel("add", 3 * 2048 * 4) in kernels
    assert MemoryKernel("pool", 2048 * 4 + 32 * 4) in kernels


@pytest.mark.parametrize(("quantize", "precision"), [(None, "bfloat16"), (Quantize(), "int8")])
def test_a_split_layer_is_two_kernels_and_the_second_fuses(quantize, precision, block, lowered):
    calls = lowered(block, conv1=LayerRecipe(None, Decompose(8), quantize))
    first, second = (call for call in calls if call.owner == "conv1")
    between = {"signed_input": precision == "int8"}
    assert facts([first, second]) == [
        (convolution(16, 8, precision, precision, (3, 1), (1, 0), bare=True), "conv1", ()),
        (convolution(8, 32, precision, "bfloat16", (1, 3), (0, 1), **between), "conv1", ("batch_norm", "relu")),
    ]
    assert first.kernel.macs + second.kernel.macs == 2 * 64 * 8 * (16 * 3 + 32 * 3)


@pytest.mark.parametrize(("quantize", "precision"), [(None, "bfloat16"), (Quantize(), "int8")])
def test_a_layer_split_by_channels_is_a_thinner_convolution_and_a_1x1_that_fuses(quantize, precision, block, lowered):
    calls = lowered(block, conv1=LayerRecipe(None, Decompose(8, "channel_svd"), quantize))
    first, second = (call for call in calls if call.owner == "conv1")
    between = {"signed_input": precision == "int8"}
    assert facts([first, second]) == [
        (convolution(16, 8, precision, precision, bare=True), "conv1", ()),
        (convolution(8, 32, precision, "bfloat16", (1, 1), (0, 0), **between), "conv1", ("batch_norm", "relu")),
    ]
    assert first.kernel.macs == 2 * 64 * 16 * 8 * 9
    assert second.kernel.macs == 2 * 64 * 8 * 32


@pytest.mark.parametrize(("quantize", "precision"), [(None, "bfloat16"), (Quantize(), "int8")])
def test_a_layer_split_by_tucker_is_a_core_between_two_1x1_of_which_the_last_fuses(quantize, precision, block, lowered):
    calls = lowered(block, conv1=LayerRecipe(None, Decompose(8, "tucker2", 6), quantize))
    parts = [call for call in calls if call.owner == "conv1"]
    between = {"signed_input": precision == "int8"}
    assert facts(parts) == [
        (convolution(16, 6, precision, precision, (1, 1), (0, 0), bare=True), "conv1", ()),
        (convolution(6, 8, precision, precision, bare=True, **between), "conv1", ()),
        (convolution(8, 32, precision, "bfloat16", (1, 1), (0, 0), **between), "conv1", ("batch_norm", "relu")),
    ]
    assert [call.kernel.macs for call in parts] == [2 * 64 * 16 * 6, 2 * 64 * 6 * 8 * 9, 2 * 64 * 8 * 32]


def test_removed_channels_are_gone_from_kernels_and_passes(block, lowered):
    half = LayerRecipe(Sparsify(0.5))
    kernels = [call.kernel for call in lowered(block, stem=half, conv1=half, conv2=half)]
    assert kernels == [
        convolution(16, 8, "bfloat16", "bfloat16"),
        convolution(8, 16, "bfloat16", "bfloat16"),
        convolution(16, 8, "bfloat16", "bfloat16", adds=True),
        MemoryKernel("pool", 1024 * 2 + 16 * 2),
        ComputeKernel("linear", 2, 8, 10, (), (), (), (), (), 1, "bfloat16", "bfloat16"),
    ]


def test_a_tensor_needed_rounded_and_not_is_converted(lowered):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, images):
            stem = self.stem(images)
            return torch.cat([self.conv(stem), torch.sigmoid(stem)], 1)

    graph = trace(Both().eval(), (torch.zeros(1, 16, 8, 8),))
    calls = lowered(graph, default=INT8)
    assert [call.kernel for call in calls if isinstance(call.kernel, MemoryKernel)] == [
        MemoryKernel("round", 2048 * 2 + 2048),
        MemoryKernel("convert", 2048 * 2 + 2048),
        MemoryKernel("other", 2048 * 2 + 2048 * 2),
        MemoryKernel("concat", 2 * 2048 * 2 + 4096 * 2),
    ]
    assert calls[2].note == "the output of stem is needed both in int8 and in bfloat16"


def test_a_rounding_stands_before_the_pool_that_selects_its_values(lowered):
    layers = [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 16)]
    graph = trace(nn.Sequential(*layers).eval(), (torch.zeros(1, 16, 8, 8),))
    pool = MemoryKernel("pool", 2048 + 512)
    assert [call.kernel for call in lowered(graph, default=INT8)][1:3] == [signed(16, 16, "int8"), pool]
    assert [call.kernel for call in lowered(graph, **{"4": INT8})][:3] == [
        convolution(16, 16, "bfloat16", "int8"),
        MemoryKernel("convert", 2048 * 2 + 2048),
        pool,
    ]


def test_an_average_is_rounded_behind_its_pool(lowered):
    layers = [nn.Conv2d(16, 16, 3, padding=1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 16)]
    graph = trace(nn.Sequential(*layers).eval(), (torch.zeros(1, 16, 8, 8),))
    calls = [call.kernel for call in lowered(graph, default=INT8)]
    assert calls[1:3] == [signed(16, 16, "bfloat16"), MemoryKernel("pool", 2048 * 2 + 512)]


def test_what_a_relu_gave_stays_without_signs_through_pools_joins_and_additions(lowered):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right, self.head = (nn.Conv2d(count, 16, 1) for count in (16, 16, 16, 32))
            self.rectify, self.clip, self.average = nn.ReLU(), nn.ReLU6(), nn.AvgPool2d(2)

        def forward(self, images):
            stem = self.clip(self.stem(images))
            both = torch.cat([self.rectify(self.left(stem)), stem + self.rectify(self.right(stem))], 1)
            return self.head(self.average(both))

    graph = trace(Network().eval(), (torch.zeros(1, 16, 8, 8),))
    kernels = (call.kernel for call in lowered(graph, default=INT8))
    assert [it.signed_input for it in kernels if isinstance(it, ComputeKernel)] == [True, False, False, False]


@pytest.mark.parametrize("last", [nn.SiLU(), nn.Identity(), nn.BatchNorm2d(16)])
def test_what_no_relu_gave_may_be_below_zero(last, lowered):
    graph = trace(nn.Sequential(nn.Conv2d(16, 16, 1), last, nn.Conv2d(16, 16, 1)).eval(), (torch.zeros(1, 16, 8, 8),))
    assert lowered(graph, default=INT8)[-1].kernel.signed_input
    assert not lowered(graph)[-1].kernel.signed_input


@pytest.mark.parametrize(("is_shared", "output"), [(False, "int8"), (True, "bfloat16")])
def test_joined_values_are_rounded_before_they_are_joined_where_nothing_else_reads_them(is_shared, output, lowered):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.conv = (nn.Conv2d(count, 16, 1) for count in (16, 16, 32))

        def forward(self, images):
            left = self.left(images)
            both = self.conv(torch.cat([left, self.right(images)], 1))
            return torch.cat([both, torch.sigmoid(left)], 1) if is_shared else both

    graph = trace(Joined().eval(), (torch.zeros(1, 16, 8, 8),))
    kernels = [call.kernel for call in lowered(graph, default=INT8)]
    assert {it.output_precision for it in kernels[1:3]} == {output}
    size = {"int8": 1, "bfloat16": 2}[output]
    assert kernels[3] == MemoryKernel("concat", 4096 * size + 4096)


@pytest.mark.parametrize("weights", [Quantize(8, 16), Quantize(8, 8, group_size=16)], ids=["16 bits", "groups"])
def test_a_layer_whose_weights_alone_are_quantized_runs_in_floating_point(weights, block, lowered):
    assert lowered(block, default=LayerRecipe(quantize=weights)) == lowered(block)
    split = lowered(block, conv1=LayerRecipe(None, Decompose(8), weights))
    assert split == lowered(block, conv1=LayerRecipe(None, Decompose(8)))


@pytest.mark.parametrize(("choice", "written"), [(LayerRecipe(), 2), (INT8, 1)])
def test_a_batch_norm_that_follows_no_layer_is_a_pass_which_absorbs_its_activation(choice, written, lowered):
    norm_first = nn.Sequential(nn.MaxPool2d(1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1))
    calls = lowered(trace(norm_first.eval(), (torch.zeros(1, 16, 8, 8),)), default=choice)
    passes = [call.kernel for call in calls if isinstance(call.kernel, MemoryKernel)]
    assert passes == [
        MemoryKernel("pool", 2048 * 2 + 2048 * 2),
        MemoryKernel("batch_norm", 2048 * 2 + 2048 * written),
    ]

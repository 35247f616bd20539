from dataclasses import replace

import pytest
from gulliver.evaluators.latency.kernel import BYTES_PER_ELEMENT, ComputeKernel, GatedMlpKernel, MemoryKernel

LINEAR = ComputeKernel("linear", 7, 16, 10, (), (), (), (), (), 1, "bfloat16", "bfloat16")
EXPERTS = GatedMlpKernel((1, 0, 5), 64, 128, 32)


def convolution(**changes):
    facts = {
        "kind": "conv2d",
        "batch": 2,
        "in_channels": 16,
        "out_channels": 32,
        "input_size": (9, 8),
        "kernel_size": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
        "precision": "int8",
        "output_precision": "int8",
    }
    return ComputeKernel(**facts | changes)


@pytest.mark.parametrize(
    ("changes", "size", "macs"),
    [
        ({}, (9, 8), 2 * 32 * 72 * 16 * 9),
        ({"stride": (2, 2)}, (5, 4), 2 * 32 * 20 * 16 * 9),
        ({"padding": (0, 0)}, (7, 6), 2 * 32 * 42 * 16 * 9),
        ({"dilation": (2, 2)}, (7, 6), 2 * 32 * 42 * 16 * 9),
        ({"groups": 16, "out_channels": 16}, (9, 8), 2 * 16 * 72 * 9),
        ({"kernel_size": (3, 1), "padding": (1, 0), "stride": (2, 1)}, (5, 8), 2 * 32 * 40 * 16 * 3),
    ],
)
def test_sizes_and_multiply_accumulates_by_hand(changes, size, macs):
    kernel = convolution(**changes)
    assert (kernel.output_size, kernel.macs) == (size, macs)


def test_sizes_are_those_of_torch():
    import torch

    for changes in ({"stride": (3, 2), "dilation": (2, 1)}, {"kernel_size": (5, 2), "padding": (3, 0)}):
        kernel = convolution(**changes)
        layer = torch.nn.Conv2d(16, 32, kernel.kernel_size, kernel.stride, kernel.padding, kernel.dilation)
        assert layer(torch.zeros(2, 16, 9, 8)).shape[2:] == kernel.output_size


def test_a_linear_layers_rows_are_its_batch():
    assert (LINEAR.output_size, LINEAR.macs) == ((), 7 * 16 * 10)


def test_equal_kernels_are_one_key_and_can_be_sorted():
    assert len({convolution(), convolution(), convolution(batch=3)}) == 2
    assert sorted([convolution(batch=3), convolution()])[0].batch == 2
    assert sorted([MemoryKernel("add", 8), MemoryKernel("add", 4)])[0].bytes_moved == 4


def test_bytes_of_every_type():
    assert BYTES_PER_ELEMENT == {"int8": 1, "bfloat16": 2, "float16": 2, "float32": 4}


def test_the_bytes_of_weights_by_hand():
    assert convolution().weight_bytes == 16 * 32 * 9
    assert convolution(groups=16, precision="bfloat16").weight_bytes == 32 * 9 * 2
    assert replace(LINEAR, precision="float32").weight_bytes == 160 * 4


def test_a_gated_mlp_moves_the_weights_of_the_groups_that_have_rows():
    # int8 inputs, and float16 results.
    assert EXPERTS.bytes_moved == 2 * (64 * 256 + 128 * 32) + 6 * 64 + 6 * 32 * 2


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (convolution(), "conv2d 3x3 int8, batch 2, 16 -> 32 on 9x8"),
        (convolution(groups=16), "conv2d 3x3 int8, batch 2, 16 -> 32 in 16 groups on 9x8"),
        (LINEAR, "linear bfloat16, 7 rows, 16 -> 10"),
        (MemoryKernel("add", 4096), "add, 4 KB"),
        (EXPERTS, "gated_mlp int8, 6 rows in 3 groups, 64 -> 128 -> 32"),
        (replace(EXPERTS, group_rows=(6,)), "gated_mlp int8, 6 rows, 64 -> 128 -> 32"),
    ],
)
def test_a_kernel_is_described_in_a_few_words(kernel, words):
    assert kernel.description == words

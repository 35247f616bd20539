from math import prod

import pytest
import torch
from gulliver.spaces.parts import Part, parts_of, why_not_offered
from gulliver.spaces.recipe import DECOMPOSITIONS, Decompose
from gulliver.spaces.shapes import Channels
from gulliver.spaces.trace import trace
from torch import nn

NO_WINDOW = ((1, 1), (1, 1), (0, 0), (1, 1))


def layer_of(module, *shape):
    """Return the layer of a network that is this module alone."""
    return next(iter(trace(nn.Sequential(module).eval(), (torch.zeros(1, *shape),)).layers.values()))


@pytest.fixture(scope="module")
def strided():
    """Return a convolution of 32 to 64 channels whose kernel, stride, padding and dilation differ by direction."""
    return layer_of(nn.Conv2d(32, 64, (3, 5), (1, 2), (2, 4), (2, 3)), 32, 16, 16)


def test_a_spatial_svd_has_one_direction_of_the_kernel_in_each_half(strided):
    assert parts_of(strided, Channels(32, 64), Decompose(8)) == (
        Part(32, 8, (3, 1), (1, 1), (2, 0), (2, 1)),
        Part(8, 64, (1, 5), (1, 2), (0, 4), (1, 3)),
    )


def test_a_channel_svd_has_the_kernel_in_the_first_part(strided):
    assert parts_of(strided, Channels(32, 64), Decompose(8, "channel_svd")) == (
        Part(32, 8, (3, 5), (1, 2), (2, 4), (2, 3)),
        Part(8, 64, *NO_WINDOW),
    )


@pytest.mark.parametrize(("in_rank", "inputs"), [(None, 8), (6, 6)])
def test_tucker_has_the_kernel_in_its_core(in_rank, inputs, strided):
    assert parts_of(strided, Channels(32, 64), Decompose(8, "tucker2", in_rank)) == (
        Part(32, inputs, *NO_WINDOW),
        Part(inputs, 8, (3, 5), (1, 2), (2, 4), (2, 3)),
        Part(8, 64, *NO_WINDOW),
    )


def test_parts_have_the_channels_that_are_left(strided):
    parts = parts_of(strided, Channels(24, 40), Decompose(8, "tucker2"))
    assert [(it.inputs, it.outputs) for it in parts] == [(24, 8), (8, 8), (8, 40)]


def test_the_parts_of_a_linear_layer_have_no_kernel():
    layer = layer_of(nn.Linear(12, 20), 12)
    assert parts_of(layer, Channels(12, 20), Decompose(5)) == (Part(12, 5), Part(5, 20))


# 64 to 64 channels of 3 x 3, 36864 weights: a third of them at rank 32 of the first, by hand for the others.
@pytest.mark.parametrize(
    ("split", "weights"),
    [
        (Decompose(32), [64 * 32 * 3, 32 * 64 * 3]),
        (Decompose(32, "channel_svd"), [64 * 32 * 9, 32 * 64]),
        (Decompose(32, "tucker2"), [64 * 32, 32 * 32 * 9, 32 * 64]),
        (Decompose(32, "tucker2", 16), [64 * 16, 16 * 32 * 9, 32 * 64]),
        (Decompose(1000), [64 * 192 * 3, 192 * 64 * 3]),
        (Decompose(1000, "channel_svd"), [64 * 64 * 9, 64 * 64]),
        (Decompose(1000, "tucker2"), [64 * 64, 64 * 64 * 9, 64 * 64]),
    ],
    ids=str,
)
def test_weights_of_every_part_by_hand_and_no_rank_beyond_the_layers_own(split, weights, plain):
    assert [part.weight_count for part in parts_of(plain.layers["conv2"], Channels(64, 64), split)] == weights


@pytest.mark.parametrize(
    ("module", "shape", "kinds"),
    [
        (nn.Conv2d(8, 8, 3), (8, 9, 9), {"svd", "channel_svd", "tucker2"}),
        (nn.Conv2d(8, 8, (1, 3)), (8, 9, 9), {"svd", "channel_svd", "tucker2"}),
        (nn.Conv2d(8, 8, (3, 1)), (8, 9, 9), {"svd", "tucker2"}),
        (nn.Conv2d(8, 8, 1), (8, 9, 9), {"svd"}),
        (nn.Conv2d(8, 8, 3, groups=2), (8, 9, 9), set()),
        (nn.Conv1d(8, 8, 3), (8, 9), {"channel_svd", "tucker2"}),
        (nn.Conv1d(8, 8, 1), (8, 9), {"channel_svd"}),
        (nn.Linear(8, 8), (8,), {"svd"}),
    ],
    ids=str,
)
def test_kinds_that_give_what_another_gives_are_not_offered(module, shape, kinds):
    layer = layer_of(module, *shape)
    assert {kind for kind in DECOMPOSITIONS if why_not_offered(layer, kind) is None} == kinds


@pytest.mark.parametrize("kind", ["channel_svd", "svd"])
def test_what_is_not_offered_along_one_direction_has_the_same_parts(kind):
    layer = layer_of(nn.Conv2d(8, 8, (3, 1)), 8, 9, 9)
    parts = parts_of(layer, Channels(8, 8), Decompose(4, kind))
    assert [(prod(it.kernel_size), it.inputs, it.outputs) for it in parts] == [(3, 8, 4), (1, 4, 8)]

"""Expectations by hand at batch 2: what passes move and layers read, in bfloat16 of two bytes an element."""

from dataclasses import replace

import pytest
import torch
from gulliver.evaluators.latency.kernel import ComputeKernel, MemoryKernel
from gulliver.spaces.layer_graph import ChannelGroup, Coupling
from gulliver.spaces.recipe import LayerRecipe, Quantize, Sparsify
from gulliver.spaces.trace import trace
from torch import nn

INT8 = LayerRecipe(quantize=Quantize())


class Parts(nn.Module):
    """A gated product over six of the eight tokens of a sequence, joined with the other two."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, tokens):
        first, second = torch.split(tokens, [6, 2], 1)
        product = torch.sigmoid(self.gate(first)) * self.up(first)
        return torch.cat([self.down(product), second], 1)


def passes(calls):
    return [call.kernel for call in calls if isinstance(call.kernel, MemoryKernel)]


def test_parts_of_a_tensor_are_copied_and_the_split_itself_is_free(lowered):
    graph = trace(Parts().eval(), (torch.zeros(1, 8, 16),))
    elements, hidden = 2 * 6 * 16, 2 * 6 * 32
    first, second = MemoryKernel("slice", 2 * elements * 2), MemoryKernel("slice", 2 * (2 * 2 * 16) * 2)
    rest = [MemoryKernel("other", 2 * hidden * 2), MemoryKernel("other", 3 * hidden * 2)]
    joined = MemoryKernel("concat", 2 * (2 * 8 * 16) * 2)
    assert passes(lowered(graph)) == [first, second, *rest, joined]
    # The part that an int8 layer reads is copied first: rounding it is a kernel of its own.
    rounded = MemoryKernel("round", elements * 2 + elements)
    assert passes(lowered(graph, gate=INT8, up=INT8)) == [first, rounded, second, *rest, joined]


def test_removed_channels_of_sequences_are_gone_from_the_passes(lowered):
    graph = trace(Parts().eval(), (torch.zeros(1, 8, 16),))
    half = LayerRecipe(Sparsify(0.5))
    graph = replace(graph, channel_groups=(_hidden_group(),))
    _, _, sigmoid, product, _ = passes(lowered(graph, gate=half, up=half))
    assert (sigmoid.bytes_moved, product.bytes_moved) == (2 * (2 * 6 * 16) * 2, 3 * (2 * 6 * 16) * 2)


def _hidden_group():
    indices = tuple((channel,) for channel in range(32))
    sides = (("gate", "out"), ("up", "out"), ("down", "in"))
    return ChannelGroup("gate", 32, ("gate", "up"), tuple(Coupling(name, side, indices) for name, side in sides))


def test_flattening_costs_nothing_and_widens_the_linear_layer(lowered):
    network = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Flatten(), nn.Linear(8 * 64, 3)).eval()
    graph = trace(network, (torch.zeros(1, 4, 8, 8),))
    calls = lowered(graph, **{"0": LayerRecipe(Sparsify(0.5))})
    assert len(calls) == 2
    assert (calls[1].kernel.in_channels, calls[1].kernel.out_channels) == (256, 3)


class Folded(nn.Module):
    """Two linear layers, between which tokens become samples of their own."""

    def __init__(self, fold):
        super().__init__()
        self.first, self.last, self.fold = nn.Linear(16, 32), nn.Linear(32, 8), fold

    def forward(self, tokens):
        return self.last(torch.sigmoid(self.fold(self.first(tokens))))


@pytest.mark.parametrize("example_batch", [1, 3])
@pytest.mark.parametrize(
    ("fold", "moves"),
    [
        (lambda hidden: hidden, False),
        (lambda hidden: hidden.flatten(0, 1), False),
        (lambda hidden: hidden.reshape(-1, hidden.shape[-1]), True),
        (lambda hidden: hidden.unsqueeze(1), True),
    ],
    ids=["tokens", "flatten", "reshape", "unsqueeze"],
)
def test_tokens_that_become_samples_are_as_many_rows_and_bytes_as_before(fold, moves, example_batch, lowered):
    graph = trace(Folded(fold), (torch.zeros(example_batch, 5, 16),))
    calls = lowered(graph, first=LayerRecipe(Sparsify(0.5)))
    kernels = [call.kernel for call in calls if isinstance(call.kernel, ComputeKernel)]
    # At batch 2 there are 2 * 5 tokens, of 16 channels of the 32 that there were.
    assert [(it.batch, it.in_channels, it.out_channels) for it in kernels] == [(10, 16, 16), (10, 16, 8)]
    assert passes(calls) == [MemoryKernel("other", 2 * (10 * 16) * 2)] * (1 + moves)


def test_frames_that_become_images_are_convolved_one_by_one(lowered):
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 3, padding=1)

        def forward(self, videos):
            return torch.sigmoid(self.conv(videos.flatten(0, 1)))

    calls = lowered(trace(Frames(), (torch.zeros(1, 6, 4, 8, 8),)))
    assert calls[0].kernel.batch == 2 * 6
    assert passes(calls) == [MemoryKernel("other", 2 * (2 * 6 * 8 * 64) * 2)]

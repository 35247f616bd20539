import pytest
import torch
from gulliver.spaces.trace import trace
from torch import nn


def groups_of(graph):
    return {group.name: group for group in graph.channel_groups}


def sides(group):
    return {(coupling.module, coupling.side) for coupling in group.couplings}


def same(channels):
    return tuple((channel,) for channel in range(channels))


def test_channels_tied_by_a_residual_addition_are_one_group(residual):
    groups = groups_of(residual)
    assert list(groups) == ["stem", "conv1", "linear"]
    stem = groups["stem"]
    assert (stem.channels, stem.layers, stem.not_prunable) == (32, ("stem", "conv2"), None)
    assert sides(stem) == {
        ("stem", "out"),
        ("conv1", "in"),
        ("conv2", "out"),
        ("norm2", "out"),
        ("linear", "in"),
    }
    assert sides(groups["conv1"]) == {("conv1", "out"), ("norm1", "out"), ("conv2", "in")}
    assert all(coupling.indices == same(32) for coupling in stem.couplings)
    assert residual.group_of("conv2") is stem
    assert residual.group_of("nothing") is None


def test_a_flattened_map_ties_a_channel_to_all_its_pixels(plain):
    group = groups_of(plain)["conv2"]
    linear = next(coupling for coupling in group.couplings if coupling.module == "linear")
    assert linear.side == "in"
    assert linear.indices == tuple(tuple(range(16 * channel, 16 * channel + 16)) for channel in range(64))


def test_concatenated_channels_stay_apart_and_are_shifted(mixed):
    groups = groups_of(mixed)
    assert groups["left"].layers == ("left",)
    assert groups["right"].layers == ("right",)
    for name, first in (("left", 0), ("right", 16)):
        group = groups[name]
        join = next(coupling for coupling in group.couplings if coupling.module == "join")
        assert join.side == "in"
        assert join.indices == tuple((first + channel,) for channel in range(group.channels))


def test_a_depthwise_convolution_goes_with_the_layer_before_it(mixed):
    group = groups_of(mixed)["join"]
    assert (group.layers, group.channels) == (("join", "depthwise"), 32)


def test_groups_that_cannot_lose_channels_say_why(mixed):
    reasons = {group.name: group.not_prunable for group in mixed.channel_groups}
    assert reasons == {
        "left": None,
        "right": None,
        "join": "grouped is a grouped convolution",
        "grouped": "grouped is a grouped convolution",
        "head": "its channels are the network's outputs",
    }


def test_channels_that_reach_the_output_through_an_addition_are_kept():
    class Tail(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, images):
            first = self.first(images)
            return torch.relu(first + self.third(torch.relu(self.second(first))))

    groups = groups_of(trace(Tail().eval(), (torch.zeros(1, 3, 4, 4),)))
    assert groups["first"].layers == ("first", "third")
    assert groups["first"].not_prunable == "its channels are the network's outputs"
    assert groups["second"].not_prunable is None


class Shuffled(nn.Module):
    """Two layers whose channels reach a third through a shuffle, which is a module or is written out."""

    def __init__(self, written_out):
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)
        self.outer = nn.Conv2d(8, 8, 1)
        self.shuffle = nn.ChannelShuffle(2)
        self.last = nn.Conv2d(8, 8, 1)
        self.linear = nn.Linear(8, 4)
        self.written_out = written_out

    def forward(self, images):
        features = torch.relu(self.outer(torch.relu(self.inner(images))))
        if self.written_out:
            batch, channels, height, width = features.shape
            halves = features.view(batch, 2, channels // 2, height, width).transpose(1, 2)
            shuffled = halves.reshape(batch, channels, height, width)
        else:
            shuffled = self.shuffle(features)
        return self.linear(self.last(shuffled).mean((2, 3)))


@pytest.mark.parametrize("written_out", [False, True])
def test_channels_that_are_shuffled_are_kept_and_those_before_and_behind_are_not(written_out):
    groups = groups_of(trace(Shuffled(written_out), (torch.zeros(1, 8, 4, 4),)))
    assert groups["outer"].not_prunable == "its channels are shuffled"
    assert groups["inner"].not_prunable is None
    assert groups["last"].not_prunable is None


def test_channels_tied_to_a_bare_parameter_are_kept():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))

        def forward(self, images):
            return self.head(self.conv(images) * self.scale)

    graph = trace(Scaled().eval(), (torch.zeros(1, 3, 4, 4),))
    assert groups_of(graph)["conv"].not_prunable == "its channels are tied to a bare parameter"


class OwnConvolution(nn.Conv2d):
    """A convolution that tracing does not know."""


@pytest.mark.parametrize("module", [nn.ConvTranspose2d(8, 6, 3), OwnConvolution(8, 6, 3)])
def test_a_module_that_is_no_layer_is_in_no_group_and_keeps_the_channels_that_it_reads(module):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), module, nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    groups = groups_of(trace(network, (torch.zeros(1, 3, 8, 8),)))
    assert {group.name: (group.layers, group.not_prunable) for group in groups.values()} == {
        "0": (("0",), f"1 is a {type(module).__name__}, which is not compressed"),
        "2": (("2",), None),
        "3": (("3",), "its channels are the network's outputs"),
    }


@pytest.mark.parametrize("fixture", ["plain", "residual", "mixed"])
def test_every_layer_is_in_exactly_one_group_named_by_its_first_layer(fixture, request):
    graph = request.getfixturevalue(fixture)
    members = [name for group in graph.channel_groups for name in group.layers]
    assert sorted(members) == sorted(graph.layers)
    assert all(group.name == group.layers[0] for group in graph.channel_groups)


class Heads(nn.Module):
    """Self-attention, and a residual layer behind it; the width of its heads is written out, or what is left."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value, self.merge = (nn.Linear(32, 32) for _ in range(4))
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 4)
        self.width = width

    def forward(self, tokens):
        batch, count, _ = tokens.shape
        query, key, value = (
            layer(tokens).view(batch, count, 4, self.width).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = torch.softmax(query @ key.transpose(2, 3), 3) @ value
        return self.narrow(torch.relu(self.wide(self.merge(mixed.transpose(1, 2).flatten(2)))))


@pytest.mark.parametrize(
    ("width", "reason"),
    [
        (8, "the network does not run without some of them (RuntimeError: shape '[1, 5, 4, 8]' is invalid for"),
        (-1, ""),
    ],
)
def test_channels_that_a_forward_method_counts_on_are_kept(width, reason):
    reasons = {it.name: it.not_prunable for it in trace(Heads(width).eval(), (torch.zeros(1, 5, 32),)).channel_groups}
    assert (reasons["query"] or "").startswith(reason)
    assert bool(reasons["query"]) == bool(reason)
    assert reasons["wide"] is None


def test_channels_are_kept_where_it_is_not_known_who_reads_them():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.head = nn.Conv2d(3, 16, 1), nn.Linear(8, 24), nn.Linear(16 * 16 + 24, 4)

        def forward(self, images, values):
            return self.head(torch.cat([self.conv(images).flatten(1), self.linear(values)], 1))

    graph = trace(Joined().eval(), (torch.zeros(1, 3, 4, 4), torch.zeros(1, 8)))
    reasons = [it.not_prunable for it in graph.channel_groups if {"conv", "linear"} & {*it.layers}]
    assert "torch-pruning cannot follow them to those who read them" in reasons


def test_no_channels_are_removed_from_a_network_that_torch_pruning_cannot_follow():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.recurrent, self.head = nn.Linear(8, 16), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 4)

        def forward(self, steps):
            return self.head(self.recurrent(self.first(steps))[0][:, -1])

    graph = trace(Recurrent().eval(), (torch.zeros(1, 5, 8),))
    assert {it.name: it.channels for it in graph.channel_groups} == {"first": 16, "head": 4}
    assert all(it.not_prunable.startswith("torch-pruning cannot follow the netw") for it in graph.channel_groups)

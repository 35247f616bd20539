import itertools

import pytest
import torch
from gulliver.search.pairs import neighbours, pairs_that_matter
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from torch import nn


class Split(nn.Module):
    """Two layers read the stem, and a third one reads both."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, images):
        stem = torch.relu(self.stem(images))
        return self.head(torch.relu(torch.cat([self.left(stem), self.right(stem)], 1)))


@pytest.fixture(scope="module")
def split():
    return trace(Split().eval(), (torch.zeros(1, 3, 8, 8),))


def space_of(graph, **options):
    return Space(graph, Capabilities("bfloat16", {"conv2d": ((8, 8),)}, 8, 8, 8), SpaceOptions(**options))


def test_neighbours_are_layers_with_no_other_layer_between(split):
    assert neighbours(split) == [("stem", "left"), ("stem", "right"), ("left", "head"), ("right", "head")]


def test_neighbours_of_a_residual_network_are_those_that_a_walk_finds(space):
    def reached(operation):
        for user in space.graph.users[operation.name]:
            if user.layer:
                yield user.layer
            else:
                yield from reached(user)

    walked = {(it.layer, after) for it in space.graph.operations if it.layer for after in reached(it)}
    assert set(neighbours(space.graph)) == walked
    # Through the block's addition, the stem feeds the second stage too.
    assert ("stem.conv", "stages.1.0.conv1") in walked


def test_pairs_are_the_methods_of_a_layer_and_the_same_method_on_neighbours(split):
    pairs = pairs_that_matter(space_of(split, ranks=(0.5,)))
    names = ("precision", "sparsity", "rank")
    alone = {
        tuple(sorted((f"{a}/{layer}", f"{b}/{layer}")))
        for layer in ("stem", "left", "right")
        for a, b in itertools.combinations(names, 2)
    }
    beside = {tuple(sorted((f"{it}/{a}", f"{it}/{b}"))) for it in names for a, b in neighbours(split)}
    # The head's channels are the network's outputs; of the 1x1 convolutions no rank in multiples of 8 saves anything.
    absent = {"sparsity/head", "rank/stem", "rank/left", "rank/head"}
    assert set(pairs) == {it for it in alone | beside if not absent.intersection(it)}
    assert len(set(pairs)) == len(pairs)


def test_weights_in_fours_are_paired_with_the_other_methods_of_their_layer(split):
    target = Capabilities("float16", {"conv2d": ((8, 8),)}, 8, 8, 8, sparse_2_4=((8, 8),))
    pairs = pairs_that_matter(Space(split, target))
    assert ("pattern/left", "precision/left") in pairs
    assert ("pattern/left", "sparsity/left") in pairs
    assert ("pattern/head", "pattern/left") in pairs


def test_layers_that_share_their_channels_are_paired_with_the_group_that_decides(space):
    pairs = pairs_that_matter(space)
    # The block's second convolution adds to the stem's channels.
    assert ("precision/stages.0.0.conv2", "sparsity/stem.conv") in pairs
    assert not any("sparsity/stages.0.0.conv2" in pair for pair in pairs)
    assert not any(a == b for a, b in pairs)


def test_only_dimensions_of_the_space_are_paired(split):
    pairs = pairs_that_matter(space_of(split, ranks=(), max_ratio=0.0))
    assert {it.partition("/")[0] for pair in pairs for it in pair} == {"precision"}
    assert len(pairs) == 4

from dataclasses import replace

import pytest
import torch
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.recipe import Decompose, Quantize
from gulliver.spaces.shapes import Channels, channels_after
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from torch import nn

CHIP = Capabilities("float16", {"conv2d": ((8, 8), (4, 8)), "linear": ((8, 8),)}, 16, 16, 0)


def splits_at(space, name, inputs, outputs):
    return space.ladders.splits(space.graph.layers[name], Channels(inputs, outputs))


def one_dimensional():
    network = nn.Sequential(nn.Conv1d(64, 64, 3), nn.Conv1d(64, 64, 3)).eval()
    return trace(network, (torch.zeros(1, 64, 20),))


def test_ratios_leave_multiples_of_16_or_of_8_up_to_32(residual, cpu):
    space = Space(residual, cpu)
    for name, kept in (("stem", [32, 24, 16, 8]), ("conv1", [48, 32, 24, 16])):
        recipes = [space.decode({f"sparsity/{name}": rung}) for rung in range(4)]
        assert [channels_after(residual, recipe)[name].outputs for recipe in recipes] == kept


@pytest.mark.parametrize(("max_ratio", "kept"), [(0.75, [48, 32, 24, 16]), (0.9, [48, 32, 24, 16, 8]), (0, [48])])
def test_no_more_than_the_largest_ratio_is_offered(max_ratio, kept, residual, cpu):
    space = Space(residual, cpu, SpaceOptions(max_ratio=max_ratio))
    rungs = {dimension.name: dimension.rungs for dimension in space.dimensions}.get("sparsity/conv1", 1)
    recipes = [space.decode({"sparsity/conv1": rung}) for rung in range(rungs)]
    assert [channels_after(residual, recipe)["conv2"].inputs for recipe in recipes] == kept


def test_ranks_are_multiples_of_8_near_the_asked_shares_of_break_even(plain, cpu):
    # conv2 breaks even at 96: 0.67 * 96 = 64.3 and 0.33 * 96 = 31.7; pruned to 32 -> 32, at 48: 32.2 and 15.8.
    space = Space(plain, cpu)
    ranks = [space.decode({"rank/conv2": rung}).layers["conv2"].decompose for rung in range(3)]
    assert ranks == [None, Decompose(64), Decompose(32)]
    pruned = {"sparsity/conv1": 2, "sparsity/conv2": 2}
    ranks = [space.decode(pruned | {"rank/conv2": rung}).layers["conv2"].decompose for rung in range(3)]
    assert ranks == [None, Decompose(32), Decompose(16)]


@pytest.mark.parametrize(
    ("sparse", "options", "offered"),
    [
        (((8, 8),), {}, {"join", "grouped", "head"}),
        (((16, 16),), {"keep_float": ("join",)}, {"join", "grouped", "head"}),
        (((8, 8),), {"keep_float": ("join",)}, {"grouped", "head"}),
        (((4, 4),), {}, set()),
        (((8, 8),), {"semi_structured": False}, set()),
    ],
)
def test_weights_in_fours_are_offered_where_they_pay_and_inputs_come_in_fours(sparse, options, offered, mixed, cpu):
    # The branches read 3 channels, the depthwise convolution one at a time.
    space = Space(mixed, replace(cpu, sparse_2_4=sparse), SpaceOptions(**options))
    assert {it.owner for it in space.dimensions if it.method == "pattern"} == offered
    note = "left: 2:4 is not offered, because input channels must come in fours, but it reads 3"
    assert (note in space.ladders.notes) == options.get("semi_structured", True)


def test_ranks_are_multiples_where_the_break_even_is_none(plain, cpu):
    # conv2 breaks even at 57.6, of which nearly all is 57; the target likes 48.
    space = Space(plain, cpu, SpaceOptions(ranks=(0.99,), decompositions=("channel_svd",)))
    assert splits_at(space, "conv2", 64, 64) == (Decompose(48, "channel_svd"),)


def test_a_layer_that_breaks_even_below_every_rank_that_the_target_likes_is_not_split(cpu):
    # Linear layers break even at 24 * 24 / 48 = 12 and 64 * 64 / 128 = 32, where 16 is the nearest to both shares.
    graph = trace(nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 64), nn.Linear(64, 64)), (torch.zeros(1, 24),))
    space = Space(graph, replace(cpu, small_channels=0))
    assert splits_at(space, "0", 24, 24) == ()
    assert splits_at(space, "2", 64, 64) == (Decompose(16), Decompose(16))


def test_grouped_and_one_dimensional_layers_have_no_rank(mixed, cpu):
    names = {dimension.name for dimension in Space(mixed, cpu).dimensions}
    assert not names & {"rank/depthwise", "rank/grouped"}
    graph = one_dimensional()
    assert {dimension.method for dimension in Space(graph, cpu).dimensions} == {"precision", "sparsity"}


def test_all_bits_are_offered_with_every_calibrator(plain):
    space = Space(plain, CHIP, SpaceOptions(calibrators=("mse", "min_max")))
    offered = [space.decode({"precision/conv1": rung}).layers["conv1"].quantize for rung in range(5)]
    assert offered == [
        None,
        Quantize(8, 8, "mse"),
        Quantize(8, 8, "min_max"),
        Quantize(4, 8, "mse"),
        Quantize(4, 8, "min_max"),
    ]
    rungs = {it.name: it.rungs for it in space.dimensions if it.method == "precision"}
    assert rungs == {"precision/conv1": 5, "precision/conv2": 5, "precision/linear": 3}


def test_every_kind_of_split_has_ranks_near_the_asked_shares_of_its_own_break_even(plain, cpu):
    # conv2 breaks even at 96, 57.6 and 57.3: 64.3 and 31.7; 38.6 and 19.0; 38.4 and 18.9.
    space = Space(plain, cpu, SpaceOptions(decompositions=("svd", "channel_svd", "tucker2")))
    assert splits_at(space, "conv2", 64, 64) == (
        Decompose(64),
        Decompose(32),
        *(Decompose(rank, kind) for kind in ("channel_svd", "tucker2") for rank in (32, 16)),
    )
    decoded = [space.decode({"rank/conv2": rung}).layers["conv2"].decompose for rung in range(7)]
    assert decoded == [None, *splits_at(space, "conv2", 64, 64)]


def test_a_rung_is_of_one_kind_at_all_channel_counts_and_whole_where_that_kind_saves_nothing(residual, cpu):
    # conv1 breaks even at its 32 inputs and 57.6: 21.4 and 10.6, 38.6 and 19.0. With 8 inputs at these 8 and at 20.6.
    space = Space(residual, cpu, SpaceOptions(decompositions=("tucker2", "svd")))
    whole = (Decompose(24, "tucker2"), Decompose(8, "tucker2"), Decompose(32), Decompose(16))
    assert splits_at(space, "conv1", 32, 48) == whole
    assert splits_at(space, "conv1", 8, 48) == (None, None, Decompose(16), Decompose(8))
    recipe = space.decode({"sparsity/stem": 3, "rank/conv1": 1})
    assert recipe.layers["conv1"].decompose is None
    assert space.encode(recipe)["rank/conv1"] == 0


def test_kinds_are_offered_only_to_layers_that_they_split_in_a_way_of_their_own(plain, mixed, cpu):
    def ranked(graph, *kinds):
        dimensions = Space(graph, cpu, SpaceOptions(decompositions=kinds)).dimensions
        return {it.owner: it.rungs for it in dimensions if it.method == "rank"}

    assert ranked(plain, "svd") == {"conv1": 3, "conv2": 3, "linear": 3}
    assert ranked(plain, "svd", "tucker2") == {"conv1": 3, "conv2": 5, "linear": 3}
    assert ranked(plain, "tucker2") == {"conv2": 3}
    assert not {"depthwise", "grouped", "join"} & ranked(mixed, "tucker2").keys()
    assert ranked(one_dimensional(), "svd", "channel_svd", "tucker2") == {"0": 5, "1": 5}


def test_kinds_that_are_not_offered_are_noted_once_for_layers_that_are_alike(plain, mixed, cpu):
    def notes(graph, *kinds):
        return [
            it
            for it in Space(graph, cpu, SpaceOptions(decompositions=kinds)).ladders.notes
            if "_svd" in it or "tuck" in it
        ]

    assert notes(plain, "svd", "channel_svd", "tucker2") == [
        "linear: channel_svd is not offered, because svd is the same there",
        "linear: tucker2 is not offered, because two layers give as much there",
    ]
    assert notes(mixed, "channel_svd") == [
        "conv2d 1x1: channel_svd is not offered, because svd is the same there",
        "grouped conv2d 3x3: channel_svd is not offered, because its channels are in groups",
    ]


def test_four_bits_are_not_offered_on_the_cpu_and_a_note_says_so(plain, cpu):
    space = Space(plain, cpu)
    assert {it.rungs for it in space.dimensions if it.method == "precision"} == {2}
    assert space.ladders.notes == (
        "conv2d: 4-bit weights with 8-bit activations are not offered, because the target has no such kernel",
        "linear: 4-bit weights with 8-bit activations are not offered, because the target has no such kernel",
        "linear: channels are not removed, because its channels are the network's outputs",
    )


def test_four_bits_are_offered_where_the_target_has_them(plain):
    space = Space(plain, CHIP)
    rungs = {it.name: it.rungs for it in space.dimensions if it.method == "precision"}
    assert rungs == {"precision/conv1": 3, "precision/conv2": 3, "precision/linear": 2}
    assert space.decode({"precision/conv1": 2}).layers["conv1"].quantize == Quantize(4, 8)
    assert [note for note in space.ladders.notes if "4-bit" in note] == [
        "linear: 4-bit weights with 8-bit activations are not offered, because the target has no such kernel"
    ]


def test_a_target_without_channel_sparsity_is_offered_none(plain, cpu):
    space = Space(plain, replace(cpu, sparsities=()))
    assert {dimension.method for dimension in space.dimensions} == {"precision", "rank"}


def test_layers_of_a_module_that_is_not_traced_into_are_said_to_be_left_alone():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    network = nn.Sequential(encoder, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    notes = Space(trace(network, (torch.zeros(1, 5, 16),)), CHIP).ladders.notes
    assert notes[0] == "0: its layers (6) are not compressed, because it is not traced into"

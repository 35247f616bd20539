import pytest
from gulliver.spaces.recipe import LayerRecipe, Recipe, Sparsify
from gulliver.spaces.shapes import (
    Channels,
    break_even_rank,
    channels_after,
    group_ratio,
    inputs_per_group,
    removed_channels,
)
from gulliver.tasks.errors import InputError
from hypothesis import given
from hypothesis import strategies as st


def recipe(graph, **ratios):
    return Recipe({name: LayerRecipe(Sparsify(ratios[name]) if name in ratios else None) for name in graph.layers})


@given(st.integers(1, 4096), st.floats(0, 1, exclude_max=True))
def test_at_least_one_channel_stays(channels, ratio):
    assert 0 <= removed_channels(channels, ratio) <= channels - 1


@given(st.integers(1, 4096), st.data())
def test_a_ratio_made_of_a_count_removes_exactly_the_rest(channels, data):
    kept = data.draw(st.integers(1, channels))
    assert channels - removed_channels(channels, 1 - kept / channels) == kept


def test_half_the_rank_64_by_64_layer_saves_two_thirds(plain):
    # 64*64*9 = 36864 a pixel; 32 * (64*3 + 64*3) = 12288 in two halves: 66.7% less.
    layer, channels = plain.layers["conv2"], Channels(64, 64)
    assert break_even_rank(layer, channels) == 96
    whole = layer.macs
    halves = 16 * 32 * (64 * 3 + 64 * 3)
    assert 1 - halves / whole == pytest.approx(2 / 3, abs=1e-12)
    assert 32 / break_even_rank(layer, channels) == pytest.approx(halves / whole)


def test_break_even_ranks_by_hand(plain, mixed):
    assert break_even_rank(plain.layers["linear"], Channels(1024, 10)) == pytest.approx(10240 / 1034)
    assert break_even_rank(mixed.layers["join"], Channels(48, 32)) == pytest.approx(48 * 32 / 80)
    assert break_even_rank(plain.layers["conv2"], Channels(32, 64)) == 64


def test_break_even_ranks_of_the_other_kinds_by_hand(plain):
    layer, channels = plain.layers["conv2"], Channels(64, 64)
    # rank * (64*9 + 64) = 36864 a pixel; and 64*rank + 9*rank^2 + 64*rank = 36864.
    assert break_even_rank(layer, channels, "channel_svd") == pytest.approx(57.6)
    assert break_even_rank(layer, channels, "tucker2") == pytest.approx((1343488**0.5 - 128) / 18)
    assert break_even_rank(layer, Channels(32, 64), "channel_svd") == pytest.approx(32 * 64 * 9 / (32 * 9 + 64))


def test_tucker_reads_all_pixels_of_a_strided_layer_and_thins_nothing_from_its_channels_on(plain):
    # conv1 reads 64 pixels for 16 that it gives: 4 * 48*rank + 9*rank^2 + 64*rank = 48*64*9.
    layer = plain.layers["conv1"]
    rank = break_even_rank(layer, Channels(48, 64), "tucker2")
    assert 4 * 48 * rank + 9 * rank**2 + 64 * rank == pytest.approx(48 * 64 * 9)
    assert break_even_rank(layer, Channels(3, 64), "tucker2") == 3


def test_removed_channels_reach_every_reader(plain, residual):
    assert channels_after(plain, recipe(plain, conv1=0.25, conv2=0.5)) == {
        "conv1": Channels(3, 48),
        "conv2": Channels(48, 32),
        "linear": Channels(512, 10),
    }
    assert channels_after(residual, recipe(residual, stem=0.5, conv2=0.5, conv1=1 / 3)) == {
        "stem": Channels(3, 16),
        "conv1": Channels(16, 32),
        "conv2": Channels(32, 16),
        "linear": Channels(16, 10),
    }


def test_a_concatenation_loses_the_channels_of_both_sides(mixed):
    after = channels_after(mixed, recipe(mixed, left=0.5, right=0.25))
    assert after["left"] == Channels(3, 8)
    assert after["right"] == Channels(3, 24)
    assert after["join"] == Channels(32, 32)


def test_a_depthwise_convolution_loses_inputs_and_outputs_together():
    import torch
    from gulliver.spaces.trace import trace
    from torch import nn

    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1)).eval()
    graph = trace(network, (torch.zeros(1, 3, 8, 8),))
    after = channels_after(graph, recipe(graph, **{"0": 0.5, "1": 0.5}))
    assert after == {"0": Channels(3, 8), "1": Channels(8, 8), "2": Channels(8, 4)}


def test_an_output_reads_the_inputs_of_its_group(mixed):
    read = {"join": (Channels(24, 32), 24), "grouped": (Channels(32, 16), 8), "depthwise": (Channels(8, 8), 1)}
    assert {name: inputs_per_group(mixed.layers[name], channels) for name, (channels, _) in read.items()} == {
        name: inputs for name, (_, inputs) in read.items()
    }


def test_a_recipe_without_sparsity_changes_nothing(mixed):
    assert channels_after(mixed, recipe(mixed)) == {
        name: Channels(layer.in_channels, layer.out_channels) for name, layer in mixed.layers.items()
    }


def test_tied_layers_with_different_ratios_are_refused_by_name(residual):
    rule = "^layers whose channels are tied must have one ratio, but stem has ratio=0.5, conv2 has ratio=0.25$"
    with pytest.raises(InputError, match=rule):
        channels_after(residual, recipe(residual, stem=0.5, conv2=0.25))
    with pytest.raises(InputError, match=r"stem has ratio=0.5, conv2 has ratio=0.0$"):
        group_ratio(residual.channel_groups[0], recipe(residual, stem=0.5))


def test_a_group_that_must_keep_its_channels_is_refused_with_the_reason(mixed):
    rule = "^head has ratio=0.5, but cannot lose channels: its channels are the network's outputs$"
    with pytest.raises(InputError, match=rule):
        channels_after(mixed, recipe(mixed, head=0.5))

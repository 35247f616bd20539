"""Losses measured at ratios of 0, 1/4, 1/2 and 3/4, carried over to ladders of other rungs."""

import pytest
import torch
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.sensitivity import Sensitivities
from gulliver.search.transfer import transferred
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from torch import nn

COARSE = CpuOpenvino(channel_multiple=32, small_channel_multiple=32)
FINE = CpuOpenvino(channel_multiple=16, small_channel_multiple=16)
HALF_BITS = CpuOpenvino(channel_multiple=32, small_channel_multiple=32, precisions=((8, 8), (4, 8)))


@pytest.fixture(scope="module")
def graph():
    network = nn.Sequential(nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 36, 10)).eval()
    return trace(network, (torch.zeros(1, 3, 8, 8),))


def space(graph, target):
    return Space(graph, target.capabilities, SpaceOptions(bits=((8, 8), (4, 8)), ranks=()))


@pytest.fixture(scope="module")
def measured(graph):
    """Return what was measured on the coarse ladder: a loss of the ratio squared, of a tenth in int8."""
    old = space(graph, COARSE)
    losses = {
        ("sparsity/0", rung): ratio**2 for rung, ratio in enumerate(old.ladders.ratios(graph.channel_groups[0])) if rung
    }
    losses |= {("precision/0", 1): 0.1, ("precision/3", 1): 0.2}
    return Sensitivities("direct", losses, {("precision/0", "sparsity/0"): 0.5, ("rank/0", "sparsity/0"): 0.25})


def test_between_two_measured_ratios_the_loss_changes_evenly(graph, measured):
    new = space(graph, FINE)
    found = transferred(measured, space(graph, COARSE), new)
    rung = new.ladders.ratios(graph.channel_groups[0]).index(0.375)
    assert found.losses["sparsity/0", rung] == pytest.approx((0.25**2 + 0.5**2) / 2)


def test_what_was_measured_stays_as_it_is(graph, measured):
    new = space(graph, FINE)
    found = transferred(measured, space(graph, COARSE), new)
    rung = new.ladders.ratios(graph.channel_groups[0]).index(0.5)
    assert found.losses["sparsity/0", rung] == pytest.approx(0.25)
    assert found.losses["precision/3", 1] == 0.2
    assert found.method == "direct"


def test_widths_that_were_not_measured_cost_more_than_all_that_was(graph, measured):
    found = transferred(measured, space(graph, COARSE), space(graph, HALF_BITS))
    assert found.losses["precision/0", 1] == 0.1
    assert found.losses["precision/0", 2] > 10 * sum(measured.losses.values())


def test_between_two_measured_ranks_of_a_kind_the_loss_changes_with_one_over_the_rank(graph):
    target, kinds = CpuOpenvino(channel_multiple=8, small_channel_multiple=8), ("tucker2", "svd")
    convolution = trace(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)).eval(), (torch.zeros(1, 64, 8, 8),))

    def ranked(*ranks):
        return Space(convolution, target.capabilities, SpaceOptions(bits=(), ranks=ranks, decompositions=kinds))

    old, new = ranked(0.7, 0.35), ranked(0.7, 0.45, 0.35)
    # Tucker-2 breaks even at 57.3, svd at 96: ranks 40 and 24 by the one, 64 and 32 by the other were measured.
    losses = {("rank/0", 1): 0.2, ("rank/0", 2): 0.6, ("rank/0", 3): 0.1, ("rank/0", 4): 0.4}
    found = transferred(Sensitivities("direct", losses, {}), old, new).losses
    assert [found["rank/0", rung] for rung in (1, 3, 4, 6)] == pytest.approx([0.2, 0.6, 0.1, 0.4])
    # In between, by rung: 24 of Tucker-2, as measured, and 40 of svd, at 1/40 between 1/64 and 1/32.
    assert found["rank/0", 2] == pytest.approx(0.6)
    assert found["rank/0", 5] == pytest.approx(0.1 + 0.3 * (1 / 40 - 1 / 64) / (1 / 32 - 1 / 64))


@pytest.mark.parametrize(
    ("dimension", "less", "more"),
    [
        ("sparsity/0", SpaceOptions(ranks=(), max_ratio=0.5), SpaceOptions(ranks=(), max_ratio=0.75)),
        ("rank/0", SpaceOptions(max_ratio=0, ranks=(0.7,)), SpaceOptions(max_ratio=0, ranks=(0.7, 0.35))),
    ],
)
def test_a_ratio_or_a_rank_beyond_all_that_were_measured_is_never_worth_choosing(dimension, less, more):
    network = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 10, 3)).eval()
    graph = trace(network, (torch.zeros(1, 64, 8, 8),))
    old, new = (Space(graph, FINE.capabilities, options) for options in (less, more))
    losses = {(it.name, rung): 0.1 * rung for it in old.dimensions for rung in range(1, it.rungs)}
    found = transferred(Sensitivities("direct", losses, {}), old, new).losses
    *measured, beyond = (loss for (name, _), loss in found.items() if name == dimension)
    assert measured == pytest.approx([loss for (name, _), loss in losses.items() if name == dimension])
    assert beyond > 10 * sum(losses.values())


def test_a_calibrator_or_a_kind_that_was_not_measured_is_never_worth_choosing(graph, measured):
    options = SpaceOptions(bits=((8, 8),), ranks=(), calibrators=("mse", "min_max"))
    found = transferred(measured, space(graph, COARSE), Space(graph, COARSE.capabilities, options))
    assert found.losses["precision/0", 2] == 0.1
    assert found.losses["precision/0", 1] > 10 * sum(measured.losses.values())


def test_pairs_are_kept_where_the_new_space_has_both(graph, measured):
    found = transferred(measured, space(graph, COARSE), space(graph, FINE))
    assert found.pairs == {("precision/0", "sparsity/0"): 0.5}


def test_weights_in_fours_cost_on_another_target_what_they_did_on_the_first(graph):
    first, second = (ChipTarget(name) for name in ("ascend_910b2", "nvidia_a100"))
    old = Space(graph, first.capabilities, SpaceOptions(bits=((8, 8),), ranks=()))
    losses = {(it.name, rung): 0.1 * rung for it in old.dimensions for rung in range(1, it.rungs)}
    losses["pattern/3", 1] = 0.7
    found = transferred(Sensitivities("direct", losses, {}), old, Space(graph, second.capabilities))
    assert found.losses["pattern/3", 1] == 0.7

import copy

import pytest
import torch
from gulliver.compressors.optimizers import Optimizer, clip_gradients, muon_step
from torch import nn

# Steps rise from 1/25 of the highest learning rate (OneCycleLR's own default).
FIRST_SHARE = 1 / 25


def network_of(layer):
    torch.manual_seed(0)
    return nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(8))


def stepped(layer, inputs, share=None, memory_format=torch.contiguous_format):
    """Return the layer's weight before and after a first step, and its gradient."""
    network = network_of(layer)
    network(inputs)
    network.to(memory_format=memory_format)
    before = layer.weight.detach().clone()
    optimizer = Optimizer(network, 100, 0.1, share)
    optimizer.step(network(inputs).square().sum())
    return before, layer.weight.detach(), layer.weight.grad


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(6, 20), (4, 6)),
        (lambda: nn.Linear(20, 6), (4, 20)),
        (lambda: nn.Conv2d(6, 8, 3), (4, 6, 5, 5)),
        (lambda: nn.Conv2d(6, 8, 1), (4, 6, 5, 5)),
        (lambda: nn.Conv1d(6, 8, 3), (4, 6, 5)),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_moves_a_weight_by_a_share_of_its_norm(layer, shape, memory_format):
    layer, inputs = layer(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    memory_format = memory_format if len(shape) == 4 else torch.contiguous_format
    before, after, _ = stepped(layer, inputs, 0.02, memory_format)
    # Fewer samples than rows leave some directions without a gradient.
    moved = ((after - before).norm() / before.norm()).item() / (0.02 * FIRST_SHARE)
    assert 0.4 < moved < 1.2


def test_muons_directions_are_alike_in_length_where_the_gradients_are_not():
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([10.0, 6.0, 4.0, 2.0])
    before, after, gradient = stepped(nn.Linear(4, 20), inputs, 0.02)
    lengths, wanted = torch.linalg.svdvals(after - before), torch.linalg.svdvals(gradient)
    assert wanted.max() / wanted.min() > 10
    assert lengths.max() / lengths.min() < 3
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.cosine_similarity((before - after).flatten(), (left @ right).flatten(), 0) > 0.95


@pytest.mark.parametrize(
    ("share", "layer"), [(None, lambda: nn.Conv2d(8, 8, 3)), (0.02, lambda: nn.Conv2d(8, 8, 3, groups=8))]
)
def test_gradient_descent_moves_all_weights_or_those_of_grouped_convolutions(share, layer):
    inputs = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    before, after, gradient = stepped(layer(), inputs, share)
    # Nesterov's first step with the momentum that OneCycleLR begins with, and a weight decay of 1e-4.
    by_hand = before - 0.1 * FIRST_SHARE * (1 + 0.95) * (gradient + 1e-4 * before)
    torch.testing.assert_close(after, by_hand)


def test_weights_that_are_zero_are_moved_by_gradient_descent_and_so_at_all():
    layer = nn.Linear(6, 8)
    nn.init.zeros_(layer.weight)
    _, after, _ = stepped(layer, torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), 0.02)
    assert after.any()


@pytest.mark.parametrize("share", [None, 0.02])
def test_one_that_goes_on_from_a_state_takes_the_same_steps(share):
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    network = network_of(nn.Linear(6, 8))
    network(inputs)
    first = Optimizer(network, 10, 0.1, share)
    first.step(network(inputs).square().sum())
    other = network_of(nn.Linear(6, 8))
    other(inputs)
    other.load_state_dict(network.state_dict())
    second = Optimizer(other, 10, 0.1, share)
    second.load(copy.deepcopy(first.state()))
    for _ in range(3):
        first.step(network(inputs).square().sum())
        second.step(other(inputs).square().sum())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_muons_steps_are_half_as_long_where_a_quarter_of_the_distance_is_to_go():
    assert muon_step(0.2, 0.16) == pytest.approx(0.25 * 0.2 * 0.4)
    assert muon_step(0.2, 0.04) == pytest.approx(muon_step(0.2, 0.16) / 2)
    assert muon_step(0.2, -1e-9) == 0.0


def test_a_row_of_gradients_is_clipped_to_a_tenth_of_its_row_of_weights():
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0], [0.6, 0.8]])), nn.Parameter(torch.zeros(2))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    weight.grad, bias.grad = torch.tensor([[30.0, 40.0], [0.03, 0.04]]), torch.tensor([3.0, 4.0])
    clip_gradients([weight, bias, frozen])
    torch.testing.assert_close(weight.grad, torch.tensor([[0.3, 0.4], [0.03, 0.04]]))
    # What is zero would never move; its norm counts as 0.001 at least.
    torch.testing.assert_close(bias.grad, torch.tensor([6e-5, 8e-5]))


def test_a_gradient_of_zero_stays_zero_when_clipped():
    weight = nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.zeros(2, 3)
    clip_gradients([weight])
    assert weight.grad.tolist() == [[0, 0, 0], [0, 0, 0]]

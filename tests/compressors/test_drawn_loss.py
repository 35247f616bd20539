import math

import pytest
import torch
from gulliver.compressors.drawn_loss import drawn_loss


def mean_squared_change(outputs, change, classes, draws=400):
    """The squared first-order change of a sample's loss, averaged over draws of all samples."""
    outputs = outputs.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    squares = []
    for _ in range(draws):
        (gradient,) = torch.autograd.grad(drawn_loss(outputs, classes, generator), outputs)
        squares.append((gradient * change).reshape(len(change), -1).sum(1).square().mean())
    return torch.stack(squares).mean().item()


@pytest.mark.parametrize(("shape", "classes"), [((64, 5), 1), ((64, 4, 5), 2), ((64, 5, 4), 1), ((64, 5, 2, 2), 1)])
def test_for_logits_it_is_twice_the_mean_divergence_that_a_small_change_makes(shape, classes):
    torch.manual_seed(0)
    outputs, change = torch.randn(shape), 0.01 * torch.randn(shape)
    before, after = (it.double().log_softmax(classes) for it in (outputs, outputs + change))
    divergence = (before.exp() * (before - after)).sum(classes).mean().item()
    assert mean_squared_change(outputs, change, classes) == pytest.approx(2 * divergence, rel=0.05)


@pytest.mark.parametrize("shape", [(64,), (64, 1), (64, 3, 4)])
def test_for_values_it_is_twice_their_mean_squared_error(shape):
    torch.manual_seed(0)
    outputs, change = torch.randn(shape), 0.01 * torch.randn(shape)
    by_hand = 2 * change.square().mean().item()
    assert mean_squared_change(outputs, change, None) == pytest.approx(by_hand, rel=0.05)


def test_of_one_value_the_loss_is_the_value_with_either_sign():
    outputs = torch.tensor([3.0], requires_grad=True)
    loss = drawn_loss(outputs, None, torch.Generator().manual_seed(0))
    assert abs(loss.item()) == pytest.approx(3 * math.sqrt(2))

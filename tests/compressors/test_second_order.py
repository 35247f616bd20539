import itertools

import pytest
import torch
from gulliver.compressors.second_order import halve_rows, round_rows
from gulliver.compressors.weight_scales import RowLevels


@pytest.fixture
def correlated():
    return correlated_rows(16)


def correlated_rows(inputs):
    """Return rows to change, and the products of inputs that have a lot in common."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(inputs, inputs, generator=generator) + 2
    values = (torch.randn(300, inputs, generator=generator) @ mixing).double()
    return torch.randn(6, inputs, generator=generator), values.T @ values


def on_levels(scales, highest_level):
    return RowLevels(scales, torch.zeros_like(scales, dtype=torch.int32), -highest_level, highest_level)


def error(changed, rows, products):
    difference = (changed - rows).double()
    return torch.einsum("oi,ij,oj->o", difference, products, difference)


def test_rounding_in_order_loses_less_than_rounding_each_weight(correlated):
    rows, products = correlated
    scales = (rows.abs().amax(1, keepdim=True) / 7).expand_as(rows)
    nearest = (rows / scales).round().clamp(-7, 7) * scales
    given = round_rows(rows, products, on_levels(scales, 7))
    assert error(given, rows, products).sum() < error(nearest, rows, products).sum()
    levels = given / scales
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert levels.abs().max() <= 7.001


@pytest.mark.parametrize("inputs", [16, 150], ids=["within a block", "in two blocks"])
def test_rounding_in_order_is_optimal_brain_surgery_with_the_inverse_reduced_after_every_input(inputs):
    # Frantar et al., "GPTQ", equations 2 and 3, without the Cholesky factor.
    rows, products = correlated_rows(inputs)
    scales = (rows.abs().amax(1, keepdim=True) / 7).expand_as(rows).double()
    inverse = torch.linalg.inv(products + 0.01 * products.diagonal().mean() * torch.eye(inputs, dtype=torch.float64))
    expected = rows.double().clone()
    for at in range(inputs):
        rounded = (expected[:, at] / scales[:, at]).round().clamp(-7, 7) * scales[:, at]
        change = (expected[:, at] - rounded)[:, None] * inverse[at] / inverse[at, at]
        expected = torch.cat([expected[:, :at], rounded[:, None], (expected - change)[:, at + 1 :]], 1)
        inverse = inverse - inverse[:, at : at + 1] @ inverse[at : at + 1] / inverse[at, at]
    torch.testing.assert_close(round_rows(rows, products, on_levels(scales, 7)), expected.float())


def test_inputs_that_have_nothing_in_common_are_rounded_each_to_the_nearest(correlated):
    rows, _ = correlated
    scales = (rows.abs().amax(1, keepdim=True) / 7).expand_as(rows)
    nearest = (rows / scales).round() * scales
    torch.testing.assert_close(round_rows(rows, torch.eye(16, dtype=torch.float64), on_levels(scales, 7)), nearest)


def test_two_of_every_four_are_zero_and_the_others_lose_less_than_magnitude_would(correlated):
    rows, products = correlated
    given = halve_rows(rows, products)
    assert ((given.reshape(6, 4, 4) != 0).sum(-1) == 2).all()
    fours = rows.reshape(6, 4, 4)
    by_magnitude = fours.masked_fill(fours.abs() < fours.abs().topk(2).values[..., -1:], 0).reshape(6, 16)
    assert error(given, rows, products).sum() < error(by_magnitude, rows, products).sum()


def test_one_four_of_inputs_without_anything_in_common_loses_the_two_that_cost_least():
    squares = torch.tensor([1.0, 9.0, 4.0, 25.0], dtype=torch.float64)
    rows = torch.tensor([[3.0, 1.0, 1.2, 0.4]])
    best = min(itertools.combinations(range(4), 2), key=lambda lost: sum(squares[it] * rows[0, it] ** 2 for it in lost))
    given = halve_rows(rows, torch.diag(squares))
    assert given[0].nonzero().flatten().tolist() == [it for it in range(4) if it not in best]
    torch.testing.assert_close(given[given != 0], rows[given != 0])


def test_inputs_that_are_always_zero_are_no_obstacle(correlated):
    rows, products = correlated
    products[3], products[:, 3] = 0, 0
    assert halve_rows(rows, products).isfinite().all()
    assert halve_rows(rows, torch.zeros_like(products)).isfinite().all()

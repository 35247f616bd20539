import itertools

import torch
from gulliver.compressors.adaround import learn_rows
from gulliver.compressors.quantize import quantize
from gulliver.compressors.weight_scales import RowLevels
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from torch import nn


def correlated(inputs, seed, groups=1, outputs=6):
    """Return rows to round, the products of inputs that have a lot in common, and the scales of 3 bits."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, inputs, inputs, generator=generator) + 1
    values = (torch.randn(groups, 300, inputs, generator=generator) @ mixing).double()
    rows = torch.randn(groups, outputs, inputs, generator=generator)
    return rows, values.transpose(1, 2) @ values, (rows.abs().amax(2, keepdim=True) / 3).expand_as(rows)


def errors(changed, rows, products):
    difference = (changed - rows).double()
    return ((difference @ products) * difference).sum(-1)


def on_levels(scales, highest_level=3):
    return RowLevels(scales, torch.zeros_like(scales, dtype=torch.int32), -highest_level, highest_level)


def nearest(rows, scales):
    return (rows / scales).round().clamp(-3, 3) * scales


def test_it_comes_near_the_best_of_all_ways_to_round_up_and_down():
    gaps = torch.zeros(2, dtype=torch.float64)
    for seed in range(3):
        rows, products, scales = correlated(8, seed)
        ups = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))
        every = ((rows / scales).floor()[0, :, None] + ups).clamp(-3, 3) * scales[0, :, None]
        best = errors(every, rows[0, :, None], products[0]).amin(1)
        given = errors(learn_rows(rows, products, on_levels(scales)), rows, products)[0]
        assert (given >= best * (1 - 1e-4)).all()
        gaps += torch.stack([(given - best).sum(), (errors(nearest(rows, scales), rows, products)[0] - best).sum()])
    # Of what rounding to the nearest loses beyond the best, most is won back.
    assert gaps[0] < gaps[1] / 2


def test_rows_of_many_inputs_lose_a_third_of_what_rounding_to_the_nearest_loses():
    rows, products, scales = correlated(64, 0, outputs=32)
    given = learn_rows(rows, products, on_levels(scales))
    assert errors(given, rows, products).sum() < errors(nearest(rows, scales), rows, products).sum() / 3


def test_every_weight_is_one_of_the_two_levels_next_to_it_and_zeros_stay():
    rows, products, scales = correlated(16, 0, groups=2)
    rows[:, :, ::3] = 0
    levels = learn_rows(rows, products, on_levels(scales)) / scales
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-5)
    assert ((levels - rows / scales).abs() < 1 + 1e-5).all()
    assert levels.abs().max() <= 3 + 1e-5
    assert (levels[rows == 0] == 0).all()


def test_inputs_that_have_nothing_in_common_are_rounded_each_to_the_nearest():
    rows, _, scales = correlated(16, 1)
    given = learn_rows(rows, torch.eye(16, dtype=torch.float64)[None], on_levels(scales))
    torch.testing.assert_close(given, nearest(rows, scales))


def test_groups_do_not_meet_and_no_row_is_worse_than_at_the_nearest():
    rows, products, scales = correlated(12, 2, groups=3)
    given = learn_rows(rows, products, on_levels(scales))
    alone = torch.cat([learn_rows(rows[[at]], products[[at]], on_levels(scales[[at]])) for at in range(3)])
    torch.testing.assert_close(given, alone)
    assert (errors(given, rows, products) <= errors(nearest(rows, scales), rows, products)).all()
    assert learn_rows(rows, torch.zeros_like(products), on_levels(scales)).isfinite().all()


def test_it_loses_less_than_rounding_to_the_nearest_and_leaves_the_network_that_was_given():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 16)).eval()
    inputs = torch.randn(200, 32) @ torch.randn(32, 32) + 1
    before = network[0].weight.clone()

    def distance(rounding):
        recipe = Recipe({"0": LayerRecipe(quantize=Quantize(3, 16, rounding=rounding))})
        with torch.no_grad():
            return (quantize(network, recipe, [(inputs,)])(inputs) - network(inputs)).square().sum()

    assert distance("adaround") < distance("nearest")
    assert torch.equal(network[0].weight, before)

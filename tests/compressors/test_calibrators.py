import math
from functools import partial

import pytest
import torch
from gulliver.compressors.calibrators import CALIBRATORS, Histogram, calibrated_range, fit_grid
from gulliver.compressors.quantize import quantize
from gulliver.spaces import recipe as recipes
from torch import nn

FOUR_BITS = partial(fit_grid, bits=4)


def histogram_of(values, bins=2048):
    lowest, highest = values.min().item(), values.max().item()
    return Histogram(torch.histc(values, bins, lowest, highest).double(), lowest, highest)


@pytest.fixture(scope="module")
def gaussian():
    return histogram_of(torch.randn(400_000, generator=torch.Generator().manual_seed(0)))


def test_every_calibrator_that_a_recipe_may_name_is_known():
    assert tuple(CALIBRATORS) == recipes.CALIBRATORS


@pytest.mark.parametrize(
    ("lowest", "highest", "symmetric", "scale", "zero_point", "levels"),
    [
        (-1.0, 2.0, False, 3 / 15, 5, (0, 15)),
        (-3.0, -1.0, False, 3 / 15, 15, (0, 15)),
        (0.0, 3.0, False, 3 / 15, 0, (0, 15)),
        (-1.0, 2.0, True, 2 / 7, 0, (-8, 7)),
        (-4.0, 2.0, True, 4 / 8, 0, (-8, 7)),
        (0.0, 3.0, True, 3 / 15, 0, (0, 15)),
    ],
)
def test_the_levels_of_a_range_are_those_by_hand(lowest, highest, symmetric, scale, zero_point, levels):
    grid = fit_grid(lowest, highest, 4, symmetric)
    assert grid.scale == pytest.approx(scale)
    assert (grid.zero_point, grid.lowest_level, grid.highest_level) == (zero_point, *levels)
    assert grid.rounded(torch.zeros(1)).item() == 0


def test_rounding_is_that_of_torch():
    values = 2 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for symmetric in (True, False):
        grid = fit_grid(-1.0, 2.5, 6, symmetric)
        by_torch = torch.fake_quantize_per_tensor_affine(
            values, grid.scale, grid.zero_point, grid.lowest_level, grid.highest_level
        )
        torch.testing.assert_close(grid.rounded(values), by_torch)


def test_a_choices_own_calibrator_bits_and_symmetry_make_its_range(gaussian):
    for name, calibrator in CALIBRATORS.items():
        choice = recipes.Quantize(8, 4, name, symmetric=False)
        assert calibrated_range(gaussian, choice) == calibrator(gaussian, partial(FOUR_BITS, symmetric=False))


@pytest.mark.parametrize("extremes", [(-math.inf, 3.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_range_that_has_no_bins_is_that_of_the_extremes(extremes):
    histogram = Histogram.empty(*extremes)
    histogram.add(torch.ones(3))
    found = calibrated_range(histogram, recipes.Quantize(calibrator="mse"))
    assert found == pytest.approx(extremes, nan_ok=True)


def test_extremes_are_kept():
    assert CALIBRATORS["min_max"](Histogram(torch.ones(4), -1.0, 3.0), FOUR_BITS) == (-1.0, 3.0)


@pytest.mark.parametrize(("lowest", "expected"), [(0.0, (0.0, 9999.0)), (-5000.0, (-4999.5, 4999.5))])
def test_a_percentile_leaves_a_ten_thousandth_of_the_values_out(lowest, expected):
    uniform = Histogram(torch.ones(20_000), lowest, lowest + 10_000)
    assert CALIBRATORS["percentile"](uniform, FOUR_BITS) == pytest.approx(expected, abs=0.51)


@pytest.mark.parametrize(("bits", "step"), [(4, 0.3352), (5, 0.1881)])
def test_the_least_squared_error_of_a_gaussian_is_at_the_step_that_max_found(bits, step, gaussian):
    # Max, "Quantizing for minimum distortion", 1960, table II: equal steps of 16 and of 32 levels.
    fit = partial(fit_grid, bits=bits)
    assert fit(*CALIBRATORS["mse"](gaussian, fit)).scale == pytest.approx(step, rel=0.025)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["mse", "percentile"])
def test_what_is_clipped_costs_less_than_what_finer_levels_win(name, symmetric, gaussian):
    fit = partial(fit_grid, bits=4, symmetric=symmetric)

    def error(bounds):
        centers = gaussian.centers
        return (gaussian.counts * (fit(*bounds).rounded(centers) - centers).square()).sum()

    assert error(CALIBRATORS[name](gaussian, fit)) < error((gaussian.lowest, gaussian.highest))


def divergence_by_loops(histogram, grid, highest):
    """Migacz's slides, line by line, for values that are never negative and levels that round to the nearest."""
    centers, counts = histogram.centers.tolist(), histogram.counts.tolist()
    inside = [index for index, center in enumerate(centers) if center <= highest]
    wanted = [counts[index] for index in inside]
    wanted[-1] += sum(counts) - sum(wanted)
    levels = {}
    for index in inside:
        level = min(round(centers[index] / grid.scale), grid.highest_level)
        levels.setdefault(level, []).append(index)
    given = [0.0] * len(inside)
    for indices in levels.values():
        filled = [index for index in indices if wanted[index] > 0]
        for index in filled:
            given[index] = sum(counts[it] for it in indices) / len(filled)
    total = sum(given)
    pairs = [(p / sum(wanted), max(q / total, 1e-12)) for p, q in zip(wanted, given, strict=True)]
    return sum(p * math.log(p / q) for p, q in pairs if p > 0)


@pytest.mark.parametrize("calibrator", recipes.CALIBRATORS)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_values_that_are_no_numbers_stay_so_when_they_are_rounded(broken, calibrator):
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).eval()
    nn.init.constant_(network[0].weight, broken)
    choice = recipes.LayerRecipe(quantize=recipes.Quantize(calibrator=calibrator))
    recipe = recipes.Recipe({"0": recipes.LayerRecipe(), "1": choice})
    quantized = quantize(network, recipe, [(torch.ones(1, 2),)])
    assert quantized(torch.ones(1, 2)).isnan().all()


def test_entropy_takes_the_range_of_the_least_divergence():
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(1)).abs()
    histogram = histogram_of(torch.cat([torch.zeros(1), values]), bins=256)
    shrinks = torch.linspace(0.05, 1, 96).tolist()
    losses = [
        divergence_by_loops(histogram, FOUR_BITS(0.0, it * histogram.highest), it * histogram.highest) for it in shrinks
    ]
    best = shrinks[losses.index(min(losses))] * histogram.highest
    assert CALIBRATORS["entropy"](histogram, FOUR_BITS) == (0.0, best)
    assert best < histogram.highest


def test_values_spread_evenly_are_hardly_clipped():
    uniform = Histogram(torch.ones(2048, dtype=torch.float64), 0.0, 1.0)
    assert CALIBRATORS["entropy"](uniform, FOUR_BITS)[1] > 0.98
    # 15 steps, and half a step that is clipped on the side of 1 as half a step is rounded down to 0.
    assert CALIBRATORS["mse"](uniform, FOUR_BITS)[1] == pytest.approx(15 / 15.5, abs=0.01)

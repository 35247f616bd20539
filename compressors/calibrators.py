"""Calibrators: which range of an activation its integer levels cover, chosen from a histogram of what was seen."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from gulliver.spaces.recipe import Quantize
from torch import Tensor

_BINS = 2048
_SMALLEST_SCALE = 1e-8
# Of all values, how many a percentile leaves beyond its range.
_CLIPPED_SHARE = 1e-4
_SHRINKS = torch.linspace(0.05, 1, 96).tolist()


@dataclass(frozen=True, slots=True)
class Grid:
    """Integer levels and the numbers that they stand for: scale * (level - zero_point)."""

    scale: float
    zero_point: int
    lowest_level: int
    highest_level: int

    def __call__(self, values: Tensor) -> Tensor:
        """Return the tensor of the same shape rounded and clipped, to the last bit as a network is simulated."""
        return torch.fake_quantize_per_tensor_affine(
            values, self.scale, self.zero_point, self.lowest_level, self.highest_level
        )

    def levels(self, values: Tensor) -> Tensor:
        """Return the nearest level of every value, ties to the even one."""
        return (values / self.scale + self.zero_point).round().clamp(self.lowest_level, self.highest_level)

    def rounded(self, values: Tensor) -> Tensor:
        """Return the number that every value's level stands for."""
        return (self.levels(values) - self.zero_point) * self.scale


@dataclass(frozen=True)
class Histogram:
    """How many values were seen in each of the equal bins between the extremes."""

    counts: Tensor
    lowest: float
    highest: float

    @classmethod
    def empty(cls, lowest: float, highest: float) -> "Histogram":
        """Return the histogram of nothing between two extremes."""
        return cls(torch.zeros(_BINS, dtype=torch.float64), lowest, highest)

    @property
    def is_finite(self) -> bool:
        """Say whether both extremes are numbers, or else there are no bins."""
        return math.isfinite(self.lowest) and math.isfinite(self.highest)

    def add(self, values: Tensor) -> None:
        """Count the values in place, where there are bins."""
        if not self.is_finite:
            return
        self.counts.add_(torch.histc(values.float(), len(self.counts), self.lowest, self.highest))

    @property
    def centers(self) -> Tensor:
        """Return (bins,): the middle of every bin."""
        width = (self.highest - self.lowest) / len(self.counts)
        return self.lowest + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)


Range = tuple[float, float]
Fit = Callable[[float, float], Grid]
Calibrator = Callable[[Histogram, Fit], Range]


def fit_grid(lowest: float, highest: float, bits: int, symmetric: bool = True) -> Grid:
    """Return the levels of a range: unsigned where it has nothing below zero; else signed, or shifted if asymmetric."""
    if lowest < 0 and not symmetric:
        highest_level = 2**bits - 1
        scale = max((max(highest, 0.0) - lowest) / highest_level, _SMALLEST_SCALE)
        return Grid(scale, round(-lowest / scale), 0, highest_level)
    if lowest < 0:
        # All levels, -128 too: OpenVINO moves 255 signed levels to another grid of 256, and gives other results.
        lowest_level, highest_level = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        return Grid(
            max(highest / highest_level, lowest / lowest_level, _SMALLEST_SCALE), 0, lowest_level, highest_level
        )
    return Grid(max(highest / (2**bits - 1), _SMALLEST_SCALE), 0, 0, 2**bits - 1)


def by_extremes(histogram: Histogram, fit: Fit) -> Range:
    """Cover all that was seen."""
    return histogram.lowest, histogram.highest


def by_percentile(histogram: Histogram, fit: Fit) -> Range:
    """Leave the outermost 0.01% of the values beyond the range, half of it on either side unless none is negative.

    Source: McKinstry et al., "Discovering low-precision networks close to full-precision networks", 2018.
    """
    below = histogram.counts.double().cumsum(0) / histogram.counts.sum()
    share = _CLIPPED_SHARE / 2 if histogram.lowest < 0 else _CLIPPED_SHARE
    width = (histogram.highest - histogram.lowest) / len(below)
    first, last = int((below <= share).sum()), int((below < 1 - share).sum()) + 1
    lowest = histogram.lowest if histogram.lowest >= 0 else min(histogram.lowest + width * first, 0.0)
    return lowest, histogram.lowest + width * min(last, len(below))


def by_entropy(histogram: Histogram, fit: Fit) -> Range:
    """Take the range whose levels tell most of the values' distribution: the least Kullback-Leibler divergence.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017.
    """
    return _best(histogram, fit, _divergence)


def by_squared_error(histogram: Histogram, fit: Fit) -> Range:
    """Take the range of the least mean squared rounding and clipping error.

    Source: Sung et al., "Resiliency of Deep Neural Networks under Quantization", 2015.
    """
    return _best(histogram, fit, _squared_error)


CALIBRATORS: Mapping[str, Calibrator] = {
    "min_max": by_extremes,
    "percentile": by_percentile,
    "entropy": by_entropy,
    "mse": by_squared_error,
}


def calibrated_range(histogram: Histogram, choice: Quantize) -> Range:
    """Return the range that the choice's calibrator finds for its levels, the extremes where one is no number."""
    if not histogram.is_finite:
        return histogram.lowest, histogram.highest
    return CALIBRATORS[choice.calibrator](
        histogram, partial(fit_grid, bits=choice.activation_bits, symmetric=choice.symmetric)
    )


def _best(histogram: Histogram, fit: Fit, loss: Callable[[Histogram, Range, Grid], float]) -> Range:
    ranges = [(histogram.lowest * shrink, histogram.highest * shrink) for shrink in _SHRINKS]
    return min(ranges, key=lambda it: loss(histogram, it, fit(*it)))


def _squared_error(histogram: Histogram, bounds: Range, grid: Grid) -> float:
    centers = histogram.centers
    return float((histogram.counts * (grid.rounded(centers) - centers).square()).sum())


def _divergence(histogram: Histogram, bounds: Range, grid: Grid) -> float:
    """Return the divergence of the clipped values' distribution from what is left of it on the levels.

    Each level's values count as spread evenly over those of its bins that hold any; values beyond the range
    belong to the outermost bins of the clipped distribution, but to no level.
    """
    counts, centers = histogram.counts.double(), histogram.centers
    inside = (centers >= bounds[0]) & (centers <= bounds[1])
    if not inside.any():
        return float("inf")
    clipped = counts[inside].clone()
    clipped[0] += counts[centers < bounds[0]].sum()
    clipped[-1] += counts[centers > bounds[1]].sum()
    levels = (grid.levels(centers[inside]) - grid.lowest_level).long()
    size = grid.highest_level - grid.lowest_level + 1
    held = torch.zeros(size, dtype=torch.float64).index_add(0, levels, counts[inside])
    bins = torch.zeros(size, dtype=torch.float64).index_add(0, levels, (clipped > 0).double())
    spread = held[levels] / bins[levels].clamp_min(1)
    wanted, given = clipped / clipped.sum(), spread / spread.sum().clamp_min(1)
    seen = wanted > 0
    # A bin that only outliers reach has no level's share at all: as good as lost, but not infinitely far.
    return float((wanted[seen] * (wanted[seen] / given[seen].clamp_min(1e-12)).log()).sum())

"""The integer levels of rows of weights: what they stand for, and how far they reach."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

_SHRINKS = torch.linspace(0.3, 1, 71).tolist()
_SMALLEST_SCALE = 1e-8


@dataclass(frozen=True)
class RowLevels:
    """Integer levels and the weights that they stand for: scale * (level - zero_point).

    `scales` and `zero_points` have (rows,), or as many dimensions as the weights that they are applied to.
    """

    scales: Tensor
    zero_points: Tensor
    lowest_level: int
    highest_level: int

    def along(self, rows: Tensor) -> "RowLevels":
        """Return the levels with a scale for each of the first dimension, of as many dimensions as the weights."""
        shape = (-1, *[1] * (rows.dim() - 1))
        return replace(self, scales=self.scales.reshape(shape), zero_points=self.zero_points.reshape(shape))

    def levels(self, rows: Tensor) -> Tensor:
        """Return the nearest level of every weight, ties to the even one."""
        return (rows / self.scales + self.zero_points).round().clamp(self.lowest_level, self.highest_level)

    def rounded(self, rows: Tensor) -> Tensor:
        """Return the number that every weight's level stands for."""
        return (self.levels(rows) - self.zero_points) * self.scales


Fit = Callable[[Tensor], RowLevels]


def fit_rows(rows: Tensor, weight_bits: int, method: str = "max", symmetric: bool = True) -> RowLevels:
    """Return the levels of each row of weights (rows, inputs): as many below zero as above, or shifted if asymmetric.

    Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper", 2018,
    sections 2.1 and 2.2.
    """
    fit = _symmetric if symmetric else _asymmetric
    return WEIGHT_SCALES[method](rows, partial(fit, rows, 2 ** (weight_bits - 1) - 1))


def reaching_the_largest(rows: Tensor, fit: Fit) -> RowLevels:
    """Return levels of which the outermost stand for each row's largest weights."""
    return fit(torch.ones(len(rows)))


def of_least_squared_error(rows: Tensor, fit: Fit) -> RowLevels:
    """Return levels that reach as far as gives rounding and clipping each row's weights the least squared error.

    Source: Sung et al., "Resiliency of Deep Neural Networks under Quantization", 2015.
    """
    candidates = (fit(torch.full((len(rows),), shrink)).along(rows) for shrink in _SHRINKS)
    errors = torch.stack([(levels.rounded(rows) - rows).square().sum(1) for levels in candidates])
    return fit(torch.tensor(_SHRINKS)[errors.argmin(0)])


# From the rows of weights, and the levels that reach so large a share (rows,) of them, to levels.
WEIGHT_SCALES: Mapping[str, Callable[[Tensor, Fit], RowLevels]] = {
    "max": reaching_the_largest,
    "mse": of_least_squared_error,
}


def _symmetric(rows: Tensor, highest_level: int, share: Tensor) -> RowLevels:
    scales = (rows.abs().amax(1) / highest_level * share).clamp_min(_SMALLEST_SCALE)
    return RowLevels(scales, torch.zeros(len(rows), dtype=torch.int32), -highest_level, highest_level)


def _asymmetric(rows: Tensor, highest_level: int, share: Tensor) -> RowLevels:
    lowest_level = -highest_level - 1
    lowest, highest = rows.amin(1).clamp_max(0) * share, rows.amax(1).clamp_min(0) * share
    scales = ((highest - lowest) / (highest_level - lowest_level)).clamp_min(_SMALLEST_SCALE)
    return RowLevels(scales, (lowest_level - lowest / scales).round().int(), lowest_level, highest_level)

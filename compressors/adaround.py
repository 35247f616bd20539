"""AdaRound: learn for every weight whether it is rounded up or down, so that the layer's outputs change least.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, equations 21 to 24,
each layer for itself and without its activation function.
"""

from collections.abc import Callable

import torch
from gulliver.compressors.weight_scales import RowLevels
from torch import Tensor

STEPS = 600
_LEARNING_RATE = 0.02
# Equation 23 stretches a sigmoid, so that its ends are reached.
_LOW, _HIGH = -0.1, 1.1
# Of the steps, the share before weights are drawn to the ends; how strongly, where the error of rounding to the nearest
# counts as one for each weight; and how flat the pull is by and by.
_WARM = 0.2
_PULL = 10.0
_FLATTEST, _STEEPEST = 20.0, 2.0


def learn_rows(rows: Tensor, products: Tensor, levels: RowLevels) -> Tensor:
    """Return the rows (groups, outputs, inputs) on their levels, each weight rounded up or down.

    `products` (groups, inputs, inputs) are the summed products of what the rows are multiplied by; the levels have
    scales of the rows' shape. Zeros stay zero, and no row's outputs change more than by rounding to the nearest.
    """
    rows, scales, kept = rows.double(), levels.scales.double(), rows != 0
    lower = (rows / scales).floor()
    lowest, highest = levels.lowest_level - levels.zero_points, levels.highest_level - levels.zero_points

    def rounded(up: Tensor) -> Tensor:
        return (lower + up).clamp(lowest, highest) * scales * kept

    def errors(up: Tensor) -> Tensor:
        change = rounded(up) - rows
        return ((change @ products) * change).sum(-1)

    nearest = (rows / scales).round() - lower
    learned = _learn(rows / scales - lower, nearest, errors)
    better = errors(learned) < errors(nearest)
    return torch.where(better[..., None], rounded(learned), rounded(nearest)).float()


def _learn(remainders: Tensor, nearest: Tensor, errors: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ones where it is better to round up: the rows' errors, relative to the nearest's, are made small."""
    usual = errors(nearest).clamp_min(torch.finfo(torch.float64).tiny)
    with torch.inference_mode(False), torch.enable_grad():
        start = ((remainders - _LOW) / (_HIGH - _LOW)).clamp(1e-6, 1 - 1e-6).logit()
        variables = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([variables], _LEARNING_RATE)
        for step in range(STEPS):
            up = (variables.sigmoid() * (_HIGH - _LOW) + _LOW).clamp(0, 1)
            loss = (errors(up) / usual).sum() * remainders.shape[-1] + _pull(up, step / STEPS)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return (variables.detach() >= 0).double()


def _pull(up: Tensor, progress: float) -> Tensor:
    """Return what keeps a share of the way from being anything but 0 or 1 (equation 24)."""
    if progress < _WARM:
        return up.new_zeros(())
    exponent = _FLATTEST + (_STEEPEST - _FLATTEST) * (progress - _WARM) / (1 - _WARM)
    return _PULL * (1 - (2 * up - 1).abs() ** exponent).sum()

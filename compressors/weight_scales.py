"""How far the integer levels of a row of weights reach."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_SHRINKS = torch.linspace(0.3, 1, 71).tolist()


def reaching_the_largest(rows: Tensor, highest_level: int) -> Tensor:
    """Return the scale of each row at which the highest level stands for its largest weight."""
    return rows.abs().amax(1) / highest_level


def of_least_squared_error(rows: Tensor, highest_level: int) -> Tensor:
    """Return the scale of each row at which rounding and clipping its weights has the least squared error.

    Source: Sung et al., "Resiliency of Deep Neural Networks under Quantization", 2015.
    """
    largest = reaching_the_largest(rows, highest_level).clamp_min(torch.finfo(rows.dtype).tiny)
    candidates = torch.stack([largest * shrink for shrink in _SHRINKS])
    return candidates.gather(0, _errors(rows, candidates, highest_level).argmin(0, keepdim=True))[0]


WEIGHT_SCALES: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "max": reaching_the_largest,
    "mse": of_least_squared_error,
}


def _errors(rows: Tensor, candidates: Tensor, highest_level: int) -> Tensor:
    """Return (candidates, rows): the squared error of every row at every candidate of its scale."""
    errors = []
    for scales in candidates:
        levels = (rows / scales[:, None]).round().clamp(-highest_level, highest_level)
        errors.append((levels * scales[:, None] - rows).square().sum(1))
    return torch.stack(errors)

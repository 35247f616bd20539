"""Change weights one input after the other, and let the inputs that come later make good what each change costs.

Source: Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992, in the
fixed order and with the Cholesky factor of Frantar et al., "GPTQ", ICLR 2023, section 3.3.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from gulliver.compressors.weight_scales import RowLevels
from torch import Tensor

# Share of the inputs' mean square that is added to each, as GPTQ does.
_DAMPING = 0.01
_OF = 4
_BLOCK = 128


def round_rows(rows: Tensor, products: Tensor, levels: RowLevels) -> Tensor:
    """Return the rows (outputs, inputs) on their levels, which have scales of the same shape; zeros stay zero.

    `products` (inputs, inputs) are the summed products of what the rows are multiplied by.
    """
    kept, scales, zero_points = (rows != 0).T, levels.scales.T.double(), levels.zero_points.T

    def on_levels(weights: Tensor, at: int) -> Tensor:
        return replace(levels, scales=scales[at], zero_points=zero_points[at]).rounded(weights[at]) * kept[at]

    return _one_after_the_other(rows, _factor(products), on_levels)


def halve_rows(rows: Tensor, products: Tensor) -> Tensor:
    """Return the rows (outputs, inputs) with two of every four neighbours zero.

    Source: Frantar and Alistarh, "SparseGPT", ICML 2023, sections 3.2 and 3.4.
    """
    factor, kept = _factor(products), torch.ones(rows.T.shape, dtype=torch.float64)

    def halved(weights: Tensor, at: int) -> Tensor:
        if at % _OF == 0:
            costs = _costs(weights, factor, slice(at, at + _OF))
            kept[at : at + _OF].scatter_(0, costs.topk(_OF // 2, 0, largest=False).indices, 0.0)
        return weights[at] * kept[at]

    return _one_after_the_other(rows, factor, halved)


def zero_rows(rows: Tensor, products: Tensor, ratio: float) -> Tensor:
    """Return the rows (outputs, inputs) with this share of the weights zero, the cheapest of all rows block by block.

    Source: Frantar and Alistarh, "SparseGPT", ICML 2023, algorithm 1, masks being chosen for 128 inputs at a time.
    """
    factor, kept = _factor(products), torch.ones(rows.T.shape, dtype=torch.float64)

    def zeroed(weights: Tensor, at: int) -> Tensor:
        if at % _BLOCK == 0:
            costs = _costs(weights, factor, slice(at, at + _BLOCK))
            # Of all blocks so far, so that shares which do not divide a block's weights do not add up.
            count = round(ratio * costs.shape[1] * (at + costs.shape[0])) - int((kept == 0).sum())
            kept[at : at + _BLOCK].view(-1)[costs.flatten().topk(count, largest=False).indices] = 0
        return weights[at] * kept[at]

    return _one_after_the_other(rows, factor, zeroed)


def _one_after_the_other(rows: Tensor, factor: Tensor, final: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return the rows, each input given its `final` weights and the error spread over the inputs that come later.

    `final` takes the weights (inputs, outputs), of which those of its block are up to date, and the input. What a
    block's errors change behind it is added up and done at once (GPTQ, section 3.3, step 2).
    """
    weights = rows.T.to(torch.float64, memory_format=torch.contiguous_format)
    for start in range(0, len(weights), _BLOCK):
        end = min(start + _BLOCK, len(weights))
        errors = torch.empty_like(weights[start:end])
        for at in range(start, end):
            wanted = final(weights, at)
            errors[at - start] = (weights[at] - wanted) / factor[at, at]
            weights[at + 1 : end] -= factor[at, at + 1 : end, None] * errors[at - start]
            weights[at] = wanted
        weights[end:] -= factor[start:end, end:].T @ errors
    return weights.T.float()


def _costs(weights: Tensor, factor: Tensor, inputs: slice) -> Tensor:
    """Return what zeroing each weight of these inputs costs, (inputs, outputs)."""
    return (weights[inputs] / factor.diagonal()[inputs, None]).square()


def _factor(products: Tensor) -> Tensor:
    """Return the upper triangular factor of the inverse of the damped products."""
    damping = (_DAMPING * products.diagonal().mean()).clamp_min(1e-12)
    damped = products + damping * torch.eye(len(products), dtype=products.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor

"""Change weights one input after the other, and let the inputs that come later make good what each change costs.

Source: Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992, in the
fixed order and with the Cholesky factor of Frantar et al., "GPTQ", ICLR 2023, section 3.3.
"""

import torch
from torch import Tensor

# Share of the inputs' mean square that is added to each, as GPTQ does.
_DAMPING = 0.01
_OF = 4
_BLOCK = 128


def round_rows(rows: Tensor, products: Tensor, scales: Tensor, highest_level: int) -> Tensor:
    """Return the rows (outputs, inputs) on the levels of their scales (outputs, inputs); zeros stay zero.

    `products` (inputs, inputs) are the summed products of what the rows are multiplied by.
    """
    kept = rows != 0
    rows, scales, factor = rows.double(), scales.double(), _factor(products)
    for at in range(rows.shape[1]):
        levels = (rows[:, at] / scales[:, at]).round().clamp(-highest_level, highest_level)
        _settle(rows, factor, at, levels * scales[:, at] * kept[:, at])
    return rows.float()


def halve_rows(rows: Tensor, products: Tensor) -> Tensor:
    """Return the rows (outputs, inputs) with two of every four neighbours zero.

    Source: Frantar and Alistarh, "SparseGPT", ICML 2023, sections 3.2 and 3.4.
    """
    rows, factor = rows.double(), _factor(products)
    for start in range(0, rows.shape[1], _OF):
        costs = (rows[:, start : start + _OF] / factor.diagonal()[start : start + _OF]).square()
        kept = torch.ones_like(costs).scatter(1, costs.topk(_OF // 2, largest=False).indices, 0.0)
        for at in range(start, start + _OF):
            _settle(rows, factor, at, rows[:, at] * kept[:, at - start])
    return rows.float()


def zero_rows(rows: Tensor, products: Tensor, ratio: float) -> Tensor:
    """Return the rows (outputs, inputs) with this share of the weights zero, the cheapest of all rows block by block.

    Source: Frantar and Alistarh, "SparseGPT", ICML 2023, algorithm 1, masks being chosen for 128 inputs at a time.
    """
    rows, factor = rows.double(), _factor(products)
    gone = 0
    for start in range(0, rows.shape[1], _BLOCK):
        block = rows[:, start : start + _BLOCK]
        costs = (block / factor.diagonal()[start : start + _BLOCK]).square().flatten()
        # Of all blocks so far, so that shares which do not divide a block's weights do not add up.
        count = round(ratio * rows.shape[0] * (start + block.shape[1])) - gone
        gone += count
        kept = torch.ones_like(costs)
        kept[costs.topk(count, largest=False).indices] = 0
        kept = kept.reshape(block.shape)
        for at in range(block.shape[1]):
            _settle(rows, factor, start + at, rows[:, start + at] * kept[:, at])
    return rows.float()


def _factor(products: Tensor) -> Tensor:
    """Return the upper triangular factor of the inverse of the damped products."""
    damping = (_DAMPING * products.diagonal().mean()).clamp_min(1e-12)
    damped = products + damping * torch.eye(len(products), dtype=products.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _settle(rows: Tensor, factor: Tensor, at: int, wanted: Tensor) -> None:
    """Give one input its final weights in place, and spread the error over the inputs that come later."""
    error = (rows[:, at] - wanted) / factor[at, at]
    rows[:, at:] -= error[:, None] * factor[at, at:]
    rows[:, at] = wanted

"""Ranks that a layer's own weights suggest: by energy, or by what is more than noise."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from gulliver.compressors.layer_inputs import CompressibleLayer
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

_TAU = 2.5129


def suggest_ranks(
    layer: CompressibleLayer, shares: Sequence[float | None], kind: str = "svd", multiple: int = 1
) -> tuple[int, ...]:
    """Return a rank for each share and the kind of decomposition, the nearest multiple but 0.

    It keeps the share of the squared weights; where that is None, what variational Bayes tells from noise.
    """
    matrix = unfolded(layer, kind)
    values = _singular_values(matrix)
    ranks = (_noise_free_rank(values, matrix.shape) if it is None else _energy_rank(values, it) for it in shares)
    return tuple(max(round(rank / multiple), 1) * multiple for rank in ranks)


def unfolded(layer: CompressibleLayer, kind: str) -> Tensor:
    """Return the matrix whose singular values the kind of decomposition cuts off."""
    weight = layer.weight.detach()
    if kind == "svd" and weight.dim() == 4:
        return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return weight.flatten(1)


def energy_rank(matrix: Tensor, share: float) -> int:
    """Return the least rank whose singular values hold this share of the sum of all squares."""
    return _energy_rank(_singular_values(matrix), share)


def noise_free_rank(matrix: Tensor) -> int:
    """Return the rank that empirical variational Bayesian matrix factorization finds, the noise being estimated.

    Source: Nakajima et al., "Global Analytic Solution of Fully-observed Variational Bayesian Matrix Factorization",
    JMLR 2013, theorem 2 and corollary 1.
    """
    return _noise_free_rank(_singular_values(matrix), matrix.shape)


def _singular_values(matrix: Tensor) -> NDArray[np.float64]:
    return np.asarray(torch.linalg.svdvals(matrix.double()).numpy())


def _energy_rank(values: NDArray[np.float64], share: float) -> int:
    held = np.cumsum(values**2) / (values**2).sum()
    return min(int((held < share).sum()) + 1, len(values))


def _noise_free_rank(values: NDArray[np.float64], shape: Sequence[int]) -> int:
    short, long = sorted(shape)
    # The search for the noise stops at an absolute tolerance.
    values = values / max(math.sqrt((values**2).mean() / long), np.finfo(np.float64).tiny)
    ratio = short / long
    tau = _TAU * math.sqrt(ratio)
    limit = (1 + tau) * (1 + ratio / tau)
    noise = _noise_variance(values, short, long, limit)
    return int((values > math.sqrt(long * noise * limit)).sum())


def _noise_variance(values: NDArray[np.float64], short: int, long: int, limit: float) -> float:
    """Return the variance that makes the matrix most likely, within the bounds of theorem 2."""
    first = min(math.ceil(short / (1 + short / long)) - 1, short - 1)
    tail = values[first:] ** 2
    lower = max(tail[0] / (long * limit), tail.mean() / long, np.finfo(np.float64).tiny)
    upper = max((values**2).sum() / (short * long), lower * (1 + 1e-9))
    found = minimize_scalar(_free_energy, bounds=(lower, upper), args=(values, short, long, limit), method="bounded")
    return float(found.x)


def _free_energy(variance: float, values: NDArray[np.float64], short: int, long: int, limit: float) -> float:
    ratio = short / long
    scaled = np.maximum(values**2 / (long * variance), np.finfo(np.float64).tiny)
    signal, noise = scaled[scaled > limit], scaled[scaled <= limit]
    shifted = signal - (1 + ratio)
    tau = 0.5 * (shifted + np.sqrt(np.maximum(shifted**2 - 4 * ratio, 0)))
    energy = (noise - np.log(noise)).sum() + (signal - tau).sum() + np.log((tau + 1) / signal).sum()
    return float(energy + ratio * np.log(tau / ratio + 1).sum())

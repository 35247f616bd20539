"""How far predicted times are from measured ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST_TO_RANK = 3


@dataclass(frozen=True)
class PredictionError:
    """Errors as shares of the measured time; `rank_correlation` is Spearman's, none for fewer than three times."""

    count: int
    mean: float
    median: float
    worst: float
    rank_correlation: float | None


def prediction_error(predicted: Sequence[float], measured: Sequence[float]) -> PredictionError:
    """Return the errors of predicted times against measured ones, both in the same unit and at least one each."""
    errors = np.abs(np.array(predicted) / np.array(measured) - 1)
    correlation = rank_correlation(predicted, measured)
    return PredictionError(
        len(errors), float(errors.mean()), float(np.median(errors)), float(errors.max()), correlation
    )


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, or none where it is not defined."""
    from scipy.stats import rankdata

    ranks = [rankdata(np.round(values, 9)) for values in (predicted, measured)]
    if len(measured) < _LEAST_TO_RANK or any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])

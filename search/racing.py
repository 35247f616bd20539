"""Racing: a candidate is scored on growing slices, and dropped once it cannot reach what it must with confidence.

The samples of a slice are taken for a draw without replacement from the split, so the split must be in random order.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from gulliver.search.settings import Race
from gulliver.tasks.errors import InputError
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_BETS: Floats = np.arange(1, 20) / 20


@dataclass(frozen=True)
class Rival:
    """Whom a candidate is paired with: another network's score of every sample, and the mean to be reached."""

    scores: Floats
    least_mean: float


@dataclass(frozen=True)
class Raced:
    """A candidate's score on the split: its mean where all samples were scored, an estimate where it was dropped.

    `scores` are those of the samples that were scored; `mean` is NaN where one of them is not a finite number.
    """

    mean: float
    scores: Floats
    dropped: bool


def race(score_slice: Callable[[int, int], Floats], rival: Rival, settings: Race) -> Raced:
    """Return the candidate's score, from as many samples as are needed to drop it, or from all of them.

    `score_slice(start, stop)` scores those samples. A candidate whose mean over the split is `rival.least_mean` or
    more is dropped with a probability of at most 1 - confidence over the orders of the split, all looks together.
    Raises InputError for a score above the highest one of the settings.
    """
    seen: Floats = np.empty(0)
    for start, stop in pairwise([0, *slice_ends(len(rival.scores), settings.first_slice)]):
        seen = np.concatenate([seen, score_slice(start, stop)])
        if not np.isfinite(seen).all():
            return Raced(float("nan"), seen, dropped=False)
        highest = _highest_score(seen, rival, settings)
        if stop < len(rival.scores) and _is_below(seen, rival, highest, settings.confidence):
            estimate = rival.scores.mean() + (seen - rival.scores[:stop]).mean()
            return Raced(float(estimate), seen, dropped=True)
    return Raced(float(seen.mean()), seen, dropped=False)


def slice_ends(size: int, first: int) -> Iterator[int]:
    """Yield how many samples have been scored after each slice: `first`, doubled until it is the size of the split."""
    end = first
    while end < size:
        yield end
        end *= 2
    yield size


def log_evidence(differences: Floats, size: int, least_mean: float, highest: float) -> float:
    """Return the log of the evidence that the mean of all `size` differences is below `least_mean`.

    Someone who bets against the first `differences` being drawn from such a population, none above `highest`, at odds
    that would be fair if the mean were `least_mean`, multiplies their capital by this factor at best; the chance of
    ever reaching 1/alpha if the mean is not below is at most alpha, however often one looks, whatever the scores'
    distribution (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", the
    martingale of their section on sampling without replacement; one-sided, so no lower limit is needed; capital is
    spread over several sizes of bets).
    """
    sums = np.concatenate([[0.0], np.cumsum(differences)])
    # The mean that the samples not drawn yet must have.
    needed = (size * least_mean - sums) / np.maximum(size - np.arange(len(sums)), 1)
    room = highest - needed
    rounding = 1e-9 * (np.abs(differences).max() + abs(highest) + abs(least_mean))
    if len(differences) < size and room.min() < -rounding:
        return float("inf")
    room = room[:-1]
    gains = np.divide(needed[:-1] - differences, room, out=np.zeros_like(room), where=room > rounding)
    capitals = np.cumsum(np.log1p(np.outer(_BETS, gains)), axis=1)
    return float(np.logaddexp.reduce(capitals, axis=0).max() - np.log(len(_BETS)))


def _highest_score(seen: Floats, rival: Rival, settings: Race) -> float:
    """Return the most that a sample can score, as far as is known; raises InputError for a score that is above it."""
    highest = float(max(seen.max(), rival.scores.max()))
    if settings.highest_score is None:
        return highest
    if highest > settings.highest_score:
        raise InputError(
            f"`score <= trial.race.highest_score={settings.highest_score}` must hold, but one is {highest}"
        )
    return settings.highest_score


def _is_below(seen: Floats, rival: Rival, highest_score: float, confidence: float) -> bool:
    """Say whether the candidate's mean is below what it must reach."""
    size, differences = len(rival.scores), seen - rival.scores[: len(seen)]
    least, highest = rival.least_mean - rival.scores.mean(), highest_score - rival.scores.min()
    return log_evidence(differences, size, float(least), float(highest)) >= -math.log1p(-confidence)

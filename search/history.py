"""What was tried so far: recipes as rungs, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gulliver.evaluators.factors import Costs, Rungs
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class History:
    """Recipes that were tried: rungs of shape (recipes, variables) and scores of shape (recipes,).

    A score is NaN where it is not known yet, and minus infinity where there is none, because the trial failed.
    """

    rungs: Rungs
    scores: Costs

    @cached_property
    def scored(self) -> "History":
        """Return the recipes whose scores are known."""
        known = np.isfinite(self.scores)
        return self if known.all() else History(self.rungs[known], self.scores[known])

    def holds(self, rungs: Rungs) -> NDArray[np.bool_]:
        """Return shape (recipes,): which of these were tried."""
        tried = set(self.keys)
        return np.array([key in tried for key in keys_of(rungs)], dtype=bool)

    def first_untried(self, rungs: Rungs) -> Rungs | None:
        """Return shape (variables,): the first of these that was not tried, None where all were."""
        return next(iter(rungs[~self.holds(rungs)]), None)

    @cached_property
    def keys(self) -> Sequence[bytes]:
        """What tells each recipe from all others."""
        return keys_of(self.rungs)

    def followed_by(self, others: "History") -> "History":
        """Return the recipes of both, these first."""
        if not len(others.scores):
            return self
        return History(np.concatenate([self.rungs, others.rungs]), np.concatenate([self.scores, others.scores]))

    def last(self, count: int) -> "History":
        """Return the recipes that were tried last."""
        return History(self.rungs[-count:], self.scores[-count:])

    def first(self, count: int) -> "History":
        """Return the recipes that were tried first."""
        return History(self.rungs[:count], self.scores[:count])


def keys_of(rungs: Rungs) -> list[bytes]:
    """Return the bytes of each of the recipes, as short as rungs of any number can be told apart by."""
    short = np.ascontiguousarray(rungs, dtype=np.uint32)
    row: Any = np.dtype((np.void, short.shape[1] * short.itemsize))
    keys: list[bytes] = short.view(row).ravel().tolist()
    return keys

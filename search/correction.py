"""The correction: what the trials say beyond the predicted losses, as a Gaussian process over recipes.

The process models the relative error of the predicted drop. One part of its covariance is additive, so that a
variable's rung that disappoints in one recipe is expected to in others; the other falls with the number of
variables that differ, weighted by how much they matter (Rasmussen and Williams, 2006, chapters 2 and 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from gulliver.evaluators.factors import Costs, Rungs
from scipy.linalg import cho_factor, cho_solve, solve_triangular

_CONTRAST = 4.0
_LEAST_WEIGHT = 0.5
_LEAST_NORM = 1e-12
_ADDITIVE_SHARES = (0.25, 0.75)
_NOISES = (0.03, 0.3)
# The variance before any trial, and how many trials it counts for: a few lucky ones are not to look like certainty.
_PRIOR_ERROR = 0.35
_PRIOR_TRIALS = 2


@dataclass(frozen=True, eq=False)
class Likeness:
    """How alike recipes are, from the losses of each variable's rungs alone."""

    rung_losses: Sequence[Costs]

    @cached_property
    def _offsets(self) -> Costs:
        return np.cumsum([0, *(len(losses) for losses in self.rung_losses)])

    @cached_property
    def _losses(self) -> Costs:
        return np.concatenate(list(self.rung_losses))

    @cached_property
    def _weights(self) -> Costs:
        """How much a difference in each variable counts: its share of the losses, and a little for every one."""
        largest = np.array([losses.max() for losses in self.rung_losses])
        shares = largest / max(largest.sum(), 1e-12)
        return np.asarray((_CONTRAST * shares + _LEAST_WEIGHT / len(largest)).repeat(np.diff(self._offsets)))

    def one_hot(self, rungs: Rungs) -> Costs:
        """Return shape (recipes, rungs of all variables): 1 at each rung that a recipe takes."""
        encoded = np.zeros((len(rungs), self._offsets[-1]))
        encoded[np.arange(len(rungs))[:, None], rungs + self._offsets[:-1]] = 1.0
        return encoded

    def norms(self, one_hot: Costs) -> Costs:
        """Return shape (recipes,): the root of the sum of the squares of a recipe's losses."""
        return np.asarray(np.clip(np.sqrt(one_hot @ self._losses**2), _LEAST_NORM, None))

    def covariances(self, left: Costs, right: Costs) -> tuple[Costs, Costs]:
        """Return the two parts of the covariance of relative errors, from two one-hot arrays.

        One part is what every rung's own error causes, the other falls with every variable in which two recipes differ.
        """
        # In one product, and with the tried recipes weighted, which are fewer than those that are compared with them.
        shared, alike = np.hsplit(left @ np.concatenate([right * self._losses**2, right * self._weights]).T, 2)
        additive = shared / np.outer(self.norms(left), self.norms(right))
        return additive, np.exp(alike - self._weights[self._offsets[:-1].astype(int)].sum())

    def rung_errors(self, one_hot: Costs, dual: Costs) -> list[Costs]:
        """Return for each variable the expected error of its rungs' losses, from the process's dual coefficients."""
        errors = self._losses**2 * (one_hot.T @ (dual / self.norms(one_hot)))
        return np.split(errors, self._offsets[1:-1].astype(int))


@dataclass(frozen=True, eq=False)
class Correction:
    """A fitted process; `variance` is that of relative errors, `additive_share` of it is additive.

    `covariances` are the two parts between the trials, whose rungs are encoded in `one_hot`.
    """

    likeness: Likeness
    one_hot: Costs
    covariances: tuple[Costs, Costs]
    errors: Costs
    variance: float
    additive_share: float
    noise: float

    @cached_property
    def _factor(self) -> tuple[Costs, bool]:
        additive, near = self.covariances
        covariance = self.additive_share * additive + (1 - self.additive_share) * near
        factor: tuple[Costs, bool] = cho_factor(covariance + self.noise * np.eye(len(covariance)), lower=True)
        return factor

    @cached_property
    def _dual(self) -> Costs:
        return np.asarray(cho_solve(self._factor, self.errors))

    def predict(self, rungs: Rungs) -> tuple[Costs, Costs]:
        """Return the mean and the standard deviation, both of shape (recipes,), of the relative errors."""
        encoded = self.likeness.one_hot(rungs)
        if not len(self.errors):
            return np.zeros(len(rungs)), np.full(len(rungs), self.variance**0.5)
        additive, near = self.likeness.covariances(encoded, self.one_hot)
        cross = self.additive_share * additive + (1 - self.additive_share) * near
        factor, lower = self._factor
        explained = (solve_triangular(factor, cross.T, lower=lower, check_finite=False) ** 2).sum(0)
        return cross @ self._dual, np.sqrt(self.variance * np.clip(1.0 - explained, 1e-9, None))

    def rung_errors(self) -> list[Costs]:
        """Return for each variable how far off its rungs' losses are; a recipe's error is their sum over its norm."""
        return [self.additive_share * it for it in self.likeness.rung_errors(self.one_hot, self._dual)]

    def squared_errors(self) -> float:
        """Return the sum of squares of the errors, as far as one does not follow from the others."""
        return float(self.errors @ self._dual)

    def likely_variance(self) -> float:
        """Return the variance of the errors, shrunk to the guess by as much as _PRIOR_TRIALS weigh."""
        squares = self.squared_errors() + _PRIOR_TRIALS * _PRIOR_ERROR**2
        return squares / (len(self.errors) + _PRIOR_TRIALS)

    def log_likelihood(self) -> float:
        """Return the logarithm of the marginal likelihood but for a constant; the variance is integrated out.

        The errors are then of a multivariate t distribution of _PRIOR_TRIALS degrees of freedom.
        """
        factor, _ = self._factor
        observations = len(self.errors) + _PRIOR_TRIALS
        return float(-0.5 * observations * np.log(self.likely_variance()) - np.log(np.diag(factor)).sum())


def fit_correction(likeness: Likeness, rungs: Rungs, errors: Costs) -> Correction:
    """Return the process that explains relative errors of shape (recipes,) best, its variance shrunk to a guess."""
    one_hot = likeness.one_hot(rungs)
    guess = Correction(
        likeness,
        one_hot,
        likeness.covariances(one_hot, one_hot),
        errors,
        _PRIOR_ERROR**2,
        _ADDITIVE_SHARES[0],
        _NOISES[0],
    )
    if not len(errors):
        return guess
    settings = (
        replace(guess, additive_share=share, noise=noise) for share, noise in product(_ADDITIVE_SHARES, _NOISES)
    )
    best = max(settings, key=Correction.log_likelihood)
    return replace(best, variance=best.likely_variance())

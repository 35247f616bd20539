"""From predicted loss to predicted score: how much of the score a loss costs is learned from the trials.

score = original - range * (1 - exp(-(loss / scale) ** power)), the losses of each method weighted by a factor of its
own: fine-tuning wins back more of what removed channels cost than of what rounding does. All parameters are shrunk
towards a guess, so that a handful of trials is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from gulliver.evaluators.factors import Costs
from scipy.optimize import least_squares

Losses = Sequence[tuple[tuple[str, ...], Costs]]
# How exact a fitted drop has to be: to a share of the drop, and to one of the largest.
_TOLERANCE = 0.25
_FLOOR = 0.02
# Logarithms of the scale, of the power, and of the share by which the range exceeds the largest drop: the guess, and
# how far from it is plausible. A weight's guess is 1.
_GUESS, _SPREAD = (0.0, 0.0, -1.0), (2.0, 0.4, 1.0)
_WEIGHT_SPREAD = 1.0
# In place of nothing, so that its logarithm exists.
_LEAST = 1e-300


@dataclass(frozen=True)
class LossLink:
    """The fitted parameters of the curve."""

    weights: dict[str, float]
    scale: float
    power: float
    range: float

    def loss(self, losses: Losses) -> Costs:
        """Return shape (recipes,): the losses of all kinds, weighted and added up."""
        parts = (self.weight(kind) * values for kind, values in losses)
        return np.asarray(np.maximum(sum(parts), 0.0))

    def weight(self, kind: tuple[str, ...]) -> float:
        """Return the weight of a loss, for one that several methods cause together their geometric mean."""
        return prod(self.weights[method] for method in kind) ** (1 / len(kind))

    def drop(self, loss: Costs) -> Costs:
        """Return shape (recipes,): by how much the score falls."""
        return self.range * -np.expm1(-((loss / self.scale) ** self.power))

    def slopes(self, losses: Losses, range_extra: float) -> Costs:
        """Return shape (recipes, parameters): how drops grow with the logarithms of the parameters.

        These are the scale, the power, that share `range_extra` of the range which may grow, and every weight.
        """
        total = self.loss(losses)
        loss = np.maximum(total, _LEAST)
        reached = np.maximum((loss / self.scale) ** self.power, _LEAST)
        left = np.where(total > 0, self.range * np.exp(-reached) * reached, 0.0)
        parts = [
            sum(self.weight(kind) / len(kind) * values for kind, values in losses if method in kind)
            for method in self.weights
        ]
        own = [-self.power * left, np.log(reached) * left, range_extra * self.drop(total)]
        return np.stack([*own, *(self.power * left * part / loss for part in parts)], axis=1)


def fit_loss_link(losses: Losses, scores: Costs, original: float, lowest: float, typical_loss: float) -> LossLink:
    """Return the link that fits scores of shape (recipes,); before any trial, the guess that it is shrunk towards.

    `typical_loss` is that of a recipe in the middle of the ladder; `lowest` the lowest score that matters.
    """
    methods = sorted({method for kind, _ in losses for method in kind})
    guess = np.array([*_GUESS, *[0.0] * len(methods)])
    spread = np.array([*_SPREAD, *[_WEIGHT_SPREAD] * len(methods)])
    drops = original - scores
    largest = max(float(drops.max(initial=0.0)), original - lowest, 1e-9)
    tolerance = _FLOOR * largest + _TOLERANCE * np.abs(drops)

    def link(parameters: Costs) -> LossLink:
        scale, power, extra, *weights = np.exp(parameters).tolist()
        return LossLink(dict(zip(methods, weights, strict=True)), typical_loss * scale, power, largest * (1 + extra))

    def residuals(parameters: Costs) -> Costs:
        current = link(parameters)
        error = current.drop(current.loss(losses)) - drops
        return np.concatenate([error / tolerance, (parameters - guess) / spread])

    def slopes(parameters: Costs) -> Costs:
        current = link(parameters)
        own = current.slopes(losses, range_extra=1 - largest / current.range)
        return np.concatenate([own / tolerance[:, None], np.diag(1 / spread)])

    return link(least_squares(residuals, guess, slopes, max_nfev=40).x if len(scores) else guess)

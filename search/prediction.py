"""What the scored trials teach: how well a recipe will score, and how sure that is."""

from dataclasses import dataclass, replace

import numpy as np
from gulliver.evaluators.factors import Costs, Factor, Rungs
from gulliver.search.correction import Correction, fit_correction
from gulliver.search.guide import Guide
from gulliver.search.history import History
from gulliver.search.loss_link import LossLink, fit_loss_link
from gulliver.search.problem import Problem

_LARGEST_FIT = 160
# The share of a rung's loss that a correction leaves at least.
_LEAST_LEFT = 0.5


@dataclass(frozen=True, eq=False)
class Prediction:
    """The fitted link and correction: what score a recipe will have, and how sure that is."""

    guide: Guide
    link: LossLink
    correction: Correction

    def scores(self, rungs: Rungs) -> tuple[Costs, Costs]:
        """Return the mean and the standard deviation, both of shape (recipes,), of the scores."""
        drops = self.drops(rungs)
        errors, deviations = self.correction.predict(rungs)
        unit = relative_unit(drops, self.link)
        return self.guide.original_score - drops - unit * errors, unit * deviations

    def drops(self, rungs: Rungs) -> Costs:
        """Return shape (recipes,): the drops that the predicted losses alone suggest."""
        return self.link.drop(self.link.loss(self.guide.losses_by_method(rungs)))

    def weighted_problem(self) -> Problem:
        """Return the problem with its losses weighted by method."""
        problem, guide = self.guide.problem, self.guide
        weighted = (Factor(it.variables, self.link.weight(guide.methods_of(it)) * it.table) for it in problem.loss)
        return replace(problem, loss=tuple(weighted))

    def corrected_problem(self, history: History) -> Problem:
        """Return the problem with its losses weighted by method, and each rung's moved by how far off it is.

        A drop grows as loss ** power, so that a relative error e of a drop is one of e / power of its loss. In a recipe
        e is the sum of its rungs' errors over its norm: each rung's loss is off by its error * loss / (norm * power),
        where loss / norm is that of the trials.
        """
        problem, guide = self.weighted_problem(), self.guide
        norms = self.correction.likeness.norms(self.correction.likeness.one_hot(history.rungs))
        losses = self.link.loss(guide.losses_by_method(history.rungs))
        scale = float(losses.sum() / norms.sum()) / self.link.power
        moved = [
            Factor((variable,), np.maximum(scale * errors, (_LEAST_LEFT - 1) * self.link.weight((method,)) * own))
            for variable, (errors, method, own) in enumerate(
                zip(self.correction.rung_errors(), guide.methods, guide.rung_losses, strict=True)
            )
        ]
        return Problem(problem.names, problem.sizes, (*problem.loss, *moved), problem.latency_ms)


def relative_unit(drops: Costs, link: LossLink) -> Costs:
    """Return what a relative error of 1 means in score: the drop itself, and a little for drops near none."""
    return drops + 0.01 * link.range


def fit(guide: Guide, history: History) -> Prediction:
    """Return what the scored recipes teach."""
    recent = history.scored.last(_LARGEST_FIT)
    losses = guide.losses_by_method(recent.rungs)
    typical = max(guide.ladder[len(guide.ladder) // 2].loss, 1e-12)
    link = fit_loss_link(losses, recent.scores, guide.original_score, guide.lowest_score, typical)
    drops = link.drop(link.loss(losses))
    errors = (guide.original_score - recent.scores - drops) / relative_unit(drops, link)
    return Prediction(guide, link, fit_correction(guide.likeness, recent.rungs, errors))

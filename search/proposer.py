"""What to try next, given what was tried: solve exactly, look around the best, take what promises to add the most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from gulliver.evaluators.factors import Costs, Factor, Rungs
from gulliver.search.correction import Correction, Likeness, fit_correction
from gulliver.search.guide import Guide, as_rungs
from gulliver.search.improvement import expected_improvement
from gulliver.search.loss_link import LossLink, fit_loss_link
from gulliver.search.moves import Neighbourhood, all_moves
from gulliver.search.problem import Problem
from gulliver.search.solve import Solution, pareto

EXACT_SOLVE = "exact solve"
SOLVED_AGAIN = "solved again"
_ROUNDS = 2
_MOVES_EACH = 40
_BEST = 12
_LADDER_AGAIN = 24
_LARGEST_FIT = 160


@dataclass(frozen=True, eq=False)
class History:
    """Recipes that were tried: rungs of shape (recipes, variables) and scores, NaN where they are not known yet."""

    rungs: Rungs
    scores: Costs

    @property
    def scored(self) -> "History":
        """Return the recipes whose scores are known."""
        known = ~np.isnan(self.scores)
        return History(self.rungs[known], self.scores[known])

    def last(self, count: int) -> "History":
        """Return the recipes that were tried last."""
        return History(self.rungs[-count:], self.scores[-count:])

    def first(self, count: int) -> "History":
        """Return the recipes that were tried first."""
        return History(self.rungs[:count], self.scores[:count])


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
        """Return the problem with its losses weighted as the link wants it."""
        problem, methods = self.guide.problem, self.guide.methods
        weighted = [
            Factor(it.variables, it.table * self.link.weight(tuple(sorted({methods[v] for v in it.variables}))))
            for it in problem.loss
        ]
        return replace(problem, loss=tuple(weighted))

    def corrected_problem(self, history: History) -> Problem:
        """Return the problem with its losses weighted as the link wants it, and moved by what each rung's error is."""
        problem = self.weighted_problem()
        losses = self.link.loss(self.guide.losses_by_method(history.rungs))
        ratio = float(np.mean(losses)) / self.link.power
        moved = [
            Factor((variable,), np.maximum(ratio * errors, -0.5 * own) - ratio * errors[0] * (errors[0] != 0))
            for variable, (errors, own) in enumerate(
                zip(self.correction.rung_errors(), self.guide.rung_losses, strict=True)
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
    return Prediction(guide, link, fit_correction(Likeness(guide.rung_losses), recent.rungs, errors))


@dataclass(frozen=True, eq=False)
class Proposer:
    """Proposes recipes for one guide."""

    guide: Guide
    exact_first: int = 4

    def propose(self, history: History, exact_before: int, random: np.random.Generator) -> tuple[Rungs, str]:
        """Return shape (variables,): the recipe to try next, and who proposes it.

        `exact_before` says how many of the history came from the ladder of the first exact solve: the first few
        are taken from all over it, and so is every other one after that; between them comes what is expected to add
        the most to the front.
        """
        is_turn = exact_before < self.exact_first or len(history.scores) % 2 == 0
        if is_turn and (fresh := self._from_ladder(history, exact_before)) is not None:
            return fresh, EXACT_SOLVE
        return self._most_promising(history, random)

    def _from_ladder(self, history: History, index: int) -> Rungs | None:
        tried = {tuple(rungs) for rungs in history.rungs.tolist()}
        steps = [it for it in self.guide.ladder if it.latency_ms <= self.guide.highest_latency_ms]
        if not steps:
            return None
        wanted = round(_van_der_corput(index + 1) * (len(steps) - 1))
        nearest = sorted(steps, key=lambda it: abs(steps.index(it) - wanted))
        return next((np.array(it.rungs) for it in nearest if it.rungs not in tried), None)

    def _most_promising(self, history: History, random: np.random.Generator) -> tuple[Rungs, str]:
        prediction = fit(self.guide, history)
        front = self._front(history, prediction)
        ladders = self._ladders(history)
        archive = np.concatenate([self._members(history, front), *(rungs for rungs, _ in ladders)])
        pool, names = _joined([*ladders, all_moves(self._neighbourhood, archive, _MOVES_EACH, random)])
        gains = self._gains(pool, history, prediction, front)
        for _ in range(_ROUNDS):
            best = pool[np.argsort(-gains, kind="stable")[:_BEST]]
            more, more_names = all_moves(self._neighbourhood, best, _MOVES_EACH, random)
            more_gains = self._gains(more, history, prediction, front)
            pool, names = np.concatenate([pool, more]), [*names, *more_names]
            gains = np.concatenate([gains, more_gains])
        chosen = int(np.argmax(gains))
        return pool[chosen], names[chosen]

    def _ladders(self, history: History) -> list[tuple[Rungs, Sequence[str]]]:
        ladders = [(self.guide.ladder, EXACT_SOLVE), (self._solved_again(history), SOLVED_AGAIN)]
        return [(as_rungs(steps), [name] * len(steps)) for steps, name in ladders if steps]

    def _solved_again(self, history: History) -> tuple[Solution, ...]:
        """Return a new ladder, solved whenever the number of scored recipes has doubled."""
        scored = history.scored
        if len(scored.scores) < 2 * self.exact_first:
            return ()
        count = 2 ** int(np.log2(len(scored.scores)))
        solved = self.guide.solved_again
        if count not in solved:
            first = scored.first(count)
            problem = fit(self.guide, first).corrected_problem(first)
            solved[count] = pareto(problem, _LADDER_AGAIN)
        return solved[count]

    def _front(self, history: History, prediction: Prediction) -> Costs:
        """Return shape (tried, 2), latency and score; what is not scored yet is believed to score as predicted."""
        scores, pending = history.scores.copy(), np.isnan(history.scores)
        if pending.any():
            scores[pending] = prediction.scores(history.rungs[pending])[0]
        return np.stack([self.guide.problem.latency_ms_of(history.rungs), scores], 1)

    def _members(self, history: History, front: Costs) -> Rungs:
        """Return the tried recipes that no other one beats, all of them where there are none."""
        order = np.lexsort((-front[:, 1], front[:, 0]))
        rises = np.diff(np.maximum.accumulate(front[order, 1]), prepend=-np.inf) > 0
        return history.rungs[order[rises]]

    def _gains(self, rungs: Rungs, history: History, prediction: Prediction, front: Costs) -> Costs:
        means, deviations = prediction.scores(rungs)
        latencies_ms = self.guide.problem.latency_ms_of(rungs)
        guide = self.guide
        gains = expected_improvement(
            means, deviations, latencies_ms, front, guide.lowest_score, guide.highest_latency_ms
        )
        tried = {row.tobytes() for row in history.rungs}
        gains[[row.tobytes() in tried for row in rungs]] = -1.0
        return gains

    @cached_property
    def _neighbourhood(self) -> Neighbourhood:
        return Neighbourhood(self.guide.problem.sizes, self.guide.positions)


def _joined(parts: Sequence[tuple[Rungs, Sequence[str]]]) -> tuple[Rungs, list[str]]:
    return np.concatenate([rungs for rungs, _ in parts]), [name for _, names in parts for name in names]


def _van_der_corput(index: int) -> float:
    """Return the index-th number of the sequence 1/2, 1/4, 3/4, 1/8, 5/8, ... that fills an interval evenly."""
    return sum((bit / 2**place for place, bit in enumerate(_bits(index), 1)), 0.0)


def _bits(number: int) -> Iterator[int]:
    while number:
        number, bit = divmod(number, 2)
        yield bit

"""What to try next, given what was tried: solve exactly, look around the best, take what promises to add the most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice, product

import numpy as np
from gulliver.evaluators.factors import Costs, Rungs
from gulliver.search.guide import Guide, as_rungs
from gulliver.search.history import History
from gulliver.search.improvement import expected_improvement
from gulliver.search.moves import Neighbourhood, all_moves
from gulliver.search.prediction import Prediction, fit
from gulliver.search.solve import Solution, pareto, solve
from threadpoolctl import ThreadpoolController

EXACT_SOLVE = "exact solve"
SOLVED_AGAIN = "solved again"
LEFT_OVER = "left over"
_ROUNDS = 2
_MOVES_EACH = 40
_BEST = 12
_LADDER_AGAIN = 24
# What counts as about a latency, as a share of it.
_ABOUT = 0.9


@dataclass(frozen=True, eq=False)
class Proposer:
    """Proposes recipes for one guide."""

    guide: Guide
    exact_first: int = 4

    def propose(self, history: History, exact_before: int, random: np.random.Generator) -> tuple[Rungs, str]:
        """Return shape (variables,): the recipe to try next, and who proposes it.

        `exact_before` says how many of the history came from the ladder of the first exact solve: the first few
        are taken from all over it, and so is every other one after that; between them comes what is expected to add
        the most to the front. Only where every recipe was tried is one proposed again.
        """
        is_turn = exact_before < self.exact_first or len(history.scores) % 2 == 0
        if is_turn and (fresh := self._from_ladder(history, exact_before)) is not None:
            return fresh, EXACT_SOLVE
        # On matrices as small as these, threads that wait for each other cost more than they save.
        with _linear_algebra().limit(limits=1):
            return self._most_promising(history, random)

    def within(self, history: History, latency_ms: float) -> Rungs | None:
        """Return shape (variables,): the untried recipe of about that latency, and no more, surest to score well.

        It is solved for, with what the trials taught and without, or is moved to from there and from the front: of all
        recipes, a solution is the one whose loss is the most underestimated. None where there is none.
        """
        prediction, random = fit(self.guide, history), np.random.default_rng(0)
        pool = self._solved_within(history, prediction, latency_ms)
        if not len(pool):
            return None
        archive = np.concatenate([pool, self._front(history, prediction)[0]])
        with _linear_algebra().limit(limits=1):
            for _ in range(1 + _ROUNDS):
                moved, _ = all_moves(self._neighbourhood, archive, _MOVES_EACH, random)
                latencies_ms = self.guide.problem.latency_ms_of(moved)
                is_near = (latencies_ms <= latency_ms) & (latencies_ms >= _ABOUT * latency_ms)
                pool = np.concatenate([pool, moved[is_near]])
                means, deviations = prediction.scores(pool)
                pool = pool[np.argsort(deviations - means, kind="stable")]
                archive = pool[:_BEST]
        return history.first_untried(pool)

    def _solved_within(self, history: History, prediction: Prediction, latency_ms: float) -> Rungs:
        """Return shape (recipes, variables): the recipes of least predicted loss that are so fast."""
        problems = [self.guide.problem]
        if len(history.scored.scores) >= 2 * self.exact_first:
            problems.append(prediction.corrected_problem(history.scored))
        found = [it for problem in problems for it in solve(problem, [latency_ms]) if it is not None]
        return as_rungs(found).reshape(len(found), len(self.guide.problem.sizes))

    def _from_ladder(self, history: History, index: int) -> Rungs | None:
        steps = [it for it in self.guide.ladder if it.latency_ms <= self.guide.highest_latency_ms]
        if not steps:
            return None
        wanted = round(_van_der_corput(index + 1) * (len(steps) - 1))
        return history.first_untried(as_rungs(sorted(steps, key=lambda it: abs(steps.index(it) - wanted))))

    def _most_promising(self, history: History, random: np.random.Generator) -> tuple[Rungs, str]:
        prediction = fit(self.guide, history)
        members, front = self._front(history, prediction)
        ladders = self._ladders(history)
        archive = np.concatenate([members, *(rungs for rungs, _ in ladders)])
        pool, names = _joined([*ladders, all_moves(self._neighbourhood, archive, _MOVES_EACH, random)])
        gains = self._gains(pool, history, prediction, front)
        for _ in range(_ROUNDS):
            best = pool[np.argsort(-gains, kind="stable")[:_BEST]]
            more, more_names = all_moves(self._neighbourhood, best, _MOVES_EACH, random)
            more_gains = self._gains(more, history, prediction, front)
            pool, names = np.concatenate([pool, more]), [*names, *more_names]
            gains = np.concatenate([gains, more_gains])
        chosen = int(np.argmax(gains))
        if gains[chosen] < 0 and (left := self._left_over(history)) is not None:
            return left, LEFT_OVER
        return pool[chosen], names[chosen]

    def _left_over(self, history: History) -> Rungs | None:
        """Return a recipe that was not tried, None where all were; for a space so small that no move finds one."""
        every = product(*map(range, self.guide.problem.sizes))
        # Of one recipe more than were tried, one at least was not.
        return history.first_untried(np.array(list(islice(every, len(history.rungs) + 1)), dtype=np.intp))

    def _ladders(self, history: History) -> list[tuple[Rungs, Sequence[str]]]:
        ladders = [(self.guide.ladder, EXACT_SOLVE), (self._solved_again(history), SOLVED_AGAIN)]
        return [(as_rungs(steps), [name] * len(steps)) for steps, name in ladders if steps]

    def _solved_again(self, history: History) -> tuple[Solution, ...]:
        """Return a new ladder, solved whenever the number of scored recipes has doubled."""
        scored = history.scored
        if len(scored.scores) < 2 * self.exact_first:
            return ()
        first, solved = scored.first(2 ** int(np.log2(len(scored.scores)))), self.guide.solved_again
        key = first.scores.tobytes(), *first.keys
        if key not in solved:
            solved[key] = pareto(fit(self.guide, first).corrected_problem(first), _LADDER_AGAIN)
        return solved[key]

    def _front(self, history: History, prediction: Prediction) -> tuple[Rungs, Costs]:
        """Return the recipes that no other one beats, fastest first, and their latencies and scores.

        What failed is left out; what is not scored yet is believed to score as predicted.
        """
        scores, pending = history.scores.copy(), np.isnan(history.scores)
        if pending.any():
            scores[pending] = prediction.scores(history.rungs[pending])[0]
        latencies_ms = self.guide.latencies_ms_of(history.rungs, history.keys)
        order = np.lexsort((-scores, latencies_ms))
        order = order[np.isfinite(scores[order])]
        members = order[np.diff(np.maximum.accumulate(scores[order]), prepend=-np.inf) > 0]
        return np.asarray(history.rungs[members]), np.stack([latencies_ms[members], scores[members]], 1)

    def _gains(self, rungs: Rungs, history: History, prediction: Prediction, front: Costs) -> Costs:
        """Return shape (recipes,): what each is expected to add to the front, -1 for those that were tried."""
        gains, untried = np.full(len(rungs), -1.0), ~history.holds(rungs)
        gains[untried] = self._improvement(rungs[untried], prediction, front)
        return gains

    def _improvement(self, rungs: Rungs, prediction: Prediction, front: Costs) -> Costs:
        guide, latencies_ms = self.guide, self.guide.problem.latency_ms_of(rungs)
        means, deviations = prediction.scores(rungs)
        return expected_improvement(
            means, deviations, latencies_ms, front, guide.lowest_score, guide.highest_latency_ms
        )

    @cached_property
    def _neighbourhood(self) -> Neighbourhood:
        return Neighbourhood(self.guide.problem.sizes, self.guide.positions)


@cache
def _linear_algebra() -> ThreadpoolController:
    """Return the libraries that numpy and scipy leave matrices to; to look for them takes a while."""
    return ThreadpoolController().select(user_api="blas")


def _joined(parts: Sequence[tuple[Rungs, Sequence[str]]]) -> tuple[Rungs, list[str]]:
    return np.concatenate([rungs for rungs, _ in parts]), [name for _, names in parts for name in names]


def _van_der_corput(index: int) -> float:
    """Return the index-th number of the sequence 1/2, 1/4, 3/4, 1/8, 5/8, ... that fills an interval evenly."""
    return sum((bit / 2**place for place, bit in enumerate(_bits(index), 1)), 0.0)


def _bits(number: int) -> Iterator[int]:
    while number:
        number, bit = divmod(number, 2)
        yield bit

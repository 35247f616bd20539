"""Which recipes become finalists: those that, fine-tuned, are expected to lose just what may be lost.

Before fine-tuning a recipe loses more than after it. What the finished finalists say of both aims the next one: between
the slowest that lost too much and the fastest that did not, or further along the front. Where the front has no recipe
of the latency that is aimed at, one is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log
from typing import TypeGuard

import numpy as np
from gulliver.search.settings import FinalistSettings
from gulliver.search.study import Candidate

# Makes the recipe of a candidate a finalist, and returns what that is likely to lose.
Finish = Callable[[Candidate], float]
# Returns a new candidate that takes about so many milliseconds, None where there is none.
AtLatency = Callable[[float], Candidate | None]

# What fine-tuning is expected to leave of a drop, before any finalist says more.
_LEFT_BY_FINETUNING = 0.25
# Drops after fine-tuning grow as such a power of those before it.
_POWER = 0.7
# The latency that is asked for beyond the front's fast end, as a share of that end's.
_BEYOND = 0.9
_ROUNDING = 1e-9
# A recipe of the front is near enough, and the least that is cut off of a bracket, as shares.
_NEAR, _LEAST_SHARE = 0.01, 0.2
# By which factor more, or less, is to be lost before fine-tuning than by the last finalist; nearer to it, luck with the
# samples decides which of two passes. Drops below such a share of the bar are not told apart.
_NEAREST, _FARTHEST, _LEAST_DROP = 1.5, 4.0, 0.1
# In place of no drop at all, so that its logarithm exists: such a share of the largest.
_SMALLEST_DROP = 1e-3
# The share of the smallest drop that one finalist is made for, so that bad luck on the test split leaves one within it.
_SURE = 0.75
# One that loses at most so many times what it may has had bad luck with the samples, perhaps.
_BAD_LUCK = 1.5


@dataclass(frozen=True)
class Finished:
    """A finalist: its latency, what it lost as a trial, and what it is likely to lose now."""

    candidate: Candidate
    trial_drop: float
    likely_drop: float

    @property
    def latency_ms(self) -> float:
        """The latency that the trial was priced with."""
        return self.candidate.scores.latency_ms


@dataclass(frozen=True, eq=False)
class Front:
    """The recipes that no other one beats on both, score and latency, fastest first; `score` is the original's."""

    members: tuple[Candidate, ...]
    score: float

    def drop(self, candidate: Candidate) -> float:
        """Return what a candidate lost as a trial."""
        return self.score - candidate.scores.accuracy_search

    def improved_by(self, candidate: Candidate) -> bool:
        """Whether a candidate scores more than every recipe that is as fast."""
        as_fast = [it for it in self.members if it.scores.latency_ms <= candidate.scores.latency_ms]
        best = max((it.scores.accuracy_search for it in as_fast), default=-inf)
        return candidate.scores.accuracy_search > best

    def adding(self, candidate: Candidate) -> "Front":
        """Return the front with one more recipe, without those that it beats."""
        others = [it for it in self.members if it.recipe.key != candidate.recipe.key]
        ordered = sorted([*others, candidate], key=lambda it: it.scores.latency_ms)
        better = (it for at, it in enumerate(ordered) if Front(tuple(ordered[:at]), self.score).improved_by(it))
        return Front(tuple(better), self.score)

    def latency_ms(self, drop: float) -> float:
        """Return the latency at which so much is lost before fine-tuning, or one a step beyond the front's fast end.

        Between two recipes both are interpolated on logarithmic scales.
        """
        drops = np.array([self.drop(it) for it in reversed(self.members)])
        latencies_ms = np.array([it.scores.latency_ms for it in reversed(self.members)])
        if drop > drops.max() * (1 + _ROUNDING):
            return float(latencies_ms.min() * _BEYOND)
        least = _SMALLEST_DROP * max(drops.max(), _SMALLEST_DROP)
        logs = np.log(np.maximum([drop, *drops], least))
        return float(np.exp(np.interp(logs[0], logs[1:], np.log(latencies_ms))))


@dataclass
class _Bar:
    """A drop that finalists are made for, and the keys of those whose failing says nothing of faster ones."""

    max_drop: float
    unlucky: set[str] = field(default_factory=set)

    def bracket(self, finished: Sequence[Finished]) -> tuple[Finished | None, Finished | None]:
        """Return the finalists between which the next one is looked for."""
        return bracket(self.counted(finished), self.max_drop)

    def counted(self, finished: Sequence[Finished]) -> list[Finished]:
        """Return the finalists without the unlucky ones."""
        return [it for it in finished if it.candidate.recipe.key not in self.unlucky]

    def excuse(self, finished: Sequence[Finished]) -> bool:
        """Count the bracket's failed end as unlucky if it failed by little; return whether it did."""
        _, failed = self.bracket(finished)
        if failed is None or not failed.likely_drop <= _BAD_LUCK * self.max_drop:
            return False
        self.unlucky.add(failed.candidate.recipe.key)
        return True


def choose_finalists(
    front: Front, settings: FinalistSettings, max_drop: float, finish: Finish, at_latency: AtLatency
) -> list[Candidate]:
    """Return the finalists, fastest first; each is made before the next one is chosen.

    So many are made for `max_drop`, and for each of the other drops as many again, aimed by all that were made before.
    One of those for the smallest drop is for three quarters of it, unless another one loses as little. A bar for which
    no recipe is left, between the slowest that failed and the fastest that passed, leaves its finalists to the bar for
    which these two are farthest apart, and looks beyond one that failed by little.
    """
    finished: list[Finished] = []
    left_over = 1.0 if settings.finetune is None else _LEFT_BY_FINETUNING
    bars = [_Bar(drop) for drop in (max_drop, *settings.other_drops)]
    strictest = min(bars, key=lambda bar: bar.max_drop)
    sure = _Bar(_SURE * strictest.max_drop)

    def make(bar: _Bar) -> bool:
        """Make one finalist for the bar, and return whether there was one to make."""
        nonlocal front
        candidate = _next(front, finished, bar, bar.max_drop / left_over, at_latency)
        if candidate is not None:
            finished.append(Finished(candidate, front.drop(candidate), finish(candidate)))
            front = front.adding(candidate)
        return candidate is not None

    for bar in bars:
        for _ in range(max(settings.count - (bar is strictest), 1)):
            if not make(bar):
                break
    if settings.count > 1:
        is_sure = any(it.likely_drop <= sure.max_drop for it in finished)
        make(strictest if is_sure else sure)
    while bars and len(finished) < settings.count * (1 + len(settings.other_drops)):
        widest = max(bars, key=lambda bar: _width(front, finished, bar))
        if not make(widest) and not widest.excuse(finished):
            bars.remove(widest)
    return [it.candidate for it in sorted(finished, key=lambda it: it.latency_ms)]


def aimed_latency_ms(front: Front, finished: Sequence[Finished], bar: float, first_drop: float) -> float:
    """Return the latency at which a finalist is expected to lose just `bar`; `first_drop` is what the first may lose.

    Drops are taken to grow evenly between two latencies, both on logarithmic scales.
    """
    passed, failed = bracket(finished, bar)
    if passed and failed:
        share = _share(passed.likely_drop, failed.likely_drop, bar)
        return float(passed.latency_ms ** (1 - share) * failed.latency_ms**share)
    known = passed or failed
    if known is None:
        return front.latency_ms(first_drop)
    ratio = bar / max(known.likely_drop, _LEAST_DROP * bar) if bar > 0 else inf if known is passed else 0.0
    step = min(max(max(ratio, 1 / ratio) ** (1 / _POWER), _NEAREST), _FARTHEST) if ratio > 0 else _FARTHEST
    factor = step if known is passed else 1 / step
    return front.latency_ms(max(known.trial_drop, _LEAST_DROP * bar) * factor)


def bracket(finished: Sequence[Finished], bar: float) -> tuple[Finished | None, Finished | None]:
    """Return the fastest finalist that loses no more than the bar, and the slowest of those that are faster still.

    What is no number counts as too much.
    """
    passed = min((it for it in finished if it.likely_drop <= bar), key=lambda it: it.latency_ms, default=None)
    faster = [it for it in finished if not passed or it.latency_ms < passed.latency_ms]
    failed = (it for it in faster if not it.likely_drop <= bar)
    return passed, max(failed, key=lambda it: it.latency_ms, default=None)


def _width(front: Front, finished: Sequence[Finished], bar: _Bar) -> float:
    """Return how much slower the bracket's slow end is than its fast one; the front's ends stand for those it lacks."""
    passed, failed = bar.bracket(finished)
    fastest = failed.latency_ms if failed else front.members[0].scores.latency_ms
    slowest = passed.latency_ms if passed else front.members[-1].scores.latency_ms
    return slowest / fastest


def _share(passed_drop: float, failed_drop: float, bar: float) -> float:
    """Return how far from the one to the other the bar is, never all the way."""
    if bar <= 0 or not isfinite(failed_drop):
        return 0.5
    lost = max(passed_drop, _LEAST_DROP * bar)
    share = log(bar / lost) / log(failed_drop / lost)
    return min(max(share, _LEAST_SHARE), 1 - _LEAST_SHARE)


def _next(
    front: Front, finished: Sequence[Finished], bar: _Bar, first_drop: float, at_latency: AtLatency
) -> Candidate | None:
    aim = aimed_latency_ms(front, bar.counted(finished), bar.max_drop, first_drop)
    done = {it.candidate.recipe.key for it in finished}

    def distance(candidate: Candidate) -> float:
        return abs(log(candidate.scores.latency_ms / aim))

    def is_open(candidate: Candidate | None) -> TypeGuard[Candidate]:
        if candidate is None or candidate.recipe.key in done:
            return False
        return fastest < candidate.scores.latency_ms < slowest

    passed, failed = bar.bracket(finished)
    fastest, slowest = failed.latency_ms if failed else 0.0, passed.latency_ms if passed else inf
    left = sorted(filter(is_open, front.members), key=distance)
    if left and distance(left[0]) <= _NEAR:
        return left[0]
    # A finalist that failed says more than its trial did: a slower recipe need not have beaten that.
    enough = _NEAREST * failed.trial_drop if failed else -inf
    # A recipe that is asked for may disappoint; then one to either side of it may not.
    ends_ms = [it.latency_ms for it in (passed, failed) if it] if passed else []
    for asked_ms in (aim, *((aim * end_ms) ** 0.5 for end_ms in ends_ms)):
        new = at_latency(asked_ms)
        if is_open(new) and (front.improved_by(new) or front.drop(new) <= enough):
            return new
    return next(iter(left), None)

"""The study: Optuna asks and is told in batches, and a study killed anywhere goes on as if it had not been."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import le
from pathlib import Path

import optuna
from gulliver.search.guide import Guide
from gulliver.search.journal import Journal, Scores
from gulliver.search.record import Record, open_record
from gulliver.search.settings import OBJECTIVES, SearchSettings
from gulliver.search.solving_sampler import PROPOSED_BY
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from optuna.trial import FrozenTrial, TrialState

Score = Callable[[Recipe], Scores]
Constraints = Callable[[Scores], dict[str, float]]
STUDY_FILE = "study.log"
# The untouched network, and all of it in int8.
_COMPARED = 2


@dataclass(frozen=True)
class Candidate:
    """A recipe with its scores, and the trial that proposed it; `violation` is 0 where every constraint holds."""

    trial: int
    recipe: Recipe
    scores: Scores
    violation: float
    proposed_by: str


@dataclass(frozen=True)
class Study:
    """An Optuna study of one space, its trials kept in the record and its scores in the journal."""

    space: Space
    settings: SearchSettings
    journal: Journal
    score: Score
    constraints: Constraints
    record: Record
    guide: Guide | None = None

    @property
    def optuna_study(self) -> optuna.Study:
        """The study, in memory."""
        return self.record.study

    def run(self, told: Callable[[Candidate], None]) -> None:
        """Ask, score and tell until the wanted number of trials is done; `told` hears of each one."""
        self._reseed()
        batch = [
            (optuna.Trial(self.optuna_study, it._trial_id), self.space.decode(it.params))
            for it in self._trials(TrialState.RUNNING)
        ]
        while batch := batch + [self._ask() for _ in range(self._places_left() - len(batch))]:
            for trial, recipe in batch:
                told(self._tell(trial, recipe))
            batch = []

    def try_out(self, rungs: Mapping[str, int], proposed_by: str) -> Candidate:
        """Return the recipe of these rungs with its scores, as one more trial where none has it."""
        known = (it for it in self._trials(TrialState.COMPLETE) if it.params == rungs)
        if (trial := next(known, None)) is not None:
            return self._scored(trial)
        self.optuna_study.enqueue_trial(dict(rungs), {PROPOSED_BY: proposed_by})
        return self._tell(*self._ask())

    @property
    def queued(self) -> bool:
        """Whether recipes wait that every search begins with."""
        return bool(self._trials(TrialState.WAITING))

    def finished(self) -> list[FrozenTrial]:
        """Return Optuna's trials that are scored or have failed, in order."""
        return self._trials(TrialState.COMPLETE, TrialState.FAIL)

    def keys(self) -> dict[int, str]:
        """Return by trial the keys of the recipes that are scored or have failed."""
        return {trial.number: trial.user_attrs["key"] for trial in self.finished()}

    def candidates(self) -> list[Candidate]:
        """Return the scored trials in order, each with its recipe and scores."""
        return [self._scored(trial) for trial in self._trials(TrialState.COMPLETE)]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna_study.get_trials(deepcopy=False, states=states)

    def _count(self, *states: TrialState) -> int:
        every = [it.state for it in self.optuna_study.get_trials(deepcopy=False)]
        return sum(map(every.count, states))

    def _places_left(self) -> int:
        """Return how many trials the current batch has room for: batches end at multiples of the batch size."""
        done = self._count(TrialState.COMPLETE, TrialState.FAIL)
        batch_end = (done // self.settings.batch + 1) * self.settings.batch
        return min(batch_end, self.settings.trials) - done

    def _ask(self) -> tuple[optuna.Trial, Recipe]:
        """Return a trial that has its parameters, and is in the record with all of them, and its recipe."""
        self._reseed()
        trial = self.optuna_study.ask()
        recipe = self.space.suggest(trial)
        trial.set_user_attr("key", recipe.key)
        self.record.asked(trial.number)
        return trial, recipe

    def _reseed(self) -> None:
        """Give the next trial a sampler of its own, whose seed is the search's plus the trial's place."""
        asked = self._count(TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL)
        self.optuna_study.sampler = self.settings.sampler.make(self.settings.seed + asked, self.guide)

    def _tell(self, trial: optuna.Trial, recipe: Recipe) -> Candidate:
        scores = self.journal.get(trial.user_attrs["key"])
        if scores is None:
            scores = self.score(recipe)
            self.journal.add(recipe.key, scores)
        if scores.valid:
            self._constrain(trial, scores)
            self.optuna_study.tell(trial, [getattr(scores, objective) for objective in self.settings.objectives])
        else:
            self.optuna_study.tell(trial, state=TrialState.FAIL)
        self.record.told(trial.number)
        return self._candidate(trial, recipe, scores)

    def _constrain(self, trial: optuna.Trial, scores: Scores) -> None:
        """Set the constraints that a killed process has not set yet."""
        for name, violation in self.constraints(scores).items():
            if name not in trial.constraints:
                trial.set_constraint(name, violation)

    def _candidate(self, trial: optuna.Trial | FrozenTrial, recipe: Recipe, scores: Scores) -> Candidate:
        violation = max([0.0, *self.constraints(scores).values()])
        proposed_by = trial.user_attrs.get(PROPOSED_BY, type(self.settings.sampler).__name__.lower())
        return Candidate(trial.number, recipe, scores, violation, proposed_by)

    def _scored(self, trial: FrozenTrial) -> Candidate:
        scores = self.journal.get(trial.user_attrs["key"])
        assert scores is not None, f"trial {trial.number} was told without being in the journal"
        return self._candidate(trial, self.space.decode(trial.params), scores)


def open_study(
    path: Path,
    space: Space,
    settings: SearchSettings,
    journal: Journal,
    score: Score,
    constraints: Constraints,
    guide: Guide | None = None,
) -> Study:
    """Return the study whose record is the file, its first recipes queued where they were not asked for yet."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    record = open_record(path, [OBJECTIVES[objective] for objective in settings.objectives])
    asked = len(record.study.get_trials(deepcopy=False))
    for name, rungs in _distinct(space, guided_seeds(space) if guide else seeds(space))[asked:]:
        record.study.enqueue_trial(rungs, {PROPOSED_BY: name})
    return Study(space, settings, journal, score, constraints, record, guide)


def _distinct(space: Space, recipes: Iterable[tuple[str, Recipe]]) -> list[tuple[str, dict[str, int]]]:
    """Return the names of recipes with their rungs, the first of those that are the same."""
    named: dict[tuple[int, ...], tuple[str, dict[str, int]]] = {}
    for name, recipe in recipes:
        rungs = space.encode(recipe)
        named.setdefault(tuple(rungs.values()), (name, rungs))
    return list(named.values())


def seeds(space: Space) -> Iterator[tuple[str, Recipe]]:
    """Yield the recipes that every search begins with: the untouched network, and layers all treated alike."""
    yield "untouched", space.uniform(quantized=False)
    yield "uniform int8", space.uniform()
    for ratio in (0.25, 0.5, 0.75):
        yield f"uniform int8, {ratio:.0%} of the channels removed", space.uniform(ratio)
    for ratio in (0.5, 0.75):
        yield f"uniform int8, {ratio:.0%} of the untied channels removed", space.uniform(ratio, tied_ratio=0.0)
    yield "uniform int8, decomposed", space.uniform(rank_rung=1)
    yield "uniform int8, half of the channels removed, decomposed", space.uniform(0.5, rank_rung=1)


def guided_seeds(space: Space) -> Iterator[tuple[str, Recipe]]:
    """Yield the recipes that a guided search begins with, only those that its front is compared with."""
    yield from islice(seeds(space), _COMPARED)


def front(candidates: Sequence[Candidate], objectives: Sequence[str]) -> list[Candidate]:
    """Return the feasible candidates that no other one beats on every objective, fastest first.

    Of candidates with equal scores only the first stays. If none is feasible, all are looked at. One that was dropped
    in a race is never a member.
    """
    scored = [it for it in candidates if it.scores.valid and not it.scores.dropped]
    pool = [it for it in scored if it.violation <= 0] or scored
    distinct = {_costs(it, objectives): it for it in reversed(pool)}
    members: list[tuple[float, ...]] = []
    # In this order the first objective of what comes later is no better, and the others decide: `edge` is their front.
    edge: list[tuple[float, ...]] = []
    for cost in sorted(distinct):
        if not any(_reaches(other, cost[1:]) for other in edge):
            members.append(cost)
            edge = [*(it for it in edge if not _reaches(cost[1:], it)), cost[1:]]
    return sorted((distinct[cost] for cost in members), key=lambda it: it.scores.latency_ms)


def _costs(candidate: Candidate, objectives: Sequence[str]) -> tuple[float, ...]:
    signs = {"minimize": 1, "maximize": -1}
    return tuple(signs[OBJECTIVES[name]] * getattr(candidate.scores, name) for name in objectives)


def _reaches(costs: tuple[float, ...], others: tuple[float, ...]) -> bool:
    return all(map(le, costs, others))

"""The study: Optuna asks and is told in batches, and a study killed anywhere goes on as if it had not been."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import optuna
from gulliver.search.guide import Guide
from gulliver.search.journal import Journal, Scores
from gulliver.search.settings import OBJECTIVES, SearchSettings
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from gulliver.tasks.errors import InputError
from optuna.trial import FrozenTrial, TrialState

Score = Callable[[Recipe], Scores]
Constraints = Callable[[Scores], dict[str, float]]
STUDY_FILE = "study.db"
_STUDY_NAME = "gulliver"
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
    """An Optuna study of one space, its scores kept in the journal."""

    space: Space
    settings: SearchSettings
    journal: Journal
    score: Score
    constraints: Constraints
    optuna_study: optuna.Study
    guide: Guide | None = None

    def run(self, told: Callable[[Candidate], None]) -> None:
        """Ask, score and tell until the wanted number of trials is done; `told` hears of each one."""
        pending = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        batch = [self._finish_asking(trial._trial_id) for trial in pending]
        while batch := batch + [self._ask() for _ in range(self._places_left() - len(batch))]:
            for trial in batch:
                told(self._tell(trial))
            batch = []

    def candidates(self) -> list[Candidate]:
        """Return the finished trials in order, each with its recipe and scores."""
        trials = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [self._candidate(trial, self._known(trial)) for trial in trials]

    def _places_left(self) -> int:
        """Return how many trials the current batch has room for: batches end at multiples of the batch size."""
        done = len(self.optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)))
        batch_end = (done // self.settings.batch + 1) * self.settings.batch
        return min(batch_end, self.settings.trials) - done

    def _ask(self) -> optuna.Trial:
        self._reseed()
        return self._suggest(self.optuna_study.ask())

    def _finish_asking(self, trial_id: int) -> optuna.Trial:
        """Return a trial that a killed process left behind, with the parameters that it would have had."""
        self._reseed()
        return self._suggest(optuna.Trial(self.optuna_study, trial_id))

    def _reseed(self) -> None:
        """Give the next trial a sampler of its own, whose seed is the search's plus the trial's place."""
        asked = [it for it in self.optuna_study.get_trials(deepcopy=False) if "key" in it.user_attrs]
        self.optuna_study.sampler = self.settings.sampler.make(self.settings.seed + len(asked), self.guide)

    def _suggest(self, trial: optuna.Trial) -> optuna.Trial:
        recipe = self.space.suggest(trial)
        if "key" not in trial.user_attrs:
            trial.set_user_attr("key", recipe.key)
        return trial

    def _tell(self, trial: optuna.Trial) -> Candidate:
        recipe = self.space.suggest(trial)
        scores = self.journal.get(recipe.key)
        if scores is None:
            scores = self.score(recipe)
            self.journal.add(recipe.key, scores)
        if scores.valid:
            self._constrain(trial, scores)
            self.optuna_study.tell(trial, [getattr(scores, objective) for objective in self.settings.objectives])
        else:
            self.optuna_study.tell(trial, state=TrialState.FAIL)
        return self._candidate(trial, scores)

    def _constrain(self, trial: optuna.Trial, scores: Scores) -> None:
        """Set the constraints that a killed process has not set yet."""
        known = trial.storage.get_trial(trial._trial_id).system_attrs
        for name, violation in self.constraints(scores).items():
            if f"constraints:{name}" not in known:
                trial.set_constraint(name, violation)

    def _candidate(self, trial: optuna.Trial | FrozenTrial, scores: Scores) -> Candidate:
        violation = max([0.0, *self.constraints(scores).values()])
        proposed_by = trial.user_attrs.get("proposed_by", type(self.settings.sampler).__name__.lower())
        return Candidate(trial.number, self.space.suggest(trial), scores, violation, proposed_by)

    def _known(self, trial: FrozenTrial) -> Scores:
        scores = self.journal.get(trial.user_attrs["key"])
        assert scores is not None, f"trial {trial.number} was told without being in the journal"
        return scores


def read_trials(path: Path) -> list[FrozenTrial]:
    """Return the finished trials of a study's file; raises InputError where there is no such file."""
    if not path.exists():
        raise InputError(f"run must be the folder of a search, but {path} does not exist")
    study = optuna.load_study(study_name=_STUDY_NAME, storage=f"sqlite:///{path.resolve()}")
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def open_study(
    path: Path,
    space: Space,
    settings: SearchSettings,
    journal: Journal,
    score: Score,
    constraints: Constraints,
    guide: Guide | None = None,
) -> Study:
    """Return the study in the SQLite file, created with its first recipes queued if it is new."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna_study = optuna.create_study(
        study_name=_STUDY_NAME,
        storage=f"sqlite:///{path.resolve()}",
        directions=[OBJECTIVES[objective] for objective in settings.objectives],
        load_if_exists=True,
    )
    if not optuna_study.user_attrs.get("seeded"):
        for name, recipe in guided_seeds(space) if guide else seeds(space):
            optuna_study.enqueue_trial(space.encode(recipe), {"proposed_by": name}, skip_if_exists=True)
        optuna_study.set_user_attr("seeded", True)
    return Study(space, settings, journal, score, constraints, optuna_study, guide)


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
    costs = {id(it): _costs(it, objectives) for it in pool}
    distinct = {costs[id(it)]: it for it in reversed(pool)}.values()
    members = [
        it
        for it in distinct
        if not any(_dominates(costs[id(other)], costs[id(it)]) for other in distinct if other is not it)
    ]
    return sorted(members, key=lambda it: it.scores.latency_ms)


def _costs(candidate: Candidate, objectives: Sequence[str]) -> tuple[float, ...]:
    signs = {"minimize": 1, "maximize": -1}
    return tuple(signs[OBJECTIVES[name]] * getattr(candidate.scores, name) for name in objectives)


def _dominates(costs: tuple[float, ...], others: tuple[float, ...]) -> bool:
    return all(cost <= other for cost, other in zip(costs, others, strict=True)) and costs != others

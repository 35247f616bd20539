"""Solve a finished search again, for another budget or another target: nothing is scored, nothing is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
from gulliver.compressors.compress import Original, read_original
from gulliver.evaluators.latency.price_tables import call_tables, calls_of, price
from gulliver.evaluators.latency.target import Target
from gulliver.evaluators.size import Size
from gulliver.search.finalists import with_finetuning
from gulliver.search.guide import Guide, as_rungs
from gulliver.search.history import History
from gulliver.search.loss_link import LossLink
from gulliver.search.make_guide import make_guide
from gulliver.search.prediction import Prediction, fit
from gulliver.search.record import read_trials
from gulliver.search.run_directory import FIT_FILE
from gulliver.search.sensitivity import Sensitivities
from gulliver.search.sensitivity_report import read_sensitivities
from gulliver.search.settings import SearchSettings
from gulliver.search.solve import Solution, pareto, solve
from gulliver.search.solving_sampler import history_of
from gulliver.search.study import STUDY_FILE
from gulliver.search.transfer import transferred
from gulliver.spaces.recipe import FoundFor, Recipe
from gulliver.spaces.space import Space
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Task

_FINE = 96


@dataclass(frozen=True)
class Solved:
    """A recipe with what is predicted of it; the drop is that of a trial, before the finalists' fine-tuning."""

    recipe: Recipe
    latency_ms: float
    size_bytes: float
    drop: float


@dataclass(frozen=True)
class Solver:
    """What a finished search knows, for one target."""

    space: Space
    prediction: Prediction
    settings: SearchSettings
    target: str
    network: str

    def keeps_budget(self, solved: Solved) -> bool:
        """Say whether a recipe is predicted to be within the budget once it is fine-tuned."""
        budget = self.settings.budget
        return (
            solved.drop <= self.settings.largest_drop
            and solved.latency_ms <= (budget.max_latency_ms or inf)
            and solved.size_bytes <= (budget.max_size_bytes or inf)
        )

    def ladder(self, count: int) -> list[Solved]:
        """Return recipes of least predicted loss for so many latencies, fastest first."""
        return self._described(pareto(self.prediction.weighted_problem(), count))

    def best(self) -> Solved:
        """Return the recipe of least loss within a latency budget, else the fastest that the drop allows.

        It is of a fine ladder's recipes that are small enough for the budget, the smallest where none is. Raises
        InputError where no recipe is as fast as the budget.
        """
        budget = self.settings.budget
        known = self.ladder(_FINE) if budget.max_latency_ms is None else self._within(budget.max_latency_ms)
        small = [it for it in known if it.size_bytes <= (budget.max_size_bytes or inf)]
        small = small or [min(known, key=lambda it: it.size_bytes)]
        if budget.max_latency_ms is not None:
            return small[-1]
        return next(filter(self.keeps_budget, small), small[-1])

    def _within(self, limit_ms: float) -> list[Solved]:
        """Return recipes that are as fast as the limit, fastest first; no other one loses less than the last."""
        (found,) = solve(self.prediction.weighted_problem(), [limit_ms])
        if found is None:
            fastest_ms = self.ladder(2)[0].latency_ms
            rule = f"`budget.max_latency_ms >= {fastest_ms:.4g}` must hold on {self.target}"
            raise InputError(f"{rule}, but it is {limit_ms}: no recipe of this space is faster")
        return [*(it for it in self.ladder(_FINE) if it.latency_ms <= limit_ms), *self._described([found])]

    def _described(self, solutions: Sequence[Solution]) -> list[Solved]:
        scores, _ = self.prediction.scores(as_rungs(solutions))
        drops = (self.prediction.guide.original_score - scores).tolist()
        return [self._solved(it, drop) for it, drop in zip(solutions, drops, strict=True)]

    def _solved(self, solution: Solution, drop: float) -> Solved:
        names = self.prediction.guide.problem.names
        recipe = self.space.decode(dict(zip(names, solution.rungs, strict=True)))
        predicted = {"latency_ms": solution.latency_ms, "drop_search": drop}
        found_for = FoundFor(network=self.network, target=self.target, predicted=predicted)
        recipe = with_finetuning(replace(recipe, found_for=found_for), self.settings.finalists)
        return Solved(recipe, solution.latency_ms, Size(self.space.graph)(recipe), drop)


def open_solver(run: Path, task: Task, settings: SearchSettings, searched: Target, target: Target) -> Solver:
    """Return the solver of the search in `run`, which was on the target `searched`, for the target.

    Raises InputError where the folder holds no search with sampler=solve.
    """
    original, sensitivities, settings = read_original(task), read_sensitivities(run), settings.for_task(task)
    space = Space(original.graph, searched.capabilities, settings.space)
    trials = read_trials(run / STUDY_FILE)
    # The first trial of every search is the untouched network.
    original_score = trials[0].values[settings.objectives.index("accuracy_search")]
    guide = _guide(original, space, sensitivities, settings, searched, original_score, run / FIT_FILE)
    prediction = fit(guide, history_of(trials, guide))
    if target != searched:
        others = Space(original.graph, target.capabilities, settings.space)
        guide = _guide(original, others, transferred(sensitivities, space, others), settings, target, original_score)
        # What losses cost holds on any target; what the trials said of single rungs is about other ladders.
        space, prediction = others, with_link(fit(guide, nothing_tried(guide)), prediction.link)
    return Solver(space, prediction, settings, target.name, original.network)


def solve_table(ladder: Sequence[Solved], best: Solved, keeps_budget: bool, conditions: str) -> str:
    """Return the solutions as lines of text, fastest first, and behind them the best, which may not keep the budget."""
    marks = {True: "  for the budget", False: "  the closest to the budget, which nothing is predicted to keep"}
    rows = [f"least predicted loss for each latency ({conditions})"]
    rows.append(f"{'recipe':10}{'modelled ms':>13}{'predicted drop':>16}")
    for step in [*ladder, best]:
        mark = marks[keeps_budget] if step is best else ""
        rows.append(f"{step.recipe.key[:8]:10}{step.latency_ms:>13.3f}{step.drop:>16.4f}{mark}")
    return "\n".join(rows)


def with_link(prediction: Prediction, learned: LossLink) -> Prediction:
    """Return the prediction with what was learned elsewhere; methods that were not searched there keep theirs."""
    return replace(prediction, link=replace(learned, weights=prediction.link.weights | learned.weights))


def nothing_tried(guide: Guide) -> History:
    """Return the history of a search before its first trial."""
    return History(np.zeros((0, len(guide.problem.sizes)), dtype=np.intp), np.zeros(0))


def _guide(
    original: Original,
    space: Space,
    sensitivities: Sensitivities,
    settings: SearchSettings,
    target: Target,
    original_score: float,
    fit_file: Path | None = None,
) -> Guide:
    tables = call_tables(space, target)
    prices = price(space, tables, target.latency_model(original, space, calls_of(tables), fit_file))
    return make_guide(space, sensitivities, prices, settings, original_score)

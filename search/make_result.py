"""Make a search's result: its finalists beside the originals, the best of them, and why none keeps the budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gulliver.search.bench import Bench
from gulliver.search.binding_layers import binding_layers
from gulliver.search.explain import Explanation, explain, explanation_lines, measured_costs, modelled_costs
from gulliver.search.finalists import (
    MEASURED,
    Exported,
    Finalist,
    Measured,
    best_finalist,
    fastest_within,
    likely_drop,
    with_finetuning,
)
from gulliver.search.incumbents import samples_saved
from gulliver.search.metrics import progress_of
from gulliver.search.result import Result
from gulliver.search.run_directory import RunDirectory
from gulliver.search.scoring import Scoring
from gulliver.search.sensitivity_report import rank_correlations, read_sensitivities
from gulliver.search.settings import SearchSettings
from gulliver.search.sign import add_measured, sign
from gulliver.search.study import Candidate, Study, front
from gulliver.spaces.recipe import Recipe


@dataclass(frozen=True)
class ResultMaker:
    """All that a result is made of; networks are named as the bench names originals, finalists by their recipes' keys.

    `exported` has the finalists, `measured` these and every original.
    """

    study: Study
    scoring: Scoring
    bench: Bench
    directory: RunDirectory
    baseline: Exported
    exported: Mapping[str, Exported]
    measured: Mapping[str, Measured]
    say: Callable[[str], None]

    def make(self) -> Result:
        """Return the result; raises InputError where no candidate's score was a number."""
        finalists = self._finalists()
        best, within = best_finalist(finalists, self.measured["baseline"], self._settings.budget)
        summary = self._summary(best)
        explanation = None if within else self._explain(finalists, best)
        binding = binding_layers(best.recipe, explanation.missed, self.scoring) if explanation else {}
        members = front(self._candidates, self._settings.objectives)
        drops = sorted(self._settings.finalists.other_drops)
        return Result(
            out=self.directory.path,
            front=tuple(replace(it, recipe=self._signed(it)) for it in members),
            finalists=tuple(finalists),
            best=best,
            fastest_within={drop: it for drop in drops if (it := fastest_within(finalists, drop)) is not None},
            within_budget=within,
            explanation=tuple(explanation_lines(explanation, binding)) if explanation else (),
            binding_layers=tuple(binding),
            originals=self._originals,
            in_float=self._in_float,
            summary=summary,
        )

    @property
    def _settings(self) -> SearchSettings:
        return self.scoring.settings

    @cached_property
    def _candidates(self) -> tuple[Candidate, ...]:
        return tuple(self.study.candidates())

    @property
    def _originals(self) -> dict[str, Measured]:
        return {label: self.measured[name] for name, label in self.bench.labels.items()}

    @property
    def _in_float(self) -> Measured:
        return self.measured[self.bench.in_float]

    @property
    def _drift(self) -> float:
        """How much slower the original runs now than at the fit; a shared machine swings by a third within minutes."""
        latency_ms = self._in_float.latency_ms
        return latency_ms / (self.scoring.latency.untouched_ms or latency_ms)

    def _finalists(self) -> list[Finalist]:
        by_key = {it.recipe.key: it for it in self._candidates}
        return [self._finalist(by_key[key], made) for key, made in self.exported.items()]

    def _finalist(self, candidate: Candidate, exported: Exported) -> Finalist:
        measured = self.measured[candidate.recipe.key]
        recipe = add_measured(with_finetuning(self._signed(candidate), self._settings.finalists), measured)
        path = Path(exported.path) if exported.path else None
        drop = likely_drop(exported, self.baseline, self._settings.budget)
        return Finalist(recipe, candidate.scores.latency_ms * self._drift, measured, path, drop)

    def _signed(self, candidate: Candidate) -> Recipe:
        return sign(candidate, self.scoring.original, self.scoring.target, self._settings.seed)

    def _explain(self, finalists: Sequence[Finalist], best: Finalist) -> Explanation:
        """Return why the budget was not met, from all that was measured and modelled."""
        named = dict(reversed(self._originals.items()))
        original = self.measured["baseline"].accuracy_test
        named |= {f"recipe {it.recipe.key[:8]}": it.measured for it in finalists}
        known = {name: measured_costs(name, it, original) for name, it in named.items()}
        for it in self._candidates:
            name = f"recipe {it.recipe.key[:8]}"
            if name not in known and it.scores.valid and not it.scores.dropped:
                known[name] = modelled_costs(name, it, self.scoring.baseline_accuracy, self._drift)
        return explain([*known.values()], known[f"recipe {best.recipe.key[:8]}"], self._settings.budget)

    def _summary(self, best: Finalist) -> dict[str, Any]:
        best_entry = best.measured.entries | {"recipe": str(self.directory.path / "recipes" / "best.yaml")}
        if best.measured.how == MEASURED:
            best_entry |= {"predicted_latency_ms": best.predicted_latency_ms}
        progress = progress_of(self._candidates, self._settings.objectives)
        summary = {
            "task": self.scoring.original.task.name,
            "target": self.scoring.target.name,
            "conditions": self.scoring.target.conditions,
            "seed": self._settings.seed,
            "trials": len(self._candidates),
            "hypervolume": progress.hypervolume(self.scoring.baseline_accuracy),
            "samples_saved": samples_saved(self.study.journal),
            "seconds": self.directory.seconds(),
            **{name: self.measured[name].entries for name in self.bench.labels},
            "best": best_entry,
        }
        return summary | ({"rank_correlation": self._rank_correlations()} if self.study.guide else {})

    def _rank_correlations(self) -> dict[str, float | None]:
        """Return, and say, how well the predicted losses rank what the trials lost."""
        settings, searched = self._settings.sensitivity, read_sensitivities(self.directory.path)
        original, space = self.scoring.original, self.study.space
        found, refused = rank_correlations(original, space, settings, searched, self._candidates)
        listed = ", ".join(f"{'-' if it is None else f'{it:.2f}'} ({method})" for method, it in found.items())
        self.say(f"rank correlation of predicted losses with the accuracy that trials lost: {listed}")
        for method, reason in refused.items():
            self.say(f"  {method} is left out: {reason}")
        return found

"""Make a search's finalists one after the other: fine-tuned, exported, scored; what each lost aims the next one."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from gulliver.compressors.finetune import Watch
from gulliver.search.bench import Bench
from gulliver.search.choose_finalists import Front, choose_finalists
from gulliver.search.finalists import Exported, likely_drop, with_finetuning
from gulliver.search.proposer import Proposer
from gulliver.search.settings import SearchSettings
from gulliver.search.solving_sampler import history_of
from gulliver.search.study import Candidate, Study, front
from gulliver.search.units import ms
from gulliver.spaces.recipe import Recipe

SOLVED_BETWEEN = "solved between finalists"
_AXES = ("accuracy_search", "latency_ms")


@dataclass(frozen=True)
class FinalistMaker:
    """All that finalists are made with.

    `told` hears of every trial that they ask for, `watch` gives what hears of a recipe's fine-tuning.
    """

    bench: Bench
    study: Study
    baseline: Exported
    settings: SearchSettings
    original_score: float
    told: Callable[[Candidate], None]
    watch: Callable[[Recipe], Watch | None]
    say: Callable[[str], None]

    def make(self) -> dict[str, Exported]:
        """Return the finalists by the keys of their recipes."""
        settings, budget = self.settings.finalists, self.settings.budget
        # What finalists asked for before a search was killed must not change how it goes on.
        searched = [it for it in self.study.candidates() if it.trial < self.settings.trials]
        known = Front(tuple(front(searched, _AXES)), self.original_score)
        count = settings.count * (1 + len(settings.other_drops))
        self.say(f"making up to {count} finalists of a front of {len(known.members)} recipes")
        exported: dict[str, Exported] = {}

        def finish(candidate: Candidate) -> float:
            recipe = with_finetuning(candidate.recipe, settings)
            exported[recipe.key] = made = self.bench.export(recipe.key, recipe, self.watch(recipe))
            drop = likely_drop(made, self.baseline, budget)
            self._say_what_it_became(candidate, made, drop)
            return drop

        choose_finalists(known, settings, budget.max_drop, finish, self._at_latency)
        return exported

    def _say_what_it_became(self, candidate: Candidate, made: Exported, drop: float) -> None:
        loses = f"likely to lose {drop:.4f} at most" if isfinite(drop) else "too large"
        self.say(
            f"  recipe {candidate.recipe.key[:8]}: predicted {ms(candidate.scores.latency_ms)} ms, search accuracy "
            f"{candidate.scores.accuracy_search:.4f} before and {made.accuracy_search:.4f} after fine-tuning, "
            f"{loses}"
        )
        if made.not_exported:
            self.say(f"    not exported: {made.not_exported}")

    def _at_latency(self, latency_ms: float) -> Candidate | None:
        """Return a new trial's feasible recipe that takes about so long and is surest to score well."""
        guide = self.study.guide
        if guide is None or self.study.queued:
            return None
        trials = [it for it in self.study.finished() if it.number < self.settings.trials]
        # Above the solver's own rounding.
        rungs = Proposer(guide).within(history_of(trials, guide), latency_ms * (1 + 1e-9))
        if rungs is None:
            return None
        candidate = self.study.try_out(dict(zip(guide.problem.names, rungs.tolist(), strict=True)), SOLVED_BETWEEN)
        self.told(candidate)
        usable = candidate.scores.valid and not candidate.scores.dropped and candidate.violation <= 0
        return candidate if usable else None

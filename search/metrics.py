"""A search's progress and its outcome as numbers, as MLflow plots them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from gulliver.search.finalists import MEASURED
from gulliver.search.hypervolume import hypervolume
from gulliver.search.result import Result
from gulliver.search.study import Candidate, front


@dataclass(frozen=True)
class Progress:
    """How far a search has come: the front of its trials, and the slowest of them."""

    objectives: tuple[str, ...]
    members: tuple[Candidate, ...] = ()
    slowest_ms: float = 0.0

    def after(self, candidate: Candidate) -> "Progress":
        """Return the progress with one more trial; whatever beats a trial that left the front is still in it."""
        valid = candidate.scores.valid
        slowest_ms = max(self.slowest_ms, candidate.scores.latency_ms) if valid else self.slowest_ms
        return replace(self, members=tuple(front([*self.members, candidate], self.objectives)), slowest_ms=slowest_ms)

    def hypervolume(self, baseline_accuracy: float) -> float:
        """Return the front's area: latencies as shares of the slowest trial's, accuracies from half the original's on.

        Where scores are below zero, they count from one and a half times the original's on.
        """
        slowest_ms = self.slowest_ms or 1.0
        points = [(it.scores.latency_ms / slowest_ms, it.scores.accuracy_search) for it in self.members]
        return hypervolume(points, (1.0, baseline_accuracy - abs(baseline_accuracy) / 2))

    def metrics(self, baseline_accuracy: float) -> dict[str, float]:
        """Return the progress as MLflow plots it."""
        return {
            "hypervolume": self.hypervolume(baseline_accuracy),
            "front_size": len(self.members),
            "fastest_latency_ms": min((it.scores.latency_ms for it in self.members), default=float("nan")),
        }


def progress_of(candidates: Iterable[Candidate], objectives: Sequence[str]) -> Progress:
    """Return how far a search has come with these candidates."""
    return reduce(Progress.after, candidates, Progress(tuple(objectives)))


def best_metrics(result: Result) -> dict[str, float]:
    """Return what is known of the best finalist, and how well its latency and the trials' losses were predicted."""
    best, modelled = result.best, "" if result.how == MEASURED else f"{result.how}_"
    named = {f"best_{name}": float(value) for name, value in best.measured.entries.items() if value is not None}
    speedups = {
        f"{modelled}speedup_over_{label.split()[-1]}": it.latency_ms / best.measured.latency_ms
        for label, it in result.originals.items()
    }
    errors = {} if modelled else {"prediction_error": best.prediction_error}
    ranked = result.summary.get("rank_correlation", {})
    correlations = {f"rank_correlation_{method}": value for method, value in ranked.items() if value is not None}
    return named | speedups | errors | correlations | {"samples_saved": result.summary["samples_saved"]}

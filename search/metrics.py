"""A search's progress and its outcome as numbers, as MLflow plots them."""

from collections.abc import Sequence

from gulliver.search.finalists import MEASURED
from gulliver.search.hypervolume import hypervolume
from gulliver.search.result import Result
from gulliver.search.study import Candidate, front


def front_metrics(
    candidates: Sequence[Candidate], objectives: Sequence[str], baseline_accuracy: float
) -> dict[str, float]:
    """Return how far a search has come with these candidates."""
    members = front(candidates, objectives)
    fastest = min((it.scores.latency_ms for it in members), default=float("nan"))
    return {
        "hypervolume": front_hypervolume(members, candidates, baseline_accuracy),
        "front_size": len(members),
        "fastest_latency_ms": fastest,
    }


def front_hypervolume(members: Sequence[Candidate], candidates: Sequence[Candidate], baseline_accuracy: float) -> float:
    """Return the front's area, latency as a share of the slowest trial's, accuracy above half the original's."""
    slowest_ms = max((it.scores.latency_ms for it in candidates if it.scores.valid), default=1.0)
    points = [(it.scores.latency_ms / slowest_ms, it.scores.accuracy_search) for it in members]
    return hypervolume(points, (1.0, baseline_accuracy / 2))


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
    correlations = {f"rank_correlation_{method}": value for method, value in ranked.items()}
    return named | speedups | errors | correlations | {"samples_saved": result.summary["samples_saved"]}

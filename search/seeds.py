"""One search repeated with other seeds: what would be found again, and what was luck."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from gulliver.search.result import Result
from gulliver.tasks.cache import write_atomically
from numpy.typing import NDArray

_QUARTILES = (25, 50, 75)
_BAND_POINTS = 200


@dataclass(frozen=True)
class SeedOutcome:
    """What the search with one seed came to: its best recipe as measured or modelled, and its front as searched.

    `speedup` is over the untouched network in the target's own float type.
    """

    seed: int
    within_budget: bool
    latency_ms: float
    speedup: float
    drop_test: float
    hypervolume: float
    out: str


@dataclass(frozen=True)
class Quartiles:
    """The median over seeds, and between what half of the seeds are."""

    low: float
    median: float
    high: float


# What is compared over seeds, and the heading that its column has.
_COLUMNS = {
    "latency_ms": "best ms",
    "speedup": "faster",
    "drop_test": "lost on test",
    "hypervolume": "hypervolume",
}


def search_seeds(search: Callable[[int, Path], Result], seeds: Sequence[int], out: Path) -> list[Result]:
    """Return the results of the seeds' searches, each in its own folder of `out`; an interrupted one goes on there.

    Writes seeds.json and front_seeds.png into `out`.
    """
    results = [search(seed, out / f"seed-{seed}") for seed in seeds]
    outcomes = [outcome(it) for it in results]
    record = {
        "seeds": list(seeds),
        "quartiles": {name: asdict(it) for name, it in quartiles(outcomes).items()},
        "best": str(best_result(results).out / "recipes" / "best.yaml"),
        "runs": [asdict(it) for it in outcomes],
    }
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(out / "seeds.json", lambda temporary: temporary.write_text(text))
    draw_band(out / "front_seeds.png", results)
    return results


def outcome(result: Result) -> SeedOutcome:
    """Return what is compared over seeds."""
    best = result.best.measured
    return SeedOutcome(
        seed=result.summary["seed"],
        within_budget=result.within_budget,
        latency_ms=best.latency_ms,
        speedup=result.in_float.latency_ms / best.latency_ms,
        drop_test=result.baseline.accuracy_test - best.accuracy_test,
        hypervolume=result.summary["hypervolume"],
        out=str(result.out),
    )


def best_result(results: Sequence[Result]) -> Result:
    """Return the result whose best recipe is the fastest beside its own original, those within the budget first.

    Seeds are measured at different times, and a shared machine's speed swings: only ratios compare.
    """
    return max(results, key=lambda it: (it.within_budget, it.in_float.latency_ms / it.best.measured.latency_ms))


def quartiles(outcomes: Sequence[SeedOutcome]) -> dict[str, Quartiles]:
    """Return the quartiles over seeds of each number that is compared."""
    return {
        name: Quartiles(*(float(it) for it in np.percentile([getattr(it, name) for it in outcomes], _QUARTILES)))
        for name in _COLUMNS
    }


def seed_table(outcomes: Sequence[SeedOutcome]) -> str:
    """Return a line for each seed, and one for each quartile."""
    lines = [f"{'seed':10}" + "".join(f"{heading:>14}" for heading in _COLUMNS.values()) + "  within the budget"]
    for it in outcomes:
        values = {name: getattr(it, name) for name in _COLUMNS}
        lines.append(f"{it.seed:<10}{_cells(values)}  {'yes' if it.within_budget else 'no'}")
    found = quartiles(outcomes)
    for field, label in (("low", "quartile"), ("median", "median"), ("high", "quartile")):
        lines.append(f"{label:10}" + _cells({name: getattr(it, field) for name, it in found.items()}))
    return "\n".join(lines)


def band(
    fronts: Sequence[Sequence[tuple[float, float]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latencies of shape (points,), and shape (3, points): quartiles of the accuracy within each latency.

    `fronts` are (latency, accuracy) points, one front a seed. The band begins where every front has begun.
    """
    starts = [min(latency for latency, _ in front) for front in fronts]
    end = max(latency for front in fronts for latency, _ in front)
    latencies = np.linspace(max(starts), end, _BAND_POINTS)
    reached = [[max(accuracy for latency, accuracy in front if latency <= it) for it in latencies] for front in fronts]
    return latencies, np.percentile(reached, _QUARTILES, axis=0)


def draw_band(path: Path, results: Sequence[Result]) -> None:
    """Write the picture of the fronts as searched: one line a seed, their median and the band of their quartiles."""
    import matplotlib.figure

    fronts = [[(it.scores.latency_ms, it.scores.accuracy_search) for it in result.front] for result in results]
    latencies, (low, median, high) = band(fronts)
    figure = matplotlib.figure.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for front in fronts:
        axes.step(*zip(*front, strict=True), where="post", c="0.8", lw=0.8)
    axes.fill_between(latencies, low, high, step="post", alpha=0.3, color="tab:blue", label="quartiles")
    axes.step(latencies, median, where="post", c="tab:blue", label=f"median of {len(results)} seeds")
    summary = results[0].summary
    axes.set_xlabel(f"latency, ms (modelled, {summary['conditions']})")
    axes.set_ylabel("accuracy before fine-tuning (search split)")
    axes.set_title(
        f"{summary['task']} on {summary['target']}, seeds {', '.join(str(it.summary['seed']) for it in results)}"
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _cells(values: Mapping[str, float]) -> str:
    return "".join(f"{value:>14.4f}" for value in values.values())

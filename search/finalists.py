"""Finalists: recipes of the front that are fine-tuned, exported, scored on both splits, and measured or modelled."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

from gulliver.compressors.compress import is_thinned
from gulliver.search.settings import Budget, FinalistSettings
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.errors import InputError

MEASURED, MODELLED = "measured", "modelled"
# Digits of a drop that are more than the rounding of a difference.
_DIGITS = 9


@dataclass(frozen=True)
class Exported:
    """A finished network: the accuracies of the exported file itself, and the bytes that it takes on the disk.

    On a modelled target they are of the simulated network, `modelled_latency_ms` is not None, and `path` may be: then
    `not_exported` says why.
    `drop_standard_error` is that of the accuracy lost on the search split, sample by sample against the original;
    `expected_drop` is what is lost there if the original's calibrated confidence draws the labels, None where the task
    does not tell;
    `drop_test_low` and `drop_test_high` are the 95% bootstrap interval of what is lost on the test split, None where
    the metric is no mean of samples.
    """

    path: str | None
    accuracy_search: float
    accuracy_test: float
    size_bytes: int
    float_type: str
    drop_standard_error: float
    expected_drop: float | None = None
    drop_test_low: float | None = None
    drop_test_high: float | None = None
    modelled_latency_ms: float | None = None
    not_exported: str = ""


@dataclass(frozen=True)
class Measured:
    """What is known of a finished network; latencies are quantiles of CPU time.

    Where `how` is "modelled" nothing was measured: the latency is the target's model's, and has no quantiles.
    `drop_test_low` and `drop_test_high` are as in `Exported`.
    """

    accuracy_search: float
    accuracy_test: float
    latency_ms: float
    latency_p10_ms: float | None
    latency_p90_ms: float | None
    size_bytes: int
    drop_test_low: float | None = None
    drop_test_high: float | None = None
    how: str = MEASURED

    @property
    def entries(self) -> dict[str, Any]:
        """Return what is known under names that tell a modelled latency from a measured one."""
        values = asdict(self)
        del values["how"]
        if self.how == MEASURED:
            return values
        quantiles = ("latency_p10_ms", "latency_p90_ms")
        return {
            f"{self.how}_{name}" if name == "latency_ms" else name: value
            for name, value in values.items()
            if name not in quantiles
        }


@dataclass(frozen=True)
class Finalist:
    """A recipe with what was predicted of it and what is known since it was made.

    `likely_drop` is what the search split alone lets one expect to lose on the test split.
    """

    recipe: Recipe
    predicted_latency_ms: float
    measured: Measured
    model_path: Path | None
    likely_drop: float

    @property
    def prediction_error(self) -> float:
        """Return the relative error of the predicted latency, negative where it was too low."""
        return self.predicted_latency_ms / self.measured.latency_ms - 1


def with_finetuning(recipe: Recipe, settings: FinalistSettings) -> Recipe:
    """Return the recipe with the finalists' fine-tuning, where there is something to win back."""
    return replace(recipe, finetune=settings.finetune if is_thinned(recipe) else None)


def likely_drop(exported: Exported, baseline: Exported, budget: Budget) -> float:
    """Return what a finalist is likely to lose at most on the test split, from the search split alone.

    It is the drop that is expected, or else that on the search split, plus one standard error: the test split's drop is
    as likely above it as below, and a recipe picked for a small one has more often had luck. One that is too large is
    of no use at any drop.
    """
    if exported.size_bytes > (budget.max_size_bytes or float("inf")):
        return float("inf")
    seen = baseline.accuracy_search - exported.accuracy_search
    return (seen if exported.expected_drop is None else exported.expected_drop) + exported.drop_standard_error


def within_budget(measured: Measured, baseline: Measured, budget: Budget) -> bool:
    """Say whether a measured network keeps the budget on the test split; what loses just the most does."""
    drop = baseline.accuracy_test - measured.accuracy_test
    return (
        round(drop, _DIGITS) <= budget.max_drop
        and measured.latency_ms <= (budget.max_latency_ms or float("inf"))
        and measured.size_bytes <= (budget.max_size_bytes or float("inf"))
    )


def fastest_within(finalists: Sequence[Finalist], max_drop: float) -> Finalist | None:
    """Return the fastest finalist that is likely to lose no more, None where there is none."""
    promising = [it for it in finalists if it.likely_drop <= max_drop]
    return min(promising, key=lambda it: it.measured.latency_ms, default=None)


def best_finalist(finalists: Sequence[Finalist], baseline: Measured, budget: Budget) -> tuple[Finalist, bool]:
    """Return the fastest promising finalist, or the least likely to lose much, and whether the test split bears it out.

    The test split has no say in which one it is, or its accuracy there would be that of a lucky draw. Raises InputError
    where there is none: every candidate's score was no number.
    """
    if not finalists:
        raise InputError("a candidate must have a score that is a number, but all of them failed")
    best = fastest_within(finalists, budget.max_drop)
    if best is None:
        # What is no number is greater than none and less than none, so it goes last by itself.
        best = min(finalists, key=lambda it: (isnan(it.likely_drop), it.likely_drop, -it.measured.accuracy_search))
    return best, within_budget(best.measured, baseline, budget)

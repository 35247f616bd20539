"""Finalists: recipes of the front that are fine-tuned, exported, scored on both splits, and measured."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isnan
from pathlib import Path

from gulliver.compressors.compress import Original, compress, is_thinned
from gulliver.compressors.export import save_openvino, to_openvino
from gulliver.evaluators.accuracy import paired_standard_error, sample_scores, score
from gulliver.evaluators.exported import OpenvinoModule
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.measurement import Timing, compile_openvino, measure
from gulliver.search.bootstrap import drop_interval
from gulliver.search.settings import Budget, FinalistSettings
from gulliver.search.study import Candidate
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import untouched
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Split
from torch import Tensor

BASELINES = {"baseline": "float32", "bf16": "bfloat16"}
_MODEL_FILE = "model.xml"
_SPLITS: tuple[Split, Split] = ("search", "test")


@dataclass(frozen=True)
class Exported:
    """An exported network: the accuracies of the file itself, and the bytes that it takes on the disk.

    `drop_standard_error` is that of the accuracy lost on the search split, sample by sample against the original;
    `drop_test_low` and `drop_test_high` are the 95% bootstrap interval of what is lost on the test split, None where
    the metric is no mean of samples.
    """

    path: str
    accuracy_search: float
    accuracy_test: float
    size_bytes: int
    float_type: str
    drop_standard_error: float
    drop_test_low: float | None = None
    drop_test_high: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured of an exported network; latencies are quantiles of CPU time.

    `drop_test_low` and `drop_test_high` are as in `Exported`.
    """

    accuracy_search: float
    accuracy_test: float
    latency_ms: float
    latency_p10_ms: float
    latency_p90_ms: float
    size_bytes: int
    drop_test_low: float | None = None
    drop_test_high: float | None = None


@dataclass(frozen=True)
class Finalist:
    """A recipe with what was predicted of it and what was measured.

    `promising` says whether the search split alone lets one expect that it keeps the budget.
    """

    recipe: Recipe
    predicted_latency_ms: float
    measured: Measured
    model_path: Path
    promising: bool

    @property
    def prediction_error(self) -> float:
        """Return the relative error of the predicted latency, negative where it was too low."""
        return self.predicted_latency_ms / self.measured.latency_ms - 1


@dataclass(frozen=True)
class Bench:
    """Where finalists are made: the network, the target, and the folder that exported models go to."""

    original: Original
    target: CpuOpenvino
    folder: Path

    def export(self, name: str, recipe: Recipe, float_type: str, half: bool = True) -> Exported:
        """Return the recipe's network exported and scored on both splits; made once, then read from the folder."""
        folder = self.folder / name
        record = folder / "exported.json"
        if record.exists():
            return Exported(**json.loads(record.read_text()))
        model = to_openvino(compress(self.original, recipe), self.original.task.example_inputs, self.target.batch)
        path = folder / _MODEL_FILE
        size_bytes = save_openvino(model, path, half)
        exported = self._score(path, size_bytes, float_type)
        write_atomically(record, lambda temporary: temporary.write_text(json.dumps(asdict(exported))))
        return exported

    def _score(self, path: Path, size_bytes: int, float_type: str) -> Exported:
        task, module = self.original.task, OpenvinoModule(path, float_type)
        samples = {split: sample_scores(task, module, split) for split in _SPLITS}
        means = {
            split: score(task, module, split) if scores is None else float(scores.mean())
            for split, scores in samples.items()
        }
        original = self._original_scores
        error = paired_standard_error(samples["search"], original["search"])
        interval = drop_interval(original["test"], samples["test"]) or (None, None)
        return Exported(str(path), means["search"], means["test"], size_bytes, float_type, error, *interval)

    @cached_property
    def _original_scores(self) -> dict[Split, Tensor | None]:
        """The original's score of every sample of both splits."""
        return {split: sample_scores(self.original.task, self.original.task.model, split) for split in _SPLITS}

    def baselines(self) -> dict[str, Exported]:
        """Return the untouched network exported for fp32 and for bf16."""
        recipe = untouched(self.original.graph)
        return {
            name: self.export(name, recipe, float_type, half=float_type != "float32")
            for name, float_type in BASELINES.items()
        }

    def measure(self, exported: dict[str, Exported]) -> dict[str, Measured]:
        """Return the measurements of all exported networks, their inferences interleaved."""
        inputs = tuple(tensor[: self.target.batch] for tensor in self.original.calibration[0])
        compiled = {
            name: compile_openvino(it.path, it.float_type, self.target.threads) for name, it in exported.items()
        }
        timings = measure(compiled, inputs, self.target.repetitions)
        return {name: _measured(exported[name], timings[name]) for name in exported}


def choose_finalists(
    candidates: Sequence[Candidate], settings: FinalistSettings, passes: Callable[[Candidate], bool]
) -> list[Candidate]:
    """Return the finalists, found by halving the front between the fastest that passes and the slowest that fails.

    `candidates` is the front, fastest first; `passes` makes a finalist and says whether it is within the
    budget on the search split.
    """
    passed: list[int] = []
    failed: list[int] = []
    while len(passed) + len(failed) < min(settings.count, len(candidates)):
        index = _next_index(len(candidates), passed, failed)
        (passed if passes(candidates[index]) else failed).append(index)
    return [candidates[index] for index in sorted([*passed, *failed])]


def _next_index(count: int, passed: Sequence[int], failed: Sequence[int]) -> int:
    fastest_passed = min(passed, default=count)
    slower_failed = [index for index in failed if index < fastest_passed]
    slowest_failed = max(slower_failed, default=-1)
    middle = (slowest_failed + fastest_passed) // 2
    if slowest_failed < middle < fastest_passed and middle not in failed:
        return middle
    untried = [index for index in range(count) if index not in passed and index not in failed]
    return min(untried, key=lambda index: (abs(index - fastest_passed), index))


def with_finetuning(recipe: Recipe, settings: FinalistSettings) -> Recipe:
    """Return the recipe with the finalists' fine-tuning, where there is something to win back."""
    return replace(recipe, finetune=settings.finetune if is_thinned(recipe) else None)


def promises(exported: Exported, baseline: Exported, budget: Budget) -> bool:
    """Say whether a finalist is likely to keep the budget on the test split, from the search split alone.

    Its drop on the search split plus one standard error must be within the budget: the test split's drop is as
    likely above the search split's as below it, and a recipe picked for a small one has more often had luck.
    """
    drop = baseline.accuracy_search - exported.accuracy_search + exported.drop_standard_error
    return drop <= budget.max_drop and exported.size_bytes <= (budget.max_size_bytes or float("inf"))


def within_budget(measured: Measured, baseline: Measured, budget: Budget) -> bool:
    """Say whether a measured network keeps the budget on the test split."""
    return (
        baseline.accuracy_test - measured.accuracy_test <= budget.max_drop
        and measured.latency_ms <= (budget.max_latency_ms or float("inf"))
        and measured.size_bytes <= (budget.max_size_bytes or float("inf"))
    )


def best_finalist(finalists: Sequence[Finalist], baseline: Measured, budget: Budget) -> tuple[Finalist, bool]:
    """Return the fastest promising finalist, or the most accurate one, and whether the test split bears it out.

    The test split has no say in which one it is, or its accuracy there would be that of a lucky draw. Raises InputError
    where there is none: every candidate's score was no number.
    """
    if not finalists:
        raise InputError("a candidate must have a score that is a number, but all of them failed")
    promising = [it for it in finalists if it.promising]
    if promising:
        best = min(promising, key=lambda it: it.measured.latency_ms)
    else:
        # A score that is no number is greater than none and less than none, so it goes last by itself.
        best = max(finalists, key=lambda it: (not isnan(it.measured.accuracy_search), it.measured.accuracy_search))
    return best, within_budget(best.measured, baseline, budget)


def _measured(exported: Exported, timing: Timing) -> Measured:
    return Measured(
        accuracy_search=exported.accuracy_search,
        accuracy_test=exported.accuracy_test,
        latency_ms=timing.median_ms,
        latency_p10_ms=timing.p10_ms,
        latency_p90_ms=timing.p90_ms,
        size_bytes=exported.size_bytes,
        drop_test_low=exported.drop_test_low,
        drop_test_high=exported.drop_test_high,
    )

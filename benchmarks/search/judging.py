"""The same judgement of every tool's models: accuracy of the exported network, and its latency beside all others.

Only this code sees the test split.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median_low

import torch
from gulliver.evaluators.accuracy import score
from gulliver.evaluators.exported import OpenvinoModule
from gulliver.evaluators.latency.measurement import compile_openvino, measure
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.image_classification import ImageClassification

from benchmarks.search.contenders import Run
from benchmarks.search.job import BATCH, NETWORKS

# What the layers that a tool leaves in floating point run in.
FLOAT_TYPES = ("float32", "bfloat16")
BARS_POINTS = (0.5, 1.0, 2.0)
REPETITIONS = 100


@dataclass(frozen=True)
class Model:
    """One exported network of a run, with the type of its layers in floating point."""

    run: Run
    path: Path
    float_type: str

    @property
    def key(self) -> str:
        """What tells it from all other models of its network and seed."""
        return f"{self.run.tool} {self.path.stem} {self.float_type}"

    @property
    def is_fp32(self) -> bool:
        """Whether it is the original in fp32, which all others are compared with."""
        return self.run.tool == "openvino" and self.float_type == "float32"


@dataclass(frozen=True)
class Judged:
    """A model with its accuracy on both splits and its latency in the company of all others of its seed."""

    model: Model
    accuracy_search: float
    accuracy_test: float
    latency_ms: float


@dataclass(frozen=True)
class Winner:
    """A tool's fastest model within a bar; where `model` is empty, it has none."""

    network: str
    tool: str
    float_type: str
    seed: int | str
    bar_points: float
    model: str
    speedup_over_fp32: float | None
    speedup_over_bf16: float | None
    drop_points: float | None
    wall_seconds: float
    cpu_seconds: float
    error: str


@cache
def task_of(network: str) -> ImageClassification:
    """Return the network's task, its data read once."""
    return NETWORKS[network]()


def judge(runs: Sequence[Run]) -> list[Judged]:
    """Return all models of one network and seed; their inferences take turns in this process."""
    torch.set_num_threads(1)
    models = [Model(run, path, float_type) for run in runs for path in run.models for float_type in FLOAT_TYPES]
    task = task_of(runs[0].network)
    (images,) = next(task.calibration())
    compiled = {it.key: compile_openvino(it.path, it.float_type, threads=1) for it in models}
    timings = measure(compiled, (images[:BATCH],), REPETITIONS)
    return [Judged(it, *accuracies(it), timings[it.key].median_ms) for it in models]


def accuracies(model: Model) -> tuple[float, float]:
    """Return the accuracy on the search and on the test split; scored once, then read from beside the model."""
    record = model.path.with_suffix(f".{model.float_type}.json")
    if not record.exists():
        module, task = OpenvinoModule(model.path, model.float_type), task_of(model.run.network)
        scores = json.dumps([score(task, module, "search"), score(task, module, "test")])
        write_atomically(record, lambda temporary: temporary.write_text(scores))
    search, test = json.loads(record.read_text())
    return search, test


def winners(runs: Iterable[Run], judged: Sequence[Judged]) -> list[Winner]:
    """Return every tool's fastest model within each bar on the test split, for each type of its float layers."""
    fp32 = next(it for it in judged if it.model.is_fp32)
    bf16 = next(it for it in judged if it.model.run == fp32.model.run and not it.model.is_fp32)
    found = []
    for run in runs:
        for float_type in FLOAT_TYPES:
            mine = [it for it in judged if it.model.run == run and it.model.float_type == float_type]
            found += [_winner(run, float_type, bar, mine, fp32, bf16) for bar in BARS_POINTS]
    return found


def _winner(run: Run, float_type: str, bar: float, mine: Sequence[Judged], fp32: Judged, bf16: Judged) -> Winner:
    within = [it for it in mine if drop_points(it, fp32) <= bar]
    best = min(within, key=lambda it: it.latency_ms, default=None)
    spent = (run.wall_seconds, run.cpu_seconds, run.error)
    nothing = Winner(run.network, run.tool, float_type, run.seed, bar, "", None, None, None, *spent)
    if best is None:
        return nothing
    return replace(
        nothing,
        model=best.model.path.stem,
        speedup_over_fp32=fp32.latency_ms / best.latency_ms,
        speedup_over_bf16=bf16.latency_ms / best.latency_ms,
        drop_points=drop_points(best, fp32),
    )


def drop_points(judged: Judged, fp32: Judged) -> float:
    """Return the percentage points lost on the test split, rounded so that a drop of just the bar is within it."""
    return round(100 * (fp32.accuracy_test - judged.accuracy_test), 6)


def medians(found: Sequence[Winner]) -> list[Winner]:
    """Return each tool's median over seeds; a seed without a model counts as the slowest."""
    groups: dict[tuple[str, str, str, float], list[Winner]] = {}
    for it in found:
        groups.setdefault((it.network, it.tool, it.float_type, it.bar_points), []).append(it)
    return [_median(group) for group in groups.values()]


def _median(group: Sequence[Winner]) -> Winner:
    drops = [it.drop_points for it in group if it.drop_points is not None]
    return replace(
        group[0],
        seed="median",
        model="",
        speedup_over_fp32=median_low([it.speedup_over_fp32 or 0.0 for it in group]) or None,
        speedup_over_bf16=median_low([it.speedup_over_bf16 or 0.0 for it in group]) or None,
        drop_points=median_low(drops) if drops else None,
        wall_seconds=median_low([it.wall_seconds for it in group]),
        cpu_seconds=median_low([it.cpu_seconds for it in group]),
        error=next((it.error for it in group if it.error), ""),
    )

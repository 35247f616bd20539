"""The same judgement of all networks that the parts made: accuracy of the exported file, and latency in turns.

Only this code, and the scores of what is simulated, see the test split.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gulliver.evaluators.accuracy import score
from gulliver.evaluators.exported import OpenvinoModule
from gulliver.evaluators.latency.measurement import Timing, compile_openvino, measure
from gulliver.tasks.cache import write_atomically

from benchmarks.amct.classic_parts import BATCH
from benchmarks.amct.classic_runs import Run
from benchmarks.amct.classic_tasks import ClassicNetwork

REPETITIONS = 100


@dataclass(frozen=True)
class Row:
    """One network of one part: what it loses on the test split, how fast it is beside the original, and its bytes.

    `size_share` is that of the original with 16-bit weights; `made_at` is the commit that made the network.
    """

    network: str
    part: str
    float_type: str
    accuracy_search: float | None
    accuracy_test: float | None
    drop_points: float | None
    latency_ms: float | None
    p10_ms: float | None
    p90_ms: float | None
    speedup_over_fp32: float | None
    speedup_over_bf16: float | None
    size_bytes: int | None
    size_share: float | None
    effort: str
    cpu_seconds: float
    note: str
    made_at: str


@dataclass(frozen=True)
class _Judged:
    """A network of a run by the type of its floating-point layers, none where it is simulated or failed."""

    run: Run
    float_type: str
    accuracies: tuple[float, float] | None
    timing: Timing | None = None
    size_bytes: int | None = None


def judge(task: ClassicNetwork, runs: Sequence[Run]) -> list[Row]:
    """Return the rows of all runs of one network, the original's among them; inferences take turns in this process."""
    judged = [*_exported(task, runs), *_others(task, runs)]
    fp32, bf16 = (_original(judged, float_type) for float_type in ("float32", "bfloat16"))
    return [_row(it, fp32, bf16) for it in judged]


def _exported(task: ClassicNetwork, runs: Sequence[Run]) -> Iterator[_Judged]:
    models = [(run, float_type, path) for run in runs for float_type, path in run.models(task).items()]
    compiled = {
        f"{run.part} {float_type}": compile_openvino(path, float_type, threads=1) for run, float_type, path in models
    }
    (images,) = next(task.calibration())
    timings = measure(compiled, (images[:BATCH],), REPETITIONS)
    for run, float_type, path in models:
        size_bytes = path.with_suffix(".bin").stat().st_size
        accuracies = _accuracies(task, path, float_type)
        yield _Judged(run, float_type, accuracies, timings[f"{run.part} {float_type}"], size_bytes)


def _others(task: ClassicNetwork, runs: Sequence[Run]) -> Iterator[_Judged]:
    for run in runs:
        if not run.models(task):
            search, test = run.accuracy_search, run.accuracy_test
            yield _Judged(run, "", None if search is None or test is None else (search, test))


def _accuracies(task: ClassicNetwork, path: Path, float_type: str) -> tuple[float, float]:
    """Return the accuracy on the search and on the test split; scored once, then read from beside the model."""
    record = path.with_suffix(f".{float_type}.json")
    if not record.exists():
        module = OpenvinoModule(path, float_type)
        scores = json.dumps([score(task, module, "search"), score(task, module, "test")])
        write_atomically(record, lambda temporary: temporary.write_text(scores))
    search, test = json.loads(record.read_text())
    return search, test


def _original(judged: Sequence[_Judged], float_type: str) -> _Judged:
    return next(it for it in judged if it.run.part == "original" and it.float_type == float_type)


def _row(it: _Judged, fp32: _Judged, bf16: _Judged) -> Row:
    assert fp32.accuracies is not None
    assert fp32.timing is not None
    assert bf16.timing is not None
    assert bf16.size_bytes is not None
    search, test = it.accuracies or (None, None)
    latency_ms = it.timing.median_ms if it.timing else None
    return Row(
        network=it.run.network,
        part=it.run.part,
        float_type=it.float_type,
        accuracy_search=_rounded(search),
        accuracy_test=_rounded(test),
        drop_points=None if test is None else _rounded(100 * (fp32.accuracies[1] - test)),
        latency_ms=_rounded(latency_ms),
        p10_ms=_rounded(it.timing.p10_ms if it.timing else None),
        p90_ms=_rounded(it.timing.p90_ms if it.timing else None),
        speedup_over_fp32=_rounded(latency_ms and fp32.timing.median_ms / latency_ms),
        speedup_over_bf16=_rounded(latency_ms and bf16.timing.median_ms / latency_ms),
        size_bytes=it.size_bytes,
        size_share=_rounded(it.size_bytes and it.size_bytes / bf16.size_bytes),
        effort=it.run.effort,
        cpu_seconds=it.run.cpu_seconds,
        note=it.run.error or it.run.note,
        made_at=it.run.commit,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

"""One run of one part on one network: made once and kept, with the seconds that it took."""

import json
import resource
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from gulliver.tasks.cache import cache_dir, write_atomically

from benchmarks.amct.classic_parts import (
    EFFORTLESS,
    MODEL,
    PARTS,
    QAT_BATCHES,
    QAT_EPOCHS,
    RANKS,
    SEARCHED,
    Effort,
    Job,
    Made,
)
from benchmarks.amct.classic_tasks import ClassicNetwork
from benchmarks.record import commit

RUNS = cache_dir() / "classic_networks"


@dataclass(frozen=True)
class Run:
    """What a part made of a network, in its folder, at which commit and for how much; `error` is its last line."""

    network: str
    part: str
    effort: str
    cpu_seconds: float
    commit: str
    note: str
    accuracy_search: float | None = None
    accuracy_test: float | None = None
    error: str = ""

    def models(self, task: ClassicNetwork) -> dict[str, Path]:
        """Return the exported networks by the type of their floating-point layers."""
        folder = folder_of(task, self.part, self.effort)
        if self.error or self.accuracy_test is not None:
            return {}
        if self.part == "original":
            return {name: folder / f"{name}.xml" for name in ("float32", "bfloat16")}
        types = ("float32", "bfloat16") if self.part.endswith("int8") else ("bfloat16",)
        return dict.fromkeys(types, folder / MODEL)


def run_part(network: str, task: ClassicNetwork, part: str, effort: Effort) -> Run:
    """Return the part's run, made now unless it is there already; a failure is tried again each time."""
    found = find_run(task, part, effort)
    if found is not None and not found.error:
        return found
    words = effort_of(part, effort)
    folder = folder_of(task, part, words)
    folder.mkdir(parents=True, exist_ok=True)
    before, made, error = _cpu_seconds(), Made(""), ""
    try:
        made = PARTS[part](Job(network, task, effort, folder, folder_of(task, "original", "")))
    except Exception as problem:  # a table with a failure in it says more than no table
        (folder / "error.txt").write_text(traceback.format_exc())
        error = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
    seconds = round(_cpu_seconds() - before, 1)
    run = Run(network, part, words, seconds, commit(), made.note, made.accuracy_search, made.accuracy_test, error)
    text = json.dumps(asdict(run), indent=1)
    write_atomically(folder / "run.json", lambda path: path.write_text(text))
    return run


def find_run(task: ClassicNetwork, part: str, effort: Effort) -> Run | None:
    """Return the run that is kept, finished or failed; None where there is none."""
    record = folder_of(task, part, effort_of(part, effort)) / "run.json"
    return Run(**json.loads(record.read_text())) if record.exists() else None


def effort_of(part: str, effort: Effort) -> str:
    """Return in words what of the effort the part depends on."""
    if part in EFFORTLESS:
        return ""
    if part == "int4_qat":
        return f"{QAT_EPOCHS}x{QAT_BATCHES}"
    finetuning = f"{effort.epochs}x{effort.batches}"
    if part not in SEARCHED:
        return finetuning
    ranks = "" if part == "sparsity" else f"-ranks-to-{min(RANKS)}"
    return f"{finetuning}-{effort.trials}-{effort.finalists}{ranks}"


def folder_of(task: ClassicNetwork, part: str, effort: str) -> Path:
    """Return the run's folder; the network's is named as its weights are."""
    return RUNS / task.weights_path.stem / (f"{part}-{effort}" if effort else part)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

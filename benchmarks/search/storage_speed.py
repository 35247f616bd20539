"""What Optuna's storages cost a trial of 150 parameters: python -m benchmarks.search.storage_speed.

CPU and wall-clock milliseconds, medians, from asking for a trial to having told it, two attributes included:

- sqlite, journal, memory: every parameter suggested on a trial that is in the storage, as Optuna does;
- sqlite at once, journal at once: a running trial with all its parameters added to the storage, then told;
- open: reading the 1000 trials of the last one.

Waits for the disk are in the wall-clock time alone. Writes benchmarks/results/storage_speed.csv.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from benchmarks.record import write_table

PARAMETERS, TRIALS = 150, 20
OPENED = 1000
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    f"precision/layers.{at}": IntDistribution(0, 3) for at in range(PARAMETERS)
}
Step = Callable[[optuna.Study], Any]


@dataclass(frozen=True)
class Result:
    """One line of the table: medians of the repeats."""

    storage: str
    parameters: int
    repeats: int
    cpu_ms: float
    wall_ms: float


def one_by_one(study: optuna.Study) -> None:
    """Ask for a trial, suggest its parameters, tell it."""
    trial = study.ask()
    for name in DISTRIBUTIONS:
        trial.suggest_int(name, 0, 3)
    for name in ("key", "proposed_by"):
        trial.set_user_attr(name, "somebody")
    study.tell(trial, [0.9, 5.0])


def at_once(study: optuna.Study) -> None:
    """Add a running trial with all its parameters, tell it."""
    parameters, attributes = dict.fromkeys(DISTRIBUTIONS, 1), {"key": "somebody", "proposed_by": "somebody"}
    running = TrialState.RUNNING
    study.add_trial(create_trial(state=running, params=parameters, distributions=DISTRIBUTIONS, user_attrs=attributes))
    study.tell(len(study.get_trials(deepcopy=False)) - 1, [0.9, 5.0])


def measure(name: str, study: optuna.Study, step: Step, repeats: int = TRIALS) -> Result:
    """Return the median times of a step."""
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        step(study)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu_ms, wall_ms = (round(1e3 * statistics.median(column), 3) for column in zip(*times, strict=True))
    return Result(name, PARAMETERS, repeats, cpu_ms, wall_ms)


def make_study(storage: Any) -> optuna.Study:
    """Return a study of two objectives, where its parameters are drawn at random."""
    sampler = optuna.samplers.RandomSampler(0)
    return optuna.create_study(
        storage=storage, study_name="speed", sampler=sampler, directions=["maximize", "minimize"], load_if_exists=True
    )


def results(folder: Path) -> Iterator[Result]:
    """Yield the table's lines."""
    yield measure("sqlite", make_study(f"sqlite:///{folder / 'one.db'}"), one_by_one)
    yield measure("sqlite at once", make_study(f"sqlite:///{folder / 'once.db'}"), at_once)
    yield measure("journal", make_study(_journal(folder / "one.log")), one_by_one)
    path = folder / "once.log"
    yield measure("journal at once", make_study(_journal(path)), at_once, OPENED)
    yield measure("memory", make_study(InMemoryStorage()), one_by_one)
    yield measure("open", make_study(InMemoryStorage()), lambda study: read_all(path), 3)


def _journal(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def read_all(path: Path) -> None:
    """Open the study in the file and read its trials."""
    assert len(make_study(_journal(path)).get_trials(deepcopy=False)) == OPENED


def main() -> None:
    """Measure everything and write the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        write_table("storage_speed", list(results(Path(folder))), {"optuna": version("optuna")})


if __name__ == "__main__":
    main()

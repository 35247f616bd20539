"""MLflow: one parent run a search, one nested run a trial. Nothing that fails here loses a trial, or delays one."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gulliver.search.study import Candidate
from gulliver.tasks.errors import InputError, one_line

_EXPERIMENT = "gulliver"
_SQLITE = "sqlite:///"
# MLflow asks a server that is gone for four minutes by default, each time.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
# A store that failed so often without a break is asked no more.
_MOST_FAILURES = 3


@dataclass(frozen=True)
class TrackingSettings:
    """Where MLflow logs to: `uri` defaults to an SQLite file beside the run directory."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = _EXPERIMENT

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise InputError(f"tracking.experiment must be a name, but is {self.experiment!r}")


@dataclass
class Tracker:
    """Logs a search to MLflow with batched calls, in order; a failure is said once, and the search goes on.

    Trials are logged while the next ones are scored. Those that a killed process has not logged yet are as it goes on.
    """

    settings: TrackingSettings
    out: Path
    _client: Any = None
    _experiment_id: str = ""
    _parent: str = ""
    _logged: set[int] = field(default_factory=set)
    _summary: Mapping[str, float] = field(default_factory=dict)
    _failures: int = 0
    _warned: bool = False
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "mlflow"))

    @property
    def uri(self) -> str:
        """Return the tracking URI, that of an SQLite file with an absolute path."""
        uri = self.settings.uri or f"{_SQLITE}{self.out.resolve().parent / 'mlflow.db'}"
        return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).resolve()}" if uri.startswith(_SQLITE) else uri

    def start(
        self, name: str, parameters: Mapping[str, object], done: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        """Open the store and this search's parent run, or go on with it where it is there.

        `done` are the keys of the recipes tried so far, by trial: a run with others is of an earlier search.
        """
        if self.settings.enabled:
            self._guard(lambda: self._start(name, parameters, done))

    def log_trial(self, candidate: Candidate, summary: Mapping[str, float]) -> None:
        """Log a trial as a nested run, unless it is there already, and on the parent what it changed of the search."""
        if self._parent and candidate.trial not in self._logged:
            self._logged.add(candidate.trial)
            self._writer.submit(self._guard, lambda: self._log_trial(candidate, summary))

    @property
    def is_logging(self) -> bool:
        """Say whether there is a parent run to log to."""
        return bool(self._parent)

    def log_recovery(self, recipe_key: str, stage: str, epoch: int, accuracy: float) -> None:
        """Log on the parent a point of the curve on which a recipe's accuracy comes back as its network is trained."""
        if self._parent:
            name = f"{stage.replace(' ', '_')}/{recipe_key[:8]}"
            metrics = _metrics({name: accuracy}, epoch)
            self._writer.submit(self._guard, lambda: self._client.log_batch(self._parent, metrics=metrics))

    def wait(self) -> None:
        """Return once every trial is logged, or has failed to be."""
        self._writer.submit(int).result()

    def finish(self, metrics: Mapping[str, float], artifacts: Path, names: list[str]) -> None:
        """Log the final metrics and the named files of the run directory, and end the parent run."""
        self.wait()
        if self._parent:
            self._guard(lambda: self._finish(metrics, artifacts, names))

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the parent run, while the context lasts, of what is interrupted or fails; it goes on later."""
        try:
            yield
        except BaseException as error:
            self._writer.shutdown(cancel_futures=True)
            if self._parent:
                status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                self._guard(lambda: self._client.set_terminated(self._parent, status))
            raise

    def _start(self, name: str, parameters: Mapping[str, object], done: Mapping[int, str]) -> None:
        from mlflow.entities import Param, RunTag
        from mlflow.tracking import MlflowClient

        _prepare_mlflow()
        with _alone(self.uri):
            self._client = MlflowClient(self.uri)
            self._experiment_id = self._open_experiment()
        folder = str(self.out.resolve())
        if self._take_up(folder, done):
            return
        run = self._client.create_run(self._experiment_id, run_name=name, tags={"gulliver.run_directory": folder})
        self._parent = run.info.run_id
        params = [Param(key, str(value)[:500]) for key, value in parameters.items()]
        self._client.log_batch(self._parent, params=params, tags=[RunTag("gulliver.kind", "search")])

    def _open_experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(self.settings.experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = None
        if self.uri.startswith(_SQLITE):
            location = (Path(self.uri.removeprefix(_SQLITE)).parent / "mlflow-artifacts").as_uri()
        return str(self._client.create_experiment(self.settings.experiment, artifact_location=location))

    def _take_up(self, folder: str, done: Mapping[int, str]) -> bool:
        """Go on with the folder's newest run if all its trials are this search's, and say whether it is so."""
        # A text in MLflow's filters must not hold the quotes that it stands in.
        quote = '"' if "'" in folder else "'"
        newest = self._runs(f"tags.`gulliver.run_directory` = {quote}{folder}{quote}")[:1]
        trials = [it for run in newest for it in self._runs(f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")]
        keys = {int(it.data.tags["gulliver.trial"]): it.data.tags["gulliver.recipe_key"] for it in trials}
        if not newest or not keys.items() <= done.items():
            return False
        self._parent = newest[0].info.run_id
        self._client.update_run(self._parent, status="RUNNING")
        for half in (it for it in trials if it.info.status == "RUNNING"):
            self._client.delete_run(half.info.run_id)
            del keys[int(half.data.tags["gulliver.trial"])]
        self._logged = {*keys}
        return True

    def _runs(self, condition: str) -> list[Any]:
        """Return the runs that meet the condition, the newest first."""
        return list(self._client.search_runs([self._experiment_id], condition, max_results=50_000))

    def _log_trial(self, candidate: Candidate, summary: Mapping[str, float]) -> None:
        scores = candidate.scores
        values = {"accuracy_search": scores.accuracy_search, "latency_ms": scores.latency_ms}
        values |= {"size_bytes": scores.size_bytes, "violation": candidate.violation, "seconds": scores.seconds}
        tags = {
            "mlflow.parentRunId": self._parent,
            "gulliver.trial": str(candidate.trial),
            "gulliver.recipe_key": candidate.recipe.key,
            "gulliver.proposed_by": candidate.proposed_by,
        }
        run = self._client.create_run(self._experiment_id, run_name=f"trial-{candidate.trial:04d}", tags=tags)
        self._client.log_batch(run.info.run_id, metrics=_metrics(values, candidate.trial))
        self._client.set_terminated(run.info.run_id, "FINISHED" if scores.valid else "FAILED")
        changed = {name: value for name, value in summary.items() if self._summary.get(name) != value}
        if changed:
            self._client.log_batch(self._parent, metrics=_metrics(changed, candidate.trial))
        self._summary = dict(summary)

    def _finish(self, metrics: Mapping[str, float], artifacts: Path, names: list[str]) -> None:
        self._client.log_batch(self._parent, metrics=_metrics(metrics, 0))
        for name in names:
            path = artifacts / name
            if path.is_dir():
                self._client.log_artifacts(self._parent, str(path), name)
            elif path.exists():
                self._client.log_artifact(self._parent, str(path))
        self._client.set_terminated(self._parent)

    def _guard(self, log: Callable[[], None]) -> None:
        if self._failures == _MOST_FAILURES:
            return
        try:
            log()
            self._failures = 0
        except Exception as error:  # MLflow's stores raise errors of many kinds, and none may stop a search
            if not self._warned:
                reason = one_line(error)[:300] or type(error).__name__
                sys.stderr.write(f"MLflow at {self.uri} failed, and the search goes on without it: {reason}\n")
            self._warned = True
            self._failures += 1


def _metrics(values: Mapping[str, float], step: int) -> list[Any]:
    import time

    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in values.items()]


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let one process at a time open an SQLite file: of several that make its tables, all but one would fail."""
    if not uri.startswith(_SQLITE):
        yield
        return
    file = Path(uri.removeprefix(_SQLITE))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare_mlflow() -> None:
    """Keep the migration messages of a new store off the terminal, and the wait for a server that is gone short."""
    import logging

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)

"""The record: the study on the disk, in the format of Optuna's journal storage, a few lines a trial.

Samplers read and draw in memory, because each parameter that is set in a storage on the disk is a write of its own.
"""

import json
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from gulliver.search.journal import drop_torn_line
from gulliver.tasks.errors import InputError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

_STUDY_NAME = "gulliver"
# Earlier versions kept the study in SQLite, beside where it is now.
_EARLIER_FILE = "study.db"


@dataclass(frozen=True)
class Record:
    """A study in memory, and the same trials on the disk: all of a trial that is asked, and what came of it."""

    study: optuna.Study
    memory: BaseStorage
    disk: BaseStorage

    def asked(self, number: int) -> None:
        """Write a trial that has all its parameters, and what its sampler noted of the study for later ones."""
        known = self.disk.get_study_system_attrs(self._study_id)
        noted = self.memory.get_study_system_attrs(self.memory.get_study_id_from_name(_STUDY_NAME))
        for name in noted.keys() - known.keys():
            self.disk.set_study_system_attr(self._study_id, name, noted[name])
        self.disk.create_new_trial(self._study_id, self.trial(number))

    def told(self, number: int) -> None:
        """Write a trial's constraints, then its values or that it failed."""
        trial, trial_id = self.trial(number), self.disk.get_trial_id_from_study_id_trial_number(self._study_id, number)
        known = self.disk.get_trial_system_attrs(trial_id)
        for name in trial.system_attrs.keys() - known.keys():
            self.disk.set_trial_system_attr(trial_id, name, trial.system_attrs[name])
        self.disk.set_trial_state_values(trial_id, trial.state, trial.values)

    def trial(self, number: int) -> FrozenTrial:
        """Return a trial as it stands in memory."""
        return self.study.get_trials(deepcopy=False)[number]

    @property
    def _study_id(self) -> int:
        return self.disk.get_study_id_from_name(_STUDY_NAME)


class _File(JournalFileBackend):
    """A file that only this process writes: its lines are known without reading, and kept without parameters."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._new = [_without_parameters(log) for log in super().read_logs(0)]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        super().append_logs(logs)
        self._new += map(_without_parameters, logs)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        new, self._new = self._new, []
        yield from new


def _without_parameters(log: dict[str, Any]) -> dict[str, Any]:
    """Return a line as it is read, since what was written of it may be changed later."""
    line: dict[str, Any] = json.loads(
        json.dumps({name: it for name, it in log.items() if name not in ("params", "distributions")})
    )
    return line


def open_record(path: Path, directions: Sequence[Literal["minimize", "maximize"]]) -> Record:
    """Return the record in the file, made if it is new; what else opens the file at the same time may only read it.

    A search that an earlier version began goes on in a file of today's.
    """
    earlier = [] if path.exists() else _earlier_trials(path)
    opened, memory = _open_alone(path), InMemoryStorage()
    stored = optuna.create_study(storage=opened, study_name=_STUDY_NAME, directions=directions, load_if_exists=True)
    stored.add_trials(earlier)
    study = optuna.create_study(storage=memory, study_name=_STUDY_NAME, directions=directions)
    study.add_trials(stored.get_trials(deepcopy=False))
    for name, value in opened.get_study_system_attrs(opened.get_study_id_from_name(_STUDY_NAME)).items():
        memory.set_study_system_attr(memory.get_study_id_from_name(_STUDY_NAME), name, value)
    return Record(study, memory, JournalStorage(_File(path)))


def read_trials(path: Path) -> list[FrozenTrial]:
    """Return the finished trials of the record in the file; raises InputError where there is none."""
    if not path.exists():
        trials = _earlier_trials(path)
    else:
        storage = JournalStorage(JournalFileBackend(str(path)))
        trials = optuna.load_study(study_name=_STUDY_NAME, storage=storage).get_trials(deepcopy=False)
    if not trials:
        raise InputError(f"run must be the folder of a search, but {path} does not exist")
    return [it for it in trials if it.state == TrialState.COMPLETE]


def _open_alone(path: Path) -> JournalStorage:
    """Return the storage, rid of what a killed process left: the half of a line, and a lock."""
    if path.exists():
        drop_torn_line(path)
    with suppress(RuntimeError):
        JournalFileSymlinkLock(str(path)).release()
    return JournalStorage(JournalFileBackend(str(path)))


def _earlier_trials(path: Path) -> list[FrozenTrial]:
    """Return the trials that had all their parameters in a search of an earlier version."""
    earlier = path.with_name(_EARLIER_FILE)
    if not earlier.exists():
        return []
    study = optuna.load_study(study_name=_STUDY_NAME, storage=f"sqlite:///{earlier.resolve()}")
    return [it for it in study.get_trials(deepcopy=False) if "key" in it.user_attrs]

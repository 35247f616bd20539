"""The run directory: everything that a search writes, and what lets it go on after a kill."""

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from gulliver.search.settings import SearchSettings
from gulliver.spaces.recipe import choice_values
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.errors import InputError

# What a search's trials are priced by, where its latency model is fitted to this machine.
FIT_FILE = "latency_fit.json"
SETTINGS_FILE = "settings.json"
# What `gulliver search` that has finished was launched with, for `gulliver solve`.
CONFIG_FILE = "config.yaml"
_MAY_GROW = "trials"


@dataclass(frozen=True)
class RunDirectory:
    """One search's folder; opening it with other settings than it was made with is refused."""

    path: Path

    @property
    def finished(self) -> bool:
        """Say whether a search, or its repetition with several seeds, has come to its end here."""
        return any((self.path / name).exists() for name in ("summary.json", "seeds.json"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; raises InputError where another one has it, or it cannot be made."""
        with self._opened_lock() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"run directory {self.path} is in use by another process") from error
            yield

    def _opened_lock(self) -> TextIO:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return (self.path / ".lock").open("w")
        except OSError as error:
            raise InputError(f"run directory {self.path} cannot be written to: {error.strerror}") from error

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Write the settings into a new folder, or raise InputError where it holds a search with other ones."""
        record = self.path / SETTINGS_FILE
        wanted = json.loads(json.dumps(settings, default=str))
        held = json.loads(record.read_text()) if record.exists() else wanted
        for key in sorted({*wanted, *held}):
            if key != _MAY_GROW and wanted.get(key) != held.get(key):
                raise InputError(
                    f"run directory {self.path} holds a search with {key}={held.get(key)}, but {key}={wanted.get(key)} "
                    "is asked for; choose another `out`"
                )
        text = json.dumps(wanted, indent=2)
        write_atomically(record, lambda temporary: temporary.write_text(text))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write what the search was launched with."""
        import yaml

        text = yaml.safe_dump(dict(config), sort_keys=True)
        write_atomically(self.path / CONFIG_FILE, lambda temporary: temporary.write_text(text))

    def set_aside(self) -> None:
        """Rename a finished search's folder, so that the search runs again from its beginning."""
        if self.finished:
            number = 1
            while (older := self.path.with_name(f"{self.path.name}.{number}")).exists():
                number += 1
            self.path.rename(older)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of a phase to those of earlier processes."""
        start = time.monotonic()
        yield
        seconds = self.seconds()
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - start, 3)
        text = json.dumps(seconds)
        write_atomically(self.path / "seconds.json", lambda temporary: temporary.write_text(text))

    def seconds(self) -> dict[str, float]:
        """Return the seconds spent so far by phase."""
        record = self.path / "seconds.json"
        return dict(json.loads(record.read_text())) if record.exists() else {}


def settings_record(task: Mapping[str, Any], target: Any, settings: SearchSettings) -> dict[str, Any]:
    """Return everything that decides a search's outcome, flat, for the run directory to keep; the task's is its own."""
    sampler = {"name": type(settings.sampler).__name__, **asdict(settings.sampler)}
    own = {key: value for key, value in asdict(settings).items() if key != "sampler"}
    own["space"] = choice_values(settings.space)
    conditions = {key: value for key, value in asdict(target).items() if key in choice_values(target)}
    return {**task, "target": conditions, "sampler": sampler, **own}

"""The journal: every score, on disk before anyone else is told, so that no later failure loses it."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Scores:
    """What one recipe was scored: accuracy simulated on the search split, latency and size modelled.

    `samples` were scored one by one, 0 where the metric is no mean of these. A recipe that was `dropped` in a race has
    an estimate for its accuracy, and is never on the front.
    """

    accuracy_search: float
    latency_ms: float
    size_bytes: float
    seconds: float = 0.0
    samples: int = 0
    dropped: bool = False

    @property
    def valid(self) -> bool:
        """Say whether every score is a finite number."""
        return all(math.isfinite(value) for value in (self.accuracy_search, self.latency_ms, self.size_bytes))


@dataclass
class Journal:
    """An append-only file of scores by recipe key; an equal recipe is never scored twice."""

    path: Path
    _scores: dict[str, Scores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            drop_torn_line(self.path)
            for line in self.path.read_text().splitlines():
                entry = json.loads(line)
                key = entry.pop("key")
                self._scores[key] = Scores(**entry)

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: str) -> Scores | None:
        """Return the scores of the recipe with this key, if it was ever scored."""
        return self._scores.get(key)

    def items(self) -> Iterator[tuple[str, Scores]]:
        """Yield every recipe's key and scores, in the order in which they were scored."""
        yield from self._scores.items()

    def add(self, key: str, scores: Scores) -> None:
        """Write the scores to the disk; only then are they known."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key} | asdict(scores)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._scores[key] = scores


def drop_torn_line(path: Path) -> None:
    """Cut off what a killed process wrote of a file's last line."""
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))

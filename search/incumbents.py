"""Incumbents: the recipes that a candidate is raced against, their scores sample by sample on the disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gulliver.search.journal import Journal, Scores
from gulliver.search.racing import Floats, Raced, Rival
from gulliver.tasks.cache import write_atomically


@dataclass(frozen=True)
class Incumbents:
    """The recipes of a journal that were scored in full, and a folder with the scores of their samples.

    Files are written before the journal's line and read only for its entries, so that a search that was killed races
    against the same incumbents as one that was not.
    """

    journal: Journal
    folder: Path

    def rival(self, costs: Mapping[str, float], bar: Rival, by_accuracy: bool = True) -> Rival | None:
        """Return whom a candidate with these other costs is paired with; None where nothing was scored in full yet.

        A candidate that is less accurate than an incumbent, and better in no other cost, cannot enter the front: of
        those incumbents the most accurate asks the most. `bar` asks for the accuracy that the budget wants, and asks
        more where every such incumbent is below it, or where accuracy is no objective.
        """
        full = {key: it for key, it in self.journal.items() if it.valid and not it.dropped}
        if not full:
            return None
        eligible = [key for key, it in full.items() if _costs_no_more(it, costs)] if by_accuracy else []
        best = max(eligible, key=lambda key: full[key].accuracy_search, default=None)
        if best is None or full[best].accuracy_search <= bar.least_mean or not self._path(best).exists():
            return bar
        scores = np.load(self._path(best))
        return Rival(scores, float(scores.mean()))

    def keep(self, key: str, raced: Raced, rival: Rival | None) -> None:
        """Write the scores of a candidate that was scored in full, unless its rival is better on everything."""
        if not raced.dropped and (rival is None or raced.mean >= rival.least_mean):
            write_atomically(self._path(key), lambda temporary: _save(temporary, raced.scores))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"


def samples_saved(journal: Journal) -> float:
    """Return the share of samples that racing saved, of what full scores of every recipe would have taken."""
    scored = [it for _, it in journal.items() if it.valid]
    wanted = len(scored) * max((it.samples for it in scored), default=0)
    return 1 - sum(it.samples for it in scored) / wanted if wanted else 0.0


def _costs_no_more(incumbent: Scores, costs: Mapping[str, float]) -> bool:
    return all(getattr(incumbent, name) <= cost for name, cost in costs.items())


def _save(path: Path, scores: Floats) -> None:
    with path.open("wb") as file:
        np.save(file, scores)

"""What a search returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gulliver.search.finalists import Finalist, Measured
from gulliver.search.study import Candidate


@dataclass(frozen=True)
class Result:
    """The front of the search, its finalists, and the best of them beside the untouched network.

    `originals` are the untouched networks by label: the first is the baseline, which recipes are compared with.
    `in_float` is the untouched network in the type that fallbacks run in, which a recipe must beat.
    `best` is the fastest that is likely to keep the budget, or else what is likely to lose the least; where it exceeds
    the budget on the test split, `within_budget` is False, `explanation` says line by line why and what to relax, and
    `binding_layers` are the layers that it names.
    `fastest_within` has the finalist for each of the other drops that were asked for and that one is likely to keep.
    """

    out: Path
    front: tuple[Candidate, ...]
    finalists: tuple[Finalist, ...]
    best: Finalist
    fastest_within: Mapping[float, Finalist]
    within_budget: bool
    explanation: tuple[str, ...]
    binding_layers: tuple[str, ...]
    originals: Mapping[str, Measured]
    in_float: Measured
    summary: dict[str, Any]

    @property
    def baseline(self) -> Measured:
        """Return the first of the originals."""
        return next(iter(self.originals.values()))

    @property
    def how(self) -> str:
        """Return how the finalists' latencies are known: measured, or modelled."""
        return self.best.measured.how

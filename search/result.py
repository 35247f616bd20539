"""What a search returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gulliver.search.finalists import Finalist, Measured
from gulliver.search.study import Candidate


@dataclass(frozen=True)
class Result:
    """The front of the search, its finalists, and the best of them beside the untouched network.

    `within_budget` is False where no finalist keeps the budget on the test split; `best` is then the closest,
    `explanation` says line by line why and what to relax, and `binding_layers` are the layers that it names.
    """

    out: Path
    front: tuple[Candidate, ...]
    finalists: tuple[Finalist, ...]
    best: Finalist
    within_budget: bool
    explanation: tuple[str, ...]
    binding_layers: tuple[str, ...]
    baseline: Measured
    bf16: Measured
    summary: dict[str, Any]

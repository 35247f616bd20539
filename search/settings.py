"""The settings of a search; conf/ mirrors these constructors."""

from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Literal

from gulliver.compressors.finetune import Recovery
from gulliver.search.samplers import Solve
from gulliver.search.sensitivity import SensitivitySettings
from gulliver.spaces.recipe import Finetune, check_finetune
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from gulliver.tasks.protocol import Task, TrainingTask

OBJECTIVES: dict[str, Literal["minimize", "maximize"]] = {
    "accuracy_search": "maximize",
    "latency_ms": "minimize",
    "size_bytes": "minimize",
}
# In the score's own units: a smaller bar, or none, says too little about what fine-tuning may be trusted with.
_SMALLEST_BAR = 0.005


@dataclass(frozen=True)
class Budget:
    """What the best recipe may cost: `max_drop` is in the score's own units, the others in the target's."""

    max_drop: float = 0.01
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < inf:
            raise InputError(f"`0 <= budget.max_drop < inf` must hold, but it is {self.max_drop}")
        for key in ("max_latency_ms", "max_size_bytes"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise InputError(f"`budget.{key} > 0` must hold, but it is {value}")


@dataclass(frozen=True)
class Race:
    """Candidates are scored on slices of `first_slice` samples, then of twice as many, and so on.

    One that could be on the front, or be within the budget, is dropped with a probability of 1 - `confidence` at most.
    This needs the most that a sample can score; None takes the highest score seen, which is exact for right answers.
    """

    confidence: float = 0.95
    first_slice: int = 250
    highest_score: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InputError(f"`0 < trial.race.confidence < 1` must hold, but it is {self.confidence}")
        if self.first_slice < 1:
            raise InputError(f"`trial.race.first_slice >= 1` must hold, but it is {self.first_slice}")


@dataclass(frozen=True)
class TrialSettings:
    """How a candidate is scored: as it is, or after a few steps of fine-tuning where `finetune` has any.

    `samples` are the search split's first samples that are scored; None scores all. Finalists are scored on all.
    `memory_bytes` bounds what is kept of one candidate's weights and activations for the next.
    `race` is None where every candidate is scored on all of these.
    """

    finetune: Recovery | None = field(default_factory=lambda: Recovery(steps=0))
    samples: int | None = None
    race: Race | None = field(default_factory=Race)
    memory_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if self.memory_bytes < 0:
            raise InputError(f"`trial.memory_bytes >= 0` must hold, but it is {self.memory_bytes}")
        if self.samples is not None and self.samples < 1:
            raise InputError(f"`trial.samples >= 1` must hold, but it is {self.samples}")


@dataclass(frozen=True)
class FinalistSettings:
    """How many recipes of the front are fine-tuned, exported and measured, and how.

    `recoverable_share` is the share of a trial's drop that fine-tuning is trusted to win back: recipes of which it
    leaves more than the largest bar count as infeasible in the search. `other_drops` are further bars for which as many
    finalists are sought again.
    """

    count: int = 4
    finetune: Finetune | None = field(default_factory=lambda: Finetune(epochs=2))
    recoverable_share: float = 0.9
    other_drops: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"`finalists.count >= 1` must hold, but it is {self.count}")
        for drop in self.other_drops:
            if not 0 <= drop < inf:
                raise InputError(f"`0 <= drop < inf` must hold for finalists.other_drops, but one is {drop}")
        if not 0 <= self.recoverable_share < 1:
            raise InputError(f"`0 <= finalists.recoverable_share < 1` must hold, but it is {self.recoverable_share}")
        check_finetune(self.finetune)


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides a search's outcome beside the task and the target."""

    trials: int = 48
    batch: int = 4
    seed: int = 0
    objectives: tuple[str, ...] = ("accuracy_search", "latency_ms")
    budget: Budget = field(default_factory=Budget)
    space: SpaceOptions = field(default_factory=SpaceOptions)
    sampler: Any = field(default_factory=Solve)
    sensitivity: SensitivitySettings = field(default_factory=SensitivitySettings)
    trial: TrialSettings = field(default_factory=TrialSettings)
    finalists: FinalistSettings = field(default_factory=FinalistSettings)

    @property
    def largest_drop(self) -> float:
        """The drop in a trial up to which a recipe is feasible: of which the largest bar may be left by fine-tuning."""
        bar = max(self.budget.max_drop, *self.finalists.other_drops, 0.0)
        if self.finalists.finetune is None:
            return bar
        return max(bar, _SMALLEST_BAR) / (1 - self.finalists.recoverable_share)

    def for_task(self, task: Task) -> "SearchSettings":
        """Return the settings without the fine-tuning of finalists where the task has nothing to train on."""
        if isinstance(task, TrainingTask):
            return self
        return replace(self, finalists=replace(self.finalists, finetune=None))

    def __post_init__(self) -> None:
        for key in ("trials", "batch"):
            if getattr(self, key) < 1:
                raise InputError(f"`{key} >= 1` must hold, but it is {getattr(self, key)}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"`0 <= seed < 2**31` must hold, but it is {self.seed}")
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown:
            raise InputError(f"objectives must be among {', '.join(OBJECTIVES)}, but one is {unknown[0]}")
        if len(self.objectives) < 2 or len(set(self.objectives)) < len(self.objectives):
            raise InputError(f"objectives must be two or three different ones, but are {', '.join(self.objectives)}")
        if self.sampler.guided and not {"accuracy_search", "latency_ms"} <= set(self.objectives):
            raise InputError(
                "objectives must hold accuracy_search and latency_ms for sampler=solve, "
                f"but are {', '.join(self.objectives)}"
            )

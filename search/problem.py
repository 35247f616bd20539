"""The problem that is solved exactly: which rung each variable takes, at the least predicted loss within a latency."""

from dataclasses import dataclass
from functools import cached_property

from gulliver.evaluators.factors import Costs, Factor, Rungs, TableSum


@dataclass(frozen=True)
class Problem:
    """Variables with their numbers of rungs, and what their rungs cost: tables of loss and of milliseconds."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    loss: tuple[Factor, ...]
    latency_ms: tuple[Factor, ...]

    def loss_of(self, rungs: Rungs) -> Costs:
        """Return shape (recipes,): the predicted loss of rungs of shape (recipes, variables)."""
        return self._loss.at(rungs)

    def latency_ms_of(self, rungs: Rungs) -> Costs:
        """Return shape (recipes,): the modelled milliseconds of rungs of shape (recipes, variables)."""
        return self._latency_ms.at(rungs)

    @cached_property
    def _loss(self) -> TableSum:
        return TableSum(self.loss)

    @cached_property
    def _latency_ms(self) -> TableSum:
        return TableSum(self.latency_ms)

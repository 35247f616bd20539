"""Costs that add up: a sum of tables, each over the rungs of a few of a search's variables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

Rungs = NDArray[np.intp]
Costs = NDArray[np.float64]

# How many tables' entries are looked up at once: as many as the processor keeps near.
_AT_ONCE = 40_000


@dataclass(frozen=True, eq=False)
class Factor:
    """One table of a sum: `table[a, b]` is added where the first of `variables` is at rung a and the second at b."""

    variables: tuple[int, ...]
    table: Costs

    def __post_init__(self) -> None:
        if self.table.ndim != len(self.variables):
            raise ValueError(f"a table of {self.table.ndim} axes cannot be over {len(self.variables)} variables")


@dataclass(frozen=True, eq=False)
class TableSum:
    """Many factors to be added up many times: their tables laid end to end, so that all are looked up at once."""

    factors: Sequence[Factor]

    def at(self, rungs: Rungs) -> Costs:
        """Return shape (recipes,): the sum of all tables at rungs of shape (recipes, variables)."""
        rows = 2 + _AT_ONCE // max(len(self.factors), 1)
        blocks = (rungs[start : start + rows] for start in range(0, len(rungs), rows))
        return np.concatenate([np.zeros(0), *map(self._at_once, blocks)])

    def _at_once(self, rungs: Rungs) -> Costs:
        # Of one recipe alone the tables would be summed in pairs: rounded otherwise, it might miss a budget by a digit.
        columns = np.ascontiguousarray(rungs.T if len(rungs) > 1 else np.repeat(rungs.T, 2, axis=1))
        places = np.repeat(self._starts[:, None], columns.shape[1], axis=1)
        for variables, strides in self._axes:
            places += columns.take(variables, axis=0) * strides[:, None]
        return np.asarray(self._costs.take(places).sum(axis=0)[: len(rungs)])

    @cached_property
    def _costs(self) -> Costs:
        return np.concatenate([np.zeros(0), *(it.table.ravel() for it in self.factors)])

    @cached_property
    def _starts(self) -> Rungs:
        return np.cumsum([0, *(it.table.size for it in self.factors)])[:-1]

    @cached_property
    def _axes(self) -> list[tuple[Rungs, Rungs]]:
        """For each axis of the tables, the variable that it is over and how far its rungs lie apart, 0 for no axis."""
        most = max((it.table.ndim for it in self.factors), default=0)
        padding = [(0,) * (most - it.table.ndim) for it in self.factors]
        variables = [it.variables + none for it, none in zip(self.factors, padding, strict=True)]
        strides = [_strides(it.table.shape) + none for it, none in zip(self.factors, padding, strict=True)]
        columns = zip(zip(*variables, strict=True), zip(*strides, strict=True), strict=True)
        return [(np.array(over, dtype=np.intp), np.array(apart, dtype=np.intp)) for over, apart in columns]


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def total(factors: Sequence[Factor], rungs: Rungs) -> Costs:
    """Return shape (recipes,): the sum of all tables at rungs of shape (recipes, variables)."""
    return TableSum(factors).at(rungs)

"""Costs that add up: a sum of tables, each over the rungs of a few of a search's variables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rungs = NDArray[np.intp]
Costs = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Factor:
    """One table of a sum: `table[a, b]` is added where the first of `variables` is at rung a and the second at b."""

    variables: tuple[int, ...]
    table: Costs

    def __post_init__(self) -> None:
        if self.table.ndim != len(self.variables):
            raise ValueError(f"a table of {self.table.ndim} axes cannot be over {len(self.variables)} variables")


def total(factors: Sequence[Factor], rungs: Rungs) -> Costs:
    """Return shape (recipes,): the sum of all tables at rungs of shape (recipes, variables)."""
    costs = np.zeros(len(rungs))
    for factor in factors:
        costs += factor.table[tuple(rungs[:, variable] for variable in factor.variables)]
    return costs
